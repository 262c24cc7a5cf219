//! What the instruction at which a program stopped was about to do with memory: read it, write it, or go where it says.
//!
//! Only as much is decoded as that takes. What is not known is said to be unknown.

use crate::unwind::{Arch, Registers};

/// Bytes of the longest instruction.
pub(super) const MAX_CODE_BYTES: usize = 15;

/// What an instruction does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    /// It reads from memory where to go on.
    Branch,
    /// It goes back to where memory says a call came from.
    Return,
    /// It stops the program on purpose.
    Trap,
    None,
    Unknown,
}

/// An instruction, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) access: Access,
    /// The address it is about, if that can be told from registers.
    pub(super) address: Option<u64>,
}

const UNKNOWN: Instruction = Instruction { access: Access::Unknown, address: None };

/// Decodes the instruction at which these registers stand; `fault` is the address that could not be used, if it is known.
pub(super) fn decode(code: &[u8], registers: &Registers, fault: Option<u64>) -> Instruction {
    match registers.arch() {
        Arch::X86_64 => X86 { code, at: 0, registers, rex: 0, segment: false }.decode(fault).unwrap_or(UNKNOWN),
        Arch::Aarch64 => code.first_chunk().map_or(UNKNOWN, |word| aarch64(u32::from_le_bytes(*word))),
        Arch::X86 | Arch::Arm => UNKNOWN,
    }
}

struct X86<'a> {
    code: &'a [u8],
    at: usize,
    registers: &'a Registers,
    rex: u8,
    segment: bool,
}

const REX_X: u8 = 2;
const REX_B: u8 = 1;

