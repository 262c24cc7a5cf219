//! The keys: each section's fields with their meaning, default and bounds. This list is the only one.
//!
//! `section!` makes a plain struct with a `Default`, and lets the sources reach its fields by name.

use crate::config::leaf::{Entry, Slot, words};
use crate::config::quantity::Bytes;
use crate::config::secret::{Database, Secret};
use crate::config::{Config, IssuerConfig};
use crate::log::MODULES;
use model::limits::MAX_BODY_BYTES;
use model::log::LogLevel;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Fields that can be reached by name.
pub(super) trait Section {
    /// Returns the fields' names, in the order in which they are shown.
    fn names(&self) -> &'static [&'static str];
    /// Returns the place of a field.
    fn slot<'a>(&'a mut self, name: &str) -> Option<Box<dyn Slot + 'a>>;
}

/// Makes a struct whose fields are keys. `in RANGE` bounds a value; `beside` fields are filled from elsewhere.
macro_rules! section {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$doc:meta])+ pub $field:ident: $type:ty = $default:expr $(, in $range:expr)?;)+
            $(beside { $($(#[$beside_doc:meta])+ pub $beside:ident: $beside_type:ty;)+ })?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $($(#[$doc])+ pub $field: $type,)+
            $($($(#[$beside_doc])+ pub $beside: $beside_type,)+)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ $($($beside: Default::default(),)+)? }
            }
        }

        impl $crate::config::section::Section for $name {
            fn names(&self) -> &'static [&'static str] {
                &[$(stringify!($field)),+]
            }

            fn slot<'a>(&'a mut self, name: &str) -> Option<Box<dyn $crate::config::leaf::Slot + 'a>> {
                match name {
                    $(stringify!($field) => {
                        Some($crate::config::section::section!(@slot &mut self.$field $(, $range)?))
                    })+
                    _ => None,
                }
            }
        }
    };
    (@slot $place:expr) => { Box::new($crate::config::leaf::Plain($place)) };
    (@slot $place:expr, $range:expr) => { Box::new($crate::config::leaf::Bounded($place, $range)) };
}
pub(super) use section;

const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(3600);
const MAX_HEADER_TIMEOUT: Duration = Duration::from_secs(600);
const MAX_DRAIN_TIMEOUT: Duration = Duration::from_secs(3600);
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MIN_BODY_BYTES: Bytes = Bytes::new(1024);
const MAX_BODY_BYTES_MAX: Bytes = Bytes::new(64 << 20);
const MAX_CONNECTIONS: usize = 1_000_000;
const MAX_POOL_SIZE: usize = 1024;
const MIN_CHANGES_AGE: Duration = Duration::from_secs(60);
const MAX_CHANGES_AGE: Duration = Duration::from_secs(3650 * 24 * 3600);
const MIN_CHANGES_BYTES: Bytes = Bytes::new(1 << 20);
const MAX_CHANGES_BYTES: Bytes = Bytes::new(1 << 50);
const MIN_UNSERVED: Duration = Duration::from_secs(1);
const MAX_UNSERVED: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const MIN_LEASE: Duration = Duration::from_secs(2);
const MAX_LEASE: Duration = Duration::from_secs(600);
const MAX_RATE: f64 = 1e9;

section! {
    /// The server itself.
    pub struct ServerConfig {
        /// The address and port to listen on.
        pub listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 7070));
        /// The folder of the database, the blobs and the log files.
        pub data: PathBuf = PathBuf::from("quarry-data");
        /// How long a request may take from its first byte to its answer's.
        pub request_timeout: Duration = Duration::from_secs(30), in MIN_TIMEOUT..=MAX_REQUEST_TIMEOUT;
        /// How long the headers of a request may take to arrive.
        pub header_timeout: Duration = Duration::from_secs(10), in MIN_TIMEOUT..=MAX_HEADER_TIMEOUT;
        /// How long requests may go on after the order to stop.
        pub drain_timeout: Duration = Duration::from_secs(30), in Duration::ZERO..=MAX_DRAIN_TIMEOUT;
        /// The largest body of a JSON request.
        pub body_bytes_max: Bytes = Bytes::new(MAX_BODY_BYTES as u64), in MIN_BODY_BYTES..=MAX_BODY_BYTES_MAX;
        /// Connections that may be open at once.
        pub connections_max: usize = 4096, in 1..=MAX_CONNECTIONS;
        /// Whether `/metrics` is answered without a token.
        pub metrics_public: bool = false;
        /// What secrets of registries are sealed with, the same for all servers of a database; `secret.key` in the data
        /// folder, made when it is missing, when unset.
        pub secret_key: Option<Secret> = None;
    }
}

