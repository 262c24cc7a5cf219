//! `quarry top`: what happens now, as a view that moves; without a terminal, how things stand at one moment.
//!
//! What has not ended is listed once and then kept right by the log, which is followed without a gap. How busy a node is
//! stands in no change, so nodes are listed again and again. While a list is on its way the log is not read on: the list
//! would otherwise undo what came after it.

mod board;
mod screen;
mod snapshot;
mod terminal;

use crate::exit::{Exit, Failure};
use crate::ps;
use crate::session::Session;
use board::Board;
use clap::Args;
use client::{Client, ClientError};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use model::{Change, ChangeQuery, Execution, ExecutionId, ExecutionQuery, ExecutionState, Node, Noun, Page};
use std::time::Duration;
use terminal::{Key, Terminal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often the view is drawn.
const DRAW: Duration = Duration::from_millis(250);
/// How often nodes are asked for.
const LOOK: Duration = Duration::from_secs(2);
/// How often a list is made again that is not whole.
const RELIST: Duration = Duration::from_secs(15);
/// Changes taken before the view may be drawn again.
const MAX_BATCH: usize = 1_000;

/// Shows nodes, queue, running executions and failures as they change; q quits
///
/// Without a terminal, or with --once, it shows how things stand now and ends.
#[derive(Args)]
#[command(after_help = "Example:
  quarry top
  quarry top --once --json")]
pub(crate) struct Top {
    /// Show how things stand now, and end
    #[arg(long)]
    once: bool,
}

/// Questions that wait for an answer at once, the list aside: a slow server is not asked ever more.
const MAX_QUESTIONS: usize = 4;
/// Executions whose use is asked for: more than a screen shows.
const MAX_USED: u32 = 200;

/// What moves the view.
enum Event {
    Key(Key),
    /// The terminal, or whoever watches over it, wants us to end.
    Stop,
    Change(Box<Result<Change, ClientError>>),
    Told(Told),
    Draw,
    Look,
}

/// What came of a question to the server.
enum Told {
    Nodes(Result<Vec<Node>, ClientError>),
    /// What has not ended, and where the log stood before it was listed.
    Live(Result<(u64, Page<Execution>), ClientError>),
    /// What those have used that began last.
    Used(Vec<Execution>),
    /// Why the one that waits longest does so.
    Waiting(ExecutionId, Option<String>),
}

impl Top {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        // What fails at the beginning is said before the screen changes.
        let (head, page) = list(&client).await?;
        let nodes = ps::nodes(&client).await?;
        let mut board = Board::new(client.url(), session.output.now());
        board.list(head, &page);
        board.nodes(nodes);
        if self.once || session.output.is_json() || !session.output.is_terminal() {
            snapshot::show(session, &board, &page)?;
            return Ok(Exit::Ok);
        }
        Watch::begin(session, client, board, head)?.run(session).await
    }
}

/// Lists what has not ended, after looking where the log stands: what happens later is in the log.
async fn list(client: &Client) -> Result<(u64, Page<Execution>), ClientError> {
    let head = client.head().await?;
    Ok((head, ps::live(client, None, board::MAX_LIVE).await?))
}

/// The view, and all that it waits for.
struct Watch {
    client: Client,
    board: Board,
    terminal: Terminal,
    changes: BoxStream<'static, Result<Change, ClientError>>,
    questions: FuturesUnordered<LocalBoxFuture<'static, Told>>,
    /// Whether a list is on its way.
    is_listing: bool,
    /// Whether the log does not reach back to where we stand.
    is_lost: bool,
    draw: Interval,
    look: Interval,
    relist: Interval,
}

