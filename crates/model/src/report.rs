//! The report: all that is known of one dump, as JSON whose schema is a contract (`docs/report.md`).
//!
//! It is made by `dump::analyse` in a sandbox, from foreign bytes; so whoever reads one bounds its
//! size first. What is missing or broken is a value in it, a `Note` or an absent field, never a failure. Fields
//! may be added within a version; nothing changes its meaning or goes without a new one.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::fmt;

/// The version of the schema that is written today.
pub const REPORT_VERSION: u32 = 1;
/// Bytes of one report as JSON.
pub const MAX_REPORT_BYTES: usize = 64 << 20;
/// Threads of one report.
pub const MAX_THREADS: usize = 16_384;
/// Frames of one thread, from the innermost on.
pub const MAX_FRAMES: usize = 1024;
/// Frames that are kept from the outer end of a stack that is longer.
pub const MAX_TAIL_FRAMES: usize = 64;
/// Modules of one report.
pub const MAX_MODULES: usize = 16_384;
/// Characters of one name, path or function in a report.
pub const MAX_NAME_CHARS: usize = 4096;
/// Notes of one report.
pub const MAX_NOTES: usize = 256;

/// A place in memory, or a number as wide; written as `0x…`, since JSON's own numbers lose bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").ok_or_else(|| de::Error::custom("an address begins with `0x`"))?;
        u64::from_str_radix(digits, 16).map(Self).map_err(de::Error::custom)
    }
}

/// What sort of thing a dump is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DumpKind {
    /// A process, as an ELF core.
    Core,
    /// A process, as a minidump.
    Minidump,
    /// A Linux kernel: an ELF vmcore, makedumpfile's own format, or its stream.
    Kernel,
    /// An illumos kernel, of which the header is read.
    Illumos,
    /// What a sanitizer printed.
    Sanitizer,
    /// What a language's runtime printed: a panic, an exception, a traceback.
    Traceback,
    /// Something that is none of these.
    Unknown,
}

/// All that is known of one dump.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `REPORT_VERSION`.
    pub version: u32,
    /// What sort of thing it is.
    pub kind: DumpKind,
    /// Whether its end is missing; what was there was read nevertheless.
    pub is_truncated: bool,
    /// The machine it happened on, as far as the dump says.
    #[serde(default, skip_serializing_if = "Machine::is_empty")]
    pub machine: Machine,
    /// The process, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The signal it died of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
    /// What went wrong, and how bad that may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<Crash>,
    /// The kernel, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    /// The threads, the one that crashed first.
    #[serde(default)]
    pub threads: Vec<Thread>,
    /// What was mapped, by address.
    #[serde(default)]
    pub modules: Vec<Module>,
    /// What is missing, broken or noteworthy.
    #[serde(default)]
    pub notes: Vec<Note>,
}

impl Report {
    /// Returns a report that says nothing yet.
    pub fn new(kind: DumpKind) -> Self {
        Self {
            version: REPORT_VERSION,
            kind,
            is_truncated: false,
            machine: Machine::default(),
            process: None,
            signal: None,
            crash: None,
            kernel: None,
            threads: Vec::new(),
            modules: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a note, unless there are as many as there may be.
    pub fn note(&mut self, code: NoteCode, text: impl Into<String>) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(Note { code, text: text.into() });
        }
    }

    /// Returns the thread that crashed.
    pub fn crashed(&self) -> Option<&Thread> {
        self.threads.iter().find(|thread| thread.is_crashed)
    }
}

/// The machine a dump comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// `linux`, `illumos`, `windows`, `macos`, `android`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// `x86_64`, `aarch64`, `x86`, `arm`, or the number of another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The kernel's release, or the platform's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Seconds since 1970 at which it happened, if the dump itself says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crashed_at: Option<f64>,
}

impl Machine {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its parent's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppid: Option<u32>,
    /// Its user's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its group's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Its name, as the kernel cuts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its command line, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    /// The path of its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Its environment, from the initial stack; withheld values are `…`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
    /// The auxiliary vector, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub auxv: BTreeMap<String, Address>,
}

/// The signal a process died of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Its number.
    pub number: i32,
    /// Its name, `SIGSEGV`.
    pub name: String,
    /// Its `si_code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// What the code is called, `SEGV_MAPERR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code_name: Option<String>,
    /// What address could not be used, of those signals that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Who sent it, if somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<u32>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// A word of `docs/report.md`: `null_read`, `wild_write`, `stack_overflow`, `heap_use_after_free`, `assert`, `abort`, `panic`…
    pub class: String,
    /// What the program, its runtime or its kernel said, if it said something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What address it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// How bad it may be.
    pub severity: Severity,
    /// Why it was called that bad, a sentence each.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// An estimate of how bad a crash may be in an attacker's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing can be told.
    Unknown,
    /// It ends the program, and no more.
    Low,
    /// It may reveal something.
    Medium,
    /// It may let somebody change memory.
    High,
    /// It lets somebody steer the program.
    Critical,
}

