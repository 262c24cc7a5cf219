//! A folder of this side as an archive: modes, links, owners as they are seen here; no devices, sockets or attributes.
//!
//! Nothing outside of the folder is read: a symbolic link is archived, never followed. What changes while it is read
//! may end the archive with an error, and never makes it lie about a length.

use rustix::fs::OFlags;
use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// Entries of one archive.
const MAX_ENTRIES: usize = 4_000_000;
/// Folders within folders.
const MAX_DEPTH: usize = 512;

/// What was left out, and how much was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Packed {
    /// Entries that were written.
    pub(super) entries: usize,
    /// Devices and sockets that were left out.
    pub(super) left_out: usize,
}

/// Whoever packs a folder.
struct Packer<W: Write> {
    builder: Builder<W>,
    packed: Packed,
    /// Where a file with several names was first met.
    met: HashMap<(u64, u64), PathBuf>,
}

/// Writes a folder, with everything in it, as an archive.
pub(super) fn pack(folder: &Path, to: impl Write) -> io::Result<Packed> {
    let mut packer = Packer { builder: Builder::new(to), packed: Packed::default(), met: HashMap::new() };
    packer.folder(folder, Path::new(""), 0)?;
    packer.builder.into_inner()?.flush()?;
    Ok(packer.packed)
}

impl<W: Write> Packer<W> {
    fn folder(&mut self, place: &Path, name: &Path, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other(format!("`{}` lies deeper than {MAX_DEPTH} folders", place.display())));
        }
        let mut entries =
            fs::read_dir(place).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(named(place))?;
        // One folder makes one archive, whatever order the machine lists it in.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            let metadata = fs::symlink_metadata(&path).map_err(named(&path))?;
            self.entry(&path, &name, &metadata).map_err(named(&path))?;
            if metadata.is_dir() {
                self.folder(&path, &name, depth + 1)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> io::Result<()> {
        let kind = metadata.file_type();
        if kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
            self.packed.left_out += 1;
            return Ok(());
        }
        self.packed.entries += 1;
        if self.packed.entries > MAX_ENTRIES {
            return Err(io::Error::other(format!("the folder holds more than {MAX_ENTRIES} entries")));
        }
        let mut header = header(metadata);
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return self.builder.append_link(&mut header, name, fs::read_link(path)?);
        }
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            return self.builder.append_data(&mut header, name, io::empty());
        }
        if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
            return self.builder.append_data(&mut header, name, io::empty());
        }
        if metadata.nlink() > 1
            && let Some(first) = self.met.get(&(metadata.dev(), metadata.ino()))
        {
            header.set_entry_type(EntryType::Link);
            return self.builder.append_link(&mut header, name, first);
        }
        let size = metadata.len();
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        let mut content = Exact { file: open(path)?, left: size };
        self.builder.append_data(&mut header, name, &mut content)?;
        if metadata.nlink() > 1 {
            self.met.insert((metadata.dev(), metadata.ino()), name.to_owned());
        }
        Ok(())
    }
}

fn header(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}

/// Opens a file that was a plain one when it was looked at; a link or a pipe that has taken its place is not followed
/// and not waited for.
fn open(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("the flags of `open` are an int");
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it was replaced while it was read")) }
}

/// Adds the file's name to what went wrong with it; a reader that has gone is nobody's fault.
fn named(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::Other => error,
        kind => io::Error::new(kind, format!("`{}`: {error}", path.display())),
    }
}

/// A file that is read to the length it had when it was looked at, neither less nor more.
struct Exact {
    file: fs::File,
    left: u64,
}

impl io::Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..room])?;
        if count == 0 && room > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_folder_becomes_an_archive_with_modes_and_links() {
        let folder = tempfile::tempdir().expect("is made");
        let root = folder.path();
        let long = "n".repeat(150);
        fs::create_dir_all(root.join("bin")).expect("is made");
        fs::write(root.join("bin/tool"), "#!/bin/sh\n").expect("is written");
        fs::set_permissions(root.join("bin/tool"), fs::Permissions::from_mode(0o4755)).expect("is set");
        fs::hard_link(root.join("bin/tool"), root.join("bin/twin")).expect("is linked");
        symlink("/etc/passwd", root.join("out")).expect("is linked");
        fs::write(root.join(&long), "x").expect("is written");
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).expect("is bound");
        let mut archive = Vec::new();
        assert_eq!(pack(root, &mut archive).expect("is packed"), Packed { entries: 5, left_out: 1 });
        let mut archive = tar::Archive::new(archive.as_slice());
        let entries = archive.entries().expect("is an archive").map(|entry| {
            let entry = entry.expect("is an entry");
            let link = entry.link_name().expect("is a name").map(|link| link.display().to_string());
            let name = entry.path().expect("is a name").display().to_string();
            let mode = entry.header().mode().expect("is a mode");
            (name, entry.header().entry_type(), mode & 0o7000, entry.size(), link)
        });
        let entries: Vec<_> = entries.collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            entries,
            [
                ("bin".to_owned(), EntryType::Directory, 0, 0, None),
                ("bin/tool".to_owned(), EntryType::Regular, 0o4000, 10, None),
                ("bin/twin".to_owned(), EntryType::Link, 0o4000, 0, text("bin/tool")),
                (long, EntryType::Regular, 0, 1, None),
                ("out".to_owned(), EntryType::Symlink, 0, 0, text("/etc/passwd")),
            ]
        );
    }

    #[test]
    fn what_has_taken_a_files_place_is_not_read() {
        let folder = tempfile::tempdir().expect("is made");
        let check = |name: &str, is_good: bool| assert_eq!(open(&folder.path().join(name)).is_ok(), is_good, "{name}");
        fs::write(folder.path().join("plain"), "x").expect("is written");
        symlink("plain", folder.path().join("link")).expect("is linked");
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("is made");
        check("plain", true);
        for bad in ["link", "pipe", ".", "nothing"] {
            check(bad, false);
        }
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("is made");
        fs::write(file.path(), "abc").expect("is written");
        let mut exact = Exact { file: fs::File::open(file.path()).expect("opens"), left: 4 };
        let error = io::copy(&mut exact, &mut io::sink()).expect_err("is too short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
