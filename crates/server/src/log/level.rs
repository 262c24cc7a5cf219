//! The level of each module: what the configuration says, what was changed for good, and what was changed for a time.

use crate::config::nearest;
use jiff::{SignedDuration, Timestamp};
use model::error::ApiError;
use model::limits::MAX_LEVEL_LIFE;
use model::log::{LogChange, LogLevel, LogLevels};
use std::collections::BTreeMap;
use tracing::level_filters::LevelFilter as TracingFilter;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The modules that have a level, and a file when the log is split; the last one is everything foreign.
pub(crate) const MODULES: [&str; 9] = ["model", "store", "server", "client", "node", "sandbox", "dump", "cli", OTHER];
const OTHER: &str = "other";
/// The target of the command line's crate, whose binary has another name.
const BINARY: &str = "quarry";
/// Spans up to this level are kept whatever a module's level is: they carry the request id that a line needs.
const SPAN_LEVEL: Level = Level::INFO;

/// Returns the position among `MODULES` of the module that a target belongs to.
pub(super) fn module_of(target: &str) -> usize {
    let first = target.split("::").next().unwrap_or(target);
    let name = if first == BINARY { "cli" } else { first };
    MODULES.iter().position(|module| *module == name).unwrap_or(MODULES.len() - 1)
}

/// Returns our word for a level.
pub(super) fn level_of(level: Level) -> LogLevel {
    match level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG => LogLevel::Debug,
        Level::TRACE => LogLevel::Trace,
    }
}

/// What has a level: a module, or everything that has none of its own.
type Subject = Option<&'static str>;

/// The levels and how they came to be.
#[derive(Clone, Debug)]
pub(super) struct Levels {
    default: LogLevel,
    /// For good.
    lasting: BTreeMap<&'static str, LogLevel>,
    /// For a time, over whatever lasts.
    passing: BTreeMap<Subject, (LogLevel, Timestamp)>,
}

impl Levels {
    /// Begins with what the configuration says; it names no module that there is not.
    pub(super) fn new(default: LogLevel, modules: &BTreeMap<String, LogLevel>) -> Self {
        let known = |(name, level): (&String, &LogLevel)| Some((module_named(name)?, *level));
        Self { default, lasting: modules.iter().filter_map(known).collect(), passing: BTreeMap::new() }
    }

    /// Changes levels, all that are named or none.
    pub(super) fn change(&mut self, change: &LogChange, now: Timestamp) -> Result<(), ApiError> {
        let mut wanted: Vec<(Subject, LogLevel)> = change.default.map(|level| (None, level)).into_iter().collect();
        for (name, level) in &change.modules {
            wanted.push((Some(module_named(name).ok_or_else(|| unknown(name))?), *level));
        }
        if wanted.is_empty() {
            let error = ApiError::invalid("log_change_invalid", "the change names no level");
            return Err(error.with_hint("give `default`, or a level for one of the `modules`"));
        }
        let until = change.seconds.map(|seconds| until(now, seconds)).transpose()?;
        for (subject, level) in wanted {
            match (until, subject) {
                (Some(until), _) => drop(self.passing.insert(subject, (level, until))),
                (None, Some(module)) => {
                    self.passing.remove(&subject);
                    self.lasting.insert(module, level);
                }
                (None, None) => {
                    self.passing.remove(&subject);
                    self.default = level;
                }
            }
        }
        Ok(())
    }

    /// Takes back what was changed for a time that is over, and tells whether there was anything.
    pub(super) fn restore(&mut self, now: Timestamp) -> bool {
        let before = self.passing.len();
        self.passing.retain(|_, (_, until)| *until > now);
        self.passing.len() != before
    }

    /// Returns when the next level comes back.
    pub(super) fn next_restore(&self) -> Option<Timestamp> {
        self.passing.values().map(|(_, until)| *until).min()
    }

    /// Returns the levels as everybody sees them.
    pub(super) fn shown(&self) -> LogLevels {
        let default = self.default_now();
        let differing = |module: &'static str| Some((module.to_owned(), self.own(module)?));
        let modules = MODULES.into_iter().filter_map(differing).filter(|(_, level)| *level != default).collect();
        LogLevels { default, modules, until: self.passing.values().map(|(_, until)| *until).max() }
    }

    /// Returns the levels in the form that decides about lines.
    pub(super) fn filter(&self) -> LevelFilter {
        LevelFilter(MODULES.map(|module| tracing_filter(self.own(module).unwrap_or_else(|| self.default_now()))))
    }

    fn default_now(&self) -> LogLevel {
        self.passing.get(&None).map_or(self.default, |(level, _)| *level)
    }

    fn own(&self, module: &'static str) -> Option<LogLevel> {
        let passing = self.passing.get(&Some(module)).map(|(level, _)| *level);
        passing.or_else(|| self.lasting.get(module).copied())
    }
}

fn module_named(name: &str) -> Option<&'static str> {
    MODULES.into_iter().find(|module| *module == name)
}

fn unknown(name: &str) -> ApiError {
    let shown: String = name.chars().take(64).collect();
    let message = format!("log module `{shown}` is none of: {}", MODULES.join(", "));
    ApiError::invalid("log_module_unknown", message)
        .with_hint(format!("the nearest one is `{}`", nearest(name, MODULES)))
}

