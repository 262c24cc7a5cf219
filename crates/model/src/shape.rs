//! A shape: what an execution needs of a node, in one short text, so that a queue can be searched by it.
//!
//! Executions that need the same have the same text. Amounts are rounded up to what machines are told apart by, so that odd
//! bytes do not make a shape each; an offer is rounded alike, or a machine could not be asked for all that it has.

use crate::error::ApiError;
use crate::execution::{LimitSet, OriginKind, Recipe};
use crate::image::{Manifest, Platform};
use crate::limits::MAX_SHAPE_BYTES;
use crate::node::Offer;
use crate::sandbox::{Access, Network, SandboxKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What memory is asked for by.
const MEMORY_UNIT_BYTES: u64 = 1 << 20;
/// What processors are asked for by: a quarter of a core.
const CPU_UNIT_MILLI: u64 = 250;

/// What an execution needs of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The sandbox that it runs in.
    pub kind: SandboxKind,
    /// The machine that its image is made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What it may reach.
    pub network: Network,
    /// Another OCI runtime than our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Labels that the node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Folders of the node that it mounts, as `PATH:ro` or `PATH:rw`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub mounts: BTreeSet<String>,
    /// Limits without which it must not run.
    pub demand: LimitSet,
    /// Memory, rounded up.
    pub memory_bytes: u64,
    /// Thousandths of a core, rounded up.
    pub cpu_milli: u64,
}

impl Shape {
    /// Returns what a recipe needs.
    ///
    /// An image's own runtime counts where the recipe names none; an image that is not known here asks for nothing.
    pub fn of(recipe: &Recipe, origin: OriginKind, image: Option<&Manifest>) -> Self {
        let sandbox = &recipe.sandbox;
        let is_image = recipe.image.is_some() || origin == OriginKind::Image;
        Self {
            kind: if is_image { SandboxKind::Oci } else { SandboxKind::Process },
            platform: image.map(|image| image.platform.clone()),
            network: sandbox.network,
            runtime: recipe.runtime(image).map(str::to_owned),
            labels: sandbox.labels.clone(),
            mounts: sandbox.mounts.iter().map(|mount| format!("{}:{}", mount.source, word(mount.access))).collect(),
            demand: recipe.limits.demand,
            memory_bytes: ceiling(recipe.limits.memory_bytes, MEMORY_UNIT_BYTES),
            cpu_milli: ceiling(recipe.limits.cpu_milli.into(), CPU_UNIT_MILLI),
        }
    }

    /// Returns the text that stands for it.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("our own types have text keys and finite numbers")
    }

    /// Reads the text of a shape; one that is not understood fits every node, as rows of before shapes do.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Refuses what no queue could be searched by.
    pub fn check(&self) -> Result<(), ApiError> {
        let bytes = self.text().len();
        if bytes <= MAX_SHAPE_BYTES {
            return Ok(());
        }
        Err(ApiError::invalid(
            "execution_invalid",
            format!("the labels and mounts that an execution asks for have {bytes} bytes of at most {MAX_SHAPE_BYTES}"),
        ))
    }
}

impl Offer {
    /// Tells whether it has what a shape needs, or what it lacks.
    pub fn fits(&self, shape: &Shape) -> Result<(), String> {
        if !self.kinds.contains(&shape.kind) {
            return Err(format!("needs sandbox `{}`", shape.kind.as_str()));
        }
        if let Some(platform) = shape.platform.as_ref().filter(|platform| !runs(&self.platform, platform)) {
            return Err(format!("needs platform `{platform}`"));
        }
        if !self.networks.contains(&shape.network) {
            let option = if shape.network == Network::Host { offered("--allow-host-network") } else { String::new() };
            return Err(format!("needs network `{}`{option}", shape.network.as_str()));
        }
        if let Some(runtime) = shape.runtime.as_ref().filter(|runtime| !self.runtimes.contains(runtime)) {
            return Err(format!("needs runtime `{runtime}`{}", offered(&format!("--runtime {runtime}=PATH"))));
        }
        if let Some((name, value)) = shape.labels.iter().find(|(name, value)| self.labels.get(*name) != Some(value)) {
            return Err(format!("needs label `{name}={value}`{}", offered(&format!("--label {name}={value}"))));
        }
        if let Some(mount) = shape.mounts.iter().find(|mount| !self.mounts.iter().any(|offered| holds(offered, mount)))
        {
            return Err(format!("needs mount `{mount}`{}", offered(&format!("--allow-mount {mount}"))));
        }
        let lacking = shape.demand.without(self.enforces);
        if !lacking.is_empty() {
            return Err(format!("cannot enforce a limit on {lacking}"));
        }
        if shape.memory_bytes > ceiling(self.memory_bytes, MEMORY_UNIT_BYTES) {
            return Err(format!("needs {} MiB of memory", shape.memory_bytes >> 20));
        }
        if shape.cpu_milli > ceiling(self.cpu_milli.into(), CPU_UNIT_MILLI) {
            return Err(format!("needs {} cores", shape.cpu_milli as f64 / 1000.0));
        }
        Ok(())
    }
}

const fn word(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "ro",
        Access::ReadWrite => "rw",
    }
}

/// Says how an operator has a node offer what is lacking.
fn offered(option: &str) -> String {
    format!(" (offered by `quarry node {option}`)")
}

/// Rounds up to whole units.
const fn ceiling(amount: u64, unit: u64) -> u64 {
    amount.div_ceil(unit).saturating_mul(unit)
}

