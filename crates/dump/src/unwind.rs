//! Walks the stack of a thread, by what its modules say of their frames, and by guesses where they say nothing.
//!
//! Every register is carried from frame to frame, so frames of signals, realigned stacks and expressions over memory come
//! out right. An address that a call returns to is looked up one byte before itself, for it may already lie in the next
//! function; the innermost frame's, and that of a frame that a signal interrupted, as it is.
//! Every frame says how far it can be trusted. A walk ends: by counts of frames, of turns downwards, and of work in all.

mod cfi;
mod expression;
mod fuel;
mod guess;
mod loaded;
mod registers;

pub use loaded::Loaded;
pub(crate) use loaded::module_at;
pub use registers::{Arch, Registers};

use crate::memory::Memory;
use cfi::{Base, Row, Rule, Table};
use expression::{evaluate, read_number};
use fuel::Fuel;
use gimli::UnwindContext;
use guess::{Around, is_trampoline, unsigned};
use model::report::{MAX_FRAMES, MAX_TAIL_FRAMES, Trust};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::rc::Rc;

/// Frames that one walk goes over; those that are neither first nor last are only counted.
const MAX_STEPS: u64 = 1 << 20;
/// How often a stack may turn to lower addresses, as it does where programs switch stacks by hand.
const MAX_TURNS: u32 = 64;
/// Frames in a row that were found by looking for them.
const MAX_SCANNED: u32 = 64;
/// What a frame costs at least, and each word that is looked at where nothing tells its caller: honest stacks of a million
/// frames are walked, and nobody's for more than some seconds.
const FRAME_COST: u64 = 512;
const LOOK_COST: u64 = 16;
/// Places in the code that are remembered.
const MAX_KNOWN: usize = 1 << 16;

/// One frame of a walked stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Where it goes on.
    pub address: u64,
    /// Which address tells the function it is in: the same, or one before.
    pub lookup: u64,
    /// Where its stack ends.
    pub sp: u64,
    /// How it was found.
    pub trust: Trust,
    /// Whether it was interrupted by a signal rather than made a call.
    pub is_interrupted: bool,
    /// Which of the modules it is in.
    pub module: Option<usize>,
}

/// A walked stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// The first frames, and the last ones if there are more than are kept.
    pub frames: Vec<Walked>,
    /// How many are left out between the `MAX_FRAMES` first and the last ones.
    pub cut: u64,
    /// Why it ended, if not at the thread's beginning.
    pub broken: Option<String>,
}

/// Walks stacks of one process.
#[derive(Debug)]
pub struct Unwinder<'a> {
    modules: &'a [Loaded],
    executable: Vec<Range<u64>>,
    signed_bits: u64,
    is_big: bool,
    tables: Vec<Table<'a>>,
    known: HashMap<u64, Known<'a>, BuildHasherDefault<AddressHasher>>,
    context: UnwindContext<usize>,
    fuel: Fuel,
}

/// What the code at a place tells of its frames.
#[derive(Clone, Debug)]
enum Known<'a> {
    Row(Rc<Row<'a>>),
    /// It returns from a signal: what was interrupted stands on the stack in the kernel's own order.
    Trampoline,
    Nothing,
}

/// A frame on the way: its registers, and how it was come by.
#[derive(Debug)]
struct Step {
    registers: Registers,
    trust: Trust,
    is_interrupted: bool,
    /// Whether its address is that of an instruction, not of what follows a call.
    is_exact: bool,
}

impl<'a> Unwinder<'a> {
    /// Returns what walks stacks over these modules, which are sorted by address, and over what else can be executed.
    pub fn new(modules: &'a [Loaded], executable: Vec<Range<u64>>) -> Self {
        Self {
            modules,
            executable,
            signed_bits: 0,
            is_big: false,
            tables: modules.iter().map(Table::new).collect(),
            known: HashMap::default(),
            context: UnwindContext::new(),
            fuel: Fuel::full(),
        }
    }

    /// Says which bits of a return address are its signature.
    #[must_use]
    pub fn with_signed_bits(mut self, bits: u64) -> Self {
        self.signed_bits = bits;
        self
    }

    /// Says that numbers in memory stand with their high bytes first.
    #[must_use]
    pub fn with_big_numbers(mut self) -> Self {
        self.is_big = true;
        self
    }

    /// Tells whether code can be executed at an address, as far as is known.
    pub fn is_executable(&self, address: u64) -> bool {
        is_executable(&self.executable, self.modules, address)
    }

