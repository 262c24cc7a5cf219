//! The terminal while a view has it: the other screen, raw mode, keys. It gets back what it was on every way out.

use super::board::Board;
use super::screen::{self, Palette};
use jiff::Timestamp;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How long the reader of keys waits before it looks whether anybody still wants them.
const POLL: Duration = Duration::from_millis(100);
/// Keys that wait to be taken; a person is slower than the view.
const MAX_KEYS: usize = 64;

/// What a person wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Interrupt,
    Resized,
}

/// The terminal while a view has it.
pub(super) struct Terminal {
    terminal: DefaultTerminal,
    palette: Palette,
    keys: mpsc::Receiver<Key>,
    _reader: JoinSet<()>,
}

impl Terminal {
    /// Takes the terminal; a panic, too, gives it back.
    pub(super) fn open(is_coloured: bool) -> io::Result<Self> {
        let terminal = ratatui::try_init()?;
        let (sender, keys) = mpsc::channel(MAX_KEYS);
        let mut reader = JoinSet::new();
        reader.spawn_blocking(move || read(&sender));
        let palette = if is_coloured { Palette::Colours } else { Palette::Plain };
        Ok(Self { terminal, palette, keys, _reader: reader })
    }

    /// Returns what a person wants next; nothing, when the terminal has gone.
    pub(super) async fn key(&mut self) -> Option<Key> {
        self.keys.recv().await
    }

    /// Draws the view.
    pub(super) fn draw(&mut self, board: &Board, now: Timestamp) -> io::Result<()> {
        self.terminal.draw(|frame| screen::draw(frame, board, now, self.palette))?;
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing back.
        let _ = ratatui::try_restore();
    }
}

/// Reads keys until nobody wants them, or none can come.
fn read(sender: &mpsc::Sender<Key>) {
    while !sender.is_closed() {
        let read = event::poll(POLL).and_then(|is_there| if is_there { event::read().map(Some) } else { Ok(None) });
        let wanted = match read {
            Ok(Some(event)) => meaning(&event),
            Ok(None) => None,
            Err(_) => return,
        };
        if wanted.is_some_and(|key| sender.blocking_send(key).is_err()) {
            return;
        }
    }
}

fn meaning(event: &Event) -> Option<Key> {
    match event {
        Event::Resize(..) => Some(Key::Resized),
        Event::Key(key) if key.kind == KeyEventKind::Release => None,
        Event::Key(key) => match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Interrupt),
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Key::Quit),
            _ => None,
        },
        _ => None,
    }
}
