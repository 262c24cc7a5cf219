//! A spawner for tests, kept by the superuser or by an ordinary user, and programs to run in its sandboxes.

use model::{Access, LimitSet, Limits, Network};
use sandbox::{Bind, Ending, Event, Events, Fault, Order, Place, Plan, Root, Settings, Spawner};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

const USER: u32 = 20_001;
const FIRST: u32 = 200_000;

/// Who keeps the spawner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    Root,
    User,
}

impl Keeper {
    /// Who runs the tests.
    pub(crate) fn me() -> Self {
        if rustix::process::geteuid().is_root() { Self::Root } else { Self::User }
    }

    /// Whom the tests can be.
    pub(crate) fn all() -> Vec<Self> {
        if Self::me() == Self::Root { vec![Self::Root, Self::User] } else { vec![Self::User] }
    }
}

/// A spawner and its events.
pub(crate) struct House {
    spawner: Spawner,
    events: Events,
    number: u64,
    _state: tempfile::TempDir,
}

impl House {
    pub(crate) fn new(keeper: Keeper) -> Self {
        let state = tempfile::tempdir().unwrap();
        let myself = env!("CARGO_BIN_EXE_sandbox-spawner");
        let (mut program, mut arguments) = (PathBuf::from(myself), Vec::new());
        let mut place = Place::Range { first: FIRST, count: 65_536 };
        if keeper == Keeper::User {
            place = Place::Own;
            if Keeper::me() == Keeper::Root {
                chown(state.path(), Some(USER), Some(USER)).unwrap();
                let words = [&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "--"];
                arguments = words.iter().map(ToString::to_string).collect();
                arguments.push(myself.to_owned());
                program = PathBuf::from("/usr/bin/setpriv");
            }
        }
        let settings =
            Settings { program, arguments, state: state.path().to_owned(), place, cells: 1, hidden: Vec::new() };
        let (spawner, events) = Spawner::start(&settings).unwrap();
        Self { spawner, events, number: 0, _state: state }
    }

    /// Returns the id outside of the superuser inside.
    pub(crate) fn first_id(&self) -> u32 {
        FIRST
    }

    /// Returns a plan over the machine's own files.
    pub(crate) fn plan(&self) -> Plan {
        let limits =
            Limits { wall_ms: 60_000, memory_bytes: 256 << 20, demand: LimitSet::default(), ..Limits::default() };
        Plan {
            root: Root::Host,
            binds: Vec::new(),
            hostname: "house".to_owned(),
            network: Network::None,
            limits,
            ptrace: false,
            terminal: false,
            file_capabilities: false,
        }
    }

    /// Returns an order with a plain environment.
    pub(crate) fn order(&self, command: &[&str], user: &str) -> Order {
        Order {
            command: command.iter().map(ToString::to_string).collect(),
            env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            cwd: "/".to_owned(),
            user: user.to_owned(),
            window: None,
        }
    }

    /// Runs a program, and returns how it ended and what it wrote; a program that cannot run is a failure.
    pub(crate) fn run(&mut self, plan: &Plan, order: &Order) -> (Box<Ending>, String) {
        self.try_run(plan, order).unwrap_or_else(|fault| panic!("{:?}: {fault}", order.command))
    }

    /// Runs a program if that can be done.
    pub(crate) fn try_run(&mut self, plan: &Plan, order: &Order) -> Result<(Box<Ending>, String), Fault> {
        self.number += 1;
        let (mut output, writer) = std::io::pipe().unwrap();
        let input = File::open("/dev/null").unwrap();
        let stdio = [OwnedFd::from(input), OwnedFd::from(writer.try_clone().unwrap()), OwnedFd::from(writer)];
        self.spawner.run(self.number, plan, order, &stdio).unwrap();
        drop(stdio);
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            output.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        loop {
            match self.events.next().expect("the spawner lives") {
                Event::Ended { number, ending } if number == self.number => {
                    return Ok((ending, reader.join().unwrap()));
                }
                Event::Failed { number, fault } if number == self.number => return Err(fault),
                _ => {}
            }
        }
    }
}

/// Compiles a program for everybody to run.
pub(crate) fn compile(folder: &Path, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let (text, program) = (folder.join(format!("{name}.c")), folder.join(name));
    fs::write(&text, source).unwrap();
    let done =
        Command::new("gcc").args(["-g", "-O1", "-w", "-pthread", "-o"]).arg(&program).arg(&text).args(flags).status();
    assert!(done.unwrap().success(), "gcc could not compile `{name}`");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// Shows a folder inside, to be read.
pub(crate) fn shown(folder: &Path, target: &str) -> Bind {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    Bind { source: folder.to_owned(), target: target.into(), access: Access::ReadOnly }
}
