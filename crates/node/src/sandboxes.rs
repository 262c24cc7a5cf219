//! The node's hold on its spawner: sandboxes by number, and the events of each led to whoever holds it.
//!
//! A handle that is dropped ends its sandbox, so nothing outlives the attempt or worker that owned it. The spawner's events
//! arrive on a thread of their own, because reading them blocks.

use rustix::thread::ClockId;
use sandbox::{Abilities, Bundle, Container, Event, Events, Order, Plan, SandboxError, Spawner, Stop};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events of one sandbox at most: built, started, a measure, ended, and one to spare.
const MAX_EVENTS: usize = 5;

/// The word by which the helper knows that it is to mind a container.
const MINDER: &str = "minder";

/// All sandboxes of a node.
#[derive(Clone)]
pub(crate) struct Sandboxes(Arc<Inner>);

struct Inner {
    spawner: Spawner,
    next: AtomicU64,
    open: Mutex<HashMap<u64, mpsc::Sender<Event>>>,
    gone: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// One sandbox; the last clone ends it.
#[derive(Clone)]
pub(crate) struct Handle(Arc<Owned>);

struct Owned {
    number: u64,
    sandboxes: Sandboxes,
    /// Its minder, if it is another runtime's.
    container: Option<Container>,
    is_ended: AtomicBool,
}

impl Sandboxes {
    /// Takes over a spawner.
    pub(crate) fn new(spawner: Spawner, events: Events) -> Self {
        let inner = Arc::new(Inner {
            spawner,
            next: AtomicU64::new(1),
            open: Mutex::new(HashMap::new()),
            gone: CancellationToken::new(),
            thread: Mutex::new(None),
        });
        let leader = Arc::downgrade(&inner);
        let gone = inner.gone.clone();
        let thread = std::thread::spawn(move || {
            let mut events = events;
            while let Some(event) = events.next() {
                let Some(inner) = leader.upgrade() else { break };
                inner.lead(event);
            }
            gone.cancel();
        });
        *inner.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Self(inner)
    }

    /// Returns what the spawner can do here.
    pub(crate) fn abilities(&self) -> &Abilities {
        self.0.spawner.abilities()
    }

    /// Opens a number for a sandbox that is yet to be built.
    pub(crate) fn open(&self) -> (Handle, mpsc::Receiver<Event>) {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(MAX_EVENTS);
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender);
        let owned = Owned { number, sandboxes: self.clone(), container: None, is_ended: AtomicBool::new(false) };
        (Handle(Arc::new(owned)), receiver)
    }

    /// Has another runtime run a program; the container's events are those of a sandbox.
    pub(crate) fn contain(
        &self,
        helper: &Path,
        bundle: &Bundle,
        stdio: &[OwnedFd; 3],
    ) -> Result<(Handle, mpsc::Receiver<Event>), SandboxError> {
        let (container, mut vigil) = Container::start(helper, MINDER, bundle, stdio)?;
        let (sender, receiver) = mpsc::channel(MAX_EVENTS);
        // It ends soon after the handle is dropped, and nobody waits for it: what a node that goes leaves undone, the
        // minder does.
        std::thread::spawn(move || {
            while let Some(event) = vigil.next() {
                let _ = sender.try_send(event);
            }
        });
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (sandboxes, container) = (self.clone(), Some(container));
        Ok((Handle(Arc::new(Owned { number, sandboxes, container, is_ended: AtomicBool::new(false) })), receiver))
    }

    /// Waits until the spawner has gone, which only happens when it was killed.
    pub(crate) async fn gone(&self) {
        self.0.gone.cancelled().await;
    }
}

impl Inner {
    fn lead(&self, event: Event) {
        let (number, is_last) = match &event {
            Event::Built { number, .. } | Event::Started { number, .. } | Event::Measured { number, .. } => {
                (*number, false)
            }
            Event::Failed { number, .. } | Event::Ended { number, .. } => (*number, true),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let to = if is_last { open.remove(&number) } else { open.get(&number).cloned() };
        drop(open);
        // Nobody listening means that the handle was dropped; then the sandbox is being ended anyway.
        if let Some(to) = to {
            let _ = to.try_send(event);
        }
    }
}

impl Handle {
    /// Has the sandbox built and parked.
    pub(crate) fn build(&self, plan: &Plan) -> Result<(), SandboxError> {
        self.spawner().build(self.0.number, plan)
    }

    /// Starts a program in the sandbox that was built.
    pub(crate) fn start(&self, order: &Order, stdio: &[OwnedFd; 3]) -> Result<(), SandboxError> {
        self.spawner().start_program(self.0.number, order, stdio)
    }

    /// Builds and starts in one go.
    pub(crate) fn run(&self, plan: &Plan, order: &Order, stdio: &[OwnedFd; 3]) -> Result<(), SandboxError> {
        self.spawner().run(self.0.number, plan, order, stdio)
    }

    /// Tells the terminal its size, if there is one.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        if self.0.container.is_some() {
            return;
        }
        self.tell(self.spawner().resize(self.0.number, rows, columns));
    }

    /// Stops what runs inside.
    pub(crate) fn stop(&self, stop: Stop) {
        self.tell(match &self.0.container {
            Some(container) => container.stop(stop),
            None => self.spawner().stop(self.0.number, stop),
        });
    }

    /// Asks what has been used inside so far, and tells whether there will be an answer, which another runtime's containers do
    /// not give; at most one such question may be open.
    pub(crate) fn measure(&self) -> bool {
        let is_ours = self.0.container.is_none();
        if is_ours {
            self.tell(self.spawner().measure(self.0.number));
        }
        is_ours
    }

    /// Notes that the sandbox has gone by itself.
    pub(crate) fn ended(&self) {
        self.0.is_ended.store(true, Ordering::Relaxed);
    }

    fn spawner(&self) -> &Spawner {
        &self.0.sandboxes.0.spawner
    }

    fn tell(&self, said: Result<(), SandboxError>) {
        if let Err(error) = said {
            // The spawner has gone; the agent sees that by itself and ends everything.
            tracing::debug!(sandbox = self.0.number, %error, "the spawner does not listen");
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.container.is_some() {
            // Its end is that of the container.
            return;
        }
        let inner = &self.sandboxes.0;
        inner.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
        if !self.is_ended.load(Ordering::Relaxed) {
            let _ = inner.spawner.stop(self.number, Stop::Now);
        }
    }
}

/// Returns the milliseconds since this machine started, sleep included: what leases are measured by.
pub(crate) fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}
