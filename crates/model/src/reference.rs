//! References: what people call an image in a registry, and what that means in full.

use crate::image::is_sha256;
use crate::limits::MAX_IMAGE_CHARS;
use std::fmt;
use std::str::FromStr;

/// Where names without a host lie.
const DEFAULT_HOST: &str = "docker.io";
/// Where that host keeps what nobody else keeps.
const DEFAULT_FOLDER: &str = "library";
/// Which of many is meant when nobody says.
const DEFAULT_TAG: &str = "latest";
/// Characters of a tag.
const MAX_TAG_CHARS: usize = 128;
/// Characters of a repository.
const MAX_REPOSITORY_CHARS: usize = 255;

/// An image in a registry, in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// A text that is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reference `{reference}` {why}")]
pub struct ReferenceError {
    reference: String,
    why: &'static str,
}

impl Reference {
    /// Returns the registry's host, with its port if it has one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the name within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the digest that pins it, if one does.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Returns what to ask the registry for: the digest, or else the tag.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or(DEFAULT_TAG)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|why| ReferenceError { reference: text.chars().take(100).collect(), why })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() || text.len() > MAX_IMAGE_CHARS {
        return Err("is empty or too long");
    }
    let (rest, digest) = match text.split_once('@') {
        None => (text, None),
        Some((rest, digest)) if is_sha256(digest) => (rest, Some(digest.to_owned())),
        Some(_) => return Err("has a digest that is not `sha256:` and 64 hexadecimal digits"),
    };
    let (host, path) = match rest.split_once('/') {
        Some((first, path)) if first.contains(['.', ':', '[']) || first == "localhost" => (first, path),
        _ => (DEFAULT_HOST, rest),
    };
    if !is_host(host) {
        return Err("has a host that is none");
    }
    let (name, tag) = match path.rsplit_once(':') {
        Some((name, tag)) if is_tag(tag) => (name, Some(tag.to_owned())),
        Some(_) => return Err("has a tag that is none"),
        None => (path, None),
    };
    if name.chars().any(|one| one.is_ascii_uppercase()) {
        return Err("has capital letters in its name, which no registry allows");
    }
    if name.len() > MAX_REPOSITORY_CHARS || !name.split('/').all(is_part) {
        return Err("has a name that no registry allows");
    }
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    let is_short = host == DEFAULT_HOST && !name.contains('/');
    let repository = if is_short { format!("{DEFAULT_FOLDER}/{name}") } else { name.to_owned() };
    let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
    Ok(Reference { host: host.to_owned(), repository, tag, digest })
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) if name.parse::<std::net::Ipv6Addr>().is_ok() => (None, port.strip_prefix(':')),
            _ => return false,
        },
        None => host.split_once(':').map_or((Some(host), None), |(name, port)| (Some(name), Some(port))),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|one| one.is_ascii_alphanumeric() || one == b'-')
    };
    name.is_none_or(|name| name.split('.').all(is_label))
        && port.is_none_or(|port| port.bytes().all(|one| one.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

fn is_tag(tag: &str) -> bool {
    (1..=MAX_TAG_CHARS).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|one| one.is_ascii_alphanumeric() || b"._-".contains(&one))
}

fn is_part(part: &str) -> bool {
    let is_letter = |one: u8| one.is_ascii_lowercase() || one.is_ascii_digit();
    let (first, last) = (part.bytes().next(), part.bytes().last());
    first.is_some_and(is_letter)
        && last.is_some_and(is_letter)
        && part.bytes().all(|one| is_letter(one) || b"._-".contains(&one))
        && !part.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_in_full_or_refused() {
        let hex = "0".repeat(64);
        let check = |text: &str, expected: Result<&str, &str>| match (text.parse::<Reference>(), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.to_string(), expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
            (found, _) => panic!("{text}: {found:?}"),
        };
        check("alpine", Ok("docker.io/library/alpine:latest"));
        check("alpine:3.20", Ok("docker.io/library/alpine:3.20"));
        check("me/tool", Ok("docker.io/me/tool:latest"));
        check("index.docker.io/alpine", Ok("docker.io/library/alpine:latest"));
        check("localhost/a", Ok("localhost/a:latest"));
        check("localhost:5000/a/b_c.d-e:v1", Ok("localhost:5000/a/b_c.d-e:v1"));
        check("[::1]:5000/a", Ok("[::1]:5000/a:latest"));
        check("ghcr.io/a/b/c", Ok("ghcr.io/a/b/c:latest"));
        check(&format!("alpine@sha256:{hex}"), Ok(&format!("docker.io/library/alpine@sha256:{hex}")));
        check(&format!("a.b/c:t@sha256:{hex}"), Ok(&format!("a.b/c:t@sha256:{hex}")));
        check("", Err("is empty"));
        check(&"a".repeat(600), Err("too long"));
        check("Alpine", Err("capital letters"));
        check("alpine@sha256:0", Err("a digest"));
        check("alpine@md5:0", Err("a digest"));
        check("alpine:", Err("a tag"));
        check("alpine:-x", Err("a tag"));
        check("a/../b", Err("a name"));
        check("a//b", Err("a name"));
        check("a b", Err("a name"));
        check("-.b/c", Err("a host"));
        check("a.b:99999/c", Err("a host"));
        check("a.b:/c", Err("a host"));
        check("user@host.x/c", Err("a digest"));
        check("a.b?x/c", Err("a host"));
    }
}
