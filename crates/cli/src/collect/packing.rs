//! How a dump's file is packed: as it is, or as systemd-coredump packs it.

use anyhow::Context;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::time::Instant;

/// KiB of memory that unpacking xz may take: what its default level needs, and the next two.
const MAX_XZ_KIB: u32 = 96 << 10;
/// The logarithm of the longest window of Zstandard that is unpacked.
const MAX_WINDOW_LOG: u32 = 27;

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Zstd,
    Lz4,
    Xz,
}

impl Packing {
    /// Tells how a file of this name is packed, and what it is called without.
    pub(super) fn of(name: &str) -> (Self, &str) {
        let packings = [(".zst", Self::Zstd), (".lz4", Self::Lz4), (".xz", Self::Xz)];
        let found = packings.into_iter().find_map(|(ending, packing)| Some((packing, name.strip_suffix(ending)?)));
        found.unwrap_or((Self::None, name))
    }

    /// Opens a file as what it holds; reading it fails once the time is over.
    pub(super) fn open(self, path: &Path, until: Instant) -> anyhow::Result<Box<dyn Read + Send>> {
        let file = File::open(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
        let timed = Timed { reader: BufReader::with_capacity(128 << 10, file), until };
        Ok(match self {
            Self::None => Box::new(timed),
            Self::Zstd => {
                let mut reader = zstd::stream::read::Decoder::with_buffer(BufReader::new(timed))?;
                reader.window_log_max(MAX_WINDOW_LOG)?;
                Box::new(Timed { reader, until })
            }
            Self::Lz4 => Box::new(Timed { reader: lz4_flex::frame::FrameDecoder::new(timed), until }),
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
        check("core.1", (Packing::None, "core.1"));
    }
}
