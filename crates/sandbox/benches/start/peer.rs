//! Others' sandboxes, each started the way its documentation shows, over the same root folder.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A mount namespace without the unified cgroup hierarchy, in which crun works on a machine that has both.
struct Apart {
    namespace: Arc<File>,
    keeper: Child,
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

pub(crate) struct Peers {
    found: Vec<&'static str>,
    scratch: PathBuf,
    root: PathBuf,
    apart: Option<Apart>,
    runs: AtomicU32,
}

impl Peers {
    pub(crate) fn find(scratch: &Path, root: &Path) -> Self {
        let mut peers = Self {
            found: Vec::new(),
            scratch: scratch.to_owned(),
            root: root.to_owned(),
            apart: apart(),
            runs: AtomicU32::new(0),
        };
        for (name, try_out) in [
            ("bwrap", Self::prepare_nothing as fn(&Self) -> bool),
            ("crun run", Self::prepare_nothing),
            ("podman run --rm", Self::prepare_podman),
        ] {
            let works = try_out(&peers)
                && peers.command(name, Path::new("/bin/true")).stdin(Stdio::null()).output().is_ok_and(|ran| {
                    if !ran.status.success() {
                        eprintln!("{name}: {}", String::from_utf8_lossy(&ran.stderr));
                    }
                    ran.status.success()
                });
            if works {
                peers.found.push(name);
            } else {
                eprintln!("`{name}` does not work here, and is left out");
            }
        }
        peers
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.found.clone().into_iter()
    }

    /// Returns in which rounds a peer takes part: the slow ones in fewer.
    pub(crate) fn every(&self, name: &str) -> usize {
        if name.starts_with("podman") { 20 } else { 2 }
    }

    pub(crate) fn command(&self, name: &str, program: &Path) -> Command {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        match name {
            "bwrap" => {
                let mut command = Command::new("bwrap");
                command.args(["--ro-bind", "/", "/", "--unshare-all", "--dev", "/dev", "--proc", "/proc"]);
                command.args(["--die-with-parent", "--new-session", "--"]).arg(program);
                command
            }
            "crun run" => self.crun(program, run),
            _ => {
                let mut command = self.podman();
                command.args(["run", "--rm", "--network", "none", "--memory", "256m", "--pids-limit", "64", "bench"]);
                command.arg(program);
                command
            }
        }
    }

    fn prepare_nothing(&self) -> bool {
        true
    }

    fn crun(&self, program: &Path, run: u32) -> Command {
        let name = program.display().to_string().replace('/', "-");
        let bundle = self.scratch.join(format!("bundle{name}"));
        if !bundle.exists() {
            fs::create_dir(&bundle).expect("is made");
            let config = serde_json::json!({
                "ociVersion": "1.0.2",
                "process": {
                    "user": {"uid": 0, "gid": 0}, "args": [program], "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": true,
                },
                "root": {"path": self.root, "readonly": true},
                "mounts": [
                    {"destination": "/proc", "type": "proc", "source": "proc"},
                    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                ],
                "linux": {
                    "namespaces": (["pid", "mount", "ipc", "uts", "network", "cgroup"].map(|kind| serde_json::json!({"type": kind}))),
                    "resources": {"memory": {"limit": 256 << 20}, "pids": {"limit": 64}},
                },
            });
            fs::write(bundle.join("config.json"), config.to_string()).expect("is written");
        }
        let mut command = Command::new("crun");
        command.arg("--root").arg(self.scratch.join("crun")).args(["run", "--bundle"]).arg(&bundle);
        command.arg(format!("bench-{}-{run}", std::process::id()));
        self.apart_from_unified(&mut command);
        command
    }

    /// Has a command run where crun and podman find one cgroup hierarchy and not two.
    fn apart_from_unified(&self, command: &mut Command) {
        if let Some(apart) = &self.apart {
            let namespace = Arc::clone(&apart.namespace);
            // SAFETY: the closure makes one system call and allocates nothing.
            unsafe {
                command.pre_exec(move || {
                    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount)).map_err(Into::into)
                });
            }
        }
    }

    fn podman(&self) -> Command {
        let mut command = Command::new("podman");
        command.arg("--root").arg(self.scratch.join("podman")).arg("--runroot").arg(self.scratch.join("podman-run"));
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "crun"]);
        command.env("CONTAINERS_CONF", self.scratch.join("containers.conf"));
        self.apart_from_unified(&mut command);
        command
    }

    fn prepare_podman(&self) -> bool {
        // Raising limits beyond the machine's own is refused where a privilege is missing.
        let conf = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
        fs::write(self.scratch.join("containers.conf"), conf).expect("is written");
        let tar = Command::new("tar").arg("-C").arg(&self.root).args(["-c", "."]).output();
        let Ok(tar) = tar else { return false };
        let import =
            self.podman().args(["import", "-q", "-", "bench"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let Ok(mut import) = import else { return false };
        let written = import.stdin.take().is_some_and(|mut to| to.write_all(&tar.stdout).is_ok());
        written && import.wait().is_ok_and(|status| status.success())
    }
}

fn apart() -> Option<Apart> {
    if !Path::new("/sys/fs/cgroup/unified").exists() {
        return None;
    }
    let script = "umount /sys/fs/cgroup/unified && echo ready && exec sleep 100000";
    let mut keeper = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut ready = [0; 6];
    let heard = keeper.stdout.as_mut().is_some_and(|out| std::io::Read::read_exact(out, &mut ready).is_ok());
    let namespace = File::open(format!("/proc/{}/ns/mnt", keeper.id())).ok()?;
    heard.then(|| Apart { namespace: Arc::new(namespace), keeper })
}

impl Drop for Peers {
    fn drop(&mut self) {
        // What podman has mounted would keep the folder from going.
        let _ = self.podman().args(["system", "reset", "--force"]).output();
    }
}
