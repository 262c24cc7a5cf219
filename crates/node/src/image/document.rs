//! The JSON documents of an image, of OCI and of Docker: indexes, manifests and configurations. All of it is foreign and
//! bounded before it gets here; what is not understood is passed over, what is needed and missing is named.

use model::image::{ImageConfig, Platform, is_sha256};
use model::limits::MAX_LAYERS;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Entries of one index.
const MAX_INDEX: usize = 1_024;
/// Where an index notes what an image in it is called: its tag, and its whole name as containerd writes it.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

/// A document that is named by another.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) digest: String,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    platform: Option<DescribedPlatform>,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// Returns the names that it has where it stands: a tag, and the whole of a name if its maker noted one.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let annotations = self.annotations.iter();
        annotations.flat_map(|all| NAMES.iter().filter_map(|name| all.get(*name))).map(String::as_str)
    }

    /// Tells whether it says for which machine it is.
    pub(super) fn has_platform(&self) -> bool {
        self.platform.is_some()
    }

    /// Tells whether it may be for a machine: it says so, or says nothing of machines.
    pub(super) fn may_be_for(&self, wanted: &Platform) -> bool {
        self.platform.as_ref().is_none_or(|found| found.is_for(wanted))
    }
}

impl DescribedPlatform {
    fn is_for(&self, wanted: &Platform) -> bool {
        let variant = |variant: Option<&str>| match variant {
            // The only variant that this processor has.
            None if self.architecture == "arm64" => Some("v8".to_owned()),
            variant => variant.map(str::to_owned),
        };
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (wanted.variant.is_none() || variant(self.variant.as_deref()) == variant(wanted.variant.as_deref()))
    }
}

#[derive(Clone, Debug, Deserialize)]
struct DescribedPlatform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyDocument {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// What a name leads to.
#[derive(Debug)]
pub(super) enum Document {
    /// Images for several machines.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest { config: Descriptor, layers: Vec<Descriptor> },
}

/// What a configuration says.
#[derive(Debug)]
pub(super) struct Configuration {
    pub(super) platform: Platform,
    pub(super) config: ImageConfig,
    pub(super) diff_ids: Vec<String>,
}

/// Reads an index or a manifest.
pub(super) fn document(text: &[u8]) -> Result<Document, String> {
    let any: AnyDocument =
        serde_json::from_slice(text).map_err(|error| format!("the manifest makes no sense: {error}"))?;
    if any.schema_version == 1 {
        return Err(
            "the manifest is of the first version, which nobody writes any more; push the image again".to_owned()
        );
    }
    let found = match (any.manifests, any.config, any.layers) {
        (Some(manifests), None, None) if manifests.len() <= MAX_INDEX => Document::Index(manifests),
        (None, Some(config), Some(layers)) if layers.is_empty() || layers.len() > MAX_LAYERS => {
            drop(config);
            return Err(format!("an image has 1 to {MAX_LAYERS} layers, not {}", layers.len()));
        }
        (None, Some(config), Some(layers)) => Document::Manifest { config, layers },
        _ => return Err("the manifest is neither that of an image nor an index of some".to_owned()),
    };
    let all = match &found {
        Document::Index(manifests) => manifests.iter().collect::<Vec<_>>(),
        Document::Manifest { config, layers } => layers.iter().chain([config]).collect(),
    };
    match all.iter().find(|one| !is_sha256(&one.digest)) {
        Some(one) => Err(format!("`{}` is no SHA-256 digest", one.digest.escape_debug().take(100).collect::<String>())),
        None => Ok(found),
    }
}

/// Chooses the image for a machine from an index.
pub(super) fn choose<'a>(index: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, String> {
    let chosen = index.iter().find(|one| one.platform.as_ref().is_some_and(|found| found.is_for(wanted)));
    if let Some(chosen) = chosen {
        return Ok(chosen);
    }
    // An archive with one image often does not say for which machine it is; its configuration does.
    if let [only] = index
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let named = index.iter().filter_map(|one| one.platform.as_ref()).filter(|one| one.os != "unknown").map(|one| {
        let variant = one.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
        format!("{}/{}{variant}", one.os, one.architecture)
    });
    let named: Vec<_> =
        named.take(20).map(|one| one.chars().filter(char::is_ascii_graphic).take(60).collect::<String>()).collect();
    Err(format!(
        "the image is not there for {wanted}, only for {}",
        if named.is_empty() { "nothing that is named".to_owned() } else { named.join(", ") }
    ))
}

/// Tells whether a layer is packed in a way that nobody here can open.
pub(super) fn is_locked(layer: &Descriptor) -> bool {
    layer.media_type.contains("encrypted")
}

