//! The spool: where caught dumps wait until they are sent, within a budget, with the accounts of all that was caught.
//!
//! Each dump is a folder of its own: `frames` (its frames, one behind the other, each once), `manifest`, and `about.json`.
//! Where the folder lies says how far it has come: `coming`, `caught`, `sent`, or `broken`; it moves by one rename. Whatever
//! is counted, granted or moved is so under one lock, which is held for milliseconds and waited for as long as a deadline
//! allows. Room is granted by making `frames` longer before anything is written, so two that catch at once share the budget.
//! A folder in `coming` whose file nobody holds locked was left by somebody who was ended; the next to come counts it.

use super::account::{Account, Accounts, Drop, MAX_ACCOUNTS_BYTES};
use super::crash::Found;
use super::settings::Settings;
use anyhow::Context;
use model::dump::{DumpFacts, Redaction};
use model::parcel::{Frame, MAX_MANIFEST_BYTES, Manifest};
use model::{Digest, DumpId, DumpKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Dumps in the spool, in any state.
const MAX_DUMPS: usize = 10_000;
/// Bytes of what is known of one.
const MAX_ABOUT_BYTES: u64 = 256 << 10;
/// Frames of one dump of which it is remembered that they were written already.
const MAX_KNOWN_FRAMES: usize = 1 << 17;
/// How long it may take until it can be noted what became of a dump.
const SETTLING: Duration = Duration::from_secs(60);
/// How often somebody looks whether the lock is free.
const LOCK_EVERY: Duration = Duration::from_millis(2);

/// How far a dump has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// It is being caught.
    Coming,
    /// It waits to be sent.
    Caught,
    /// The server has it; it stays until its room is needed.
    Sent,
    /// It cannot be sent: its frames are not what they were.
    Broken,
}

impl Stage {
    pub(crate) const ALL: [Self; 4] = [Self::Coming, Self::Caught, Self::Sent, Self::Broken];

    pub(crate) const fn folder(self) -> &'static str {
        match self {
            Self::Coming => "coming",
            Self::Caught => "caught",
            Self::Sent => "sent",
            Self::Broken => "broken",
        }
    }
}

/// What is known of a caught dump.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct About {
    /// The id it shall have, so that sending it twice is harmless.
    pub(crate) id: DumpId,
    /// The program that crashed.
    pub(crate) program: String,
    /// The hash by which it will be known.
    pub(crate) hash: String,
    /// What sort of thing it is.
    pub(crate) kind: DumpKind,
    /// Whether its end is missing.
    pub(crate) is_truncated: bool,
    /// Why we cut it, if we did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cut: Option<String>,
    /// What its file would be called.
    pub(crate) name: String,
    /// How long it is.
    pub(crate) size: u64,
    /// What its record has fields for.
    pub(crate) facts: DumpFacts,
    /// What is to be noted on it.
    pub(crate) properties: BTreeMap<String, Value>,
    /// What was left out by rules, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) redaction: Option<Redaction>,
}

/// Where frames stand in a dump's file; whoever writes and whoever reads go through the same.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    known: HashMap<Digest, u64>,
    end: u64,
}

impl Layout {
    /// Returns where the next frame stands, and whether it stands there for the first time.
    pub(crate) fn place(&mut self, frame: &Frame) -> (u64, bool) {
        if let Some(place) = self.known.get(&frame.digest) {
            return (*place, false);
        }
        let place = self.end;
        self.end += u64::from(frame.packed);
        if self.known.len() < MAX_KNOWN_FRAMES {
            self.known.insert(frame.digest, place);
        }
        (place, true)
    }

    /// Returns how long all frames are so far.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }
}

/// The spool.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    bytes_max: u64,
    free_min: u64,
    rate: (usize, u64),
}

/// What may be removed for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evict {
    Nothing,
    Sent,
}

