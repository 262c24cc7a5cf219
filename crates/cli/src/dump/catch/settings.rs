//! What a machine that catches dumps is told: one file, since the kernel's pattern has no room for flags.
//!
//! Everything has a usual value, so that no file is needed.

use crate::dump::redaction::{LeftOut, left_out};
use crate::exit::Failure;
use clap::Args;
use serde::Deserialize;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the file is when nobody names one.
pub(crate) const USUAL_FILE: &str = "/etc/quarry/catch.toml";
/// Where caught dumps wait when nobody says.
pub(crate) const USUAL_SPOOL: &str = "/var/spool/quarry";
/// Bytes of the file.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// Dumps of one program that its window may be said to let through.
const MAX_RATE_COUNT: usize = 1_000;

/// What is known to hold no secrets, and tells where a process belongs.
const USUAL_ENVIRONMENT: [&str; 7] =
    ["LANG", "LC_ALL", "TZ", "container", "INVOCATION_ID", "RUST_BACKTRACE", "GOTRACEBACK"];

/// Which file to read.
#[derive(Args, Clone, Debug)]
pub(crate) struct SettingsArgs {
    /// The file of settings; without one everything is as usual
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where caught dumps wait, in place of what the file says
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
}

/// What is in it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where caught dumps wait.
    pub(crate) spool: PathBuf,
    /// Bytes that they may take there.
    pub(crate) spool_bytes_max: u64,
    /// Bytes that stay free on that file system.
    pub(crate) free_bytes_min: u64,
    /// Bytes of one dump, as the kernel writes it; what is longer is cut.
    pub(crate) dump_bytes_max: u64,
    /// How long a program that crashed may be held; what has not come by then is cut.
    pub(crate) deadline_ms: u64,
    /// Dumps of one program that are kept in each window.
    pub(crate) rate_count: usize,
    /// How long a window is.
    pub(crate) rate_window_ms: u64,
    /// Variables of the environment that are kept; a name that ends in `*` stands for all that begin so.
    pub(crate) environment: Vec<String>,
    /// Whether a program whose limit on cores is zero is left alone, as it would be without a handler.
    pub(crate) obey_core_limit: bool,
    /// The file of rules that says what is left out of dumps, beside this one unless it is a whole path.
    pub(crate) redact: Option<PathBuf>,
    /// What is in it.
    #[serde(skip)]
    pub(crate) left_out: LeftOut,
    /// Where dumps are sent.
    pub(crate) url: Option<String>,
    /// The file that holds the token to show there.
    pub(crate) token_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            spool: USUAL_SPOOL.into(),
            spool_bytes_max: 8 << 30,
            free_bytes_min: 1 << 30,
            dump_bytes_max: 64 << 30,
            deadline_ms: 60_000,
            rate_count: 5,
            rate_window_ms: 3_600_000,
            environment: USUAL_ENVIRONMENT.map(str::to_owned).to_vec(),
            obey_core_limit: false,
            redact: None,
            left_out: None,
            url: None,
            token_file: None,
        }
    }
}

impl SettingsArgs {
    /// Reads the settings.
    pub(crate) fn load(&self) -> anyhow::Result<Settings> {
        let mut settings = match &self.config {
            Some(path) => Settings::read(path)?,
            None if Path::new(USUAL_FILE).exists() => Settings::read(Path::new(USUAL_FILE))?,
            None => Settings::default(),
        };
        if let Some(spool) = &self.spool {
            settings.spool.clone_from(spool);
        }
        settings.spool = std::path::absolute(&settings.spool)?;
        Ok(settings)
    }

    /// Returns the words that lead another start of this program to the same settings.
    pub(crate) fn words(&self) -> anyhow::Result<Vec<String>> {
        let mut words = Vec::new();
        for (flag, path) in [("--config", &self.config), ("--spool", &self.spool)] {
            if let Some(path) = path {
                words.extend([flag.to_owned(), std::path::absolute(path)?.display().to_string()]);
            }
        }
        Ok(words)
    }
}

impl Settings {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let refuse = |why: String| Failure::usage("config_invalid", format!("`{}` {why}", path.display()));
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        file.take(MAX_FILE_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| refuse(format!("cannot be read: {error}")))?;
        let mut settings: Self =
            toml::from_str(&text).map_err(|error| refuse(format!("is not understood: {error}")))?;
        if settings.rate_count > MAX_RATE_COUNT {
            return Err(refuse(format!("says `rate_count` above {MAX_RATE_COUNT}")).into());
        }
        // Rules that cannot be read leave nothing out, so nothing is caught either.
        let rules = settings.redact.as_ref().map(|rules| left_out(&path.with_file_name(rules)));
        settings.left_out = rules.transpose()?;
        Ok(settings)
    }

    /// Returns how long a program that crashed may be held.
    pub(crate) const fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    /// Tells whether a variable of that name is kept.
    pub(crate) fn keeps(&self, name: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => pattern == name,
        };
        self.environment.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_refused_by_name() {
        let folder = tempfile::tempdir().expect("is made");
        let path = folder.path().join("catch.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("is written");
            Settings::read(&path).map_err(|error| error.to_string())
        };
        assert_eq!(read(""), Ok(Settings::default()));
        let some = read("rate_count = 2\nenvironment = [\"MY_*\"]").expect("is read");
        assert_eq!((some.rate_count, some.keeps("MY_WORD"), some.keeps("LANG")), (2, true, false));
        let error = read("rate_cuont = 2").expect_err("is refused");
        assert!(error.contains("rate_cuont"), "{error}");
        assert!(read("rate_count = 100000").is_err());
        assert!(read("redact = 'rules.toml'").expect_err("is refused").contains("rules.toml"));
        std::fs::write(folder.path().join("rules.toml"), "[environment]\nleave_out = ['A*']\n").expect("is written");
        let some = read("redact = 'rules.toml'").expect("is read");
        assert!(some.left_out.is_some_and(|rules| rules.leaves_out("abc") && !rules.leaves_out("b")));
    }
}
