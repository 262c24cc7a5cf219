//! What programs see as their files, and what they may do with them.

use crate::bench::{Bench, Who, order, plan, settings, shell};
use model::Access;
use sandbox::{Bind, FaultKind, Plan, Root, Status};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn bind(source: &Path, target: &str, access: Access) -> Bind {
    Bind { source: source.to_owned(), target: target.into(), access }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    folder
}

#[test]
fn mounts_are_what_they_say() {
    for who in [Who::Root, Who::Ordinary] {
        let (read, write) = (folder(), folder());
        std::fs::write(read.path().join("file"), "seen\n").expect("it is ours");
        let plan = Plan {
            binds: vec![
                bind(read.path(), "/data/in/deep", Access::ReadOnly),
                bind(write.path(), "/out", Access::ReadWrite),
                bind(&read.path().join("file"), "/tmp/one", Access::ReadOnly),
            ],
            ..plan()
        };
        let script = "cat /data/in/deep/file /tmp/one; echo x > /data/in/deep/new || echo refused; \
            echo y > /tmp/one || echo refused; echo z > /out/new && echo written";
        let mut bench = Bench::of(who);
        let run = bench.run(&plan, &shell(script));
        assert_eq!(run.output, "seen\nseen\nrefused\nrefused\nwritten\n", "{who:?}: {run:?}");
        assert_eq!(std::fs::read_to_string(write.path().join("new")).expect("it was written"), "z\n");
    }
}

#[test]
fn no_mount_leads_astray() {
    let mut bench = Bench::new();
    let folder = folder();
    std::os::unix::fs::symlink("/etc", folder.path().join("link")).expect("it is ours");
    let mut check = |source: PathBuf, target: &str, words: &str| {
        let plan = Plan { binds: vec![bind(&source, target, Access::ReadWrite)], ..plan() };
        let fault = bench.try_run(&plan, &shell("true"), b"").expect_err(words);
        assert_eq!(fault.kind, FaultKind::Plan, "{fault}");
        assert!(fault.cause.contains(words), "{fault}");
    };
    check(folder.path().join("link"), "/data", "symbolic link");
    check(folder.path().join("link/ssl"), "/data", "symbolic link");
    check(folder.path().join("nothing"), "/data", "cannot be opened");
    check(PathBuf::from("/dev/null"), "/data", "neither a folder nor a file");
    check(folder.path().to_owned(), "/proc/sys", "the sandbox's own");
    check(folder.path().to_owned(), "/../etc", "not climb");
    check(folder.path().to_owned(), "/", "beneath");
}

#[test]
fn a_link_in_a_layer_stays_in_the_layer() {
    let layer = folder();
    std::os::unix::fs::symlink("/../../../../var/tmp", layer.path().join("out")).expect("it is ours");
    std::os::unix::fs::symlink("/etc", layer.path().join("proc")).expect("it is ours");
    std::fs::create_dir(layer.path().join("etc")).expect("it is ours");
    let outside = folder();
    let plan = Plan {
        root: Root::Layers(vec![layer.path().to_owned()]),
        binds: vec![bind(outside.path(), "/out/escaped", Access::ReadWrite)],
        ..plan()
    };
    // Nothing can run in it, but what is built must not show outside.
    let _ = Bench::new().try_run(&plan, &shell("true"), b"");
    assert!(!Path::new("/var/tmp/escaped").exists());
    assert_eq!(std::fs::read_dir(layer.path().join("etc")).expect("it is there").count(), 0);
}

#[test]
fn layers_lie_over_each_other() {
    let (upper, lower) = (folder(), folder());
    for name in ["bin", "etc"] {
        std::fs::create_dir(lower.path().join(name)).expect("it is ours");
    }
    std::fs::copy("/bin/busybox", lower.path().join("bin/busybox")).expect("busybox is installed");
    std::fs::create_dir(upper.path().join("etc")).expect("it is ours");
    std::fs::write(upper.path().join("etc/name"), "upper\n").expect("it is ours");
    std::fs::write(lower.path().join("etc/name"), "lower\n").expect("it is ours");
    for who in [Who::Root, Who::Ordinary] {
        for part in [&upper, &lower] {
            let (id, path) = (if who == Who::Root { 100_000 } else { 20_001 }, part.path());
            for path in [path.to_owned(), path.join("etc"), path.join("etc/name")] {
                std::os::unix::fs::chown(path, Some(id), Some(id)).expect("root may");
            }
        }
        let root = Root::Layers(vec![upper.path().to_owned(), lower.path().to_owned()]);
        let script = "cat /etc/name; echo changed > /etc/name; cat /etc/name; ls /; touch /dev/null; \
            while read -r _ _ _ _ point _; do case $point in /proc/?*) ;; *) echo $point ;; esac; done < /proc/self/mountinfo";
        let run = Bench::of(who).run(&Plan { root, ..plan() }, &order(&["/bin/busybox", "sh", "-c", script]));
        let seen =
            run.output.strip_prefix("upper\nchanged\nbin\ndev\netc\nproc\nrun\nsys\ntmp\n").expect("what is there");
        let mut points: Vec<_> = seen.lines().filter(|point| !point.starts_with("/dev/")).collect();
        points.sort_unstable();
        assert_eq!(points, ["/", "/dev", "/proc", "/tmp"], "no mount of the machine's shows: {who:?}: {run:?}");
        assert_eq!(std::fs::read_to_string(upper.path().join("etc/name")).expect("it is there"), "upper\n");
    }
}