impl X86<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.at += 1;
        self.code.get(self.at - 1).copied()
    }

    /// Returns what a register holds, by the processor's number.
    fn register(&self, number: u8) -> Option<u64> {
        const DWARF: [u16; 16] = [0, 2, 1, 3, 7, 6, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];
        self.registers.get(*DWARF.get(usize::from(number))?)
    }

    fn decode(&mut self, fault: Option<u64>) -> Option<Instruction> {
        let (mut operand, mut repeat) = (false, false);
        let mut opcode = self.byte()?;
        while matches!(opcode, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3) {
            self.segment |= matches!(opcode, 0x64 | 0x65);
            operand |= opcode == 0x66;
            repeat |= opcode == 0xf3;
            opcode = self.byte()?;
        }
        if opcode & 0xf0 == 0x40 {
            self.rex = opcode & 15;
            opcode = self.byte()?;
        }
        match opcode {
            0x0f => {
                let map = match self.byte()? {
                    0x38 => 2,
                    0x3a => 3,
                    other => return self.second(other, operand, repeat),
                };
                let opcode = self.byte()?;
                self.further(map, opcode)
            }
            0xc5 => {
                let fields = self.byte()?;
                let opcode = self.byte()?;
                self.second(opcode, fields & 3 == 1, fields & 3 == 2)
            }
            0xc4 | 0x62 => {
                let (first, second) = (self.byte()?, self.byte()?);
                if opcode == 0x62 {
                    self.byte()?;
                }
                // The bits that widen numbers of registers stand inverted.
                self.rex = (!first >> 5) & 7;
                let opcode = self.byte()?;
                match first & 7 {
                    1 => self.second(opcode, second & 3 == 1, second & 3 == 2),
                    map => self.further(map, opcode),
                }
            }
            _ => self.first(opcode, fault),
        }
    }

    /// Opcodes of one byte.
    fn first(&mut self, opcode: u8, fault: Option<u64>) -> Option<Instruction> {
        let access = match opcode {
            0..=0x3f => match opcode & 7 {
                0 | 1 if opcode & 0x38 != 0x38 => Access::Write,
                0..=3 => Access::Read,
                _ => return Some(NOTHING),
            },
            0x50..=0x57 | 0x68 | 0x6a | 0x9c | 0xe8 => return Some(self.on_stack(Access::Write, -8)),
            0x58..=0x5f | 0x9d => return Some(self.on_stack(Access::Read, 0)),
            0xc2 | 0xc3 => return Some(self.on_stack(Access::Return, 0)),
            0xc9 => return Some(Instruction { access: Access::Read, address: self.register(5) }),
            0xcc | 0xf1 => return Some(Instruction { access: Access::Trap, address: None }),
            0xa4..=0xaf => return Some(self.string(opcode, fault)),
            0x63 | 0x69 | 0x6b | 0x84 | 0x85 | 0x8a | 0x8b => Access::Read,
            0x86..=0x89 | 0x8f | 0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3 => Access::Write,
            0x80..=0x83 | 0xd8..=0xdf | 0xf6 | 0xf7 | 0xfe | 0xff => return self.group(opcode),
            _ => return Some(if opcode == 0x8d { NOTHING } else { UNKNOWN }),
        };
        self.operand(access)
    }

    /// Opcodes of which the second byte's middle bits are a part.
    fn group(&mut self, opcode: u8) -> Option<Instruction> {
        let modrm = *self.code.get(self.at)?;
        let (is_register, part) = (modrm >> 6 == 3, (modrm >> 3) & 7);
        let access = match (opcode, part) {
            (0x80..=0x83, 7) | (0xf6 | 0xf7, 0 | 1 | 4..=7) | (0xff, 6) => Access::Read,
            (0xff, 2 | 3) if is_register => return Some(self.on_stack(Access::Write, -8)),
            (0xff, 2..=5) => Access::Branch,
            (0xd8 | 0xda | 0xdc | 0xde, _) | (0xd9 | 0xdb | 0xdd | 0xdf, 0) => Access::Read,
            (0xd9 | 0xdf, 4 | 5) | (0xdb, 5) | (0xdd, 4) => Access::Read,
            _ => Access::Write,
        };
        self.operand(access)
    }

    /// Opcodes behind `0f`, and those of vectors that are like them.
    fn second(&mut self, opcode: u8, operand: bool, repeat: bool) -> Option<Instruction> {
        let access = match opcode {
            0x0b | 0xff | 0xb9 => return Some(Instruction { access: Access::Trap, address: None }),
            0x05 | 0x0d | 0x18..=0x1f | 0x77 | 0x80..=0x8f | 0xa2 | 0xc8..=0xcf => return Some(NOTHING),
            0x7e if repeat => Access::Read,
            0xd6 if !operand => return Some(NOTHING),
            0x11 | 0x13 | 0x17 | 0x29 | 0x2b | 0x7e | 0x7f | 0x90..=0x9f | 0xa4 | 0xa5 | 0xab | 0xac | 0xad => {
                Access::Write
            }
            0xb0 | 0xb1 | 0xb3 | 0xbb | 0xc0 | 0xc1 | 0xc3 | 0xc7 | 0xd6 | 0xe7 => Access::Write,
            0xae if matches!((self.code.get(self.at)? >> 3) & 7, 0 | 3 | 4) => Access::Write,
            0xba if (self.code.get(self.at)? >> 3) & 7 != 4 => Access::Write,
            _ => Access::Read,
        };
        self.operand(access)
    }

    /// Opcodes behind `0f 38` and `0f 3a`.
    fn further(&mut self, map: u8, opcode: u8) -> Option<Instruction> {
        let access = match (map, opcode) {
            (2, 0x2e | 0x2f | 0x8e | 0xa0..=0xa3 | 0xf1) => Access::Write,
            (3, 0x14..=0x17 | 0x19 | 0x1b | 0x1d | 0x39 | 0x3b) => Access::Write,
            (2 | 3, _) => Access::Read,
            _ => return Some(UNKNOWN),
        };
        self.operand(access)
    }

    fn on_stack(&self, access: Access, offset: i64) -> Instruction {
        Instruction { access, address: self.register(4).map(|sp| sp.wrapping_add_signed(offset)) }
    }

    /// Moves, comparisons and fillings of strings; one that moves both reads and writes.
    fn string(&self, opcode: u8, fault: Option<u64>) -> Instruction {
        let (source, target) = (self.register(6), self.register(7));
        let is_target = |fault: u64| target.is_some_and(|target| fault.abs_diff(target) < 64);
        match opcode {
            0xa4 | 0xa5 if fault.is_some_and(is_target) => Instruction { access: Access::Write, address: target },
            0xa4..=0xa7 | 0xac | 0xad => Instruction { access: Access::Read, address: source },
            0xaa | 0xab => Instruction { access: Access::Write, address: target },
            0xae | 0xaf => Instruction { access: Access::Read, address: target },
            _ => NOTHING,
        }
    }

    /// Reads which memory is meant; what names only registers uses none.
    fn operand(&mut self, access: Access) -> Option<Instruction> {
        let modrm = self.byte()?;
        let (mode, rm) = (modrm >> 6, modrm & 7);
        if mode == 3 {
            return Some(NOTHING);
        }
        let wide = |bit: u8| if self.rex & bit != 0 { 8 } else { 0 };
        let (base_bit, index_bit) = (wide(REX_B), wide(REX_X));
        let mut address = Some(0_u64);
        let mut has_base = true;
        let mut base = rm | base_bit;
        if rm == 4 {
            let sib = self.byte()?;
            base = (sib & 7) | base_bit;
            has_base = !(sib & 7 == 5 && mode == 0);
            let index = (sib >> 3) & 7 | index_bit;
            if index != 4 {
                address = self.register(index).map(|index| index << (sib >> 6));
            }
        } else if rm == 5 && mode == 0 {
            // It is counted from the end of the instruction, which is not looked for.
            return Some(Instruction { access, address: None });
        }
        if has_base {
            address = address.zip(self.register(base)).map(|(sum, base)| sum.wrapping_add(base));
        }
        let offset = match mode {
            1 => i64::from(self.byte()?.cast_signed()),
            0 if has_base => 0,
            _ => {
                let bytes = [self.byte()?, self.byte()?, self.byte()?, self.byte()?];
                i64::from(i32::from_le_bytes(bytes))
            }
        };
        let address = address.map(|sum| sum.wrapping_add_signed(offset)).filter(|_| !self.segment);
        Some(Instruction { access, address })
    }
}

