//! The log: a page of it, and following it without a gap.
//!
//! `follow` never skips and never repeats a change: it knows where it stands from its first moment on, takes up a broken
//! connection at that place, and drops what it has passed on already. It ends at a refusal (`cursor_gone`: the place is
//! no longer in the log) and when the server has been silent for longer than `Retry` allows.

use crate::event::{Event, EventReader};
use crate::request::{Again, Backoff, Fault, MAX_ANSWER, MAX_SILENCE, Replay};
use crate::{Client, ClientError, Retry};
use futures_util::Stream;
use futures_util::stream;
use model::{Change, ChangeQuery, Page};
use reqwest::header::ACCEPT;
use reqwest::{Method, Response};
use std::collections::VecDeque;
use tokio::time::timeout;

impl Client {
    /// Returns a page of the log, holding the request open for `wait_ms` if there is nothing yet.
    pub async fn changes(&self, query: &ChangeQuery) -> Result<Page<Change>, ClientError> {
        let query = self.change_query(query);
        let within = MAX_ANSWER + query.hold();
        self.json(Replay::Safe, || self.request(Method::GET, "/v1/changes").query(&query).timeout(within)).await
    }

    /// Returns the number of the newest change there is.
    pub async fn head(&self) -> Result<u64, ClientError> {
        let query = ChangeQuery { limit: Some(1), ..ChangeQuery::default() };
        Ok(self.changes(&query).await?.as_of)
    }

    /// Follows the log from `query.after`, or from now on; every change once and in order.
    pub fn follow(&self, query: &ChangeQuery) -> impl Stream<Item = Result<Change, ClientError>> + Send + use<> {
        let query = ChangeQuery { limit: None, wait_ms: None, ..self.change_query(query) };
        let follower = Follower {
            client: self.clone(),
            query,
            line: None,
            ready: VecDeque::new(),
            fault: None,
            stood: false,
            backoff: None,
        };
        stream::try_unfold(follower, |mut follower| async move {
            let change = follower.next().await?;
            Ok(Some((change, follower)))
        })
    }

    fn change_query(&self, query: &ChangeQuery) -> ChangeQuery {
        let mut query = query.clone();
        query.tenant = query.tenant.or_else(|| self.tenant.clone());
        query
    }
}

/// A connection that stands, and what has been read of an event so far.
struct Line {
    response: Response,
    reader: EventReader,
}

/// Somebody who follows the log; `query.after` is the number of the last change passed on or known to be none of ours.
struct Follower {
    client: Client,
    query: ChangeQuery,
    line: Option<Line>,
    ready: VecDeque<Change>,
    /// What ended the line, once all that came before it is passed on.
    fault: Option<Fault>,
    /// Whether a line ever stood: before that, we give up as early as with any other request.
    stood: bool,
    /// There while nothing comes: since when, and how long to pause next.
    backoff: Option<Backoff>,
}

impl Follower {
    async fn next(&mut self) -> Result<Change, ClientError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            if let Some(fault) = self.fault.take() {
                self.line = None;
                self.wait(fault).await?;
            }
            self.fault = self.advance().await.err();
        }
    }

    /// Connects where there is no connection, and otherwise reads what comes next.
    async fn advance(&mut self) -> Result<(), Fault> {
        let Some(line) = &mut self.line else {
            self.line = Some(self.connect().await?);
            self.stood = true;
            return Ok(());
        };
        let broken = |source: &'static str| Fault {
            error: ClientError::unreachable(&self.client.url, source),
            again: Again::Unreachable,
        };
        let piece = match timeout(MAX_SILENCE, line.response.chunk()).await {
            Err(_) => return Err(broken("the stream of changes fell silent")),
            Ok(Ok(None)) => return Err(broken("the stream of changes ended")),
            Ok(Err(error)) => return Err(self.client.lost(error)),
            Ok(Ok(Some(piece))) => piece,
        };
        let mut events = Vec::new();
        let read = line.reader.push(&piece, &mut events);
        // What came whole before the damage still counts.
        for event in events {
            self.take(event)?;
        }
        self.backoff = None;
        read.map_err(|error| ClientError::unexpected(&self.client.url, error.to_string()).into())
    }

    async fn connect(&mut self) -> Result<Line, Fault> {
        if self.query.after.is_none() {
            // Without a place to begin at, a connection that breaks before its first event would lose what happens meanwhile.
            let query = ChangeQuery { limit: Some(1), tenant: self.query.tenant.clone(), ..ChangeQuery::default() };
            let request = self.client.request(Method::GET, "/v1/changes").query(&query).timeout(MAX_ANSWER);
            let page: Page<Change> = self.client.json_once(request).await?;
            self.query.after = Some(page.as_of);
        }
        let request = self
            .client
            .request(Method::GET, "/v1/changes")
            .query(&self.query)
            .header(ACCEPT, "text/event-stream")
            .header("last-event-id", self.query.after.unwrap_or(0));
        let silent = || Fault {
            error: ClientError::unreachable(&self.client.url, "no answer to the request for changes"),
            again: Again::Unreachable,
        };
        let response = timeout(MAX_ANSWER, self.client.send(request)).await.map_err(|_| silent())??;
        Ok(Line { response, reader: EventReader::default() })
    }

    fn take(&mut self, event: Event) -> Result<(), Fault> {
        let unexpected = |what: String| Fault::from(ClientError::unexpected(&self.client.url, what));
        let place = self.query.after.unwrap_or(0);
        let Some(payload) = event.payload else {
            let id = event.id.unwrap_or_default();
            let seq: u64 = id.parse().map_err(|_| unexpected("an event's id is not a number".to_owned()))?;
            self.query.after = Some(place.max(seq));
            return Ok(());
        };
        let change: Change =
            serde_json::from_str(&payload).map_err(|error| unexpected(format!("an event is not a change: {error}")))?;
        if change.seq > place {
            self.query.after = Some(change.seq);
            self.ready.push_back(change);
        }
        Ok(())
    }

    /// Pauses before the next try, or gives up.
    async fn wait(&mut self, fault: Fault) -> Result<(), ClientError> {
        let retry = self.client.retry;
        let patient = Retry { unreachable_max: retry.follow_max, busy_max: retry.follow_max, ..retry };
        let retry = if self.stood { patient } else { retry };
        let backoff = self.backoff.get_or_insert_with(|| Backoff::new(retry));
        let Some(pause) = backoff.pause(fault.again) else { return Err(fault.error) };
        tracing::debug!(error = %fault.error, ?pause, "taking up the stream of changes again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
