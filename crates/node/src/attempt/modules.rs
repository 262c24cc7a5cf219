//! Modules that a dump's analysis or its debugger lacks: packs of its tenant, and what debuginfod servers have, put where
//! whoever looks at the dump looks.
//!
//! Whoever is in the sandbox says which build ids it would know more of (`model::analysis::Wanted`); each is asked for once.
//! Nothing is opened here: a pack is proved to be one, and every file to have its build id, in the sandbox. What was fetched
//! is linked into a folder of this attempt, so that nobody sees what others asked for, and stays though the caches let it
//! go. That something cannot be had is said and is no failure: the dump is told without it.

use super::trouble::whole;
use super::{Attempt, DUMPS, Fence, Shop};
use crate::debuginfod::{Debuginfod, DebuginfodError, Part};
use crate::files::Form;
use crate::scratch::Scratch;
use crate::settings::Settings;
use futures_util::{StreamExt, stream};
use model::analysis::{Lack, Wanted};
use model::pack::{MAX_ASKED_PACKS, Pack, PackQuery, check_build_id};
use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of files that one attempt has beside it.
const MAX_SHELF_BYTES: u64 = 8 << 30;
/// Modules of one attempt that servers are asked for.
const MAX_ASKED: usize = 64;
/// Build ids of one attempt that packs are asked for.
const MAX_PACKS_ASKED: usize = 4_096;
/// Files that are fetched at once.
const AT_ONCE: usize = 4;
/// How long all fetching for one analysis, or at one debugger's word, may take.
const MAX_FETCHING: Duration = Duration::from_secs(180);

/// Where packs are on a shelf.
pub(super) const PACKS: &str = "packs";
/// Where modules and debug files are on a shelf.
pub(super) const FILES: &str = "files";

/// Who looks at what is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// An analysis, to which a pack tells all that the module would.
    Analysis,
    /// A debugger, which shows the module's code, too.
    Debugger,
}

/// What was fetched for one attempt.
pub(super) struct Shelf {
    folder: Scratch,
    reader: Reader,
    until: Instant,
    bytes: u64,
    files: usize,
    packs_asked: HashSet<String>,
    servers_asked: HashSet<String>,
    /// Whether a server has failed: whatever else is asked for would wait for it too.
    is_server_away: bool,
}

impl Shelf {
    /// Makes an empty one.
    pub(super) fn new(settings: &Settings, reader: Reader) -> io::Result<Self> {
        let folder = Scratch::new(&settings.state.join(DUMPS))?;
        for name in [PACKS, FILES] {
            fs::create_dir_all(folder.path().join(name))?;
        }
        let (packs_asked, servers_asked) = (HashSet::new(), HashSet::new());
        let until = Instant::now() + MAX_FETCHING;
        Ok(Self { folder, reader, until, bytes: 0, files: 0, packs_asked, servers_asked, is_server_away: false })
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives the fetching that follows its whole time.
    pub(super) fn wait_anew(&mut self) {
        self.until = Instant::now() + MAX_FETCHING;
    }

    fn place(&self, kind: &str, build_id: &str, ending: &str) -> PathBuf {
        let (first, rest) = build_id.split_at(2);
        self.path().join(kind).join(first).join(format!("{rest}.{ending}"))
    }

    /// Puts a file there that the child may read, if there is room.
    fn put(&mut self, file: &Path, place: &Path) -> io::Result<()> {
        let bytes = fs::metadata(file)?.len();
        if self.bytes.saturating_add(bytes) > MAX_SHELF_BYTES {
            return Err(io::Error::other(format!("with it there would be more than {MAX_SHELF_BYTES} bytes")));
        }
        fs::create_dir_all(place.parent().unwrap_or(place))?;
        fs::hard_link(file, place)?;
        fs::set_permissions(place, Permissions::from_mode(0o444))?;
        self.bytes += bytes;
        self.files += 1;
        Ok(())
    }
}

/// What came of fetching.
#[derive(Debug)]
pub(super) struct Fetched {
    /// How many files came that were not there before.
    pub(super) files: usize,
    /// What could not be had, a sentence each.
    pub(super) remarks: Vec<String>,
}

/// The ways to modules: by the right of one attempt, and through what all of them share.
#[derive(Clone)]
pub(super) struct Fetcher {
    shop: Arc<Shop>,
    fence: Arc<Fence>,
}

impl Fetcher {
    /// Returns those of an attempt.
    pub(super) fn new(attempt: &Attempt) -> Self {
        Self { shop: Arc::clone(&attempt.shop), fence: Arc::clone(&attempt.fence) }
    }

