//! Cells: control groups made ahead, one for each sandbox that runs at the same time, used again and again.
//!
//! On cgroup v1 a process can only be *born* in a group if its parent sits there, and to move one later costs 15 to 20 ms
//! of waiting for the kernel. So each cell has a *mother*: a thread of the spawner that was moved into the cell's groups
//! when they were made and clones the cell's sandboxes. The kernel lets single threads sit in groups of v1, and what a
//! thread clones is born where it sits, with memory charged there. A thread costs a stack, and the kernel never chooses it
//! when a cell's memory runs out, which it would do with a process. Mothers never run beside the spawner's main thread: it
//! waits while one clones, so that no lock is held at that moment by anybody.
//!
//! On cgroup v2 a child is born in a group by `CLONE_INTO_CGROUP`, so there cells are only folders, made anew after each use
//! because a peak cannot be set back before Linux 6.12.
//!
//! Which of the two, and which controllers, is read from /proc/self/mountinfo and /proc/self/cgroup. A limit that no
//! controller stands for is not enforced, and never said to be.

pub(crate) mod group;
mod mother;

use crate::descriptor;
use crate::event::{Fault, FaultKind};
use crate::init::{self, Birth};
use crate::system;
use group::{Hierarchies, Version};
use model::{LimitSet, Limits};
use mother::{Mother, Stacks};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How long the kernel hands out processor time for.
const PERIOD_US: u64 = 100_000;
/// The least quota that the kernel takes.
const MIN_QUOTA_US: u64 = 1_000;
/// Memory that may stay charged to a cell between two uses, as files that are still cached.
const MAX_LEFT_BYTES: u64 = 16 << 20;
/// Free cells that are enough for those that are cleared away to take their time.
const MIN_FREE: usize = 2;
/// Bytes of a control file that are looked at.
const MAX_FILE_BYTES: usize = 4096;

/// What a cell counted for one sandbox.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) cpu_us: Option<u64>,
    pub(crate) memory_peak_bytes: Option<u64>,
    pub(crate) oom_kills: u32,
}

/// How a cell's processes stand beside the machine's others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// As anybody.
    Usual,
    /// Behind everybody: nobody waits for what is built ahead or cleared away, and it must not keep those who are waited for.
    /// Known on cgroup v1 and v2 since Linux 5.15; before, nothing changes.
    Behind,
}

/// One sandbox's control groups.
#[derive(Debug)]
pub(crate) struct Cell {
    index: u32,
    mother: Option<Mother>,
    folder: Option<File>,
    folders: Vec<PathBuf>,
    /// What is read or written for each sandbox. The others are opened when a limit changes: every open file is one more for
    /// each sandbox to begin with and to close.
    files: BTreeMap<&'static str, File>,
    applied: Option<Limits>,
    /// The limit of storage traffic that was written last; a fresh group has none.
    io_bytes_second: u64,
    standing: Standing,
    first: First,
}

/// What a cell's counters showed when its present sandbox was born.
#[derive(Clone, Copy, Debug, Default)]
struct First {
    memory_bytes: u64,
    cpu_us: u64,
    oom_kills: u64,
}

/// All cells of a spawner.
#[derive(Debug)]
pub(crate) struct Cells {
    hierarchies: Hierarchies,
    stacks: Stacks,
    free: Vec<Cell>,
    made: u32,
    disk: Option<String>,
}

impl Cells {
    /// Finds out what there is, clears away what an earlier spawner of this name left, and makes the first cells. Refuses
    /// more than there is room for: limits that hold for some sandboxes only would hold for none.
    pub(crate) fn open(name: &str, count: u32, is_privileged: bool) -> Result<Self, String> {
        let hierarchies = Hierarchies::find(name, is_privileged);
        let mut cells =
            Self { hierarchies, stacks: Stacks::default(), free: Vec::new(), made: 0, disk: group::root_disk() };
        if cells.limits().is_empty() {
            return Ok(cells);
        }
        for _ in 0..count {
            match cells.make() {
                Ok(cell) => cells.free.push(cell),
                Err(Errno::MFILE | Errno::NFILE) => return Err(descriptor::full(count)),
                Err(errno) => {
                    cells.hierarchies.give_up(&format!("control groups cannot be used: {errno}"));
                    break;
                }
            }
        }
        Ok(cells)
    }

