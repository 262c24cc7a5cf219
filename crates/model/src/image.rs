//! An image: the files and settings that an execution can run in, as layers that a node unpacks.
//!
//! An image is made by an execution on a node, which pulls or reads it, verifies it, and stores its layers as blobs of the
//! image's tenant. A name belongs to the newest ready image that was made under it.

use crate::digest::Digest;
use crate::error::ApiError;
use crate::id::{ExecutionId, ImageId, TenantId};
use crate::limits::{MAX_IMAGE_CHARS, MAX_LAYERS, MAX_NAME_CHARS, MAX_ROW_BYTES};
use crate::reference::Reference;
use crate::sandbox::runtime_check;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use utoipa::{IntoParams, ToSchema};

/// Life of an image: `Importing → Ready → Gone`, or `Failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageState {
    /// Its execution is at work.
    Importing,
    /// It can be used.
    Ready,
    /// Its execution failed; the cause is kept.
    Failed,
    /// It was removed.
    Gone,
}

impl ImageState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Importing, Self::Ready, Self::Failed, Self::Gone];

    /// Returns the states from which a move into `self` is legal. No wildcard arm: a new state must be decided here.
    pub const fn reachable_from(self) -> &'static [Self] {
        match self {
            Self::Importing => &[],
            Self::Ready | Self::Failed => &[Self::Importing],
            Self::Gone => &[Self::Ready, Self::Failed],
        }
    }

    /// Returns the state's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Importing => "importing",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Gone => "gone",
        }
    }
}

/// An operating system and a processor, by the words that registries use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// For instance `linux`.
    pub os: String,
    /// For instance `amd64`.
    pub architecture: String,
    /// For instance `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// How an image's program is begun, unless an execution says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImageConfig {
    /// What goes before the command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The command, if an execution has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Its environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The folder it begins in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Who it is inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Another OCI runtime than our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// What its maker noted on it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How a layer's archive is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Not at all.
    Tar,
    /// By gzip.
    Gzip,
    /// By Zstandard.
    Zstd,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The blob that holds its archive.
    pub blob: Digest,
    /// How long that is.
    pub size: u64,
    /// How it is packed.
    pub packing: Packing,
    /// The SHA-256 of the archive as it is packed, as the registry names it.
    pub digest: String,
    /// The SHA-256 of the archive unpacked: the layer's name in a node's cache.
    pub diff_id: String,
}

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The digest by which its registry knows it, or that of its own manifest: `sha256:…`.
    pub digest: String,
    /// For which machines it is.
    pub platform: Platform,
    /// How its program is begun.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

impl Manifest {
    /// Refuses what no row could hold or no node could mount.
    pub fn check(&self) -> Result<(), ApiError> {
        let refuse = |why: String| Err(ApiError::invalid("manifest_invalid", why));
        if self.layers.len() > MAX_LAYERS {
            return refuse(format!("an image has at most {MAX_LAYERS} layers, not {}", self.layers.len()));
        }
        if !is_sha256(&self.digest)
            || self.layers.iter().any(|layer| !is_sha256(&layer.digest) || !is_sha256(&layer.diff_id))
        {
            return refuse("a digest of an image is `sha256:` and 64 hexadecimal digits".to_owned());
        }
        let bytes = serde_json::to_vec(self).map_or(usize::MAX, |text| text.len());
        if bytes > 4 * MAX_ROW_BYTES {
            return refuse(format!("a manifest has at most {} bytes, not {bytes}", 4 * MAX_ROW_BYTES));
        }
        Ok(())
    }

    /// Returns how long its layers are, as they are packed.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add)
    }
}

/// Tells whether a text names an image by what it has here alone, an id or a digest, and never in a registry.
pub fn is_named_here(text: &str) -> bool {
    text.parse::<ImageId>().is_ok() || text.starts_with("sha256:")
}

/// Tells whether a text is `sha256:` and 64 lower-case hexadecimal digits, so that it can be part of a path.
pub fn is_sha256(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|one| one.is_ascii_digit() || (b'a'..=b'f').contains(&one))
    })
}

/// What an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveKind {
    /// Found out by looking.
    Auto,
    /// A tar of a root folder.
    Root,
    /// A tar of an OCI layout.
    OciLayout,
    /// What `docker save` writes.
    DockerArchive,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageSource {
    /// A registry that speaks the distribution API.
    Registry {
        /// What to pull: `[HOST/]NAME[:TAG][@sha256:…]`.
        reference: String,
        /// For which machines; none means the node's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform: Option<Platform>,
        /// Another OCI runtime than our own, for what runs in it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(max_length = 63)]
        runtime: Option<String>,
    },
    /// An archive that was stored as a blob before.
    Archive {
        /// Which.
        blob: Digest,
        /// What it is.
        archive: ArchiveKind,
        /// Which of its images, by the name or digest that it has there; needed where there are several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(min_length = 1, max_length = 512)]
        reference: Option<String>,
        /// Settings in place of those in the archive.
        #[serde(default)]
        config: ImageConfig,
    },
}

impl ImageSource {
    /// Returns the host of the registry that is asked, as a credential for it is stored: in lower case.
    pub fn host(&self) -> Option<String> {
        let Self::Registry { reference, .. } = self else { return None };
        Some(reference.parse::<Reference>().ok()?.host().to_ascii_lowercase())
    }
}

