//! What is wrong with a configuration: each problem names its key, its place, and what to do about it.

use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// Problems that are reported at once; a file that is wrong from top to bottom need not fill the screen.
const MAX_PROBLEMS: usize = 50;
/// Characters of a value that a message repeats.
const MAX_SHOWN_CHARS: usize = 80;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A configuration file.
    File {
        /// Which file.
        path: PathBuf,
        /// Which line, where one can be told.
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<usize>,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        name: String,
    },
    /// A flag of the command line.
    Flag {
        /// As it was typed.
        name: String,
    },
}

impl Origin {
    /// Returns where among others it is told: files from top to bottom, then the rest as it came.
    fn rank(&self) -> (u8, usize) {
        match self {
            Self::File { line, .. } => (0, line.unwrap_or(0)),
            Self::Environment { .. } => (1, 0),
            Self::Flag { .. } => (2, 0),
            Self::Default => (3, 0),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Environment { name } | Self::Flag { name } => f.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// Makes a problem that is about no single key.
    pub(super) fn new(origin: Origin, message: impl Into<String>) -> Self {
        Self { key: None, origin, message: message.into(), hint: None }
    }

    /// Names the key.
    pub(super) fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds what to do about it.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(key) = &self.key {
            write!(f, "`{key}` ")?;
        }
        f.write_str(&self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// Everything that is wrong with a configuration; there is at least one problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}", self.lines())]
pub struct ConfigErrors {
    /// In the order of the sources, and of the lines in a file.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub omitted: usize,
}

impl ConfigErrors {
    fn lines(&self) -> String {
        let mut lines: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        if self.omitted > 0 {
            lines.push(format!("and {} more", self.omitted));
        }
        lines.join("\n")
    }
}

/// Gathers problems while the sources are read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
    omitted: usize,
}

impl Problems {
    /// Keeps one more problem, or only counts it; it is not even put into words when nobody will read it.
    pub(super) fn push(&mut self, problem: impl FnOnce() -> Problem) {
        if self.list.len() < MAX_PROBLEMS {
            self.list.push(problem());
        } else {
            self.omitted += 1;
        }
    }

    /// Tells whether a key already has a problem, so that nothing is said twice about it.
    pub(super) fn concern(&self, key: &str) -> bool {
        self.list.iter().any(|problem| problem.key.as_deref() == Some(key))
    }

    /// Returns the problems as an error, if there are any.
    pub(super) fn into_result(mut self) -> Result<(), ConfigErrors> {
        if self.list.is_empty() {
            return Ok(());
        }
        self.list.sort_by_key(|problem| problem.origin.rank());
        Err(ConfigErrors { problems: self.list, omitted: self.omitted })
    }
}

/// Returns a value as a message may repeat it: no control characters, not too long.
pub(super) fn excerpt(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars().take(MAX_SHOWN_CHARS) {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    if text.chars().nth(MAX_SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// Returns the known word that is most like `word`; there is always one, alike or not.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> &'a str {
    // A word that nobody would type by mistake need not be compared in full.
    let word: String = word.chars().take(MAX_SHOWN_CHARS).collect::<String>().to_ascii_lowercase();
    let likeness = |candidate: &str| {
        let candidate = candidate.to_ascii_lowercase();
        // `listen` means `server.listen`, however much shorter it is.
        let last = candidate.rsplit('.').next().unwrap_or(&candidate);
        let whole = strsim::normalized_damerau_levenshtein(&word, &candidate);
        let tail = strsim::normalized_damerau_levenshtein(word.rsplit('.').next().unwrap_or(&word), last);
        whole + tail
    };
    // The first of equals, so that the answer does not hang on chance.
    known.into_iter().reduce(|best, next| if likeness(next) > likeness(best) { next } else { best }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        let known = ["server.listen", "server.data", "store.pool_size", "rate.burst", "log.level", "log.modules.store"];
        let check = |word: &str, expected: &str| assert_eq!(nearest(word, known), expected, "{word}");
        check("server.lisen", "server.listen");
        check("listen", "server.listen");
        check("sevrer.data", "server.data");
        check("store.poolsize", "store.pool_size");
        check("Rate.Bursts", "rate.burst");
        check("log.modules.stroe", "log.modules.store");
        check("log.lvel", "log.level");
        assert_eq!(nearest("any", []), "");
    }

    #[test]
    fn excerpts_are_short_and_on_one_line() {
        assert_eq!(excerpt("a\n\"b\u{1b}[2J"), "a\\n\"b\\u{1b}[2J");
        assert_eq!(excerpt(&"x".repeat(1000)).chars().count(), MAX_SHOWN_CHARS + 1);
    }

    #[test]
    fn problems_beyond_the_limit_are_counted() {
        let mut problems = Problems::default();
        for _ in 0..MAX_PROBLEMS + 3 {
            problems.push(|| Problem::new(Origin::Default, "is wrong").key("a.b"));
        }
        let errors = problems.into_result().expect_err("there are problems");
        assert_eq!((errors.problems.len(), errors.omitted), (MAX_PROBLEMS, 3));
        assert!(errors.to_string().ends_with("default: `a.b` is wrong\nand 3 more"), "{errors}");
    }
}
