//! What went wrong, and how bad that may be in an attacker's hands.
//!
//! The class is one word, told from the signal, the address it is about, the instruction that met it, and what the program
//! and its libraries said before they gave up. The severity is an estimate, in the manner of `exploitable`; each comes with
//! its reasons, so that a reader may disagree. The classes of cores:
//!
//! - `null_read`, `null_write`, `null_exec`, `null_access`: an address near zero was used;
//! - `wild_read`, `wild_write`, `wild_exec`, `wild_access`: any other that could not be, or where no code was that could;
//! - `stack_overflow`, `stack_smashing`, `buffer_overflow`, `heap_corruption`, `double_free`;
//! - `assert`, `panic`, `uncaught_exception`, `abort`: it gave up by itself;
//! - `division_by_zero`, `arithmetic`, `illegal_instruction`, `trap`, `bus_error`, `forbidden_call`;
//! - `killed`: somebody else ended it;
//! - `snapshot`: nothing went wrong, somebody took a picture of it while it ran;
//! - what a sanitizer found, by the words of its reports.

mod instruction;
mod message;
mod sanitized;

use crate::core::elf::Segment;
use crate::core::signal::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGSEGV, SIGSYS, SIGTRAP};
use crate::core::{Piece, View};
use crate::memory::read_some;
use crate::unwind::{Registers, module_at};
use instruction::{Access, Instruction, MAX_CODE_BYTES, decode};
use message::abort_message;
use model::report::{Address, Crash, Frame, Report, Severity, Signal, Thread};

/// Addresses below this are taken for a null pointer with an offset, and those as near to the end for one before it.
const NEAR_NULL: u64 = 64 << 10;
/// How far from the stack's pointer an overflow is met.
const MAX_LEAP_BYTES: u64 = 1 << 20;
/// How far above an overflow the stack begins: guard pages, and the gap that the kernel keeps.
const MAX_GUARD_BYTES: u64 = 2 << 20;
/// Frames of the crashed thread whose functions are looked at.
const MAX_LOOKED_AT: usize = 64;
/// Frames above which a stack is deep.
const DEEP: usize = 500;

/// What a crash is told from.
struct Scene<'a> {
    view: &'a View<'a>,
    registers: Option<&'a Registers>,
    signal: &'a Signal,
    thread: Option<&'a Thread>,
}

/// A crash before all is said of it.
struct Verdict {
    class: &'static str,
    severity: Severity,
    reasons: Vec<String>,
    address: Option<u64>,
    message: Option<String>,
}

impl Verdict {
    fn new(class: &'static str, severity: Severity, reason: impl Into<String>) -> Self {
        Self { class, severity, reasons: vec![reason.into()], address: None, message: None }
    }

    fn about(mut self, address: Option<u64>) -> Self {
        self.address = address;
        self
    }

    fn saying(mut self, message: Option<String>) -> Self {
        self.message = message;
        self
    }

    fn because(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }
}

/// Returns what went wrong in a process, by its core and what has been told of its stacks; none if no signal ended it.
pub(crate) fn crash(view: &View<'_>, report: &Report) -> Option<Crash> {
    let signal = report.signal.as_ref()?;
    let thread = report.crashed();
    let scene = Scene { view, registers: view.core.threads.first().map(|first| &first.registers), signal, thread };
    if scene.function(sanitized::is_sanitizer).is_some()
        && let Some(crash) = sanitized::said(view)
    {
        return Some(crash);
    }
    let mut verdict = match (signal.number, signal.sender) {
        // An abort is a signal that a program sends itself.
        (SIGABRT, _) => scene.abort(),
        (_, Some(sender)) => scene.sent(sender),
        (SIGSEGV | SIGBUS, _) => scene.memory(),
        (SIGFPE, _) => scene.arithmetic(),
        (SIGILL | SIGTRAP, _) => scene.instruction(),
        (SIGSYS, _) => Verdict::new("forbidden_call", Severity::Low, "it made a system call that its filter forbids"),
        _ => Verdict::new("killed", Severity::Unknown, format!("{} ended it", signal.name)),
    };
    if let Some(frame) = scene.frames().iter().position(|frame| frame.is_interrupted) {
        let reason = format!("a signal's handler was running: what it met first is frame {frame}");
        verdict.reasons.push(reason);
    }
    Some(Crash {
        class: verdict.class.to_owned(),
        message: verdict.message,
        address: verdict.address.map(Address),
        severity: verdict.severity,
        reasons: verdict.reasons,
    })
}

