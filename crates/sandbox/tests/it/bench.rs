//! What the tests stand on: a spawner with its folder, and programs whose output is collected.

use sandbox::{Ending, Event, Events, Fault, Order, Place, Plan, Root, Settings, Spawner, Stop};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A spawner and what belongs to it.
pub(crate) struct Bench {
    pub(crate) spawner: Spawner,
    pub(crate) events: Events,
    next: u64,
    _folder: Option<tempfile::TempDir>,
}

/// How a program went.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) ending: Ending,
    pub(crate) output: String,
    pub(crate) error: String,
}

pub(crate) fn settings(state: PathBuf, cells: u32) -> Settings {
    Settings {
        program: env!("CARGO_BIN_EXE_sandbox-spawner").into(),
        arguments: Vec::new(),
        state,
        place: Place::Range { first: 100_000, count: 65_536 },
        cells,
        hidden: Vec::new(),
    }
}

pub(crate) fn plan() -> Plan {
    Plan {
        root: Root::Host,
        binds: Vec::new(),
        hostname: "box".to_owned(),
        network: model::Network::None,
        limits: model::Limits { grace_ms: 200, ..model::Limits::default() },
        ptrace: false,
        terminal: false,
        file_capabilities: false,
    }
}

pub(crate) fn order(command: &[&str]) -> Order {
    Order {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![("PATH".to_owned(), "/usr/bin:/bin:/usr/sbin:/sbin".to_owned())],
        cwd: "/".to_owned(),
        user: "0".to_owned(),
        window: None,
    }
}

pub(crate) fn shell(script: &str) -> Order {
    order(&["/bin/sh", "-c", script])
}

/// The inner ends of three streams, and the outer ones.
pub(crate) fn streams(input: &[u8]) -> ([OwnedFd; 3], File, File) {
    let (read_in, write_in) = std::io::pipe().expect("a pipe");
    let (read_out, write_out) = std::io::pipe().expect("a pipe");
    let (read_err, write_err) = std::io::pipe().expect("a pipe");
    let mut input_end = write_in;
    input_end.write_all(input).expect("a short input fits");
    drop(input_end);
    let fds = [read_in.into(), write_out.into(), write_err.into()];
    (fds, File::from(OwnedFd::from(read_out)), File::from(OwnedFd::from(read_err)))
}

pub(crate) fn text(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("a pipe can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Who the spawner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Root,
    Ordinary,
}

/// An id that belongs to nobody.
const ORDINARY: &str = "20001";

impl Bench {
    /// Starts a spawner as root or as an ordinary user.
    pub(crate) fn of(who: Who) -> Self {
        if who == Who::Root {
            return Self::new();
        }
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let id = ORDINARY.parse().expect("a number");
        std::os::unix::fs::chown(folder.path(), Some(id), Some(id)).expect("root may give it away");
        let program = folder.path().join("spawner");
        std::fs::copy(env!("CARGO_BIN_EXE_sandbox-spawner"), &program).expect("the program can be copied");
        let settings = Settings {
            program: "setpriv".into(),
            arguments: ["--reuid", ORDINARY, "--regid", ORDINARY, "--clear-groups"]
                .into_iter()
                .map(str::to_owned)
                .chain([program.to_string_lossy().into_owned()])
                .collect(),
            place: Place::Own,
            ..settings(folder.path().join("state"), 1)
        };
        let (spawner, events) = Spawner::start(&settings).expect("a spawner");
        Self { spawner, events, next: 0, _folder: Some(folder) }
    }

    pub(crate) fn new() -> Self {
        Self::hiding(&[])
    }

    /// Starts a spawner as root that hides these of the machine's folders, too.
    pub(crate) fn hiding(hidden: &[PathBuf]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings { hidden: hidden.to_vec(), ..settings(folder.path().join("state"), 1) };
        let (spawner, events) = Spawner::start(&settings).expect("a spawner");
        Self { spawner, events, next: 0, _folder: Some(folder) }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Runs a program from a cold start to its end.
    pub(crate) fn try_run(&mut self, plan: &Plan, order: &Order, input: &[u8]) -> Result<Run, Fault> {
        let number = self.number();
        let (stdio, output, error) = streams(input);
        self.spawner.run(number, plan, order, &stdio).expect("the spawner listens");
        drop(stdio);
        let ending = self.end(number)?;
        Ok(Run { ending, output: text(output), error: text(error) })
    }

    pub(crate) fn run(&mut self, plan: &Plan, order: &Order) -> Run {
        self.try_run(plan, order, b"").expect("the program runs")
    }

    /// Waits until a program runs.
    pub(crate) fn started(&mut self, number: u64) -> Option<OwnedFd> {
        match self.events.next() {
            Some(Event::Started { number: told, terminal }) if told == number => terminal,
            other => panic!("the program should have started: {other:?}"),
        }
    }

    /// Waits for the end of a sandbox.
    pub(crate) fn end(&mut self, number: u64) -> Result<Ending, Fault> {
        loop {
            match self.events.next().expect("the spawner lives") {
                Event::Ended { number: told, ending } if told == number => return Ok(*ending),
                Event::Failed { number: told, fault } if told == number => return Err(fault),
                _ => {}
            }
        }
    }

    pub(crate) fn stop(&self, number: u64, stop: Stop) {
        self.spawner.stop(number, stop).expect("the spawner listens");
    }
}
