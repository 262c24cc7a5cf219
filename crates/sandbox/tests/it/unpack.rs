//! Unpacking: what a layer becomes, and that no archive gets anything else.

mod hostile;
mod layer;
mod tape;

use sandbox::Place;
use sandbox::unpack::{Settings, UnpackError, Unpacked, unpack};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub(crate) use model::image::Packing;
pub(crate) use tape::Tape;

/// Where the ids of what the tests unpack lie.
const FIRST: u32 = 1_300_000;

/// A place to unpack into, beside something that nobody may touch.
struct Room {
    folder: tempfile::TempDir,
    settings: Settings,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder is made");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        for name in ["root", "outside", "outside/inner"] {
            fs::create_dir(folder.path().join(name)).expect("a folder is made");
        }
        fs::write(folder.path().join("outside/secret"), "secret").expect("a file is written");
        let is_root = rustix::process::geteuid().is_root();
        let place = if is_root { Place::Range { first: FIRST, count: 65_536 } } else { Place::Own };
        // Everybody may write there, so that only the walls keep what is inside from doing it.
        for name in ["outside", "outside/inner", "outside/secret"] {
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o777)).expect("it is ours");
        }
        let settings = Settings {
            program: program(),
            args: vec!["unpack".to_owned()],
            bytes_max: 64 << 20,
            entries_max: 20_000,
            time_max: Duration::from_secs(120),
            ..Settings::new(place)
        };
        Self { folder, settings }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn outside(&self) -> PathBuf {
        self.folder.path().join("outside")
    }

    /// Unpacks, and holds the world outside against what it was.
    fn unpack(&self, archive: &[u8], packing: Packing) -> Result<Unpacked, UnpackError> {
        let before = listing(&self.outside());
        let found = unpack(&self.settings, file_of(archive), packing, &self.root(), &AtomicBool::new(false));
        assert_eq!(listing(&self.outside()), before, "something outside has changed");
        assert_eq!(children(), 0, "a child is left");
        found
    }
}

/// The program beside the tests that does nothing but unpack.
fn program() -> PathBuf {
    let tests = std::env::current_exe().expect("we run");
    tests.ancestors().nth(2).expect("tests lie in `deps`").join("examples/unpack")
}

fn file_of(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file is made");
    file.write_all(content).expect("it is written");
    file.rewind().expect("it is a plain file");
    file
}

fn children() -> usize {
    let of_task =
        |task: &Path| fs::read_to_string(task.join("children")).unwrap_or_default().split_whitespace().count();
    let tasks = fs::read_dir("/proc/self/task").expect("proc is there");
    tasks.map(|task| of_task(&task.expect("a task has a name").path())).sum()
}

/// Everything about a tree that a layer decides: by path, sort, mode, owner, length, link and time.
fn listing(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![folder.to_owned()];
    while let Some(path) = todo.pop() {
        let about = fs::symlink_metadata(&path).expect("what was listed is there");
        let sort = about.file_type();
        let first = if about.uid() >= FIRST { FIRST } else { 0 };
        let rest = if sort.is_symlink() {
            format!("-> {}", fs::read_link(&path).expect("is a link").display())
        } else if sort.is_file() {
            format!("{} bytes, {} links", about.len(), about.nlink())
        } else if sort.is_char_device() {
            format!("device {}", about.rdev())
        } else if sort.is_fifo() {
            "fifo".to_owned()
        } else {
            todo.extend(fs::read_dir(&path).expect("is a folder").map(|entry| entry.expect("has a name").path()));
            "folder".to_owned()
        };
        let name = path.strip_prefix(folder).expect("lies below").to_string_lossy().into_owned();
        let (mode, user, group) = (about.mode() & 0o7777, about.uid() - first, about.gid() - first);
        // Folders that no entry describes were made a moment ago.
        let time = if about.mtime() > 1_700_000_000 { "now".to_owned() } else { about.mtime().to_string() };
        found.insert(name, format!("{mode:o} {user}:{group} {rest} @{time}"));
    }
    found
}
