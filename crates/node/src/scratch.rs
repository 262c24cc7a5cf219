//! Scratch: a file in the making, which goes with whoever wanted it.
//!
//! Who is given up may leave a thread behind that cannot be stopped and is only about to make the file. It would make it
//! after its removal, and nobody would remove it again. So each file has a folder of its own, and the *folder* goes: once
//! that is gone nothing can be made in it. What a crash leaves is thrown away by whoever opens the parent folder next.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How often a folder is removed into which somebody is just making the file: whoever makes it does so once or twice.
const MAX_REMOVALS: u32 = 16;

/// Counts the folders, so that no two have one name.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A name for a file, in a folder that goes when this does.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
    path: PathBuf,
}

impl Scratch {
    /// Makes the folder; the file is for others to make.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        let folder = parent.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&folder)?;
        Ok(Self { path: folder.join("file"), folder })
    }

    /// Returns where the file is to be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for _ in 0..MAX_REMOVALS {
            match fs::remove_dir_all(&self.folder) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                // What cannot be removed is thrown away when the parent folder is opened again.
                Ok(()) | Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_file_goes_with_its_name_and_cannot_be_made_later() {
        let parent = tempfile::tempdir().expect("is made");
        let (one, two) = (Scratch::new(parent.path()).expect("is made"), Scratch::new(parent.path()).expect("is made"));
        fs::write(one.path(), "half").expect("is written");
        let late = one.path().to_owned();
        drop((one, two));
        assert_eq!(fs::read_dir(parent.path()).expect("is there").count(), 0);
        assert_eq!(fs::write(late, "too late").expect_err("has no folder").kind(), ErrorKind::NotFound);
    }

    #[test]
    fn whoever_makes_the_file_meanwhile_leaves_nothing() {
        let parent = tempfile::tempdir().expect("is made");
        for _ in 0..200 {
            let scratch = Scratch::new(parent.path()).expect("is made");
            let (path, is_over) = (scratch.path().to_owned(), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // Once before it goes, mostly, and once while it does or after.
                    let first = fs::write(&path, "one");
                    while !is_over.load(Ordering::Relaxed) && first.is_ok() && path.exists() {
                        std::hint::spin_loop();
                    }
                    let _ = fs::write(&path, "two");
                });
                drop(scratch);
                is_over.store(true, Ordering::Relaxed);
            });
            assert_eq!(fs::read_dir(parent.path()).expect("is there").count(), 0);
        }
    }
}
