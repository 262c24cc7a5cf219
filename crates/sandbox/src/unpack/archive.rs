//! The tar format: what stands in an archive, entry by entry. Knows no file system; believes no number.
//!
//! Written by hand, over the bytes of the format, because the `tar` crate (which our tests write archives with) splits
//! PAX records at line feeds, so that a binary attribute or a name with a line feed makes it lose all other records of
//! the entry, the size among them; because it reads records of any length into memory; and because it knows only the
//! oldest of the four ways to say that a file is sparse. Where readers differ, this one does what Go's does, since
//! nearly all images were written to be read by that one: entries that are only headers have no content.

use super::UnpackError;
use super::stream::Stream;

/// The unit in which an archive is written.
const BLOCK: usize = 512;
/// Bytes of all headers that describe one entry: long names, attributes, maps of sparse files.
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// Stretches of one sparse file.
const MAX_STRETCHES: usize = 32_768;
/// Bytes of content handed on at once.
const PIECE_BYTES: usize = 128 << 10;

/// What sort of thing an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Folder,
    Fifo,
    Device,
    Other,
}

/// One entry of an archive, without its content.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    /// How long the file is when its holes are counted.
    pub(super) size: u64,
    /// The stretches of a sparse file that hold something: where, and how long.
    stretches: Option<Vec<(u64, u64)>>,
    pub(super) mode: u32,
    pub(super) user: u64,
    pub(super) group: u64,
    /// Seconds and nanoseconds.
    pub(super) modified: (i64, u32),
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Extensions that describe the next entry.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    user: Option<u64>,
    group: Option<u64>,
    modified: Option<(i64, u32)>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_path: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    stretches: Option<Vec<(u64, u64)>>,
    offset: Option<u64>,
    has_map_in_content: bool,
}

/// An archive that is read from its beginning to its end.
pub(super) struct Archive {
    stream: Stream,
    /// Bytes of the current entry's content that nobody has read yet.
    left: u64,
    /// Bytes from there to the next block.
    padding: u64,
}

fn refuse<T>(why: impl Into<String>) -> Result<T, UnpackError> {
    Err(UnpackError::Archive(why.into()))
}

impl Archive {
    pub(super) const fn new(stream: Stream) -> Self {
        Self { stream, left: 0, padding: 0 }
    }

