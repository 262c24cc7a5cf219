//! This side's terminal: its size, its raw mode, and the way back from it, which is taken however this process ends its
//! work.

use crate::output::{LineFeed, Output};
use model::sandbox::Window;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal};
use std::sync::{Mutex, Once, PoisonError};

/// What the terminal was while it is raw, for whoever has to bring it back without the guard.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

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
        let before = make_raw()?;
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

/// Makes the terminal raw, and returns what it was.
fn make_raw() -> io::Result<Termios> {
    let before = tcgetattr(io::stdin())?;
    let mut raw = before.clone();
    raw.make_raw();
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before.clone());
    heed_panics();
    tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
    Ok(before)
}

/// Brings the terminal back before a panic is told: its words would run over the screen, and in a process that ends with
/// them no guard is dropped.
fn heed_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            bring_back();
            told(panic);
        }));
    });
}

fn bring_back() {
    // Whoever panics may hold the lock; then there is no other way than to leave things as they are.
    let before = BEFORE.try_lock().ok().and_then(|mut before| before.take());
    if let Some(before) = before {
        // If the terminal is gone, there is nothing to bring back.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
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
            BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.output.set_raw(LineFeed::Cooked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::termios::LocalModes;

    /// Its process has no other test, so its standard input is nobody else's.
    #[test]
    fn a_panic_brings_the_terminal_back() {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = rustix::pty::openpt(flags).expect("a terminal");
        rustix::pty::unlockpt(&master).expect("is unlocked");
        let other = rustix::pty::ptsname(&master, Vec::new()).expect("has a name");
        let mode = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let terminal = rustix::fs::open(&other, mode, rustix::fs::Mode::empty()).expect("opens");
        rustix::stdio::dup2_stdin(&terminal).expect("is standard input");
        let is_raw = || !tcgetattr(&terminal).expect("is a terminal").local_modes.contains(LocalModes::ICANON);
        assert!(!is_raw());
        let ended = std::panic::catch_unwind(|| {
            make_raw().expect("is raw");
            assert!(is_raw());
            panic!("something broke");
        });
        assert!(ended.is_err() && !is_raw());
    }
}
