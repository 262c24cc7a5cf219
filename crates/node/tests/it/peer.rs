//! Peers: Debian's own registry on a free port, and a server of ours that misbehaves on order.

use crate::room::{Sample, run};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The user `me` with the password `hush`.
const HTPASSWD: &str = "me:$2b$04$npACmWRSyb689BNmpAqFS.hqf.ufYPdX2FcSTBFKGrcd1UEtK0Poy\n";

/// How a registry wants to be shown something.
pub(crate) enum Auth<'a> {
    None,
    Basic,
    /// Tokens of a service at this address, signed by this certificate.
    Bearer {
        realm: &'a str,
        certificate: &'a str,
    },
}

/// Debian's `docker-registry`.
pub(crate) struct Hub {
    child: Child,
    pub(crate) host: String,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }
}

impl Hub {
    /// Starts a registry over a folder, and waits until it answers.
    pub(crate) fn start(folder: &Path, auth: &Auth<'_>) -> Self {
        Self::start_with(folder, auth, "")
    }

    /// Starts a registry that speaks TLS, with a certificate by an authority of its own; returns that one's certificate.
    pub(crate) fn start_tls(folder: &Path) -> (Self, PathBuf) {
        let key = rcgen::KeyPair::generate().expect("is made");
        let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("is valid");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let own = authority.self_signed(&key).expect("is signed");
        let issuer = rcgen::Issuer::new(authority, key);
        let key = rcgen::KeyPair::generate().expect("is made");
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate =
            rcgen::CertificateParams::new(names).expect("is valid").signed_by(&key, &issuer).expect("is signed");
        let write = |name: &str, text: String| {
            fs::write(folder.join(name), text).expect("is written");
            folder.join(name)
        };
        let (certificate, key) = (write("tls.pem", certificate.pem()), write("tls.key", key.serialize_pem()));
        let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display());
        (Self::start_with(folder, &Auth::None, &tls), write("authority.pem", own.pem()))
    }

    fn start_with(folder: &Path, auth: &Auth<'_>, tls: &str) -> Self {
        let host = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port is free");
        let host = host.to_string();
        let path = folder.display();
        let auth = match auth {
            Auth::None => String::new(),
            Auth::Basic => {
                fs::write(folder.join("htpasswd"), HTPASSWD).expect("is written");
                format!("auth:\n  htpasswd:\n    realm: test\n    path: {path}/htpasswd\n")
            }
            Auth::Bearer { realm, certificate } => {
                fs::write(folder.join("certificate.pem"), certificate).expect("is written");
                let rest = format!("service: hub\n    issuer: test\n    rootcertbundle: {path}/certificate.pem\n");
                format!("auth:\n  token:\n    realm: {realm}\n    {rest}")
            }
        };
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {path}/storage\nhttp:\n  addr: {host}\n{tls}{auth}"
        );
        let file = folder.join(format!("{}.yml", host.replace(':', "-")));
        fs::write(&file, config).expect("is written");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("docker-registry is there");
        let hub = Self { child, host };
        for _ in 0..500 {
            if TcpStream::connect(&hub.host).is_ok() {
                return hub;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("docker-registry does not answer");
    }

    /// Pushes the sample under a name.
    pub(crate) fn push(&self, sample: &Sample, name: &str) {
        let mut command = Command::new("skopeo");
        command.current_dir(sample.folder.path()).args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]);
        run(command.arg("oci:layout:good").arg(format!("docker://{}/{name}", self.host)));
    }
}

/// What is asked of a server of ours.
pub(crate) struct Asked {
    /// How many were asked before.
    pub(crate) before: usize,
    /// Its first line and its headers.
    pub(crate) head: String,
}

impl Asked {
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found =
            self.head.lines().find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)));
        found.map(|(_, value)| value.trim())
    }

    /// Returns the first byte of the range that was asked for.
    pub(crate) fn first(&self) -> usize {
        let range =
            self.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        range.unwrap_or(0)
    }
}

