//! Where lines end up: one stream, or one file per module that is put aside when it has grown.
//!
//! A failed write never panics and never waits for better times; it is counted. A line that was cut short by a full disk
//! is closed before the next one, so that readers of JSON lose one line and not two.

use crate::log::level::MODULES;
use crate::log::{LogError, LogOutput};
use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes after which a module's file is put aside.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Files put aside that are kept for each module.
const MAX_FILES_KEPT: usize = 4;

/// The places that lines go to.
pub(super) enum Sinks {
    /// One for all.
    Stream(Mutex<Sink<Box<dyn Write + Send>>>),
    /// One for each module, in the order of `MODULES`.
    Files(Vec<Mutex<Sink<LogFile>>>),
}

impl Sinks {
    pub(super) fn open(output: LogOutput) -> Result<Self, LogError> {
        let writer = match output {
            LogOutput::Folder(folder) => return Self::files(&folder, MAX_FILE_BYTES),
            LogOutput::Stderr => Box::new(io::stderr()),
            LogOutput::Writer(writer) => writer,
        };
        Ok(Self::Stream(Mutex::new(Sink::new(writer))))
    }

    pub(super) fn files(folder: &Path, bytes_max: u64) -> Result<Self, LogError> {
        fs::create_dir_all(folder).map_err(|source| LogError::Folder { path: folder.to_owned(), source })?;
        let open = |module: &str| {
            let path = folder.join(format!("{module}.log"));
            let mut file = LogFile::new(path.clone(), bytes_max);
            file.open().map_err(|source| LogError::File { path, source })?;
            Ok(Mutex::new(Sink::new(file)))
        };
        Ok(Self::Files(MODULES.into_iter().map(open).collect::<Result<_, LogError>>()?))
    }

    /// Writes a whole line; `note` puts into words how many were lost before it.
    pub(super) fn write(&self, module: usize, line: &str, note: impl Fn(u64) -> String) {
        // A panic in another thread leaves at worst a line that is cut short, which the sink knows.
        match self {
            Self::Stream(sink) => sink.lock().unwrap_or_else(PoisonError::into_inner).line(line, note),
            Self::Files(sinks) => sinks[module].lock().unwrap_or_else(PoisonError::into_inner).line(line, note),
        }
    }
}

/// What a sink writes into.
pub(super) trait Target: Write {
    /// Prepares for so many bytes that belong together.
    fn make_room(&mut self, _bytes: u64) {}
    /// Tells the operator, where there is another way to, that lines are being lost.
    fn complain(&self, _cause: &io::Error) {}
}

impl Target for Box<dyn Write + Send> {}

/// One place that lines go to, and what went wrong there.
pub(super) struct Sink<T> {
    target: T,
    lost: u64,
    torn: bool,
}

impl<T: Target> Sink<T> {
    fn new(target: T) -> Self {
        Self { target, lost: 0, torn: false }
    }

    fn line(&mut self, line: &str, note: impl Fn(u64) -> String) {
        if self.lost > 0 {
            // The note first: once it is through, the line has a chance as well.
            let note = note(self.lost);
            match self.attempt(&note) {
                Ok(()) => self.lost = 0,
                Err(_) => return self.lost += 1,
            }
        }
        if let Err(cause) = self.attempt(line) {
            self.target.complain(&cause);
            self.lost += 1;
        }
    }

    fn attempt(&mut self, line: &str) -> io::Result<()> {
        let line = if self.torn { Cow::Owned(format!("\n{line}")) } else { Cow::Borrowed(line) };
        self.target.make_room(line.len() as u64);
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match self.target.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = &rest[written..];
                    self.torn = !rest.is_empty();
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        self.target.flush()
    }
}

/// A module's file, and those put aside beside it: `store.log`, `store.log.1`, … from new to old.
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    bytes_max: u64,
    /// The size at which it is put aside next; grows when that fails.
    aside_at: u64,
}

impl LogFile {
    fn new(path: PathBuf, bytes_max: u64) -> Self {
        Self { path, file: None, size: 0, bytes_max, aside_at: bytes_max }
    }

    fn open(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            // Lines may name users and addresses, so only the owner and the group read them.
            let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
            self.size = file.metadata()?.len();
            self.aside_at = self.bytes_max;
            self.file = Some(file);
        }
        Ok(self.file.as_mut().expect("it was opened above, if it was not open"))
    }

    fn aside(&self, age: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{age}"));
        name.into()
    }

    fn put_aside(&self) -> io::Result<()> {
        for age in (1..MAX_FILES_KEPT).rev() {
            match fs::rename(self.aside(age), self.aside(age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.aside(1))
    }
}

impl Target for LogFile {
    fn make_room(&mut self, bytes: u64) {
        if self.size == 0 || self.size.saturating_add(bytes) <= self.aside_at {
            return;
        }
        match self.put_aside() {
            Ok(()) => self.file = None,
            // Going on with a file that is too large loses less than not writing at all.
            Err(_) => self.aside_at = self.aside_at.saturating_add(self.bytes_max),
        }
    }

    fn complain(&self, cause: &io::Error) {
        // If standard error is gone too, there is nobody left to tell.
        let _ = writeln!(io::stderr(), "warning: the log file `{}` cannot be written: {cause}", self.path.display());
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.open()?.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Nothing is buffered, and a line is not worth a sync of the disk.
        Ok(())
    }
}