section! {
    /// The database.
    pub struct StoreConfig {
        /// `sqlite`, a file in the data folder, or the address of a PostgreSQL server.
        pub database: Database = Database::Sqlite;
        /// How soon SQLite's commits are on the disk.
        pub synchronous: Synchronous = Synchronous::Full;
        /// Connections to the database.
        pub pool_size: usize = 8, in 1..=MAX_POOL_SIZE;
    }
}

words! {
    /// How soon SQLite's commits are on the disk.
    pub enum Synchronous {
        /// Before they are acknowledged.
        Full = "full",
        /// A little later: losing power may lose the last ones, but never mixes up the rest.
        Normal = "normal",
    }
}

section! {
    /// Where blobs are kept.
    pub struct BlobConfig {
        /// `s3://bucket/prefix`; a folder in the data folder when unset.
        pub url: Option<String> = None;
        /// The address of a bucket that is not Amazon's.
        pub endpoint: Option<String> = None;
        /// The bucket's region.
        pub region: Option<String> = None;
        /// The public half of the bucket's key.
        pub access_key_id: Option<String> = None;
        /// The secret half of the bucket's key.
        pub secret_access_key: Option<Secret> = None;
        /// Whether the bucket may be spoken to without TLS.
        pub allow_http: bool = false;
    }
}

impl BlobConfig {
    /// Returns the bucket and the prefix within it, if blobs are kept in one.
    pub fn bucket(&self) -> Option<(&str, &str)> {
        let place = self.url.as_deref()?.strip_prefix("s3://")?;
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        Some((bucket, prefix.trim_matches('/')))
    }
}

section! {
    /// How much of the log of changes is kept.
    pub struct RetentionConfig {
        /// Changes older than this may be dropped.
        pub changes_age: Duration = Duration::from_secs(30 * 24 * 3600), in MIN_CHANGES_AGE..=MAX_CHANGES_AGE;
        /// The oldest changes are dropped when all together take more than this.
        pub changes_bytes: Bytes = Bytes::new(4 << 30), in MIN_CHANGES_BYTES..=MAX_CHANGES_BYTES;
        /// Executions that ended longer ago than this go, with their logs and their input; what a user stored by hand, and
        /// dumps, stay. Images that failed or are gone, and nodes that have left, are forgotten as late.
        pub executions_age: Duration = Duration::from_secs(90 * 24 * 3600), in MIN_CHANGES_AGE..=MAX_CHANGES_AGE;
        /// The content of dumps that were uploaded longer ago than this goes; all of it stays when unset. Dumps with a
        /// ticket, and those whose property `pinned` is true, keep theirs. Unwind packs that no dump with content needs
        /// go once nobody has asked for them for as long.
        pub dumps_age: Option<Duration> = None;
        /// Of each signature so many of the newest dumps keep their content, besides those; all do when unset.
        pub dumps_kept: Option<usize> = None;
    }
}

section! {
    /// What nodes are held to.
    pub struct NodeConfig {
        /// How long a node may be silent before what it holds goes to others.
        pub lease: Duration = Duration::from_secs(30), in MIN_LEASE..=MAX_LEASE;
        /// The age at which a node is drained, counted from its start; never when unset.
        pub max_age: Option<Duration> = None;
        /// How long an execution may wait that no node could take, although there are nodes; then it fails and says why.
        pub unserved_max: Duration = Duration::from_secs(3600), in MIN_UNSERVED..=MAX_UNSERVED;
    }
}

section! {
    /// How often a caller may ask.
    pub struct RateConfig {
        /// Requests per second of one known caller; 0 for no limit.
        pub per_second: f64 = 200.0, in 0.0..=MAX_RATE;
        /// Requests that a known caller may make at once after a rest.
        pub burst: f64 = 400.0, in 0.0..=MAX_RATE;
        /// Requests per second from one address without a token; 0 for no limit.
        pub anonymous_per_second: f64 = 20.0, in 0.0..=MAX_RATE;
        /// Requests that may come at once from an address without a token.
        pub anonymous_burst: f64 = 40.0, in 0.0..=MAX_RATE;
    }
}