    /// Returns the next entry, having passed over what is left of the one before; nothing at the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let (mut extension, mut bytes) = (Extension::default(), 0);
        loop {
            self.pass()?;
            let mut block = [0; BLOCK];
            if !self.stream.fill(&mut block, "a header")? || block.iter().all(|byte| *byte == 0) {
                return if bytes == 0 {
                    Ok(None)
                } else {
                    refuse("it ends where an entry should follow its extension")
                };
            }
            check_sum(&block)?;
            let size = size_of(&block)?;
            let kind = block[156];
            if !matches!(kind, b'L' | b'K' | b'x' | b'g') {
                return self.entry(&block, extension, size).map(Some);
            }
            bytes += size.saturating_add(BLOCK as u64);
            if bytes > MAX_HEADER_BYTES {
                return refuse(format!("the headers of one entry have more than {MAX_HEADER_BYTES} bytes"));
            }
            self.expect(size);
            let mut record = vec![0; usize::try_from(size).expect("is below the bound just checked")];
            self.stream.fill(&mut record, "an extension")?;
            self.left = 0;
            match kind {
                b'L' => extension.path = Some(until_zero(&record).to_vec()),
                b'K' => extension.link = Some(until_zero(&record).to_vec()),
                b'x' => extension.read(&record)?,
                // Records for all entries that follow, of which no image has any that matters.
                _ => {}
            }
        }
    }

    /// Hands the content of the current entry to `take`, with the place in the file where each piece belongs.
    pub(super) fn content(
        &mut self,
        entry: &Entry,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), UnpackError>,
    ) -> Result<(), UnpackError> {
        let whole = [(0, entry.size)];
        let mut buffer = vec![0; PIECE_BYTES.min(usize::try_from(entry.size.max(1)).unwrap_or(PIECE_BYTES))];
        for (offset, length) in entry.stretches.as_deref().unwrap_or(&whole) {
            let mut done = 0;
            while done < *length {
                let count = buffer.len().min(usize::try_from(length - done).unwrap_or(buffer.len()));
                let piece = &mut buffer[..count];
                if !self.stream.fill(piece, "a file")? {
                    return refuse("it ends in the middle of a file");
                }
                self.left -= count as u64;
                take(offset + done, piece)?;
                done += count as u64;
            }
        }
        Ok(())
    }

    /// Reads what follows the last entry, and returns the digest and length of it all.
    pub(super) fn finish(mut self) -> Result<(String, u64), UnpackError> {
        self.stream.drain()?;
        Ok(self.stream.finish())
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// Passes over what is left of the current entry.
    fn pass(&mut self) -> Result<(), UnpackError> {
        let mut buffer = [0; 16 * BLOCK];
        let mut left = std::mem::take(&mut self.left).saturating_add(std::mem::take(&mut self.padding));
        while left > 0 {
            let count = buffer.len().min(usize::try_from(left).unwrap_or(buffer.len()));
            if !self.stream.fill(&mut buffer[..count], "an entry")? {
                return refuse("it ends in the middle of an entry");
            }
            left -= count as u64;
        }
        Ok(())
    }

    fn entry(&mut self, block: &[u8; BLOCK], extension: Extension, size: u64) -> Result<Entry, UnpackError> {
        let path = extension.sparse_path.or(extension.path).unwrap_or_else(|| path_of(block));
        let kind = match block[156] {
            b'0' | 0 if path.ends_with(b"/") => Kind::Folder,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            _ => Kind::Other,
        };
        let stored = match kind {
            Kind::File | Kind::Other => extension.size.unwrap_or(size),
            Kind::HardLink | Kind::Symlink | Kind::Folder | Kind::Fifo | Kind::Device => 0,
        };
        self.expect(stored);
        let mut stretches = extension.stretches;
        let is_sparse = stretches.is_some() || extension.has_map_in_content;
        let mut size = extension.sparse_size.filter(|_| is_sparse).unwrap_or(stored);
        if block[156] == b'S' {
            stretches = Some(self.old_map(block)?);
            size = number(&block[483..495]).and_then(|size| u64::try_from(size).ok()).unwrap_or(u64::MAX);
        } else if extension.has_map_in_content {
            stretches = Some(self.map_in_content()?);
        }
        if let Some(stretches) = &stretches {
            check_stretches(stretches, size, self.left)?;
        }
        let positive = |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok());
        let owner = |found: Option<u64>, field: &[u8]| found.or_else(|| positive(field)).unwrap_or(u64::MAX);
        Ok(Entry {
            kind,
            path,
            link: extension.link.unwrap_or_else(|| until_zero(&block[157..257]).to_vec()),
            size,
            stretches,
            mode: u32::try_from(positive(&block[100..108]).unwrap_or(0) & 0o7777).expect("has twelve bits"),
            user: owner(extension.user, &block[108..116]),
            group: owner(extension.group, &block[116..124]),
            modified: extension.modified.unwrap_or_else(|| (number(&block[136..148]).unwrap_or(0), 0)),
            attributes: extension.attributes,
        })
    }

    /// Reads the map of a sparse file as GNU's first format has it: in the header and in blocks after it.
    fn old_map(&mut self, block: &[u8; BLOCK]) -> Result<Vec<(u64, u64)>, UnpackError> {
        let mut stretches = Vec::new();
        let mut add = |fields: &[u8]| {
            for pair in fields.chunks_exact(24) {
                let field = |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok());
                match (field(&pair[..12]), field(&pair[12..])) {
                    (Some(offset), Some(length)) if pair[0] != 0 && pair[12] != 0 => stretches.push((offset, length)),
                    (Some(0), Some(0)) => {}
                    _ => return refuse("the map of a sparse file is broken"),
                }
            }
            if stretches.len() > MAX_STRETCHES { refuse("a sparse file has too many stretches") } else { Ok(()) }
        };
        add(&block[386..482])?;
        let mut more = block[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            if !self.stream.fill(&mut block, "the map of a sparse file")? {
                return refuse("it ends in the middle of the map of a sparse file");
            }
            add(&block[..504])?;
            // An empty map that says it goes on would have us read for ever without reaching the bound.
            if block[..24].iter().all(|byte| *byte == 0) {
                return refuse("the map of a sparse file is broken");
            }
            more = block[504] != 0;
        }
        Ok(stretches)
    }

    /// Reads the map of a sparse file as PAX 1.0 has it: decimal lines at the beginning of the content.
    fn map_in_content(&mut self) -> Result<Vec<(u64, u64)>, UnpackError> {
        let (mut numbers, mut current, mut wanted) = (Vec::new(), None::<u64>, 1);
        while numbers.len() < wanted {
            let mut block = [0; BLOCK];
            if self.left < BLOCK as u64 || !self.stream.fill(&mut block, "the map of a sparse file")? {
                return refuse("it ends in the middle of the map of a sparse file");
            }
            self.left -= BLOCK as u64;
            for byte in block {
                match (byte, current) {
                    (b'0'..=b'9', _) => {
                        let digit = u64::from(byte - b'0');
                        current = current.unwrap_or(0).checked_mul(10).and_then(|value| value.checked_add(digit));
                        if current.is_none() {
                            return refuse("the map of a sparse file is broken");
                        }
                    }
                    (b'\n', Some(value)) => {
                        numbers.push(value);
                        current = None;
                        if numbers.len() == 1 {
                            wanted = match usize::try_from(value) {
                                Ok(count) if count <= MAX_STRETCHES => 1 + 2 * count,
                                _ => return refuse("a sparse file has too many stretches"),
                            };
                        }
                    }
                    _ if numbers.len() >= wanted => {}
                    _ => return refuse("the map of a sparse file is broken"),
                }
                if numbers.len() >= wanted {
                    break;
                }
            }
        }
        Ok(numbers[1..].as_chunks::<2>().0.iter().map(|[offset, length]| (*offset, *length)).collect())
    }
}

