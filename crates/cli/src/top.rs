//! `quarry top`: what happens in the house, as it happens.
//!
//! The log says at once that something moved; lists, taken again every moment, say what there is. A terminal gets a view
//! that is drawn again, anything else one snapshot as text. The terminal is put back however this ends.

mod picture;
mod view;

use crate::exit::Exit;
use crate::session::Session;
use clap::Args;
use client::{Client, ClientError};
use futures_util::{Stream, StreamExt};
use model::{Change, ChangeQuery, Noun};
use picture::Picture;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use std::io::{self, IsTerminal};
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How often lists are taken again when nothing moves.
const CALM: Duration = Duration::from_secs(2);
/// How often at most when much moves.
const BUSY: Duration = Duration::from_millis(500);
/// How long whoever waits for keys sleeps before looking whether anybody still wants them.
const NAP: Duration = Duration::from_millis(100);
/// Keys that wait to be looked at; nobody types faster.
const KEYS_WAITING: usize = 16;

/// Shows nodes, queue and executions as they change; q quits
///
/// Without a terminal it prints one snapshot.
#[derive(Args)]
#[command(after_help = "Example:
  quarry top
  quarry top > snapshot.txt")]
pub(crate) struct Top {}

/// What somebody typed, or did to the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Quit,
    Redraw,
}

impl Top {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let picture = Picture::take(&client).await?;
        if session.output.is_json() {
            session.output.json(&picture.document())?;
            return Ok(Exit::Ok);
        }
        if !io::stdin().is_terminal() || !session.output.is_terminal() {
            for line in view::text(&picture, client.url()) {
                session.output.line(&line)?;
            }
            return Ok(Exit::Ok);
        }
        watch(&session.patient_client()?, picture).await
    }
}

/// A terminal that is drawn upon; it is as before once this is dropped.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn begin() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }

    fn draw(&mut self, picture: &Picture, url: &str) -> io::Result<()> {
        self.0.draw(|frame| view::draw(frame, picture, url)).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to put back.
        let _ = ratatui::try_restore();
    }
}

/// Draws until somebody quits.
async fn watch(client: &Client, mut picture: Picture) -> anyhow::Result<Exit> {
    let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let mut screen = Screen::begin()?;
    let (sender, mut keys) = mpsc::channel(KEYS_WAITING);
    let reading = tokio::task::spawn_blocking(move || read_keys(&sender));
    let query = ChangeQuery { noun: Some(Noun::Execution), ..ChangeQuery::default() };
    let mut changes = pin!(client.follow(&query));
    let (mut has_log, mut due) = (true, Instant::now() + CALM);
    let ended = loop {
        picture.pass(Instant::now().into_std());
        screen.draw(&picture, client.url())?;
        tokio::select! {
            wish = keys.recv() => if wish != Some(Wish::Redraw) { break Exit::Ok },
            _ = terminate.recv() => break Exit::Program(128 + 15),
            _ = hangup.recv() => break Exit::Program(128 + 1),
            change = next(&mut changes), if has_log => match change {
                Some(Ok(change)) => {
                    picture.see(&change, Instant::now().into_std());
                    due = due.min(Instant::now() + BUSY);
                    // Many come at once; the screen is drawn when they are all seen.
                    while let Some(Some(Ok(change))) = futures_util::FutureExt::now_or_never(changes.next()) {
                        picture.see(&change, Instant::now().into_std());
                    }
                    tokio::time::sleep(NAP).await;
                }
                Some(Err(error)) => {
                    has_log = false;
                    picture.note = Some(format!("the log is not followed: {error}"));
                }
                None => has_log = false,
            },
            () = tokio::time::sleep_until(due) => {
                match Picture::take(client).await {
                    Ok(taken) => picture.renew(taken),
                    Err(error) => picture.note = Some(error.to_string()),
                }
                due = Instant::now() + CALM;
            }
        }
    };
    drop(keys);
    reading.await?;
    Ok(ended)
}

async fn next(
    changes: &mut (impl Stream<Item = Result<Change, ClientError>> + Unpin),
) -> Option<Result<Change, ClientError>> {
    changes.next().await
}

/// Reads what is typed until nobody wants to know.
fn read_keys(to: &mpsc::Sender<Wish>) {
    while !to.is_closed() {
        let wish = match event::poll(NAP).and_then(|is_there| if is_there { event::read().map(Some) } else { Ok(None) })
        {
            Ok(None) => continue,
            Ok(Some(event)) => wish(&event),
            // There is no terminal any more.
            Err(_) => Some(Wish::Quit),
        };
        if wish.is_some_and(|wish| to.blocking_send(wish).is_err() || wish == Wish::Quit) {
            return;
        }
    }
}

fn wish(event: &Event) -> Option<Wish> {
    match event {
        Event::Resize(..) => Some(Wish::Redraw),
        Event::Key(key) if key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL => Some(Wish::Quit),
        Event::Key(key) if matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc) => Some(Wish::Quit),
        _ => None,
    }
}
