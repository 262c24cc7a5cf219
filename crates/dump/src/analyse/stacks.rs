//! Stacks of all threads, walked and then told in the words of the program: functions, files and lines.
//!
//! An address is looked up once however many threads stand at it.

use crate::memory::Memory;
use crate::places::Places;
use crate::symbol::{Place, Symbols};
use crate::unwind::{Loaded, Registers, Unwinder, Walked};
use model::report::{Address, Found, Frame, MAX_FRAMES, Module, Thread, Trust};
use std::collections::{BTreeMap, HashMap};

/// Frames of all threads of one report.
const MAX_FRAMES_IN_ALL: usize = 200_000;
/// Bytes of the names in them; a module that means harm has long ones.
const MAX_NAME_BYTES_IN_ALL: usize = 64 << 20;
/// What is said of a stack that is not told because of them.
const TOO_MANY: &str = "all threads together have more frames than are told";
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
    /// Of those modules in which a frame lies.
    symbols: Vec<Option<Symbols>>,
    /// By where a frame goes on, and whether that is what was looked up.
    known: HashMap<(u64, bool), Vec<Frame>>,
    found: Vec<Place>,
    /// Frames, and bytes of names, that may yet be told.
    left: usize,
    name_bytes_left: usize,
}

impl<'a> Stacks<'a> {
    /// Returns what tells stacks over these modules, which are sorted by address.
    pub(crate) fn new(unwinder: Unwinder<'a>, modules: &'a [Loaded], places: &'a Places) -> Self {
        let symbols = modules.iter().map(|_| None).collect();
        Self {
            unwinder,
            modules,
            places,
            symbols,
            known: HashMap::new(),
            found: Vec::new(),
            left: MAX_FRAMES_IN_ALL,
            name_bytes_left: MAX_NAME_BYTES_IN_ALL,
        }
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
        if self.left == 0 {
            thread.broken = Some(TOO_MANY.to_owned());
            return thread;
        }
        let walk = self.unwinder.walk(&registers, memory);
        thread.broken = walk.broken;
        thread.frames_cut = walk.cut;
        for (number, walked) in walk.frames.iter().enumerate() {
            if walk.cut > 0 && number == MAX_FRAMES {
                // Inlined functions are frames too: where the gap is does not follow from how many were walked.
                thread.frames_cut_at = Some(thread.frames.len());
            }
            if !self.tell_frame(walked, &mut thread.frames) {
                thread.broken = Some(TOO_MANY.to_owned());
                break;
            }
        }
        if thread.frames_cut_at.is_none() {
            // What was not told behind the gap does not make one.
            thread.frames_cut = 0;
        }
        thread
    }

    /// Appends a frame, with those before it that were inlined into it; false, now and ever after, if that is too much.
    fn tell_frame(&mut self, walked: &Walked, frames: &mut Vec<Frame>) -> bool {
        if self.known.len() >= MAX_REMEMBERED {
            self.known.clear();
        }
        let key = (walked.address, walked.address == walked.lookup);
        if !self.known.contains_key(&key) {
            let told = self.look_up(walked);
            self.known.insert(key, told);
        }
        let told = self.known.get(&key).map(Vec::as_slice).unwrap_or_default();
        let left =
            self.left.checked_sub(told.len()).zip(self.name_bytes_left.checked_sub(told.iter().map(name_bytes).sum()));
        let Some(left) = left else {
            self.left = 0;
            return false;
        };
        (self.left, self.name_bytes_left) = left;
        frames.extend_from_slice(told);
        if let Some(last) = frames.last_mut() {
            last.trust = walked.trust;
            last.is_interrupted = walked.is_interrupted;
        }
        true
    }

    /// Returns what is known of the place a frame is at: the inlined functions first, then the one that has its own frame.
    fn look_up(&mut self, walked: &Walked) -> Vec<Frame> {
        let mut whole = Frame::new(Trust::Cfi);
        whole.module = walked.module;
        whole.address = Some(Address(walked.address));
        let Some((number, module)) = walked.module.and_then(|number| Some((number, self.modules.get(number)?))) else {
            return vec![whole];
        };
        whole.offset = Some(Address(walked.address.wrapping_sub(module.bias)));
        let Some(file) = module.file() else { return vec![whole] };
        let symbols = self.symbols[number].get_or_insert_with(|| Symbols::open(file, self.places));
        self.found.clear();
        symbols.find(walked.lookup.wrapping_sub(module.bias), &mut self.found);
        let count = self.found.len();
        let told = self.found.drain(..).enumerate().map(|(at, place)| {
            let mut frame = whole.clone();
            if at + 1 < count {
                frame.trust = Trust::Inline;
            }
            // A function's own count is of where it goes on, one beyond what was looked up.
            let beyond = walked.address.wrapping_sub(walked.lookup);
            frame.function_offset = place.function_offset.map(|offset| Address(offset.wrapping_add(beyond)));
            Frame {
                function: place.function,
                symbol: place.symbol,
                file: place.file,
                line: place.line,
                column: place.column,
                ..frame
            }
        });
        let told: Vec<_> = told.collect();
        if told.is_empty() { vec![whole] } else { told }
    }

    /// Notes for each module how much was known of it, in the same order.
    pub(crate) fn finish(&self, modules: &mut [Module]) {
        for (module, symbols) in modules.iter_mut().zip(&self.symbols) {
            if let Some(symbols) = symbols {
                module.found = if module.found == Found::Core { Found::Core } else { symbols.level() };
                module.lack = symbols.lack();
                module.supplementary = symbols.lacks_supplementary();
            }
        }
    }
}

fn name_bytes(frame: &Frame) -> usize {
    [&frame.module_name, &frame.function, &frame.symbol, &frame.file].into_iter().flatten().map(String::len).sum()
}
