//! Init: the first process of a sandbox, and our own code to the end. It builds the sandbox around itself, makes the
//! process that becomes the program, reaps whatever is orphaned, passes signals on, and tells how the program ended once
//! nothing else is left. When it goes, for whatever reason, the kernel kills everything inside.
//!
//! The program is not the first process, so that `abort` and signals do to it what they do by hand. Nothing inside can
//! trace or signal init: it is not dumpable and handles no signal but that of its children.

use crate::event::{Fault, FaultKind, Status};
use crate::message::{self, Command, CoreText, Report, Word};
use crate::plan::{Order, Place, Plan};
use crate::root::{self, Ground, machine};
use crate::spare::Pair;
use crate::system::{self, Waited};
use crate::trace::{Meeting, Tracer, Turn, shown};
use crate::{confine::Means, ids, network, program, prompt};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::net::RecvFlags;
use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Bytes of a command to init.
const MAX_COMMAND_BYTES: usize = 256;
/// How much sooner than the machine's own processes those of a sandbox are killed when memory runs out.
const OOM_ADJUSTMENT: &str = "500";
/// Changes among what runs inside that are looked at before the spawner is heard again.
const MAX_TURNS: u32 = 256;

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
    /// The namespaces of the network and of queues, if they were made ahead.
    pub(crate) spare: Option<Pair>,
    pub(crate) place: Place,
    pub(crate) ground: Arc<Ground>,
    pub(crate) means: Means,
}

impl Birth {
    /// Returns the namespaces that the sandbox is cloned into.
    pub(crate) fn namespaces(&self) -> u64 {
        let has_net = self.plan.network == model::Network::Host || self.spare.is_some();
        let net = if has_net { 0 } else { system::NEW_NET };
        let queues = if self.spare.is_some() { 0 } else { system::NEW_QUEUES };
        let user = if self.place == Place::Own { system::NEW_USER } else { 0 };
        system::NEW_REST | net | queues | user
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
    // What is built here is built while others wait for word.
    prompt::end();
    let mut keep = vec![0, 1, 2, birth.control.as_raw_fd(), birth.orders.as_raw_fd()];
    keep.extend(birth.ids.iter().map(AsRawFd::as_raw_fd));
    keep.extend(birth.spare.iter().flat_map(Pair::numbers));
    keep.extend(birth.order.iter().flat_map(|(_, stdio)| stdio).map(AsRawFd::as_raw_fd));
    keep.sort_unstable();
    system::close_all_but(&keep);
    match build(birth) {
        Ok((program, eye)) => watch(birth, program, eye),
        Err(fault) => {
            let _ = message::say(birth.control.as_fd(), &Word::Failed(fault), &[]);
            system::leave(1)
        }
    }
}

fn build(birth: &Birth) -> Result<(i32, Option<Eye>), Fault> {
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
    let wire = if let Some(spare) = &birth.spare {
        spare.enter().map_err(machine("the namespaces made ahead could not be entered"))?;
        None
    } else {
        network::set_up(birth.plan.network)?
    };
    root::enter(&birth.ground, &birth.plan)?;
    rustix::system::sethostname(birth.plan.hostname.as_bytes()).map_err(machine("the host name could not be set"))?;
    if let Some(ids) = &birth.ids {
        ids::enter(ids).map_err(machine("the user namespace could not be entered"))?;
    }
    // Whoever changes its ids loses this.
    system::die_with_parent();
    system::set_dumpable(0);
    let (meeting, wire_to_program) = (!birth.plan.ptrace)
        .then(Meeting::new)
        .transpose()
        .map_err(machine("the wire to the program could not be made"))?
        .unzip();
    let mut eye = wire_to_program.as_ref().map(|_| Eye::new(birth.plan.limits.core_bytes)).transpose()?;
    let become_program = || program::run(birth, wire.as_ref(), meeting.as_ref(), wire_to_program.as_ref());
    let (program, ()) = system::share_with(become_program, |program| {
        // The other end is the program's now.
        system::close_one(&birth.orders);
        if let Some((eye, meeting)) = eye.as_mut().zip(meeting.as_ref()) {
            eye.tracer.meet(program, meeting);
        }
    })
    .map_err(machine("the program's process could not be made"))?;
    if let Some((eye, wire)) = eye.as_mut().zip(wire_to_program.as_ref()) {
        eye.listener = shown(wire);
    }
    system::use_huge_pages(0);
    let mut keep = vec![0, 1, 2, birth.control.as_raw_fd()];
    keep.extend(eye.iter().flat_map(Eye::descriptors));
    keep.sort_unstable();
    system::close_all_but(&keep);
    // What this closes was closed already; nothing may close a number that means something else by now.
    std::mem::forget((wire, meeting, wire_to_program));
    // A program that never came so far has told the spawner why.
    if eye.as_ref().is_some_and(|eye| eye.listener.is_none()) {
        std::mem::forget(eye.take());
    }
    Ok((program, eye))
}

/// What init has of a program that it traces.
struct Eye {
    tracer: Tracer,
    /// By which the filter asks; none once nobody is left who could.
    listener: Option<OwnedFd>,
}

impl Eye {
    fn new(core_bytes: u64) -> Result<Self, Fault> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc =
            rustix::fs::open("/proc", flags, Mode::empty()).map_err(machine("/proc inside could not be opened"))?;
        Ok(Self { tracer: Tracer::new(proc, core_bytes), listener: None })
    }

