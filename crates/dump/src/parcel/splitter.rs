//! Splitting: one pass over a file or a stream, in which everything is read, hashed, cut, packed and named once.
//!
//! A thread reads, hashes the whole and cuts; the caller's own packs the frames and hands them on. Between the two wait at
//! most `WAITING` contents. A file's holes are skipped without being read; hashing them costs as much as hashing zeros.

use super::cutter::{Cutter, TooMany, ZEROS};
use super::grid::{Grid, Head, MAX_HEAD_BYTES, Passing};
use crate::id::QuickId;
use crate::redact::{RedactionRules, Redactor, Refusal};
use model::Digest;
use model::dump::Redaction;
use model::parcel::{Extent, Frame, MAX_DUMP_BYTES, MAX_FRAME_BYTES, MAX_PACKED_BYTES, Manifest};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Contents of frames that wait to be packed: enough that neither side waits for the other over one slow frame.
const WAITING: usize = 8;
/// Zstandard's level: the frames of a core gain 2 % from the next one, and it costs a third of the speed.
const LEVEL: i32 = 1;

/// How much of a stream is read at once of which only the name is sought.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes that are looked at before they are taken, at most.
const MAX_AHEAD_BYTES: usize = 64;

/// Why a dump could not be split.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// It cannot be read.
    #[error("the dump cannot be read")]
    Unreadable(#[source] io::Error),
    /// What was made of it could not be handed on.
    #[error("a frame could not be handed on")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is longer, or more torn, than a dump may be.
    #[error("the dump is longer than {MAX_DUMP_BYTES} bytes, or has more pieces than a manifest may tell")]
    TooLong,
    /// What rules leave out of it cannot be found, so nothing of it is handed on.
    #[error(transparent)]
    Redaction(#[from] Refusal),
}

impl From<TooMany> for SplitError {
    fn from(_: TooMany) -> Self {
        Self::TooLong
    }
}

/// A frame, ready to be sent.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Its name and its lengths.
    pub frame: Frame,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How far into the dump everything up to this frame's content was read.
    pub reached: u64,
}

/// What became of a dump.
#[derive(Clone, Debug)]
pub struct Split {
    /// What its head told.
    pub head: Head,
    /// How to put it together.
    pub manifest: Manifest,
    /// What was left out by rules, if there were any.
    pub redaction: Option<Redaction>,
}

impl Split {
    /// Tells whether its end is missing.
    pub const fn is_truncated(&self) -> bool {
        self.head.end > self.manifest.size
    }

    /// Returns its name: Thoth's, or where that had none the first digits of its digest.
    pub fn hash(&self) -> String {
        match self.head.hash {
            Some(hash) => hash.to_string(),
            None => self.manifest.digest.to_string().chars().take(32).collect(),
        }
    }
}

/// What hands frames on.
type Sink<'s> = &'s mut dyn FnMut(Packed) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Reads the head of a file.
pub fn head_of_file(file: &File) -> Result<Head, SplitError> {
    // Its place in the file is shared with whoever else has it open; ours is read by its own.
    Head::read(&mut Placed { file, at: 0 }).map_err(SplitError::Unreadable)
}

/// Splits a file, skipping its holes.
pub fn split_file(file: &File, sink: Sink<'_>) -> Result<Split, SplitError> {
    split_file_by(file, None, sink)
}

/// Splits a file, skipping its holes, and leaves out what rules say.
pub fn split_file_by(file: &File, rules: Option<&RedactionRules>, sink: Sink<'_>) -> Result<Split, SplitError> {
    let head = head_of_file(file)?;
    let size = file.metadata().map_err(SplitError::Unreadable)?.len();
    // Headers may lead anywhere; the kernel refuses to look far behind the end, where there is nothing to read.
    let read_at = |from: u64, into: &mut [u8]| {
        fill(&mut |into, at| if from >= size { Ok(0) } else { file.read_at(into, from.saturating_add(at)) }, into)
    };
    let mut redactor = rules.map(|rules| Redactor::new(rules, head.outline.clone())).transpose()?;
    for range in redactor.iter().flat_map(Redactor::notes).collect::<Vec<_>>() {
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; wanted];
        let read = read_at(range.start, &mut bytes).map_err(SplitError::Unreadable)?;
        if let Some(redactor) = &mut redactor {
            redactor.hear(range.start, &bytes[..read]);
        }
    }
    if let Some(redactor) = &mut redactor {
        // What cannot be read is not there.
        redactor.prepare(|from, into| read_at(from, into).unwrap_or(0))?;
    }
    let source = Holed { file, at: 0, data: 0..0, size };
    split(head, source, redactor, sink)
}

/// Splits what can be read only once, such as a core on its way from the kernel.
pub fn split_stream(reader: impl Read + Send, sink: Sink<'_>) -> Result<Split, SplitError> {
    split_stream_by(reader, None, sink)
}

