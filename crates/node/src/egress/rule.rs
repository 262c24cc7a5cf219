//! Rules: whom a sandbox may reach, one line each: `host`, `*.domain`, `*`, `address` or `address/bits`, and maybe `:port`.
//!
//! A rule that can never be met, because all it names is forbidden, is refused when it is read. Rules only ever open.

use super::address::{Range, Sort, sort};
use std::net::IpAddr;

/// Characters of one name, as DNS counts them without the last dot.
pub(crate) const MAX_NAME_CHARS: usize = 253;
/// Characters between two dots of a name.
const MAX_LABEL_CHARS: usize = 63;

/// Why a rule cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Its port is not a number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// Its range has more bits than its address, or no number at all.
    #[error("its range is not an address and a number of bits")]
    Range,
    /// It is neither a name nor an address.
    #[error(
        "it is neither a name nor an address; write `host`, `*.domain`, `address` or `address/bits`, and maybe `:port`"
    )]
    Name,
    /// All it names is never reachable.
    #[error("no sandbox may reach what it names")]
    Forbidden,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    whom: Whom,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Whom {
    /// Whoever has a name.
    Anyone,
    /// The host of this name.
    Name(String),
    /// All hosts below this domain; it begins with a dot.
    Below(String),
    /// All addresses of a range.
    Range(Range),
}

impl Rule {
    /// Reads a rule.
    pub(crate) fn parse(text: &str) -> Result<Self, RuleError> {
        if let Some((address, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
            let range = range(address)?;
            let port = rest.strip_prefix(':').map(port).transpose()?;
            return if rest.is_empty() || port.is_some() { Self::of_range(range, port) } else { Err(RuleError::Port) };
        }
        if let Some((address, rest)) = text.split_once('/') {
            let (bits, port) = with_port(rest)?;
            return Self::of_range(range(&format!("{address}/{bits}"))?, port);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Self::of_range(Range::one(address), None);
        }
        let (host, port) = with_port(text)?;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Self::of_range(Range::one(address), port);
        }
        Ok(Self { whom: whom(host)?, port })
    }

    fn of_range(range: Range, port: Option<u16>) -> Result<Self, RuleError> {
        let is_met_by_somebody = range.sort() != Sort::Forbidden;
        is_met_by_somebody.then_some(Self { whom: Whom::Range(range), port }).ok_or(RuleError::Forbidden)
    }

    /// Returns the port it opens, `None` for all of them.
    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether it covers this name, which is in lower case and has no last dot.
    pub(crate) fn covers_name(&self, name: &str) -> bool {
        match &self.whom {
            Whom::Anyone => true,
            Whom::Name(host) => host == name,
            Whom::Below(domain) => name.len() > domain.len() && name.ends_with(domain.as_str()),
            Whom::Range(_) => false,
        }
    }

    /// Whether it covers this address by its number. A wide range covers no private address: it was hardly meant to.
    pub(crate) fn covers_address(&self, address: IpAddr) -> bool {
        let Whom::Range(range) = &self.whom else { return false };
        let is_meant = match sort(address) {
            Sort::Forbidden => false,
            Sort::Private => range.sort() == Sort::Private,
            Sort::Public => true,
        };
        is_meant && range.holds(address)
    }

    /// Whether it names exactly this address.
    pub(crate) fn is_for(&self, address: IpAddr) -> bool {
        matches!(&self.whom, Whom::Range(range) if range.is_one() && range.holds(address))
    }
}

/// Splits a port from what stands before it.
fn with_port(text: &str) -> Result<(&str, Option<u16>), RuleError> {
    match text.rsplit_once(':') {
        Some((rest, number)) => Ok((rest, Some(port(number)?))),
        None => Ok((text, None)),
    }
}

fn port(text: &str) -> Result<u16, RuleError> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port > 0).ok_or(RuleError::Port)
}

fn range(text: &str) -> Result<Range, RuleError> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().map_err(|_| RuleError::Name)?;
    match bits {
        Some(bits) => Range::new(address, bits.parse().map_err(|_| RuleError::Range)?).ok_or(RuleError::Range),
        None => Ok(Range::one(address)),
    }
}

