//! Registers of a thread, as each processor's record of them lays them out.

use crate::core::elf::Layout;
use crate::unwind::{Arch, Registers};
use model::report::Address;
use std::collections::BTreeMap;

const LAYOUT: Layout = Layout { is_64: true, is_big: false };

/// By register: its name, where it stands, and DWARF's number.
const X86_64: [(&str, usize, u16); 17] = [
    ("rax", 120, 0),
    ("rcx", 128, 2),
    ("rdx", 136, 1),
    ("rbx", 144, 3),
    ("rsp", 152, 7),
    ("rbp", 160, 6),
    ("rsi", 168, 4),
    ("rdi", 176, 5),
    ("r8", 184, 8),
    ("r9", 192, 9),
    ("r10", 200, 10),
    ("r11", 208, 11),
    ("r12", 216, 12),
    ("r13", 224, 13),
    ("r14", 232, 14),
    ("r15", 240, 15),
    ("rip", 248, 16),
];
const X86: [(&str, usize, u16); 9] = [
    ("edi", 156, 7),
    ("esi", 160, 6),
    ("ebx", 164, 3),
    ("edx", 168, 2),
    ("ecx", 172, 1),
    ("eax", 176, 0),
    ("ebp", 180, 5),
    ("eip", 184, 8),
    ("esp", 196, 4),
];

/// The registers of a thread, for people and for the walk.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) named: BTreeMap<String, Address>,
    pub(super) registers: Registers,
}

impl Context {
    /// Reads the record; none if it is cut short.
    pub(super) fn read(arch: Arch, bytes: &[u8]) -> Option<Self> {
        let mut context = Self { named: BTreeMap::new(), registers: Registers::new(arch) };
        let word = |at: usize| LAYOUT.u64(bytes, at);
        let half = |at: usize| LAYOUT.u32(bytes, at).map(u64::from);
        match arch {
            Arch::X86_64 => {
                for (name, at, number) in X86_64 {
                    context.set(name, number, word(at)?);
                }
            }
            Arch::X86 => {
                for (name, at, number) in X86 {
                    context.set(name, number, half(at)?);
                }
            }
            Arch::Aarch64 => {
                for number in 0..33_u16 {
                    let value = word(8 + usize::from(number) * 8)?;
                    context.set(&arm_name(number, 31), number, value);
                }
            }
            Arch::Arm => {
                for number in 0..16_u16 {
                    let value = half(4 + usize::from(number) * 4)?;
                    context.set(&format!("r{number}"), number, value);
                }
            }
        }
        Some(context)
    }

    fn set(&mut self, name: &str, number: u16, value: u64) {
        self.named.insert(name.to_owned(), Address(value));
        self.registers.set(number, value);
    }
}

fn arm_name(number: u16, sp: u16) -> String {
    match number {
        number if number == sp => "sp".to_owned(),
        number if number > sp => "pc".to_owned(),
        number => format!("x{number}"),
    }
}
