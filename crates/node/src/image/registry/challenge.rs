//! Challenges: what a registry wants to be shown, as `WWW-Authenticate` words it.

/// One way to show oneself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token of a token service.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Returns the best of those offered that is understood.
    pub(super) fn choose(offered: &[&str]) -> Option<Self> {
        let mut read: Vec<_> = offered.iter().filter_map(|one| Self::read(one)).collect();
        read.sort_by_key(|one| *one == Self::Basic);
        read.into_iter().next()
    }

    fn read(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        let mut rest = rest;
        while let Some((key, after)) = rest.split_once('=') {
            let (value, after) = value(after)?;
            match key.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
            rest = after;
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// Reads a value, quoted or not, and returns what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return Some((text[..end].trim().to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut is_escaped = false;
    for (at, one) in quoted.char_indices() {
        match one {
            _ if is_escaped => {
                value.push(one);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => return Some((value, &quoted[at + 1..])),
            _ => value.push(one),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_or_passed_over() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) })
        };
        let check = |offered: &[&str], expected| assert_eq!(Challenge::choose(offered), expected, "{offered:?}");
        check(&["Basic realm=\"x\""], Some(Challenge::Basic));
        check(
            &["Bearer realm=\"https://a/token\",service=\"s\",scope=\"repository:a/b:pull,push\""],
            bearer("https://a/token", Some("s"), Some("repository:a/b:pull,push")),
        );
        check(&["basic", "bearer Realm=x, error=\"invalid\""], bearer("x", None, None));
        check(&["Bearer realm=\"a\\\"b\""], bearer("a\"b", None, None));
        check(&["Bearer service=\"s\""], None);
        check(&["Bearer realm=\"open"], None);
        check(&["Negotiate"], None);
        check(&[], None);
    }
}