fn whom(host: &str) -> Result<Whom, RuleError> {
    if host == "*" {
        return Ok(Whom::Anyone);
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if let Some(domain) = host.strip_prefix("*.") {
        return if is_name(domain) { Ok(Whom::Below(format!(".{domain}"))) } else { Err(RuleError::Name) };
    }
    if is_name(&host) { Ok(Whom::Name(host)) } else { Err(RuleError::Name) }
}

/// Whether a text can be a name; one whose last label is a number would be taken for an address by some.
pub(crate) fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL_CHARS).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let has_word_last = text.rsplit('.').next().is_some_and(|label| !label.bytes().all(|byte| byte.is_ascii_digit()));
    text.len() <= MAX_NAME_CHARS && text.split('.').all(is_label) && has_word_last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(rule: &str, name: &str, expected: bool) {
        assert_eq!(Rule::parse(rule).unwrap().covers_name(name), expected, "{rule} {name}");
    }

    fn address(rule: &str, address: &str, expected: bool) {
        assert_eq!(Rule::parse(rule).unwrap().covers_address(address.parse().unwrap()), expected, "{rule} {address}");
    }

    fn refused(rule: &str, expected: RuleError) {
        assert_eq!(Rule::parse(rule), Err(expected), "{rule}");
    }

    #[test]
    fn names_are_covered() {
        name("Example.TEST", "example.test", true);
        name("example.test.", "example.test", true);
        name("example.test:80", "example.test", true);
        name("example.test", "www.example.test", false);
        name("example.test", "badexample.test", false);
        name("*.example.test", "www.example.test", true);
        name("*.example.test", "a.b.example.test", true);
        name("*.example.test:443", "example.test", false);
        name("*.example.test", "badexample.test", false);
        name("*:443", "whatever.org", true);
        name("8.8.8.8", "8.8.8.8", false);
        assert_eq!(Rule::parse("example.test:80").unwrap().port(), Some(80));
        assert_eq!(Rule::parse("example.test").unwrap().port(), None);
    }

    #[test]
    fn addresses_are_covered() {
        address("8.8.8.8", "8.8.8.8", true);
        address("8.8.8.8:53", "8.8.8.9", false);
        address("8.8.8.0/24:53", "8.8.8.9", true);
        address("0.0.0.0/0", "8.8.8.8", true);
        address("0.0.0.0/0", "192.168.1.1", false);
        address("10.0.0.0/8", "10.1.2.3", true);
        address("10.0.0.0/8", "10.0.2.3", false);
        address("192.168.1.1:80", "192.168.1.1", true);
        address("192.0.0.0/8", "192.168.1.1", false);
        address("[2001:db8::1]:80", "2001:db8::1", true);
        address("[2001:db8::/32]:80", "2001:db8::2", true);
        address("2001:db8::/32:80", "2001:db8::2", true);
        address("2001:db8::1", "2001:db8::1", true);
        address("::/0", "fe80::1", false);
        address("::/0", "2606::1", true);
        address("example.test", "8.8.8.8", false);
        assert!(Rule::parse("192.168.1.1:80").unwrap().is_for("192.168.1.1".parse().unwrap()));
        assert!(!Rule::parse("192.168.1.0/31").unwrap().is_for("192.168.1.1".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_refused() {
        for rule in ["", "*.", ".", "a..b", "-/-", "*.*.example.test", "exa mple", "1.2.3", "300.1.1.1", "fd00::zz:80"]
        {
            assert!(Rule::parse(rule).is_err(), "{rule}");
        }
        for rule in ["a.test:", "a.test:0", "a.test:65536", "a.test:+80", "8.8.8.8:x", "[2001:db8::1]80"] {
            refused(rule, RuleError::Port);
        }
        for rule in ["8.8.8.8/33", "8.8.8.8/", "2001:db8::/129"] {
            refused(rule, RuleError::Range);
        }
        for rule in ["127.0.0.1:80", "127.0.0.0/8", "169.254.169.254", "::1", "fe80::/10", "[::ffff:1.2.3.4]:80"] {
            refused(rule, RuleError::Forbidden);
        }
        refused(&format!("{}.test", "a".repeat(64)), RuleError::Name);
        refused(&vec!["a".repeat(60); 5].join("."), RuleError::Name);
    }
}
