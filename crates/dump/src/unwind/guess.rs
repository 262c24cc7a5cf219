//! Ways to a caller where no call frame information leads: frames of signals that are known by their code, calls through bad
//! pointers, chains of frame pointers, and at last a look at the stack for what might be a return address.

use super::expression::read_number;
use super::registers::{Arch, Registers};
use crate::memory::{Memory, read_exact};
use model::report::Trust;
use std::cell::Cell;

/// Words of the stack that are looked through for a return address.
const MAX_SCAN_WORDS: u64 = 512;
/// How far a frame may reach; a frame pointer that points farther is none.
const MAX_FRAME_BYTES: u64 = 16 << 20;

/// What a guess may look at: memory, and what of it can be executed.
pub(super) struct Around<'a, M: ?Sized> {
    pub(super) memory: &'a M,
    pub(super) is_executable: &'a dyn Fn(u64) -> bool,
    pub(super) is_big: bool,
    /// Which bits of a return address are its signature.
    pub(super) signed_bits: u64,
    /// Words that were looked at.
    pub(super) looked: Cell<u64>,
}

/// Returns an address without its signature.
pub(super) fn unsigned(address: u64, signed_bits: u64) -> u64 {
    // Bit 55 tells the kernel's half of all addresses, whose unused bits are ones.
    let is_high = address & 1 << 55 != 0;
    if is_high { address | signed_bits } else { address & !signed_bits }
}

impl<M: Memory + ?Sized> Around<'_, M> {
    fn word(&self, arch: Arch, address: u64) -> Option<u64> {
        self.looked.set(self.looked.get() + 1);
        read_number(self.memory, address, arch.word_bytes(), self.is_big)
    }

    /// Tells whether a call might have ended at this address: it can be executed, and a call stands before it as far as
    /// that can be seen.
    fn is_return(&self, arch: Arch, address: u64) -> bool {
        let address = unsigned(address, self.signed_bits);
        (self.is_executable)(address) && follows_call(self.memory, arch, address).unwrap_or(true)
    }

    /// Returns the registers that were saved when a signal came, if the code at `pc` is what returns from one.
    pub(super) fn interrupted(&self, registers: &Registers) -> Option<Registers> {
        // Behind what the kernel puts first, on ARM the signal's account too, in the order of its own structures.
        const X86_64: [u16; 17] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, 16];
        let (sp, arch) = (registers.sp()?, registers.arch());
        let mut saved = Registers::new(arch);
        let mut keep = |number: u64, register: u16, first: u64| {
            saved.set(register, self.word(arch, sp.checked_add(first + 8 * number)?)?);
            Some(())
        };
        match arch {
            Arch::X86_64 => (0..).zip(X86_64).try_for_each(|(number, register)| keep(number, register, 40))?,
            Arch::Aarch64 => (0..33).try_for_each(|register| keep(u64::from(register), register, 312))?,
            Arch::X86 | Arch::Arm => return None,
        }
        Some(saved)
    }

    /// Returns the caller of a call that led nowhere: nothing has been put on the stack since but where it returns to.
    pub(super) fn before_bad_call(&self, registers: &Registers) -> Option<Registers> {
        let arch = registers.arch();
        let mut caller = registers.clone();
        let target = match arch.link() {
            Some(link) => registers.get(link)?,
            None => {
                let sp = registers.sp()?;
                caller.set(arch.sp(), sp.checked_add(u64::from(arch.word_bytes()))?);
                self.word(arch, sp)?
            }
        };
        caller.set(arch.pc(), target);
        self.is_return(arch, target).then_some(caller)
    }

    /// Returns the caller by the frame pointer, or by a look at the stack.
    pub(super) fn caller(&self, registers: &Registers, is_exact: bool) -> Option<(Registers, Trust)> {
        if let Some(caller) = self.by_link(registers, is_exact) {
            return Some((caller, Trust::Scan));
        }
        if let Some(caller) = self.by_frame_pointer(registers) {
            return Some((caller, Trust::FramePointer));
        }
        self.by_scan(registers).map(|caller| (caller, Trust::Scan))
    }

    /// A function that calls nothing has its return address still in the register that a call put it in.
    fn by_link(&self, registers: &Registers, is_exact: bool) -> Option<Registers> {
        let arch = registers.arch();
        let target = registers.get(arch.link().filter(|_| is_exact)?)?;
        let fp = registers.fp()?;
        let kept = self.word(arch, fp.checked_add(u64::from(arch.word_bytes()))?);
        if kept == Some(target) || registers.pc() == Some(target) || !self.is_return(arch, target) {
            return None;
        }
        let mut caller = registers.clone();
        caller.set(arch.pc(), target);
        Some(caller)
    }

    fn by_frame_pointer(&self, registers: &Registers) -> Option<Registers> {
        let arch = registers.arch();
        if arch == Arch::Arm {
            // There is no one way in which frames are laid out.
            return None;
        }
        let width = u64::from(arch.word_bytes());
        let (fp, sp) = (registers.fp()?, registers.sp()?);
        if fp % width != 0 || fp < sp || fp - sp > MAX_FRAME_BYTES {
            return None;
        }
        let next = self.word(arch, fp)?;
        let target = self.word(arch, fp.checked_add(width)?)?;
        // The chain leads upwards, or ends.
        let leads_on = next > fp && next - fp <= MAX_FRAME_BYTES && next.is_multiple_of(width);
        if !(leads_on || next == 0) || !self.is_return(arch, target) {
            return None;
        }
        let mut caller = unsure(registers);
        caller.set(arch.fp(), next);
        caller.set(arch.sp(), fp.checked_add(2 * width)?);
        caller.set(arch.pc(), target);
        Some(caller)
    }

    fn by_scan(&self, registers: &Registers) -> Option<Registers> {
        let arch = registers.arch();
        let width = u64::from(arch.word_bytes());
        let start = registers.sp()?.checked_next_multiple_of(width)?;
        for number in 0..MAX_SCAN_WORDS {
            let at = start.checked_add(number * width)?;
            let target = self.word(arch, at)?;
            if !self.is_return(arch, target) {
                continue;
            }
            let mut caller = unsure(registers);
            if let Some(fp) = registers.fp() {
                // If the frame pointer was saved right below, it was the caller's.
                let kept = at.checked_sub(width).filter(|below| *below == fp).and_then(|below| self.word(arch, below));
                caller.set(arch.fp(), kept.unwrap_or(fp));
            }
            caller.set(arch.sp(), at + width);
            caller.set(arch.pc(), target);
            return Some(caller);
        }
        None
    }
}

