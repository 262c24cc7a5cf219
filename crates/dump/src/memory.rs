//! What stood in a process's memory, as far as somebody kept it.

/// Memory of something that has stopped.
pub trait Memory {
    /// Reads what stands from an address on, and returns how many bytes of it are known; never an error.
    fn read(&self, address: u64, into: &mut [u8]) -> usize;
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        (**self).read(address, into)
    }
}

/// Returns the bytes that stand from an address on, if all of them are known.
pub(crate) fn read_exact<const N: usize>(memory: &(impl Memory + ?Sized), address: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (memory.read(address, &mut bytes) == N).then_some(bytes)
}

/// Returns up to `max` bytes that stand from an address on.
pub(crate) fn read_some(memory: &(impl Memory + ?Sized), address: u64, max: usize) -> Vec<u8> {
    let mut bytes = vec![0; max];
    let length = memory.read(address, &mut bytes);
    bytes.truncate(length);
    bytes
}

/// Returns the text that stands at an address up to its zero, cut at `max` bytes; none if nothing is known there.
pub(crate) fn read_text(memory: &(impl Memory + ?Sized), address: u64, max: usize) -> Option<String> {
    let bytes = read_some(memory, address, max);
    let text = bytes.split(|byte| *byte == 0).next()?;
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
}
