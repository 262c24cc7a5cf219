//! Init: the first process of a sandbox, and our own code to the end. It builds the sandbox around itself, makes the
//! process that becomes the program, reaps whatever is orphaned, passes signals on, and tells how the program ended once
//! nothing else is left. When it goes, for whatever reason, the kernel kills everything inside.
//!
//! The program is not the first process, so that `abort` and signals do to it what they do by hand. Nothing inside can
//! trace or signal init: it is not dumpable and handles no signal but that of its children.

use crate::event::{Fault, FaultKind, Status};
use crate::message::{self, Command, Report, Word};
use crate::plan::{Order, Place, Plan};
use crate::root::{self, Ground, machine};
use crate::system::{self, Waited};
use crate::{confine::Means, ids, network, program};
use rustix::net::RecvFlags;
use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

/// Bytes of a command to init.
const MAX_COMMAND_BYTES: usize = 256;
/// How much sooner than the machine's own processes those of a sandbox are killed when memory runs out.
const OOM_ADJUSTMENT: &str = "500";

/// What a sandbox is born with.
#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) plan: Plan,
    /// What to run at once; without it the program's process waits for its order.
    pub(crate) order: Option<(Order, [OwnedFd; 3])>,
    /// Where init listens, and reports.
    pub(crate) control: OwnedFd,
    /// Where the program's process hears its order; the other end sees it close when the program runs.
    pub(crate) orders: OwnedFd,
    /// The user namespace, if it was made ahead.
    pub(crate) ids: Option<OwnedFd>,
    pub(crate) place: Place,
    pub(crate) ground: Arc<Ground>,
    pub(crate) means: Means,
}

impl Birth {
    /// Returns the namespaces that the sandbox is cloned into.
    pub(crate) fn namespaces(&self) -> u64 {
        let net = if self.plan.network == model::Network::Host { 0 } else { system::NEW_NET };
        let user = if self.place == Place::Own { system::NEW_USER } else { 0 };
        system::NEW_REST | net | user
    }

    /// Returns how many ids there are inside.
    pub(crate) fn ids(&self) -> u32 {
        match self.place {
            Place::Range { count, .. } => count,
            Place::Own => 1,
        }
    }
}

/// Lives the life of an init.
pub(crate) fn run(birth: &Birth) -> Infallible {
    system::die_with_parent();
    let mut keep = vec![0, 1, 2, birth.control.as_raw_fd(), birth.orders.as_raw_fd()];
    keep.extend(birth.ids.iter().map(AsRawFd::as_raw_fd));
    keep.extend(birth.order.iter().flat_map(|(_, stdio)| stdio).map(AsRawFd::as_raw_fd));
    keep.sort_unstable();
    system::close_all_but(&keep);
    match build(birth) {
        Ok(program) => watch(birth, program),
        Err(fault) => {
            let _ = message::say(birth.control.as_fd(), &Word::Failed(fault), &[]);
            system::leave(1)
        }
    }
}

fn build(birth: &Birth) -> Result<i32, Fault> {
    system::interrupt_on(libc::SIGCHLD);
    system::block(libc::SIGCHLD);
    if birth.place == Place::Own {
        let owner = birth.ground.owner;
        let gid = birth.ground.group;
        ids::map_own(owner, gid).map_err(|error| Fault {
            kind: FaultKind::Machine,
            cause: format!("the ids could not be mapped: {error}"),
        })?;
    }
    // A kernel that refuses keeps the order of its own choice.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_ADJUSTMENT);
    let wire = network::set_up(birth.plan.network)?;
    root::enter(&birth.ground, &birth.plan)?;
    rustix::system::sethostname(birth.plan.hostname.as_bytes()).map_err(machine("the host name could not be set"))?;
    if let Some(ids) = &birth.ids {
        ids::enter(ids).map_err(machine("the user namespace could not be entered"))?;
    }
    // Whoever changes its ids loses this.
    system::die_with_parent();
    system::set_dumpable(0);
    let program = system::clone_process(0, None, || program::run(birth, wire.as_ref()))
        .map_err(machine("the program's process could not be made"))?;
    system::close_all_but(&[0, 1, 2, birth.control.as_raw_fd()]);
    // What this closes was closed already; nothing may close a number that means something else by now.
    std::mem::forget(wire);
    Ok(program)
}

/// Reaps and obeys until the program has ended, then clears up and reports.
fn watch(birth: &Birth, program: i32) -> Infallible {
    let control = birth.control.as_fd();
    let mut buffer = [0; MAX_COMMAND_BYTES];
    let mut status = None;
    loop {
        let is_childless = loop {
            match system::wait_any(libc::WNOHANG) {
                Waited::State(pid, state) if pid == program => status = read(state).or(status),
                Waited::State(..) => {}
                Waited::Nothing => break false,
                Waited::Childless => break true,
            }
        };
        if let Some(status) = status {
            if !is_childless {
                // What the program left behind goes with it; the report is to be true when it is read.
                let _ = system::kill(-1, libc::SIGKILL);
                while !matches!(system::wait_any(0), Waited::Childless) {}
            }
            report(birth, status);
            system::leave(0);
        }
        if system::poll_signals(&[control]) {
            match message::hear::<Command>(control, &mut buffer, RecvFlags::DONTWAIT) {
                Ok(Some((command, _))) => obey(command, program),
                Err(rustix::io::Errno::AGAIN) => {}
                // The spawner is gone, so nobody will ever ask for what runs here.
                Ok(None) | Err(_) => system::leave(1),
            }
        }
    }
}

fn obey(command: Command, program: i32) {
    // Whoever is not there any more needs no signal.
    let _ = match command {
        Command::Program(signal) => system::kill(-program, signal).or_else(|_| system::kill(program, signal)),
        Command::Everything(signal) => system::kill(-1, signal),
        Command::CoreFile => Ok(()),
    };
}

fn report(birth: &Birth, status: Status) {
    let (cpu_us, memory_peak_bytes, read_bytes, write_bytes) = system::children_usage();
    let report = Report { status, cpu_us, memory_peak_bytes, read_bytes, write_bytes, core: None };
    // The spawner sees this process end if it cannot be told.
    let _ = message::say(birth.control.as_fd(), &Word::Ended(report), &[]);
}

/// Reads a state as `waitpid` words it; none if the process goes on.
pub(crate) fn read(state: i32) -> Option<Status> {
    if libc::WIFEXITED(state) {
        Some(Status::Exited(libc::WEXITSTATUS(state)))
    } else if libc::WIFSIGNALED(state) {
        Some(Status::Signalled(libc::WTERMSIG(state)))
    } else {
        None
    }
}