    /// Returns the limits that are enforced here.
    pub(crate) fn limits(&self) -> LimitSet {
        let mut limits = self.hierarchies.limits();
        limits.io &= self.disk.is_some();
        limits
    }

    /// Returns what is missing, a sentence each.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = self.hierarchies.notes().to_vec();
        if self.hierarchies.limits().io && self.disk.is_none() {
            notes.push("the disk under `/` cannot be told, so storage traffic is not limited".to_owned());
        }
        notes
    }

    /// Takes a cell and sets its limits; none if there are no control groups here.
    pub(crate) fn take(&mut self, limits: &Limits) -> Result<Option<Cell>, Fault> {
        self.check(limits)?;
        if self.limits().is_empty() {
            return Ok(None);
        }
        let what = |errno| crate::root::machine("the control groups could not be set up")(errno);
        let mut cell = self.clean().map_or_else(|| self.make(), Ok).map_err(what)?;
        // The spawner itself waits for the cell's mother.
        cell.stand(Standing::Usual);
        let applied = cell.apply(limits, self.hierarchies.version, self.disk.as_deref());
        if let Err(errno) = applied {
            self.free.push(cell);
            return Err(what(errno));
        }
        cell.begin(self.hierarchies.version);
        Ok(Some(cell))
    }

    /// Takes out a free cell to which little is charged any more. What the last sandbox shared in memory or held in files
    /// of its own goes a little after its end, and would count against the next one.
    fn clean(&mut self) -> Option<Cell> {
        let is_clean = |cell: &Cell| cell.read("memory.usage_in_bytes").is_none_or(|bytes| bytes <= MAX_LEFT_BYTES);
        let at = self.free.iter().rposition(is_clean)?;
        Some(self.free.swap_remove(at))
    }

    /// Takes back a cell whose sandbox is gone.
    pub(crate) fn give_back(&mut self, mut cell: Cell) {
        if self.hierarchies.version == Version::Two {
            self.hierarchies.remove(cell.index);
            if let Ok(cell) = self.make_at(cell.index) {
                self.free.push(cell);
            }
            return;
        }
        if cell.read("memory.usage_in_bytes").is_some_and(|bytes| bytes > MAX_LEFT_BYTES) {
            let _ = cell.write("memory.force_empty", "0");
        }
        if cell.counts(Version::One).cpu_us.is_none_or(|us| us > PERIOD_US / 10) {
            // A quota that is set anew is not owed what the last sandbox used up.
            cell.applied = None;
        }
        self.free.push(cell);
    }

    /// Tells whether those cells are needed soon whose sandboxes have ended.
    pub(crate) fn is_short(&self) -> bool {
        self.free.len() < MIN_FREE
    }

    /// Returns what a cell counted for its sandbox.
    pub(crate) fn counts(&self, cell: &Cell) -> Counts {
        cell.counts(self.hierarchies.version)
    }

    fn make(&mut self) -> rustix::io::Result<Cell> {
        let index = self.made;
        self.made += 1;
        self.make_at(index)
    }

    fn make_at(&mut self, index: u32) -> rustix::io::Result<Cell> {
        let folders = self.hierarchies.make(index)?;
        let (mut files, mut tasks) = (BTreeMap::new(), Vec::new());
        for folder in &folders {
            tasks.push(folder.join("tasks"));
            for name in group::counters(self.hierarchies.version) {
                if let Some(file) = open(&folder.join(name))? {
                    files.insert(*name, file);
                }
            }
        }
        let (mother, folder) = match self.hierarchies.version {
            Version::One => (Some(Mother::start(tasks, &mut self.stacks)?), None),
            Version::Two => {
                let folder = folders.first().map(Path::new).map(File::open);
                (None, folder.transpose().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?)
            }
        };
        let (applied, io_bytes_second, standing, first) = (None, 0, Standing::Usual, First::default());
        Ok(Cell { index, mother, folder, folders, files, applied, io_bytes_second, standing, first })
    }

    fn check(&self, limits: &Limits) -> Result<(), Fault> {
        let fault = |cause| Err(Fault { kind: FaultKind::Plan, cause });
        let missing = limits.demand.without(self.limits());
        if !missing.is_empty() {
            return fault(format!("this machine cannot enforce limits of {missing}, which are demanded"));
        }
        let (memory, processors) = (system::memory_bytes(), system::processors());
        if limits.memory_bytes > memory {
            return fault(format!("{} bytes of memory are asked for; this machine has {memory}", limits.memory_bytes));
        }
        if u64::from(limits.cpu_milli) > processors * 1000 {
            return fault(format!(
                "{} thousandths of a processor are asked for; this machine has {}",
                limits.cpu_milli,
                processors * 1000
            ));
        }
        Ok(())
    }
}

