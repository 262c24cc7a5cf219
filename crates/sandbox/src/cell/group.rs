//! Where control groups are on this machine, which limits they stand for, and the folders that are ours in them. Every
//! folder that is made or removed lies beneath one whose name holds this spawner's own; nothing else is touched.

use model::LimitSet;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The controllers that stand for limits or counts.
const CONTROLLERS: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "blkio"];
/// The same on v2.
const CONTROLLERS_TWO: [&str; 4] = ["memory", "pids", "cpu", "io"];
/// How the name of a group ends into which a node is moved out of the way of its sandboxes' groups.
const ASIDE: &str = "host";
/// How long a group that was emptied may take to become removable.
const MAX_REMOVAL: Duration = Duration::from_secs(2);
/// What is read or set back for each sandbox.
const COUNTERS_ONE: [&str; 5] =
    ["memory.max_usage_in_bytes", "memory.usage_in_bytes", "memory.oom_control", "cpuacct.usage", "cpu.idle"];
const COUNTERS_TWO: [&str; 4] = ["memory.peak", "memory.events", "cpu.stat", "cpu.idle"];

/// Which of the two sorts of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

impl Version {
    /// Returns how many run in a cell besides what the limit counts: init, and its mother where there is one.
    pub(super) const fn own_pids(self) -> u64 {
        match self {
            Self::One => 2,
            Self::Two => 1,
        }
    }
}

/// Returns the files of a cell that are kept open.
pub(super) fn counters(version: Version) -> &'static [&'static str] {
    match version {
        Version::One => &COUNTERS_ONE,
        Version::Two => &COUNTERS_TWO,
    }
}

/// The hierarchies that are used, and our folder in each.
#[derive(Debug)]
pub(super) struct Hierarchies {
    pub(super) version: Version,
    folders: Vec<PathBuf>,
    limits: LimitSet,
    notes: Vec<String>,
}

impl Hierarchies {
    /// Looks for hierarchies in which a folder of this name can be made, and clears what is in such folders.
    pub(super) fn find(name: &str, is_privileged: bool) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut found =
            Self { version: Version::One, folders: Vec::new(), limits: LimitSet::default(), notes: Vec::new() };
        let (mut words, mut parents) = (Vec::new(), Vec::new());
        for controller in CONTROLLERS {
            let Some(parent) = place(&mounts, &own, Some(controller)) else { continue };
            // Two controllers may share one hierarchy.
            if !parents.contains(&parent) {
                let folder = hold(&parent).join(name);
                parents.push(parent);
                remove_tree(&folder);
                if std::fs::create_dir(&folder).is_err() {
                    continue;
                }
                found.folders.push(folder);
            }
            words.push(controller);
        }
        if words.is_empty()
            && let Some(parent) = place(&mounts, &own, None)
        {
            found.version = Version::Two;
            // Moved aside by an earlier spawner, this process is beside where the groups belong, and not in their place.
            let is_aside = parent.extension().is_some_and(|end| end == ASIDE);
            let parent = parent.parent().filter(|_| is_aside).map_or(parent.clone(), Path::to_owned);
            words = found.open_two(&hold(&parent), name);
        }
        let has = |word| words.contains(&word);
        found.limits =
            LimitSet { memory: has("memory"), cpu: has("cpu"), pids: has("pids"), io: has("blkio") || has("io") };
        let missing = LimitSet::ALL.without(found.limits);
        if !missing.is_empty() {
            let why =
                if is_privileged { "the machine has no control groups for it" } else { "no control group is ours" };
            found.notes.push(format!("no limits of {missing}: {why}"));
        }
        found
    }

    /// On v2 a group with processes has no controlled children, so whoever shares ours must be this spawner or its node;
    /// both are moved into a group of their own.
    fn open_two(&mut self, parent: &Path, name: &str) -> Vec<&'static str> {
        let folder = parent.join(name);
        remove_tree(&folder);
        let available = std::fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
        let words: Vec<_> =
            CONTROLLERS_TWO.into_iter().filter(|word| available.split_whitespace().any(|one| one == *word)).collect();
        if words.is_empty() || std::fs::create_dir(&folder).is_err() {
            return Vec::new();
        }
        let enable: String = words.iter().map(|word| format!("+{word} ")).collect();
        let control = parent.join("cgroup.subtree_control");
        if std::fs::write(&control, &enable).is_err()
            && (!move_aside(parent, &folder) || std::fs::write(&control, &enable).is_err())
        {
            remove_tree(&folder);
            return Vec::new();
        }
        if std::fs::write(folder.join("cgroup.subtree_control"), &enable).is_err() {
            remove_tree(&folder);
            return Vec::new();
        }
        self.folders.push(folder);
        words
    }

    pub(super) fn limits(&self) -> LimitSet {
        self.limits
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Does without control groups from here on.
    pub(super) fn give_up(&mut self, note: &str) {
        self.limits = LimitSet::default();
        self.notes.push(note.to_owned());
    }

    /// Makes one cell's folders.
    pub(super) fn make(&self, index: u32) -> rustix::io::Result<Vec<PathBuf>> {
        let folders: Vec<_> = self.folders.iter().map(|folder| folder.join(format!("cell-{index}"))).collect();
        for folder in &folders {
            match rustix::fs::mkdir(folder, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(folders)
    }

    /// Removes one cell's folders, whose processes are gone.
    pub(super) fn remove(&self, index: u32) {
        for folder in &self.folders {
            remove_group(&folder.join(format!("cell-{index}")));
        }
    }

    /// Removes all that is ours.
    pub(super) fn clear(&mut self) {
        for folder in self.folders.drain(..) {
            remove_tree(&folder);
        }
    }
}

/// Returns a path to a folder that goes on leading there when what it lies in is unmounted: by a descriptor that stays open
/// as long as this process.
fn hold(folder: &Path) -> PathBuf {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty())
        .map_or_else(|_| folder.to_owned(), |fd| PathBuf::from(format!("/proc/self/fd/{}", fd.into_raw_fd())))
}

/// Finds the folder of the group that this process is in, in the hierarchy of a controller, or of v2.
pub(crate) fn place(mounts: &str, own: &str, controller: Option<&str>) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (words, path) = (fields.next()?, fields.next()?);
        let is_it = controller.map_or(words.is_empty(), |word| words.split(',').any(|one| one == word));
        is_it.then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let right: Vec<_> = right.split(' ').collect();
        let left: Vec<_> = left.split(' ').collect();
        let is_it = match controller {
            Some(word) => *right.first()? == "cgroup" && right.get(2)?.split(',').any(|one| one == word),
            None => *right.first()? == "cgroup2",
        };
        let (root, point) = (left.get(3)?, left.get(4)?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        is_it.then(|| Path::new(point).join(below))
    })
}