const NOTHING: Instruction = Instruction { access: Access::None, address: None };

fn aarch64(word: u32) -> Instruction {
    let is_load = word & 1 << 22 != 0;
    let is_vector = word & 1 << 26 != 0;
    let access = if word & 0xffe0_001f == 0xd420_0000 || word >> 16 == 0 {
        Access::Trap
    } else if word & 0x0a00_0000 != 0x0800_0000 {
        Access::None
    } else {
        match (word >> 27) & 7 {
            // A number that stands beside the code.
            0b011 if word & 1 << 24 == 0 => Access::Read,
            0b111 => match (word >> 22) & 3 {
                // What reads and writes at once.
                _ if word & 0x0120_0c00 == 0x0020_0000 => Access::Write,
                0 => Access::Write,
                2 if is_vector => Access::Write,
                _ => Access::Read,
            },
            _ if is_load => Access::Read,
            _ => Access::Write,
        }
    };
    Instruction { access, address: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &[u8], access: Access, address: Option<u64>) {
        let mut registers = Registers::new(Arch::X86_64);
        for (number, value) in (0..).zip([0x1000_u64, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000, 0x8000]) {
            registers.set(number, value);
        }
        registers.set(8, 0x9000);
        let mut padded = code.to_vec();
        padded.resize(MAX_CODE_BYTES, 0x90);
        assert_eq!(decode(&padded, &registers, Some(0x6000)), Instruction { access, address }, "{code:x?}");
    }

    #[test]
    fn instructions_tell_what_they_do() {
        check(&[0x8b, 0x07], Access::Read, Some(0x6000));
        check(&[0x48, 0x89, 0x47, 0x08], Access::Write, Some(0x6008));
        check(&[0xc7, 0x00, 1, 0, 0, 0], Access::Write, Some(0x1000));
        check(&[0x41, 0x8b, 0x00], Access::Read, Some(0x9000));
        check(&[0x8b, 0x04, 0x8f], Access::Read, Some(0x6000 + 4 * 0x3000));
        check(&[0x8b, 0x04, 0x25, 0x10, 0, 0, 0], Access::Read, Some(0x10));
        check(&[0x8b, 0x05, 0x10, 0, 0, 0], Access::Read, None);
        check(&[0x39, 0x07], Access::Read, Some(0x6000));
        check(&[0x83, 0x07, 0x01], Access::Write, Some(0x6000));
        check(&[0x83, 0x3f, 0x01], Access::Read, Some(0x6000));
        check(&[0x55], Access::Write, Some(0x8000 - 8));
        check(&[0xc3], Access::Return, Some(0x8000));
        check(&[0xff, 0xd0], Access::Write, Some(0x8000 - 8));
        check(&[0xff, 0x10], Access::Branch, Some(0x1000));
        check(&[0xf3, 0xa4], Access::Write, Some(0x6000));
        check(&[0xf3, 0x48, 0xab], Access::Write, Some(0x6000));
        check(&[0x0f, 0x0b], Access::Trap, None);
        check(&[0x0f, 0x11, 0x07], Access::Write, Some(0x6000));
        check(&[0x66, 0x0f, 0x6f, 0x07], Access::Read, Some(0x6000));
        check(&[0xc5, 0xfe, 0x7f, 0x07], Access::Write, Some(0x6000));
        check(&[0xc5, 0xfe, 0x6f, 0x06], Access::Read, Some(0x5000));
        check(&[0x62, 0xe1, 0xfe, 0x28, 0x7f, 0x07], Access::Write, Some(0x6000));
        check(&[0x64, 0x8b, 0x07], Access::Read, None);
        check(&[0x89, 0xc0], Access::None, None);
        check(&[0xf4], Access::Unknown, None);
    }

    #[test]
    fn instructions_of_arm_tell_what_they_do() {
        let cases = [
            (0xf940_0000, Access::Read),
            (0xf900_0000, Access::Write),
            (0xa9bf_7bfd, Access::Write),
            (0xa8c1_7bfd, Access::Read),
            (0x3d80_0000, Access::Write),
            (0x3dc0_0000, Access::Read),
            (0x885f_fc20, Access::Read),
            (0x8802_fc20, Access::Write),
            (0xb820_0041, Access::Write),
            (0x5800_0040, Access::Read),
            (0xd420_0000, Access::Trap),
            (0xd65f_03c0, Access::None),
            (0x9100_0400, Access::None),
        ];
        for (word, access) in cases {
            assert_eq!(aarch64(word).access, access, "{word:x}");
        }
    }
}
