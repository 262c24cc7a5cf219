//! Warm workers: sandboxes built ahead and parked, so that an execution costs an exec.
//!
//! A worker fits exactly one plan and serves exactly one execution. What is kept follows demand: each use of a plan
//! warms it, time cools it, and cold plans keep nothing. All parked sandboxes together have a bound, too; the plan that was
//! used longest ago gives way.

use crate::sandboxes::{Handle, Sandboxes};
use sandbox::{Event, Plan};
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// How often the warmth of every plan is halved.
pub(crate) const COOLING: Duration = Duration::from_secs(15);
/// How long workers that were used up are not replaced: to build one costs the machine twice what a program's start does,
/// and whoever waits for that program, for word of its end and for the next is not to wait for this too. Measured in pairs,
/// with 3 ms the whole path of one after the other took a sixth longer, and a tenth fewer came through in a second.
const REST: Duration = Duration::from_millis(20);

/// Something that must last as long as a sandbox: layers in the cache.
pub(crate) type Keep = Arc<dyn std::any::Any + Send + Sync>;

/// A sandbox that is built, or being built, and has nothing to do yet.
pub(crate) struct Worker {
    pub(crate) handle: Handle,
    pub(crate) events: mpsc::Receiver<Event>,
    /// What `Event::Built` brought.
    pub(crate) wire: Option<OwnedFd>,
}

/// How far a worker is.
enum Readiness {
    Building,
    Built,
    Dead,
}

impl Worker {
    fn look(&mut self) -> Readiness {
        match self.events.try_recv() {
            Ok(Event::Built { wire, .. }) => {
                self.wire = wire;
                Readiness::Built
            }
            Err(mpsc::error::TryRecvError::Empty) => Readiness::Building,
            Ok(Event::Failed { .. } | Event::Ended { .. }) => {
                self.handle.ended();
                Readiness::Dead
            }
            Ok(Event::Started { .. } | Event::Measured { .. }) | Err(mpsc::error::TryRecvError::Disconnected) => {
                Readiness::Dead
            }
        }
    }
}

/// What is kept for one plan.
#[derive(Default)]
struct Warmth {
    heat: u32,
    /// When it was last used, by the count of all uses.
    used: u64,
    keep: Option<Keep>,
    parked: Vec<Worker>,
}

impl Warmth {
    fn ready(&mut self) -> Option<Worker> {
        let mut at = 0;
        while let Some(worker) = self.parked.get_mut(at) {
            match worker.look() {
                Readiness::Built => return Some(self.parked.remove(at)),
                Readiness::Dead => drop(self.parked.remove(at)),
                Readiness::Building => at += 1,
            }
        }
        None
    }
}

#[derive(Default)]
struct Shelf {
    uses: u64,
    plans: HashMap<Plan, Warmth>,
    /// Plans whose workers were used, and when to replace those.
    used: HashSet<Plan>,
    due: Option<Instant>,
}

/// The workers of a node.
pub(crate) struct Workers {
    sandboxes: Sandboxes,
    /// For one plan.
    most: u32,
    /// For all plans together.
    most_of_all: usize,
    shelf: Mutex<Shelf>,
    /// Told when there is something due.
    wake: Notify,
}

impl Workers {
    pub(crate) fn new(sandboxes: Sandboxes, most: u32, most_of_all: u32) -> Self {
        Self { sandboxes, most, most_of_all: most_of_all as usize, shelf: Mutex::default(), wake: Notify::new() }
    }

    /// Takes a worker for a plan, if one is ready. Those that are used up are replaced a little later (see `due`).
    pub(crate) fn take(&self, plan: &Plan, keep: Option<&Keep>) -> Option<Worker> {
        if self.most == 0 {
            return None;
        }
        let mut shelf = self.lock();
        shelf.uses += 1;
        let uses = shelf.uses;
        if !shelf.plans.contains_key(plan) {
            shelf.plans.insert(plan.clone(), Warmth::default());
        }
        if !shelf.used.contains(plan) {
            shelf.used.insert(plan.clone());
        }
        if shelf.due.is_none() {
            shelf.due = Some(Instant::now() + REST);
            self.wake.notify_one();
        }
        let warmth = shelf.plans.get_mut(plan)?;
        warmth.used = uses;
        warmth.heat = (warmth.heat + 1).min(self.most.saturating_mul(2));
        warmth.keep = keep.cloned();
        warmth.ready()
    }

    /// Waits until it is time to `refill`; may be given up and begun anew.
    pub(crate) async fn due(&self) {
        loop {
            let due = self.lock().due;
            match due {
                Some(due) => return tokio::time::sleep_until(due).await,
                None => self.wake.notified().await,
            }
        }
    }

    /// Has as many workers built for each plan that was used as its warmth asks for.
    pub(crate) fn refill(&self) {
        let mut shelf = self.lock();
        shelf.due = None;
        for plan in std::mem::take(&mut shelf.used) {
            self.refill_shelf(&mut shelf, &plan);
        }
    }

    /// Halves the warmth of every plan and lets go of what it no longer pays for.
    pub(crate) fn cool(&self) {
        let mut shelf = self.lock();
        shelf.plans.retain(|_, warmth| {
            warmth.heat /= 2;
            warmth.parked.truncate(warmth.heat.min(self.most) as usize);
            warmth.heat > 0
        });
    }

    /// Lets go of everything.
    pub(crate) fn clear(&self) {
        let mut shelf = self.lock();
        shelf.plans.clear();
        shelf.used.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refill_shelf(&self, shelf: &mut Shelf, plan: &Plan) {
        let all: usize = shelf.plans.values().map(|warmth| warmth.parked.len()).sum();
        let Some(warmth) = shelf.plans.get_mut(plan) else { return };
        let wanted = (warmth.heat.min(self.most) as usize).saturating_sub(warmth.parked.len());
        let room = self.most_of_all.saturating_sub(all);
        for _ in 0..wanted.min(room) {
            let (handle, events) = self.sandboxes.open();
            if let Err(error) = handle.build(plan) {
                tracing::debug!(%error, "no worker can be built ahead");
                return;
            }
            warmth.parked.push(Worker { handle, events, wire: None });
        }
        if wanted > room {
            let coldest = shelf.plans.iter_mut().filter(|(of, warmth)| *of != plan && !warmth.parked.is_empty());
            if let Some((_, coldest)) = coldest.min_by_key(|(_, warmth)| warmth.used) {
                coldest.parked.pop();
            }
        }
    }
}
