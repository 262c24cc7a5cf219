//! Redaction: what is left out of a core by rules while it is cut into frames, before any of it is sent or stored.
//!
//! Left out is written over with zeros, in the place where it stood: addresses stay what they are, and zero pages are not
//! even sent. What rules ask for and what cannot be found is no reason to send the rest: then nothing is sent (`Refusal`).
//! A value of the environment is found where the kernel put it when the program began. Of a file it is read there before
//! anything else, and its copies go too, wherever they stand (`echo.rs`); in a stream it comes last, when most has been sent,
//! so there copies are memory like any other, which rules on memory can leave out.

mod echo;
mod rules;

pub use rules::{MAX_RULES_BYTES, RedactionError, RedactionRules};

use self::echo::Echoes;
use crate::core::elf::{Layout, Segment};
use crate::core::note::{AT_EXECFN, AT_RANDOM, Mapping, NT_AUXV, NT_FILE, Notes, auxv, mappings};
use model::dump::Redaction;
use std::ops::Range;

/// Bytes of notes that are held.
const MAX_NOTES_BYTES: u64 = 16 << 20;
/// Segments that a core may have for its redaction.
const MAX_LOADS: usize = 1 << 18;
/// Bytes between the words that the kernel put on the stack, arguments and environment.
const MAX_STRINGS_BYTES: u64 = 64 << 20;
/// Bytes of random numbers that stand before the arguments.
const RANDOM_BYTES: u64 = 16;
/// Bytes of a name in an environment; what is longer is none.
const MAX_NAME_BYTES: usize = 256;
/// Why a core is refused that ends too early.
const CUT: Refusal = Refusal("the dump is cut before the end of its environment");

/// Why a dump is not sent though rules say what to leave out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what the rules leave out cannot be found: {0}")]
pub struct Refusal(&'static str);

/// A segment of memory in a core's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}

impl Load {
    /// Returns where in the file some addresses of it stand.
    fn place(&self, addresses: &Range<u64>) -> Option<Range<u64>> {
        let start = addresses.start.max(self.address);
        let end = addresses.end.min(self.address.saturating_add(self.bytes));
        let place = |at: u64| self.offset.saturating_add(at - self.address);
        (start < end).then(|| place(start)..place(end))
    }

    fn holds(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|at| at < self.bytes)
    }
}

/// What of a core's headers says where its memory is.
#[derive(Clone, Debug)]
pub(crate) struct Outline {
    pub(crate) layout: Layout,
    pub(crate) loads: Vec<Load>,
    /// Where its notes are, and how they are aligned.
    pub(crate) notes: Vec<(Range<u64>, u64)>,
    /// Whether there is more than was taken in.
    pub(crate) is_cut: bool,
}

impl Outline {
    /// Takes a segment in that has bytes in the file.
    pub(crate) fn take(&mut self, segment: &Segment) {
        let Segment { offset, address, file_bytes: bytes, .. } = *segment;
        self.is_cut |= self.loads.len() + self.notes.len() >= MAX_LOADS;
        match segment.kind {
            _ if self.is_cut => {}
            Segment::LOAD => self.loads.push(Load { offset, address, bytes }),
            Segment::NOTE => self.notes.push((offset..offset.saturating_add(bytes), segment.align)),
            _ => {}
        }
    }
}

/// What is left out of one core.
#[derive(Debug)]
pub(crate) struct Redactor {
    rules: RedactionRules,
    outline: Outline,
    /// The notes as far as they came.
    held: Vec<Vec<u8>>,
    plan: Option<Plan>,
    /// Up to where it was looked at.
    reached: u64,
    done: Redaction,
}

impl Redactor {
    /// Begins with a core; what has no outline is none.
    pub(crate) fn new(rules: &RedactionRules, outline: Option<Outline>) -> Result<Self, Refusal> {
        let outline = outline.ok_or(Refusal("it is not an ELF core"))?;
        let notes = outline.notes.iter().fold(0_u64, |all, (range, _)| all.saturating_add(range.end - range.start));
        if outline.is_cut || notes > MAX_NOTES_BYTES {
            return Err(Refusal("its headers are cut, or they or its notes are longer than any real core's"));
        }
        let held = outline.notes.iter().map(|_| Vec::new()).collect();
        let done = Redaction { rules: rules.digest().to_owned(), values: 0, ranges: 0, bytes: 0 };
        Ok(Self { rules: rules.clone(), outline, held, plan: None, reached: 0, done })
    }

