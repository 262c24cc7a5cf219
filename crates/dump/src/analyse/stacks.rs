//! Stacks of all threads, walked and then told in the words of the program: functions, files and lines.
//!
//! An address is looked up once however many threads stand at it.

use crate::memory::Memory;
use crate::places::Places;
use crate::unwind::{Loaded, Registers, Unwinder, Walked};
use model::report::{Address, Frame, Thread, Trust};
use std::collections::{BTreeMap, HashMap};

/// Frames of all threads of one report.
const MAX_FRAMES_IN_ALL: usize = 400_000;
/// Places in the code that are remembered.
const MAX_REMEMBERED: usize = 1 << 16;

/// A thread as it stopped.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) id: u64,
    pub(crate) name: Option<String>,
    pub(crate) is_crashed: bool,
    pub(crate) named: BTreeMap<String, Address>,
    /// None if they are not known.
    pub(crate) registers: Option<Registers>,
}

/// Walks and tells stacks of one process.
#[derive(Debug)]
pub(crate) struct Stacks<'a> {
    unwinder: Unwinder<'a>,
    modules: &'a [Loaded],
    places: &'a Places,
    known: HashMap<u64, Vec<Frame>>,
    left: usize,
}

impl<'a> Stacks<'a> {
    /// Returns what tells stacks over these modules, which are sorted by address.
    pub(crate) fn new(unwinder: Unwinder<'a>, modules: &'a [Loaded], places: &'a Places) -> Self {
        Self { unwinder, modules, places, known: HashMap::new(), left: MAX_FRAMES_IN_ALL }
    }

    /// Returns a thread with its stack.
    pub(crate) fn tell(&mut self, stopped: Stopped, memory: &(impl Memory + ?Sized)) -> Thread {
        let mut thread = Thread {
            id: stopped.id,
            name: stopped.name,
            is_crashed: stopped.is_crashed,
            registers: stopped.named,
            ..Thread::default()
        };
        let Some(registers) = stopped.registers else {
            thread.broken = Some("its registers are not known".to_owned());
            return thread;
        };
        let walk = self.unwinder.walk(&registers, memory);
        thread.broken = walk.broken;
        thread.frames_cut = walk.cut;
        for walked in &walk.frames {
            self.tell_frame(walked, &mut thread.frames);
        }
        if thread.frames.len() > self.left {
            thread.frames.truncate(self.left);
            thread.broken = Some(format!("all threads together have more than {MAX_FRAMES_IN_ALL} frames"));
        }
        self.left -= thread.frames.len();
        thread
    }

    /// Appends a frame, with those before it that were inlined into it.
    fn tell_frame(&mut self, walked: &Walked, frames: &mut Vec<Frame>) {
        if self.known.len() >= MAX_REMEMBERED {
            self.known.clear();
        }
        let modules = self.modules;
        let told = self.known.entry(walked.lookup).or_insert_with(|| look_up(walked, modules));
        let first = frames.len();
        frames.extend_from_slice(told);
        for frame in &mut frames[first..] {
            frame.address = Some(Address(walked.address));
        }
        if let Some(last) = frames.last_mut() {
            last.trust = walked.trust;
            last.is_interrupted = walked.is_interrupted;
        }
    }
}

/// Returns what is known of the place a frame is at: the inlined functions first, then the one that has its own frame.
fn look_up(walked: &Walked, modules: &[Loaded]) -> Vec<Frame> {
    let mut frame = Frame::new(Trust::Cfi);
    frame.module = walked.module;
    frame.offset = walked.module.map(|module| Address(walked.lookup.wrapping_sub(modules[module].bias)));
    vec![frame]
}
