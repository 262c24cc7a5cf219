//! A kernel's log, from the ring buffers in which it keeps it: the one of descriptors since 5.10, and the one of records
//! before.

use super::info::Info;
use crate::memory::{Memory, read_exact, read_some};
use std::collections::VecDeque;

/// Bytes of a log that are kept, the last ones.
pub(super) const MAX_LOG_BYTES: usize = 2 << 20;
/// Lines that are taken apart. Records may name the same text again and again, so that there is no end to what a small
/// dump has lines of.
const MAX_LINES: usize = 2 << 20;
/// Records that are looked at.
const MAX_RECORDS: u64 = 1 << 20;
/// Bits of how many descriptors, and how many bytes of text, there are.
const MAX_COUNT_BITS: u32 = 24;
const MAX_SIZE_BITS: u32 = 28;
/// Bytes of one record's text.
const MAX_TEXT_BYTES: u64 = 8192;
/// Which bits of a descriptor's state are the state.
const STATE_SHIFT: u32 = 62;
const ID: u64 = (1 << STATE_SHIFT) - 1;
/// The states in which there is something to read.
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;

/// The last lines of a log.
struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
    /// Lines that may yet come.
    left: usize,
}

impl Tail {
    fn push(&mut self, nanoseconds: u64, text: &[u8]) {
        let (seconds, micros) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000 / 1000);
        for line in String::from_utf8_lossy(text).lines().take(self.left) {
            self.left -= 1;
            let line = format!("[{seconds:5}.{micros:06}] {}", line.trim_end_matches('\0'));
            self.bytes += line.len() + 1;
            self.lines.push_back(line);
        }
        while self.bytes > MAX_LOG_BYTES
            && let Some(first) = self.lines.pop_front()
        {
            self.bytes -= first.len() + 1;
        }
    }
}

/// Returns the lines of the log; none if it is not to be found.
pub(super) fn lines(info: &Info, memory: &impl Memory) -> Option<Vec<String>> {
    let mut tail = Tail { lines: VecDeque::new(), bytes: 0, left: MAX_LINES };
    ring(info, memory, &mut tail).or_else(|| records(info, memory, &mut tail))?;
    Some(tail.lines.into())
}

fn word(memory: &impl Memory, address: Option<u64>) -> Option<u64> {
    read_exact::<8>(memory, address?).map(u64::from_le_bytes)
}

fn half(memory: &impl Memory, address: Option<u64>) -> Option<u32> {
    read_exact::<4>(memory, address?).map(u32::from_le_bytes)
}

fn short(memory: &impl Memory, address: Option<u64>) -> Option<u16> {
    read_exact::<2>(memory, address?).map(u16::from_le_bytes)
}

