//! Attempts to get out of a sandbox, by programs that `escape/` holds in C: each is made inside, where it must fail, and
//! those that can be are made outside too, where they must succeed: an attempt that never succeeds proves nothing.

use crate::house::{House, Keeper, compile};
use model::{Access, Network};
use sandbox::{Bind, Order, Plan, Root, Status};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the attempts are made upon.
struct Ground {
    folder: tempfile::TempDir,
    abstract_name: String,
    port: u16,
    _listeners: (UnixListener, TcpListener),
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        compile(folder.path(), "attempts", include_str!("escape/attempts.c"), &["-static"]);
        compile(folder.path(), "bombs", include_str!("escape/bombs.c"), &["-static"]);
        // Only mounts stand between a sandbox and these: their modes let everybody in.
        for (name, mode) in [("secret", 0o644), ("file", 0o666)] {
            fs::write(folder.path().join(name), name).unwrap();
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let abstract_name = format!("escape-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let listeners = (UnixListener::bind_addr(&address).unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let port = listeners.1.local_addr().unwrap().port();
        Self { folder, abstract_name, port, _listeners: listeners }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the attempts must know, seen from inside or outside; the secret is named as it is outside.
    fn env(&self, read_only: &Path, capabilities: &str) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.display().to_string();
        let pairs = [
            ("SECRET", text(self.path("secret"))),
            ("READ_ONLY", text(read_only.to_owned())),
            ("READ_ONLY_FILE", text(read_only.join("file"))),
            ("HOST_PID", std::process::id().to_string()),
            ("HOST_PORT", self.port.to_string()),
            ("ABSTRACT", self.abstract_name.clone()),
            ("CAPABILITIES", capabilities.to_owned()),
            ("PATH", "/usr/bin:/bin".to_owned()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn bind(&self, access: Access) -> Bind {
        Bind { source: self.folder.path().to_owned(), target: "/ground".into(), access }
    }

    /// Makes the attempts inside, and returns what each came to.
    fn attempts(&self, house: &mut House, plan: &Plan, user: &str, capabilities: &str) -> BTreeMap<String, String> {
        let order = Order {
            command: vec!["/ground/attempts".to_owned()],
            env: self.env(Path::new("/ground"), capabilities),
            cwd: "/".to_owned(),
            user: user.to_owned(),
            window: None,
        };
        let (ending, told) = house.run(plan, &order);
        assert_eq!(ending.status, Status::Exited(0), "{told}");
        read(&told)
    }
}

/// Reads lines of `NAME: WHAT CAME OF IT`, down to the last.
fn read(told: &str) -> BTreeMap<String, String> {
    assert!(told.trim_end().ends_with("over"), "the attempts broke off:\n{told}");
    let lines = told.lines().filter_map(|line| line.split_once(": "));
    lines.map(|(name, what)| (name.to_owned(), what.to_owned())).collect()
}

#[test]
fn attempts_succeed_outside() {
    if Keeper::me() != Keeper::Root {
        return;
    }
    let ground = Ground::new();
    let told = Command::new("unshare")
        .args(["--mount", "--uts", "--ipc"])
        .arg(ground.path("attempts"))
        .arg("outside")
        .env_clear()
        .envs(ground.env(ground.folder.path(), ""))
        .output()
        .unwrap();
    let came = read(&String::from_utf8_lossy(&told.stdout));
    let failed: Vec<_> = came.iter().filter(|(_, what)| *what != "done").collect();
    assert!(failed.is_empty() && came.len() > 50, "these prove nothing: {failed:?}");
}

/// Makes the attempts in a sandbox, of which only those named may succeed.
fn check(keeper: Keeper, user: &str, allowed: &[&str], change: impl FnOnce(&mut Plan)) {
    let ground = Ground::new();
    let mut house = House::new(keeper);
    let mut plan = house.plan();
    plan.binds.push(ground.bind(Access::ReadOnly));
    change(&mut plan);
    let kept = if plan.file_capabilities && user == "0" { "00000000800004fb" } else { "0000000000000000" };
    let came = ground.attempts(&mut house, &plan, user, kept);
    let done: Vec<_> =
        came.iter().filter(|(name, what)| *what == "done" && !allowed.contains(&name.as_str())).collect();
    assert!(done.is_empty() && came.len() > 100, "{keeper:?}, user {user}: these succeeded: {done:?}");
    let changed = fs::read_to_string(ground.path("file")).unwrap();
    assert_eq!(changed, "file", "a file was written through a mount that is read-only");
}

#[test]
fn nobody_gets_out_of_a_process_sandbox() {
    for keeper in Keeper::all() {
        check(keeper, "0", &[], |_| {});
        if keeper == Keeper::Root {
            check(keeper, "1000", &[], |_| {});
        }
    }
}

#[test]
fn nobody_gets_out_with_the_means_to_install_software() {
    for keeper in Keeper::all() {
        // A file's capabilities count only in the sandbox's own user namespace, and nothing there gets any by exec.
        check(keeper, "0", &["cap_file"], |plan| plan.file_capabilities = true);
    }
}

#[test]
fn debuggers_reach_their_own_processes_only() {
    for keeper in Keeper::all() {
        // Their cores are the kernel's to write then, as far as the plan lets them be.
        let allowed = ["child_traced", "child_read", "core_limit_raised"];
        check(keeper, "0", &allowed, |plan| plan.ptrace = true);
    }
}

#[test]
fn nobody_gets_out_by_way_of_the_machines_network() {
    for keeper in Keeper::all() {
        // Ports of the machine are what was asked for; sockets without a file belong to whoever made them.
        check(keeper, "0", &["host_port"], |plan| plan.network = Network::Host);
    }
}

#[test]
fn setuid_programs_give_nothing() {
    if Keeper::me() != Keeper::Root {
        return;
    }
    let mut house = House::new(Keeper::Root);
    let layer = tempfile::tempdir().unwrap();
    fs::set_permissions(layer.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let source =
        "#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf(\"%d %d\\n\", geteuid(), getegid()); }\n";
    let first = house.first_id();
    for (name, owner) in [("machines", 0), ("insides", first)] {
        let program = compile(layer.path(), name, source, &["-static"]);
        chown(&program, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
        let mut plan = house.plan();
        plan.root = Root::Layers(vec![layer.path().to_owned()]);
        let order = house.order(&[&format!("/{name}")], "1000:1000");
        let (ending, told) = house.run(&plan, &order);
        assert_eq!((ending.status, told.trim()), (Status::Exited(0), "1000 1000"), "{name}");
    }
}

#[test]
fn no_memory_is_beyond_the_limit() {
    if Keeper::me() != Keeper::Root {
        return;
    }
    let ground = Ground::new();
    let mut house = House::new(Keeper::Root);
    let mut plan = house.plan();
    plan.binds.push(ground.bind(Access::ReadOnly));
    plan.limits.memory_bytes = 64 << 20;
    plan.limits.disk_bytes = 32 << 20;
    for kind in ["plain", "shared", "sysv", "nameless", "locked", "tmp", "shm", "root"] {
        let order = house.order(&["/ground/bombs", kind, "2"], "0");
        let (ending, told) = house.run(&plan, &order);
        assert_eq!((ending.status, told.as_str()), (Status::Exited(0), "full\n"), "{kind}: a little is allowed");
        let order = house.order(&["/ground/bombs", kind, "200"], "0");
        let (ending, told) = house.run(&plan, &order);
        let good = [Status::Exited(3), Status::Signalled(libc::SIGKILL)];
        assert!(good.contains(&ending.status), "{kind}: {:?} {told}", ending.status);
    }
}

#[test]
fn a_link_that_moves_while_mounts_are_made_leads_nowhere() {
    for keeper in Keeper::all() {
        let ground = Ground::new();
        let (volume, outside) = (ground.path("volume"), ground.path("outside"));
        for folder in [&volume, &outside] {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let is_over = AtomicBool::new(false);
        let mut house = House::new(keeper);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (link, spare) = (volume.join("way"), volume.join("spare"));
                while !is_over.load(Ordering::Relaxed) {
                    // By turns a link that leads outside and a folder.
                    let _ = std::os::unix::fs::symlink(&outside, &spare);
                    let _ = fs::remove_dir_all(&link);
                    let _ = fs::rename(&spare, &link);
                    let _ = fs::remove_file(&link);
                    let _ = fs::create_dir(&link);
                }
            });
            let mut plan = house.plan();
            plan.binds.push(Bind { source: volume.clone(), target: "/volume".into(), access: Access::ReadWrite });
            plan.binds.push(Bind {
                source: ground.path("file"),
                target: "/volume/way/in/file".into(),
                access: Access::ReadOnly,
            });
            for _ in 0..100 {
                // Whether it can be built at all depends on what the link is at that moment; both are well.
                let order = house.order(&["/bin/true"], "0");
                let _ = house.try_run(&plan, &order);
                assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was made outside");
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
