//! Reach: which addresses a pull may connect to, and whose certificates are believed there.
//!
//! A tenant names the registry, the registry names its token service, and either may lead elsewhere; all of them are
//! reached from the node, by its address and behind its walls. So every address is looked at first: only public ones are
//! open, unless whoever runs the node named the host. A name is resolved once for each pull, here, and the connection goes
//! to what was looked at, not to what the name means a moment later. The sorts of addresses are those of `egress`.
//!
//! Behind a proxy, which the operator's environment names, it is the proxy that resolves and connects: what this node can
//! tell of an address it checks all the same, the rest is the proxy's own policy.

use super::registry::{Patience, RegistryError};
use crate::egress::{Sort, sort};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Url};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// Bytes of a file of certificates.
const MAX_CA_BYTES: u64 = 4 << 20;
/// Addresses of one name.
const MAX_ADDRESSES: usize = 64;
/// How long a name may take to be resolved.
const MAX_LOOKUP: Duration = Duration::from_secs(10);
/// What names a proxy, as every program reads it.
const PROXIES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// A registry that is reached whatever its address is, because the node's operator says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedRegistry {
    /// As an URL writes it: in lower case, an IPv6 address in brackets.
    host: String,
    port: Option<u16>,
    is_tls: bool,
}

impl AllowedRegistry {
    /// Reads `HOST[:PORT]`, or `https://HOST[:PORT]` for one on this machine that speaks TLS.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is not of the form `HOST[:PORT]`, such as `registry.internal:5000`");
        let (rest, is_tls) = text.strip_prefix("https://").map_or((text, false), |rest| (rest, true));
        // Neither of the ports that an URL may leave out stands for itself here, so another scheme's is lent.
        let url = Url::parse(&format!("ftp://{rest}")).map_err(|_| refuse())?;
        let is_bare = url.path() == "/" && !rest.ends_with('/') && url.query().is_none() && url.fragment().is_none();
        let is_plain = is_bare && url.username().is_empty() && url.password().is_none();
        let is_good = |host: &&str| host.bytes().all(|one| one.is_ascii_alphanumeric() || b".:-[]_".contains(&one));
        let host = url.host_str().filter(|host| is_plain && !host.is_empty()).filter(is_good).ok_or_else(refuse)?;
        let port = url.port().or_else(|| rest.ends_with(":21").then_some(21));
        Ok(Self { host: host.to_ascii_lowercase(), port, is_tls })
    }

    fn covers(&self, host: &str, port: Option<u16>) -> bool {
        self.host == host && self.port.is_none_or(|own| Some(own) == port)
    }
}

/// Certificates of authorities besides those that the machine believes.
#[derive(Clone, Debug, Default)]
pub struct Authorities(Vec<Certificate>);

impl Authorities {
    /// Reads a file of PEM certificates.
    pub fn read(path: &str) -> Result<Self, String> {
        let refuse = |why: &dyn fmt::Display| format!("the certificates in `{path}` cannot be read: {why}");
        let bytes = std::fs::metadata(Path::new(path)).map_err(|error| refuse(&error))?.len();
        if bytes > MAX_CA_BYTES {
            return Err(refuse(&format!("the file has {bytes} bytes of at most {MAX_CA_BYTES}")));
        }
        let pem = std::fs::read(path).map_err(|error| refuse(&error))?;
        let found = Certificate::from_pem_bundle(&pem).map_err(|error| refuse(&error))?;
        if found.is_empty() { Err(refuse(&"it holds none")) } else { Ok(Self(found)) }
    }

    pub(super) fn certificates(&self) -> Vec<Certificate> {
        self.0.clone()
    }
}

/// How a node deals with registries.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Those that are reached whatever their address is.
    pub allowed: Vec<AllowedRegistry>,
    /// Who is believed besides those that the machine believes.
    pub authorities: Authorities,
    /// How much is put up with.
    pub patience: Patience,
}

impl Registries {
    /// Tells whether the operator says that a registry speaks TLS, wherever it is.
    pub(super) fn is_tls(&self, host: &str) -> bool {
        let url = Url::parse(&format!("https://{host}")).ok();
        url.is_some_and(|url| {
            let name = url.host_str().unwrap_or_default();
            self.allowed.iter().any(|one| one.is_tls && one.covers(name, url.port_or_known_default()))
        })
    }
}