/// Reads the ring of descriptors.
fn ring(info: &Info, memory: &impl Memory, tail: &mut Tail) -> Option<()> {
    let buffer = word(memory, info.symbol("prb"))?;
    let within = |base: u64, name: &str| base.checked_add(info.offset(name)?);
    let (ring, text) =
        (within(buffer, "printk_ringbuffer.desc_ring")?, within(buffer, "printk_ringbuffer.text_data_ring")?);
    let count_bits = half(memory, within(ring, "prb_desc_ring.count_bits")).filter(|bits| *bits <= MAX_COUNT_BITS)?;
    let descriptors = word(memory, within(ring, "prb_desc_ring.descs"))?;
    let infos = word(memory, within(ring, "prb_desc_ring.infos"))?;
    let first = word(memory, within(ring, "prb_desc_ring.tail_id"))? & ID;
    let last = word(memory, within(ring, "prb_desc_ring.head_id"))? & ID;
    let size_bits = half(memory, within(text, "prb_data_ring.size_bits")).filter(|bits| *bits <= MAX_SIZE_BITS)?;
    let text = Text { start: word(memory, within(text, "prb_data_ring.data"))?, size: 1 << size_bits };
    let (descriptor_bytes, info_bytes) = (info.size("prb_desc")?, info.size("printk_info")?);
    let position = info.offset("prb_desc.text_blk_lpos")?;
    let begin_at = position.checked_add(info.offset("prb_data_blk_lpos.begin")?)?;
    let next_at = position.checked_add(info.offset("prb_data_blk_lpos.next")?)?;
    let count = (last.wrapping_sub(first) & ID).min(MAX_RECORDS).min((1 << count_bits) - 1);
    // Texts that do not lie over each other are no longer than what they are in.
    let mut left = text.size;
    for number in 0..=count {
        if tail.left == 0 {
            break;
        }
        // The last ones, should there be more than are looked at.
        let id = last.wrapping_sub(count - number) & ID;
        let index = id & ((1 << count_bits) - 1);
        let Some(descriptor) = index.checked_mul(descriptor_bytes).and_then(|at| descriptors.checked_add(at)) else {
            break;
        };
        let Some(state) = word(memory, within(descriptor, "prb_desc.state_var")) else { continue };
        if !matches!(state >> STATE_SHIFT, COMMITTED | FINALIZED) || state & ID != id {
            continue;
        }
        let Some(record) = index.checked_mul(info_bytes).and_then(|at| infos.checked_add(at)) else { break };
        let begin = word(memory, descriptor.checked_add(begin_at));
        let next = word(memory, descriptor.checked_add(next_at));
        let (Some(begin), Some(next)) = (begin, next) else { continue };
        let time = word(memory, within(record, "printk_info.ts_nsec")).unwrap_or(0);
        let length = short(memory, within(record, "printk_info.text_len")).unwrap_or(0);
        let text = text.read(memory, begin, next, u64::from(length));
        let Some(rest) = left.checked_sub(text.len() as u64) else { break };
        left = rest;
        tail.push(time, &text);
    }
    Some(())
}

/// The bytes of all records' text.
struct Text {
    start: u64,
    size: u64,
}

impl Text {
    /// Returns the text between two places; each counts on and on, around the buffer.
    fn read(&self, memory: &impl Memory, begin: u64, next: u64, length: u64) -> Vec<u8> {
        // An odd place stands for a record without text.
        if begin & 1 != 0 || next & 1 != 0 {
            return Vec::new();
        }
        let (from, to) = (begin % self.size, next % self.size);
        // A text does not go around the end: it then stands at the beginning as a whole.
        let (from, room) =
            if begin / self.size == next / self.size || to == 0 { (from, next.wrapping_sub(begin)) } else { (0, to) };
        let length = length.min(room.saturating_sub(8)).min(MAX_TEXT_BYTES);
        let Some(address) = self.start.checked_add(from + 8) else { return Vec::new() };
        read_some(memory, address, usize::try_from(length).expect("it is bounded"))
    }
}

/// Reads the ring of records.
fn records(info: &Info, memory: &impl Memory, tail: &mut Tail) -> Option<()> {
    let buffer = word(memory, info.symbol("log_buf"))?;
    let size = u64::from(half(memory, info.symbol("log_buf_len"))?);
    let first = u64::from(half(memory, info.symbol("log_first_idx"))?);
    let end = u64::from(half(memory, info.symbol("log_next_idx"))?);
    let name = if info.size("printk_log").is_some() { "printk_log" } else { "log" };
    let head = info.size(name)?;
    let field = |field: &str| info.offset(&format!("{name}.{field}"));
    let (time_at, length_at, text_at) = (field("ts_nsec")?, field("len")?, field("text_len")?);
    let mut at = first;
    let mut room = size;
    for _ in 0..MAX_RECORDS {
        if at == end || at >= size || tail.left == 0 {
            break;
        }
        let record = buffer.checked_add(at)?;
        let Some(length) = short(memory, record.checked_add(length_at)) else { break };
        if length == 0 {
            // The next one did not fit before the end.
            if at == 0 {
                break;
            }
            at = 0;
            continue;
        }
        let text = u64::from(short(memory, record.checked_add(text_at)).unwrap_or(0)).min(MAX_TEXT_BYTES);
        let time = word(memory, record.checked_add(time_at)).unwrap_or(0);
        let text = usize::try_from(text).expect("it is bounded");
        tail.push(time, &read_some(memory, record.checked_add(head)?, text));
        at += u64::from(length);
        let Some(left) = room.checked_sub(u64::from(length)) else { break };
        room = left;
    }
    Some(())
}