/// Opens a control file; none if it is not there, as not every kernel has every file.
fn open(path: &Path) -> rustix::io::Result<Option<File>> {
    let open = |write| File::options().read(true).write(write).open(path);
    match open(true).or_else(|_| open(false)).map_err(|error| Errno::from_io_error(&error)) {
        Ok(file) => Ok(Some(file)),
        // A limit would silently not hold.
        Err(Some(errno @ (Errno::MFILE | Errno::NFILE))) => Err(errno),
        Err(_) => Ok(None),
    }
}

impl Drop for Cells {
    fn drop(&mut self) {
        for mother in self.free.drain(..).filter_map(|cell| cell.mother) {
            mother.end(&mut self.stacks);
        }
        self.hierarchies.clear();
    }
}

impl Cell {
    /// Clones a sandbox that is born in this cell; returns its init.
    pub(crate) fn bear(&self, birth: Birth) -> rustix::io::Result<i32> {
        if let Some(mother) = &self.mother {
            mother.bear(Box::new(move || system::clone_process(birth.namespaces(), None, || init::run(&birth))))
        } else {
            let folder = self.folder.as_ref().map(AsFd::as_fd);
            system::clone_process(birth.namespaces(), folder, || init::run(&birth))
        }
    }

    /// Has its processes stand so beside others from now on.
    pub(crate) fn stand(&mut self, standing: Standing) {
        if self.standing == standing {
            return;
        }
        self.standing = standing;
        // Where there is no such file it only takes longer.
        if let Some(file) = self.files.get("cpu.idle") {
            let _ = file.write_all_at(if standing == Standing::Behind { b"1" } else { b"0" }, 0);
        }
    }

    /// Tells whether its processes stand behind others'.
    pub(crate) fn is_behind(&self) -> bool {
        self.standing == Standing::Behind
    }

    fn write(&self, name: &str, value: &str) -> rustix::io::Result<()> {
        let put = |file: &File| {
            file.write_all_at(value.as_bytes(), 0).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        if let Some(file) = self.files.get(name) {
            return put(file);
        }
        for folder in &self.folders {
            if let Some(file) = open(&folder.join(name))? {
                return put(&file);
            }
        }
        Ok(())
    }

    fn text(&self, name: &str) -> Option<String> {
        let mut buffer = [0; MAX_FILE_BYTES];
        let bytes = self.files.get(name)?.read_at(&mut buffer, 0).ok()?;
        Some(String::from_utf8_lossy(&buffer[..bytes]).into_owned())
    }

    fn read(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok()
    }

    /// Reads one number of a file of words and numbers.
    fn field(&self, name: &str, field: &str) -> Option<u64> {
        let text = self.text(name)?;
        text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok())
    }

