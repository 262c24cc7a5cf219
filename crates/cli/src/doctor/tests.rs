//! What the doctor says of machines that we do not have.

use super::facts::{Disk, Facts, Hierarchy, hierarchies};
use super::finding::Level;
use super::{examine, summary};
use jiff::{SignedDuration, Timestamp};
use std::path::PathBuf;
use std::time::Duration;

/// A Debian 12 server, and root on it.
fn debian() -> Facts {
    Facts {
        is_root: true,
        kernel: "6.1.0-18-amd64".to_owned(),
        userns_tried: Some(Ok(())),
        userns_clone: Some(1),
        userns_max: Some(63_000),
        userns_apparmor: None,
        hierarchies: vec![unified(&["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"], true)],
        filesystems: "nodev\tsysfs\n\text4\nnodev\toverlay".to_owned(),
        kvm: Some(Ok(())),
        core_pattern: Some("core".to_owned()),
        seccomp: Some("kill_process kill_thread trap errno user_notif trace log allow".to_owned()),
        lsm: Some("lockdown,capability,landlock,yama,apparmor,tomoyo,bpf".to_owned()),
        ptrace_scope: None,
        memory_bytes: Some((16 << 30, 12 << 30)),
        open_files: (Some(65_536), Some(1_048_576)),
        disk: Disk {
            path: PathBuf::from("/var/lib/quarry"),
            free_bytes: Some(200 << 30),
            free_inodes: Some(12_000_000),
            sync: Some(Ok(Duration::from_micros(900))),
            ahead: Some(SignedDuration::ZERO),
        },
        now: "2026-03-01T12:00:00Z".parse().expect("is an instant"),
        is_synchronised: Some(true),
    }
}

fn unified(controllers: &[&str], is_writable: bool) -> Hierarchy {
    let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
    Hierarchy { version: 2, path: PathBuf::from("/sys/fs/cgroup/user.slice"), controllers, is_writable }
}

/// Tells all that is not simply in order.
fn told(facts: &Facts) -> String {
    let findings = examine(facts);
    let mut lines = Vec::new();
    for finding in findings.iter().filter(|finding| finding.level != Level::Ok) {
        lines.push(format!("{} {}: {}", finding.level.as_str(), finding.name, finding.found));
        lines.push(format!("  {}", finding.meaning));
        lines.extend(finding.mend.iter().map(|mend| format!("  mend: {mend}")));
    }
    lines.push(summary(&findings));
    lines.join("\n")
}

