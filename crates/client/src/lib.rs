//! The client: one function per endpoint, retries, and `follow`. Command line, node and tests speak to a server through it.
//!
//! A request is sent again only when that is harmless (`request.rs`), for a bounded time. Every answer, event and
//! wait has a bound, since a server may be broken or hostile too. Redirects are not followed, so a token goes to the
//! address it was meant for and nowhere else. Nothing here prints, reads the environment or keeps state on disk.
#![forbid(unsafe_code)]

mod analyzer;
pub mod blob;
mod change;
mod chunk;
mod dump;
mod error;
mod event;
mod execution;
mod health;
pub mod id;
mod image;
mod log;
mod node;
mod pack;
mod registry;
mod request;
mod signature;
mod tenant;
mod token;
mod user;

pub use error::ClientError;
pub use request::Retry;

use reqwest::header::HeaderValue;
use reqwest::{Certificate, Url};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a connection may take to come about.
const MAX_CONNECT: Duration = Duration::from_secs(5);
/// How long sent bytes may stay unacknowledged before the other side counts as gone.
const MAX_UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// Bytes of a file of certificates.
const MAX_CA_BYTES: u64 = 4 << 20;

/// What a client may be told besides where to go and who it is.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A file of PEM certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The tenant to speak of; none means the token's own.
    pub tenant: Option<String>,
    /// For how long a request is tried again.
    pub retry: Retry,
    /// The server's socket on this machine, in place of the address; that then only names the server.
    pub socket: Option<PathBuf>,
}

/// A server's address and the credential to show there. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<HeaderValue>,
    tenant: Option<String>,
    retry: Retry,
}

impl Client {
    /// Makes a client; nothing is sent yet.
    pub fn new(url: &str, token: Option<&str>, options: Options) -> Result<Self, ClientError> {
        let url = parse(url)?;
        let token = token.map(credential).transpose()?;
        let http = connector(&url, &options)?;
        let url = url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { http, url, token, tenant: options.tenant, retry: options.retry })
    }

    /// Returns the same client with other patience.
    #[must_use]
    pub fn with_retry(&self, retry: Retry) -> Self {
        Self { retry, ..self.clone() }
    }

    /// Returns the server's address, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Reads an address, refusing what would send a request to a surprising place.
fn parse(text: &str) -> Result<Url, ClientError> {
    let refuse = |hint: String| Err(ClientError::invalid(format!("`{text}` is not the address of a server"), hint));
    let example = "it looks like `http://localhost:8080` or `https://quarry.example.org`".to_owned();
    let Ok(url) = Url::parse(text) else {
        return refuse(if text.contains("://") || text.is_empty() { example } else { with_scheme(text) });
    };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return refuse(if text.contains("://") { example } else { with_scheme(text) });
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("a user or password does not belong into it; use a token".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("leave out everything from `?` or `#` on".to_owned());
    }
    Ok(url)
}

fn with_scheme(text: &str) -> String {
    format!("write `http://{text}` or `https://{text}`")
}

/// Turns a token into a header that no log shows.
fn credential(token: &str) -> Result<HeaderValue, ClientError> {
    let refuse = || ClientError::invalid("the token holds characters that no token has", "copy it again, whole");
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refuse());
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| refuse())?;
    value.set_sensitive(true);
    Ok(value)
}

fn connector(url: &Url, options: &Options) -> Result<reqwest::Client, ClientError> {
    // Somebody else in this process may have installed it before us; ring is the only provider there is.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("quarry/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(MAX_CONNECT)
        .tcp_user_timeout(MAX_UNACKNOWLEDGED)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false);
    if is_loopback(url) {
        builder = builder.no_proxy();
    }
    if let Some(socket) = &options.socket {
        builder = builder.unix_socket(socket.clone());
    }
    if url.scheme() == "https" {
        builder =
            builder.tls_certs_merge(options.ca_file.as_deref().map(certificates).transpose()?.unwrap_or_default());
    } else {
        // Without this the system's certificates are read, and a machine that has none could not even speak plain HTTP.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| {
        ClientError::invalid(
            format!("TLS cannot be set up: {}", error::root(&error)),
            "install the system's certificates (`apt install ca-certificates`) or name a file of them (QUARRY_CA_FILE)",
        )
    })
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, ClientError> {
    let refuse = |why: String| {
        ClientError::invalid(
            format!("the certificates in `{}` cannot be read: {why}", path.display()),
            "the file must hold PEM certificates (QUARRY_CA_FILE)",
        )
    };
    let size = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?.len();
    if size > MAX_CA_BYTES {
        return Err(refuse(format!("it has {size} bytes of at most {MAX_CA_BYTES}")));
    }
    let pem = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| refuse(error::root(&error)))?;
    if found.is_empty() { Err(refuse("it holds none".to_owned())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_or_refused_with_a_hint() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let found = Client::new(text, None, Options::default()).map(|client| client.url().to_owned());
            match (found, expected) {
                (Ok(url), Ok(expected)) => assert_eq!(url, expected),
                (Err(ClientError::Invalid { hint, .. }), Err(part)) => assert!(hint.contains(part), "{text}: {hint}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        check("http://localhost:8080", Ok("http://localhost:8080"));
        check("http://localhost:8080/", Ok("http://localhost:8080"));
        check("https://example.org/quarry/", Ok("https://example.org/quarry"));
        check("localhost:8080", Err("`http://localhost:8080`"));
        check("127.0.0.1:8080", Err("`http://127.0.0.1:8080`"));
        check("example.org", Err("`http://example.org`"));
        check("ftp://example.org", Err("it looks like"));
        check("", Err("it looks like"));
        check("http://", Err("it looks like"));
        check("http://me:secret@example.org", Err("use a token"));
        check("http://example.org/?a=b", Err("leave out"));
    }

    #[test]
    fn a_token_is_never_shown_and_a_broken_one_is_refused() {
        let client = Client::new("http://localhost", Some("tok_hush"), Options::default()).expect("is valid");
        assert!(!format!("{client:?}").contains("hush"));
        for bad in ["", "a b", "a\nb", "ä"] {
            assert!(Client::new("http://localhost", Some(bad), Options::default()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_of_certificates_that_holds_none_is_named() {
        let file = tempfile::NamedTempFile::new().expect("is made");
        let options = Options { ca_file: Some(file.path().to_owned()), ..Options::default() };
        let error = Client::new("https://localhost", None, options).expect_err("has no certificate");
        assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
    }
}