/// Splits what can be read only once, and leaves out what rules say.
pub fn split_stream_by(
    mut reader: impl Read + Send,
    rules: Option<&RedactionRules>,
    sink: Sink<'_>,
) -> Result<Split, SplitError> {
    let beginning = beginning(&mut reader)?;
    let (head, passing) = Head::of_beginning(&beginning).map_err(SplitError::Unreadable)?;
    let redactor = rules.map(|rules| Redactor::new(rules, head.outline.clone())).transpose()?;
    split(head, Flow { reader: io::Cursor::new(beginning).chain(reader), passing }, redactor, sink)
}

/// Reads the head of what can be read only once, and of that no more than its name takes.
pub fn head_of_stream(mut reader: impl Read) -> Result<Head, SplitError> {
    let beginning = beginning(&mut reader)?;
    let (mut head, mut passing) = Head::of_beginning(&beginning).map_err(SplitError::Unreadable)?;
    passing.pass(0, &beginning);
    let mut at = beginning.len() as u64;
    let mut piece = vec![0; PIECE_BYTES];
    while at < passing.end() {
        let read = fill(&mut |into, _| reader.read(into), &mut piece).map_err(SplitError::Unreadable)?;
        passing.pass(at, &piece[..read]);
        at += read as u64;
        if read < piece.len() {
            break;
        }
    }
    head.hash = head.hash.or_else(|| passing.hash());
    Ok(head)
}

/// Reads a stream's beginning, as far as its headers go.
fn beginning(reader: &mut impl Read) -> Result<Vec<u8>, SplitError> {
    let mut beginning = Vec::new();
    reader.by_ref().take(MAX_HEAD_BYTES).read_to_end(&mut beginning).map_err(SplitError::Unreadable)?;
    Ok(beginning)
}

/// What comes next of a dump.
enum Next {
    /// So many bytes were read; fewer than asked for only at the end.
    Bytes(usize),
    /// So many bytes are a hole.
    Hole,
}

/// Where a dump comes from.
trait Source: Send {
    /// Fills `into` with what comes next, or says that all of it is a hole.
    fn next(&mut self, into: &mut [u8]) -> io::Result<Next>;

    /// Looks at what follows without taking it; returns how many bytes that are, none where it cannot be known yet.
    fn ahead(&self, _into: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    /// Told what was read, and where.
    fn pass(&mut self, _start: u64, _bytes: &[u8]) {}

    /// Returns the dump's name, if that could not be told from its head.
    fn hash(&mut self) -> Option<QuickId> {
        None
    }
}

/// A file that has holes.
struct Holed<'f> {
    file: &'f File,
    at: u64,
    /// Where there is something, as far as was looked.
    data: std::ops::Range<u64>,
    size: u64,
}

impl Source for Holed<'_> {
    fn next(&mut self, into: &mut [u8]) -> io::Result<Next> {
        let left = self.size.saturating_sub(self.at);
        let wanted = usize::try_from(left).map_or(into.len(), |left| left.min(into.len()));
        let end = self.at + wanted as u64;
        if wanted == into.len() && wanted > 0 && self.is_hole(end) {
            self.at = end;
            return Ok(Next::Hole);
        }
        let read = fill(&mut |into, at| self.file.read_at(into, self.at + at), &mut into[..wanted])?;
        self.at += read as u64;
        Ok(Next::Bytes(read))
    }

    fn ahead(&self, into: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.size.saturating_sub(self.at)).map_or(into.len(), |left| left.min(into.len()));
        fill(&mut |into, at| self.file.read_at(into, self.at + at), &mut into[..wanted])
    }
}

impl Holed<'_> {
    /// Tells whether nothing stands from here to `end`.
    fn is_hole(&mut self, end: u64) -> bool {
        use rustix::fs::{SeekFrom, seek};
        if self.at >= self.data.end {
            let next = match seek(self.file, SeekFrom::Data(self.at)) {
                Ok(start) => start..seek(self.file, SeekFrom::Hole(start)).unwrap_or(self.size),
                // Nothing stands anywhere behind.
                Err(rustix::io::Errno::NXIO) => self.size..self.size,
                // A file system that does not tell has no holes to speak of.
                Err(_) => self.at..self.size,
            };
            self.data = next;
        }
        self.data.start >= end
    }
}

/// A stream, of which nothing is known before it comes.
struct Flow<R> {
    reader: R,
    passing: Passing,
}

impl<R: Read + Send> Source for Flow<R> {
    fn next(&mut self, into: &mut [u8]) -> io::Result<Next> {
        fill(&mut |into, _| self.reader.read(into), into).map(Next::Bytes)
    }

    fn pass(&mut self, start: u64, bytes: &[u8]) {
        self.passing.pass(start, bytes);
    }

    fn hash(&mut self) -> Option<QuickId> {
        self.passing.hash()
    }
}

/// Reads until all is full or nothing comes any more.
fn fill(read: &mut impl FnMut(&mut [u8], u64) -> io::Result<usize>, into: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < into.len() {
        match read(&mut into[length..], length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// A file read by places of our own.
struct Placed<'f> {
    file: &'f File,
    at: u64,
}

impl Read for Placed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl io::Seek for Placed<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let io::SeekFrom::Start(at) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.at = at;
        Ok(at)
    }
}

