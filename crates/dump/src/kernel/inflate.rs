//! Pages as makedumpfile packs them. Whatever comes out is at most as long as the page.
//!
//! LZO and Snappy are decoded here, a page of them; they are two of the smallest formats there are, and only reading is
//! needed.

use std::io::Read;

const ZLIB: u32 = 1;
const LZO: u32 = 2;
const SNAPPY: u32 = 4;
const ZSTD: u32 = 0x20;

/// Returns a page; none if what packs it is broken or not known.
pub(super) fn page(flags: u32, packed: &[u8], page_bytes: usize) -> Option<Vec<u8>> {
    let page = match flags & (ZLIB | LZO | SNAPPY | ZSTD) {
        0 => packed.to_vec(),
        ZLIB => all(flate2::read::ZlibDecoder::new(packed), page_bytes)?,
        LZO => lzo(packed, page_bytes)?,
        SNAPPY => snappy(packed, page_bytes)?,
        ZSTD => all(zstd::stream::read::Decoder::with_buffer(packed).ok()?, page_bytes)?,
        _ => return None,
    };
    (page.len() == page_bytes).then_some(page)
}

fn all(from: impl Read, page_bytes: usize) -> Option<Vec<u8>> {
    let mut page = Vec::with_capacity(page_bytes);
    from.take(page_bytes as u64).read_to_end(&mut page).ok()?;
    Some(page)
}

/// Appends what stood some way back, byte after byte, since it may reach into itself.
fn copy(page: &mut Vec<u8>, distance: usize, length: usize, max: usize) -> Option<()> {
    let from = page.len().checked_sub(distance).filter(|_| distance > 0)?;
    if length > max - page.len() {
        return None;
    }
    for at in from..from + length {
        page.push(page[at]);
    }
    Some(())
}

/// Bytes that are yet to be read.
struct Packed<'a>(&'a [u8]);

impl Packed<'_> {
    fn byte(&mut self) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(usize::from(*first))
    }

    fn half(&mut self) -> Option<usize> {
        Some(self.byte()? | self.byte()? << 8)
    }

    fn literal(&mut self, page: &mut Vec<u8>, length: usize, max: usize) -> Option<()> {
        if length > max - page.len() {
            return None;
        }
        let (literal, rest) = self.0.split_at_checked(length)?;
        page.extend_from_slice(literal);
        self.0 = rest;
        Some(())
    }

    /// Reads a length of LZO that did not fit its few bits: each zero stands for 255 more.
    fn long(&mut self, base: usize) -> Option<usize> {
        let mut length = base;
        loop {
            match self.byte()? {
                0 => length = length.checked_add(255)?,
                last => return length.checked_add(last),
            }
        }
    }
}

fn snappy(packed: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut packed = Packed(packed);
    let mut length = 0_usize;
    for shift in [0, 7, 14, 21, 28] {
        let byte = packed.byte()?;
        length |= (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if length > max {
        return None;
    }
    let mut page = Vec::with_capacity(length);
    while page.len() < length {
        let tag = packed.byte()?;
        match tag & 3 {
            0 => {
                let short = tag >> 2;
                let mut count = short;
                if short >= 60 {
                    count = 0;
                    for number in 0..short - 59 {
                        count |= packed.byte()? << (8 * number);
                    }
                }
                packed.literal(&mut page, count.checked_add(1)?, length)?;
            }
            1 => {
                let distance = (tag >> 5) << 8 | packed.byte()?;
                copy(&mut page, distance, 4 + (tag >> 2 & 7), length)?;
            }
            2 => {
                let distance = packed.half()?;
                copy(&mut page, distance, 1 + (tag >> 2), length)?;
            }
            _ => {
                let distance = packed.half()? | packed.half()? << 16;
                copy(&mut page, distance, 1 + (tag >> 2), length)?;
            }
        }
    }
    Some(page)
}

/// Decodes LZO1X.
fn lzo(packed: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut packed = Packed(packed);
    let mut page = Vec::with_capacity(max);
    // How many literals came before: none, one to three along with a copy, or a run of four and more.
    let mut before = 0_usize;
    if let Some(first) = packed.0.first().map(|first| usize::from(*first)).filter(|first| *first > 17) {
        packed.byte()?;
        let length = first - 17;
        packed.literal(&mut page, length, max)?;
        before = length.min(4);
    }
    loop {
        let code = packed.byte()?;
        let (distance, length, trail) = match code {
            0..16 if before == 0 => {
                let length = if code == 0 { packed.long(18)? } else { code + 3 };
                packed.literal(&mut page, length, max)?;
                before = 4;
                continue;
            }
            0..16 if before == 4 => (2049 + (code >> 2) + (packed.byte()? << 2), 3, code),
            0..16 => (1 + (code >> 2) + (packed.byte()? << 2), 2, code),
            16..32 => {
                let length = if code & 7 == 0 { packed.long(9)? } else { (code & 7) + 2 };
                let rest = packed.half()?;
                let distance = ((code & 8) << 11) + (rest >> 2);
                if distance == 0 {
                    return Some(page);
                }
                (16384 + distance, length, rest)
            }
            32..64 => {
                let length = if code & 31 == 0 { packed.long(33)? } else { (code & 31) + 2 };
                let rest = packed.half()?;
                (1 + (rest >> 2), length, rest)
            }
            _ => (1 + (code >> 2 & 7) + (packed.byte()? << 3), (code >> 5) + 1, code),
        };
        copy(&mut page, distance, length, max)?;
        before = trail & 3;
        packed.literal(&mut page, before, max)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(flags: u32, packed: &[u8], expected: &[u8]) {
        assert_eq!(page(flags, packed, expected.len()).as_deref(), Some(expected));
    }

    #[test]
    fn pages_are_unpacked() {
        check(0, b"page", b"page");
        check(ZSTD, &zstd::encode_all(&[7; 4096][..], 1).unwrap(), &[7; 4096]);
    }

    /// Pages one after the other, each thrice with its length before it: as it is, by `liblzo2`, by `libsnappy`.
    const PACKED: &[u8] = include_bytes!("../../tests/it/pages/packed");

    #[test]
    fn pages_are_unpacked_as_others_pack_them() {
        let mut rest = Packed(PACKED);
        let mut count = 0;
        while !rest.0.is_empty() {
            let [plain, lzo, snappy] = [(); 3].map(|()| {
                let length = rest.half().unwrap();
                let (part, after) = rest.0.split_at(length);
                rest.0 = after;
                part
            });
            check(LZO, lzo, plain);
            check(SNAPPY, snappy, plain);
            count += 1;
        }
        assert!(count >= 8);
    }

    proptest! {
        #[test]
        fn damaged_pages_break_nothing(flags in prop::sample::select(vec![ZLIB, LZO, SNAPPY, ZSTD]), packed in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(page) = page(flags, &packed, 4096) {
                prop_assert_eq!(page.len(), 4096);
            }
        }
    }
}
