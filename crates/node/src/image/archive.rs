//! An archive that holds an image: a root folder, an OCI layout, or what `docker save` writes.
//!
//! The archive is unpacked by the confined child, as if it were a layer: if that is what it is, nothing is left to do.
//! Otherwise its documents are read from the folder, by names that cannot leave it and only as far as they are bounded.

use super::ImageError;
use super::document::{self, Configuration, Descriptor, Document};
use super::registry::{MAX_MANIFEST_BYTES, named, sha256};
use model::Digest;
use model::image::{ArchiveKind, Packing};
use model::limits::MAX_LAYERS;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Indexes within indexes.
const MAX_INDEXES: usize = 4;
/// Characters of the names of images that are listed to somebody who has to choose.
const MAX_LISTED_CHARS: usize = 300;
/// Characters of one of them: a digest is told whole.
const MAX_LISTED_NAME_CHARS: usize = 80;
/// Bytes copied at once.
const PIECE_BYTES: usize = 256 << 10;

/// What an archive was found to hold.
pub(super) enum Contents {
    /// A root folder.
    Root,
    /// An image whose layers lie in files.
    Image {
        /// The digest of its manifest.
        digest: String,
        configuration: Box<Configuration>,
        /// Its layers, lowest first.
        files: Vec<PathBuf>,
    },
}

/// A file, by all its names.
#[derive(Clone, Debug)]
pub(super) struct Hashed {
    pub(super) blob: Digest,
    pub(super) digest: String,
    pub(super) bytes: u64,
    pub(super) packing: Packing,
}

/// Looks at what was unpacked into a folder, and chooses the image that is meant.
pub(super) fn look(folder: &Path, kind: ArchiveKind, reference: Option<&str>) -> Result<Contents, ImageError> {
    let is_there = |name: &str| open(folder, Path::new(name)).is_ok();
    let kind = match kind {
        ArchiveKind::Auto if is_there("oci-layout") && is_there("index.json") => ArchiveKind::OciLayout,
        ArchiveKind::Auto if is_docker(folder) => ArchiveKind::DockerArchive,
        ArchiveKind::Auto => ArchiveKind::Root,
        named => named,
    };
    match kind {
        ArchiveKind::OciLayout => layout(folder, reference),
        ArchiveKind::DockerArchive => docker(folder, reference),
        ArchiveKind::Root | ArchiveKind::Auto => match reference {
            Some(_) => Err(ImageError::Archive("it is a root folder, in which no image has a name".to_owned())),
            None => Ok(Contents::Root),
        },
    }
}

/// Copies a file out of a folder and hashes it on the way.
pub(super) fn extract(folder: &Path, name: &Path, to: &Path) -> Result<Hashed, ImageError> {
    let input = open(folder, name).map_err(|error| absent(name, &error))?;
    let mut output = File::create(to).map_err(|error| ImageError::machine("a layer cannot be copied", error))?;
    pass(input, |piece| output.write_all(piece))
}

/// Hashes a file.
pub(super) fn hash(file: &Path) -> Result<Hashed, ImageError> {
    let input = File::open(file).map_err(|error| ImageError::machine("an archive cannot be read", error))?;
    pass(input, |_| Ok(()))
}

/// Tells how an archive is packed by its first bytes; what it is called proves nothing.
pub(super) fn packing(beginning: &[u8]) -> Packing {
    match beginning {
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zstd,
        _ => Packing::Tar,
    }
}

fn pass(mut input: File, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> Result<Hashed, ImageError> {
    let (mut sha256, mut blake3, mut bytes, mut found) = (Sha256::new(), blake3::Hasher::new(), 0, None);
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let count = input.read(&mut buffer).map_err(|error| ImageError::machine("an archive cannot be read", error))?;
        if count == 0 {
            let blob = Digest::from_bytes(*blake3.finalize().as_bytes());
            let packing = found.unwrap_or(Packing::Tar);
            return Ok(Hashed { blob, digest: named(&sha256.finalize()), bytes, packing });
        }
        let piece = &buffer[..count];
        found = found.or_else(|| Some(packing(piece)));
        sha256.update(piece);
        blake3.update(piece);
        bytes += count as u64;
        take(piece).map_err(|error| ImageError::machine("a layer cannot be copied", error))?;
    }
}