impl Severity {
    /// Every estimate, the mildest first.
    pub const ALL: [Self; 5] = [Self::Unknown, Self::Low, Self::Medium, Self::High, Self::Critical];
}

/// One thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// Its number; of a kernel's dump, the processor's.
    pub id: u64,
    /// Its name, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is the one that crashed.
    #[serde(default)]
    pub is_crashed: bool,
    /// Its registers by their usual names, as they were when it stopped.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registers: BTreeMap<String, Address>,
    /// Its frames, the innermost first; inlined functions are frames of their own, before the one they are part of.
    #[serde(default)]
    pub frames: Vec<Frame>,
    /// How many frames are left out between the first ones and the last ones.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub frames_cut: u64,
    /// Before which of `frames` they are left out, if any are; without it, before the `MAX_TAIL_FRAMES` last ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames_cut_at: Option<usize>,
    /// Why the walk ended, if not at the thread's beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

impl Thread {
    /// Returns before which of the frames how many are left out, if any are.
    pub fn gap(&self) -> Option<(usize, u64)> {
        let usual = self.frames.len().saturating_sub(MAX_TAIL_FRAMES);
        let at = self.frames_cut_at.unwrap_or(usual).min(self.frames.len());
        (self.frames_cut > 0).then_some((at, self.frames_cut))
    }

    /// Returns the frames with their numbers from the innermost on, those counted that are left out.
    pub fn numbered(&self) -> impl Iterator<Item = (u64, &Frame)> {
        let gap = self.gap();
        let beyond = move |at: usize| gap.filter(|(begin, _)| at >= *begin).map_or(0, |(_, count)| count);
        let number = move |at: usize| u64::try_from(at).unwrap_or(u64::MAX).saturating_add(beyond(at));
        self.frames.iter().enumerate().map(move |(at, frame)| (number(at), frame))
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// How a frame was found, the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// From the thread's own registers.
    Context,
    /// From call frame information.
    Cfi,
    /// Part of the frame that follows, by debug information.
    Inline,
    /// From a chain of frame pointers.
    FramePointer,
    /// From a word on the stack that looks like a return address.
    Scan,
    /// From a text, by somebody else's walk.
    Told,
}

/// One frame of a stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Where it goes on: the address of the instruction after the call, or of the one that stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// How it was found.
    pub trust: Trust,
    /// Whether it was interrupted by a signal rather than made a call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_interrupted: bool,
    /// Which of the report's modules it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<usize>,
    /// The module's name, where a text gives no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_name: Option<String>,
    /// Where it is in the module's file, as its program headers count addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<Address>,
    /// The function, in the language's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The function as the linker knows it, if that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// How far into the function it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_offset: Option<Address>,
    /// The source file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
}

impl Frame {
    /// Returns a frame of which only its trust is known.
    pub fn new(trust: Trust) -> Self {
        Self {
            address: None,
            trust,
            is_interrupted: false,
            module: None,
            module_name: None,
            offset: None,
            function: None,
            symbol: None,
            function_offset: None,
            file: None,
            line: None,
            column: None,
        }
    }
}

/// A file that was mapped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Module {
    /// Its path on the machine it ran on, or `[vdso]`.
    pub path: String,
    /// Where it begins in memory.
    pub start: Address,
    /// Where it ends.
    pub end: Address,
    /// What is added to its own addresses to get those in memory.
    pub bias: Address,
    /// Its build id in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// Where what was known of it came from.
    pub found: Found,
    /// Why there are no symbols, or fewer than there might be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lack: Option<String>,
    /// The build id of what its debug information shares with that of others, if that was not found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supplementary: Option<String>,
}

/// Where what is known of a module came from, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Full debug information: inlined functions, files, lines.
    Debug,
    /// A table of symbols.
    Symbols,
    /// Call frame information only.
    Unwind,
    /// The core's own copy of it.
    Core,
    /// Nowhere.
    Missing,
}

/// What a kernel's dump says of its kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// `uname -r`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// The kernel's build id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// What it said when it gave up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic: Option<String>,
    /// Its log, the last part if it was long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The lines of VMCOREINFO.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub info: BTreeMap<String, String>,
}

/// Something that is missing, broken or noteworthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Which sort of thing it is.
    pub code: NoteCode,
    /// A sentence for people.
    pub text: String,
}

/// The sorts of notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteCode {
    /// The dump ends before what it announces.
    Truncated,
    /// A part of it cannot be read.
    Broken,
    /// A limit of ours was met.
    Cut,
    /// A module's file or symbols are missing.
    Missing,
    /// Something was withheld by rule.
    Redacted,
    /// Worth knowing.
    Hint,
}
