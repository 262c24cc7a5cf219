//! A migration's text as the statements that it is made of, each run by itself, so that whoever waits for a large database
//! hears which one it is at.
//!
//! Splitting knows what our own texts are made of and no more: comments behind two dashes, texts in quotes, bodies between
//! dollar signs, and triggers that end in `END;`.

use jiff::SignedDuration;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long nothing need be heard.
const SILENCE: Duration = Duration::from_secs(5);

/// Returns the statements of a text, each with what stands before it.
pub(super) fn statements(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut begin, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        at += match rest.as_bytes()[0] {
            b'-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            b'\'' => rest[1..].find('\'').map_or(rest.len(), |end| end + 2),
            b'$' => body(rest),
            b';' if is_whole(&text[begin..at]) => {
                found.push(&text[begin..=at]);
                begin = at + 1;
                1
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
    if !is_empty(&text[begin..]) {
        found.push(&text[begin..]);
    }
    found
}

/// Returns how long what stands between two equal marks of dollar signs is, with them.
fn body(text: &str) -> usize {
    let Some(mark) = text[1..].find('$').map(|end| &text[..end + 2]) else { return text.len() };
    text[mark.len()..].find(mark).map_or(text.len(), |end| end + 2 * mark.len())
}

/// Tells whether a statement ends here: that of a trigger of SQLite holds others.
fn is_whole(statement: &str) -> bool {
    let code = code(statement);
    let is_open = code.starts_with("CREATE TRIGGER") && code.contains(" BEGIN");
    !is_open || code.trim_end().ends_with("END")
}

fn is_empty(statement: &str) -> bool {
    code(statement).trim().is_empty()
}

/// Returns a statement without the lines that only comment on it.
fn code(statement: &str) -> String {
    let lines = statement.lines().map(str::trim).filter(|line| !line.starts_with("--"));
    lines.collect::<Vec<_>>().join(" ").trim_start().to_owned()
}

/// How far a database's way from one schema to another is.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Its schema when it began; 0 if there was none, which is made in no time.
    from: i64,
    to: i64,
    begun: Instant,
    /// When it was last told, by whichever of its copies.
    told: Arc<Mutex<Instant>>,
    step: usize,
    steps: usize,
    name: &'static str,
}

impl Progress {
    /// Begins the way, and says so.
    pub(super) fn new(from: i64, to: i64, steps: usize) -> Self {
        let now = Instant::now();
        if from > 0 && from < to {
            tracing::info!(from, to, steps, "bringing the schema up to date; nothing is served before that is done");
        }
        Self { from, to, begun: now, told: Arc::new(Mutex::new(now)), step: 0, steps, name: "" }
    }

    /// Takes the next step.
    pub(super) fn step(&mut self, name: &'static str) {
        self.step += 1;
        self.name = name;
    }

    /// Says where it is, if nothing was heard for long.
    pub(super) fn tick(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= SILENCE {
            *told = Instant::now();
            let Self { step, steps, name, .. } = *self;
            tracing::info!(migration = name, step, steps, so_far = %self.so_far(), "still bringing the schema up to date");
        }
    }

    /// Returns how long until it should be asked again, for those who wait meanwhile.
    pub(super) const fn pause() -> Duration {
        SILENCE
    }

    /// Says that it is over.
    pub(super) fn end(&self) {
        if self.from > 0 && self.from < self.to {
            tracing::info!(schema = self.to, took = %self.so_far(), "the schema is up to date");
        }
    }

    fn so_far(&self) -> SignedDuration {
        SignedDuration::from_millis(i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_where_their_engines_end_them() {
        let check = |text: &str, expected: &[&str]| {
            let found = statements(text);
            let told: Vec<_> = found.iter().map(|statement| code(statement).trim().to_owned()).collect();
            assert_eq!(told, expected, "{text}");
        };
        check("", &[]);
        check("-- nothing; at all\n", &[]);
        check("A; B", &["A;", "B"]);
        check("A\n-- a word; or two\n;\nB;", &["A ;", "B;"]);
        check("A ';' 'it''s;'; B;", &["A ';' 'it''s;';", "B;"]);
        check(
            "CREATE FUNCTION f() AS $b$\nBEGIN\nX;\nEND\n$b$;\nB;",
            &["CREATE FUNCTION f() AS $b$ BEGIN X; END $b$;", "B;"],
        );
        check("CREATE TRIGGER t AFTER x BEGIN\nX;\nY;\nEND;\nB;", &["CREATE TRIGGER t AFTER x BEGIN X; Y; END;", "B;"]);
        check(
            "CREATE TRIGGER t AFTER x EXECUTE FUNCTION f(); B",
            &["CREATE TRIGGER t AFTER x EXECUTE FUNCTION f();", "B"],
        );
    }
}