/// Opens a plain file beneath a folder. Links in an archive are followed as if the folder were the root of everything.
fn open(folder: &Path, name: &Path) -> io::Result<File> {
    let root = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Not to wait for whoever might write into a pipe.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = File::from(openat2(root, name, flags, Mode::empty(), resolve)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no plain file")) }
}

fn absent(name: &Path, error: &io::Error) -> ImageError {
    ImageError::Archive(format!("its `{}` cannot be read: {error}", name.display().to_string().escape_debug()))
}

fn read(folder: &Path, name: &Path) -> Result<Vec<u8>, ImageError> {
    let file = open(folder, name).map_err(|error| absent(name, &error))?;
    let mut text = Vec::new();
    file.take(MAX_MANIFEST_BYTES as u64 + 1).read_to_end(&mut text).map_err(|error| absent(name, &error))?;
    if text.len() > MAX_MANIFEST_BYTES {
        return Err(ImageError::Archive(format!("its `{}` has more than {MAX_MANIFEST_BYTES} bytes", name.display())));
    }
    Ok(text)
}

/// Returns where an OCI layout keeps a blob.
fn place(digest: &str) -> PathBuf {
    Path::new("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap_or_default())
}

fn read_blob(folder: &Path, digest: &str) -> Result<Vec<u8>, ImageError> {
    let text = read(folder, &place(digest))?;
    let found = sha256(&text);
    if found == digest {
        Ok(text)
    } else {
        Err(ImageError::Archive(format!("it lied about a digest: asked {digest}, got {found}")))
    }
}

fn layout(folder: &Path, reference: Option<&str>) -> Result<Contents, ImageError> {
    let mut text = read(folder, Path::new("index.json"))?;
    let mut digest = sha256(&text);
    for depth in 0..MAX_INDEXES {
        match document::document(&text).map_err(ImageError::Document)? {
            Document::Index(index) => {
                // Images have names in the outermost index only; further in they are one image for several machines.
                let chosen = if depth == 0 { meant(&index, reference)? } else { choose(&index)? };
                digest.clone_from(&chosen.digest);
                text = read_blob(folder, &digest)?;
            }
            Document::Manifest { config, layers } => {
                let configuration = read_blob(folder, &config.digest)?;
                let configuration = document::configuration(&configuration).map_err(ImageError::Document)?;
                let files = layers.iter().map(|layer| place(&layer.digest)).collect();
                return Ok(Contents::Image { digest, configuration: Box::new(configuration), files });
            }
        }
    }
    Err(ImageError::Archive("its indexes lead on and on".to_owned()))
}

/// Chooses the image of a layout that a name means; without one the only one for this machine.
fn meant<'a>(index: &'a [Descriptor], reference: Option<&str>) -> Result<&'a Descriptor, ImageError> {
    let is_named = |one: &Descriptor| {
        reference.is_none_or(|reference| one.digest == reference || one.names().any(|name| name == reference))
    };
    let named: Vec<_> = index.iter().filter(|one| is_named(one)).collect();
    let own = document::own_platform();
    let here: Vec<_> = named.iter().copied().filter(|one| one.may_be_for(&own)).collect();
    let names = || index.iter().map(|one| one.names().next().unwrap_or(&one.digest));
    match (here.as_slice(), named.as_slice()) {
        ([], []) if reference.is_some() => Err(absent_image(reference.unwrap_or_default(), names())),
        // None is for this machine, which is told with those that there are for others.
        ([], _) => choose(index),
        ([first, rest @ ..], _) if rest.iter().all(|one| one.digest == first.digest) => Ok(first),
        // One image under one name, for machines that are near to each other.
        ([first, ..], _) if here.iter().all(|one| one.has_platform() && one.names().eq(first.names())) => Ok(first),
        _ => Err(several(names())),
    }
}

fn several<'a>(names: impl Iterator<Item = &'a str>) -> ImageError {
    let names = listed(names);
    ImageError::Archive(format!("it holds several images: {names} (hint: `--reference` names the one that is meant)"))
}

fn absent_image<'a>(reference: &str, names: impl Iterator<Item = &'a str>) -> ImageError {
    let names = listed(names);
    ImageError::Archive(format!("it holds no image `{}`, only {names}", plain(reference)))
}

/// Writes names that somebody may choose from.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<_> = names.map(|name| format!("`{}`", plain(name))).collect();
    names.dedup();
    let mut chars = 0;
    let fits = |name: &&String| {
        chars += name.chars().count();
        chars <= MAX_LISTED_CHARS
    };
    let fitting = names.iter().take_while(fits).count();
    let more = names.len() - fitting;
    names.truncate(fitting);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    if names.is_empty() { "none that has a name".to_owned() } else { names.join(", ") + &more }
}

