//! What the kernel lets us do: namespaces, control groups, file systems, filters, dumps.

use super::facts::{Facts, Hierarchy};
use super::finding::{Finding, Level};

/// The oldest kernel that has all that sandboxes are made of (clone3 into a control group: 5.7; overlay for all: 5.11).
const GOOD_KERNEL: (u32, u32) = (5, 11);
/// What a sandbox wants limited; version 1 calls `io` by another name.
const WANTED: [&str; 4] = ["memory", "pids", "cpu", "io"];

fn release(kernel: &str) -> Option<(u32, u32)> {
    let mut parts = kernel.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn version(facts: &Facts) -> Finding {
    let finding = |level, meaning| Finding::new("kernel", level, facts.kernel.clone(), meaning);
    match release(&facts.kernel) {
        Some(release) if release >= GOOD_KERNEL => finding(Level::Ok, "new enough for every kind of sandbox"),
        Some(_) => finding(Level::Warning, "too old for sandboxes without root; the server works")
            .mend("use Linux 5.11 or newer; any supported Debian or Ubuntu has it"),
        None => finding(Level::Warning, "not a Linux release we can read; sandboxes may not work"),
    }
}

pub(super) fn user_namespaces(facts: &Facts) -> Finding {
    let finding = |level, found: String, meaning| Finding::new("user namespaces", level, found, meaning);
    let error = match &facts.userns_tried {
        Some(Ok(())) => {
            return finding(Level::Ok, "tried, and it works".to_owned(), "sandboxes need no root");
        }
        Some(Err(error)) => error.clone(),
        None => "could not be tried".to_owned(),
    };
    let meaning = if facts.is_root {
        "a node must stay root to build sandboxes here"
    } else {
        "no sandbox can be built here without root; the server works, a node does not"
    };
    let finding = finding(Level::Warning, error, meaning);
    if facts.userns_max == Some(0) {
        return finding.mend("`sysctl -w user.max_user_namespaces=65536`");
    }
    if facts.userns_clone == Some(0) {
        return finding.mend("`sysctl -w kernel.unprivileged_userns_clone=1`");
    }
    if facts.userns_apparmor.is_some_and(|restricts| restricts != 0) {
        return finding.mend(
            "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or give the quarry binary an AppArmor profile with `userns,`",
        );
    }
    finding.mend("in a container, allow nested user namespaces (Docker: a seccomp profile that lets unshare pass)")
}

pub(super) fn cgroups(facts: &Facts) -> Finding {
    let finding = |level, found: String, meaning: String| Finding::new("control groups", level, found, meaning);
    let has = |version: u8| facts.hierarchies.iter().any(|hierarchy| hierarchy.version == version);
    let mode = match (has(1), has(2)) {
        (false, false) => {
            let meaning = "no limit on memory, processors or processes can be enforced".to_owned();
            return finding(Level::Warning, "none are mounted".to_owned(), meaning)
                .mend("mount them: `mount -t cgroup2 none /sys/fs/cgroup`, which every distribution does at boot");
        }
        (false, true) => "version 2",
        (true, false) => "version 1",
        (true, true) => "hybrid of versions 1 and 2",
    };
    let holder = |wanted: &str| facts.hierarchies.iter().find(|hierarchy| controls(hierarchy, wanted));
    let (held, missing): (Vec<_>, Vec<_>) = WANTED.into_iter().partition(|wanted| holder(wanted).is_some());
    let (ours, closed): (Vec<_>, Vec<_>) =
        held.into_iter().partition(|wanted| holder(wanted).is_some_and(|hierarchy| hierarchy.is_writable));
    let list = |words: &[&str]| words.join(", ");
    let found = match (ours.is_empty(), closed.is_empty()) {
        (true, true) => format!("{mode}, with none of: {}", list(&WANTED)),
        (true, false) => format!("{mode}; {} closed to us", list(&closed)),
        (false, true) => format!("{mode}; {} open to us", list(&ours)),
        (false, false) => format!("{mode}; {} open to us, {} closed", list(&ours), list(&closed)),
    };
    if closed.is_empty() && missing.is_empty() {
        let meaning = "executions can be held to their limits".to_owned();
        return finding(Level::Ok, found, meaning);
    }
    let unlimited = list(&[closed.as_slice(), missing.as_slice()].concat());
    let finding = finding(Level::Warning, found, format!("executions cannot be held to limits of: {unlimited}"));
    if !closed.is_empty() && facts.is_root {
        return finding.mend(
            "in a container, let it write to its control groups (Docker: `--privileged`; systemd: `Delegate=yes`)",
        );
    }
    if !closed.is_empty() {
        return finding.mend(
            "run as root, or as a systemd service with `Delegate=yes`, or `systemd-run --user --scope -p Delegate=yes`",
        );
    }
    finding.mend(
        "enable them in the group above (`cgroup.subtree_control`); `cgroup_enable=memory` at boot if memory is missing",
    )
}

fn controls(hierarchy: &Hierarchy, wanted: &str) -> bool {
    let name = if hierarchy.version == 1 && wanted == "io" { "blkio" } else { wanted };
    hierarchy.controllers.iter().any(|controller| controller == name)
}

pub(super) fn overlay(facts: &Facts) -> Finding {
    let finding = |level, found: &str, meaning| Finding::new("overlayfs", level, found, meaning);
    if facts.filesystems.lines().any(|line| line.split_whitespace().last() == Some("overlay")) {
        return finding(Level::Ok, "known to the kernel", "images are layered without being copied");
    }
    finding(Level::Warning, "not loaded", "images have to be copied for each sandbox, which is slow and takes room")
        .mend("`modprobe overlay`, and `echo overlay > /etc/modules-load.d/overlay.conf` to keep it")
}

pub(super) fn seccomp(facts: &Facts) -> Finding {
    let finding = |level, found: &str, meaning| Finding::new("seccomp", level, found, meaning);
    match &facts.seccomp {
        Some(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            finding(Level::Ok, "filters work", "executions can be kept from system calls they do not need")
        }
        _ => {
            finding(Level::Warning, "no filters", "executions could make every system call, which widens their way out")
                .mend("use a kernel with CONFIG_SECCOMP_FILTER, as every distribution's is")
        }
    }
}

pub(super) fn landlock(facts: &Facts) -> Finding {
    let finding = |level, found: &str, meaning| Finding::new("landlock", level, found, meaning);
    match &facts.lsm {
        Some(modules) if modules.split(',').any(|module| module == "landlock") => {
            finding(Level::Ok, "on", "a second wall around files, should the first one have a hole")
        }
        Some(_) => finding(Level::Note, "off", "one wall around files instead of two")
            .mend("add `landlock` to `lsm=` at boot, with Linux 5.13 or newer"),
        None => finding(Level::Note, "unknown", "the list of security modules cannot be read here"),
    }
}

pub(super) fn virtual_machines(facts: &Facts) -> Finding {
    let finding = |level, found: String, meaning| Finding::new("/dev/kvm", level, found, meaning);
    match &facts.kvm {
        Some(Ok(())) => {
            finding(Level::Ok, "opens".to_owned(), "virtual machines could run here; no sandbox is one yet")
        }
        Some(Err(error)) => {
            finding(Level::Note, error.clone(), "virtual machines are out of reach for this user; other sandboxes work")
                .mend("add the user to the group `kvm`: `usermod -aG kvm USER`, and log in anew")
        }
        None => finding(Level::Note, "there is none".to_owned(), "no virtual machines here; other sandboxes work")
            .mend(
                "turn on virtualisation in the firmware, or nested virtualisation if this is a virtual machine itself",
            ),
    }
}

pub(super) fn core_pattern(facts: &Facts) -> Finding {
    let finding = |level, found: &str, meaning: String| Finding::new("core_pattern", level, found, meaning);
    let mend = "`sysctl -w kernel.core_pattern=core`, and a line of that in /etc/sysctl.d/ to keep it";
    match facts.core_pattern.as_deref() {
        None => finding(Level::Note, "unknown", "whether crashes leave dumps cannot be told".to_owned()),
        Some("") => finding(Level::Warning, "empty", "crashes leave no dump".to_owned()).mend(mend),
        Some(pattern) if pattern.starts_with('|') => {
            let program = pattern[1..].split_whitespace().next().unwrap_or("a program");
            let name = program.rsplit('/').next().unwrap_or(program);
            let meaning = format!("dumps of executions go to `{name}` on the host, where Quarry does not see them");
            finding(Level::Warning, pattern, meaning).mend(mend)
        }
        Some(pattern) if pattern.starts_with('/') => {
            let meaning = "dumps are written to that path inside of each sandbox, if it exists there".to_owned();
            finding(Level::Note, pattern, meaning).mend(mend)
        }
        Some(pattern) => finding(
            Level::Ok,
            pattern,
            "dumps are written where the crashed program stood, inside its sandbox".to_owned(),
        ),
    }
}

pub(super) fn tracing(facts: &Facts) -> Finding {
    let finding = |level, found: &str, meaning| Finding::new("ptrace", level, found, meaning);
    match facts.ptrace_scope {
        None => finding(Level::Ok, "not restricted", "debuggers work in sandboxes"),
        Some(0) => finding(Level::Ok, "scope 0", "debuggers work in sandboxes"),
        Some(1) => finding(Level::Ok, "scope 1", "debuggers work on programs that they started themselves"),
        Some(2) => {
            finding(Level::Note, "scope 2", "only root may debug; a debugger needs a program it started as root")
                .mend("`sysctl -w kernel.yama.ptrace_scope=1`")
        }
        Some(_) => finding(Level::Warning, "scope 3", "nobody may debug, and nothing but a restart changes that")
            .mend("set kernel.yama.ptrace_scope=1 in /etc/sysctl.d/, and restart the machine"),
    }
}