    /// Fetches what there is of what is wanted.
    pub(super) async fn fetch(&self, wanted: &[Wanted], shelf: &mut Shelf) -> Fetched {
        // Whoever asks may have been taken over: what it says are words of a stranger's.
        let wanted: Vec<_> = wanted.iter().filter(|one| check_build_id(&one.build_id).is_ok()).collect();
        let (until, before, mut remarks) = (shelf.until, shelf.files, Vec::new());
        let fetching = async {
            self.fetch_packs(&wanted, shelf, &mut remarks).await;
            self.ask_servers(&wanted, shelf, &mut remarks).await;
        };
        if tokio::time::timeout_at(until, fetching).await.is_err() {
            remarks.push(format!("fetching modules took longer than {} seconds", MAX_FETCHING.as_secs()));
        }
        Fetched { files: shelf.files - before, remarks }
    }

    async fn fetch_packs(&self, wanted: &[&Wanted], shelf: &mut Shelf, remarks: &mut Vec<String>) {
        let lacking = wanted.iter().filter(|one| one.lack == Lack::Module);
        let new = lacking
            .filter(|one| shelf.packs_asked.len() < MAX_PACKS_ASKED && shelf.packs_asked.insert(one.build_id.clone()));
        let build_ids: Vec<_> = new.map(|one| one.build_id.clone()).take(MAX_ASKED_PACKS).collect();
        if build_ids.is_empty() {
            return;
        }
        let asked = HashSet::<String>::from_iter(build_ids.iter().cloned());
        let found = self.fence.client.execution_pack_places(self.fence.show(), &PackQuery { build_ids }).await;
        let packs = match found {
            Ok(found) => found.packs,
            Err(error) => {
                remarks.push(format!("the packs of modules cannot be asked for: {}", whole(&error)));
                return;
            }
        };
        let packs = packs.into_iter().filter(|pack| asked.contains(&pack.build_id));
        let mut fetching = stream::iter(packs.map(|pack| self.fetch_pack(pack))).buffered(AT_ONCE);
        while let Some(fetched) = fetching.next().await {
            let put = fetched.and_then(|(pack, kept)| {
                let place = shelf.place(PACKS, &pack.build_id, "elf");
                shelf.put(kept.path(), &place).map_err(|error| error.to_string())
            });
            if let Err(why) = put {
                remarks.push(format!("the pack of a module is not there: {why}"));
            }
        }
    }

    async fn fetch_pack(&self, pack: Pack) -> Result<(Pack, Arc<crate::files::Kept>), String> {
        match self.shop.files.get(pack.digest, Form::Plain, &*self.fence).await {
            Ok(kept) => Ok((pack, kept)),
            Err(error) => Err(whole(&error)),
        }
    }

    async fn ask_servers(&self, wanted: &[&Wanted], shelf: &mut Shelf, remarks: &mut Vec<String>) {
        let Some(servers) = self.shop.debuginfod.as_ref().filter(|_| !shelf.is_server_away) else { return };
        let mut parts = Vec::new();
        for one in wanted.iter().filter(|one| one.has_frames) {
            if shelf.servers_asked.len() >= MAX_ASKED || !shelf.servers_asked.insert(one.build_id.clone()) {
                continue;
            }
            // Of a module that is there as a pack only the debug information is missing, unless its code is looked at.
            let is_packed = || shelf.place(PACKS, &one.build_id, "elf").exists();
            if one.lack == Lack::Module && (shelf.reader == Reader::Debugger || !is_packed()) {
                parts.push((one.build_id.clone(), Part::Module));
            }
            parts.push((one.build_id.clone(), Part::Debug));
        }
        let mut fetching = stream::iter(parts.into_iter().map(|part| ask(servers, part))).buffered(AT_ONCE);
        while let Some((build_id, part, fetched)) = fetching.next().await {
            match fetched {
                Ok(None) => {}
                Ok(Some(file)) => {
                    let place = shelf.place(FILES, &build_id, part.ending());
                    if let Err(error) = shelf.put(&file, &place) {
                        remarks.push(format!("a module from a debuginfod server is not there: {error}"));
                    }
                }
                Err(error) => {
                    remarks.push(whole(&error));
                    shelf.is_server_away = true;
                    break;
                }
            }
        }
    }
}

/// What came of asking for a part of a module.
type Answer = (String, Part, Result<Option<PathBuf>, DebuginfodError>);

async fn ask(servers: &Debuginfod, (build_id, part): (String, Part)) -> Answer {
    let fetched = servers.fetch(&build_id, part).await;
    (build_id, part, fetched)
}
