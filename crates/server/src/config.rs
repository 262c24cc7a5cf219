//! What the operator decides: `quarry.toml`, then `QUARRY_*` of the environment, then flags; the later one wins.
//!
//! The `section!` lists in `config/section.rs` and `config/issuer.rs` are the one place where keys are named: fields,
//! defaults, bounds, environment names and what `config show` prints all follow from them. Every problem of every source
//! is reported at once, with its key and its place. Nothing here reads the process environment or a clock, and loading
//! touches no file but the configuration itself: `Loaded::check_files` looks at the files that it names. Relative paths
//! are meant from the folder in which the server is started.

mod check;
mod issuer;
mod leaf;
mod problem;
mod quantity;
mod secret;
mod section;
mod setting;
mod source;

pub use issuer::{IssuerConfig, JwtAlgorithm};
pub(crate) use problem::nearest;
pub use problem::{ConfigErrors, Origin, Problem};
pub use quantity::Bytes;
pub use secret::{Database, Secret};
pub use section::{
    BlobConfig, LogConfig, LogFormat, NodeConfig, RateConfig, RetentionConfig, ServerConfig, StoreConfig, Synchronous,
    TlsConfig,
};
pub use setting::{Setting, Settings};
pub use source::{ConfigFile, Sources};

use crate::config::problem::Problems;

/// Everything the operator decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The server itself.
    pub server: ServerConfig,
    /// Its certificate; plain HTTP without one.
    pub tls: Option<TlsConfig>,
    /// The database.
    pub store: StoreConfig,
    /// Where blobs are kept.
    pub blob: BlobConfig,
    /// How much of the log of changes is kept.
    pub retention: RetentionConfig,
    /// What nodes are held to.
    pub node: NodeConfig,
    /// How often a caller may ask.
    pub rate: RateConfig,
    /// What the server writes about itself.
    pub log: LogConfig,
    /// Whose foreign JWTs are trusted.
    pub issuers: Vec<IssuerConfig>,
}

/// A configuration, and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The same as a list, masked, with origins.
    pub settings: Settings,
}

impl Config {
    /// Merges the sources, or tells everything that is wrong with them.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
        let mut problems = Problems::default();
        let (mut draft, origins) = source::merge(sources, &mut problems);
        check::values(&draft, &origins, &mut problems);
        let settings = setting::list(&mut draft, &origins);
        problems.into_result()?;
        Ok(Loaded { config: draft.finish(), settings })
    }
}

impl Loaded {
    /// Looks at the files that the configuration names: certificate, keys and key sets.
    pub fn check_files(&self) -> Result<(), ConfigErrors> {
        let mut problems = Problems::default();
        check::files(self, &mut problems);
        problems.into_result()
    }
}

#[cfg(test)]
mod tests;