/// What one pull may connect to: the addresses that were looked at, by name.
#[derive(Debug)]
pub(crate) struct Reach {
    allowed: Vec<AllowedRegistry>,
    /// All addresses of a name, as they were found first.
    found: Mutex<HashMap<String, Vec<IpAddr>>>,
    /// Those of them that are open for the request at hand.
    open: Arc<Open>,
}

/// The resolver of the HTTP client.
#[derive(Debug)]
pub(crate) struct Open {
    addresses: Mutex<HashMap<String, Vec<IpAddr>>>,
    /// The hosts of the operator's own proxies, the only names that may be resolved without a look.
    proxies: Vec<String>,
}

impl Reach {
    pub(crate) fn new(registries: &Registries) -> Self {
        let open = Open { addresses: Mutex::default(), proxies: proxies() };
        Self { allowed: registries.allowed.clone(), found: Mutex::default(), open: Arc::new(open) }
    }

    /// Returns what resolves names for the HTTP client: only to what was looked at.
    pub(crate) fn resolver(&self) -> Arc<Open> {
        Arc::clone(&self.open)
    }

    /// Makes sure that a request may be sent to where it would go, and opens its addresses; `asked` is the registry.
    pub(crate) async fn admit(&self, url: &Url, asked: &str) -> Result<(), RegistryError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let port = url.port_or_known_default();
        let is_allowed = self.allowed.iter().any(|one| one.covers(&host, port));
        let whom = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let closed = || RegistryError::Closed { host: asked.to_owned(), whom: whom.clone() };
        let is_open = |address: &IpAddr| is_allowed || sort(*address) == Sort::Public;
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            return if is_open(&address) { Ok(()) } else { Err(closed()) };
        }
        let found = match self.resolve(&host).await {
            Ok(found) => found,
            // Behind a proxy a machine often cannot resolve what lies outside; nothing is opened for the name.
            Err(_) if !self.open.proxies.is_empty() => return Ok(()),
            Err(cause) => return Err(RegistryError::Unreachable { host: asked.to_owned(), cause }),
        };
        let open: Vec<_> = found.into_iter().filter(is_open).collect();
        let is_empty = open.is_empty();
        self.open.addresses().insert(host, open);
        if is_empty { Err(closed()) } else { Ok(()) }
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = timeout(MAX_LOOKUP, lookup_host((host, 0))).await;
        let found = found.map_err(|_| format!("`{host}` was not resolved in {} seconds", MAX_LOOKUP.as_secs()))?;
        let found = found.map_err(|error| format!("`{host}` cannot be resolved: {error}"))?;
        let found: Vec<_> = found.map(|address| address.ip()).take(MAX_ADDRESSES).collect();
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), found.clone());
        Ok(found)
    }
}