/// A connection that a server of ours answers on.
pub(crate) struct Line {
    stream: TcpStream,
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Line {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // Whoever is refused may have gone already.
        if self.stream.write_all(bytes).is_ok() {
            self.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
    }

    pub(crate) fn head(&mut self, status: &str, headers: &str, length: usize) {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n");
        self.send(head.as_bytes());
    }

    pub(crate) fn reply(&mut self, status: &str, headers: &str, body: &[u8]) {
        self.head(status, headers, body.len());
        self.send(body);
    }

    /// Says nothing until the other side goes, or the test is over.
    pub(crate) fn hang(&mut self) {
        while self.read_byte().is_some() {}
    }

    fn read_byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(1) => return Some(byte[0]),
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.is_over.load(Ordering::SeqCst) => {}
                _ => return None,
            }
        }
    }

    fn read_head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.read_byte()?);
        }
        String::from_utf8(head).ok()
    }
}

/// A server of ours.
pub(crate) struct Peer {
    pub(crate) host: String,
    /// Bytes that it has sent.
    pub(crate) sent: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    pub(crate) fn start(answer: impl Fn(&Asked, &mut Line) + Send + Sync + 'static) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let host = socket.local_addr().expect("is bound").to_string();
        let (is_over, sent, count) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), AtomicUsize::new(0));
        let (over, out) = (is_over.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            std::thread::scope(|scope| {
                while let Ok((stream, _)) = socket.accept() {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    // A thread that waits looks up now and then whether the test is over.
                    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("is not zero");
                    let mut line = Line { stream, sent: out.clone(), is_over: over.clone() };
                    let (answer, count) = (&answer, &count);
                    scope.spawn(move || {
                        if let Some(head) = line.read_head() {
                            answer(&Asked { before: count.fetch_add(1, Ordering::SeqCst), head }, &mut line);
                        }
                    });
                }
            });
        });
        Self { host, sent, is_over, thread: Some(thread) }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes it, so that it sees that it is over.
        let _ = TcpStream::connect(&self.host);
        self.thread.take().expect("is joined once").join().expect("does not panic");
    }
}

/// The documents of an image of one layer.
#[derive(Clone)]
pub(crate) struct Documents {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) layer: Vec<u8>,
}

impl Documents {
    /// Describes a layer that is not packed.
    pub(crate) fn new(layer: Vec<u8>) -> Self {
        let diff_id = sha256(&layer);
        Self::lying(layer, &diff_id)
    }

    /// Describes a layer with a diff id of one's choice.
    pub(crate) fn lying(layer: Vec<u8>, diff_id: &str) -> Self {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":{}}},"layers":[{{"digest":"{}","size":{}}}]}}"#,
            sha256(config.as_bytes()),
            config.len(),
            sha256(&layer),
            layer.len()
        );
        Self { manifest: manifest.into_bytes(), config: config.into_bytes(), layer }
    }

    /// Answers as a good registry does; a layer from the byte that was asked for.
    pub(crate) fn answer(&self, asked: &Asked, line: &mut Line) {
        if asked.path().contains("/manifests/") {
            line.reply("200 OK", "", &self.manifest);
        } else if asked.path().ends_with(&sha256(&self.config)) {
            line.reply("200 OK", "", &self.config);
        } else if asked.path().ends_with(&sha256(&self.layer)) {
            let first = asked.first();
            let range = format!("Content-Range: bytes {first}-{}/{}\r\n", self.layer.len() - 1, self.layer.len());
            let (status, range) = if first > 0 { ("206 Partial Content", range) } else { ("200 OK", String::new()) };
            line.reply(status, &range, &self.layer[first..]);
        } else {
            line.reply(
                "404 Not Found",
                "",
                br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            );
        }
    }

    pub(crate) fn is_layer(&self, asked: &Asked) -> bool {
        asked.path().ends_with(&sha256(&self.layer))
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Writes an archive of one file.
pub(crate) fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, content).expect("a vector takes it");
    builder.into_inner().expect("a vector takes it")
}
