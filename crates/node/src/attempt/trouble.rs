//! Trouble: why an attempt did not run, and whose fault that is. Only what this machine failed at speaks against the node: what
//! somebody asked for in vain, and a server that was away, would have failed on any other as well.

use crate::cache::CacheError;
use crate::files::FileError;
use crate::image::{BlobFault, ImageError};
use crate::parcel::ParcelError;
use client::ClientError;
use dump::parcel::AssemblyError;
use model::SetUpFault;
use sandbox::FaultKind;
use std::error::Error;

/// Why an attempt did not run.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// What was asked for cannot be done.
    Refused(String),
    /// The program is not there, or cannot be executed.
    Program(SetUpFault, String),
    /// The server did not do its part; another time it may.
    Server(String),
    /// The machine failed.
    Machine(String),
}

impl Trouble {
    /// Judges what came of a call to the server.
    pub(crate) fn of_client(error: &ClientError, what: &str) -> Self {
        Self::judged(error, format!("{what}: {}", whole(error)))
    }

    /// Judges a blob that did not come or go.
    fn of_blob(fault: &BlobFault, error: &dyn Error) -> Self {
        let cause = whole(error);
        match fault.downcast_ref() {
            Some(error) => Self::judged(error, cause),
            None => Self::Machine(cause),
        }
    }

    fn judged(error: &ClientError, cause: String) -> Self {
        match error {
            ClientError::Content(_) => Self::Machine(cause),
            error if error.is_final() => Self::Refused(cause),
            _ => Self::Server(cause),
        }
    }

    /// Judges a dump that could not be fetched.
    pub(crate) fn of_parcels(error: &ParcelError) -> Self {
        let cause = format!("the dump cannot be had: {}", whole(error));
        match error {
            ParcelError::Client(error) => Self::of_client(error, "the dump cannot be had"),
            ParcelError::Missing(_) | ParcelError::TooLong(..) | ParcelError::Split(_) => Self::Refused(cause),
            ParcelError::Assembly(AssemblyError::Failed(_)) | ParcelError::Lost(_) => Self::Machine(cause),
            ParcelError::Assembly(_) => Self::Refused(cause),
        }
    }

    /// Returns why, in words.
    pub(crate) fn cause(self) -> String {
        match self {
            Self::Refused(cause) | Self::Program(_, cause) | Self::Server(cause) | Self::Machine(cause) => cause,
        }
    }
}

impl From<FileError> for Trouble {
    fn from(error: FileError) -> Self {
        match &error {
            FileError::Fetch { cause, .. } => Self::of_blob(cause, &error),
            FileError::Keep { .. } => Self::Machine(whole(&error)),
        }
    }
}

impl From<CacheError> for Trouble {
    fn from(error: CacheError) -> Self {
        match &error {
            CacheError::Fetch { cause, .. } => Self::of_blob(cause, &error),
            error if error.is_machine() => Self::Machine(whole(error)),
            error => Self::Refused(whole(error)),
        }
    }
}

impl From<ImageError> for Trouble {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Cache(error) => error.into(),
            ImageError::Blob { ref cause, .. } => Self::of_blob(cause, &error),
            error if error.is_machine() => Self::Machine(whole(&error)),
            error => Self::Refused(whole(&error)),
        }
    }
}

impl From<sandbox::Fault> for Trouble {
    fn from(fault: sandbox::Fault) -> Self {
        match fault.kind {
            FaultKind::Order | FaultKind::Plan => Self::Refused(fault.cause),
            FaultKind::NoProgram => Self::Program(SetUpFault::NoProgram, fault.cause),
            FaultKind::NotExecutable => Self::Program(SetUpFault::NotExecutable, fault.cause),
            FaultKind::Machine => Self::Machine(fault.cause),
        }
    }
}

/// Returns an error with all that caused it, in one line.
pub(crate) fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{ApiError, Digest, ErrorKind};

    #[test]
    fn only_the_machines_own_failures_speak_against_it() {
        let api =
            |kind, code: &str| ClientError::Api { error: Box::new(ApiError::new(kind, code, "words")), request: None };
        let away = || ClientError::Invalid { message: "away".to_owned(), hint: String::new() };
        let full = || ClientError::Content(std::io::Error::other("full"));
        let check = |fault: BlobFault, expected: &str| {
            let found = Trouble::from(FileError::Fetch { digest: Digest::from_bytes([7; 32]), cause: fault });
            let word = match &found {
                Trouble::Refused(_) => "refused",
                Trouble::Program(..) => "program",
                Trouble::Server(_) => "server",
                Trouble::Machine(_) => "machine",
            };
            assert_eq!(word, expected, "{found:?}");
        };
        check(api(ErrorKind::NotFound, "blob_not_found").into(), "refused");
        check(api(ErrorKind::Conflict, "attempt_stale").into(), "refused");
        check(api(ErrorKind::Internal, "internal").into(), "server");
        check(api(ErrorKind::Unavailable, "busy").into(), "server");
        check(away().into(), "server");
        check(full().into(), "machine");
        check(std::io::Error::other("no room").into(), "machine");
        let dump = |error: ParcelError| matches!(Trouble::of_parcels(&error), Trouble::Machine(_));
        assert!(dump(AssemblyError::Failed(std::io::Error::other("no room")).into()));
        assert!(!dump(AssemblyError::Foreign { digest: Digest::from_bytes([7; 32]) }.into()));
        assert!(!dump(away().into()));
    }
}
