//! The spawner's own process: one loop that hears its node and its sandboxes, builds, starts, stops and accounts. It holds
//! the privileges, and nothing foreign is read here but numbers and JSON of bounded size from processes that are our code.
//!
//! What a sandbox is doing stands in `Life`; every way out of it ends in exactly one event, `Ended` or `Failed`. When the
//! node's socket closes, every sandbox is killed. A spawner that is killed takes its sandboxes with it, since each dies with
//! its parent, and mounts, which are in its and their namespaces alone; the groups it left are cleared by the next one.

mod life;
mod place;

use crate::cell::{Cell, Cells, Standing};
use crate::descriptor;
use crate::event::{Fault, FaultKind, Stop};
use crate::init::Birth;
use crate::lean;
use crate::message::{self, CoreText, EndingText, MAX_MESSAGE_BYTES, Packet, Reply, Request, Word};
use crate::plan::{Order, Plan};
use crate::profile::Profile;
use crate::root::machine;
use crate::spare::Pair;
use crate::spawner::{MAX_SANDBOXES, Settings};
use crate::{seccomp, system};
use life::{Life, Sandbox};
use place::Place;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Events that wait for the node to read; each sandbox has at most three, and one more measure than the node has read.
const MAX_WAITING: usize = MAX_SANDBOXES * 4;
/// Events of the kernel's that are looked at in one turn.
const TURN_EVENTS: usize = 64;
/// How long a sandbox may take to be built.
const MAX_BUILD: Duration = Duration::from_secs(30);
/// How long one for which nobody waits may be kept by others' work.
const MAX_BEHIND: Duration = Duration::from_millis(500);
/// Where the kernel is told whom to kill when memory runs out, and what it is told of this process.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";
const OOM_ADJUSTMENT: i32 = -500;
/// What wakes the loop, in the two lowest bits of a token.
const CONTROL: u64 = 0;
const ORDERS: u64 = 1;
const PROCESS: u64 = 2;
const NODE: u64 = u64::MAX;

/// Runs the spawner on the socket that is its standard input, until that is closed.
pub fn main() -> ExitCode {
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else { return ExitCode::FAILURE };
    if place::close_standard_input().is_err() {
        return ExitCode::FAILURE;
    }
    // Ctrl-C in the node's terminal, or a signal to its group, is for the node: it lets go in its own order, and this ends
    // when the socket does. Failing means that it is on its own already.
    let _ = rustix::process::setsid();
    system::ignore_no_signals();
    // `Spawner` says so before the first touch of memory; whoever starts this otherwise is to have it too.
    system::use_huge_pages(0);
    lean::share_constants();
    descriptor::raise();
    outlive();
    // Made here once, the filters are there in every process that this one makes.
    for profile in Profile::EVERY {
        seccomp::filter(profile);
    }
    match open(&socket) {
        Ok(mut keeper) => {
            keeper.keep();
            keeper.close();
            ExitCode::SUCCESS
        }
        Err(()) => ExitCode::FAILURE,
    }
}

/// Asks the kernel to kill others first when memory runs out: all sandboxes of the node would go with this process.
fn outlive() {
    let is_better = std::fs::read_to_string(OOM_SCORE)
        .is_ok_and(|now| now.trim().parse().is_ok_and(|now: i32| now <= OOM_ADJUSTMENT));
    if !is_better {
        // Only the superuser may; everybody else stands where their node does.
        let _ = std::fs::write(OOM_SCORE, OOM_ADJUSTMENT.to_string());
    }
}

/// Hears the settings and gets ready, or says why that cannot be.
fn open(socket: &OwnedFd) -> Result<Keeper, ()> {
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    let Ok(Some((Request::Open { settings }, _))) =
        message::hear::<Request<'_>>(socket, &mut buffer, RecvFlags::empty())
    else {
        return Err(());
    };
    let refuse = |cause: String| {
        let _ = message::say(socket.as_fd(), &Reply::Refused { cause }, &[]);
    };
    let place = Place::open(&settings).map_err(refuse)?;
    let keeper = Keeper::open(&settings, place, socket.try_clone().map_err(drop)?, buffer).map_err(refuse)?;
    let abilities = keeper.place.abilities(&keeper.cells);
    message::say(socket.as_fd(), &Reply::Ready { abilities }, &[]).map_err(drop)?;
    Ok(keeper)
}