impl Open {
    fn addresses(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<IpAddr>>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolve for Open {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_ascii_lowercase();
        let open = self.addresses().get(&name).cloned();
        let is_proxy = self.proxies.contains(&name);
        Box::pin(async move {
            let open: Vec<_> = match open {
                Some(open) => open.into_iter().map(|address| SocketAddr::new(address, 0)).collect(),
                None if is_proxy => lookup_host((name, 0)).await?.collect(),
                None => return Err(format!("`{name}` was not looked at before").into()),
            };
            Ok(Box::new(open.into_iter()) as Addrs)
        })
    }
}

impl FromStr for AllowedRegistry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

/// Returns the hosts of the proxies that the environment names.
fn proxies() -> Vec<String> {
    let named = PROXIES.iter().filter_map(|name| std::env::var(name).ok()).filter(|text| !text.is_empty());
    let host = |text: String| {
        let text = if text.contains("://") { text } else { format!("http://{text}") };
        Some(Url::parse(&text).ok()?.host_str()?.to_ascii_lowercase())
    };
    named.filter_map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(allowed: &[&str]) -> Reach {
        let allowed = allowed.iter().map(|text| AllowedRegistry::parse(text).expect("is one")).collect();
        let open = Open { addresses: Mutex::default(), proxies: Vec::new() };
        Reach { allowed, found: Mutex::default(), open: Arc::new(open) }
    }

    async fn check(reach: &Reach, url: &str, is_open: bool) {
        match reach.admit(&Url::parse(url).expect("is an URL"), "asked").await {
            Ok(()) => assert!(is_open, "{url} is open"),
            Err(error @ RegistryError::Closed { .. }) => assert!(!is_open, "{error}"),
            Err(error) => panic!("{url}: {error}"),
        }
    }

    #[tokio::test]
    async fn only_public_addresses_are_open() {
        let reach = reach(&[]);
        for closed in [
            "http://127.0.0.1:5000",
            "http://127.1:5000",
            "http://0x7f000001",
            "http://2130706433",
            "http://0.0.0.0",
            "http://[::1]:5000",
            "http://[::ffff:127.0.0.1]",
            "http://localhost:5000",
            "http://LOCALHOST",
            "http://169.254.169.254/latest/meta-data",
            "http://[fd00:ec2::254]",
            "http://100.100.100.200",
            "http://10.1.2.3",
            "http://172.16.0.1",
            "http://192.168.1.1",
            "http://[fe80::1]",
            "http://[fd12::1]",
            "http://224.0.0.1",
        ] {
            check(&reach, closed, false).await;
        }
        check(&reach, "https://8.8.8.8", true).await;
        check(&reach, "https://[2606:4700::1111]/v2/", true).await;
    }

    #[tokio::test]
    async fn what_the_operator_names_is_open_and_no_more() {
        let reach = reach(&["localhost:5000", "10.1.2.3", "[::1]:443", "https://127.0.0.1:80"]);
        for (url, is_open) in [
            ("http://localhost:5000/v2/", true),
            ("http://localhost:5001", false),
            ("http://localhost", false),
            ("http://127.0.0.1:5000", false),
            ("http://127.0.0.1", true),
            ("https://127.0.0.1", false),
            ("http://10.1.2.3", true),
            ("https://10.1.2.3:8443", true),
            ("http://10.1.2.4", false),
            ("https://[::1]", true),
            ("http://[::1]", false),
        ] {
            check(&reach, url, is_open).await;
        }
        // One name, two ports: what the one opened does not serve the other.
        let resolve =
            async || reach.resolver().resolve("localhost".parse().expect("is a name")).await.map(Iterator::count);
        check(&reach, "http://localhost:5000", true).await;
        assert!(resolve().await.expect("was looked at") > 0);
        check(&reach, "http://localhost:5001", false).await;
        assert_eq!(resolve().await.expect("was looked at"), 0);
        let other =
            reach.resolver().resolve("example.org".parse().expect("is a name")).await.err().expect("is refused");
        assert_eq!(other.to_string(), "`example.org` was not looked at before");
    }

    #[test]
    fn registries_are_named_by_host_and_port() {
        let check = |text: &str, expected: Option<(&str, Option<u16>, bool)>| {
            let found = AllowedRegistry::parse(text).ok();
            let expected = expected.map(|(host, port, is_tls)| AllowedRegistry { host: host.to_owned(), port, is_tls });
            assert_eq!(found, expected, "{text}");
        };
        check("localhost", Some(("localhost", None, false)));
        check("Registry.Internal:5000", Some(("registry.internal", Some(5000), false)));
        check("https://localhost:443", Some(("localhost", Some(443), true)));
        check("10.0.0.1:80", Some(("10.0.0.1", Some(80), false)));
        check("a.b:21", Some(("a.b", Some(21), false)));
        check("[::1]:5000", Some(("[::1]", Some(5000), false)));
        for bad in ["", ":5000", "a/b", "a/", "a:x", "a:99999", "me@a", "a?b", "http://a", "a b", "::1", "*"] {
            check(bad, None);
        }
    }

    #[test]
    fn an_operator_says_who_speaks_tls() {
        let allowed = ["https://localhost:5000", "https://[::1]", "127.0.0.1"];
        let allowed = allowed.iter().map(|text| text.parse().expect("is one")).collect();
        let registries = Registries { allowed, ..Registries::default() };
        let check = |host: &str, expected: bool| assert_eq!(registries.is_tls(host), expected, "{host}");
        check("localhost:5000", true);
        check("localhost:5001", false);
        check("[::1]:9", true);
        check("127.0.0.1", false);
    }
}
