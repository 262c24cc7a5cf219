//! Where a spawner works: its state folder, its mount namespace, the ids of its sandboxes; and what this machine lets it do.

use crate::cell::Cells;
use crate::confine::{self, Means};
use crate::core;
use crate::message::{self, Command};
use crate::plan::{self, Plan};
use crate::root::stock::Stock;
use crate::root::veil::Veil;
use crate::root::{self, Ground};
use crate::spare::{Pair, Spare, Untouched};
use crate::spawner::{Abilities, Settings};
use crate::{ids, network, system};
use model::{Network, SandboxKind};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// User namespaces that are kept for later.
const MAX_SPARE_IDS: usize = 256;
/// How often, and how far apart, the lock of a state folder is asked for.
const MAX_LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// File systems that hold files of the machine's, to be seen over its own root.
const FILE_SYSTEMS: [&str; 9] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "overlay", "bcachefs"];

/// Where a spawner works.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) ids: plan::Place,
    pub(super) ground: Arc<Ground>,
    /// The name of its control groups.
    pub(super) group: String,
    state: PathBuf,
    spare_ids: Vec<OwnedFd>,
    /// How many of those were made.
    owners: u32,
    spares: Option<Spare>,
    notes: Vec<String>,
    networks: Vec<Network>,
    _lock: OwnedFd,
}

/// Puts something harmless in place of the node's socket as standard input.
pub(super) fn close_standard_input() -> rustix::io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    system::occupy_stdio();
    Ok(())
}

impl Place {
    /// Gets ready, or says in one sentence why that cannot be.
    pub(super) fn open(settings: &Settings) -> Result<Self, String> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        ids::check(settings.place, uid == 0)?;
        let state = prepare(&settings.state)?;
        let lock = lock(&state)?;
        system::adopt_orphans();
        let is_privileged = uid == 0;
        let mut notes = Vec::new();
        let mut hidden = Vec::new();
        for path in settings.hidden.iter().chain([&state]) {
            let path = std::path::absolute(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
            // Both what leads there and where it leads; of what is not there yet only the first is known.
            hidden.extend(path.canonicalize().ok().filter(|real| *real != path));
            hidden.push(path);
        }
        if !is_privileged {
            // Who is the same inside and outside could read there what strangers may not.
            hidden.extend(root::private::find(&hidden));
        }
        let mounts = other_mounts(&hidden);
        let mut stock = None;
        if is_privileged {
            let said = |errno| format!("the spawner could not get mounts of its own: {errno}");
            // No other thread is there yet, so this concerns the whole process.
            system::unshare_mounts().map_err(said)?;
            let told = rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC);
            told.map_err(|errno| match errno {
                Errno::INVAL => "`/` is no mount: in a chroot the kernel makes no user namespaces; containers and \
                                 `systemd-nspawn` change their root by `pivot_root`, where it does"
                    .to_owned(),
                other => said(other),
            })?;
            let made = Stock::make(&state.join("stock"), &hidden);
            stock = Some(made.map_err(|errno| format!("what all sandboxes share cannot be made: {errno}"))?);
        } else {
            notes.push("the spawner is not the superuser: one id inside, and no control groups but its own".to_owned());
        }
        notes.extend(confine::lacks());
        let mut networks = vec![Network::None, Network::Host];
        match network::open_tun() {
            Ok(_) => networks.push(Network::Egress),
            Err(errno) => notes.push(format!("no network `egress`: `/dev/net/tun` cannot be opened: {errno}")),
        }
        // Without them each sandbox makes its own, which is only slower.
        let spares = if is_privileged { Spare::open(settings.cells as usize).ok() } else { None };
        let (owner, group) = match settings.place {
            plan::Place::Range { first, .. } => (first, first),
            plan::Place::Own => (uid, gid),
        };
        let covered = covered(stock.as_ref(), &mounts, &hidden);
        let ground = Ground {
            scratch: state.join("scratch"),
            root: state.join("root"),
            stock,
            veil: Veil::find(),
            mounts,
            covered,
            hidden,
            is_privileged,
            owner,
            group,
        };
        Ok(Self {
            ids: settings.place,
            ground: Arc::new(ground),
            group: format!("quarry-{:016x}", fingerprint(&state)),
            state,
            spare_ids: Vec::new(),
            owners: 0,
            spares,
            notes,
            networks,
            _lock: lock,
        })
    }

    /// Lets go of mounts that no sandbox will see: each would be copied for every sandbox and taken down again.
    pub(super) fn shed(&self) {
        if self.ground.is_privileged {
            // Whoever has no such mount is as well off.
            let _ = rustix::mount::unmount("/sys", rustix::mount::UnmountFlags::DETACH);
        }
    }

    /// Says what can be done here.
    pub(super) fn abilities(&self, cells: &Cells) -> Abilities {
        let mut notes = self.notes.clone();
        notes.extend(cells.notes());
        Abilities {
            limits: cells.limits(),
            networks: self.networks.clone(),
            kinds: vec![SandboxKind::Process, SandboxKind::Oci],
            notes,
        }
    }

    /// Returns by what a program of this plan is confined.
    pub(super) fn means(&self, plan: &Plan, counts_processes: bool, keeps_notes: bool) -> Means {
        Means { counts_processes, kernel_core_bytes: core::kernel_bytes_max(plan), keeps_notes }
    }

    /// Takes a user namespace; none if sandboxes make their own.
    pub(super) fn take_ids(&mut self) -> rustix::io::Result<Option<OwnedFd>> {
        let plan::Place::Range { first, count } = self.ids else { return Ok(None) };
        if let Some(spare) = self.spare_ids.pop() {
            return Ok(Some(spare));
        }
        // From the highest on: ids inside are mostly low, and what is theirs is counted by them as well.
        let owner = first + (count - 1 - self.owners % count);
        self.owners = self.owners.wrapping_add(1);
        ids::make(first, count, owner).map(Some)
    }

    /// Takes the namespaces for a plan that is to reach nothing, if they are ready.
    pub(super) fn take_spare(&mut self, plan: &Plan) -> Option<Pair> {
        self.spares.as_mut().filter(|_| plan.network == Network::None)?.take()
    }

    /// Takes back namespaces in which nobody is.
    pub(super) fn give_back_spare(&mut self, pair: Option<Pair>, untouched: Untouched) {
        if let Some((spares, pair)) = self.spares.as_mut().zip(pair) {
            spares.give_back(pair, untouched);
        }
    }

    /// Takes back a user namespace in which nobody is.
    pub(super) fn give_back_ids(&mut self, ids: Option<OwnedFd>) {
        if self.spare_ids.len() < MAX_SPARE_IDS {
            self.spare_ids.extend(ids);
        }
    }

    /// Sends a file without a name, on the machine's own disk, for a core; without a file if there is none to be had.
    pub(super) fn send_core_file(&self, init: BorrowedFd<'_>) {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.state, flags, Mode::from_raw_mode(0o600)).ok();
        let fds: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        let _ = message::say(init, &Command::CoreFile, &fds);
    }
}

