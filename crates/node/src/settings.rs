//! What a node is told when it starts, and what it remembers over restarts: its id.

use crate::debuginfod::{DebuginfodSettings, Servers};
use crate::image::Registries;
use crate::runtime::NamedRuntime;
use dump::redact::RedactionRules;
use model::{Access, NodeId};
use sandbox::Place;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Ids inside a sandbox: all that sixteen bits can name.
const ID_COUNT: u32 = 1 << 16;

/// A folder of the node that executions may mount, with everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedMount {
    /// The folder, without symbolic links.
    pub source: PathBuf,
    /// The most that may be done with it.
    pub access: Access,
}

impl AllowedMount {
    /// Reads `PATH`, `PATH:ro` or `PATH:rw`; the path must be there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, access) = match text.rsplit_once(':') {
            Some((path, "ro")) => (path, Access::ReadOnly),
            Some((path, "rw")) => (path, Access::ReadWrite),
            _ => (text, Access::ReadOnly),
        };
        if !path.starts_with('/') {
            return Err(format!("`{path}` is not an absolute path"));
        }
        let source = fs::canonicalize(path).map_err(|error| format!("`{path}` cannot be offered: {error}"))?;
        Ok(Self { source, access })
    }

    /// Tells whether it covers a folder or file that has no symbolic links in its path.
    pub(crate) fn covers(&self, path: &Path, access: Access) -> bool {
        let climbs = path.components().any(|part| part == Component::ParentDir);
        path.starts_with(&self.source) && !climbs && (access == Access::ReadOnly || self.access == Access::ReadWrite)
    }
}

impl std::fmt::Display for AllowedMount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let access = if self.access == Access::ReadWrite { "rw" } else { "ro" };
        write!(f, "{}:{access}", self.source.display())
    }
}

/// What a node is told when it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name, unique among the living nodes.
    pub name: String,
    /// Its folder: identity, cache, what the spawner notes.
    pub state: PathBuf,
    /// How many executions it takes at once.
    pub slots: u32,
    /// How many sandboxes it keeps built ahead for one plan.
    pub warm: u32,
    /// Words by which executions may choose it.
    pub labels: BTreeMap<String, String>,
    /// Folders that executions may mount.
    pub mounts: Vec<AllowedMount>,
    /// Other OCI runtimes, besides those that are found in `PATH`.
    pub runtimes: Vec<NamedRuntime>,
    /// Whether executions may ask for the network of the machine itself.
    pub host_network: bool,
    /// Which debuginfod servers are asked for modules and debug files.
    pub debuginfod: Servers,
    /// What is left out of the cores of executions.
    pub redaction: Option<Arc<RedactionRules>>,
    /// How it deals with the registries that images are pulled from.
    pub registries: Registries,
    /// Bytes that the cache of blobs and layers may take.
    pub cache_bytes: u64,
    /// The first id, outside, of the users inside its sandboxes.
    pub first_id: u32,
    /// How long a stream of input stays open without a sign of life of whoever feeds it.
    pub input_silence: Duration,
    /// How long it finishes what it has when told to stop.
    pub drain: Duration,
    /// The program that becomes the spawner when its first argument is `spawner`, minds a container when it is `minder`,
    /// unpacks when it is `unpack`, and opens a dump when it is `analyser`.
    pub helper: PathBuf,
    /// Folders that no sandbox over the machine's own files sees: a server's data, for instance.
    pub hidden: Vec<PathBuf>,
}

impl Settings {
    /// Returns how debuginfod servers are asked, if any are named.
    pub fn debuginfod(&self) -> Option<DebuginfodSettings> {
        let Servers { urls, allowed } = self.debuginfod.clone();
        (!urls.is_empty()).then(|| DebuginfodSettings::new(urls, allowed, self.state.join("debuginfod")))
    }

    /// Returns where the ids inside sandboxes lie outside: in a range of their own, if there are the privileges for it.
    pub(crate) fn place(&self) -> Place {
        if rustix::process::geteuid().is_root() {
            Place::Range { first: self.first_id, count: ID_COUNT }
        } else {
            Place::Own
        }
    }

    /// Takes the folder for this node, for as long as the file is open.
    pub(crate) fn claim(&self) -> io::Result<fs::File> {
        let file = fs::File::options().create(true).write(true).truncate(false).open(self.state.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::other("another node works in it")),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Returns the node's id: the one in its folder, or a new one that is kept there.
    pub(crate) fn identity(&self) -> io::Result<NodeId> {
        fs::create_dir_all(&self.state)?;
        let path = self.state.join("id");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|error| {
                io::Error::other(format!(
                    "`{}` does not hold a node's id: {error}; remove it to join anew",
                    path.display()
                ))
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let id = client::id::fresh(NodeId::new);
                // Written beside and renamed, so that a crash leaves either no id or a whole one.
                let draft = self.state.join("id.new");
                let mut file = fs::File::create(&draft)?;
                writeln!(file, "{id}")?;
                file.sync_all()?;
                fs::rename(&draft, &path)?;
                Ok(id)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_covers_what_lies_beneath_it_and_no_more() {
        let allowed = AllowedMount { source: "/data".into(), access: Access::ReadOnly };
        for (path, access, covered) in [
            ("/data", Access::ReadOnly, true),
            ("/data/set/1", Access::ReadOnly, true),
            ("/data/set/1", Access::ReadWrite, false),
            ("/database", Access::ReadOnly, false),
            ("/data/../etc", Access::ReadOnly, false),
            ("/", Access::ReadOnly, false),
        ] {
            assert_eq!(allowed.covers(Path::new(path), access), covered, "{path}");
        }
    }

    #[test]
    fn an_identity_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings {
            name: "n".to_owned(),
            state: folder.path().join("node"),
            slots: 1,
            warm: 0,
            labels: BTreeMap::new(),
            mounts: Vec::new(),
            runtimes: Vec::new(),
            host_network: false,
            debuginfod: Servers::default(),
            redaction: None,
            registries: Registries::default(),
            cache_bytes: 0,
            first_id: 100_000,
            input_silence: Duration::from_secs(120),
            drain: Duration::ZERO,
            helper: PathBuf::new(),
            hidden: Vec::new(),
        };
        let first = settings.identity().expect("an id");
        assert_eq!(settings.identity().expect("an id"), first);
        let claim = settings.claim().expect("the folder is free");
        assert!(settings.claim().is_err());
        drop(claim);
        settings.claim().expect("the folder is free again");
        fs::write(settings.state.join("id"), "nonsense").expect("written");
        assert!(settings.identity().is_err());
    }
}
