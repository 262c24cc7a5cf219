//! This side's terminal: its size, its raw mode, and the way back from it, which is taken however this process ends its
//! work.

use crate::output::{LineFeed, Output};
use model::sandbox::Window;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal};

/// The size that a terminal has when nobody knows.
const USUAL: Window = Window { rows: 24, columns: 80 };

/// The terminal that somebody sits at, if there is one.
pub(super) struct Terminal {
    window: Window,
}

impl Terminal {
    /// Looks for it.
    pub(super) fn find() -> Self {
        Self { window: size().unwrap_or(USUAL) }
    }

    /// Returns the size that it had when it was found.
    pub(super) const fn window(&self) -> Window {
        self.window
    }

    /// Makes it pass on everything that is typed, if somebody types; until the guard is dropped.
    pub(super) fn raw<'a>(&self, output: &'a Output) -> io::Result<Raw<'a>> {
        if !io::stdin().is_terminal() {
            return Ok(Raw { before: None, output });
        }
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        output.set_raw(LineFeed::Raw);
        Ok(Raw { before: Some(before), output })
    }
}

/// Returns the size that the terminal has now.
pub(super) fn size() -> Option<Window> {
    let sizes = [tcgetwinsize(io::stdout()), tcgetwinsize(io::stdin()), tcgetwinsize(io::stderr())];
    let size = sizes.into_iter().flatten().find(|size| size.ws_row > 0 && size.ws_col > 0)?;
    Some(Window { rows: size.ws_row, columns: size.ws_col })
}

/// A terminal in raw mode; it is as before once this is dropped.
pub(super) struct Raw<'a> {
    before: Option<Termios>,
    output: &'a Output,
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // If the terminal is gone, there is nothing to bring back.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
            self.output.set_raw(LineFeed::Cooked);
        }
    }
}