    /// Walks a thread's stack from its registers on.
    pub fn walk<M: Memory + ?Sized>(&mut self, registers: &Registers, memory: &M) -> Walk {
        let mut walk = Walk::default();
        let mut tail = VecDeque::with_capacity(MAX_TAIL_FRAMES);
        let mut step =
            Step { registers: registers.clone(), trust: Trust::Context, is_interrupted: false, is_exact: true };
        let (mut turns, mut scanned) = (0, 0);
        for count in 0..MAX_STEPS {
            let Some(mut frame) = self.frame(&step) else {
                walk.broken = Some("its registers are not known".to_owned());
                break;
            };
            scanned = if step.trust == Trust::Scan { scanned + 1 } else { 0 };
            let outer = self.outer(&step, &frame, memory);
            if matches!(&outer, Ok(Some(caller)) if caller.is_interrupted) {
                // Nobody called what returns from a signal: it is gone back to at its very first instruction.
                frame.lookup = frame.address;
            }
            if walk.frames.len() < MAX_FRAMES {
                walk.frames.push(frame);
            } else {
                if tail.len() == MAX_TAIL_FRAMES {
                    tail.pop_front();
                    walk.cut += 1;
                }
                tail.push_back(frame);
            }
            let caller = match outer {
                Ok(Some(caller)) => caller,
                Ok(None) => break,
                Err(why) => {
                    walk.broken = Some(why);
                    break;
                }
            };
            let is_turn = caller.registers.sp() < Some(frame.sp);
            turns += u32::from(is_turn);
            walk.broken = if caller.registers.sp() == Some(frame.sp) && caller.registers.pc() == Some(frame.address) {
                Some("it leads to itself".to_owned())
            } else if turns > MAX_TURNS {
                Some("it turns back too often".to_owned())
            } else if scanned >= MAX_SCANNED {
                Some("too many frames in a row were only guessed".to_owned())
            } else if count + 1 == MAX_STEPS {
                Some(format!("it has more than {MAX_STEPS} frames"))
            } else if self.fuel.is_empty() {
                Some("walking takes too long".to_owned())
            } else {
                None
            };
            if walk.broken.is_some() {
                break;
            }
            step = caller;
        }
        walk.frames.extend(tail);
        walk
    }

    fn frame(&self, step: &Step) -> Option<Walked> {
        let address = step.registers.pc()?;
        let lookup = if step.is_exact { address } else { address.wrapping_sub(1) };
        Some(Walked {
            address,
            lookup,
            sp: step.registers.sp()?,
            trust: step.trust,
            is_interrupted: step.is_interrupted,
            module: module_at(self.modules, lookup),
        })
    }

    /// Returns the caller of a frame, none if it was the thread's first, or why it cannot be told.
    fn outer<M: Memory + ?Sized>(&mut self, step: &Step, frame: &Walked, memory: &M) -> Result<Option<Step>, String> {
        let mut why = None;
        self.fuel.spend(FRAME_COST).ok_or("walking takes too long")?;
        let known = self.known(step, frame, memory);
        if let Known::Row(row) = &known {
            match self.by_row(row, &step.registers, memory) {
                Ok(None) => return Ok(None),
                Ok(Some(registers)) => {
                    let pc = registers.pc().unwrap_or(0);
                    if pc == 0 {
                        return Ok(None);
                    }
                    // After a guess the registers may be wrong, and what is made of them wild.
                    let is_sure = matches!(step.trust, Trust::Context | Trust::Cfi);
                    if is_sure || self.is_executable(pc) {
                        let (is_interrupted, is_exact) = (row.is_signal, row.is_signal);
                        return Ok(Some(Step { registers, trust: Trust::Cfi, is_interrupted, is_exact }));
                    }
                }
                Err(reason) => why = Some(reason),
            }
        }
        let (executable, modules) = (&self.executable, self.modules);
        let around = Around {
            memory,
            is_executable: &|address| is_executable(executable, modules, address),
            is_big: self.is_big,
            signed_bits: self.signed_bits,
            looked: Cell::new(0),
        };
        if matches!(known, Known::Trampoline)
            && let Some(registers) = around.interrupted(&step.registers)
        {
            return Ok(Some(Step { registers, trust: Trust::Cfi, is_interrupted: true, is_exact: true }));
        }
        if step.is_exact
            && !is_executable(executable, modules, frame.address)
            && let Some(registers) = around.before_bad_call(&step.registers)
        {
            // Nothing was looked for: the registers say where the call returns to, and a call stands there.
            return Ok(Some(Step { registers, trust: Trust::Context, is_interrupted: false, is_exact: false }));
        }
        let caller = around.caller(&step.registers, step.is_exact);
        self.fuel.spend(around.looked.get() * LOOK_COST).ok_or("walking takes too long")?;
        match caller {
            Some((mut registers, trust)) => {
                self.unsign(&mut registers);
                Ok(Some(Step { registers, trust, is_interrupted: false, is_exact: false }))
            }
            None => Err(why.unwrap_or_else(|| self.lack(frame))),
        }
    }

