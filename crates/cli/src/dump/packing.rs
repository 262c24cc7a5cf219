//! How a dump's file is packed: not at all, as systemd-coredump packs it, or as people do. Its first bytes tell, and its name
//! where they do not.

use model::DumpKind;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// KiB of memory that unpacking xz may take: what its default level needs, and the next two.
const MAX_XZ_KIB: u32 = 96 << 10;
/// The logarithm of the longest window of Zstandard that is unpacked.
const MAX_WINDOW_LOG: u32 = 27;

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Zstd,
    Lz4,
    Xz,
    Gzip,
}

/// How long a file may be read that somebody named; what unpacks to more than a disk holds would be read for ever.
const MAX_READ: Duration = Duration::from_hours(6);

/// How each begins.
const MAGICS: [(&[u8], Packing); 4] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], Packing::Zstd),
    (&[0x04, 0x22, 0x4d, 0x18], Packing::Lz4),
    (b"\xfd7zXZ\0", Packing::Xz),
    (&[0x1f, 0x8b, 0x08], Packing::Gzip),
];

const MAX_MAGIC_BYTES: u64 = 6;

impl Packing {
    /// Tells how a file is packed, by its first bytes; what its name says decides only where they tell nothing. Where the
    /// two differ, that is said in a sentence.
    pub(crate) fn of_file(name: &str, file: &File) -> io::Result<(Self, Option<String>)> {
        let mut head = vec![0; dump::MAX_HEAD_BYTES];
        let length = read_head(file, &mut head)?;
        head.truncate(length);
        let said = Self::of(name).0;
        let found = Self::of_head(&head)
            .or_else(|| (dump::kind(&head) != DumpKind::Unknown).then_some(Self::None))
            .unwrap_or(said);
        let told = match (found, said) {
            (found, said) if found == said => None,
            (Self::None, said) => Some(format!("`{name}` is not packed with {}, whatever its name says", said.word())),
            (found, Self::None) => {
                Some(format!("`{name}` is packed with {}, which its name does not say", found.word()))
            }
            (found, said) => {
                Some(format!("`{name}` is packed with {}, and not with {} as its name says", found.word(), said.word()))
            }
        };
        Ok((found, told))
    }

    /// Tells how a stream is packed, by its first bytes alone, and returns what reads all of it.
    pub(crate) fn of_stream(mut reader: impl Read) -> io::Result<(Self, impl Read)> {
        let mut head = Vec::new();
        reader.by_ref().take(MAX_MAGIC_BYTES).read_to_end(&mut head)?;
        let packing = Self::of_head(&head).unwrap_or(Self::None);
        Ok((packing, io::Cursor::new(head).chain(reader)))
    }

    fn of_head(head: &[u8]) -> Option<Self> {
        MAGICS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, packing)| *packing)
    }

    const fn word(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Xz => "xz",
            Self::Gzip => "gzip",
        }
    }

    /// Tells how a file of this name is packed, and what it is called without.
    pub(crate) fn of(name: &str) -> (Self, &str) {
        let packings = [(".zst", Self::Zstd), (".lz4", Self::Lz4), (".xz", Self::Xz), (".gz", Self::Gzip)];
        let found = packings.into_iter().find_map(|(ending, packing)| Some((packing, name.strip_suffix(ending)?)));
        found.unwrap_or((Self::None, name))
    }

    /// Returns when reading a file ends that somebody named.
    pub(crate) fn patience() -> Instant {
        Instant::now() + MAX_READ
    }

    /// Reads a file as what it holds, from its beginning; that fails once the time is over.
    pub(crate) fn open(self, file: &File, until: Instant) -> io::Result<Box<dyn Read + Send>> {
        let mut file = file.try_clone()?;
        file.rewind()?;
        self.unpack(file, until)
    }

    /// Reads a stream as what it holds; that fails once the time is over.
    pub(crate) fn unpack(self, reader: impl Read + Send + 'static, until: Instant) -> io::Result<Box<dyn Read + Send>> {
        let timed = Timed { reader: BufReader::with_capacity(128 << 10, reader), until };
        Ok(match self {
            Self::None => Box::new(timed),
            Self::Zstd => {
                let mut reader = zstd::stream::read::Decoder::with_buffer(BufReader::new(timed))?;
                reader.window_log_max(MAX_WINDOW_LOG)?;
                Box::new(Timed { reader, until })
            }
            Self::Lz4 => Box::new(Timed { reader: lz4_flex::frame::FrameDecoder::new(timed), until }),
            Self::Gzip => Box::new(Timed { reader: flate2::read::MultiGzDecoder::new(timed), until }),
            Self::Xz => Box::new(Timed { reader: lzma_rust2::XzReader::new_mem_limit(timed, true, MAX_XZ_KIB), until }),
        })
    }
}

/// Reads a file's beginning, and returns how long that is.
fn read_head(file: &File, into: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < into.len() {
        match file.read_at(&mut into[length..], length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// A reader that fails once its time is over, however much little bytes unpack to.
struct Timed<R> {
    reader: R,
    until: Instant,
}

impl<R: Read> Read for Timed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long"));
        }
        self.reader.read(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_the_packing() {
        let folder = tempfile::tempdir().expect("is made");
        let check = |name: &str, content: &[u8], expected: Packing, told: Option<&str>| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("is written");
            let found = Packing::of_file(name, &File::open(path).expect("is there")).expect("is read");
            assert_eq!((found.0, found.1.as_deref()), (expected, told), "{name}");
        };
        let zstd = zstd::encode_all(&b"MDMP\x93\xa7"[..], 1).expect("is packed");
        check("core.zst", &zstd, Packing::Zstd, None);
        check("core", &zstd, Packing::Zstd, Some("`core` is packed with zstd, which its name does not say"));
        check("core.xz", &zstd, Packing::Zstd, Some("`core.xz` is packed with zstd, and not with xz as its name says"));
        let plain = "`core.gz` is not packed with gzip, whatever its name says";
        check("core.gz", b"MDMP\x93\xa7", Packing::None, Some(plain));
        check(
            "core",
            b"\x1f\x8b\x08\0",
            Packing::Gzip,
            Some("`core` is packed with gzip, which its name does not say"),
        );
        check("core", b"MDMP\x93\xa7", Packing::None, None);
        // What is neither is what it is called, and will not be read.
        check("core.lz4", b"nothing", Packing::Lz4, None);
        for content in [&zstd[..], b"MDMP\x93\xa7", b"MD", b""] {
            let (packing, mut reader) = Packing::of_stream(content).expect("is read");
            let mut all = Vec::new();
            reader.read_to_end(&mut all).expect("is read");
            assert_eq!((packing == Packing::Zstd, &*all), (content == zstd, content));
        }
    }

    #[test]
    fn names_tell_the_packing() {
        let check = |name: &str, expected: (Packing, &str)| assert_eq!(Packing::of(name), expected);
        check("core.bc.0.abc.12.1700000000000000.zst", (Packing::Zstd, "core.bc.0.abc.12.1700000000000000"));
        check("core.lz4", (Packing::Lz4, "core"));
        check("core.1.xz", (Packing::Xz, "core.1"));
        check("core.1.gz", (Packing::Gzip, "core.1"));
        check("core.1", (Packing::None, "core.1"));
    }
}