/// Returns what may be taken to hold in a caller about whose other registers nothing is known.
fn unsure(registers: &Registers) -> Registers {
    let mut caller = Registers::new(registers.arch());
    // They are not known, but where a row asks for one of those that calls preserve, this is the best there is.
    let preserved: &[u16] = match registers.arch() {
        Arch::X86_64 => &[3, 12, 13, 14, 15],
        Arch::Aarch64 => &[19, 20, 21, 22, 23, 24, 25, 26, 27, 28],
        Arch::X86 => &[3, 6, 7],
        Arch::Arm => &[4, 5, 6, 7, 8, 9, 10],
    };
    for register in preserved {
        if let Some(value) = registers.get(*register) {
            caller.set(*register, value);
        }
    }
    caller
}

/// Tells whether the code at an address is what returns from a signal: it loads that call's number, and calls the kernel.
pub(super) fn is_trampoline<M: Memory + ?Sized>(memory: &M, arch: Arch, address: u64) -> bool {
    const X86_64: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
    const AARCH64: [u8; 8] = [0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4];
    match arch {
        Arch::X86_64 => read_exact(memory, address) == Some(X86_64),
        Arch::Aarch64 => read_exact(memory, address) == Some(AARCH64),
        Arch::X86 | Arch::Arm => false,
    }
}

/// Tells whether a call stands right before an address; none if the code there is not known.
pub(super) fn follows_call<M: Memory + ?Sized>(memory: &M, arch: Arch, address: u64) -> Option<bool> {
    match arch {
        Arch::X86_64 | Arch::X86 => {
            let before: [u8; 7] = read_exact(memory, address.checked_sub(7)?)?;
            Some(ends_with_x86_call(&before))
        }
        Arch::Aarch64 => {
            let word = u32::from_le_bytes(read_exact(memory, address.checked_sub(4)?)?);
            // `bl`, `blr` and its kin that prove the address first.
            Some(
                word >> 26 == 0x25
                    || word & 0xfffe_f800 == 0xd63e_0800
                    || word & 0xffff_fc1f == 0xd63f_0000
                    || word & 0xfeff_f800 == 0xd63f_0800,
            )
        }
        // Two sets of instructions; which one it is is not kept anywhere.
        Arch::Arm => None,
    }
}

/// Tells whether the last of seven bytes end a call of `x86`: relative, or through a register or memory.
fn ends_with_x86_call(before: &[u8; 7]) -> bool {
    if before[2] == 0xe8 {
        return true;
    }
    (2..=7).any(|length| {
        let code = &before[7 - length..];
        if code[0] != 0xff || (code[1] >> 3) & 7 != 2 {
            return false;
        }
        let (mode, rm) = (code[1] >> 6, code[1] & 7);
        let with_index = usize::from(mode != 3 && rm == 4);
        let base_is_number = with_index == 1 && mode == 0 && code.get(2).is_some_and(|index| index & 7 == 5);
        let number = match mode {
            0 if rm == 5 || base_is_number => 4,
            1 => 1,
            2 => 4,
            _ => 0,
        };
        length == 2 + with_index + number
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &[u8], expected: bool) {
        let mut before = [0x90; 7];
        before[7 - code.len()..].copy_from_slice(code);
        assert_eq!(ends_with_x86_call(&before), expected, "{code:x?}");
    }

    #[test]
    fn calls_are_told_from_what_is_none() {
        check(&[0xe8, 1, 2, 3, 4], true);
        check(&[0xff, 0xd0], true);
        check(&[0x41, 0xff, 0xd4], true);
        check(&[0xff, 0x50, 0x18], true);
        check(&[0xff, 0x15, 1, 2, 3, 4], true);
        check(&[0xff, 0x94, 0xc8, 1, 2, 3, 4], true);
        check(&[0xff, 0x14, 0xc8], true);
        check(&[0xff, 0x14, 0xc5, 1, 2, 3, 4], true);
        check(&[0xff, 0xe0], false);
        check(&[0xff, 0x15, 1, 2], false);
        check(&[0x90, 0x90], false);
    }
}
