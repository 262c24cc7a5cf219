//! What every command is given: the global options and the way out.

use crate::connection::Global;
use crate::exit::{Exit, Told};
use crate::output::Output;

/// What every command has: the global options and the way out.
pub(crate) struct Session {
    pub(crate) global: Global,
    pub(crate) output: Output,
}

impl Session {
    /// Returns a client for the server that the command line, the environment or the login names.
    pub(crate) fn client(&self) -> anyhow::Result<client::Client> {
        crate::connection::client(&self.global)
    }

    /// Returns a client that bears the server's absence for long, for what was begun there.
    pub(crate) fn patient_client(&self) -> anyhow::Result<client::Client> {
        crate::connection::patient(&self.global)
    }

    /// Reports an error and goes on; for commands that do several things.
    pub(crate) fn report(&self, error: &anyhow::Error) -> Exit {
        let Some(told) = Told::of(error) else { return Exit::Ok };
        told.report(&self.output);
        told.exit
    }
}
