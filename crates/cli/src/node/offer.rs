//! What a node offers, and the settings that come of it: the same for a node of its own and for the one inside a server.
//!
//! Where the node lives, what it is called and how long it may tidy up is left to whoever starts it.

use crate::dump::redaction;
use crate::quantity;
use crate::registry::Reach;
use ::dump::redact::RedactionRules;
use ::node::debuginfod::Servers;
use ::node::image::AllowedRegistry;
use ::node::{AllowedMount, NamedRuntime, Settings};
use clap::Args;
use jiff::SignedDuration;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The first id, outside, of the users inside sandboxes: above those of people and packages.
const FIRST_ID: u32 = 1_000_000_000;
/// How many executions each core takes at once, if nothing is said.
const SLOTS_PER_CORE: usize = 4;

/// What a node offers.
#[derive(Args)]
pub(crate) struct Offered {
    /// How many executions run at once; four for each core, if nothing is said
    #[arg(long, value_name = "N")]
    slots: Option<u32>,
    /// How many sandboxes are kept built ahead for each sort that is in demand
    #[arg(long, value_name = "N", default_value_t = 8)]
    warm: u32,
    /// A word by which executions may choose this node
    #[arg(long, value_name = "NAME=VALUE", value_parser = crate::execution::recipe::variable)]
    label: Vec<(String, String)>,
    /// A folder of this machine that executions may mount: `PATH:ro` or `PATH:rw`
    #[arg(long, value_name = "PATH[:ro|rw]", value_parser = AllowedMount::parse)]
    allow_mount: Vec<AllowedMount>,
    /// Another OCI runtime that executions and images may name; `crun`, `runc` and `runsc` are found by themselves
    #[arg(long = "runtime", value_name = "NAME=PATH", value_parser = NamedRuntime::parse)]
    runtimes: Vec<NamedRuntime>,
    /// Let executions ask for the network of this machine itself
    #[arg(long)]
    allow_host_network: bool,
    /// A debuginfod server that is asked for modules and debug files of dumps, such as `https://debuginfod.debian.net`
    #[arg(long, value_name = "URL")]
    debuginfod: Vec<String>,
    /// A host of such a server that is asked although its address is not public
    #[arg(long, value_name = "HOST[:PORT]", value_parser = AllowedRegistry::parse)]
    allow_debuginfod: Vec<AllowedRegistry>,
    /// A file of rules (docs/redaction.md) that say what is left out of the cores of executions before they are kept
    #[arg(long, value_name = "RULES", value_parser = redaction::parse)]
    redact: Option<Arc<RedactionRules>>,
    /// How long a program's standard input stays open without a sign of life of whoever feeds it
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, default_value = "2m")]
    input_silence: SignedDuration,
    #[command(flatten)]
    reach: Reach,
    /// Bytes that the cache of images and files may take
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes, default_value = "20G")]
    cache: u64,
}

/// Where a node lives, and how long it lasts.
pub(crate) struct Home {
    /// Its name.
    pub(crate) name: String,
    /// Its folder.
    pub(crate) state: PathBuf,
    /// How long it finishes what it has when told to stop.
    pub(crate) drain: Duration,
    /// What no sandbox over the machine's own files sees.
    pub(crate) hidden: Vec<PathBuf>,
}

impl Offered {
    /// Returns what a node is told that lives there.
    pub(crate) fn settings(&self, home: Home) -> Settings {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Settings {
            name: home.name,
            state: home.state,
            slots: self.slots.unwrap_or_else(|| u32::try_from(cores * SLOTS_PER_CORE).unwrap_or(8)),
            warm: self.warm,
            labels: self.label.iter().cloned().collect(),
            mounts: self.allow_mount.clone(),
            runtimes: self.runtimes.clone(),
            host_network: self.allow_host_network,
            debuginfod: Servers { urls: self.debuginfod.clone(), allowed: self.allow_debuginfod.clone() },
            redaction: self.redact.clone(),
            registries: self.reach.registries(),
            cache_bytes: self.cache,
            first_id: FIRST_ID,
            // A time that is negative is refused when it is read.
            input_silence: self.input_silence.unsigned_abs(),
            drain: home.drain,
            helper: PathBuf::from("/proc/self/exe"),
            hidden: home.hidden,
        }
    }
}

/// Returns this machine's name, as far as a node may be called so.
pub(crate) fn machine_name() -> String {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let good = |one: &char| one.is_ascii_alphanumeric() || "-_.".contains(*one);
    let name: String = hostname.chars().filter(good).take(48).collect();
    if name.is_empty() { "inside".to_owned() } else { name }
}
