//! The stream of an archive: unpacked, hashed and counted while it is read.

use super::UnpackError;
use flate2::bufread::MultiGzDecoder;
use model::image::Packing;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{self, BufReader, Read};

/// Bytes read from the packed archive at once.
const PIECE_BYTES: usize = 128 << 10;
/// The base-2 logarithm of the longest window that a Zstandard frame may ask for: 128 MiB, what its own tool allows.
const MAX_WINDOW_LOG: u32 = 27;
/// Bytes that may follow an archive's end: archives are padded to a record, never by more.
const MAX_TRAILER_BYTES: u64 = 16 << 20;

/// An archive without its packing. Every byte that is read counts into the digest.
pub(super) struct Stream {
    input: Box<dyn Read>,
    hash: Sha256,
    count: u64,
    count_max: u64,
}

impl Stream {
    pub(super) fn new(input: impl Read + 'static, packing: Packing, count_max: u64) -> Result<Self, UnpackError> {
        let input = BufReader::with_capacity(PIECE_BYTES, input);
        let input: Box<dyn Read> = match packing {
            Packing::Tar => Box::new(input),
            Packing::Gzip => Box::new(MultiGzDecoder::new(input)),
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input).map_err(|error| broken(&error))?;
                decoder.window_log_max(MAX_WINDOW_LOG).map_err(|error| broken(&error))?;
                Box::new(decoder)
            }
        };
        Ok(Self {
            input: Box::new(BufReader::with_capacity(PIECE_BYTES, input)),
            hash: Sha256::new(),
            count: 0,
            count_max,
        })
    }

    /// Reads some bytes; none at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let count = loop {
            match self.input.read(buffer) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(&error)),
            }
        };
        self.hash.update(&buffer[..count]);
        self.count += count as u64;
        if self.count > self.count_max {
            return Err(UnpackError::Archive(format!("it unpacks to more than {} bytes", self.count_max)));
        }
        Ok(count)
    }

    /// Fills the buffer; false when the archive ends before its first byte.
    pub(super) fn fill(&mut self, buffer: &mut [u8], what: &str) -> Result<bool, UnpackError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(UnpackError::Archive(format!("it ends in the middle of {what}"))),
                count => filled += count,
            }
        }
        Ok(true)
    }

    /// Reads what follows the archive's last entry, which belongs to its digest too.
    pub(super) fn drain(&mut self) -> Result<(), UnpackError> {
        let (mut buffer, before) = (vec![0; PIECE_BYTES], self.count);
        while self.read(&mut buffer)? != 0 {
            if self.count - before > MAX_TRAILER_BYTES {
                return Err(UnpackError::Archive(format!("more than {MAX_TRAILER_BYTES} bytes follow its end")));
            }
        }
        Ok(())
    }

    /// Returns the digest of all that was read, and how much that was.
    pub(super) fn finish(self) -> (String, u64) {
        let mut text = "sha256:".to_owned();
        for byte in self.hash.finalize() {
            write!(text, "{byte:02x}").expect("a text takes what is written to it");
        }
        (text, self.count)
    }
}

fn broken(error: &io::Error) -> UnpackError {
    UnpackError::Archive(format!("its packing is broken: {error}"))
}
