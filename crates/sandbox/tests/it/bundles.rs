//! Sandboxes by other OCI runtimes, those that this machine has.

use crate::house::{Keeper, compile};
use model::{Limits, Network};
use sandbox::{Bundle, Ending, Fault, FaultKind, Order, Place, Plan, Root, Runtime, Status};
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FIRST: u32 = 300_000;

const PROGRAM: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <unistd.h>
int main(int count, char **words) {
    if (!strcmp(words[1], "who")) printf("%d %d %s %s\n", getuid(), getpid(), getenv("NAME"), access("/made", W_OK) ? "new" : "old");
    if (!strcmp(words[1], "make")) { int fd = open("/made", O_CREAT | O_WRONLY, 0600); return fd < 0 ? 1 : 0; }
    if (!strcmp(words[1], "code")) return 7;
    if (!strcmp(words[1], "die")) abort();
    if (!strcmp(words[1], "eat")) { for (;;) { char *at = malloc(1 << 20); memset(at, 7, 1 << 20); } }
    if (!strcmp(words[1], "sleep")) { signal(SIGINT, SIG_IGN); signal(SIGTERM, SIG_IGN); for (;;) pause(); }
    return 0;
}"#;

/// A layer with one program, and a place for bundles.
struct Yard {
    folder: tempfile::TempDir,
    runtime: Runtime,
    plan: Plan,
    count: u32,
}

impl Yard {
    fn new(program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
        let layer = folder.path().join("layer");
        fs::create_dir(&layer).unwrap();
        let made = compile(&layer, "program", PROGRAM, &["-static"]);
        for path in [&layer, &made] {
            chown(path, Some(FIRST), Some(FIRST)).unwrap();
        }
        let runtime =
            Runtime { program: program.to_owned(), arguments: Vec::new(), state: folder.path().join("state") };
        let plan = Plan {
            root: Root::Layers(vec![layer]),
            binds: Vec::new(),
            hostname: "yard".to_owned(),
            network: Network::None,
            limits: Limits { memory_bytes: 64 << 20, grace_ms: 100, ..Limits::default() },
            ptrace: false,
            terminal: false,
            file_capabilities: false,
        };
        Self { folder, runtime, plan, count: 0 }
    }

    fn run(&mut self, command: &[&str], is_stopped: bool) -> Result<(Ending, String), Fault> {
        self.count += 1;
        let id = format!("yard-{}-{}", std::process::id(), self.count);
        let bundle = self.folder.path().join(&id);
        fs::create_dir(&bundle).unwrap();
        fs::set_permissions(&bundle, Permissions::from_mode(0o711)).unwrap();
        let order = Order {
            command: command.iter().map(ToString::to_string).collect(),
            env: vec![("NAME".to_owned(), "value".to_owned())],
            cwd: "/".to_owned(),
            user: "1000".to_owned(),
            window: None,
        };
        let (mut output, writer) = std::io::pipe().unwrap();
        let (ordered, mut orders) = std::io::pipe().unwrap();
        if is_stopped {
            orders.write_all(&[1]).unwrap();
        }
        let stdio =
            [File::open("/dev/null").unwrap().into(), writer.try_clone().unwrap().into(), OwnedFd::from(writer)];
        let place = Place::Range { first: FIRST, count: 65_536 };
        let what = Bundle { id: &id, folder: &bundle, place, plan: &self.plan, order: &order };
        let container = self.runtime.run(what, stdio)?;
        let ending = container.wait(ordered.as_fd())?;
        drop(orders);
        let mut told = String::new();
        output.read_to_string(&mut told).unwrap();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(bundle.to_str().unwrap()), "a mount was left");
        assert!(!self.runtime.state.join(&id).exists(), "the runtime still knows `{id}`");
        Ok((ending, told))
    }
}

#[test]
fn other_runtimes_run_programs() {
    if Keeper::me() != Keeper::Root {
        return;
    }
    for program in ["/usr/bin/crun", "/usr/sbin/runc"].map(PathBuf::from).iter().filter(|path| path.exists()) {
        let mut yard = Yard::new(program);
        let (ending, told) = yard.run(&["/program", "who"], false).unwrap();
        assert_eq!((ending.status, told.as_str()), (Status::Exited(0), "1000 1 value new\n"), "{program:?}");
        let (ending, told) = yard.run(&["/program", "make"], false).unwrap();
        assert_eq!(ending.status, Status::Exited(1), "only the superuser inside makes files there: {told}");
        let (ending, _) = yard.run(&["/program", "code"], false).unwrap();
        assert_eq!(ending.status, Status::Exited(7), "{program:?}");
        let (ending, _) = yard.run(&["/program", "eat"], false).unwrap();
        assert_eq!(ending.status, Status::Signalled(libc::SIGKILL), "{program:?}");
        yard.plan.limits.wall_ms = 300;
        let (ending, _) = yard.run(&["/program", "sleep"], false).unwrap();
        assert!(ending.is_timed_out && ending.status == Status::Signalled(libc::SIGKILL), "{program:?}: {ending:?}");
        assert!(Duration::from_millis(ending.usage.wall_ms) >= Duration::from_millis(500), "{ending:?}");
        yard.plan.limits.wall_ms = 60_000;
        let (ending, _) = yard.run(&["/program", "sleep"], true).unwrap();
        assert!(ending.is_stopped && ending.status == Status::Signalled(libc::SIGKILL), "{program:?}: {ending:?}");
        let fault = yard.run(&["/nothing"], false).unwrap_err();
        assert!(fault.kind == FaultKind::Order && fault.cause.contains("/nothing"), "{fault}");
        yard.plan.root = Root::Host;
        assert_eq!(yard.run(&["/program", "code"], false).unwrap_err().kind, FaultKind::Plan);
    }
}
