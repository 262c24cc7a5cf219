//! A bundle in the standard's words: what stands in `config.json`.

use super::filter;
use super::ground::Ground;
use super::{Bundle, Sort, machine, refusal};
use crate::cell::group;
use crate::event::Fault;
use crate::person::{self, Person};
use crate::plan::{Place, Plan};
use model::{Access, Network};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

/// What a program that is root inside keeps, to install software.
const FILE_CAPABILITIES: [&str; 9] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
];

/// Refuses what no other runtime can be asked for.
pub(super) fn check(bundle: &Bundle) -> Result<(u32, u32), Fault> {
    let name = &bundle.runtime.name;
    let Place::Range { first, count } = bundle.place else {
        return Err(refusal(format!("the runtime `{name}` needs ids of its own, which an ordinary user has not")));
    };
    if bundle.plan.network == Network::Egress {
        return Err(refusal(format!("the runtime `{name}` has no network `egress`; only our own sandboxes have")));
    }
    if bundle.plan.terminal {
        return Err(refusal(format!("the runtime `{name}` gives no terminal; only our own sandboxes do")));
    }
    Ok((first, count))
}

/// Returns what a runtime with a kernel of its own is told before all else.
pub(super) fn sentry(plan: &Plan) -> &'static str {
    // Its own network stack would take the machine's addresses over; none is what the namespace holds.
    if plan.network == Network::Host { "--network=host" } else { "--network=none" }
}

/// Describes a bundle.
pub(super) fn describe(bundle: &Bundle, ground: &Ground) -> Result<Value, Fault> {
    let (first, count) = check(bundle)?;
    let (plan, order) = (&bundle.plan, &bundle.order);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(ground.root(), flags, Mode::empty()).map_err(|errno| machine("opened", errno))?;
    let person = person::find_in(&root, &order.user, count)?;
    let env = order.words(person.home());
    let Person { uid, gid, groups, .. } = person;
    let kept: &[&str] = if plan.file_capabilities && uid == 0 { &FILE_CAPABILITIES } else { &[] };
    let bounding: &[&str] = if plan.file_capabilities { &FILE_CAPABILITIES } else { &[] };
    let mapping = json!([{"containerID": 0, "hostID": first, "size": count}]);
    let mut namespaces = vec!["pid", "mount", "ipc", "uts", "cgroup", "user"];
    namespaces.extend((plan.network == Network::None).then_some("network"));
    let namespaces: Vec<_> = namespaces.into_iter().map(|kind| json!({"type": kind})).collect();
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": false},
        "hostname": plan.hostname,
        "process": {
            "terminal": false, "noNewPrivileges": true, "cwd": order.cwd, "args": order.command, "env": env,
            "user": {"uid": uid, "gid": gid, "umask": 0o022, "additionalGids": groups},
            "capabilities": {"bounding": bounding, "effective": kept, "permitted": kept},
            "rlimits": [{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}],
            "oomScoreAdj": 500,
        },
        "mounts": mounts(plan, ground),
        "linux": {
            // Not absolute, so that a runtime that knows how puts it beneath the node's own groups.
            "cgroupsPath": bundle.id,
            "namespaces": namespaces,
            "uidMappings": mapping,
            "gidMappings": mapping,
            "resources": resources(plan, bundle.runtime.sort),
            "seccomp": filter::describe(plan.ptrace),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"],
        },
    }))
}

fn mounts(plan: &Plan, ground: &Ground) -> Vec<Value> {
    let one = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let size = format!("size={}", plan.limits.disk_bytes);
    let mut mounts = vec![
        one("/proc", "proc", &["nosuid", "nodev", "noexec"]),
        one("/dev", "tmpfs", &["nosuid", "mode=755", "size=64k"]),
        one("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        one("/dev/shm", "tmpfs", &["nosuid", "nodev", "noexec", "mode=1777", &size]),
        one("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777", &size]),
    ];
    for (bind, source) in plan.binds.iter().zip(&ground.binds) {
        let access = if bind.access == Access::ReadOnly { "ro" } else { "rw" };
        mounts.push(json!({
            "destination": bind.target, "source": source, "type": "bind",
            "options": ["rbind", access, "nosuid", "nodev"],
        }));
    }
    mounts
}

fn resources(plan: &Plan, sort: Sort) -> Value {
    let limits = &plan.limits;
    let mut resources = json!({
        "memory": {"limit": limits.memory_bytes, "swap": limits.memory_bytes},
        "cpu": {"quota": u64::from(limits.cpu_milli) * 100, "period": 100_000},
    });
    if sort == Sort::Plain {
        // A kernel of its own has threads of its own, and the machine's would count those.
        resources["pids"] = json!({"limit": limits.pids});
    }
    let disk = group::root_disk().filter(|_| limits.io_bytes_second > 0);
    let numbers = disk.as_deref().and_then(|disk| disk.split_once(':'));
    if let Some((major, minor)) = numbers.and_then(|(a, b)| a.parse::<u32>().ok().zip(b.parse::<u32>().ok())) {
        let rate = json!([{"major": major, "minor": minor, "rate": limits.io_bytes_second}]);
        resources["blockIO"] = json!({"throttleReadBpsDevice": rate, "throttleWriteBpsDevice": rate});
    }
    resources
}
