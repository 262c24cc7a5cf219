//! A process's memory as its core has it, and where the core has nothing, as the files that were mapped there have it.
//!
//! The kernel leaves out of a core what can be read again from a file. Only what nobody could write to is taken from there:
//! anything else may have changed since.

use super::Core;
use crate::memory::Memory;
use crate::unwind::{Loaded, module_at};

/// A core and the modules, sorted by address, whose files fill its gaps.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) core: &'a Core<'a>,
    pub(crate) modules: &'a [Loaded],
}

impl Memory for View<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let mut done = self.core.read(address, into);
        while done < into.len() {
            let Some(address) = address.checked_add(done as u64) else { break };
            let Some(module) = module_at(self.modules, address) else { break };
            let kept = self.modules[module].constant(address).unwrap_or_default();
            let length = kept.len().min(into.len() - done);
            if length == 0 {
                break;
            }
            into[done..done + length].copy_from_slice(&kept[..length]);
            done += length;
            done += address.checked_add(length as u64).map_or(0, |next| self.core.read(next, &mut into[done..]));
        }
        done
    }
}