/// Tells whether a machine runs what is made for a platform. A machine that names no variant is asked for none.
fn runs(machine: &Platform, platform: &Platform) -> bool {
    let variants = machine.variant.as_ref().zip(platform.variant.as_ref());
    machine.os == platform.os
        && machine.architecture == platform.architecture
        && variants.is_none_or(|(ours, theirs)| ours == theirs)
}

/// Tells whether an offered folder holds a mount, with at least its access.
fn holds(offered: &str, mount: &str) -> bool {
    let (Some((folder, may)), Some((path, wants))) = (offered.rsplit_once(':'), mount.rsplit_once(':')) else {
        return false;
    };
    let rest = path.strip_prefix(folder.trim_end_matches('/'));
    (may == "rw" || wants == "ro") && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(architecture: &str, variant: Option<&str>) -> Platform {
        Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    fn offer() -> Offer {
        Offer {
            version: "1".to_owned(),
            platform: platform("arm64", Some("v8")),
            kinds: vec![SandboxKind::Process, SandboxKind::Oci],
            networks: vec![Network::None, Network::Egress],
            runtimes: vec!["runc".to_owned()],
            slots: 4,
            cpu_milli: 3_000,
            memory_bytes: 3 << 30,
            enforces: LimitSet { memory: true, ..LimitSet::default() },
            mounts: vec!["/data:ro".to_owned(), "/scratch/:rw".to_owned()],
            labels: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
        }
    }

    fn shape() -> Shape {
        Shape {
            kind: SandboxKind::Oci,
            platform: Some(platform("arm64", None)),
            network: Network::None,
            runtime: None,
            labels: BTreeMap::new(),
            mounts: BTreeSet::new(),
            demand: LimitSet::default(),
            memory_bytes: 1 << 20,
            cpu_milli: 1_000,
        }
    }

    #[test]
    fn an_offer_says_what_it_lacks() {
        let check = |change: &dyn Fn(&mut Shape), lacks: Option<&str>| {
            let mut shape = shape();
            change(&mut shape);
            assert_eq!(offer().fits(&shape).err().as_deref(), lacks, "{shape:?}");
            assert_eq!(Shape::parse(&shape.text()), Some(shape));
        };
        let mount = |path: &str| BTreeSet::from([path.to_owned()]);
        check(&|_| (), None);
        check(&|shape| shape.kind = SandboxKind::Vm, Some("needs sandbox `vm`"));
        check(&|shape| shape.platform = Some(platform("amd64", None)), Some("needs platform `linux/amd64`"));
        check(&|shape| shape.platform = Some(platform("arm64", Some("v7"))), Some("needs platform `linux/arm64/v7`"));
        check(
            &|shape| shape.network = Network::Host,
            Some("needs network `host` (offered by `quarry node --allow-host-network`)"),
        );
        check(&|shape| shape.runtime = Some("runc".to_owned()), None);
        check(
            &|shape| shape.runtime = Some("runsc".to_owned()),
            Some("needs runtime `runsc` (offered by `quarry node --runtime runsc=PATH`)"),
        );
        check(&|shape| drop(shape.labels.insert("disk".to_owned(), "ssd".to_owned())), None);
        check(
            &|shape| drop(shape.labels.insert("gpu".to_owned(), "1".to_owned())),
            Some("needs label `gpu=1` (offered by `quarry node --label gpu=1`)"),
        );
        check(&|shape| shape.mounts = mount("/data/set:ro"), None);
        check(&|shape| shape.mounts = mount("/scratch:rw"), None);
        check(
            &|shape| shape.mounts = mount("/data:rw"),
            Some("needs mount `/data:rw` (offered by `quarry node --allow-mount /data:rw`)"),
        );
        check(
            &|shape| shape.mounts = mount("/database:ro"),
            Some("needs mount `/database:ro` (offered by `quarry node --allow-mount /database:ro`)"),
        );
        check(&|shape| shape.demand = LimitSet::ALL, Some("cannot enforce a limit on cpu, pids, io"));
        check(&|shape| shape.memory_bytes = 3 << 30, None);
        check(&|shape| shape.memory_bytes = 4 << 30, Some("needs 4096 MiB of memory"));
        check(&|shape| shape.memory_bytes = (3 << 30) + (1 << 20), Some("needs 3073 MiB of memory"));
        check(&|shape| shape.cpu_milli = 4_000, Some("needs 4 cores"));
    }

    #[test]
    fn a_machine_may_be_asked_for_all_that_it_has() {
        let offer = |memory_bytes| Offer { memory_bytes, ..offer() };
        let needs = |bytes| Shape { memory_bytes: ceiling(bytes, MEMORY_UNIT_BYTES), ..shape() };
        // What `/proc/meminfo` tells is no whole number of MiB.
        let all = 24_683_664 << 10;
        for (bytes, fits) in
            [(all, true), (24_100 << 20, true), (24_106 << 20, true), (24_107 << 20, false), (u64::MAX, false)]
        {
            assert_eq!(offer(all).fits(&needs(bytes)).is_ok(), fits, "{bytes}");
        }
        let check = |amount, rounded| assert_eq!(ceiling(amount, CPU_UNIT_MILLI), rounded, "{amount}");
        check(0, 0);
        check(1, 250);
        check(1_000, 1_000);
        check(1_001, 1_250);
        check(65_000, 65_000);
    }
}
