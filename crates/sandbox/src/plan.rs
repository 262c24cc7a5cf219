//! A plan: what a sandbox is made of; and an order: what is to run in it. Sandboxes of equal plans are interchangeable,
//! so they can be built ahead.

use model::{Access, Limits, Network};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where programs are looked for when the order's environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a sandbox sees as `/`, beneath its own writable layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Root {
    /// The machine's own files, without what is nobody's business (see `root.rs`).
    Host,
    /// Unpacked layers, uppermost first.
    Layers(Vec<PathBuf>),
}

/// A folder or file of the machine that is seen in the sandbox. Whether it may be is decided before it gets here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bind {
    /// Where it is.
    pub source: PathBuf,
    /// Where it is seen; parents are made.
    pub target: PathBuf,
    /// What may be done with it.
    pub access: Access,
}

/// Where in the machine's user ids a sandbox's own lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// Ids 0 to `count - 1` inside are `first` to `first + count - 1` outside. Needs privileges; `first` is never 0.
    Range {
        /// The first outside.
        first: u32,
        /// How many.
        count: u32,
    },
    /// One id inside is the spawner's own; for a spawner without privileges.
    Own,
}

/// What a sandbox is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Plan {
    /// What it sees as `/`.
    pub root: Root,
    /// What it sees besides.
    pub binds: Vec<Bind>,
    /// Its name for itself.
    pub hostname: String,
    /// What it may reach.
    pub network: Network,
    /// How much it may use.
    pub limits: Limits,
    /// Whether processes inside may trace each other.
    pub ptrace: bool,
    /// Whether its programs see a terminal.
    pub terminal: bool,
    /// Whether a program that is root inside keeps the capabilities over its own files that installing software needs.
    pub file_capabilities: bool,
}

impl Plan {
    /// Tells whether its programs see nothing of the machine's but their root, so that nothing can be handed to anybody.
    pub(crate) fn is_alone(&self) -> bool {
        self.binds.is_empty()
    }
}

/// What is to run in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The program, looked up in `PATH` of `env` inside, and its arguments.
    pub command: Vec<String>,
    /// Its whole environment; `HOME` is added where it is missing, as it is written down inside for its user.
    pub env: Vec<(String, String)>,
    /// The folder it begins in.
    pub cwd: String,
    /// Who it is inside: `USER` or `USER:GROUP`, by name (looked up inside) or number.
    pub user: String,
    /// The size of its terminal: rows and columns.
    pub window: Option<(u16, u16)>,
}

impl Order {
    /// Returns where programs without a folder are looked for.
    pub(crate) fn path(&self) -> &str {
        self.env.iter().rev().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value)
    }

    /// Returns the environment in the words that a program gets, for a user with this home.
    pub(crate) fn words(&self, home: &str) -> Vec<String> {
        let has_home = self.env.iter().any(|(name, _)| name == "HOME");
        let added = (!has_home).then(|| format!("HOME={home}"));
        self.env.iter().map(|(name, value)| format!("{name}={value}")).chain(added).collect()
    }
}
