//! From chunks of the grid to the content of frames: zero pages go, little pieces gather, extents are noted.

use model::parcel::{Extent, MAX_DUMP_FRAMES, MAX_EXTENTS, MAX_FRAME_BYTES};

/// What is zero is found out page by page, counted from where a chunk begins.
const PAGE_BYTES: usize = 4_096;
/// A piece of a chunk as long as this has a frame of its own; shorter ones gather until they are as long together.
const OWN_FRAME_BYTES: usize = 32 << 10;
/// Bytes of gathered pieces that make a frame.
const GATHERED_BYTES: usize = 64 << 10;

/// Zeros, to compare with and to hash.
pub(super) static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// What a dump holds, as far as it was looked at.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    pub(super) extents: Vec<Extent>,
    frames: usize,
    /// Little pieces that wait for others.
    gathered: Vec<u8>,
    /// Buffers that came back.
    spare: Vec<Vec<u8>>,
}

/// A dump holds more than a manifest may tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Cutter {
    /// Takes back a buffer whose content has been packed.
    pub(super) fn recycle(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare.push(buffer);
    }

    /// Cuts a chunk, and returns the contents of frames that are complete with it, in their order.
    pub(super) fn chunk(&mut self, start: u64, bytes: &[u8]) -> Result<[Option<Vec<u8>>; 2], TooMany> {
        debug_assert!(bytes.len() <= MAX_FRAME_BYTES as usize, "the grid's steps are no longer than a frame");
        let is_zero = |page: &[u8]| page == &ZEROS[..page.len()];
        let count = self.extents.len();
        if count >= MAX_EXTENTS / 4 * 3 {
            // There are so many that zeros behind something are taken with it: they pack to nothing.
            let goes_on = self.extents.last().is_some_and(|last| last.end() == start);
            let is_left = !goes_on && bytes.chunks(ZEROS.len()).all(is_zero);
            return if is_left { Ok([None, None]) } else { self.take(start, bytes, &[true]) };
        }
        if count >= MAX_EXTENTS / 2 {
            // There are so many already that single pages are not worth one any more.
            return if bytes.chunks(ZEROS.len()).all(is_zero) {
                Ok([None, None])
            } else {
                self.take(start, bytes, &[true])
            };
        }
        let full: Vec<bool> = bytes.chunks(PAGE_BYTES).map(|page| !is_zero(page)).collect();
        if full.contains(&true) { self.take(start, bytes, &full) } else { Ok([None, None]) }
    }

    /// Returns what waits, at the dump's end.
    pub(super) fn finish(&mut self) -> Option<Vec<u8>> {
        (!self.gathered.is_empty()).then(|| std::mem::take(&mut self.gathered))
    }

    /// Takes the pages that hold something; if only one is named, all do.
    fn take(&mut self, start: u64, bytes: &[u8], full: &[bool]) -> Result<[Option<Vec<u8>>; 2], TooMany> {
        let kept: usize = match full {
            [_] => bytes.len(),
            _ => bytes.chunks(PAGE_BYTES).zip(full).map(|(page, full)| if *full { page.len() } else { 0 }).sum(),
        };
        let mut ready = [None, None];
        let is_own = kept >= OWN_FRAME_BYTES;
        if is_own && !self.gathered.is_empty() {
            ready[0] = Some(self.fresh());
            std::mem::swap(&mut self.gathered, ready[0].as_mut().expect("was put there"));
        }
        let page_bytes = if full.len() == 1 { bytes.len() } else { PAGE_BYTES };
        for ((page, full), number) in bytes.chunks(page_bytes).zip(full).zip(0_u64..) {
            if *full {
                self.note(start + number * page_bytes as u64, page.len() as u64)?;
                self.gathered.extend_from_slice(page);
            }
        }
        if is_own || self.gathered.len() >= GATHERED_BYTES {
            ready[1] = Some(self.fresh());
            std::mem::swap(&mut self.gathered, ready[1].as_mut().expect("was put there"));
        }
        self.frames += ready.iter().flatten().count();
        if self.frames >= MAX_DUMP_FRAMES { Err(TooMany) } else { Ok(ready) }
    }

    fn fresh(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Notes that something stands there.
    fn note(&mut self, start: u64, bytes: u64) -> Result<(), TooMany> {
        let count = self.extents.len();
        match self.extents.last_mut() {
            Some(last) if last.end() == start => last.bytes += bytes,
            _ if count >= MAX_EXTENTS => return Err(TooMany),
            _ => self.extents.push(Extent { start, bytes }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts chunks given as (place, bytes, of which these pages are full), and returns extents and lengths of frames.
    fn cut(chunks: &[(u64, usize, &[usize])]) -> (Vec<(u64, u64)>, Vec<usize>) {
        let (mut cutter, mut frames) = (Cutter::default(), Vec::new());
        for (start, length, full) in chunks {
            let mut bytes = vec![0; *length];
            full.iter().for_each(|page| bytes[(page * PAGE_BYTES + 9).min(length - 1)] = 1);
            let ready = cutter.chunk(*start, &bytes).expect("there are few");
            frames.extend(ready.into_iter().flatten().map(|frame| frame.len()));
        }
        frames.extend(cutter.finish().map(|frame| frame.len()));
        (cutter.extents.iter().map(|extent| (extent.start, extent.bytes)).collect(), frames)
    }

    #[test]
    fn zero_pages_go_and_little_pieces_gather() {
        let all: Vec<usize> = (0..16).collect();
        let step = 64 << 10;
        assert_eq!(cut(&[(0, step, &[])]), (vec![], vec![]));
        assert_eq!(cut(&[(0, step, &all)]), (vec![(0, 65536)], vec![65536]));
        assert_eq!(cut(&[(0, step, &[0, 2, 3])]), (vec![(0, 4096), (8192, 8192)], vec![12288]));
        // What was gathered goes before what has a frame of its own, as it does in the file.
        assert_eq!(cut(&[(0, step, &[15]), (65536, step, &all)]), (vec![(61440, 69632)], vec![4096, 65536]));
        let little = [(0, 5000, &[0, 1][..]), (8192, 100, &[0]), (12288, step, &[])];
        assert_eq!(cut(&little), (vec![(0, 5000), (8192, 100)], vec![5100]));
        let many: Vec<_> = (0..40).map(|number| (number * 8192, 4096, &[0][..])).collect();
        let (extents, frames) = cut(&many);
        assert_eq!((extents.len(), frames), (40, vec![65536, 65536, 32768]));
    }

    #[test]
    fn extents_are_bounded() {
        let mut cutter = Cutter { extents: vec![Extent { start: 0, bytes: 1 }; MAX_EXTENTS - 3], ..Cutter::default() };
        let mut bytes = vec![0; 4 * PAGE_BYTES];
        bytes[0] = 1;
        for (number, there) in [(1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(cutter.chunk(number << 20, &bytes).is_ok(), there, "{number}");
        }
        assert_eq!(cutter.chunk(5 << 20, &[0; PAGE_BYTES]), Ok([None, None]));
        // What goes on is taken with what lies between, however often it begins anew.
        let end = cutter.extents.last().expect("there are some").end();
        for number in 0..8 {
            bytes.fill(u8::from(number % 2 == 1));
            assert!(cutter.chunk(end + number * bytes.len() as u64, &bytes).is_ok(), "{number}");
        }
    }
}