    fn descriptors(&self) -> impl Iterator<Item = i32> {
        [Some(self.tracer.proc()), self.listener.as_ref().map(AsRawFd::as_raw_fd)].into_iter().flatten()
    }

    /// Tells whether what was waited for is the end of something, and passes everything else on.
    fn is_end(&mut self, control: BorrowedFd<'_>, pid: i32, state: i32) -> bool {
        self.tracer.handle(pid, state, &mut || file_for_core(control)) == Turn::Gone
    }

    /// Answers the filter, if it asks.
    fn answer(&mut self) {
        let Some(listener) = &self.listener else { return };
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        if rustix::event::poll(&mut ready, Some(&Timespec::default())).is_err() {
            return;
        }
        let found = ready[0].revents();
        if found.contains(PollFlags::IN) {
            // Who asked may be gone by now.
            let _ = self.tracer.answer(listener.as_fd());
        } else if found.intersects(PollFlags::HUP | PollFlags::ERR) {
            // The last of them is on its way out; that its end comes is told otherwise, and this would be told until then.
            self.listener = None;
        }
    }
}

/// Asks the spawner for a file. What else it says meanwhile comes too late for a program that is dying.
fn file_for_core(control: BorrowedFd<'_>) -> std::io::Result<File> {
    message::say(control, &Word::CoreWanted, &[])?;
    let mut buffer = [0; MAX_COMMAND_BYTES];
    loop {
        match message::hear::<Command>(control, &mut buffer, RecvFlags::empty())? {
            Some((Command::CoreFile, mut fds)) => {
                return fds.pop().map(File::from).ok_or(std::io::ErrorKind::NotFound.into());
            }
            Some((Command::Program(_) | Command::Everything(_), _)) => {}
            None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Reaps and obeys until the program has ended, then clears up and reports.
fn watch(birth: &Birth, program: i32, mut eye: Option<Eye>) -> Infallible {
    let control = birth.control.as_fd();
    let mut buffer = [0; MAX_COMMAND_BYTES];
    let mut status = None;
    loop {
        let (mut is_childless, mut left) = (false, MAX_TURNS);
        while status.is_none() && left > 0 {
            match system::wait_any(libc::WNOHANG) {
                Waited::State(pid, state) => {
                    let is_end = eye.as_mut().is_none_or(|eye| eye.is_end(control, pid, state));
                    if is_end && pid == program {
                        status = read(state);
                    }
                }
                Waited::Nothing => break,
                Waited::Childless => {
                    is_childless = true;
                    break;
                }
            }
            left -= 1;
        }
        if is_childless && status.is_none() {
            // Nobody will ever tell how it ended.
            status = Some(Status::Signalled(libc::SIGKILL));
        }
        if let Some(status) = status {
            if !is_childless {
                // What the program left behind goes with it; the report is to be true when it is read.
                let _ = system::kill(-1, libc::SIGKILL);
                while !matches!(system::wait_any(0), Waited::Childless) {}
            }
            report(birth, status, eye);
            system::leave(0);
        }
        let listener = eye.as_ref().and_then(|eye| eye.listener.as_ref()).map(AsFd::as_fd);
        let fds: Vec<_> = std::iter::once(control).chain(listener).collect();
        // Where more has happened than was looked at, nothing interrupts a sleep.
        if left == 0 || system::poll_signals(&fds) {
            if let Some(eye) = &mut eye {
                eye.answer();
            }
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

fn report(birth: &Birth, status: Status, eye: Option<Eye>) {
    let (cpu_us, memory_peak_bytes, read_bytes, write_bytes) = system::children_usage();
    let untouched = eye.as_ref().map(|eye| eye.tracer.untouched()).unwrap_or_default();
    let (core, file) = eye.and_then(|eye| eye.tracer.finish()).unzip();
    let core = core.map(|taken| CoreText {
        bytes: taken.bytes,
        signal: taken.signal,
        pid: taken.pid,
        program: taken.program,
        is_truncated: taken.is_truncated,
    });
    let report = Report { status, cpu_us, memory_peak_bytes, read_bytes, write_bytes, core, untouched };
    let fds: Vec<_> = file.iter().map(AsFd::as_fd).collect();
    // The spawner sees this process end if it cannot be told.
    let _ = message::say(birth.control.as_fd(), &Word::Ended(report), &fds);
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
