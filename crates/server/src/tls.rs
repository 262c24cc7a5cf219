//! The server's certificate: TLS 1.2 and 1.3 by rustls with ring, and new certificates without a restart.
//!
//! A pair of certificate and key is either whole or not used: it is read, parsed and matched before anybody is served
//! with it, and a broken one leaves the old in place. A connection keeps the pair that it began with. Only `http/1.1` is
//! offered, because the server speaks nothing else. Nobody's certificate is asked for.

use crate::config::TlsConfig;
use axum_server::tls_rustls::RustlsConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{InconsistentKeys, ServerConfig};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
pub const POLL_EVERY: Duration = Duration::from_secs(3);
/// Bytes of a file with certificates or a key.
const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("`{path}` could not be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is too large to be what it should be.
    #[error("`{0}` is larger than {MAX_PEM_BYTES} bytes")]
    TooLarge(PathBuf),
    /// The certificates are no PEM.
    #[error("`{path}` is not a list of certificates as PEM")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// There is no certificate.
    #[error("`{0}` holds no certificate; expected is PEM, the server's own certificate first")]
    NoCertificate(PathBuf),
    /// There is no key; the parser's own message might quote the file, so it is left out.
    #[error("`{0}` holds no private key that can be read; expected is PEM without a passphrase")]
    NoKey(PathBuf),
    /// The two are not a pair.
    #[error("the key `{key}` does not belong to the certificate `{certificate}`")]
    Mismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// The two are refused for another reason.
    #[error("the certificate `{certificate}` cannot be used with the key `{key}`")]
    Refused {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// A certificate that is served and may be replaced.
#[derive(Debug)]
pub struct Tls {
    files: TlsConfig,
    served: RustlsConfig,
    /// Held while files are read, so that what was read last is what is served.
    watched: Mutex<Watched>,
}

/// What is known of the files.
#[derive(Debug)]
struct Watched {
    /// How they looked the last time.
    seen: Stamp,
    /// How they looked when they were last read, with whatever success.
    tried: Stamp,
}

/// How both files look from outside; `None` for one that is not there.
type Stamp = [Option<FileStamp>; 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    inode: u64,
    length: u64,
    modified: SystemTime,
}

impl Tls {
    /// Reads certificate and key; refuses a pair that could not be served.
    pub fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let stamp = stamp(config);
        let served = RustlsConfig::from_config(server_config(config)?);
        let watched = Mutex::new(Watched { seen: stamp, tried: stamp });
        Ok(Self { files: config.clone(), served, watched })
    }

    /// Returns what `axum_server` serves with; reloads reach every clone of it.
    pub fn served(&self) -> RustlsConfig {
        self.served.clone()
    }

    /// Reads the files again, whether they have changed or not; on an error the old pair stays.
    ///
    /// Blocks on two small files, so an async caller puts it on a blocking thread.
    pub fn reload(&self) -> Result<(), TlsError> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.files);
        *watched = Watched { seen: stamp, tried: stamp };
        self.served.reload_from_config(server_config(&self.files)?);
        Ok(())
    }

    /// Follows the files until told to stop: looks at them every so often and reads them when they have changed.
    ///
    /// A broken pair is logged once and the old one stays; a pair that is mended later is taken.
    pub async fn watch(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            let tls = Arc::clone(&self);
            // A panic in there has been reported by the runtime; the next look may do better.
            let _ = spawn_blocking(move || tls.look()).await;
        }
    }

    /// A change counts when it has stood from one look to the next, so that a pair which is replaced file by file is
    /// not read half-way.
    fn look(&self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.files);
        let settled = watched.seen == stamp;
        watched.seen = stamp;
        if !settled || watched.tried == stamp {
            return;
        }
        watched.tried = stamp;
        let (certificate, key) = (self.files.certificate.display(), self.files.key.display());
        match server_config(&self.files) {
            Ok(config) => {
                self.served.reload_from_config(config);
                tracing::info!(%certificate, %key, "serving a new certificate");
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "the new certificate cannot be used; serving the old one");
            }
        }
    }
}

fn stamp(files: &TlsConfig) -> Stamp {
    [&files.certificate, &files.key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        let modified = metadata.modified().ok()?;
        Some(FileStamp { inode: metadata.ino(), length: metadata.len(), modified })
    })
}

