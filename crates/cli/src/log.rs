//! `quarry log`: what the server writes about itself.

use crate::exit::{Exit, Failure};
use crate::quantity;
use crate::session::Session;
use clap::{Args, Subcommand};
use jiff::SignedDuration;
use model::log::{LogChange, LogLevel, LogLevels};

/// Shows and changes what the server writes about itself
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry log levels
  quarry log set store=debug --for 10m")]
pub(crate) enum Log {
    /// Shows how much each module says
    #[command(after_help = "Example:\n  quarry log levels")]
    Levels,
    Set(Set),
}

/// Changes how much modules say, at once and without a restart
#[derive(Args)]
#[command(after_help = "Example:
  quarry log set store=debug server=trace --for 10m
  quarry log set warn")]
pub(crate) struct Set {
    /// `MODULE=LEVEL`, or a level alone for everything that is not named: off, error, warn, info, debug, trace
    #[arg(required = true, value_name = "MODULE=LEVEL", value_parser = change)]
    levels: Vec<(Option<String>, LogLevel)>,
    /// Go back to what the configuration says after this time
    #[arg(long = "for", value_name = "TIME", value_parser = quantity::duration)]
    time: Option<SignedDuration>,
}

fn change(text: &str) -> Result<(Option<String>, LogLevel), String> {
    match text.split_once('=') {
        None | Some(("default", _)) => {
            let level = text.strip_prefix("default=").unwrap_or(text);
            Ok((None, level.parse()?))
        }
        Some(("", _)) => Err(format!("`{text}` names no module")),
        Some((module, level)) => Ok((Some(module.to_owned()), level.parse()?)),
    }
}

impl Log {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let levels = match self {
            Self::Levels => client.log_levels().await?,
            Self::Set(set) => client.log_set(&set.change()?).await?,
        };
        show(session, &levels)
    }
}

impl Set {
    fn change(self) -> Result<LogChange, Failure> {
        let mut change = LogChange::default();
        for (module, level) in self.levels {
            match module {
                Some(module) => drop(change.modules.insert(module, level)),
                None => change.default = Some(level),
            }
        }
        change.seconds = match self.time {
            None => None,
            Some(time) => Some(u64::try_from(time.as_secs()).ok().filter(|seconds| *seconds > 0).ok_or_else(|| {
                Failure::usage("usage", "`--for` must be a second at least").hint("such as `--for 10m`")
            })?),
        };
        Ok(change)
    }
}

fn show(session: &mut Session, levels: &LogLevels) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json(levels)?;
        return Ok(Exit::Ok);
    }
    let default = vec!["default".to_owned(), levels.default.as_str().to_owned()];
    let modules = levels.modules.iter().map(|(module, level)| vec![module.clone(), level.as_str().to_owned()]);
    session.output.table(Some(&["module", "level"]), std::iter::once(default).chain(modules).collect())?;
    if let Some(until) = levels.until {
        session.output.say(&format!("until {}", session.output.time(until)));
    }
    Ok(Exit::Ok)
}