impl Extension {
    /// Reads PAX records: `LENGTH KEY=VALUE` and a line feed, where the length counts all of it.
    fn read(&mut self, mut records: &[u8]) -> Result<(), UnpackError> {
        while !records.is_empty() {
            let broken = || UnpackError::Archive("a PAX record is broken".to_owned());
            let space = records.iter().take(20).position(|byte| *byte == b' ').ok_or_else(broken)?;
            let length = decimal(&records[..space]).and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|length| *length > space + 1 && *length <= records.len()).ok_or_else(broken)?;
            let record = records[space + 1..length].strip_suffix(b"\n").ok_or_else(broken)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
            self.note(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(())
    }

    fn note(&mut self, key: &[u8], value: &[u8]) -> Result<(), UnpackError> {
        let named = || format!("PAX record `{}`", String::from_utf8_lossy(key));
        let count = || decimal(value).ok_or_else(|| UnpackError::Archive(format!("{} is no number", named())));
        let name = || if value.contains(&0) { refuse(format!("{} holds a zero byte", named())) } else { Ok(value) };
        match key {
            // An empty value takes back what came before.
            b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime" if value.is_empty() => {}
            b"path" => self.path = Some(name()?.to_vec()),
            b"linkpath" => self.link = Some(name()?.to_vec()),
            b"size" => self.size = Some(count()?),
            b"uid" => self.user = Some(count()?),
            b"gid" => self.group = Some(count()?),
            b"mtime" => {
                self.modified =
                    Some(instant(value).ok_or_else(|| UnpackError::Archive(format!("{} is no time", named())))?);
            }
            b"GNU.sparse.name" => self.sparse_path = Some(name()?.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = Some(count()?),
            b"GNU.sparse.major" => self.has_map_in_content = count()? == 1,
            b"GNU.sparse.offset" => self.offset = Some(count()?),
            b"GNU.sparse.numbytes" => {
                let Some(offset) = self.offset.take() else { return refuse(format!("{} has no offset", named())) };
                self.stretches.get_or_insert_default().push((offset, count()?));
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<_>> = value.split(|byte| *byte == b',').map(decimal).collect();
                let Some(numbers) = numbers else { return refuse(format!("{} is broken", named())) };
                self.stretches =
                    Some(numbers.as_chunks::<2>().0.iter().map(|[from, length]| (*from, *length)).collect());
            }
            _ => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attributes.push((attribute.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Refuses stretches that overlap, run backwards or leave the file, or that the archive does not hold.
fn check_stretches(stretches: &[(u64, u64)], size: u64, held: u64) -> Result<(), UnpackError> {
    let (mut end, mut sum) = (0, 0_u64);
    for (offset, length) in stretches {
        let Some(next) = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size) else {
            return refuse("the map of a sparse file does not fit it");
        };
        (end, sum) = (next, sum.saturating_add(*length));
    }
    if sum == held { Ok(()) } else { refuse("the map of a sparse file does not fit its content") }
}

fn check_sum(block: &[u8; BLOCK]) -> Result<(), UnpackError> {
    let sum: u32 =
        block.iter().enumerate().map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte })).sum();
    if number(&block[148..156]) == Some(i64::from(sum)) {
        Ok(())
    } else {
        refuse("it is no tar archive, or a header is broken")
    }
}

fn size_of(block: &[u8; BLOCK]) -> Result<u64, UnpackError> {
    let size = number(&block[124..136]).and_then(|size| u64::try_from(size).ok());
    size.ok_or_else(|| UnpackError::Archive("the size of an entry is no number".to_owned()))
}

fn path_of(block: &[u8; BLOCK]) -> Vec<u8> {
    let (name, prefix) = (until_zero(&block[..100]), until_zero(&block[345..500]));
    // GNU's own headers keep other things where POSIX keeps the first half of a long name.
    if &block[257..263] != b"ustar\0" || prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads a number of a header: octal digits, or base 256 when its first bit is set.
fn number(field: &[u8]) -> Option<i64> {
    if let [first, rest @ ..] = field
        && first & 0x80 != 0
    {
        let sign: i64 = if first & 0x40 == 0 { i64::from(first & 0x3f) } else { i64::from(*first as i8) };
        return rest.iter().try_fold(sign, |value, byte| value.checked_mul(256)?.checked_add(i64::from(*byte)));
    }
    let digits = until_zero(field).trim_ascii();
    digits.iter().try_fold(0_i64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Reads seconds with an optional sign and fraction.
fn instant(text: &[u8]) -> Option<(i64, u32)> {
    let (is_negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let mut halves = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(halves.next()?)?).ok()?;
    let fraction = halves.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |sum, at| sum * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0')));
    match (is_negative, nanos) {
        (false, _) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_headers() {
        let check = |field: &[u8], expected: Option<i64>| assert_eq!(number(field), expected, "{field:?}");
        check(b"0000644\0", Some(0o644));
        check(b"    644 ", Some(0o644));
        check(b"\0\0\0\0\0\0\0\0", Some(0));
        check(b"0000648\0", None);
        check(b"-000644\0", None);
        check(b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1));
        check(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None);
    }

    #[test]
    fn instants_of_records() {
        let check = |text: &str, expected| assert_eq!(instant(text.as_bytes()), expected, "{text}");
        check("12", Some((12, 0)));
        check("12.5", Some((12, 500_000_000)));
        check("-1.25", Some((-2, 750_000_000)));
        check("-3", Some((-3, 0)));
        check("12.x", None);
        check("", None);
        check("99999999999999999999", None);
    }

    #[test]
    fn records_may_hold_line_feeds_and_lie_about_their_length() {
        let check = |records: &[u8], expected: Option<&[u8]>| {
            let mut extension = Extension::default();
            let read = extension.read(records);
            assert_eq!(read.is_ok(), expected.is_some(), "{records:?}: {read:?}");
            if let Some(expected) = expected {
                assert_eq!(extension.path.as_deref(), Some(expected));
            }
        };
        check(b"12 path=a\nb\n", Some(b"a\nb"));
        check(b"12 path=a\nb\n13 path=other\n", None);
        check(b"99 path=a\n", None);
        check(b"3 path=a\n", None);
        check(b"10 path=a\0\n", None);
        check(b"9 path=a\n\n", None);
        check(b"99999999999999999999 path=a\n", None);
        check(b"-1 path=a\n", None);
    }
}
