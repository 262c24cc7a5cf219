//! No room: a node's folder that is full, and a server's; one clear error each, and all is well once there is room again.

use crate::stub::{Ran, run_with};
use crate::system::{Engine, House, Server};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system of its own, until this is dropped.
struct Small {
    folder: PathBuf,
}

impl Small {
    /// Mounts one; none, without the privileges.
    fn mount(folder: PathBuf, megabytes: u64) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        std::fs::create_dir_all(&folder).expect("is made");
        let size = format!("size={megabytes}m,mode=755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "small"]).arg(&folder).status();
        mounted.expect("is there").success().then_some(Self { folder })
    }

    /// Takes all the room that there is.
    fn fill(&self) -> PathBuf {
        let path = self.folder.join("filler");
        let mut file = std::fs::File::create(&path).expect("is made");
        let piece = vec![1; 4096];
        while std::io::Write::write_all(&mut file, &piece).is_ok() {}
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

fn check(ran: &Ran, code: i32, parts: &[&str]) {
    let all_there = parts.iter().all(|part| ran.err.contains(part));
    let errors = ran.err.lines().filter(|line| line.starts_with("error:")).count();
    assert!(ran.code == code && all_there && errors <= 1, "{parts:?}: {ran:?}");
}

fn write(path: &Path, bytes: usize) -> String {
    let text: String = (0..bytes / 8).map(|number| format!("{number:07}\n")).collect();
    std::fs::write(path, text).expect("is written");
    path.display().to_string()
}

#[test]
fn a_node_without_room_says_so_and_is_well_afterwards() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let Some(small) = Small::mount(house.home().join("data/node"), 8) else { return };
    let server = Server::begin(house.command_with(&["up"], &house.data()), house.home()).expect("starts");
    let token = house.token();
    let run = |args: &[&str]| run_with(server.command(&token, args), b"");
    let big = write(&house.home().join("big"), 1 << 20);
    // A file is sent as a blob, which the node fetches into its folder.
    let counts = || {
        let mut command = server.command(&token, &["run", "--", "wc", "-c"]);
        let done = command.stdin(std::fs::File::open(&big).expect("is there")).output().expect("runs");
        let text = |bytes| String::from_utf8(bytes).expect("is text");
        Ran { code: done.status.code().expect("exits"), out: text(done.stdout), err: text(done.stderr) }
    };
    // The node has begun.
    check(&run(&["run", "--", "true"]), 0, &[]);
    let filler = small.fill();
    let ran = counts();
    check(&ran, 125, &["never began: ", "No space left on device"]);
    // What needs no room runs all the same, and nobody has held the node.
    check(&run(&["run", "--", "true"]), 0, &[]);
    assert!(!run(&["node", "ls"]).out.contains("quarantined"));
    std::fs::remove_file(filler).expect("is removed");
    let ran = counts();
    assert!(ran.code == 0 && ran.out == "1048576\n", "{ran:?}");
    server.stop();
}

#[test]
fn a_server_without_room_says_so_and_is_well_afterwards() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let Some(small) = Small::mount(house.home().join("data"), 32) else { return };
    let server = Server::begin(house.command_with(&["up"], &house.data()), house.home()).expect("starts");
    let token = house.token();
    let run = |args: &[&str]| run_with(server.command(&token, args), b"");
    let big = write(&house.home().join("big"), 1 << 20);
    check(&run(&["run", "--", "true"]), 0, &[]);
    let filler = small.fill();
    check(&run(&["blob", "put", &big]), 4, &["error: there is no room left where blobs are kept"]);
    check(&run(&["run", "--", "true"]), 4, &["error: there is no room left for the database"]);
    std::fs::remove_file(filler).expect("is removed");
    check(&run(&["blob", "put", &big]), 0, &[]);
    let ran = run(&["run", "--", "echo", "well"]);
    assert!(ran.code == 0 && ran.out == "well\n", "{ran:?}");
    server.stop();
}
