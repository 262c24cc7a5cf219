//! Registries as a user meets them: real ones with and without a password, some that lie, and a node whose disk is full.
//!
//! Every failure is one clear error, and the node works on.

use crate::stub::{Ran, run_with};
use crate::system::{Engine, Held, House, Server};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A program that needs no other file.
const BUSYBOX: &str = "/bin/busybox";
/// The user `me` with the password `hush`.
const HTPASSWD: &str = "me:$2b$04$npACmWRSyb689BNmpAqFS.hqf.ufYPdX2FcSTBFKGrcd1UEtK0Poy\n";

/// Tells whether everything is there that fills and serves a registry.
fn is_equipped() -> bool {
    let is_there = |name: &str| ["/usr/bin", "/bin"].iter().any(|folder| Path::new(folder).join(name).exists());
    ["busybox", "docker-registry", "skopeo", "umoci"].into_iter().all(is_there)
}

fn sh(folder: &Path, script: &str) {
    let output = Command::new("sh").args(["-euc", script]).current_dir(folder).output().expect("a shell is there");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes an image `layout:good` whose program says a word.
fn layout(folder: &Path) {
    let script = "
        umoci init --layout layout && umoci new --image layout:good
        umoci unpack --image layout:good one >/dev/null
        mkdir one/rootfs/bin && cp /bin/busybox one/rootfs/bin/sh && umoci repack --image layout:good one
        umoci config --image layout:good --config.cmd /bin/sh --config.cmd -c --config.cmd 'echo pulled'";
    sh(folder, script);
}

/// Debian's registry over a folder, with a password if there is one; returns it and its host.
fn hub(folder: &Path, has_password: bool) -> (Held, String) {
    let host = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port is free");
    let path = folder.display();
    std::fs::write(folder.join("htpasswd"), HTPASSWD).expect("is written");
    let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {path}/htpasswd\n");
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {path}/storage\nhttp:\n  \
         addr: {host}\n{}",
        if has_password { auth.as_str() } else { "" }
    );
    let file = folder.join(format!("{}.yml", host.port()));
    std::fs::write(&file, config).expect("is written");
    let mut command = Command::new("docker-registry");
    let held = Held::start({
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        command
    });
    for _ in 0..500 {
        if TcpStream::connect(host).is_ok() {
            return (held, host.to_string());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("docker-registry does not answer");
}

/// A house with a node, and what its user does there.
struct User {
    house: House,
    server: Server,
}

impl User {
    fn begin(house: House, more: &[&str]) -> Self {
        let mut command = house.command_with(&["up"], &house.data());
        command.args(more);
        let server = Server::begin(command, house.home()).expect("starts");
        Self { house, server }
    }

    fn does(&self, args: &[&str], input: &[u8], code: i32) -> Ran {
        let ran = run_with(self.server.command(&self.house.token(), args), input);
        assert_eq!(ran.code, code, "{args:?}: {}{}", ran.out, ran.err);
        ran
    }

    /// Asks for something that fails, and returns its one error.
    fn fails(&self, args: &[&str], why: &str) -> String {
        let ran = self.does(args, b"", 1);
        let errors: Vec<_> = ran.err.lines().filter(|line| line.starts_with("error: ")).collect();
        let [error] = errors.as_slice() else { panic!("{args:?} has not one error: {}", ran.err) };
        assert!(error.contains("could not be made: ") && error.contains(why), "`{error}` does not say `{why}`");
        self.is_well();
        ran.err.clone()
    }

    /// Makes sure that the node takes work.
    fn is_well(&self) {
        assert_eq!(self.does(&["run", "--", "echo", "well"], b"", 0).out, "well\n");
        let nodes = self.does(&["node", "ls", "--json"], b"", 0).out;
        assert!(nodes.contains("\"ready\"") && !nodes.contains("trouble"), "{nodes}");
    }
}

#[test]
fn a_password_opens_a_registry_and_is_never_shown() {
    if !is_equipped() {
        return;
    }
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let folder = house.home().join("hub");
    std::fs::create_dir(&folder).expect("is made");
    layout(&folder);
    let (open, host) = hub(&folder, false);
    sh(
        &folder,
        &format!("skopeo --insecure-policy copy -q --dest-tls-verify=false oci:layout:good docker://{host}/team/a:b"),
    );
    drop(open);
    let (_hub, host) = hub(&folder, true);
    let (name, user) = (format!("{host}/team/a:b"), User::begin(house, &[]));
    // What lies on this machine is reached only if its operator says so.
    let error = user.fails(&["image", "pull", &name], "has no public address, and this node reaches no other");
    assert!(error.contains(&format!("`--allow-registry {host}`")), "{error}");
    let User { house, server } = user;
    server.stop();
    let user = User::begin(house, &["--allow-registry", &host]);
    let pull = ["image", "pull", &name];
    user.fails(
        &pull,
        "says 401: manifest `b` of `team/a` needs a credential, and the tenant has none for this registry",
    );
    let login = ["registry", "login", &host, "--user", "me", "--password-stdin"];
    let mut shown = user.does(&login, b"wr0ng-secret\n", 0).out;
    shown += &user.fails(&pull, "says 401: manifest `b` of `team/a` is not for `me`");
    let failed = user.does(&["image", "ls", "--json"], b"", 0).out;
    shown += &failed;
    shown += &user.does(&login, b"hush\n", 0).out;
    let made = user.does(&pull, b"", 0);
    assert!(made.out.contains("sha256:") && made.out.contains("ready"), "{}", made.out);
    assert_eq!(user.does(&["run", "--image", &name], b"", 0).out, "pulled\n");
    for args in [["registry", "ls", "--json"], ["execution", "ls", "--json"], ["changes", "--json", "--quiet"]] {
        shown += &user.does(&args, b"", 0).out;
    }
    shown += &(made.out + &made.err + &user.server.said());
    for file in ["quarry.db", "quarry.db-wal"] {
        shown += &String::from_utf8_lossy(&std::fs::read(user.house.data().join(file)).unwrap_or_default());
    }
    assert!(shown.contains(&host), "{shown}");
    for secret in ["wr0ng-secret", "hush\"", "me:hush", "bWU6aHVzaA=="] {
        assert!(!shown.contains(secret), "`{secret}` is shown");
    }
    user.does(&["registry", "logout", &host], b"", 0);
    user.fails(&["image", "pull", &name, "--name", "again"], "the tenant has none for this registry");
    user.server.stop();
}

/// What a registry of ours does with the layer.
#[derive(Clone, Copy)]
enum Fault {
    Lies,
    BreaksOff,
    Vanishes,
}

/// Serves the image of a folder's layout, but for a fault in its layer; returns the host. Ends with the process.
fn liar(blobs: PathBuf, manifest: Vec<u8>, fault: Fault) -> String {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let host = socket.local_addr().expect("is bound").to_string();
    std::thread::spawn(move || {
        while let Ok((mut line, _)) = socket.accept() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && line.read(&mut byte).is_ok_and(|count| count == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let mut body = match path.rsplit_once("sha256:") {
                Some((_, hex)) => std::fs::read(blobs.join(hex)).unwrap_or_default(),
                None => manifest.clone(),
            };
            let length = body.len();
            // Only the layer is packed.
            if body.starts_with(&[0x1f, 0x8b]) {
                match fault {
                    Fault::Lies => body[length / 2] ^= 1,
                    Fault::BreaksOff => body.truncate(length / 2),
                    Fault::Vanishes => continue,
                }
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            // Whoever is refused may have gone already.
            let _ = line.write_all(answer.as_bytes()).and_then(|()| line.write_all(&body));
        }
    });
    host
}

#[test]
fn a_registry_that_lies_or_breaks_off_is_one_clear_error() {
    if !is_equipped() {
        return;
    }
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    layout(house.home());
    let layout = house.home().join("layout");
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(layout.join("index.json")).expect("is there")).expect("is JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("is named");
    let blobs = layout.join("blobs/sha256");
    let manifest = std::fs::read(blobs.join(digest.trim_start_matches("sha256:"))).expect("is there");
    let user = User::begin(house, &["--allow-registry", "127.0.0.1"]);
    for (fault, why) in [
        (Fault::Lies, "lied about a digest: asked sha256:"),
        (Fault::BreaksOff, "cannot be reached: "),
        (Fault::Vanishes, "cannot be reached: "),
    ] {
        let host = liar(blobs.clone(), manifest.clone(), fault);
        let error = user.fails(&["image", "pull", &format!("{host}/a")], why);
        assert!(error.contains(&format!("registry `{host}`")), "{error}");
        let is_told = error.contains("; trying again, 2 of 5\n") && error.contains("; trying again, 5 of 5\n");
        assert_eq!(is_told, !matches!(fault, Fault::Lies), "{error}");
    }
    assert!(user.does(&["image", "ls", "--state", "failed"], b"", 0).out.lines().count() >= 3);
    user.server.stop();
}

/// A small disk, gone with the test.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&folder).expect("is made");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&folder);
        assert!(command.status().expect("mount is there").success());
        Self(folder)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(&self.0).status().expect("umount is there");
        assert!(done.success());
    }
}

#[test]
fn a_full_disk_of_a_node_is_one_clear_error() {
    if !rustix::process::geteuid().is_root() || !Path::new(BUSYBOX).exists() {
        // Only root mounts a small disk, and nothing else here is a whole image by itself.
        return;
    }
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let script = "
        mkdir -p root/bin big && cp /bin/busybox root/bin/sh && tar -C root -cf small.tar .
        head -c 20000000 /dev/zero > big/f && tar -C big -cf big.tar . && gzip -k big.tar";
    sh(house.home(), script);
    let disk = Disk::mount(house.data().join("node"), "12m");
    let user = User::begin(house, &[]);
    let why = "the disk of this node is full: the archive does not fit";
    user.does(&["image", "import", "--name", "small", "small.tar", "--cmd", "/bin/sh"], b"", 0);
    // The one does not fit as it is, the other not as it unpacks.
    user.fails(&["image", "import", "--name", "big", "big.tar"], why);
    user.fails(&["image", "import", "--name", "big", "big.tar.gz"], why);
    user.does(&["image", "import", "--name", "other", "small.tar", "--cmd", "/bin/sh"], b"", 0);
    assert_eq!(user.does(&["run", "--image", "small", "--", "/bin/sh", "-c", "echo fits"], b"", 0).out, "fits\n");
    user.server.stop();
    drop(disk);
}