/// How to show oneself to a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Credential {
    /// The user.
    pub user: String,
    /// The password or token.
    pub secret: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "credential of `{}`", self.user)
    }
}

/// What a node needs to make an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageOrder {
    /// Which image.
    pub id: ImageId,
    /// From where.
    pub source: ImageSource,
    /// What to show the registry, for this one execution; kept nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
    /// Whether the registry is spoken to without TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain_http: bool,
}

/// An image as everybody of its tenant sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name.
    pub name: String,
    /// Where in its life it is.
    pub state: ImageState,
    /// Where it comes from.
    pub source: ImageSource,
    /// The execution that makes it.
    pub execution: ExecutionId,
    /// What it is made of, once it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Who asked for it.
    pub by: String,
    /// When.
    pub created_at: Timestamp,
    /// When it became ready, or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// A request for an image. The ids are the client's, so that asking twice is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewImage {
    /// The id it shall have.
    pub id: ImageId,
    /// The id of the execution that makes it.
    pub execution: ExecutionId,
    /// Its name; none means the reference it is pulled by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 512)]
    pub name: Option<String>,
    /// Where it comes from.
    pub source: ImageSource,
    /// Whether the registry is spoken to without TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain_http: bool,
}

impl NewImage {
    /// Refuses what is out of bounds, naming the field.
    pub fn check(&self) -> Result<(), ApiError> {
        let refuse = |field: &str, why: String| {
            Err(ApiError::invalid("image_invalid", format!("`{field}` of image `{}` {why}", self.id)))
        };
        let good =
            |text: &str| (1..=MAX_IMAGE_CHARS).contains(&text.len()) && text.bytes().all(|one| one.is_ascii_graphic());
        if self.name.as_deref().is_some_and(|name| !good(name)) {
            return refuse("name", format!("must have 1 to {MAX_IMAGE_CHARS} plain characters without spaces"));
        }
        let runtime = match &self.source {
            ImageSource::Registry { runtime, .. } => runtime,
            ImageSource::Archive { config, .. } => &config.runtime,
        };
        if let Err(why) = runtime.as_deref().map_or(Ok(()), runtime_check) {
            return refuse("runtime", why);
        }
        match &self.source {
            ImageSource::Registry { reference, .. } => reference
                .parse::<Reference>()
                .map(drop)
                .map_err(|error| ApiError::invalid("image_invalid", error.to_string())),
            ImageSource::Archive { reference: Some(reference), .. } if !good(reference) => {
                refuse("source.reference", format!("must have 1 to {MAX_IMAGE_CHARS} plain characters without spaces"))
            }
            ImageSource::Archive { .. } if self.name.is_none() => refuse("name", "is needed for an archive".to_owned()),
            ImageSource::Archive { config, .. }
                if serde_json::to_vec(config).map_or(usize::MAX, |text| text.len()) > MAX_ROW_BYTES =>
            {
                refuse("source.config", format!("must have at most {MAX_ROW_BYTES} bytes"))
            }
            ImageSource::Archive { .. } => Ok(()),
        }
    }

    /// Returns the name it goes by.
    pub fn name(&self) -> &str {
        match (&self.name, &self.source) {
            (Some(name), _) | (None, ImageSource::Registry { reference: name, .. }) => name,
            (None, ImageSource::Archive { .. }) => "",
        }
    }
}

/// Which images to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImageQuery {
    /// Only those of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only those in this state; none means all that were not removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub state: Option<ImageState>,
    /// Only those older than this one; a page's `next` goes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub after: Option<ImageId>,
    /// How many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// Whose; only an admin of the house may name another tenant than their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// What was dropped because no image needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageFreed {
    /// Blobs that the tenant does not have any more.
    pub blobs: u64,
    /// How long they are.
    pub bytes: u64,
}

/// A registry that a tenant has a credential for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Registry {
    /// Its host, with a port if it is not the usual one.
    pub host: String,
    /// The user shown there.
    pub user: String,
    /// When the credential was stored.
    pub created_at: Timestamp,
}

/// A credential for a registry; the secret is encrypted at rest and shown to nobody again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRegistry {
    /// The user to show.
    #[schema(min_length = 1, max_length = 256)]
    pub user: String,
    /// The password or token.
    #[schema(min_length = 1, max_length = 8192)]
    pub secret: String,
}

impl fmt::Debug for NewRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "credential of `{}`", self.user)
    }
}

impl NewRegistry {
    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<(), ApiError> {
        let good = |text: &str, max| (1..=max).contains(&text.len()) && !text.contains(['\0', '\n', '\r']);
        if good(&self.user, 4 * MAX_NAME_CHARS) && good(&self.secret, 8192) && !self.user.contains(':') {
            return Ok(());
        }
        Err(ApiError::invalid(
            "registry_invalid",
            "a credential is a user without `:` and a secret of one line".to_owned(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_goes_by_its_host() {
        let check = |reference: &str, host: &str| {
            let text = serde_json::json!({"kind": "registry", "reference": reference});
            let source: ImageSource = serde_json::from_value(text).expect("a source");
            assert_eq!(source.host().as_deref(), Some(host), "{reference}");
        };
        check("debian", "docker.io");
        check("someone/debian:12", "docker.io");
        check("localhost/debian", "localhost");
        check("Registry.Example.ORG:5000/a/b", "registry.example.org:5000");
    }
}