section! {
    /// What the server writes about itself.
    pub struct LogConfig {
        /// How a line looks.
        pub format: LogFormat = LogFormat::Text;
        /// The level of every module that is not named.
        pub level: LogLevel = LogLevel::Info;
        /// Whether each module has a file of its own, in place of standard error.
        pub split: bool = false;
        /// The folder of these files; `log` in the data folder when unset.
        pub folder: Option<PathBuf> = None;
        beside {
            /// The level of each module named.
            pub modules: BTreeMap<String, LogLevel>;
        }
    }
}

words! {
    /// How a line of the log looks.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// For programs: one JSON object per line.
        Json = "json",
    }
}

impl LogConfig {
    /// Returns the folder of the split log files.
    pub fn folder(&self, data: &Path) -> PathBuf {
        self.folder.clone().unwrap_or_else(|| data.join("log"))
    }
}

/// The levels of the modules: the same keys for each module there is.
impl Section for BTreeMap<String, LogLevel> {
    fn names(&self) -> &'static [&'static str] {
        &MODULES
    }

    fn slot<'a>(&'a mut self, name: &str) -> Option<Box<dyn Slot + 'a>> {
        let module = MODULES.into_iter().find(|module| *module == name)?;
        Some(Box::new(Entry(self, module)))
    }
}

section! {
    /// The certificate while the sources are read: one half may still be missing.
    pub(super) struct TlsDraft {
        /// The chain of certificates, as PEM.
        pub certificate: Option<PathBuf> = None;
        /// The private key, as PEM.
        pub key: Option<PathBuf> = None;
    }
}

/// The server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The chain of certificates, as PEM.
    pub certificate: PathBuf,
    /// The private key, as PEM.
    pub key: PathBuf,
}

/// A configuration while the sources are read.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub(super) server: ServerConfig,
    pub(super) tls: TlsDraft,
    pub(super) store: StoreConfig,
    pub(super) blob: BlobConfig,
    pub(super) retention: RetentionConfig,
    pub(super) node: NodeConfig,
    pub(super) rate: RateConfig,
    pub(super) log: LogConfig,
    pub(super) issuers: Vec<IssuerConfig>,
}

/// A section's name and the way to it.
type Access = (&'static str, fn(&mut Draft) -> &mut dyn Section);

/// The name of the sections of which there may be many.
pub(super) const ISSUER: &str = "issuer";

impl Draft {
    /// Every section of which there is one, in the order in which they are shown.
    const SECTIONS: [Access; 9] = [
        ("server", |draft| &mut draft.server),
        ("tls", |draft| &mut draft.tls),
        ("store", |draft| &mut draft.store),
        ("blob", |draft| &mut draft.blob),
        ("retention", |draft| &mut draft.retention),
        ("node", |draft| &mut draft.node),
        ("rate", |draft| &mut draft.rate),
        ("log", |draft| &mut draft.log),
        ("log.modules", |draft| &mut draft.log.modules),
    ];

    /// Tells whether there is such a section.
    pub(super) fn has_section(name: &str) -> bool {
        Self::sections().any(|section| section == name)
    }

    /// Returns the names of the sections of which there is one.
    pub(super) fn sections() -> impl Iterator<Item = &'static str> {
        Self::SECTIONS.into_iter().map(|(name, _)| name)
    }

    /// Returns every key but those of issuers.
    pub(super) fn keys() -> Vec<String> {
        let mut draft = Self::default();
        let keys = |(section, access): Access| {
            access(&mut draft).names().iter().map(|name| format!("{section}.{name}")).collect::<Vec<_>>()
        };
        Self::SECTIONS.into_iter().flat_map(keys).collect()
    }

    /// Returns the place of a key.
    pub(super) fn slot(&mut self, key: &str) -> Option<Box<dyn Slot + '_>> {
        let (section, name) = key.rsplit_once('.')?;
        let (_, access) = Self::SECTIONS.into_iter().find(|(known, _)| *known == section)?;
        access(self).slot(name)
    }

    /// Returns the configuration that the draft stands for, once it has been found right.
    pub(super) fn finish(self) -> Config {
        let tls = self.tls.certificate.zip(self.tls.key);
        Config {
            server: self.server,
            tls: tls.map(|(certificate, key)| TlsConfig { certificate, key }),
            store: self.store,
            blob: self.blob,
            retention: self.retention,
            node: self.node,
            rate: self.rate,
            log: self.log,
            issuers: self.issuers,
        }
    }
}