/// Moves this process and its parent out of a group into one of its own, if they are alone there.
fn move_aside(parent: &Path, folder: &Path) -> bool {
    let here = std::fs::read_to_string(parent.join("cgroup.procs")).unwrap_or_default();
    let ours = [std::process::id().to_string(), std::os::unix::process::parent_id().to_string()];
    let aside = folder.with_extension(ASIDE);
    here.lines().all(|pid| ours.iter().any(|one| one == pid))
        && (aside.is_dir() || std::fs::create_dir(&aside).is_ok())
        && here.lines().all(|pid| std::fs::write(aside.join("cgroup.procs"), pid).is_ok())
}

/// Kills what is in our folder's groups, and removes them and it.
fn remove_tree(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    remove_group(folder);
}

fn remove_group(folder: &Path) {
    let end = Instant::now() + MAX_REMOVAL;
    while let Err(Errno::BUSY) = rustix::fs::rmdir(folder) {
        for pid in std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
            let pid = pid.parse().ok().filter(|pid| *pid != std::process::id().cast_signed());
            let _ = pid.map(|pid| crate::system::kill(pid, libc::SIGKILL));
        }
        if Instant::now() > end {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns the numbers of the disk that the root file system is on, if it is on one.
pub(crate) fn root_disk() -> Option<String> {
    let device = rustix::fs::stat("/").ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let folder = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if folder.join("partition").exists() {
        return Some(std::fs::read_to_string(folder.join("../dev")).ok()?.trim().to_owned());
    }
    folder.exists().then(|| format!("{major}:{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_on_either_version_and_below_foreign_roots() {
        let one = "30 20 0:25 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                   31 20 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let two = "30 20 0:25 /pod /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate\n";
        let check = |mounts: &str, own: &str, controller: Option<&str>, expected: Option<&str>| {
            assert_eq!(place(mounts, own, controller), expected.map(PathBuf::from), "{own}");
        };
        check(one, "4:cpu,cpuacct:/a/b\n0::/\n", Some("cpuacct"), Some("/sys/fs/cgroup/cpu,cpuacct/a/b"));
        check(one, "4:cpu,cpuacct:/\n0::/\n", Some("memory"), None);
        check(one, "4:cpu,cpuacct:/\n0::/x\n", None, Some("/sys/fs/cgroup/unified/x"));
        check(two, "0::/pod/me\n", None, Some("/sys/fs/cgroup/me"));
        check(two, "0::/elsewhere\n", None, None);
        check(two, "0::/pod\n", Some("cpu"), None);
    }
}
