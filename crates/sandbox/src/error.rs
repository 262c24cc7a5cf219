//! What can go wrong between a node and its spawner. What goes wrong with one sandbox is a `Fault`, told by an event.

use std::io;

/// Why a spawner could not be started or spoken to.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The process could not be started, or its socket not be made.
    #[error("the spawner `{program}` could not be started")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The spawner says that it cannot work here.
    #[error("the spawner cannot work here: {cause}")]
    Refused {
        /// Its words.
        cause: String,
    },
    /// A plan or an order is too long for one message.
    #[error("a plan and its order have {bytes} bytes; at most {max} fit")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// The spawner has more to do than its socket holds.
    #[error("the spawner is busy; try again")]
    Busy,
    /// The spawner is gone, and all its sandboxes with it.
    #[error("the spawner is gone")]
    Gone,
    /// The socket failed otherwise.
    #[error("the spawner's socket failed")]
    Socket(#[source] io::Error),
}
