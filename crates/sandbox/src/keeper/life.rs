//! The life of one sandbox as its spawner sees it: `Building → Parked → Starting → Running`, and out of each of these by an
//! end. Holds the ladder of a stop: INT to the program, a grace, TERM to everything, a grace, KILL.

use super::MAX_BUILD;
use crate::cell::{Cell, Counts, Standing};
use crate::event::{Fault, FaultKind, Status, Stop};
use crate::message::{self, Command, EndingText, Report};
use crate::spare::Pair;
use crate::system;
use model::{LimitSet, Limits, Usage};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Where in its life a sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It is being built, without an order.
    Building,
    /// It waits for its order.
    Parked,
    /// It has its order; its program does not run yet.
    Starting,
    /// Its program runs.
    Running,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rung {
    Interrupted,
    Terminated,
    Killed,
}

/// One sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) number: u64,
    pub(super) init: i32,
    pub(super) process: Option<OwnedFd>,
    pub(super) control: OwnedFd,
    pub(super) orders: OwnedFd,
    pub(super) cell: Option<Cell>,
    pub(super) ids: Option<OwnedFd>,
    pub(super) spare: Option<Pair>,
    /// Whether its init knows what was made in those.
    pub(super) keeps_notes: bool,
    pub(super) terminal: Option<OwnedFd>,
    pub(super) core: Option<OwnedFd>,
    pub(super) life: Life,
    pub(super) fault: Option<Fault>,
    pub(super) report: Option<Report>,
    pub(super) is_stopped: bool,
    pub(super) is_told: bool,
    pub(super) alarm: Option<Instant>,
    is_timed_out: bool,
    limits: Limits,
    began: Option<Instant>,
    rung: Option<Rung>,
}

impl Sandbox {
    pub(super) fn new(
        number: u64,
        init: i32,
        control: OwnedFd,
        orders: OwnedFd,
        limits: Limits,
        is_ordered: bool,
    ) -> Self {
        Self {
            number,
            init,
            process: None,
            control,
            orders,
            cell: None,
            ids: None,
            spare: None,
            keeps_notes: false,
            terminal: None,
            core: None,
            life: if is_ordered { Life::Starting } else { Life::Building },
            fault: None,
            report: None,
            is_stopped: false,
            is_told: false,
            alarm: None,
            is_timed_out: false,
            limits,
            began: None,
            rung: None,
        }
    }

    pub(super) fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = &self.terminal {
            let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }

    pub(super) fn signal(&self, signal: i32) {
        if self.life == Life::Running && (1..=64).contains(&signal) {
            self.command(Command::Program(signal));
        }
    }

    /// Has what runs in it stand behind the machine's other work, or not any more.
    pub(super) fn stand(&mut self, standing: Standing) {
        if let Some(cell) = &mut self.cell {
            cell.stand(standing);
        }
    }

    fn command(&self, command: Command) {
        // An init that is gone needs no command, and one whose socket is full of them is about to be killed anyway.
        let _ = message::say(self.control.as_fd(), &command, &[]);
    }

    /// The program runs; returns when its time is up.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Instant> {
        self.began = Some(now);
        if self.is_stopped {
            return self.stop(Stop::Gently, now);
        }
        now.checked_add(Duration::from_millis(self.limits.wall_ms))
    }

    /// Begins to stop; returns when to go on.
    pub(super) fn stop(&mut self, stop: Stop, now: Instant) -> Option<Instant> {
        if stop == Stop::Now || self.life == Life::Building || self.life == Life::Parked {
            return self.kill();
        }
        if self.life == Life::Starting {
            // It is told when it runs; the time for building ends what never does.
            return self.alarm;
        }
        if self.rung.is_some() {
            return self.alarm;
        }
        self.rung = Some(Rung::Interrupted);
        self.command(Command::Program(libc::SIGINT));
        self.grace(now)
    }

    fn grace(&self, now: Instant) -> Option<Instant> {
        now.checked_add(Duration::from_millis(self.limits.grace_ms))
    }

    fn kill(&mut self) -> Option<Instant> {
        self.rung = Some(Rung::Killed);
        let _ = system::kill(self.init, libc::SIGKILL);
        None
    }

    /// Its time has come; returns when to look again.
    pub(super) fn ring(&mut self, now: Instant) -> Option<Instant> {
        if self.cell.as_ref().is_some_and(Cell::is_behind) {
            // The others want all there is, and it is not to wait for ever.
            self.stand(Standing::Usual);
            return if self.life == Life::Building { now.checked_add(MAX_BUILD) } else { None };
        }
        if self.is_told {
            return None;
        }
        match (self.life, self.rung) {
            (_, Some(Rung::Killed)) => None,
            (Life::Building | Life::Starting, _) => {
                self.fault.get_or_insert_with(|| Fault {
                    kind: FaultKind::Machine,
                    cause: "the sandbox took too long to be built".to_owned(),
                });
                self.kill()
            }
            (Life::Parked, _) => None,
            (Life::Running, None) => {
                self.is_timed_out = true;
                self.stop(Stop::Gently, now)
            }
            (Life::Running, Some(Rung::Interrupted)) => {
                self.rung = Some(Rung::Terminated);
                self.command(Command::Everything(libc::SIGTERM));
                // What was stopped would never see it.
                self.command(Command::Everything(libc::SIGCONT));
                self.grace(now)
            }
            (Life::Running, Some(Rung::Terminated)) => self.kill(),
        }
    }

    /// Returns why its program never ran, if it did not.
    pub(super) fn fault(&self) -> Option<Fault> {
        let unstarted = || {
            (self.life != Life::Running).then(|| Fault {
                kind: if self.is_stopped { FaultKind::Order } else { FaultKind::Machine },
                cause: if self.is_stopped {
                    "it was stopped before its program ran".to_owned()
                } else {
                    "it ended before its program ran".to_owned()
                },
            })
        };
        self.fault.clone().filter(|_| self.life != Life::Running).or_else(unstarted)
    }

    /// Returns how it ended and what it used.
    pub(super) fn ending(&self, counts: Counts, enforced: LimitSet) -> EndingText {
        EndingText {
            status: self.report.as_ref().map_or(Status::Signalled(libc::SIGKILL), |report| report.status),
            is_timed_out: self.is_timed_out,
            is_stopped: self.is_stopped,
            usage: self.usage(counts, enforced),
        }
    }

    /// Returns what it has used so far; what only init knows comes with its end.
    pub(super) fn usage(&self, counts: Counts, enforced: LimitSet) -> Usage {
        let report = self.report.as_ref();
        let wall = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        let cpu_us = counts.cpu_us.or(report.map(|report| report.cpu_us)).unwrap_or(0);
        let peak = counts.memory_peak_bytes.or(report.map(|report| report.memory_peak_bytes)).unwrap_or(0);
        Usage {
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            cpu_ms: cpu_us.div_ceil(1000),
            memory_peak_bytes: peak,
            read_bytes: report.map_or(0, |report| report.read_bytes),
            write_bytes: report.map_or(0, |report| report.write_bytes),
            oom_kills: counts.oom_kills,
            log_bytes: 0,
            unenforced: self.asked().without(enforced),
        }
    }

    fn asked(&self) -> LimitSet {
        LimitSet { io: self.limits.io_bytes_second > 0, ..LimitSet::ALL }
    }
}