/// Makes the state folder and what is mounted over in it.
fn prepare(state: &Path) -> Result<PathBuf, String> {
    let said = |error: std::io::Error| format!("the state folder `{}` cannot be used: {error}", state.display());
    std::fs::create_dir_all(state).map_err(said)?;
    let state = state.canonicalize().map_err(said)?;
    for name in ["scratch", "root", "stock"] {
        match std::fs::create_dir(state.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(said(error)),
            _ => {}
        }
    }
    Ok(state)
}

fn lock(state: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(state.join("lock"), flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| format!("the state folder `{}` cannot be locked: {errno}", state.display()))?;
    // The spawner of a node that was killed a moment ago is still putting things away.
    for _ in 0..MAX_LOCK_TRIES {
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| format!("the state folder `{}` belongs to another spawner", state.display()))?;
    Ok(file)
}

/// Returns where other file systems of the machine are mounted, those above before those below, but for those that are hidden.
fn other_mounts(hidden: &[PathBuf]) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let hidden: Vec<_> = root::always_hidden().chain(hidden.iter().cloned()).collect();
    text.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let (point, kind) = (left.split(' ').nth(4)?, right.split(' ').next()?);
            let is_seen = point != "/"
                && FILE_SYSTEMS.contains(&kind)
                && !point.contains('\\')
                && !hidden.iter().any(|hidden| Path::new(point).starts_with(hidden));
            is_seen.then(|| PathBuf::from(point))
        })
        .collect()
}

/// Returns what each sandbox has to cover by mounts of its own: all that is hidden, or, where there is a cover for all of
/// them, what another file system shows that is mounted over that.
fn covered(stock: Option<&Stock>, mounts: &[PathBuf], hidden: &[PathBuf]) -> Vec<PathBuf> {
    let has_cover = stock.is_some_and(|stock| stock.cover.is_some());
    let is_shown = |path: &PathBuf| mounts.iter().any(|mount| path.starts_with(mount));
    root::always_hidden().chain(hidden.iter().cloned()).filter(|path| !has_cover || is_shown(path)).collect()
}

/// Returns a number that tells one state folder from others on this machine.
fn fingerprint(path: &Path) -> u64 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