    /// Returns where its notes are, for whoever can hand them in before anything else.
    pub(crate) fn notes(&self) -> Vec<Range<u64>> {
        self.outline.notes.iter().map(|(range, _)| range.clone()).collect()
    }

    /// Gets ready for a file whose notes were heard: reads the values that are left out, so that their copies go as well.
    pub(crate) fn prepare(&mut self, mut read: impl FnMut(u64, &mut [u8]) -> usize) -> Result<(), Refusal> {
        let mut plan = self.make()?;
        if let Some(strings) = &plan.strings {
            let mut words = vec![0; usize::try_from(strings.end - strings.start).unwrap_or(0)];
            if read(strings.start, &mut words) < words.len() {
                return Err(CUT);
            }
            plan.echoes = Echoes::of(&words, &self.rules)
                .ok_or(Refusal("its environment is longer than is looked for elsewhere"))?;
            self.reached = strings.end;
        }
        self.plan = Some(plan);
        Ok(())
    }

    /// Takes notes in.
    pub(crate) fn hear(&mut self, start: u64, bytes: &[u8]) {
        for ((range, _), held) in self.outline.notes.iter().zip(&mut self.held) {
            // They come in their order; what was heard before is not heard again.
            let next = range.start + held.len() as u64;
            let (from, to) = (next.max(start), range.end.min(start + bytes.len() as u64));
            if from == next && from < to {
                let place = |at: u64| usize::try_from(at - start).expect("it lies within what came");
                held.extend_from_slice(&bytes[place(from)..place(to)]);
            }
        }
    }

    /// Returns how much of what follows must be known to leave out what stands across a border.
    pub(crate) fn ahead(&self) -> usize {
        if self.plan.as_ref().is_some_and(|plan| !plan.echoes.is_empty()) { echo::AHEAD_BYTES } else { 0 }
    }

    /// Leaves out what the rules say of what comes next; `ahead` is how that goes on.
    pub(crate) fn redact(&mut self, start: u64, bytes: &mut [u8], ahead: &[u8]) -> Result<(), Refusal> {
        let end = start + bytes.len() as u64;
        self.reached = self.reached.max(end);
        let touches = |load: &Load| load.offset < end && start < load.offset.saturating_add(load.bytes);
        if self.plan.is_none() {
            self.hear(start, bytes);
            if !self.outline.loads.iter().any(touches) {
                return Ok(());
            }
            self.plan = Some(self.make()?);
        }
        let Some(plan) = &mut self.plan else { return Ok(()) };
        plan.apply(start, bytes, ahead, &mut self.done, &self.rules);
        Ok(())
    }

    /// Returns what was left out, unless it ended before all of that could be found.
    pub(crate) fn finish(mut self) -> Result<Redaction, Refusal> {
        let plan = match self.plan.take() {
            Some(plan) => plan,
            None => self.make()?,
        };
        let is_cut = plan.strings.is_some_and(|strings| self.reached < strings.end);
        if is_cut { Err(CUT) } else { Ok(self.done) }
    }

