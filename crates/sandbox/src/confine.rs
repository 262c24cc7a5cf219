//! What a program may no longer do: privileges it could gain, capabilities, keys, devices, and what its rlimits say. Applied
//! by the process that is to become the program, between being born and waiting for its order; only who it is inside is
//! settled with the order, and with it the last capabilities go.
//!
//! There is no limit on the size of an address space: it breaks just-in-time compilers and sanitizers, which reserve far
//! more than they use. Memory is the control group's affair.

use crate::descriptor;
use crate::event::{Fault, FaultKind};
use crate::plan::Plan;
use crate::profile::{Profile, Tracing};
use crate::root::machine;
use crate::{seccomp, system};
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::os::fd::OwnedFd;

/// What a program that is root inside needs to install software: it concerns files and processes of its own ids only.
const FILE_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SETFCAP);

/// What confines a program besides its plan, settled once by the spawner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    /// Whether a control group counts its processes.
    pub(crate) counts_processes: bool,
    /// Whether the kernel may write its core; otherwise init does.
    pub(crate) kernel_core_bytes: u64,
    /// Whether its namespaces may be used for another sandbox.
    pub(crate) keeps_notes: bool,
}

/// Confines this process for good, but for changing who it is. Returns the listener of its filter, if it asks anything.
pub(crate) fn confine(plan: &Plan, means: Means) -> Result<Option<OwnedFd>, Fault> {
    rustix::thread::set_no_new_privs(true).map_err(machine("new privileges could not be ruled out"))?;
    system::join_keyring();
    limit(plan, means)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // The set bounds what a program may gain by its start; what this process holds, it holds until it gives it up.
    system::bound_capabilities(kept(plan).bits());
    restrict_files()
        .map_err(|error| Fault { kind: FaultKind::Machine, cause: format!("landlock could not be set up: {error}") })?;
    filter_calls(plan, means)
}

/// Gives up the last capabilities; what is kept survives the program's start only if it is root inside.
pub(crate) fn give_up(plan: &Plan, uid: u32) -> Result<(), Fault> {
    let kept = if uid == 0 { kept(plan) } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::clear_ambient_capability_set().map_err(machine("capabilities could not be given up"))?;
    rustix::thread::set_capabilities(None, sets).map_err(machine("capabilities could not be given up"))
}

fn kept(plan: &Plan) -> CapabilitySet {
    if plan.file_capabilities { FILE_CAPABILITIES } else { CapabilitySet::empty() }
}

fn limit(plan: &Plan, means: Means) -> Result<(), Fault> {
    descriptor::lower();
    let what = machine("a resource limit could not be set");
    system::limit(libc::RLIMIT_CORE, means.kernel_core_bytes, means.kernel_core_bytes).map_err(&what)?;
    if !means.counts_processes {
        // Counted for this user namespace alone; init is one of them.
        let processes = u64::from(plan.limits.pids) + 1;
        system::limit(libc::RLIMIT_NPROC, processes, processes).map_err(&what)?;
    }
    Ok(())
}

/// Device nodes are neither made nor, but beneath /dev, spoken to; nobody outside is signalled or reached by an abstract
/// socket. Whatever of that the kernel does not know is left out; `abilities` says so.
fn restrict_files() -> Result<(), landlock::RulesetError> {
    let made = AccessFs::MakeChar | AccessFs::MakeBlock;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(made | AccessFs::Refer | AccessFs::IoctlDev)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .no_new_privs(false);
    let open = |path| rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    if let Ok(root) = open("/") {
        rules = rules.add_rule(PathBeneath::new(root, AccessFs::Refer))?;
    }
    if let Ok(devices) = open("/dev") {
        rules = rules.add_rule(PathBeneath::new(devices, AccessFs::IoctlDev))?;
    }
    rules.restrict_self().map(drop)
}

/// Returns what the kernel lacks of what `restrict_files` asks for, a sentence each.
pub(crate) fn lacks() -> Vec<String> {
    let has = |abi: ABI| {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(abi))
            .and_then(Ruleset::create)
            .is_ok()
    };
    let words = [
        (ABI::V2, "landlock is absent: device nodes inside are kept out by the mounts' flags and capabilities alone"),
        (ABI::V5, "landlock knows no devices: ioctls reach whatever device a mount shows"),
    ];
    let strict = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let has_scopes = strict.scope(Scope::from_all(ABI::V6)).and_then(Ruleset::create).is_ok();
    let unscoped = "landlock has no scopes: with the network `host`, abstract sockets of the machine are reached";
    let lacking = words.into_iter().filter(|(abi, _)| !has(*abi)).map(|(_, word)| word);
    lacking.chain((!has_scopes).then_some(unscoped)).map(str::to_owned).collect()
}

/// Installs the filter of system calls.
fn filter_calls(plan: &Plan, means: Means) -> Result<Option<OwnedFd>, Fault> {
    seccomp::filter(profile(plan, means)).install().map_err(|error| Fault {
        kind: FaultKind::Machine,
        cause: format!("the filter of system calls could not be installed: {error}"),
    })
}

fn profile(plan: &Plan, means: Means) -> Profile {
    let tracing = if plan.ptrace { Tracing::Allowed } else { Tracing::Asked };
    Profile { tracing, keeps_notes: means.keeps_notes && !plan.ptrace }
}