#[test]
fn a_debian_server() {
    insta::assert_snapshot!(told(&debian()), @"everything is in order");
    let whole = examine(&debian())
        .into_iter()
        .map(|finding| format!("{}: {}; {}", finding.name, finding.found, finding.meaning));
    insta::assert_snapshot!(whole.collect::<Vec<_>>().join("\n"), @"
    kernel: 6.1.0-18-amd64; new enough for every kind of sandbox
    memory: 16 GiB in all, 12 GiB to be had; enough for the server; executions need theirs on top
    disk: `/var/lib/quarry`: 200 GiB and 12000000 files free; room for the database, and for a beginning of blobs
    disk latency: 900 µs to force a small write to the disk; what is acknowledged is on the disk, and quickly
    open files: 65536 now, 1048576 at most; enough for thousands of connections
    clock: 2026-03-01 12:00:00 UTC; kept right by the network
    user namespaces: tried, and it works; sandboxes need no root
    control groups: version 2; memory, pids, cpu, io open to us; executions can be held to their limits
    overlayfs: known to the kernel; images are layered without being copied
    seccomp: filters work; executions can be kept from system calls they do not need
    landlock: on; a second wall around files, should the first one have a hole
    /dev/kvm: opens; virtual machines could run here; no sandbox is one yet
    core_pattern: core; dumps are written where the crashed program stood, inside its sandbox
    ptrace: not restricted; debuggers work in sandboxes
    ");
}

#[test]
fn an_ubuntu_desktop_and_nobody_special_on_it() {
    let facts = Facts {
        is_root: false,
        kernel: "6.8.0-45-generic".to_owned(),
        userns_tried: Some(Err("making a mount namespace: Operation not permitted (os error 1)".to_owned())),
        userns_apparmor: Some(1),
        hierarchies: vec![unified(&["cpu", "memory", "pids"], false)],
        kvm: Some(Err("Permission denied (os error 13)".to_owned())),
        core_pattern: Some("|/usr/share/apport/apport -p%p -s%s -c%c -d%d -P%P -u%u -g%g -F%F -- %E".to_owned()),
        ptrace_scope: Some(1),
        open_files: (Some(1_024), Some(1_048_576)),
        ..debian()
    };
    insta::assert_snapshot!(told(&facts), @"
    note open files: 1024 now, 1048576 at most
      each connection and each follower takes one; hundreds at once need more
      mend: raise it: `ulimit -n 65536`, or `LimitNOFILE=65536` in the systemd unit
    warning user namespaces: making a mount namespace: Operation not permitted (os error 1)
      no sandbox can be built here without root; the server works, a node does not
      mend: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or give the quarry binary an AppArmor profile with `userns,`
    warning control groups: version 2; memory, pids, cpu closed to us
      executions cannot be held to limits of: memory, pids, cpu, io
      mend: run as root, or as a systemd service with `Delegate=yes`, or `systemd-run --user --scope -p Delegate=yes`
    note /dev/kvm: Permission denied (os error 13)
      virtual machines are out of reach for this user; other sandboxes work
      mend: add the user to the group `kvm`: `usermod -aG kvm USER`, and log in anew
    warning core_pattern: |/usr/share/apport/apport -p%p -s%s -c%c -d%d -P%P -u%u -g%g -F%F -- %E
      dumps of executions go to `apport` on the host, where Quarry does not see them
      mend: `sysctl -w kernel.core_pattern=core`, and a line of that in /etc/sysctl.d/ to keep it
    `quarry up` works here; warnings: 3
    ");
}

#[test]
fn a_fedora_that_catches_every_dump() {
    let pattern = "|/usr/lib/systemd/systemd-coredump %P %u %g %s %t %c %h %d %F";
    let facts = Facts { core_pattern: Some(pattern.to_owned()), is_synchronised: None, ..debian() };
    insta::assert_snapshot!(told(&facts), @"
    warning core_pattern: |/usr/lib/systemd/systemd-coredump %P %u %g %s %t %c %h %d %F
      dumps of executions go to `systemd-coredump` on the host, where Quarry does not see them
      mend: `sysctl -w kernel.core_pattern=core`, and a line of that in /etc/sysctl.d/ to keep it
    `quarry up` works here; warnings: 1
    ");
}

#[test]
fn a_container_that_shuts_everything() {
    let facts = Facts {
        userns_tried: Some(Err("entering a user namespace: No space left on device (os error 28)".to_owned())),
        userns_max: Some(0),
        hierarchies: vec![unified(&["cpu", "io", "memory", "pids"], false)],
        kvm: None,
        lsm: None,
        ptrace_scope: Some(3),
        ..debian()
    };
    insta::assert_snapshot!(told(&facts), @"
    warning user namespaces: entering a user namespace: No space left on device (os error 28)
      a node must stay root to build sandboxes here
      mend: `sysctl -w user.max_user_namespaces=65536`
    warning control groups: version 2; memory, pids, cpu, io closed to us
      executions cannot be held to limits of: memory, pids, cpu, io
      mend: in a container, let it write to its control groups (Docker: `--privileged`; systemd: `Delegate=yes`)
    note landlock: unknown
      the list of security modules cannot be read here
    note /dev/kvm: there is none
      no virtual machines here; other sandboxes work
      mend: turn on virtualisation in the firmware, or nested virtualisation if this is a virtual machine itself
    warning ptrace: scope 3
      nobody may debug, and nothing but a restart changes that
      mend: set kernel.yama.ptrace_scope=1 in /etc/sysctl.d/, and restart the machine
    `quarry up` works here; warnings: 3
    ");
}

#[test]
fn an_old_kernel() {
    let facts = Facts {
        is_root: false,
        kernel: "4.19.0-27-amd64".to_owned(),
        userns_tried: Some(Err("entering a user namespace: Operation not permitted (os error 1)".to_owned())),
        userns_clone: Some(0),
        hierarchies: Vec::new(),
        filesystems: "\text4".to_owned(),
        lsm: Some("yama,apparmor".to_owned()),
        seccomp: None,
        ptrace_scope: Some(2),
        core_pattern: Some("/var/crash/core.%p".to_owned()),
        ..debian()
    };
    insta::assert_snapshot!(told(&facts), @"
    warning kernel: 4.19.0-27-amd64
      too old for sandboxes without root; the server works
      mend: use Linux 5.11 or newer; any supported Debian or Ubuntu has it
    warning user namespaces: entering a user namespace: Operation not permitted (os error 1)
      no sandbox can be built here without root; the server works, a node does not
      mend: `sysctl -w kernel.unprivileged_userns_clone=1`
    warning control groups: none are mounted
      no limit on memory, processors or processes can be enforced
      mend: mount them: `mount -t cgroup2 none /sys/fs/cgroup`, which every distribution does at boot
    warning overlayfs: not loaded
      images have to be copied for each sandbox, which is slow and takes room
      mend: `modprobe overlay`, and `echo overlay > /etc/modules-load.d/overlay.conf` to keep it
    warning seccomp: no filters
      executions could make every system call, which widens their way out
      mend: use a kernel with CONFIG_SECCOMP_FILTER, as every distribution's is
    note landlock: off
      one wall around files instead of two
      mend: add `landlock` to `lsm=` at boot, with Linux 5.13 or newer
    note core_pattern: /var/crash/core.%p
      dumps are written to that path inside of each sandbox, if it exists there
      mend: `sysctl -w kernel.core_pattern=core`, and a line of that in /etc/sysctl.d/ to keep it
    note ptrace: scope 2
      only root may debug; a debugger needs a program it started as root
      mend: `sysctl -w kernel.yama.ptrace_scope=1`
    `quarry up` works here; warnings: 5
    ");
}

#[test]
fn a_machine_on_which_nothing_can_start() {
    let facts = Facts {
        memory_bytes: Some((256 << 20, 20 << 20)),
        open_files: (Some(64), Some(64)),
        now: Timestamp::UNIX_EPOCH,
        core_pattern: Some(String::new()),
        disk: Disk { sync: Some(Err("Read-only file system (os error 30)".to_owned())), ..debian().disk },
        ..debian()
    };
    insta::assert_snapshot!(told(&facts), @"
    warning memory: 256 MiB in all, 20 MiB to be had
      the kernel may end the server when memory runs out
      mend: stop other programs, or add memory or swap
    failed disk: `/var/lib/quarry`: Read-only file system (os error 30)
      nothing can be kept there
      mend: name another folder with --data, or let this user write there
    note disk latency: unknown
      nothing could be written
    failed open files: 64 now, 64 at most
      too few for the server's connections and files
      mend: raise it: `ulimit -n 65536`, or `LimitNOFILE=65536` in the systemd unit
    failed clock: 1970-01-01 00:00:00 UTC
      this is before this program was written; ids and expiries would be wrong
      mend: set the clock, or let systemd-timesyncd or chrony do it
    warning core_pattern: empty
      crashes leave no dump
      mend: `sysctl -w kernel.core_pattern=core`, and a line of that in /etc/sysctl.d/ to keep it
    `quarry up` will not work here; failed: 3, warnings: 2
    ");
}

#[test]
fn disks_and_clocks() {
    let check = |disk: Disk, is_synchronised| told(&Facts { disk, is_synchronised, ..debian() });
    let disk = || debian().disk;
    insta::assert_snapshot!(check(Disk { free_bytes: Some(10 << 20), ..disk() }, Some(true)), @"
    failed disk: `/var/lib/quarry`: 10 MiB and 12000000 files free
      the database would soon be unable to write
      mend: make room there, or name another folder with --data
    `quarry up` will not work here; failed: 1, warnings: 0
    ");
    insta::assert_snapshot!(check(Disk { free_bytes: Some(1 << 30), free_inodes: None, ..disk() }, Some(false)), @"
    warning disk: `/var/lib/quarry`: 1 GiB free
      a few dumps or images would fill it
      mend: make room there, or name another folder with --data
    warning clock: 2026-03-01 12:00:00 UTC
      not in step with the network yet; tokens may expire early or late
      mend: `timedatectl set-ntp true`, and see `timedatectl status`
    `quarry up` works here; warnings: 2
    ");
    insta::assert_snapshot!(check(Disk { free_inodes: Some(7), ..disk() }, Some(true)), @"
    failed disk: `/var/lib/quarry`: 200 GiB and 7 files free
      the database would soon be unable to write
      mend: make room there, or name another folder with --data
    `quarry up` will not work here; failed: 1, warnings: 0
    ");
    let spinning =
        Disk { sync: Some(Ok(Duration::from_millis(41))), ahead: Some(SignedDuration::from_hours(1)), ..disk() };
    insta::assert_snapshot!(check(spinning, Some(true)), @"
    warning disk latency: 41000 µs to force a small write to the disk
      every acknowledgement waits for this; throughput is kept by grouping
      mend: keep the data folder on a local SSD, not on a network or spinning disk
    warning clock: 2026-03-01 12:00:00 UTC; the disk's clock is 3600 s away
      files seem to come from another time; one of the two clocks is wrong
      mend: let systemd-timesyncd or chrony set the clocks of both machines
    `quarry up` works here; warnings: 2
    ");
    let memory = Disk { sync: Some(Ok(Duration::from_micros(3))), ..disk() };
    insta::assert_snapshot!(check(memory, Some(true)), @"
    note disk latency: 3 µs to force a small write to the disk
      so fast that it may not reach the disk at all (memory, or a cache): a power failure could lose data
    everything is in order
    ");
}

#[test]
fn a_hybrid_machine_is_read_and_judged() {
    let mountinfo = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
    let own =
        "5:blkio:/\n4:memory:/user.slice\n2:cpu,cpuacct:/user.slice/me\n1:name=systemd:/user.slice\n0::/user.slice/x";
    let mut found = hierarchies(mountinfo, own);
    let seen: Vec<_> =
        found.iter().map(|tree| format!("{} {} {:?}", tree.version, tree.path.display(), tree.controllers)).collect();
    insta::assert_snapshot!(seen.join("\n"), @r#"
    1 /sys/fs/cgroup/cpu,cpuacct/user.slice/me ["cpu", "cpuacct"]
    1 /sys/fs/cgroup/memory/user.slice ["memory"]
    1 /sys/fs/cgroup/blkio/ ["blkio"]
    1 /sys/fs/cgroup/systemd/user.slice ["name=systemd"]
    2 /sys/fs/cgroup/unified/user.slice/x []
    "#);
    found.iter_mut().filter(|tree| tree.controllers != ["blkio"]).for_each(|tree| tree.is_writable = true);
    insta::assert_snapshot!(told(&Facts { hierarchies: found, ..debian() }), @"
    warning control groups: hybrid of versions 1 and 2; memory, cpu open to us, io closed
      executions cannot be held to limits of: io, pids
      mend: in a container, let it write to its control groups (Docker: `--privileged`; systemd: `Delegate=yes`)
    `quarry up` works here; warnings: 1
    ");
}

#[test]
fn a_group_inside_of_a_container_is_found_below_its_root() {
    let mountinfo = "30 29 0:26 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate";
    let path = |own: &str| hierarchies(mountinfo, own)[0].path.clone();
    assert_eq!(path("0::/docker/abc/job"), PathBuf::from("/sys/fs/cgroup/job"));
    assert_eq!(path("0::/"), PathBuf::from("/sys/fs/cgroup"));
    assert_eq!(hierarchies("nonsense\n1 2 3 - cgroup2", ""), []);
}