    fn make(&mut self) -> Result<Plan, Refusal> {
        let (mut aux, mut files) = (Vec::new(), None);
        for ((range, align), held) in self.outline.notes.iter().zip(&self.held) {
            if held.len() as u64 != range.end - range.start {
                return Err(Refusal("its notes come behind its memory, or not whole"));
            }
            for note in Notes::new(self.outline.layout, held, *align).filter(|note| note.owner == b"CORE") {
                match note.kind {
                    NT_AUXV => aux = auxv(self.outline.layout, note.content),
                    NT_FILE => files = Some(mappings(self.outline.layout, note.content)),
                    _ => {}
                }
            }
        }
        self.held = Vec::new();
        let entry = |kind: u64| aux.iter().find(|(one, _)| *one == kind).map(|(_, value)| *value);
        let strings = match (entry(AT_RANDOM), entry(AT_EXECFN)) {
            (Some(random), Some(end)) => Some(random.saturating_add(RANDOM_BYTES)..end),
            _ => None,
        };
        let strings = strings.filter(|at| at.start < at.end && at.end - at.start <= MAX_STRINGS_BYTES);
        let mut plan = Plan::default();
        if self.rules.has_environment() {
            let strings = strings.clone().ok_or(Refusal("it does not say where its environment is"))?;
            let load = self.outline.loads.iter().find(|load| load.holds(strings.start));
            let place = load.and_then(|load| load.place(&strings));
            let place = place.filter(|place| place.end - place.start == strings.end - strings.start);
            plan.strings = Some(place.ok_or(Refusal("the memory with its environment is not in it"))?);
        }
        if self.rules.has_memory() {
            let files = files.filter(|(_, is_whole)| *is_whole).map(|(files, _)| files);
            let files = files.ok_or(Refusal("it does not say which files were mapped"))?;
            if self.rules.has_stack() && strings.is_none() {
                return Err(Refusal("it does not say where its stack is"));
            }
            plan.ranges = self.ranges(&files, strings.map(|at| at.start));
            self.done.ranges = plan.ranges.len() as u64;
        }
        Ok(plan)
    }

    /// Returns the parts of the file that rules on memory leave out, in their order and apart from each other.
    fn ranges(&self, files: &[Mapping], on_stack: Option<u64>) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        let mut files: Vec<_> = files.iter().collect();
        files.sort_by_key(|file| file.start);
        // How far those up to each reach.
        let reach = files.iter().scan(0, |reach, file| {
            *reach = file.end.max(*reach);
            Some(*reach)
        });
        let reach: Vec<u64> = reach.collect();
        for load in &self.outline.loads {
            let is_stack = on_stack.is_some_and(|at| load.holds(at));
            let first = files.get(reach.partition_point(|reach| *reach <= load.address));
            let file = first.filter(|file| file.start < load.address.saturating_add(load.bytes));
            if self.rules.leaves_out_load(file.map(|file| file.path.as_str()), is_stack) {
                ranges.push(load.offset..load.offset.saturating_add(load.bytes));
            }
            ranges.extend(self.rules.addresses().filter_map(|addresses| load.place(addresses)));
        }
        ranges.sort_by_key(|range| (range.start, range.end));
        let mut apart: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match apart.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => apart.push(range),
            }
        }
        apart
    }
}

/// Where in a core's file something is left out.
#[derive(Debug, Default)]
struct Plan {
    ranges: Vec<Range<u64>>,
    /// Where the words of the arguments and the environment are.
    strings: Option<Range<u64>>,
    word: Word,
    /// What of the environment is left out wherever it stands.
    echoes: Echoes,
    /// Up to where a copy reaches of which the beginning went.
    echoed: u64,
}

/// How far a word of the environment has come.
#[derive(Debug)]
enum Word {
    /// Its name, as far as it came.
    Name(Vec<u8>),
    /// Its value.
    Value { is_left_out: bool, is_counted: bool },
}

impl Default for Word {
    fn default() -> Self {
        Self::Name(Vec::new())
    }
}

impl Plan {
    fn apply(&mut self, start: u64, bytes: &mut [u8], ahead: &[u8], done: &mut Redaction, rules: &RedactionRules) {
        let end = start + bytes.len() as u64;
        let within = |range: &Range<u64>| {
            let (from, to) = (range.start.max(start), range.end.min(end));
            let place = |at: u64| usize::try_from(at - start).expect("it lies within what came");
            (from < to).then(|| place(from)..place(to))
        };
        if let Some(place) = self.strings.as_ref().and_then(within) {
            for byte in &mut bytes[place] {
                self.word.take(byte, done, rules);
            }
        }
        let first = self.ranges.partition_point(|range| range.end <= start);
        for place in self.ranges[first..].iter().map_while(within) {
            done.bytes += place.len() as u64;
            bytes[place].fill(0);
        }
        let carried = usize::try_from(self.echoed.saturating_sub(start)).unwrap_or(0);
        let (gone, carried) = self.echoes.silence(bytes, ahead, carried);
        done.bytes += gone;
        self.echoed = end + carried as u64;
    }
}