struct Keeper {
    socket: OwnedFd,
    epoll: OwnedFd,
    buffer: Vec<u8>,
    place: Place,
    cells: Cells,
    sandboxes: HashMap<u64, Sandbox>,
    /// The sandbox that a node's number means.
    numbers: HashMap<u64, u64>,
    next: u64,
    /// When to look at which sandbox.
    alarms: BTreeSet<(Instant, u64)>,
    waiting: VecDeque<(Reply, Vec<OwnedFd>)>,
    /// Whether the loop is to be woken when the node's socket takes more.
    awaits_room: bool,
    is_open: bool,
}

impl Keeper {
    fn open(settings: &Settings, place: Place, socket: OwnedFd, buffer: Vec<u8>) -> Result<Self, String> {
        let said = |errno: Errno| format!("events cannot be waited for: {errno}");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(said)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(NODE), epoll::EventFlags::IN).map_err(said)?;
        let cells = Cells::open(&place.group, settings.cells, place.ground.is_privileged)?;
        descriptor::check(settings.cells)?;
        place.shed();
        Ok(Self {
            socket,
            epoll,
            buffer,
            place,
            cells,
            sandboxes: HashMap::new(),
            numbers: HashMap::new(),
            next: 0,
            alarms: BTreeSet::new(),
            waiting: VecDeque::new(),
            awaits_room: false,
            is_open: true,
        })
    }

    /// Serves until the node is gone.
    fn keep(&mut self) {
        let mut events = Vec::with_capacity(TURN_EVENTS);
        while self.is_open {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            for event in &events {
                let (token, flags) = (event.data.u64(), event.flags);
                match (token, token & 3) {
                    (NODE, _) => self.hear_node(),
                    (_, CONTROL) => self.hear_init(token >> 2),
                    (_, ORDERS) => self.hear_program(token >> 2),
                    (_, PROCESS) if !flags.is_empty() => self.reap(token >> 2),
                    _ => {}
                }
            }
            self.ring();
            self.flush();
        }
    }

    /// Kills everything that is left and waits until it is gone.
    fn close(&mut self) {
        for sandbox in self.sandboxes.values() {
            let _ = system::kill(sandbox.init, libc::SIGKILL);
        }
        for (_, mut sandbox) in self.sandboxes.drain() {
            system::wait_for(sandbox.init, 0);
            if let Some(cell) = sandbox.cell.take() {
                self.cells.give_back(cell);
            }
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let first = self.alarms.first()?.0;
        let left = first.saturating_duration_since(Instant::now());
        Timespec::try_from(left).ok()
    }

    fn hear_node(&mut self) {
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            let packet = message::receive(self.socket.as_fd(), &mut buffer, RecvFlags::DONTWAIT);
            let goes_on = match packet {
                Ok(Packet { bytes: 0, .. }) => {
                    self.is_open = false;
                    false
                }
                Ok(packet) => {
                    self.obey(&buffer[..packet.bytes], packet.fds);
                    true
                }
                Err(Errno::AGAIN) => false,
                // A message that was cut has lost its number, so nobody would ever be told: better to end.
                Err(_) => {
                    self.is_open = false;
                    false
                }
            };
            self.buffer = buffer;
            if !goes_on {
                return;
            }
        }
    }

    fn obey(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) {
        let Ok(request) = serde_json::from_slice::<Request<'_>>(bytes) else {
            self.is_open = false;
            return;
        };
        match request {
            Request::Open { .. } | Request::Contain { .. } => {}
            Request::Build { number, plan } => self.build(number, plan.into_owned(), None),
            Request::Run { number, plan, order } => match <[OwnedFd; 3]>::try_from(fds) {
                Ok(stdio) => self.build(number, plan.into_owned(), Some((order.into_owned(), stdio))),
                Err(_) => self.fail(number, streamless()),
            },
            Request::Start { number, .. } => self.start(number, bytes, &fds),
            Request::Resize { number, rows, columns } => {
                self.with(number, |sandbox| sandbox.resize(rows, columns));
            }
            Request::Signal { number, signal } => {
                self.with(number, |sandbox| sandbox.signal(signal));
            }
            Request::Stop { number, stop } => self.stop(number, stop),
            Request::Measure { number } => self.measure(number),
        }
    }

    fn with(&mut self, number: u64, act: impl FnOnce(&mut Sandbox)) -> Option<u64> {
        let id = *self.numbers.get(&number)?;
        act(self.sandboxes.get_mut(&id)?);
        Some(id)
    }

    fn build(&mut self, number: u64, plan: Plan, order: Option<(Order, [OwnedFd; 3])>) {
        let built = if self.numbers.contains_key(&number) {
            Err(order_fault("the number is taken"))
        } else if self.sandboxes.len() >= MAX_SANDBOXES {
            Err(machine("there are as many sandboxes as there may be")(Errno::USERS))
        } else {
            self.bear(number, plan, order)
        };
        if let Err(fault) = built {
            self.fail(number, fault);
        }
    }

    fn bear(&mut self, number: u64, plan: Plan, order: Option<(Order, [OwnedFd; 3])>) -> Result<(), Fault> {
        let what = machine("the sandbox could not be made");
        let (control, init_control) = message::pair().map_err(&what)?;
        let (orders, init_orders) = message::pair().map_err(&what)?;
        let ids = self.place.take_ids().map_err(&what)?;
        let spare = self.place.take_spare(&plan);
        let (limits, is_ordered) = (plan.limits, order.is_some());
        let keeps_notes = spare.is_some() && plan.is_alone();
        let birth = Birth {
            means: self.place.means(&plan, self.cells.limits().pids, keeps_notes),
            spare: spare.as_ref().map(Pair::try_clone).transpose().map_err(|_| what(Errno::MFILE))?,
            plan,
            order,
            control: init_control,
            orders: init_orders,
            ids: ids.as_ref().map(OwnedFd::try_clone).transpose().map_err(|_| what(Errno::MFILE))?,
            place: self.place.ids,
            ground: self.place.ground.clone(),
        };
        // Last, as a cell that is dropped and not given back would leave its mother behind.
        let cell = self.cells.take(&limits)?;
        let init = match &cell {
            Some(cell) => cell.bear(birth),
            None => system::clone_process(birth.namespaces(), None, || crate::init::run(&birth)),
        };
        let init = match init {
            Ok(init) => init,
            Err(errno) => {
                self.place.give_back_ids(ids);
                if let Some(cell) = cell {
                    self.cells.give_back(cell);
                }
                return Err(what(errno));
            }
        };
        let id = self.next;
        self.next += 1;
        let pid = rustix::process::Pid::from_raw(init).expect("a child's id is not 0");
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(&what);
        let mut sandbox = Sandbox::new(number, init, control, orders, limits, is_ordered);
        (sandbox.cell, sandbox.ids, sandbox.spare, sandbox.keeps_notes) = (cell, ids, spare, keeps_notes);
        let watched = process.and_then(|process| {
            self.watch(&sandbox.control, id, CONTROL)
                .and_then(|()| self.watch(&sandbox.orders, id, ORDERS))
                .and_then(|()| self.watch(&process, id, PROCESS))
                .map_err(&what)?;
            Ok(process)
        });
        match watched {
            Ok(process) => {
                sandbox.process = Some(process);
                self.numbers.insert(number, id);
                self.sandboxes.insert(id, sandbox);
                self.set_alarm(id, Instant::now().checked_add(MAX_BUILD));
                if !is_ordered {
                    self.put_behind(id);
                }
                Ok(())
            }
            Err(fault) => {
                let _ = system::kill(init, libc::SIGKILL);
                system::wait_for(init, 0);
                self.place.give_back_ids(sandbox.ids.take());
                if let Some(cell) = sandbox.cell.take() {
                    self.cells.give_back(cell);
                }
                Err(fault)
            }
        }
    }

    /// Has a sandbox for which nobody waits be built, or cleared away, in what time others leave.
    fn put_behind(&mut self, id: u64) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        sandbox.stand(Standing::Behind);
        if sandbox.cell.as_ref().is_some_and(Cell::is_behind) {
            self.set_alarm(id, Instant::now().checked_add(MAX_BEHIND));
        }
    }

    fn watch(&self, fd: &OwnedFd, id: u64, kind: u64) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64((id << 2) | kind), epoll::EventFlags::IN)
    }

    /// Passes an order on to the process that waits for it.
    fn start(&mut self, number: u64, bytes: &[u8], fds: &[OwnedFd]) {
        let Some(sandbox) = self.numbers.get(&number).and_then(|id| self.sandboxes.get_mut(id)) else {
            // Its end was told already, or is about to be.
            return;
        };
        if sandbox.life != Life::Parked {
            return;
        }
        sandbox.stand(Standing::Usual);
        let passed = if fds.len() == 3 {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            message::send(sandbox.orders.as_fd(), bytes, &fds).map_err(machine("the order could not be passed on"))
        } else {
            Err(streamless())
        };
        match passed {
            Ok(()) => sandbox.life = Life::Starting,
            Err(fault) => {
                sandbox.fault = Some(fault);
                let _ = system::kill(sandbox.init, libc::SIGKILL);
            }
        }
        let id = self.numbers[&number];
        self.set_alarm(id, Some(Instant::now() + MAX_BUILD));
    }

    fn stop(&mut self, number: u64, stop: Stop) {
        let now = Instant::now();
        let mut next = None;
        let id = self.with(number, |sandbox| {
            sandbox.is_stopped = true;
            next = sandbox.stop(stop, now);
        });
        if let Some(id) = id {
            self.set_alarm(id, next);
        }
    }

    /// Tells what a sandbox has used so far; of one that does not run there is nothing to tell.
    fn measure(&mut self, number: u64) {
        let Some(sandbox) = self.numbers.get(&number).and_then(|id| self.sandboxes.get(id)) else { return };
        if sandbox.life == Life::Running {
            let counts = sandbox.cell.as_ref().map(|cell| self.cells.counts(cell)).unwrap_or_default();
            let usage = sandbox.usage(counts, self.cells.limits());
            self.tell(Reply::Measured { number, usage }, Vec::new());
        }
    }

    fn set_alarm(&mut self, id: u64, at: Option<Instant>) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        if let Some(old) = sandbox.alarm.take() {
            self.alarms.remove(&(old, id));
        }
        sandbox.alarm = at;
        self.alarms.extend(at.map(|at| (at, id)));
    }

    /// Looks at every sandbox whose time has come.
    fn ring(&mut self) {
        let now = Instant::now();
        while let Some((at, id)) = self.alarms.first().copied().filter(|(at, _)| *at <= now) {
            self.alarms.remove(&(at, id));
            let Some(sandbox) = self.sandboxes.get_mut(&id) else { continue };
            if sandbox.alarm.is_some_and(|alarm| alarm != at) {
                continue;
            }
            sandbox.alarm = None;
            let next = sandbox.ring(now);
            self.set_alarm(id, next);
        }
    }

    /// Hears the process that becomes the program.
    fn hear_program(&mut self, id: u64) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(sandbox) = self.sandboxes.get_mut(&id) {
            match message::hear::<Word>(&sandbox.orders, &mut buffer, RecvFlags::DONTWAIT) {
                Ok(Some((Word::Built, mut fds))) => {
                    let number = sandbox.number;
                    let is_ordered = sandbox.life == Life::Running || sandbox.life == Life::Starting;
                    if sandbox.life == Life::Building {
                        sandbox.life = Life::Parked;
                    }
                    let wire = fds.pop();
                    if !is_ordered {
                        self.set_alarm(id, None);
                    }
                    self.tell(Reply::Built { number }, wire.into_iter().collect());
                }
                Ok(Some((Word::Terminal, mut fds))) => sandbox.terminal = fds.pop(),
                Ok(Some((Word::Failed(fault), _))) => sandbox.fault = Some(fault),
                Ok(Some(_)) => {}
                Err(Errno::AGAIN) => break,
                Ok(None) | Err(_) => {
                    let _ = epoll::delete(&self.epoll, &sandbox.orders);
                    self.started(id);
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// The wire of the orders is closed: the program runs, or its process ended before.
    fn started(&mut self, id: u64) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        if sandbox.life != Life::Starting || sandbox.fault.is_some() {
            return;
        }
        sandbox.life = Life::Running;
        let number = sandbox.number;
        let terminal = sandbox.terminal.as_ref().and_then(|terminal| terminal.try_clone().ok());
        let next = sandbox.begin(Instant::now());
        self.set_alarm(id, next);
        self.tell(Reply::Started { number }, terminal.into_iter().collect());
    }

    /// Hears init.
    fn hear_init(&mut self, id: u64) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(sandbox) = self.sandboxes.get_mut(&id) {
            match message::hear::<Word>(&sandbox.control, &mut buffer, RecvFlags::DONTWAIT) {
                Ok(Some((Word::Failed(fault), _))) => sandbox.fault = Some(fault),
                Ok(Some((Word::Ended(report), mut fds))) => {
                    sandbox.core = fds.pop();
                    sandbox.report = Some(report);
                    self.buffer = std::mem::take(&mut buffer);
                    // What the program's process said comes before what became of it.
                    self.hear_program(id);
                    self.ended(id);
                    return;
                }
                Ok(Some((Word::CoreWanted, _))) => self.place.send_core_file(sandbox.control.as_fd()),
                Ok(Some(_)) => {}
                Err(Errno::AGAIN) => break,
                Ok(None) | Err(_) => {
                    let _ = epoll::delete(&self.epoll, &sandbox.control);
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// Tells of the end, once.
    fn ended(&mut self, id: u64) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        if sandbox.is_told {
            return;
        }
        sandbox.is_told = true;
        let number = sandbox.number;
        self.numbers.remove(&number);
        let counts = sandbox.cell.as_ref().map(|cell| self.cells.counts(cell)).unwrap_or_default();
        let (reply, fds) = match sandbox.fault() {
            Some(fault) => (Reply::Failed { number, fault }, Vec::new()),
            None => {
                let ending: EndingText = sandbox.ending(counts, self.cells.limits());
                let text: Option<CoreText> = sandbox.report.as_ref().and_then(|report| report.core.clone());
                let core = text.filter(|_| sandbox.core.is_some());
                let fds = sandbox.core.take().filter(|_| core.is_some()).into_iter().collect();
                (Reply::Ended { number, ending, core }, fds)
            }
        };
        self.set_alarm(id, None);
        self.tell(reply, fds);
        if !self.cells.is_short() {
            self.put_behind(id);
        }
    }

    /// Init is gone, and with it everything.
    fn reap(&mut self, id: u64) {
        self.hear_init(id);
        self.hear_program(id);
        self.ended(id);
        if let Some(mut sandbox) = self.sandboxes.remove(&id) {
            system::wait_for(sandbox.init, 0);
            self.place.give_back_ids(sandbox.ids.take());
            let told = sandbox.report.as_ref().filter(|_| sandbox.keeps_notes);
            let untouched = told.map(|report| report.untouched).unwrap_or_default();
            self.place.give_back_spare(sandbox.spare.take(), untouched);
            if let Some(cell) = sandbox.cell.take() {
                self.cells.give_back(cell);
            }
        }
    }

    fn fail(&mut self, number: u64, fault: Fault) {
        self.tell(Reply::Failed { number, fault }, Vec::new());
    }

    fn tell(&mut self, reply: Reply, fds: Vec<OwnedFd>) {
        if self.waiting.len() >= MAX_WAITING {
            // A node that has not listened for this long will not; its sandboxes go with it.
            self.is_open = false;
            return;
        }
        self.waiting.push_back((reply, fds));
        self.flush();
    }

    /// Sends what waits, as far as the socket takes it.
    fn flush(&mut self) {
        while let Some((reply, fds)) = self.waiting.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match message::say(self.socket.as_fd(), reply, &fds) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(Errno::AGAIN | Errno::NOBUFS) => break,
                Err(_) => {
                    self.is_open = false;
                    break;
                }
            }
        }
        if self.awaits_room == self.waiting.is_empty() {
            self.awaits_room = !self.waiting.is_empty();
            let room = if self.awaits_room { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let flags = epoll::EventFlags::IN | room;
            let _ = epoll::modify(&self.epoll, &self.socket, epoll::EventData::new_u64(NODE), flags);
        }
    }
}

/// What becomes of an order whose three streams did not arrive: the node sends them, so there was no room for them.
fn streamless() -> Fault {
    let cause = "the spawner has no room for the program's three streams: too many open files".to_owned();
    Fault { kind: FaultKind::Machine, cause }
}

fn order_fault(cause: &str) -> Fault {
    Fault { kind: FaultKind::Order, cause: cause.to_owned() }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        debug_assert!(self.socket.as_raw_fd() > 2, "the standard streams are never the node's");
    }
}