fn until(now: Timestamp, seconds: u64) -> Result<Timestamp, ApiError> {
    let most = MAX_LEVEL_LIFE.as_secs();
    let refuse = || {
        let message = format!("`seconds` is {seconds}; levels are changed for 1 to {most} seconds");
        ApiError::invalid("log_change_invalid", message).with_hint("leave `seconds` out to change them for good")
    };
    let life = i64::try_from(seconds).ok().filter(|_| (1..=most).contains(&seconds)).ok_or_else(refuse)?;
    now.checked_add(SignedDuration::from_secs(life)).map_err(|_| refuse())
}

fn tracing_filter(level: LogLevel) -> TracingFilter {
    match level {
        LogLevel::Off => TracingFilter::OFF,
        LogLevel::Error => TracingFilter::ERROR,
        LogLevel::Warn => TracingFilter::WARN,
        LogLevel::Info => TracingFilter::INFO,
        LogLevel::Debug => TracingFilter::DEBUG,
        LogLevel::Trace => TracingFilter::TRACE,
    }
}

/// Decides which lines are written, by module and level.
#[derive(Clone, Debug)]
pub(super) struct LevelFilter([TracingFilter; MODULES.len()]);

impl LevelFilter {
    fn passes(&self, metadata: &Metadata<'_>) -> bool {
        let kept = metadata.is_span() && *metadata.level() <= SPAN_LEVEL;
        kept || *metadata.level() <= self.0[module_of(metadata.target())]
    }
}

impl<S: Subscriber> Layer<S> for LevelFilter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // A callsite's module and level never change, so the answer holds until the filter is replaced.
        if self.passes(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.passes(metadata)
    }

    fn max_level_hint(&self) -> Option<TracingFilter> {
        self.0.iter().copied().chain([SPAN_LEVEL.into()]).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a valid second")
    }

    fn change(words: &[(&str, LogLevel)], seconds: Option<u64>) -> LogChange {
        let default = words.iter().find(|(name, _)| *name == "*").map(|(_, level)| *level);
        let named = words.iter().filter(|(name, _)| *name != "*");
        LogChange { default, modules: named.map(|(name, level)| ((*name).to_owned(), *level)).collect(), seconds }
    }

    fn shown(levels: &Levels) -> String {
        let shown = levels.shown();
        let modules: String = shown.modules.iter().map(|(name, level)| format!(" {name}={}", level.as_str())).collect();
        let until = shown.until.map_or_else(String::new, |until| format!(" until {}", until.as_second()));
        format!("{}{modules}{until}", shown.default.as_str())
    }

    #[test]
    fn targets_belong_to_modules() {
        let check = |target: &str, module: &str| assert_eq!(MODULES[module_of(target)], module, "{target}");
        check("store", "store");
        check("store::change", "store");
        check("stores::change", "other");
        check("quarry::login", "cli");
        check("cli", "cli");
        check("hyper::proto", "other");
        check("", "other");
    }

    #[test]
    fn changes_last_or_pass() {
        use LogLevel::{Debug, Info, Off, Trace, Warn};
        let mut levels = Levels::new(Info, &BTreeMap::from([("node".to_owned(), Warn)]));
        assert_eq!(shown(&levels), "info node=warn");
        let mut step = |words: &[(&str, LogLevel)], seconds, now, expected: &str| {
            levels.change(&change(words, seconds), at(now)).expect(expected);
            assert_eq!(shown(&levels), expected);
        };
        step(&[("store", Debug)], Some(60), 0, "info node=warn store=debug until 60");
        // For good, while the other one still passes.
        step(&[("server", Trace)], None, 1, "info node=warn server=trace store=debug until 60");
        step(&[("*", Off)], Some(10), 2, "off node=warn server=trace store=debug until 60");
        // What is said for good ends what was said for a time.
        step(&[("node", Info)], None, 3, "off node=info server=trace store=debug until 60");
        assert_eq!(levels.next_restore(), Some(at(12)));
        assert!(!levels.restore(at(11)));
        assert!(levels.restore(at(12)));
        assert_eq!(shown(&levels), "info server=trace store=debug until 60");
        assert!(levels.restore(at(1000)));
        assert_eq!((shown(&levels).as_str(), levels.next_restore()), ("info server=trace", None));
    }

    #[test]
    fn a_wrong_change_changes_nothing() {
        let mut levels = Levels::new(LogLevel::Info, &BTreeMap::new());
        let mut check = |words: &[(&str, LogLevel)], seconds, code: &str, text: &str| {
            let error = levels.change(&change(words, seconds), at(0)).expect_err(text);
            let said = format!("{} {}", error.message, error.hint.unwrap_or_default());
            assert!(error.code == code && said.contains(text), "{}: {said}", error.code);
            assert_eq!(shown(&levels), "info");
        };
        let debug = LogLevel::Debug;
        check(&[], None, "log_change_invalid", "names no level");
        check(&[], Some(5), "log_change_invalid", "names no level");
        check(&[("stroe", debug)], None, "log_module_unknown", "the nearest one is `store`");
        check(
            &[("*", debug), ("server", debug), ("zzz", debug)],
            None,
            "log_module_unknown",
            "`zzz` is none of: model,",
        );
        check(&[("store", debug)], Some(0), "log_change_invalid", "1 to 604800 seconds");
        check(&[("store", debug)], Some(604_801), "log_change_invalid", "1 to 604800 seconds");
        check(&[("store", debug)], Some(u64::MAX), "log_change_invalid", "1 to 604800 seconds");
    }
}