/// Content of a frame on its way to be packed.
struct Content {
    bytes: Vec<u8>,
    reached: u64,
}

fn split(mut head: Head, source: impl Source, redactor: Option<Redactor>, sink: Sink<'_>) -> Result<Split, SplitError> {
    let (ready, contents) = sync_channel(WAITING);
    let (back, recycled) = channel();
    let (read, frames) = std::thread::scope(|scope| {
        let grid = Grid::new(&head);
        let reading =
            scope.spawn(move || Reader { ready, recycled, hasher: blake3::Hasher::new(), redactor }.run(grid, source));
        let frames = pack(&contents, &back, sink);
        // A reader that waits for us to take more finds that nobody does, and ends.
        drop((contents, back));
        (reading.join(), frames)
    });
    let frames = frames?;
    let read = read.map_err(|_| SplitError::Unreadable(io::Error::other("its reader panicked")))??;
    head.hash = head.hash.or(read.hash);
    let Done { size, digest, extents, redaction, .. } = read;
    Ok(Split { head, manifest: Manifest { size, digest, extents, frames }, redaction })
}

/// What was found out in the one pass over a dump.
struct Done {
    size: u64,
    digest: Digest,
    extents: Vec<Extent>,
    hash: Option<QuickId>,
    redaction: Option<Redaction>,
}

struct Reader {
    ready: SyncSender<Content>,
    recycled: Receiver<Vec<u8>>,
    hasher: blake3::Hasher,
    redactor: Option<Redactor>,
}

impl Reader {
    fn run(mut self, mut grid: Grid, mut source: impl Source) -> Result<Done, SplitError> {
        let (mut cutter, mut at) = (Cutter::default(), 0_u64);
        let mut chunk = vec![0; MAX_FRAME_BYTES as usize];
        loop {
            let step = grid.step(at);
            let read = match source.next(&mut chunk[..step]).map_err(SplitError::Unreadable)? {
                Next::Hole => {
                    self.hash_zeros(step);
                    at += step as u64;
                    continue;
                }
                Next::Bytes(read) => read,
            };
            if let Some(redactor) = &mut self.redactor {
                let mut ahead = [0; MAX_AHEAD_BYTES];
                let known = source.ahead(&mut ahead[..redactor.ahead()]).map_err(SplitError::Unreadable)?;
                redactor.redact(at, &mut chunk[..read], &ahead[..known])?;
            }
            let bytes = &chunk[..read];
            self.hasher.update(bytes);
            source.pass(at, bytes);
            while let Ok(buffer) = self.recycled.try_recv() {
                cutter.recycle(buffer);
            }
            let start = at;
            at += read as u64;
            if at > MAX_DUMP_BYTES {
                return Err(SplitError::TooLong);
            }
            for bytes in cutter.chunk(start, bytes)?.into_iter().flatten() {
                if self.ready.send(Content { bytes, reached: at }).is_err() {
                    return Err(gone());
                }
            }
            if read < step {
                break;
            }
        }
        if let Some(bytes) = cutter.finish()
            && self.ready.send(Content { bytes, reached: at }).is_err()
        {
            return Err(gone());
        }
        let digest = Digest::from_bytes(*self.hasher.finalize().as_bytes());
        let redaction = self.redactor.map(Redactor::finish).transpose()?;
        Ok(Done { size: at, digest, extents: cutter.extents, hash: source.hash(), redaction })
    }

    fn hash_zeros(&mut self, mut length: usize) {
        while length > 0 {
            let part = length.min(ZEROS.len());
            self.hasher.update(&ZEROS[..part]);
            length -= part;
        }
    }
}

/// Makes the error of a reader whom nobody listens to; why not is told by whoever stopped listening.
fn gone() -> SplitError {
    SplitError::Unreadable(io::ErrorKind::BrokenPipe.into())
}

fn pack(contents: &Receiver<Content>, back: &Sender<Vec<u8>>, sink: Sink<'_>) -> Result<Vec<Frame>, SplitError> {
    let broken = |error: io::Error| SplitError::Refused(error.into());
    let mut packer = zstd::bulk::Compressor::new(LEVEL).map_err(broken)?;
    let mut packed = vec![0; MAX_PACKED_BYTES as usize];
    let mut frames = Vec::new();
    for Content { bytes, reached } in contents {
        let length = packer.compress_to_buffer(&bytes, &mut packed[..]).map_err(broken)?;
        let taken = &packed[..length];
        let frame = Frame {
            digest: Digest::from_bytes(*blake3::hash(taken).as_bytes()),
            packed: u32::try_from(length).expect("the buffer is no longer than a frame may be"),
            raw: u32::try_from(bytes.len()).expect("the grid's steps are no longer than a frame may be"),
        };
        frames.push(frame);
        // Nobody reads any more once all has been read.
        let _ = back.send(bytes);
        sink(Packed { frame, bytes: taken.to_vec(), reached }).map_err(SplitError::Refused)?;
    }
    Ok(frames)
}