    /// Says what is missing at a frame from which no way leads on.
    fn lack(&self, frame: &Walked) -> String {
        match frame.module {
            None => format!("{:#x} is in no module", frame.address),
            Some(module) if self.modules[module].file().is_none() => {
                format!("the file of the module at {:#x} is missing", self.modules[module].start)
            }
            Some(_) => format!("nothing tells the frame of {:#x}", frame.address),
        }
    }

    /// Returns what the code that a frame is in tells of it.
    fn known<M: Memory + ?Sized>(&mut self, step: &Step, frame: &Walked, memory: &M) -> Known<'a> {
        // Places that are looked up as they are differ from those before a return to the same address.
        let key = frame.address.wrapping_shl(1) | u64::from(step.is_exact);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let row = frame.module.and_then(|module| {
            let own = frame.lookup.wrapping_sub(self.modules[module].bias);
            self.tables[module].row(own, &mut self.context, &mut self.fuel)
        });
        // What is not told to be a signal's may be taken for the end of the function that stands before it.
        let known = match row {
            Some(row) if row.is_signal => Known::Row(Rc::new(row)),
            _ if is_trampoline(memory, step.registers.arch(), frame.address) => Known::Trampoline,
            Some(row) => Known::Row(Rc::new(row)),
            None => Known::Nothing,
        };
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(key, known.clone());
        known
    }

    /// Applies a row: none if it says that there is no caller.
    fn by_row<M: Memory + ?Sized>(
        &mut self,
        row: &Row<'a>,
        registers: &Registers,
        memory: &M,
    ) -> Result<Option<Registers>, String> {
        let arch = registers.arch();
        let base = match row.base {
            Base::Register(register, offset) => registers.get(register).map(|value| value.wrapping_add_signed(offset)),
            Base::Expression(code) => evaluate(code, row.encoding, None, (registers, memory), &mut self.fuel),
        };
        let base = arch.cut(base.ok_or("the address of a frame cannot be told")?);
        let mut caller = registers.clone();
        caller.set(arch.sp(), base);
        // Where nothing is said of it, the return address is still in the register that a call put it in.
        let mut has_return = arch.link() == Some(row.return_register);
        for (register, rule) in &row.rules {
            let is_return = *register == row.return_register;
            match self.by_rule(*rule, row, base, (registers, memory)) {
                Ok(Some(value)) => {
                    has_return |= is_return;
                    caller.set(*register, value);
                }
                Ok(None) if matches!(rule, Rule::Same) => has_return |= is_return,
                Ok(None) if is_return => return Ok(None),
                Err(at) if is_return || *register == arch.sp() => {
                    return Err(format!("the stack is not known at {at:#x}"));
                }
                Ok(None) | Err(_) => caller.forget(*register),
            }
        }
        let target = caller.get(row.return_register).filter(|_| has_return).ok_or("a return address is not told")?;
        caller.set(arch.pc(), target);
        self.unsign(&mut caller);
        Ok(Some(caller))
    }

    /// Returns what a rule gives: none if it gives nothing, the address where memory was missing if it was.
    fn by_rule<M: Memory + ?Sized>(
        &mut self,
        rule: Rule<'a>,
        row: &Row<'a>,
        base: u64,
        around: (&Registers, &M),
    ) -> Result<Option<u64>, u64> {
        let (registers, memory) = around;
        let arch = registers.arch();
        let read = |at: u64| {
            let at = arch.cut(at);
            read_number(memory, at, arch.word_bytes(), self.is_big).map(Some).ok_or(at)
        };
        match rule {
            Rule::Undefined | Rule::Same => Ok(None),
            Rule::At(offset) => read(base.wrapping_add_signed(offset)),
            Rule::Is(offset) => Ok(Some(base.wrapping_add_signed(offset))),
            Rule::Register(register) => registers.get(register).map(Some).ok_or(base),
            Rule::AtExpression(code) => {
                read(evaluate(code, row.encoding, Some(base), around, &mut self.fuel).ok_or(base)?)
            }
            Rule::IsExpression(code) => {
                evaluate(code, row.encoding, Some(base), around, &mut self.fuel).map(Some).ok_or(base)
            }
            Rule::Constant(value) => Ok(Some(value)),
        }
    }

    /// Takes the signature out of the address at which a caller goes on.
    fn unsign(&self, registers: &mut Registers) {
        let arch = registers.arch();
        if self.signed_bits != 0
            && let Some(pc) = registers.pc()
        {
            registers.set(arch.pc(), unsigned(pc, self.signed_bits));
        }
    }
}

fn is_executable(executable: &[Range<u64>], modules: &[Loaded], address: u64) -> bool {
    let at = executable.partition_point(|range| range.start <= address);
    let is_in = at.checked_sub(1).is_some_and(|at| executable[at].contains(&address));
    is_in || (executable.is_empty() && module_at(modules, address).is_some())
}

/// Addresses are as good as their own hashes, once their bits are spread.
#[derive(Debug, Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}
