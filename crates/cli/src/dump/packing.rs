//! How a dump's file is packed, which its name tells: not at all, as systemd-coredump packs it, or as people do.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
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

impl Packing {
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
        let timed = Timed { reader: BufReader::with_capacity(128 << 10, file), until };
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
    fn names_tell_the_packing() {
        let check = |name: &str, expected: (Packing, &str)| assert_eq!(Packing::of(name), expected);
        check("core.bc.0.abc.12.1700000000000000.zst", (Packing::Zstd, "core.bc.0.abc.12.1700000000000000"));
        check("core.lz4", (Packing::Lz4, "core"));
        check("core.1.xz", (Packing::Xz, "core.1"));
        check("core.1.gz", (Packing::Gzip, "core.1"));
        check("core.1", (Packing::None, "core.1"));
    }
}