    /// Writes the limits that differ from the last ones.
    fn apply(&mut self, limits: &Limits, version: Version, disk: Option<&str>) -> rustix::io::Result<()> {
        let last = self.applied.take();
        let differs = |part: fn(&Limits) -> u64| last.as_ref().is_none_or(|last| part(last) != part(limits));
        if differs(|limits| limits.memory_bytes) {
            self.apply_memory(limits.memory_bytes, version)?;
        }
        if differs(|limits| limits.pids.into()) {
            self.write("pids.max", &(u64::from(limits.pids) + version.own_pids()).to_string())?;
        }
        if differs(|limits| limits.cpu_milli.into()) {
            let quota = (u64::from(limits.cpu_milli) * PERIOD_US / 1000).max(MIN_QUOTA_US);
            match version {
                Version::One => {
                    self.write("cpu.cfs_period_us", &PERIOD_US.to_string())?;
                    self.write("cpu.cfs_quota_us", &quota.to_string())?;
                }
                Version::Two => self.write("cpu.max", &format!("{quota} {PERIOD_US}"))?,
            }
        }
        if let Some(disk) = disk.filter(|_| self.io_bytes_second != limits.io_bytes_second) {
            let bytes = limits.io_bytes_second;
            self.write("blkio.throttle.read_bps_device", &format!("{disk} {bytes}"))?;
            self.write("blkio.throttle.write_bps_device", &format!("{disk} {bytes}"))?;
            let word = if bytes == 0 { "max".to_owned() } else { bytes.to_string() };
            self.write("io.max", &format!("{disk} rbps={word} wbps={word}"))?;
            self.io_bytes_second = bytes;
        }
        self.applied = Some(*limits);
        Ok(())
    }

    fn apply_memory(&self, bytes: u64, version: Version) -> rustix::io::Result<()> {
        let bytes = bytes.to_string();
        if version == Version::Two {
            self.write("memory.max", &bytes)?;
            return self.write("memory.swap.max", "0");
        }
        // Memory with swap may never be less than memory, so which goes first depends on the direction.
        let (memory, swapped) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
        let set = || {
            self.write(memory, &bytes).and_then(|()| self.write(swapped, &bytes)).or_else(|_| {
                self.write(swapped, &bytes)?;
                self.write(memory, &bytes)
            })
        };
        set().or_else(|_| {
            self.write("memory.force_empty", "0")?;
            set()
        })
    }

    /// Notes what the counters show, so that only what follows is counted.
    fn begin(&mut self, version: Version) {
        if version == Version::One {
            // A kernel that refuses leaves the older peak, and `counts` says no less than was used.
            let _ = self.write("memory.max_usage_in_bytes", "0");
        }
        self.first = First {
            memory_bytes: self.read("memory.usage_in_bytes").unwrap_or(0),
            cpu_us: self.cpu_us(version).unwrap_or(0),
            oom_kills: self.oom_kills(version),
        };
    }

    fn cpu_us(&self, version: Version) -> Option<u64> {
        match version {
            Version::One => self.read("cpuacct.usage").map(|ns| ns / 1000),
            Version::Two => self.field("cpu.stat", "usage_usec"),
        }
    }

    fn oom_kills(&self, version: Version) -> u64 {
        let file = if version == Version::One { "memory.oom_control" } else { "memory.events" };
        self.field(file, "oom_kill ").unwrap_or(0)
    }

    fn counts(&self, version: Version) -> Counts {
        let peak = if version == Version::One { "memory.max_usage_in_bytes" } else { "memory.peak" };
        Counts {
            cpu_us: self.cpu_us(version).map(|us| us.saturating_sub(self.first.cpu_us)),
            memory_peak_bytes: self.read(peak).map(|bytes| bytes.saturating_sub(self.first.memory_bytes)),
            oom_kills: u32::try_from(self.oom_kills(version).saturating_sub(self.first.oom_kills)).unwrap_or(u32::MAX),
        }
    }
}
