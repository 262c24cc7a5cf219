//! How a command ends: the exit code, and what is said on standard error.
//!
//! A closed standard output is no failure: whoever closed it has seen enough.

use crate::output::{Output, Style};
use client::ClientError;
use model::{ApiError, ErrorKind};
use serde::Serialize;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// The exit codes, which never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok,
    /// The thing failed.
    Failed,
    NotFound,
    /// Conflict, or not allowed.
    Refused,
    Unreachable,
    Usage,
    /// Ctrl-C, as shells count it.
    Interrupted,
    /// What became of a program that this command stands for, as shells count it.
    Program(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Exit {
    /// Returns the number that the process ends with.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::NotFound => 2,
            Self::Refused => 3,
            Self::Unreachable => 4,
            Self::Usage => 64,
            Self::Interrupted => 130,
            Self::Program(code) => code,
        }
    }

    /// Returns the first of the two that is not `Ok`.
    pub(crate) fn or(self, other: Self) -> Self {
        if self == Self::Ok { other } else { self }
    }

    const fn of_kind(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict | ErrorKind::Gone | ErrorKind::Unauthorised | ErrorKind::Forbidden => Self::Refused,
            ErrorKind::Invalid | ErrorKind::TooLarge | ErrorKind::UnsupportedMedia | ErrorKind::RangeNotSatisfiable => {
                Self::Usage
            }
            ErrorKind::Unavailable => Self::Unreachable,
            ErrorKind::MethodNotAllowed | ErrorKind::TimedOut | ErrorKind::TooMany | ErrorKind::Internal => {
                Self::Failed
            }
        }
    }
}

/// A failure that this side of the wire finds by itself.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    code: &'static str,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// Makes a failure of any sort.
    pub(crate) fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Self {
        Self { exit, code, message: message.into(), hint: None }
    }

    /// Makes the failure of a command line that cannot be meant.
    pub(crate) fn usage(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, code, message)
    }

    /// Adds what to do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What a user is told of an error.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Told {
    #[serde(skip)]
    pub(crate) exit: Exit,
    pub(crate) code: String,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
    /// Whether it was found on this side of the wire, so that its line breaks are ours.
    #[serde(skip)]
    is_ours: bool,
}

impl From<&Failure> for Told {
    fn from(failure: &Failure) -> Self {
        let told = Self::new(failure.exit, failure.code, failure.message.clone(), failure.hint.clone());
        Self { is_ours: true, ..told }
    }
}

impl Told {
    /// Returns what to say of an error; nothing, if it is only that nobody reads on.
    pub(crate) fn of(error: &anyhow::Error) -> Option<Self> {
        let causes = || error.chain();
        let is_closed_pipe = |cause: &(dyn std::error::Error + 'static)| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        };
        if let Some(failure) = causes().find_map(|cause| cause.downcast_ref::<Failure>()) {
            return Some(failure.into());
        }
        if let Some(error) = causes().find_map(|cause| cause.downcast_ref::<ClientError>()) {
            return Some(Self::of_client(error));
        }
        if let Some(error) = causes().find_map(|cause| cause.downcast_ref::<ApiError>()) {
            return Some(Self::of_api(error));
        }
        if causes().any(is_closed_pipe) {
            return None;
        }
        let message = causes().map(ToString::to_string).collect::<Vec<_>>().join(": ");
        Some(Self::new(Exit::Failed, "failed", message, None))
    }

    fn new(exit: Exit, code: &str, message: String, hint: Option<String>) -> Self {
        Self { exit, code: code.to_owned(), message, hint, request_id: None, is_ours: false }
    }

    fn of_api(error: &ApiError) -> Self {
        Self::new(Exit::of_kind(error.kind), &error.code, error.message.clone(), error.hint.clone())
    }

    fn of_client(error: &ClientError) -> Self {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let (message, cause) = (error.to_string(), cause.to_string());
        let whole = if message == cause { message } else { format!("{message}: {cause}") };
        let some = |hint: &str| Some(hint.to_owned());
        let mut told = match error {
            ClientError::Api { error, .. } => Self::of_api(error),
            ClientError::Unreachable { .. } => {
                let hint = if whole.contains("certificate") {
                    "if its certificate is not signed by a public authority, name the authority's with --ca-file"
                } else {
                    "is it running, and is the address right? (--url, QUARRY_URL or `quarry login`)"
                };
                Self::new(Exit::Unreachable, "unreachable", whole, some(hint))
            }
            ClientError::Unexpected { .. } => {
                let hint = "is it a Quarry server, and of a version near this one's?";
                Self::new(Exit::Failed, "unexpected", whole, some(hint))
            }
            ClientError::Invalid { hint, .. } => Self::new(Exit::Usage, "invalid", whole, some(hint)),
            ClientError::Corrupt { .. } => Self::new(Exit::Failed, "corrupt", whole, None),
            ClientError::Content(_) => Self::new(Exit::Failed, "unreadable", whole, None),
        };
        told.request_id = error.request().map(str::to_owned);
        if told.code == "unauthorised" && told.hint.is_none() {
            told.hint = some("name a token with --token or QUARRY_TOKEN, or use `quarry login`");
        }
        told
    }

    /// Writes it to standard error, as people or as programs read it.
    pub(crate) fn report(&self, output: &Output) {
        if output.is_json() {
            return write_json(self);
        }
        let label = output.err_style(Style::Bad, "error:");
        if self.is_ours {
            self.message.lines().for_each(|line| output.complain(&label, line));
        } else {
            output.complain(&label, &self.message);
        }
        if let Some(hint) = &self.hint {
            output.complain(&output.err_style(Style::Strong, "hint:"), hint);
        }
        if self.code == "internal"
            && let Some(id) = &self.request_id
        {
            output.complain(&output.err_style(Style::Strong, "request:"), id);
        }
    }
}

/// Writes an error to standard error as JSON.
pub(crate) fn write_json(told: &Told) {
    let line = serde_json::to_string(told).expect("texts always serialise");
    // If even standard error is gone, nobody is left to be told.
    let _ = writeln!(io::stderr(), "{{\"error\":{line}}}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_refusal_has_its_exit_code() {
        let codes = ErrorKind::ALL.map(|kind| (kind.status(), Exit::of_kind(kind).code()));
        insta::assert_compact_debug_snapshot!(codes, @"[(400, 64), (401, 3), (403, 3), (404, 2), (405, 1), (408, 1), (409, 3), (410, 3), (413, 64), (415, 64), (416, 64), (429, 1), (500, 1), (503, 4)]");
    }

    #[test]
    fn a_closed_pipe_is_not_worth_a_word() {
        let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert_eq!(Told::of(&closed), None);
        let other = anyhow::Error::from(io::Error::other("disk on fire")).context("writing");
        assert_eq!(Told::of(&other).expect("is told").message, "writing: disk on fire");
    }
}
