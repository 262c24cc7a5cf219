//! Call frame information of a hostile module, walked over hostile memory: the first half is the stack, the rest the module.
#![no_main]

use dump::{Arch, Loaded, Memory, ModuleFile, Registers, Unwinder};
use std::path::Path;
use std::sync::Arc;

const STACK_AT: u64 = 0x7fff_0000_0000;
const CODE_AT: u64 = 0x5555_0000_0000;

struct Stack<'b>(&'b [u8]);

impl Memory for Stack<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let start = address.checked_sub(STACK_AT).and_then(|at| usize::try_from(at).ok());
        let Some(known) = start.and_then(|at| self.0.get(at..)) else { return 0 };
        let length = known.len().min(into.len());
        into[..length].copy_from_slice(&known[..length]);
        length
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&[choice, pc], rest)) = bytes.split_first_chunk::<2>() else { return };
    let at = rest.len().min(512);
    let (stack, module) = rest.split_at(at);
    let Ok(file) = ModuleFile::of_bytes(Path::new("module"), module.to_vec()) else { return };
    let arch = if choice & 1 == 0 { Arch::X86_64 } else { Arch::Aarch64 };
    let modules = [Loaded::new(CODE_AT, CODE_AT + 0x10_0000, CODE_AT, Some(Arc::new(file)))];
    let mut registers = Registers::new(arch);
    registers.set(arch.pc(), CODE_AT + 0x1000 + u64::from(pc) * 4);
    registers.set(arch.sp(), STACK_AT);
    registers.set(arch.fp(), STACK_AT + 64);
    let mut unwinder = Unwinder::new(&modules, vec![CODE_AT..CODE_AT + 0x10_0000]);
    let walk = unwinder.walk(&registers, &Stack(stack));
    assert!(walk.frames.len() <= model::report::MAX_FRAMES + model::report::MAX_TAIL_FRAMES);
});