/// A dump that is being caught.
#[derive(Debug)]
pub(crate) struct Coming {
    pub(crate) id: DumpId,
    folder: PathBuf,
    pub(crate) frames: File,
}

impl Spool {
    /// Opens it, and makes what is missing; only its owner may look inside.
    pub(crate) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let folder = settings.spool.clone();
        let cannot = || format!("the spool `{}` cannot be used", folder.display());
        let private = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        private(&folder).with_context(cannot)?;
        for stage in Stage::ALL {
            private(&folder.join(stage.folder())).with_context(cannot)?;
        }
        Ok(Self {
            bytes_max: settings.spool_bytes_max,
            free_min: settings.free_bytes_min,
            rate: (settings.rate_count, settings.rate_window_ms),
            folder,
        })
    }

    /// Begins to catch a dump, unless there is a reason not to; either way it is counted.
    pub(crate) fn begin(&self, found: &Found, id: DumpId, until: Instant) -> anyhow::Result<Result<Coming, Drop>> {
        let _lock = self.lock("lock", until)?;
        // Only now: of two that come at once, the one that has the lock later is the later one.
        let at = client::id::now();
        let mut accounts = self.accounts()?;
        self.sweep(&mut accounts)?;
        let account = accounts.seen(&found.program, at.as_millisecond());
        // Room first: what is not kept takes nothing of how many are.
        let refused = match self.refusal()? {
            None => (!account.admit(at.as_millisecond(), self.rate)).then_some(Drop::Rate),
            refused => refused,
        };
        if let Some(why) = refused {
            accounts.of(&found.program).drop(why);
            self.write_accounts(&accounts)?;
            return Ok(Err(why));
        }
        // Noted before it is there: whoever is ended between the two has left a note that the next one settles.
        accounts.under_way.insert(id, found.program.clone());
        self.write_accounts(&accounts)?;
        let folder = self.place(Stage::Coming, id);
        DirBuilder::new().mode(0o700).create(&folder)?;
        let frames = private().read(true).write(true).create_new(true).open(folder.join("frames"))?;
        frames.try_lock().context("nobody else knows a file that was just made")?;
        Ok(Ok(Coming { id, folder, frames }))
    }

    /// Counts a crash of which nothing is wanted.
    pub(crate) fn refuse(&self, found: &Found, why: Drop, until: Instant) -> anyhow::Result<()> {
        let _lock = self.lock("lock", until)?;
        let mut accounts = self.accounts()?;
        accounts.seen(&found.program, client::id::now().as_millisecond()).drop(why);
        self.write_accounts(&accounts)
    }

    /// Returns why there is no room for even the least dump, if there is none.
    fn refusal(&self) -> anyhow::Result<Option<Drop>> {
        if Stage::ALL.into_iter().map(|stage| self.list(stage).len()).sum::<usize>() >= MAX_DUMPS {
            return Ok(Some(Drop::Budget));
        }
        Ok(self.make_room(1, Evict::Sent)?.err())
    }

    /// Grants a dump room up to a length, or as much as it needs if that is too much; tells how much it has.
    pub(crate) fn grant(&self, coming: &Coming, needed: u64, wished: u64, until: Instant) -> io::Result<Option<u64>> {
        let _lock = self.lock("lock", until).map_err(io::Error::other)?;
        let has = coming.frames.metadata()?.len();
        // For what is only wished for nothing that was sent has to go.
        for (length, evict) in [(wished, Evict::Nothing), (needed, Evict::Sent)] {
            if length <= has || self.make_room(length - has, evict)?.is_ok() {
                coming.frames.set_len(length.max(has))?;
                return Ok(Some(length.max(has)));
            }
        }
        Ok(None)
    }

    /// Keeps a dump whose frames are all there.
    pub(crate) fn keep(&self, coming: &Coming, about: &About, manifest: &Manifest, length: u64) -> anyhow::Result<()> {
        coming.frames.set_len(length)?;
        fs::write(coming.folder.join("manifest"), manifest.encode())?;
        fs::write(coming.folder.join("about.json"), serde_json::to_vec_pretty(about)?)?;
        // The program that crashed waits for nothing any more, so there is time.
        let _lock = self.lock("lock", Instant::now() + SETTLING)?;
        let mut accounts = self.accounts()?;
        self.settle(&mut accounts, coming.id, |account| count_kept(account, about))?;
        Ok(fs::rename(&coming.folder, self.place(Stage::Caught, coming.id))?)
    }

    /// Gives up a dump that came to nothing.
    pub(crate) fn give_up(&self, coming: &Coming, why: Drop) -> anyhow::Result<()> {
        let _lock = self.lock("lock", Instant::now() + SETTLING)?;
        let mut accounts = self.accounts()?;
        self.settle(&mut accounts, coming.id, |account| account.drop(why))?;
        Ok(fs::remove_dir_all(&coming.folder)?)
    }

    /// Counts what became of a dump, once.
    fn settle(&self, accounts: &mut Accounts, id: DumpId, count: impl FnOnce(&mut Account)) -> anyhow::Result<()> {
        if let Some(program) = accounts.under_way.remove(&id) {
            count(accounts.of(&program));
            self.write_accounts(accounts)?;
        }
        Ok(())
    }

    /// Settles what was left by those who were ended: what was whole is kept, the rest is counted and cleared away.
    fn sweep(&self, accounts: &mut Accounts) -> anyhow::Result<()> {
        let mut ids: BTreeSet<DumpId> = accounts.under_way.keys().copied().collect();
        ids.extend(self.list(Stage::Coming));
        for id in ids {
            let folder = self.place(Stage::Coming, id);
            let is_held = File::open(folder.join("frames"))
                .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
            if is_held {
                continue;
            }
            match self.about(Stage::Coming, id) {
                Ok(about) => {
                    self.settle(accounts, id, |account| count_kept(account, &about))?;
                    fs::rename(&folder, self.place(Stage::Caught, id))?;
                }
                Err(_) => {
                    self.settle(accounts, id, |account| account.drop(Drop::Interrupted))?;
                    if folder.exists() {
                        fs::remove_dir_all(&folder)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes room, if need be by removing what was sent, the oldest first.
    fn make_room(&self, bytes: u64, evict: Evict) -> io::Result<Result<(), Drop>> {
        let sizes = |stage| self.list(stage).into_iter().map(move |id| (id, self.size(stage, id)));
        let sent: Vec<_> = if evict == Evict::Sent { sizes(Stage::Sent).collect() } else { Vec::new() };
        let mut used = Stage::ALL.into_iter().flat_map(sizes).map(|(_, bytes)| bytes).sum::<u64>();
        let mut sent = sent.into_iter();
        loop {
            let why = if used.saturating_add(bytes) > self.bytes_max {
                Drop::Budget
            } else if self.free()? < self.free_min.saturating_add(bytes) {
                Drop::Disk
            } else {
                return Ok(Ok(()));
            };
            let Some((id, size)) = sent.next() else { return Ok(Err(why)) };
            fs::remove_dir_all(self.place(Stage::Sent, id))?;
            used = used.saturating_sub(size);
        }
    }

    fn free(&self) -> io::Result<u64> {
        let about = rustix::fs::statvfs(&self.folder)?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }

    /// Returns the dumps of a stage, the oldest first.
    pub(crate) fn list(&self, stage: Stage) -> Vec<DumpId> {
        let entries = fs::read_dir(self.folder.join(stage.folder())).into_iter().flatten().flatten();
        let mut ids: Vec<DumpId> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        ids.sort_unstable();
        ids
    }

    fn size(&self, stage: Stage, id: DumpId) -> u64 {
        let entries = fs::read_dir(self.place(stage, id)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
    }

    /// Returns how many bytes the dumps of a stage take.
    pub(crate) fn bytes(&self, stage: Stage) -> u64 {
        self.list(stage).into_iter().map(|id| self.size(stage, id)).sum()
    }

    fn place(&self, stage: Stage, id: DumpId) -> PathBuf {
        self.folder.join(stage.folder()).join(id.to_string())
    }

    /// Says that a dump has come further.
    pub(crate) fn shift(&self, id: DumpId, from: Stage, to: Stage) -> anyhow::Result<()> {
        let _lock = self.lock("lock", Instant::now() + SETTLING)?;
        Ok(fs::rename(self.place(from, id), self.place(to, id))?)
    }

    /// Reads what is known of a dump.
    pub(crate) fn about(&self, stage: Stage, id: DumpId) -> anyhow::Result<About> {
        let file = File::open(self.place(stage, id).join("about.json"))?;
        Ok(serde_json::from_reader(file.take(MAX_ABOUT_BYTES))?)
    }

    /// Opens what a dump is made of.
    pub(crate) fn content(&self, stage: Stage, id: DumpId) -> anyhow::Result<(Manifest, File)> {
        let folder = self.place(stage, id);
        let mut bytes = Vec::new();
        File::open(folder.join("manifest"))?.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes)?;
        Ok((Manifest::decode(&bytes)?, File::open(folder.join("frames"))?))
    }

    /// Takes one of the spool's locks, which is let go with what is returned.
    pub(crate) fn lock(&self, name: &str, until: Instant) -> anyhow::Result<File> {
        let path = self.folder.join(name);
        let file = private().write(true).create(true).truncate(false).open(&path)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_EVERY),
                Err(TryLockError::WouldBlock) => anyhow::bail!("somebody else holds `{}`", path.display()),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
    }

    /// Reads the accounts; what cannot be read is put aside, and counting begins anew.
    pub(crate) fn accounts(&self) -> anyhow::Result<Accounts> {
        let path = self.folder.join("accounts.json");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Accounts::default()),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        file.take(MAX_ACCOUNTS_BYTES).read_to_end(&mut bytes)?;
        if let Ok(accounts) = serde_json::from_slice(&bytes) {
            return Ok(accounts);
        }
        fs::rename(&path, self.folder.join("accounts.unreadable"))?;
        Ok(Accounts::default())
    }

    fn write_accounts(&self, accounts: &Accounts) -> anyhow::Result<()> {
        let draft = self.folder.join("accounts.new");
        let mut file = private().write(true).create(true).truncate(true).open(&draft)?;
        file.write_all(&serde_json::to_vec(accounts)?)?;
        Ok(fs::rename(&draft, self.folder.join("accounts.json"))?)
    }
}

fn count_kept(account: &mut Account, about: &About) {
    account.kept += 1;
    account.cut += u64::from(about.cut.is_some());
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Hands a dump's frames on in their order, each proved by its name.
pub(crate) fn frames(
    (manifest, file): &(Manifest, File),
    mut each: impl FnMut(Frame, Vec<u8>, u64) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let (mut layout, mut reached) = (Layout::default(), 0);
    for frame in &manifest.frames {
        let (place, _) = layout.place(frame);
        let mut bytes = vec![0; frame.packed as usize];
        let is_whole = file.read_exact_at(&mut bytes, place).is_ok();
        if !is_whole || blake3::hash(&bytes).as_bytes() != frame.digest.as_bytes() {
            return Err(BrokenFrame(frame.digest).into());
        }
        reached += u64::from(frame.raw);
        each(*frame, bytes, reached)?;
    }
    Ok(())
}

/// Why frames are not handed on any further.
type Refusal = Box<dyn std::error::Error + Send + Sync>;

/// A frame in the spool is not what it was, such as after a power cut.
#[derive(Debug)]
pub(crate) struct BrokenFrame(Digest);

impl std::error::Error for BrokenFrame {}

impl std::fmt::Display for BrokenFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "frame `{}` in the spool is not what it was", self.0)
    }
}
