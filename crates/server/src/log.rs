//! What the server writes about itself: text or JSON, in one stream or in a file per module, each module at its level.
//!
//! A module is one of our crates, known by the first part of an event's target; everything foreign is `other`. Whoever
//! says a line also writes it, under one lock per file: nothing waits in memory, so nothing piles up and nothing is lost
//! when the process ends. A line that cannot be written is counted, and the count is written once lines go through again.
//!
//! Levels changed for a time come back by themselves as long as somebody awaits [`Log::run`]. What is logged through the
//! `log` crate instead of `tracing` is not seen.

mod level;
mod line;
pub(crate) mod route;
mod sink;

pub(crate) use level::MODULES;

use crate::config::{LogConfig, LogFormat};
use crate::log::level::{LevelFilter, Levels};
use crate::log::line::LineLayer;
use crate::log::sink::Sinks;
use jiff::Timestamp;
use model::error::ApiError;
use model::log::{LogChange, LogLevels};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Clock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};

/// How long the timer sleeps at most, so that a machine whose clock was set does not keep changed levels for days.
const MAX_NAP: Duration = Duration::from_secs(60);

/// Where lines go.
pub enum LogOutput {
    /// To standard error, all together.
    Stderr,
    /// To a file per module in this folder, which is made if it is missing.
    Folder(PathBuf),
    /// To this writer, all together.
    Writer(Box<dyn Write + Send>),
}

impl LogOutput {
    /// Returns where a configuration wants its lines.
    pub fn of(config: &LogConfig, data: &Path) -> Self {
        if config.split { Self::Folder(config.folder(data)) } else { Self::Stderr }
    }
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A folder could not be made.
    #[error("the log folder `{}` cannot be made", path.display())]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be opened.
    #[error("the log file `{}` cannot be opened", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else in this process has set up logging before.
    #[error("logging has been started in this process already")]
    Started,
}

/// The running log: its levels can be seen and changed. Clones are the same log.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    levels: Mutex<Levels>,
    filter: reload::Handle<LevelFilter, Registry>,
    changed: Notify,
    clock: Clock,
}

impl Log {
    /// Begins to log everything that this process says.
    pub fn start(config: &LogConfig, output: LogOutput, clock: Clock) -> Result<Self, LogError> {
        let (log, subscriber) = Self::subscriber(config, output, clock)?;
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Started)?;
        Ok(log)
    }

    /// Returns a log and what feeds it, for a caller who wants it for one thread only.
    pub fn subscriber(
        config: &LogConfig,
        output: LogOutput,
        clock: Clock,
    ) -> Result<(Self, impl tracing::Subscriber + Send + Sync), LogError> {
        let sinks = Sinks::open(output)?;
        Ok(Self::over(config, sinks, clock))
    }

    fn over(config: &LogConfig, sinks: Sinks, clock: Clock) -> (Self, impl tracing::Subscriber + Send + Sync) {
        let levels = Levels::new(config.level, &config.modules);
        let (filter, handle) = reload::Layer::new(levels.filter());
        let json = config.format == LogFormat::Json;
        let subscriber = Registry::default().with(filter).with(LineLayer::new(json, sinks, clock.clone()));
        let shared = Shared { levels: Mutex::new(levels), filter: handle, changed: Notify::new(), clock };
        (Self { shared: Arc::new(shared) }, subscriber)
    }

    /// Returns what every module says at present.
    pub fn levels(&self) -> LogLevels {
        self.lock().shown()
    }

    /// Changes levels, for good or for a time. A change for good outlives the return of one for a time.
    pub fn change(&self, change: &LogChange, now: Timestamp) -> Result<LogLevels, ApiError> {
        let shown = {
            let mut levels = self.lock();
            levels.change(change, now)?;
            self.apply(&levels);
            levels.shown()
        };
        self.shared.changed.notify_one();
        Ok(shown)
    }

    /// Returns when the next level comes back.
    pub fn next_restore(&self) -> Option<Timestamp> {
        self.lock().next_restore()
    }

    /// Takes back every level whose time is over.
    pub fn restore(&self, now: Timestamp) {
        let restored = {
            let mut levels = self.lock();
            let restored = levels.restore(now);
            if restored {
                self.apply(&levels);
            }
            restored
        };
        if restored {
            tracing::info!("log levels are back after their time");
        }
    }

    /// Brings levels back when their time is over, until the order to stop.
    pub async fn run(&self, shutdown: CancellationToken) {
        loop {
            let due = self.next_restore();
            let nap = async {
                match due {
                    Some(due) => tokio::time::sleep(self.nap(due)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.shared.changed.notified() => {}
                () = nap => self.restore(self.shared.clock.now()),
            }
        }
    }

    fn nap(&self, due: Timestamp) -> Duration {
        let left = due.duration_since(self.shared.clock.now());
        // A time that has passed already leaves nothing to sleep.
        Duration::try_from(left).unwrap_or_default().min(MAX_NAP)
    }

    fn apply(&self, levels: &Levels) {
        // This fails only once the subscriber is gone, and then nobody logs.
        drop(self.shared.filter.reload(levels.filter()));
    }

    fn lock(&self) -> MutexGuard<'_, Levels> {
        // The levels are whole at every moment, so another thread's panic has not broken them.
        self.shared.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
