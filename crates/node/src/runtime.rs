//! The other OCI runtimes of a node: found when it starts, offered by name, and cleaned up after.
//!
//! A runtime is offered if it says its version; whether it can do what an execution asks of it is found out by that
//! execution alone. They need the superuser, so a node without privileges offers none.

use crate::settings::Settings;
use sandbox::{Bundle, Order, Place, Plan, Runtime, bundle};
use std::io;
use std::path::{Path, PathBuf};

/// The runtimes that are looked for, by the names of their programs.
const KNOWN: [&str; 3] = ["crun", "runc", "runsc"];
/// Where they are looked for besides `PATH`: a service's own may lack where Debian puts `runc`.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A runtime that a node is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRuntime {
    /// By what executions and images name it.
    pub name: String,
    /// Its program.
    pub program: PathBuf,
}

impl NamedRuntime {
    /// Reads `NAME=PATH`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, program) = text.split_once('=').ok_or("it looks like `NAME=PATH`")?;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err("its name has no spaces, and is not empty".to_owned());
        }
        if !program.starts_with('/') {
            return Err(format!("`{program}` is not an absolute path"));
        }
        Ok(Self { name: name.to_owned(), program: program.into() })
    }
}

/// The runtimes that a node offers.
#[derive(Debug)]
pub(crate) struct Runtimes {
    found: Vec<Runtime>,
    /// Where containers have their folders.
    folder: PathBuf,
    place: Place,
    notes: Vec<String>,
}

impl Runtimes {
    /// Finds runtimes, and deletes the containers that an earlier node of this folder left behind.
    pub(crate) fn open(settings: &Settings) -> io::Result<Self> {
        let folder = settings.state.join("containers");
        std::fs::create_dir_all(&folder)?;
        let swept = bundle::sweep(&folder);
        if swept > 0 {
            tracing::info!(containers = swept, "containers that an earlier node left behind are deleted");
        }
        let mut runtimes = Self { found: Vec::new(), folder, place: settings.place(), notes: Vec::new() };
        if runtimes.place == Place::Own {
            if !settings.runtimes.is_empty() {
                runtimes.notes.push("no other OCI runtimes: they need the superuser".to_owned());
            }
            return Ok(runtimes);
        }
        for named in &settings.runtimes {
            runtimes.probe(&named.name, &named.program);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<_> = std::env::split_paths(&path).chain(SYSTEM.map(PathBuf::from)).collect();
        for name in KNOWN {
            // What somebody was told by this name goes before what is found under it.
            if settings.runtimes.iter().any(|named| named.name == name) {
                continue;
            }
            let is_there = |program: &PathBuf| program.is_absolute() && program.is_file();
            if let Some(program) = folders.iter().map(|folder| folder.join(name)).find(is_there) {
                runtimes.probe(name, &program);
            }
        }
        Ok(runtimes)
    }

    fn probe(&mut self, name: &str, program: &Path) {
        match Runtime::probe(name, program) {
            Ok(runtime) => {
                tracing::debug!(name, version = runtime.version, program = %program.display(), "a runtime is offered");
                self.found.push(runtime);
            }
            Err(note) => self.notes.push(note),
        }
    }

    /// Returns their names.
    pub(crate) fn names(&self) -> Vec<String> {
        self.found.iter().map(|runtime| runtime.name.clone()).collect()
    }

    /// Returns why runtimes that are there are not offered, a sentence each.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Describes a container of this name, if there is such a runtime.
    pub(crate) fn bundle(&self, name: &str, id: String, plan: &Plan, order: &Order) -> Option<Bundle> {
        let runtime = self.found.iter().find(|runtime| runtime.name == name)?.clone();
        let (plan, order) = (plan.clone(), order.clone());
        Some(Bundle { folder: self.folder.join(&id), id, runtime, place: self.place, plan, order })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_named_by_a_word_and_a_whole_path() {
        let check = |text: &str, good: bool| assert_eq!(NamedRuntime::parse(text).is_ok(), good, "{text}");
        check("crun=/opt/crun", true);
        check("crun", false);
        check("=/opt/crun", false);
        check("a b=/opt/crun", false);
        check("crun=bin/crun", false);
    }
}