impl Watch {
    fn begin(session: &Session, client: Client, board: Board, head: u64) -> anyhow::Result<Self> {
        let every = |time| {
            let mut ticks = interval(time);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let changes = follow(&client, head);
        Ok(Self {
            terminal: Terminal::open(session.output.is_coloured())?,
            changes,
            client,
            board,
            questions: FuturesUnordered::new(),
            is_listing: false,
            is_lost: false,
            draw: every(DRAW),
            look: every(LOOK),
            relist: every(RELIST),
        })
    }

    async fn run(mut self, session: &mut Session) -> anyhow::Result<Exit> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        loop {
            let event = tokio::select! {
                key = self.terminal.key() => key.map_or(Event::Stop, Event::Key),
                _ = terminate.recv() => Event::Stop,
                _ = hang_up.recv() => Event::Stop,
                _ = self.draw.tick() => Event::Draw,
                _ = self.look.tick() => Event::Look,
                Some(told) = self.questions.next() => Event::Told(told),
                change = self.changes.next(), if !self.is_listing && !self.is_lost => {
                    let ended = || Err(ClientError::Unexpected {
                        url: self.client.url().to_owned(),
                        what: "the stream of changes ended".to_owned(),
                        request: None,
                    });
                    Event::Change(Box::new(change.unwrap_or_else(ended)))
                }
            };
            session.output.refresh();
            let now = session.output.now();
            match event {
                Event::Key(Key::Quit) => return Ok(Exit::Ok),
                Event::Key(Key::Interrupt) | Event::Stop => return Ok(Exit::Interrupted),
                Event::Key(Key::Resized) | Event::Draw => self.terminal.draw(&self.board, now)?,
                Event::Look => self.look(),
                Event::Told(told) => self.take(told),
                Event::Change(change) => self.change(*change, now)?,
            }
        }
    }

    /// Asks what no change tells.
    fn look(&mut self) {
        if self.questions.len() < MAX_QUESTIONS {
            let client = self.client.clone();
            self.questions.push(async move { Told::Nodes(ps::nodes(&client).await) }.boxed_local());
        }
        if self.questions.len() < MAX_QUESTIONS {
            let client = self.client.clone();
            let (state, limit) = (Some(ExecutionState::Running), Some(MAX_USED));
            let ask = async move {
                let query = ExecutionQuery { state, limit, ..ExecutionQuery::default() };
                // What is not known stays as it was; that the server does not answer is seen elsewhere.
                Told::Used(client.execution_list(&query).await.map(|page| page.items).unwrap_or_default())
            };
            self.questions.push(ask.boxed_local());
        }
        if let Some(oldest) = self.board.oldest_queued().filter(|_| self.questions.len() < MAX_QUESTIONS) {
            let client = self.client.clone();
            let ask = async move {
                let execution = client.execution_get(oldest).await.ok();
                Told::Waiting(oldest, execution.and_then(|execution| execution.waiting))
            };
            self.questions.push(ask.boxed_local());
        }
        let is_due = self.board.is_partial() && self.relist.tick().now_or_never().is_some();
        if !self.is_listing && (self.is_lost || is_due) {
            self.is_listing = true;
            let client = self.client.clone();
            self.questions.push(async move { Told::Live(list(&client).await) }.boxed_local());
        }
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Nodes(Ok(nodes)) => {
                self.board.nodes(nodes);
                self.board.trouble(None);
            }
            Told::Live(Ok((head, page))) => {
                self.board.list(head, &page);
                self.is_listing = false;
                if std::mem::take(&mut self.is_lost) {
                    self.changes = follow(&self.client, head);
                }
            }
            Told::Live(Err(error)) => {
                self.is_listing = false;
                self.board.trouble(Some(error.to_string()));
            }
            Told::Nodes(Err(error)) => self.board.trouble(Some(error.to_string())),
            Told::Used(running) => self.board.used(&running),
            Told::Waiting(id, why) => self.board.waiting(id, why),
        }
    }

    /// Takes a change, and those that are there already.
    fn change(&mut self, change: Result<Change, ClientError>, now: jiff::Timestamp) -> anyhow::Result<()> {
        let mut next = Some(change);
        for _ in 0..MAX_BATCH {
            match next {
                None => return Ok(()),
                Some(Err(error)) if error.is_code("cursor_gone") => {
                    self.is_lost = true;
                    return Ok(());
                }
                Some(change) => self.board.change(&change?, now),
            }
            next = match self.changes.next().now_or_never() {
                None => None,
                Some(None) => return Err(Failure::new(Exit::Failed, "unexpected", "the log ended").into()),
                Some(change) => change,
            };
        }
        Ok(())
    }
}

fn follow(client: &Client, head: u64) -> BoxStream<'static, Result<Change, ClientError>> {
    let query = ChangeQuery { after: Some(head), noun: Some(Noun::Execution), ..ChangeQuery::default() };
    client.follow(&query).boxed()
}
