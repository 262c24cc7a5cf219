//! Why the store did not do what it was asked.

use model::{ApiError, ErrorKind};
use std::time::Duration;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The thing does not exist, or not in this tenant.
    #[error("{noun} `{id}` does not exist")]
    NotFound {
        /// What sort of thing.
        noun: &'static str,
        /// Which one.
        id: String,
    },
    /// A different thing already has this id or name.
    #[error("{noun} `{id}` already exists, and is different")]
    Exists {
        /// What sort of thing.
        noun: &'static str,
        /// Its id or name.
        id: String,
    },
    /// The thing's state does not allow this move.
    #[error("{noun} `{id}` is {state}, which does not lead to {wanted}")]
    Conflict {
        /// What sort of thing.
        noun: &'static str,
        /// Which one.
        id: String,
        /// The state it is in.
        state: &'static str,
        /// The state it was to move to.
        wanted: &'static str,
    },
    /// The tenant would be left without anybody who keeps it.
    #[error("user `{id}` is the tenant's last active admin, and stays so")]
    LastAdmin {
        /// Which user.
        id: String,
    },
    /// What was asked is not allowed as things stand, in the words for whoever asked.
    #[error("{0}")]
    Refused(Box<ApiError>),
    /// The attempt that speaks is not the one that holds the execution.
    #[error("attempt {attempt} of execution `{id}` does not hold it any more")]
    Stale {
        /// Which execution.
        id: String,
        /// Which attempt spoke.
        attempt: u32,
    },
    /// The cursor points before the oldest change that is kept.
    #[error("the log begins after change {floor}; cursor {cursor} is too old")]
    CursorGone {
        /// The cursor.
        cursor: u64,
        /// The number before the oldest change that is kept.
        floor: u64,
    },
    /// A question took too long, and was stopped.
    #[error("the question took longer than {} s and was stopped", after.as_secs_f64())]
    Slow {
        /// After what time.
        after: Duration,
    },
    /// The writer's queue stayed full.
    #[error("the store has more to write than it can keep up with")]
    Busy,
    /// The database does not answer, or the store is closing.
    #[error("the database is not available")]
    Unavailable {
        /// What the connection said.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Another server has this folder.
    #[error("folder `{folder}` is in use by another quarry")]
    Locked {
        /// Which folder.
        folder: String,
    },
    /// The schema was written by a newer version.
    #[error("the database has schema {found}, written by a newer quarry; this one knows up to {known}")]
    Newer {
        /// The schema's version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// The database is of a kind that is not supported.
    #[error("{why}")]
    Unsupported {
        /// What is not supported, and what would be.
        why: String,
    },
    /// A transfer would mix two histories.
    #[error("table `{table}` of the target is not empty; a transfer needs a new database")]
    Occupied {
        /// The first table that holds something.
        table: &'static str,
    },
    /// A transfer would have copied half of what happened meanwhile.
    #[error("the source was written to during the transfer, which is undone; stop whoever writes there")]
    Moved,
    /// A row does not hold what its column must hold.
    #[error("column {column} of a row {why}")]
    Broken {
        /// Which column, from 0.
        column: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An operation saw something that another of the same group had just done; it runs again, alone.
    #[error("an operation must run again, alone")]
    Again,
    /// SQLite failed.
    #[error("sqlite failed while {doing}")]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// PostgreSQL failed.
    #[error("postgresql failed while {doing}")]
    Postgres {
        /// What was being done.
        doing: &'static str,
        /// What PostgreSQL said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A file or folder failed.
    #[error("`{path}` failed while {doing}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// Which file or folder.
        path: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    /// Makes the refusal of what conflicts with how things stand.
    pub(crate) fn conflict(code: &str, message: String, hint: &str) -> Self {
        Self::Refused(Box::new(ApiError::new(ErrorKind::Conflict, code, message).with_hint(hint)))
    }

    /// Tells whether the store itself failed, rather than refusing what was asked.
    pub const fn is_failure(&self) -> bool {
        !matches!(
            self,
            Self::NotFound { .. }
                | Self::Exists { .. }
                | Self::Conflict { .. }
                | Self::LastAdmin { .. }
                | Self::Refused(_)
                | Self::Stale { .. }
                | Self::CursorGone { .. }
                | Self::Slow { .. }
        )
    }

    /// Tells whether the same may go well a moment later: it met what another server was doing, no more.
    pub(crate) fn is_passing(&self) -> bool {
        use tokio_postgres::error::SqlState;
        match self {
            Self::Again => true,
            Self::Postgres { source, .. } => source.code().is_some_and(|code| {
                [
                    SqlState::T_R_DEADLOCK_DETECTED,
                    SqlState::T_R_SERIALIZATION_FAILURE,
                    // A row for a segment that was begun after the statement was.
                    SqlState::CHECK_VIOLATION,
                ]
                .contains(code)
            }),
            _ => false,
        }
    }

    /// Returns the error's text with those of its causes, for the log.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// Returns an error's text with those of its causes, without the words that a cause and its effect both say.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    causes.reduce(|text, said| join(text, &said)).unwrap_or_default()
}

/// Joins an effect's words and its cause's, which may begin with the effect's last words, or be them.
fn join(text: String, said: &str) -> String {
    if text.ends_with(said) {
        return text;
    }
    let overlap = text.match_indices(": ").map(|(at, _)| at + 2).find(|at| said.starts_with(&text[*at..]));
    overlap.map_or_else(|| format!("{text}: {said}"), |at| format!("{}{said}", &text[..at]))
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match &error {
            StoreError::NotFound { noun, id } => Self::not_found(noun, id),
            StoreError::Exists { noun, .. } => Self::new(ErrorKind::Conflict, format!("{noun}_exists"), message)
                .with_hint("choose another id or name, or look at the one that is there"),
            StoreError::Conflict { noun, state, .. } => {
                Self::new(ErrorKind::Conflict, format!("{noun}_{state}"), message)
            }
            StoreError::LastAdmin { .. } => {
                Self::new(ErrorKind::Conflict, "user_last_admin", message).with_hint("make another admin first")
            }
            StoreError::Refused(said) => Self::clone(said),
            StoreError::Stale { .. } => Self::new(ErrorKind::Conflict, "attempt_stale", message),
            StoreError::CursorGone { .. } => Self::new(ErrorKind::Gone, "cursor_gone", message)
                .with_hint("list the things again and follow the log from that page's `as_of`"),
            StoreError::Slow { .. } => Self::new(ErrorKind::TimedOut, "question_too_slow", message).with_hint(
                "narrow it by what an index leads to: `cmd=`, `node=`, `platform=`, `ticket=`, `signature=`, `stack=`, \
                 `properties.NAME=` or a time such as `mtime=30d`",
            ),
            StoreError::Busy => Self::new(ErrorKind::Unavailable, "busy", message).with_hint("try again in a second"),
            StoreError::Unavailable { .. } if is_full(&error) => {
                Self::new(ErrorKind::Unavailable, "store_full", "there is no room left for the database")
                    .with_hint("somebody has to make room on the server's disk; try again then")
                    .with_internal(error.chain())
            }
            StoreError::Unavailable { .. } => Self::new(ErrorKind::Unavailable, "store_unavailable", message)
                .with_hint("try again in a second")
                .with_internal(error.chain()),
            _ => Self::internal(error.chain()),
        }
    }
}

/// Tells whether a failure comes from a disk that is full.
pub fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let is_io = error.downcast_ref::<std::io::Error>().is_some_and(|error| {
            matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        });
        let is_sqlite = error
            .downcast_ref::<rusqlite::Error>()
            .is_some_and(|error| error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull));
        let is_postgres = error
            .downcast_ref::<tokio_postgres::Error>()
            .is_some_and(|error| error.code() == Some(&tokio_postgres::error::SqlState::DISK_FULL));
        if is_io || is_sqlite || is_postgres {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_effect_and_its_cause_both_say_is_said_once() {
        let check = |text: &str, said: &str, both: &str| assert_eq!(join(text.to_owned(), said), both);
        check("cannot open", "no such file", "cannot open: no such file");
        check("cannot open: no such file", "no such file", "cannot open: no such file");
        check("pool: cannot connect", "cannot connect: refused", "pool: cannot connect: refused");
    }
}
