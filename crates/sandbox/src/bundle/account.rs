//! What a container's control groups say of it: which limits they stand for, and what it used. The runtime makes and removes
//! them; which they are is read from its process, and they are only counted as its own if their path holds its name.

use super::Sort;
use crate::cell::{Counts, group};
use model::LimitSet;
use rustix::io::Errno;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a group whose processes were killed may take to be empty.
const MAX_REMOVAL: Duration = Duration::from_secs(2);

/// A container's control groups.
#[derive(Debug, Default)]
pub(super) struct Account {
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    enforced: LimitSet,
}

impl Account {
    /// Finds the groups of a process, as far as they are those of this container alone.
    pub(super) fn open(pid: i32, id: &str, sort: Sort) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let is_own = |path: &PathBuf| path.iter().any(|part| part == id);
        let find = |controller: Option<&str>, file: &str| {
            group::place(&mounts, &own, controller).filter(|path| is_own(path) && path.join(file).exists())
        };
        let either =
            |one: &str, file_one: &str, file_two: &str| find(Some(one), file_one).or_else(|| find(None, file_two));
        let memory = either("memory", "memory.limit_in_bytes", "memory.max");
        let cpu = either("cpuacct", "cpuacct.usage", "cpu.stat");
        let enforced = LimitSet {
            memory: memory.is_some(),
            cpu: either("cpu", "cpu.cfs_quota_us", "cpu.max").is_some(),
            // A kernel of its own is not asked to count.
            pids: sort == Sort::Plain && either("pids", "pids.max", "pids.max").is_some(),
            io: either("blkio", "blkio.throttle.read_bps_device", "io.max").is_some() && group::root_disk().is_some(),
        };
        Self { memory, cpu, enforced }
    }

    /// Returns the limits that hold.
    pub(super) const fn enforced(&self) -> LimitSet {
        self.enforced
    }

    /// Returns what the groups counted, which are made anew for each container.
    pub(super) fn counts(&self) -> Counts {
        let read = |folder: &Option<PathBuf>, file: &str| fs::read_to_string(folder.as_ref()?.join(file)).ok();
        let number = |folder: &Option<PathBuf>, file: &str| read(folder, file)?.trim().parse::<u64>().ok();
        let field = |folder: &Option<PathBuf>, file: &str, field: &str| {
            read(folder, file)?.lines().find_map(|line| line.strip_prefix(field)?.trim().parse::<u64>().ok())
        };
        let kills = field(&self.memory, "memory.oom_control", "oom_kill ")
            .or_else(|| field(&self.memory, "memory.events", "oom_kill "));
        Counts {
            cpu_us: number(&self.cpu, "cpuacct.usage")
                .map(|ns| ns / 1000)
                .or_else(|| field(&self.cpu, "cpu.stat", "usage_usec ")),
            memory_peak_bytes: number(&self.memory, "memory.max_usage_in_bytes")
                .or_else(|| number(&self.memory, "memory.peak")),
            oom_kills: u32::try_from(kills.unwrap_or(0)).unwrap_or(u32::MAX),
        }
    }
}

/// Removes the groups of a container that is gone, where its runtime has not: it may lack what it would need for that.
pub(super) fn remove(id: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let paths: Vec<_> = own.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(point), Some(kind)) = (left.split(' ').nth(4), right.split(' ').next()) else { continue };
        if kind != "cgroup" && kind != "cgroup2" {
            continue;
        }
        let below = |path: &&str| Path::new(point).join(path.trim_start_matches('/')).join(id);
        for folder in paths.iter().map(below).chain([Path::new(point).join(id)]) {
            remove_one(&folder);
        }
    }
}

fn remove_one(folder: &Path) {
    let end = Instant::now() + MAX_REMOVAL;
    while let Err(Errno::BUSY) = rustix::fs::rmdir(folder) {
        if Instant::now() > end {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
