//! The facts of a machine: read here, judged elsewhere. What cannot be read is absent, never an error.

use super::probe;
use jiff::{SignedDuration, Timestamp};
use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, geteuid, getrlimit};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of any file of `/proc` or `/sys` that is read.
const MAX_FACT_BYTES: u64 = 1 << 20;
/// How often a small write is forced to the disk, to time it.
const SYNCS: usize = 9;

/// What is known of a machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Whether we are root.
    pub(crate) is_root: bool,
    /// The kernel's release, such as `6.1.0-18-amd64`.
    pub(crate) kernel: String,
    /// What came of really entering a user namespace: nothing said means that it worked.
    pub(crate) userns_tried: Option<Result<(), String>>,
    /// `kernel.unprivileged_userns_clone`, which Debian and Ubuntu add.
    pub(crate) userns_clone: Option<u64>,
    /// `user.max_user_namespaces`.
    pub(crate) userns_max: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`.
    pub(crate) userns_apparmor: Option<u64>,
    /// The mounted trees of control groups, and our place in them.
    pub(crate) hierarchies: Vec<Hierarchy>,
    /// The file systems that the kernel knows, one a line.
    pub(crate) filesystems: String,
    /// What came of opening `/dev/kvm`; absent if there is none.
    pub(crate) kvm: Option<Result<(), String>>,
    /// `kernel.core_pattern`.
    pub(crate) core_pattern: Option<String>,
    /// What seccomp filters may do.
    pub(crate) seccomp: Option<String>,
    /// The security modules that are on.
    pub(crate) lsm: Option<String>,
    /// `kernel.yama.ptrace_scope`.
    pub(crate) ptrace_scope: Option<u64>,
    /// Memory in all, and memory that could be had now.
    pub(crate) memory_bytes: Option<(u64, u64)>,
    /// Files that we may open now, and as many as we may ask for; absent means as many as we like.
    pub(crate) open_files: (Option<u64>, Option<u64>),
    /// The folder of data.
    pub(crate) disk: Disk,
    /// What the clock says.
    pub(crate) now: Timestamp,
    /// Whether somebody keeps the clock right, as far as one can tell.
    pub(crate) is_synchronised: Option<bool>,
}

/// A mounted tree of control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// 1 or 2.
    pub(crate) version: u8,
    /// Our own group in it.
    pub(crate) path: PathBuf,
    /// What can be controlled there.
    pub(crate) controllers: Vec<String>,
    /// Whether we could make a group below ours.
    pub(crate) is_writable: bool,
}

/// The folder of data, or the nearest one above it that exists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) free_bytes: Option<u64>,
    pub(crate) free_inodes: Option<u64>,
    /// How long forcing a small write to the disk takes, in the median; or why nothing could be written.
    pub(crate) sync: Option<Result<Duration, String>>,
    /// By how much the clock of the disk is ahead of ours.
    pub(crate) ahead: Option<SignedDuration>,
}

impl Facts {
    /// Reads this machine.
    pub(crate) fn gather(data: &Path) -> Self {
        let mountinfo = text("/proc/self/mountinfo").unwrap_or_default();
        let own = text("/proc/self/cgroup").unwrap_or_default();
        let limit = getrlimit(Resource::Nofile);
        Self {
            is_root: geteuid().is_root(),
            kernel: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            userns_tried: probe::try_user_namespace(),
            userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            userns_max: number("/proc/sys/user/max_user_namespaces"),
            userns_apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            hierarchies: hierarchies(&mountinfo, &own).into_iter().map(look).collect(),
            filesystems: text("/proc/filesystems").unwrap_or_default(),
            kvm: kvm(),
            core_pattern: text("/proc/sys/kernel/core_pattern"),
            seccomp: text("/proc/sys/kernel/seccomp/actions_avail"),
            lsm: text("/sys/kernel/security/lsm"),
            ptrace_scope: number("/proc/sys/kernel/yama/ptrace_scope"),
            memory_bytes: memory(&text("/proc/meminfo").unwrap_or_default()),
            open_files: (limit.current, limit.maximum),
            disk: disk(data),
            now: client::id::now(),
            is_synchronised: synchronised(),
        }
    }
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_FACT_BYTES).read_to_string(&mut text).ok()?;
    Some(text.trim_end().to_owned())
}

fn number(path: &str) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

fn kvm() -> Option<Result<(), String>> {
    let path = Path::new("/dev/kvm");
    path.exists().then(|| match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
}

fn memory(meminfo: &str) -> Option<(u64, u64)> {
    let line = |name: &str| {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = rest.split_whitespace().next()?.parse().ok()?;
        Some(kibibytes << 10)
    };
    Some((line("MemTotal:")?, line("MemAvailable:")?))
}

/// Says whether time comes from elsewhere; a machine without systemd does not tell.
fn synchronised() -> Option<bool> {
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Some(true);
    }
    let has_timesyncd = Path::new("/run/systemd/timesync").exists();
    let has_other = ["/run/chrony", "/run/chronyd.pid", "/run/ntpd.pid", "/run/openntpd.pid"];
    if has_other.iter().any(|path| Path::new(path).exists()) { None } else { has_timesyncd.then_some(false) }
}

/// Reads which trees are mounted and where our group is in them. Controllers of version 2 are filled in by `look`.
pub(crate) fn hierarchies(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
    let place = |version: u8, controllers: &[String]| {
        let mut lines = own.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?, parts.next()?))
        });
        let is_ours = |names: &str| match version {
            2 => names.is_empty(),
            _ => !names.is_empty() && names.split(',').any(|name| controllers.iter().any(|held| held == name)),
        };
        lines.find(|(names, _)| is_ours(names)).map_or_else(|| "/".to_owned(), |(_, path)| path.to_owned())
    };
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let mut words = mount.split(' ').skip(3);
            let (root, point) = (words.next()?, words.next()?);
            let mut kind = kind.split(' ');
            let version = match kind.next()? {
                "cgroup" => 1,
                "cgroup2" => 2,
                _ => return None,
            };
            let options = kind.nth(1).unwrap_or_default().split(',');
            let controllers: Vec<String> = match version {
                1 => options.filter(|name| !matches!(*name, "rw" | "ro")).map(str::to_owned).collect(),
                _ => Vec::new(),
            };
            let group = place(version, &controllers);
            let below = group.strip_prefix(root.trim_end_matches('/')).unwrap_or(&group).trim_start_matches('/');
            let path = Path::new(point).join(below);
            Some(Hierarchy { version, path, controllers, is_writable: false })
        })
        .collect()
}

/// Looks at our group: what it can control, and whether we could make one below it.
fn look(mut hierarchy: Hierarchy) -> Hierarchy {
    if hierarchy.version == 2 {
        let names = text(hierarchy.path.join("cgroup.controllers")).unwrap_or_default();
        hierarchy.controllers = names.split_whitespace().map(str::to_owned).collect();
    }
    let group = hierarchy.path.join(format!("quarry-doctor-{}", std::process::id()));
    hierarchy.is_writable = access(&hierarchy.path, Access::WRITE_OK).is_ok() && std::fs::create_dir(&group).is_ok();
    if hierarchy.is_writable {
        // A group that is empty, as this one is, can always be removed.
        let _ = std::fs::remove_dir(&group);
    }
    hierarchy
}

fn disk(data: &Path) -> Disk {
    let whole = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let path = whole.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned();
    let stat = statvfs(&path).ok();
    let free_bytes = stat.as_ref().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    // Some file systems make inodes as they go and count none.
    let free_inodes = stat.filter(|stat| stat.f_files > 0).map(|stat| stat.f_favail);
    let (sync, ahead) = match write_test(&path) {
        Ok((sync, ahead)) => (Ok(sync), ahead),
        Err(error) => (Err(error.to_string()), None),
    };
    Disk { path, free_bytes, free_inodes, sync: Some(sync), ahead }
}

/// Writes a small file as a database would, and compares its time with ours.
fn write_test(folder: &Path) -> std::io::Result<(Duration, Option<SignedDuration>)> {
    let path = folder.join(format!(".quarry-doctor-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let timed = (|| {
        let mut times = Vec::new();
        for _ in 0..SYNCS {
            let began = Instant::now();
            file.write_all(&[0; 4096])?;
            file.sync_data()?;
            times.push(began.elapsed());
        }
        times.sort_unstable();
        let modified = Timestamp::try_from(file.metadata()?.modified()?).ok();
        let ahead = modified.map(|modified| modified.duration_since(client::id::now()));
        Ok((times[SYNCS / 2], ahead))
    })();
    // Whether it can be removed says nothing that writing has not said.
    let _ = std::fs::remove_file(&path);
    timed
}