fn server_config(files: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
    let TlsConfig { certificate, key } = files;
    let chain = CertificateDer::pem_slice_iter(&file_read(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Certificate { path: certificate.clone(), source })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(certificate.clone()));
    }
    let private = PrivateKeyDer::from_pem_slice(&file_read(key)?).map_err(|_| TlsError::NoKey(key.clone()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|source| match source {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { certificate: certificate.clone(), key: key.clone() }
            }
            source => TlsError::Refused { certificate: certificate.clone(), key: key.clone(), source },
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn file_read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let mut content = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_PEM_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MAX_PEM_BYTES { Err(TlsError::TooLarge(path.to_owned())) } else { Ok(content) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use axum_server::Handle;
    use rcgen::{CertifiedKey, KeyPair, PKCS_ED25519, generate_simple_self_signed};
    use rustls::pki_types::ServerName;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
    use std::cell::Cell;
    use std::error::Error;
    use std::io::Write;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Instant;
    use tempfile::TempDir;
    use tokio::task::JoinSet;

    const WAIT: Duration = Duration::from_secs(20);

    type Client = StreamOwned<ClientConnection, TcpStream>;

    /// A folder with a certificate and its key.
    struct Place {
        folder: TempDir,
        written: Cell<usize>,
    }

    impl Place {
        fn new() -> (Self, CertificateDer<'static>) {
            let place = Self { folder: tempfile::tempdir().expect("a folder"), written: Cell::new(0) };
            let certificate = place.replace();
            (place, certificate)
        }

        fn config(&self) -> TlsConfig {
            let path = |name: &str| self.folder.path().join(name);
            TlsConfig { certificate: path("certificate.pem"), key: path("key.pem") }
        }

        fn write(&self, certificate: &str, key: &str) {
            self.write_one(&self.config().certificate, certificate);
            self.write_one(&self.config().key, key);
        }

        /// Pads each file to a length of its own: two writes within one tick of the file system's clock look alike.
        fn write_one(&self, path: &Path, content: &str) {
            self.written.set(self.written.get() + 1);
            fs::write(path, content.to_owned() + &"\n".repeat(self.written.get())).expect("writes");
        }

        fn replace(&self) -> CertificateDer<'static> {
            let pair = pair();
            self.write(&pair.cert.pem(), &pair.signing_key.serialize_pem());
            pair.cert.der().clone()
        }
    }

    fn pair() -> CertifiedKey<KeyPair> {
        generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate")
    }

    /// A server on a free port that answers every request with `ok`.
    struct Served {
        address: SocketAddr,
        handle: Handle<SocketAddr>,
        tasks: JoinSet<()>,
    }

    impl Served {
        fn start(tls: &Tls) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.set_nonblocking(true).expect("a socket");
            let address = listener.local_addr().expect("an address");
            let (handle, mut tasks) = (Handle::new(), JoinSet::new());
            let server = axum_server::from_tcp_rustls(listener, tls.served()).expect("a listener");
            let server = server.handle(handle.clone());
            let app = Router::new().route("/", get(|| async { "ok" }));
            tasks.spawn(async move { server.serve(app.into_make_service()).await.expect("serves") });
            Self { address, handle, tasks }
        }

        async fn stop(self) {
            self.handle.shutdown();
            self.tasks.join_all().await;
        }
    }

    /// Runs the blocking side of a test beside the server.
    async fn beside<T: Send + 'static>(client: impl FnOnce() -> T + Send + 'static) -> T {
        spawn_blocking(client).await.expect("the client does not panic")
    }

    fn connect(
        address: SocketAddr,
        trusted: &[CertificateDer<'static>],
        version: &'static SupportedProtocolVersion,
        protocol: &[u8],
    ) -> io::Result<Client> {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add(certificate.clone()).expect("a certificate");
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from("localhost").expect("a name");
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(WAIT))?;
        let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(connection, socket))
    }

    fn shown(client: &Client) -> CertificateDer<'static> {
        client.conn.peer_certificates().expect("the handshake is done")[0].clone()
    }

    fn ask(client: &mut Client) {
        client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sends");
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\nok") {
            client.read_exact(&mut byte).expect("the whole answer");
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn clients_of_both_versions_are_served_and_older_ones_are_not() {
        let (place, certificate) = Place::new();
        let served = Served::start(&Tls::load(&place.config()).expect("loads"));
        let address = served.address;
        beside(move || {
            let trusted = [certificate.clone()];
            for version in [&TLS12, &TLS13] {
                let mut client = connect(address, &trusted, version, b"http/1.1").expect("a handshake");
                assert_eq!(client.conn.protocol_version(), Some(version.version));
                assert_eq!(client.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
                assert_eq!(shown(&client), certificate);
                ask(&mut client);
            }
            let error = connect(address, &trusted, &TLS13, b"h2").expect_err("no such protocol");
            assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
            let error = connect(address, &[], &TLS13, b"http/1.1").expect_err("a stranger's certificate");
            assert!(error.to_string().contains("UnknownIssuer"), "{error}");

            // A ClientHello of TLS 1.1: 32 random bytes, no session, one cipher suite, no compression, and one
            // extension with a signature that the server knows, so that it minds nothing but the version.
            let mut hello = vec![0x16, 3, 1, 0, 55, 1, 0, 0, 51, 3, 2];
            hello.extend([7; 32]);
            hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
            hello.extend([0, 8, 0, 0x0d, 0, 4, 0, 2, 4, 3]);
            let mut socket = TcpStream::connect(address).expect("connects");
            socket.set_read_timeout(Some(WAIT)).expect("a socket");
            socket.write_all(&hello).expect("sends");
            let mut alert = [0; 7];
            socket.read_exact(&mut alert).expect("an alert");
            assert_eq!((alert[0], &alert[5..]), (0x15, &[2, 70][..]), "fatal, protocol_version");
        })
        .await;
        served.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn new_files_are_served_to_new_connections_and_old_ones_go_on() {
        let (place, first) = Place::new();
        let tls = Arc::new(Tls::load(&place.config()).expect("loads"));
        let (mut served, stop) = (Served::start(&tls), CancellationToken::new());
        served.tasks.spawn(Arc::clone(&tls).watch(Duration::from_millis(5), stop.clone()));
        let address = served.address;
        beside(move || {
            let open = |trusted: &[_]| connect(address, trusted, &TLS13, b"http/1.1").expect("a handshake");
            let mut old = open(std::slice::from_ref(&first));
            ask(&mut old);

            let second = place.replace();
            let (both, began) = ([first.clone(), second.clone()], Instant::now());
            while shown(&open(&both)) != second {
                assert!(began.elapsed() < WAIT, "the new certificate is never served");
            }
            ask(&mut open(&both));
            ask(&mut old);

            // Broken files change nothing, and asking for them says what is wrong.
            place.write("no certificate", "no key");
            assert!(matches!(tls.reload(), Err(TlsError::NoCertificate(_))));
            assert_eq!(shown(&open(&both)), second);

            // On demand there is no waiting.
            let third = place.replace();
            tls.reload().expect("a whole pair");
            assert_eq!(shown(&open(&[first, second, third.clone()])), third);
            ask(&mut old);
        })
        .await;
        stop.cancel();
        served.stop().await;
    }

    #[test]
    fn a_broken_pair_is_logged_once_and_a_mended_one_is_taken() {
        let (place, _) = Place::new();
        let tls = Tls::load(&place.config()).expect("loads");
        let served = || Arc::as_ptr(&tls.served().get_inner());
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let first = served();
            let look = |times: usize| (0..times).for_each(|_| tls.look());
            look(3);
            assert_eq!((served(), log.lines()), (first, 0));

            // Half of a pair: not yet read at the first look.
            place.write_one(&place.config().certificate, &pair().cert.pem());
            look(1);
            assert_eq!((served(), log.lines()), (first, 0));
            look(5);
            assert_eq!((served(), log.lines()), (first, 1), "{log:?}");
            fs::remove_file(place.config().key).expect("removes");
            look(5);
            assert_eq!((served(), log.lines()), (first, 2), "{log:?}");

            place.replace();
            look(5);
            assert_eq!(log.lines(), 3, "{log:?}");
            assert_ne!(served(), first);
        });
    }

    #[test]
    fn pairs_that_cannot_be_served_are_refused() {
        let (place, _) = Place::new();
        let files = place.config();
        let (one, two) = (pair(), pair());
        let (certificate, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let check = |certificate: &str, key: &str, expected: &str| {
            place.write(certificate, key);
            let error = Tls::load(&files).expect_err(expected);
            let text = format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default());
            let text = text.replace(&place.folder.path().display().to_string(), "");
            assert!(text.starts_with(expected), "{text}");
            // No line of the key is quoted.
            let quoted = key.lines().any(|line| line.len() > 20 && !line.starts_with("---") && text.contains(line));
            assert!(!quoted, "{text}");
        };
        let mismatch = "the key `/key.pem` does not belong to the certificate `/certificate.pem`";
        check(&certificate, &two.signing_key.serialize_pem(), mismatch);
        check(&certificate, &KeyPair::generate_for(&PKCS_ED25519).expect("a key").serialize_pem(), mismatch);
        let none = "`/certificate.pem` holds no certificate";
        check("", &key, none);
        check(&key, &key, none);
        let no_key = "`/key.pem` holds no private key that can be read; expected is PEM without a passphrase";
        check(&certificate, "", no_key);
        check(&certificate, &certificate, no_key);
        check(&certificate, &key.replace("-----END", "-----"), no_key);
        check(&certificate, &key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), no_key);
        check(&certificate.replace("END", "EMD"), &key, "`/certificate.pem` is not a list of certificates as PEM");
        let refused = "the certificate `/certificate.pem` cannot be used with the key `/key.pem`";
        check("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n", &key, refused);
        check(&certificate, "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n", refused);
        check(&"x".repeat(1024 * 1024 + 1), &key, "`/certificate.pem` is larger than 1048576 bytes");

        place.write(&certificate, &key);
        fs::remove_file(&files.key).expect("removes");
        let error = Tls::load(&files).expect_err("no key");
        assert!(matches!(&error, TlsError::Read { path, .. } if *path == files.key), "{error:?}");
        place.write(&format!("{certificate}{}", two.cert.pem()), &format!("a comment\n{key}"));
        Tls::load(&files).expect("a chain, and a key with a comment");
    }

    /// Everything that was logged.
    #[derive(Clone, Debug, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        fn lines(&self) -> usize {
            self.0.lock().expect("nobody panicked").iter().filter(|&&byte| byte == b'\n').count()
        }
    }

    impl Write for Log {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked").extend(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