impl Word {
    fn take(&mut self, byte: &mut u8, done: &mut Redaction, rules: &RedactionRules) {
        match self {
            _ if *byte == 0 => *self = Self::default(),
            Self::Name(name) if *byte == b'=' => {
                let is_left_out = rules.leaves_out(&String::from_utf8_lossy(name));
                *self = Self::Value { is_left_out, is_counted: false };
            }
            Self::Name(name) if name.len() < MAX_NAME_BYTES => name.push(*byte),
            Self::Name(_) => *self = Self::Value { is_left_out: false, is_counted: false },
            Self::Value { is_left_out: false, .. } => {}
            Self::Value { is_left_out: true, is_counted } => {
                done.values += u64::from(!*is_counted);
                *is_counted = true;
                done.bytes += 1;
                *byte = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(text: &str) -> RedactionRules {
        RedactionRules::read(text).expect("are rules")
    }

    /// Returns words as they come out, whatever the pieces in which they came, and how many values and bytes went.
    fn words(text: &[u8], rules: &RedactionRules, piece: usize) -> (Vec<u8>, u64, u64) {
        let mut plan = Plan { strings: Some(10..10 + text.len() as u64), ..Plan::default() };
        let mut done = Redaction { rules: String::new(), values: 0, ranges: 0, bytes: 0 };
        let (mut bytes, mut at) = (text.to_vec(), 10);
        for piece in bytes.chunks_mut(piece) {
            plan.apply(at, piece, &[], &mut done, rules);
            at += piece.len() as u64;
        }
        (bytes, done.values, done.bytes)
    }

    #[test]
    fn values_go_and_names_stay() {
        let rules = rules("[environment]\nleave_out = ['*token*', 'AWS_*']\nkeep = ['AWS_REGION']\n");
        let text = b"prog\0HOME=/root\0GH_TOKEN=abc=d\0AWS_REGION=eu\0aws_key=k\0TOKEN=\0";
        let (bytes, values, gone) = words(text, &rules, 64);
        assert_eq!(bytes, b"prog\0HOME=/root\0GH_TOKEN=\0\0\0\0\0\0AWS_REGION=eu\0aws_key=\0\0TOKEN=\0");
        assert_eq!((values, gone), (2, 6));
    }

    #[test]
    fn a_core_that_does_not_say_where_things_are_is_refused() {
        let layout = Layout { is_64: true, is_big: false };
        let outline = Outline {
            layout,
            loads: vec![Load { offset: 100, address: 0x1000, bytes: 50 }],
            notes: vec![(10..20, 4)],
            is_cut: false,
        };
        let check = |text: &str, outline: Option<Outline>, heard: bool, expected: Option<&str>| {
            let made = Redactor::new(&rules(text), outline).and_then(|mut redactor| {
                if heard {
                    redactor.hear(10, &[0; 10]);
                }
                redactor.redact(100, &mut [1; 10], &[])
            });
            let expected = expected.map(|why| format!("what the rules leave out cannot be found: {why}"));
            assert_eq!(made.err().map(|error| error.to_string()), expected);
        };
        let environment = "[environment]\nleave_out = ['A']\n";
        let memory = "[[memory]]\narea = 'stack'\n";
        check(environment, None, true, Some("it is not an ELF core"));
        check(environment, Some(outline.clone()), false, Some("its notes come behind its memory, or not whole"));
        check(environment, Some(outline.clone()), true, Some("it does not say where its environment is"));
        check(memory, Some(outline.clone()), true, Some("it does not say which files were mapped"));
        let cut = Outline { is_cut: true, ..outline.clone() };
        check(
            memory,
            Some(cut),
            true,
            Some("its headers are cut, or they or its notes are longer than any real core's"),
        );
        check("", Some(outline), true, None);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[A-C=\0]{0,60}", piece in 1..9_usize) {
            let rules = rules("[environment]\nleave_out = ['A*']\n");
            prop_assert_eq!(words(text.as_bytes(), &rules, piece), words(text.as_bytes(), &rules, 1_000));
        }
    }
}
