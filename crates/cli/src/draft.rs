//! A file being written beside the place it will have: it appears there whole or not at all.

use anyhow::Context;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Who may read the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner alone.
    Owner,
    /// Whoever may read the owner's files.
    Anybody,
}

/// The file; unless kept, it vanishes.
#[derive(Debug)]
pub(crate) struct Draft {
    path: PathBuf,
    draft: PathBuf,
    file: File,
    is_kept: bool,
}

impl Draft {
    /// Begins a file that shall stand at `path`.
    pub(crate) fn begin(path: &Path, readers: Readers) -> anyhow::Result<Self> {
        let name = path.file_name().with_context(|| format!("`{}` is not a file's name", path.display()))?;
        let mut draft_name = std::ffi::OsString::from(".");
        draft_name.push(name);
        draft_name.push(format!(".{}", std::process::id()));
        let draft = path.with_file_name(draft_name);
        let mode = if readers == Readers::Owner { 0o600 } else { 0o666 };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&draft)
            .with_context(|| format!("`{}` cannot be written", path.display()))?;
        Ok(Self { path: path.to_owned(), draft, file, is_kept: false })
    }

    /// Adds to the file.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.file.write_all(bytes).with_context(|| format!("`{}` cannot be written", self.path.display()))
    }

    /// Returns the file, for whoever writes it by places.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Puts the file at its place.
    pub(crate) fn keep(mut self) -> anyhow::Result<()> {
        let cannot = || format!("`{}` cannot be written", self.path.display());
        self.file.sync_all().with_context(cannot)?;
        std::fs::rename(&self.draft, &self.path).with_context(cannot)?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            // It may be gone already; there is nothing more to do about it.
            let _ = std::fs::remove_file(&self.draft);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_draft_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("is made");
        let path = folder.path().join("token");
        let mut draft = Draft::begin(&path, Readers::Owner).expect("begins");
        draft.write(b"half").expect("is written");
        drop(draft);
        assert_eq!(std::fs::read_dir(folder.path()).expect("is read").count(), 0);

        let mut draft = Draft::begin(&path, Readers::Owner).expect("begins");
        draft.write(b"whole").expect("is written");
        draft.keep().expect("is kept");
        assert_eq!(std::fs::read(&path).expect("is read"), b"whole");
        assert_eq!(std::fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
    }
}
