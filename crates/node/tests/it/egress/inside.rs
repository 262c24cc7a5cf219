//! The inside of a sandbox, as far as its network goes: a namespace with `eth0` and a resolver, where programs can be run.

use node::egress::{Counts, Egress, Outside};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio_util::task::TaskTracker;

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the namespace's `eth0`, sends its other end to the socket named first, and stays until that is closed.
const SETUP: &str = r#"
import fcntl, os, socket, struct, subprocess, sys
path, resolv, mtu = sys.argv[1:4]
tun = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', b'eth0', 0x1001))
for line in ['link set lo up', f'link set eth0 mtu {mtu} up', 'addr add 10.0.2.100/24 dev eth0',
             'route add default via 10.0.2.2', '-6 addr add fd00::100/64 dev eth0 nodad',
             '-6 route add default via fd00::2']:
    subprocess.check_call(['ip', *line.split()])
subprocess.check_call(['mount', '--bind', resolv, '/etc/resolv.conf'])
s = socket.socket(socket.AF_UNIX)
s.connect(path)
socket.send_fds(s, [b'x'], [tun])
os.close(tun)
s.recv(1)
"#;

/// What every program that is run inside may use.
const PRELUDE: &str = r"
import errno, hashlib, os, select, socket, struct, sys, threading, time
def dial(host, port, family=socket.AF_INET):
    s = socket.socket(family)
    s.settimeout(30)
    s.connect((host, port))
    return s
def fails(number, deed):
    start = time.monotonic()
    try:
        deed()
    except OSError as error:
        assert error.errno == number, error
        assert time.monotonic() - start < 3, 'late'
        return
    raise AssertionError('did not fail')
def all_of(s):
    parts = []
    while part := s.recv(1 << 16):
        parts.append(part)
    return b''.join(parts)
";

/// A namespace with an egress.
pub(crate) struct Inside {
    egress: Option<Egress>,
    tracker: TaskTracker,
    setup: Child,
    // Closed, it ends the setup's process, and with it the namespace.
    _leash: UnixStream,
    _folder: tempfile::TempDir,
}

impl Inside {
    /// Makes one with these rules, or nothing if that takes privileges that we lack.
    pub(crate) async fn new(outside: Outside, rules: &[&str]) -> Option<Self> {
        Self::with_mtu(outside, rules, 1500).await
    }

    pub(crate) async fn with_mtu(outside: Outside, rules: &[&str], mtu: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (socket, resolv) = (folder.path().join("socket"), folder.path().join("resolv.conf"));
        std::fs::write(&resolv, "nameserver 10.0.2.3\noptions timeout:2 attempts:2\n").unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let mut setup = Command::new("unshare");
        setup.args(["--net", "--mount", "--propagation", "private", "python3", "-c", SETUP]);
        setup.arg(&socket).arg(&resolv).arg(mtu.to_string()).kill_on_drop(true);
        let mut setup = setup.spawn().unwrap();
        let leash = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            status = setup.wait() => panic!("the namespace was not made: {status:?}"),
            () = tokio::time::sleep(PATIENCE) => panic!("the namespace was not made in time"),
        };
        let wire = receive(&leash).await;
        let tracker = TaskTracker::new();
        let rules: Vec<String> = rules.iter().map(|rule| (*rule).to_owned()).collect();
        let egress = Egress::start_towards(outside, wire, &rules, &tracker).unwrap();
        Some(Self { egress: Some(egress), tracker, setup, _leash: leash, _folder: folder })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.setup.id().unwrap().to_string()).args(["--net", "--mount"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs a program inside and returns what it wrote; it must succeed.
    pub(crate) async fn run(&self, program: &[&str]) -> String {
        let mut command = self.command();
        command.args(program);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends in time").unwrap();
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program:?}: {}\n{text}\n{errors}", output.status);
        text.into_owned()
    }

    /// Runs Python inside; it must succeed.
    pub(crate) async fn python(&self, program: &str) -> String {
        self.run(&["python3", "-c", &format!("{PRELUDE}{program}")]).await
    }

    /// Starts Python inside, and leaves it running.
    pub(crate) fn start(&self, program: &str) -> Child {
        let mut command = self.command();
        command.args(["python3", "-c", &format!("{PRELUDE}{program}")]);
        command.spawn().unwrap()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.egress.as_ref().expect("it has not ended").counts()
    }

    /// Waits until the counts are as they should be.
    pub(crate) async fn counts_until(&self, is_right: impl Fn(&Counts) -> bool) {
        let wait = async {
            while !is_right(&self.counts()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{:?}", self.counts());
    }

    /// Ends the egress and waits until nothing of it is left.
    pub(crate) async fn end(&mut self) {
        drop(self.egress.take());
        self.tracker.close();
        tokio::time::timeout(PATIENCE, self.tracker.wait()).await.expect("its task ends");
    }
}

/// Receives a file descriptor.
async fn receive(stream: &UnixStream) -> OwnedFd {
    loop {
        stream.readable().await.unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = stream.try_io(tokio::io::Interest::READABLE, || {
            let parts = &mut [IoSliceMut::new(&mut byte)];
            Ok(rustix::net::recvmsg(stream, parts, &mut ancillary, rustix::net::RecvFlags::CMSG_CLOEXEC)?)
        });
        if received.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
            continue;
        }
        let rights = ancillary.drain().find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        return rights.expect("the setup sends its device");
    }
}

/// A documentation address, which stands for a peer abroad.
pub(crate) fn abroad(port: u16) -> SocketAddr {
    ("192.0.2.7".parse::<IpAddr>().unwrap(), port).into()
}

/// Serves connections on loopback until the test ends; returns where.
pub(crate) async fn serve<F: Future<Output = ()> + Send + 'static>(
    tracker: &TaskTracker,
    serve_one: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    let inner = tracker.clone();
    tracker.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            inner.spawn(serve_one(stream));
        }
    });
    place
}

/// Sends back whatever comes.
pub(crate) async fn echo(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await.ok();
    to.shutdown().await.ok();
}

/// Answers one HTTP request with a file, and takes what a request brings.
pub(crate) async fn http(mut stream: TcpStream, content: &[u8]) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        request.push(byte);
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
    stream.write_all(head.as_bytes()).await.ok();
    stream.write_all(content).await.ok();
    stream.shutdown().await.ok();
}

/// Bytes that do not repeat themselves soon.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

/// Reads a file that a program inside has written.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