/// Returns what is said of a process that did not crash.
pub(crate) fn snapshot() -> Crash {
    crate::text::Verdict::new(
        "snapshot",
        Severity::Unknown,
        "no signal ended it: somebody took a picture of it while it ran",
    )
    .crash()
}

impl Scene<'_> {
    fn frames(&self) -> &[Frame] {
        let frames = self.thread.map(|thread| thread.frames.as_slice()).unwrap_or_default();
        &frames[..frames.len().min(MAX_LOOKED_AT)]
    }

    /// Returns the first of some functions that the innermost frames are in.
    fn function(&self, wanted: impl Fn(&str) -> bool) -> Option<&str> {
        // What the frames of a handler's victim are in was not the end of it.
        let inner = self.frames().iter().take_while(|frame| !frame.is_interrupted);
        inner.filter_map(|frame| frame.function.as_deref()).find(|name| wanted(name))
    }

    fn sent(&self, sender: u32) -> Verdict {
        let own = self.view.core.person.as_ref().is_some_and(|person| person.pid == sender);
        let who = if own { "it sent it to itself".to_owned() } else { format!("process {sender} sent it") };
        let is_kill = self.signal.number == SIGKILL;
        let severity = if own && !is_kill { Severity::Low } else { Severity::Unknown };
        Verdict::new("killed", severity, format!("{} ended it; {who}", self.signal.name))
    }

    fn abort(&self) -> Verdict {
        let said = abort_message(self.view);
        let has = |words: &[&str]| said.as_ref().is_some_and(|said| words.iter().any(|word| said.contains(word)));
        let called = |names: &[&str]| self.function(|function| names.contains(&bare(function))).map(str::to_owned);
        let verdict = if has(&["stack smashing detected"]) || called(&["__stack_chk_fail"]).is_some() {
            let reason = "the word that guards a frame's return address was overwritten";
            Verdict::new("stack_smashing", Severity::High, reason)
        } else if has(&["buffer overflow detected"]) || called(&["__fortify_fail", "__chk_fail"]).is_some() {
            Verdict::new("buffer_overflow", Severity::High, "a checked function refused to write beyond a buffer")
        } else if has(&["double free", "free(): invalid pointer", "munmap_chunk(): invalid pointer"]) {
            Verdict::new("double_free", Severity::High, "memory was freed that was not allocated, or freed before")
        } else if has(&["malloc", "free(): ", "realloc(): ", "corrupted", "calloc(): ", "unaligned tcache"]) {
            Verdict::new("heap_corruption", Severity::High, "the allocator found its own records overwritten")
        } else if has(&["Assertion"]) || called(&["__assert_fail", "__assert", "__assert_perror_fail"]).is_some() {
            Verdict::new("assert", Severity::Low, "an assertion did not hold")
        } else if let Some(function) = self.function(is_panic) {
            Verdict::new("panic", Severity::Low, format!("it panicked: `{function}`"))
        } else if let Some(function) = self.function(is_terminate) {
            let reason = format!("an exception was caught by nobody: `{function}`");
            Verdict::new("uncaught_exception", Severity::Low, reason)
        } else if self.signal.sender.is_some_and(|sender| !self.is_own(sender)) {
            return self.sent(self.signal.sender.unwrap_or_default());
        } else {
            Verdict::new("abort", Severity::Low, "it gave up by itself")
        };
        verdict.saying(said)
    }

    /// Tells whether a sender is the process itself, as far as its core says who that is.
    fn is_own(&self, sender: u32) -> bool {
        self.view.core.person.as_ref().is_none_or(|person| person.pid == sender)
    }

    fn arithmetic(&self) -> Verdict {
        let name = self.signal.code_name.as_deref();
        let (class, reason) = match name {
            Some("FPE_INTDIV") => ("division_by_zero", "an integer was divided by zero, or the quotient fits nowhere"),
            Some("FPE_FLTDIV") => ("division_by_zero", "a number was divided by zero, and that was not to pass"),
            _ => ("arithmetic", "a number was computed that does not exist"),
        };
        Verdict::new(class, Severity::Low, reason).about(self.signal.address.map(|address| address.0))
    }

    fn instruction(&self) -> Verdict {
        let address = self.registers.and_then(Registers::pc);
        if let Some(function) = self.function(is_panic) {
            return Verdict::new("panic", Severity::Low, format!("it panicked: `{function}`")).about(address);
        }
        if self.signal.number == SIGTRAP || self.decoded(None).access == Access::Trap {
            let reason = "it executed an instruction that is there to stop it";
            return Verdict::new("trap", Severity::Low, reason).about(address);
        }
        let is_at_hand = address.is_some_and(|pc| !read_some(self.view, pc, MAX_CODE_BYTES).is_empty());
        let modules = self.view.modules;
        let is_outside = !modules.is_empty() && address.is_some_and(|pc| module_at(modules, pc).is_none());
        let (class, severity, reason) = match (is_at_hand, is_outside) {
            (true, true) => {
                ("wild_exec", Severity::High, "it executed what is no instruction, where no module's code is")
            }
            (true, false) => {
                let reason = "what it executed is no instruction: it may have been led astray";
                ("illegal_instruction", Severity::High, reason)
            }
            (false, _) => {
                let reason = "its code was not at hand: what it executed was there to stop it, or is no instruction";
                ("illegal_instruction", Severity::Medium, reason)
            }
        };
        Verdict::new(class, severity, reason).about(address)
    }

    fn decoded(&self, fault: Option<u64>) -> Instruction {
        let unknown = Instruction { access: Access::Unknown, address: None };
        let Some((registers, pc)) = self.registers.and_then(|registers| Some((registers, registers.pc()?))) else {
            return unknown;
        };
        let code = read_some(self.view, pc, MAX_CODE_BYTES);
        if code.is_empty() { unknown } else { decode(&code, registers, fault) }
    }

    fn word(&self, address: u64) -> Option<u64> {
        let layout = self.view.core.header.layout;
        layout.word(&read_some(self.view, address, layout.word_bytes()), 0)
    }

    /// Tells a fault of memory.
    fn memory(&self) -> Verdict {
        let told = self.signal.address.map(|address| address.0);
        let pc = self.registers.and_then(Registers::pc);
        let pieces = self.view.core;
        let is_code = |address: u64| pieces.piece(address).is_some_and(|piece| has(piece, Segment::EXECUTABLE));
        if let Some(pc) = pc
            && (told == Some(pc) || !is_code(pc) && !pieces.pieces.is_empty() && !pieces.is_truncated)
        {
            return self.execution(pc);
        }
        let instruction = self.decoded(told);
        if let Some(address) = told.or(instruction.address)
            && self.is_stack_overflow(address)
        {
            return self.stack_overflow(address);
        }
        if self.signal.code_name.as_deref() == Some("BUS_ADRERR") && told.is_some() {
            let reason = "the file behind a mapping ends before what was used";
            return Verdict::new("bus_error", Severity::Low, reason).about(told);
        }
        let address = match instruction.access {
            // What matters is where it would have gone, not where that was written.
            Access::Return => instruction.address.and_then(|at| self.word(at)).or(told),
            _ => told.or(instruction.address),
        };
        let verdict = self.access(instruction.access, address).about(address);
        if told.is_none() {
            return verdict.because("the kernel names no address: it was one that no pointer can hold");
        }
        match address.and_then(|address| pieces.piece(address)) {
            Some(piece) if instruction.access == Access::Write && !has(piece, Segment::WRITABLE) => {
                verdict.because("the memory there may be read but not written")
            }
            _ => verdict,
        }
    }

    fn execution(&self, pc: u64) -> Verdict {
        if is_near_null(pc) {
            let reason = "it called a function through a pointer that was never set, or cleared";
            return Verdict::new("null_exec", Severity::Low, reason).about(Some(pc));
        }
        let verdict = Verdict::new("wild_exec", Severity::Critical, "it went to an address where no code is");
        let verdict = match self.view.core.piece(pc) {
            Some(piece) if has(piece, Segment::WRITABLE) => verdict.because("the program can write what stands there"),
            _ => verdict,
        };
        verdict.about(Some(pc))
    }

    fn access(&self, access: Access, address: Option<u64>) -> Verdict {
        let is_null = address.is_some_and(is_near_null);
        let (class, severity, what) = match (access, is_null) {
            (Access::Write, true) => ("null_write", Severity::Low, "it wrote through a null pointer"),
            (Access::Write, false) => ("wild_write", Severity::High, "it wrote to an address that is not its own"),
            (Access::Read, true) => ("null_read", Severity::Low, "it read through a null pointer"),
            (Access::Read, false) => ("wild_read", Severity::Medium, "it read from an address that is not its own"),
            (Access::Branch, true) => ("null_read", Severity::Low, "it read where to go on through a null pointer"),
            (Access::Branch, false) => {
                ("wild_read", Severity::High, "it read where to go on from an address that is not its own")
            }
            (Access::Return, _) => {
                ("wild_exec", Severity::Critical, "it returned to an address that cannot be: its stack was overwritten")
            }
            (Access::Trap | Access::None | Access::Unknown, true) => {
                ("null_access", Severity::Low, "it used a null pointer, to read or to write")
            }
            (Access::Trap | Access::None | Access::Unknown, false) => {
                ("wild_access", Severity::Medium, "it used an address that is not its own, to read or to write")
            }
        };
        Verdict::new(class, severity, what)
    }

    /// Tells whether an address that could not be used lies where a stack would have grown to.
    fn is_stack_overflow(&self, address: u64) -> bool {
        let core = self.view.core;
        let Some(sp) = self.registers.and_then(Registers::sp) else { return false };
        let is_usable = core.piece(address).is_some_and(|piece| has(piece, Segment::WRITABLE));
        if is_usable || address.abs_diff(sp) > MAX_LEAP_BYTES || is_near_null(address) {
            return false;
        }
        let from = core.pieces.partition_point(|piece| piece.end <= address);
        let mut above = core.pieces[from..].iter();
        let stack = above.find(|piece| has(piece, Segment::WRITABLE) && piece.start > address);
        stack.is_some_and(|stack| stack.start - address <= MAX_GUARD_BYTES && sp < stack.end)
    }

    fn stack_overflow(&self, address: u64) -> Verdict {
        let reason = "it used memory right below its stack";
        let verdict = Verdict::new("stack_overflow", Severity::Low, reason).about(Some(address));
        let depth = self.thread.map_or(0, |thread| thread.frames.len() as u64 + thread.frames_cut);
        if depth > DEEP as u64 { verdict.because(format!("the stack is {depth} frames deep")) } else { verdict }
    }
}

fn has(piece: &Piece, flag: u32) -> bool {
    piece.flags & flag != 0
}

fn is_near_null(address: u64) -> bool {
    address < NEAR_NULL || address >= NEAR_NULL.wrapping_neg()
}

/// Returns a function's name without what its library puts before or behind it.
fn bare(function: &str) -> &str {
    function.strip_prefix("__GI_").unwrap_or(function).split("@").next().unwrap_or(function)
}

fn is_panic(function: &str) -> bool {
    ["rust_panic", "core::panicking::", "std::panicking::", "std::rt::panic", "runtime.fatalpanic", "runtime.gopanic"]
        .iter()
        .any(|name| function.starts_with(name) || function.starts_with("__rustc::rust_panic"))
}

fn is_terminate(function: &str) -> bool {
    ["std::terminate", "__cxxabiv1::__terminate", "__cxa_throw", "__cxa_rethrow", "_Unwind_RaiseException"]
        .iter()
        .any(|name| function.starts_with(name))
}