#[test]
fn the_machines_own_files_are_seen_and_not_changed() {
    let secret = folder();
    std::fs::write(secret.path().join("secret"), "x").expect("it is ours");
    for who in [Who::Root, Who::Ordinary] {
        let mut bench = Bench::of(who);
        let mut check = |script: &str, output: &str| {
            let run = bench.run(&plan(), &shell(script));
            assert_eq!(
                (run.ending.status, run.output.as_str()),
                (Status::Exited(0), output),
                "{who:?}: {script}: {run:?}"
            );
        };
        check("ls /tmp /var/tmp /run /mnt /root /boot /media | grep -v :", "\n\n\n\n\n\n");
        check("cat /etc/shadow 2>/dev/null || echo closed", "closed\n");
        check("echo x > /etc/passwd || echo closed", "closed\n");
        check("ls /dev", "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n");
        check("for d in null zero full random urandom; do test -r /dev/$d || echo $d; done; echo x > /dev/null", "");
        check("echo core > /proc/sys/kernel/core_pattern || echo closed", "closed\n");
        check("echo h > /proc/sysrq-trigger || echo closed", "closed\n");
        check("head -c1 /proc/kcore 2>/dev/null | wc -c; cat /proc/keys | wc -l; ls /sys", "0\n0\n");
        check("mkdir /new && echo mine > /new/file && cat /new/file && stat -c %a /tmp", "mine\n1777\n");
        check(
            "mount -t tmpfs x /mnt 2>/dev/null || echo closed; mknod /tmp/d b 8 0 2>/dev/null || echo closed",
            "closed\nclosed\n",
        );
    }
}

#[test]
fn what_the_settings_hide_stays_hidden() {
    let folder = tempfile::Builder::new().prefix("quarry-hidden-").tempdir_in("/var/cache").expect("a folder");
    let at = |path: &str| folder.path().join(path);
    let open = |path: &Path| {
        std::fs::create_dir_all(path).expect("it is ours");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        std::fs::write(path.join("file"), "seen\n").expect("it is ours");
    };
    for path in ["", "now", "now/below", "beside", "beside/deep", "beside/deep/now", "linked"] {
        open(&at(path));
    }
    std::os::unix::fs::symlink("linked", at("link")).expect("it is ours");
    // There, not there yet, without a folder to be in yet, and a link, with which goes what it leads to.
    let hidden = ["now", "beside/deep/now", "later", "beside/deep/later", "nowhere/later", "link"].map(at);
    let mut bench = Bench::hiding(&hidden);
    for path in ["later", "beside/deep/later", "nowhere/later"] {
        open(&at(path));
    }
    let mut check = |script: &str, output: &str| {
        let script = format!("cd {} && {script}", folder.path().display());
        let run = bench.run(&plan(), &shell(&script));
        assert_eq!(run.output, output, "{script}: {run:?}");
    };
    check("cat file beside/file beside/deep/file", "seen\nseen\nseen\n");
    check("stat -c '%a %u' . beside beside/deep", "755 65534\n755 65534\n755 65534\n");
    for path in ["now", "later", "beside/deep/now", "beside/deep/later", "nowhere", "linked", "link"] {
        check(&format!("ls -A {path}; cat {path}/file 2>/dev/null || echo closed"), "closed\n");
        // Nobody inside can take away what hides it.
        let take =
            format!("rm -rf {path} 2>/dev/null; mv {path} /tmp/x 2>/dev/null; setfattr -x user.overlay.opaque {path}");
        check(&format!("({take}) 2>/dev/null; cat {path}/file /tmp/x/file 2>/dev/null || echo closed"), "closed\n");
    }
}

#[test]
fn a_place_of_the_machines_own_ids_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for place in [sandbox::Place::Range { first: 0, count: 65_536 }, sandbox::Place::Own] {
        let settings = sandbox::Settings { place, ..settings(folder.path().join("state"), 0) };
        assert!(sandbox::Spawner::start(&settings).is_err(), "{place:?}");
    }
}