/// Reads a configuration.
pub(super) fn configuration(text: &[u8]) -> Result<Configuration, String> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        os: String,
        #[serde(default)]
        architecture: String,
        #[serde(default)]
        variant: Option<String>,
        #[serde(default)]
        config: Option<Settings>,
        rootfs: Root,
    }
    #[derive(Deserialize)]
    struct Root {
        diff_ids: Vec<String>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Settings {
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
        env: Option<Vec<String>>,
        working_dir: Option<String>,
        user: Option<String>,
        labels: Option<BTreeMap<String, String>>,
    }
    let file: File =
        serde_json::from_slice(text).map_err(|error| format!("the image's configuration makes no sense: {error}"))?;
    let settings = file.config.unwrap_or_default();
    let pairs = settings.env.unwrap_or_default();
    let pair = |pair: &String| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    if let Some(bad) = file.rootfs.diff_ids.iter().find(|one| !is_sha256(one)) {
        return Err(format!("`{}` is no SHA-256 digest", bad.escape_debug().take(100).collect::<String>()));
    }
    Ok(Configuration {
        platform: Platform {
            os: given(Some(file.os)).unwrap_or_else(|| own_platform().os),
            architecture: given(Some(file.architecture)).unwrap_or_else(|| own_platform().architecture),
            variant: given(file.variant),
        },
        config: ImageConfig {
            entrypoint: settings.entrypoint.unwrap_or_default(),
            cmd: settings.cmd.unwrap_or_default(),
            env: pairs.iter().filter_map(pair).collect(),
            cwd: given(settings.working_dir),
            user: given(settings.user),
            runtime: None,
            labels: settings.labels.unwrap_or_default(),
        },
        diff_ids: file.rootfs.diff_ids,
    })
}

/// Puts what an order sets in place of what an archive says.
pub(super) fn overridden(found: ImageConfig, order: &ImageConfig) -> ImageConfig {
    let list = |order: &Vec<String>, found| if order.is_empty() { found } else { order.clone() };
    let map = |order: &BTreeMap<_, _>, found| if order.is_empty() { found } else { order.clone() };
    ImageConfig {
        entrypoint: list(&order.entrypoint, found.entrypoint),
        cmd: list(&order.cmd, found.cmd),
        env: map(&order.env, found.env),
        cwd: order.cwd.clone().or(found.cwd),
        user: order.user.clone().or(found.user),
        runtime: order.runtime.clone().or(found.runtime),
        labels: map(&order.labels, found.labels),
    }
}

/// Returns this machine's platform, by the words that registries use.
pub(super) fn own_platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

    #[test]
    fn documents_are_read_or_refused() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let text = text.replace("HEX", HEX);
            match (document(text.as_bytes()), expected) {
                (Ok(Document::Index(_)), Ok("index")) | (Ok(Document::Manifest { .. }), Ok("manifest")) => {}
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        check(r#"{"schemaVersion":2,"manifests":[{"digest":"HEX","size":1}]}"#, Ok("index"));
        check(r#"{"schemaVersion":2,"config":{"digest":"HEX"},"layers":[{"digest":"HEX"}]}"#, Ok("manifest"));
        check(r#"{"schemaVersion":2,"config":{"digest":"HEX"},"layers":[]}"#, Err("layers, not 0"));
        check(r#"{"schemaVersion":1,"fsLayers":[]}"#, Err("first version"));
        check(r#"{"schemaVersion":2}"#, Err("neither"));
        check(r#"{"schemaVersion":2,"manifests":[{"digest":"sha512:00"}]}"#, Err("no SHA-256"));
        check(r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:../../etc"}]}"#, Err("no SHA-256"));
        check(&format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)), Err("makes no sense"));
        check("<html>", Err("makes no sense"));
        let many = vec![r#"{"digest":"HEX"}"#; 129].join(",");
        check(
            &format!(r#"{{"schemaVersion":2,"config":{{"digest":"HEX"}},"layers":[{many}]}}"#),
            Err("layers, not 129"),
        );
    }

    #[test]
    fn an_image_is_chosen_by_machine() {
        let one = |os: &str, architecture: &str, variant: Option<&str>| Descriptor {
            digest: format!("{os}/{architecture}/{}", variant.unwrap_or_default()),
            size: 0,
            platform: Some(DescribedPlatform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: variant.map(str::to_owned),
            }),
            media_type: String::new(),
            annotations: None,
        };
        let index = [
            one("unknown", "unknown", None),
            one("linux", "arm", Some("v6")),
            one("linux", "arm", Some("v7")),
            one("linux", "arm64", None),
            one("linux", "amd64", None),
        ];
        let check = |os: &str, architecture: &str, variant: Option<&str>, expected: Result<&str, &str>| {
            let variant = variant.map(str::to_owned);
            let wanted = Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant };
            match (choose(&index, &wanted), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.digest, expected),
                (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
                (found, _) => panic!("{wanted}: {found:?}"),
            }
        };
        check("linux", "amd64", None, Ok("linux/amd64/"));
        check("linux", "arm", Some("v7"), Ok("linux/arm/v7"));
        check("linux", "arm", None, Ok("linux/arm/v6"));
        check("linux", "arm64", Some("v8"), Ok("linux/arm64/"));
        check("linux", "s390x", None, Err("not there for linux/s390x, only for linux/arm/v6, linux/arm/v7"));
        check("windows", "amd64", None, Err("not there for windows/amd64"));
    }

    #[test]
    fn a_configuration_is_read_with_its_holes() {
        let text = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{HEX}"]}},
               "config":{{"Cmd":null,"Entrypoint":["/e"],"Env":["A=b=c","bare"],"WorkingDir":"","User":"7:8"}}}}"#
        );
        let found = configuration(text.as_bytes()).expect("it is read");
        assert_eq!(found.config.entrypoint, ["/e"]);
        assert_eq!(found.config.env, BTreeMap::from([("A".to_owned(), "b=c".to_owned())]));
        assert_eq!((found.config.cwd, found.config.user.as_deref()), (None, Some("7:8")));
        assert!(configuration(br#"{"config":{}}"#).is_err());
        assert!(configuration(br#"{"rootfs":{"diff_ids":["../../x"]}}"#).is_err());
    }
}
