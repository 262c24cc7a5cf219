//! Registers of a thread, numbered as DWARF numbers them.

/// The processors whose stacks can be walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Intel and AMD, 64 bits.
    X86_64,
    /// ARM, 64 bits.
    Aarch64,
    /// Intel and AMD, 32 bits.
    X86,
    /// ARM, 32 bits.
    Arm,
}

/// Registers that are held: `x0` to `x30`, `sp` and `pc` are the most.
const COUNT: usize = 33;

impl Arch {
    /// Returns the processor that an ELF header's `e_machine` names.
    pub fn of_machine(machine: u16) -> Option<Self> {
        match machine {
            62 => Some(Self::X86_64),
            183 => Some(Self::Aarch64),
            3 => Some(Self::X86),
            40 => Some(Self::Arm),
            _ => None,
        }
    }

    /// Returns its name, as reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::X86 => "x86",
            Self::Arm => "arm",
        }
    }

    /// Returns how many bytes an address takes.
    pub fn word_bytes(self) -> u8 {
        match self {
            Self::X86_64 | Self::Aarch64 => 8,
            Self::X86 | Self::Arm => 4,
        }
    }

    /// Returns the number of the register that says where it executes.
    pub fn pc(self) -> u16 {
        match self {
            Self::X86_64 => 16,
            Self::Aarch64 => 32,
            Self::X86 => 8,
            Self::Arm => 15,
        }
    }

    /// Returns the number of the stack pointer.
    pub fn sp(self) -> u16 {
        match self {
            Self::X86_64 => 7,
            Self::Aarch64 => 31,
            Self::X86 => 4,
            Self::Arm => 13,
        }
    }

    /// Returns the number of the frame pointer.
    pub fn fp(self) -> u16 {
        match self {
            Self::X86_64 => 6,
            Self::Aarch64 => 29,
            Self::X86 => 5,
            Self::Arm => 11,
        }
    }

    /// Returns the number of the register into which a call puts where it returns to, if there is one.
    pub fn link(self) -> Option<u16> {
        match self {
            Self::X86_64 | Self::X86 => None,
            Self::Aarch64 => Some(30),
            Self::Arm => Some(14),
        }
    }

    /// Cuts a number to the width of an address.
    pub(crate) fn cut(self, value: u64) -> u64 {
        if self.word_bytes() == 4 { value & 0xffff_ffff } else { value }
    }
}

/// What is known of a thread's registers at one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    arch: Arch,
    values: [u64; COUNT],
    known: u64,
}

impl Registers {
    /// Returns registers of which none is known.
    pub fn new(arch: Arch) -> Self {
        Self { arch, values: [0; COUNT], known: 0 }
    }

    /// Returns whose registers they are.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Returns what a register holds, by DWARF's number.
    pub fn get(&self, register: u16) -> Option<u64> {
        let at = usize::from(register);
        (at < COUNT && self.known & (1 << at) != 0).then(|| self.values[at])
    }

    /// Notes what a register holds; of one that is not held, nothing is noted.
    pub fn set(&mut self, register: u16, value: u64) {
        let at = usize::from(register);
        if at < COUNT {
            self.values[at] = self.arch.cut(value);
            self.known |= 1 << at;
        }
    }

    /// Forgets what a register holds.
    pub(crate) fn forget(&mut self, register: u16) {
        if usize::from(register) < COUNT {
            self.known &= !(1 << register);
        }
    }

    /// Returns where it executes.
    pub fn pc(&self) -> Option<u64> {
        self.get(self.arch.pc())
    }

    /// Returns where its stack ends.
    pub fn sp(&self) -> Option<u64> {
        self.get(self.arch.sp())
    }

    /// Returns its frame pointer.
    pub fn fp(&self) -> Option<u64> {
        self.get(self.arch.fp())
    }
}