/// Writes a name, which is foreign, in few plain characters.
fn plain(name: &str) -> String {
    let plain: String = name.chars().filter(char::is_ascii_graphic).take(MAX_LISTED_NAME_CHARS).collect();
    if plain.len() < name.len() { plain + "…" } else { plain }
}

fn choose(index: &[Descriptor]) -> Result<&Descriptor, ImageError> {
    match index {
        [only] => Ok(only),
        _ => document::choose(index, &document::own_platform()).map_err(ImageError::Document),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: PathBuf,
    layers: Vec<PathBuf>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

fn saved(folder: &Path) -> Result<Vec<Saved>, ImageError> {
    let text = read(folder, Path::new("manifest.json"))?;
    serde_json::from_slice(&text)
        .map_err(|error| ImageError::Document(format!("`manifest.json` makes no sense: {error}")))
}

/// Tells a docker-archive from a root folder that happens to have a file of that name.
fn is_docker(folder: &Path) -> bool {
    saved(folder).is_ok_and(|saved| saved.first().is_some_and(|first| open(folder, &first.config).is_ok()))
}

fn docker(folder: &Path, reference: Option<&str>) -> Result<Contents, ImageError> {
    let saved = saved(folder)?;
    let tags = |one: &Saved| one.repo_tags.clone().unwrap_or_default();
    let is_named = |one: &&Saved| reference.is_none_or(|reference| tags(one).iter().any(|tag| tag == reference));
    let named: Vec<_> = saved.iter().filter(is_named).collect();
    let all: Vec<_> = saved.iter().flat_map(tags).collect();
    let names = all.iter().map(String::as_str);
    let only = match (named.as_slice(), reference) {
        ([only], _) => only,
        ([], Some(reference)) => return Err(absent_image(reference, names)),
        ([], None) => return Err(ImageError::Archive("it holds no image".to_owned())),
        _ => return Err(several(names)),
    };
    if only.layers.is_empty() || only.layers.len() > MAX_LAYERS {
        return Err(ImageError::Document(format!("an image has 1 to {MAX_LAYERS} layers, not {}", only.layers.len())));
    }
    let text = read(folder, &only.config)?;
    let digest = sha256(&text);
    let configuration = document::configuration(&text).map_err(ImageError::Document)?;
    Ok(Contents::Image { digest, configuration: Box::new(configuration), files: only.layers.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_saved_images_the_one_is_taken_that_is_named() {
        let folder = tempfile::tempdir().expect("is made");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("is written");
        let digest = format!("sha256:{}", "0".repeat(64));
        for (name, cmd) in [("a.json", "one"), ("b.json", "two")] {
            let config = format!(r#"{{"config":{{"Cmd":["{cmd}"]}},"rootfs":{{"diff_ids":["{digest}"]}}}}"#);
            write(name, &config);
        }
        let one = |config: &str, tags: &str| format!(r#"{{"Config":"{config}","Layers":["l"],"RepoTags":{tags}}}"#);
        let (first, second) = (one("a.json", r#"["me/one:1","me/one:latest"]"#), one("b.json", r#"["me/two:1"]"#));
        write("manifest.json", &format!("[{first},{second}]"));
        let check = |reference: Option<&str>, expected: Result<&str, &str>| match (
            docker(folder.path(), reference),
            expected,
        ) {
            (Ok(Contents::Image { configuration, .. }), Ok(cmd)) => assert_eq!(configuration.config.cmd, [cmd]),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, _) => panic!("{reference:?}: {:?}", found.err()),
        };
        check(Some("me/one:latest"), Ok("one"));
        check(Some("me/two:1"), Ok("two"));
        check(Some("me/two"), Err("it holds no image `me/two`, only `me/one:1`, `me/one:latest`, `me/two:1`"));
        check(None, Err("it holds several images: `me/one:1`, `me/one:latest`, `me/two:1` (hint: `--reference`"));
        write("manifest.json", &format!("[{}]", one("b.json", "null")));
        check(None, Ok("two"));
    }

    #[test]
    fn names_are_listed_in_few_plain_characters() {
        let names = vec![format!("\u{1b}[2J{}", "x".repeat(1_000)); 2];
        let mut names: Vec<_> = names.iter().map(String::as_str).collect();
        names.extend(["a"; 3]);
        assert_eq!(listed(names.into_iter()), format!("`[2J{}…`, `a`", "x".repeat(77)));
        let many: Vec<_> = (0..1_000).map(|number| number.to_string()).collect();
        let told = listed(many.iter().map(String::as_str));
        assert!(told.len() < 500 && told.ends_with(" more"), "{told}");
        assert_eq!(listed(std::iter::empty()), "none that has a name");
    }
}
