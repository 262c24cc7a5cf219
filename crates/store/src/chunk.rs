//! Chunks: what an execution writes and reads, numbered without gaps. What is already there, said again, is harmless.
//!
//! Output and error stand under the attempt that wrote them, input under attempt 0. Only the session that holds an
//! attempt adds to it (the fence), and never more than the execution's limit, with room for the mark that says so.

use crate::content::{self, BlobGet};
use crate::error::StoreError;
use crate::execution::{get, missing};
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Session, Tx};
use crate::value::{Row, Value};
use model::chunk::Bytes;
use model::limits::{MAX_CHUNK_BLOB_BYTES, MAX_INPUT_BYTES, MAX_MARK_BYTES};
use model::{
    ApiError, Chunk, ChunkPage, Content, ErrorKind, Execution, ExecutionId, ExecutionState, Input, SessionId, TenantId,
};

/// Under which attempt input stands.
const INPUT: u32 = 0;
/// Chunks that are read at once.
const SLICE: u32 = 64;
/// Bytes after which a page ends, a slice more or less.
const PAGE_BYTES: u64 = 512 << 10;

/// The columns of a chunk, in the order in which [`read`] takes them.
macro_rules! columns {
    () => {
        "number, stream, at, size, is_end, blob, bytes"
    };
}

statements! {
    LAST = "SELECT number, total, is_end FROM chunk WHERE execution = $1 AND attempt = $2 ORDER BY number DESC LIMIT 1";
    ONE = concat!("SELECT ", columns!(), " FROM chunk WHERE execution = $1 AND attempt = $2 AND number = $3");
    LIST = concat!(
        "SELECT ", columns!(), " FROM chunk WHERE execution = $1 AND attempt = $2 AND number > $3 \
         ORDER BY number LIMIT $4"
    );
    ADD = "INSERT INTO chunk (execution, attempt, number, stream, at, size, total, is_end, blob, bytes) \
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    /// The attempt that last wrote anything.
    WRITER = "SELECT max(attempt) FROM chunk WHERE execution = $1 AND attempt > 0";
    /// What a look at an execution's chunks needs of the execution itself.
    ABOUT = "SELECT tenant, state, attempt FROM execution WHERE id = $1";
    /// Whoever adds input holds the row against its end, and against another who adds.
    HOLD_SQLITE = "SELECT id FROM execution WHERE id = $1";
    HOLD_POSTGRES = "SELECT id FROM execution WHERE id = $1 FOR UPDATE";
}

fn read(row: &Row) -> Result<Chunk, StoreError> {
    let content = match row.maybe_parsed(5)? {
        Some(digest) => Content::Blob { digest, size: row.count(3)? },
        None => Content::Inline { bytes: Bytes(row.bytes(6)?.to_vec()) },
    };
    Ok(Chunk { number: row.count(0)?, stream: row.word(1)?, at: row.time(2)?, content, end: row.int(4)? != 0 })
}

fn refusal(kind: ErrorKind, code: &str, message: String) -> StoreError {
    StoreError::Refused(Box::new(ApiError::new(kind, code, message)))
}

/// Adds chunks to one attempt, one after the other.
pub(crate) struct Appender {
    execution: ExecutionId,
    tenant: TenantId,
    attempt: u32,
    last: u64,
    total: u64,
    is_ended: bool,
    max_bytes: u64,
}

impl Appender {
    /// Begins to add to what an attempt wrote, if it is this session that holds it.
    pub(crate) async fn output(
        tx: &Tx<'_>,
        id: ExecutionId,
        attempt: u32,
        session: SessionId,
    ) -> Result<Self, StoreError> {
        let found = get(tx, id).await?.ok_or_else(|| missing(id))?;
        if found.attempt != attempt || found.lease.is_none_or(|lease| lease.session != session) {
            return Err(StoreError::Stale { id: id.to_string(), attempt });
        }
        let max_bytes = found.recipe.limits.log_bytes.saturating_add(MAX_MARK_BYTES);
        Self::at_end(tx, &found, attempt, max_bytes).await
    }

    async fn at_end(tx: &Tx<'_>, found: &Execution, attempt: u32, max_bytes: u64) -> Result<Self, StoreError> {
        let row = tx.row(LAST, &[found.id.into(), attempt.into()]).await?;
        let (last, total, is_ended) = match row {
            Some(row) => (row.count(0)?, row.count(1)?, row.int(2)? != 0),
            None => (0, 0, false),
        };
        Ok(Self { execution: found.id, tenant: found.tenant, attempt, last, total, is_ended, max_bytes })
    }

    /// Adds one chunk, unless it is there. A refusal has written nothing.
    pub(crate) async fn add(&mut self, tx: &Tx<'_>, chunk: &Chunk) -> Result<(), StoreError> {
        let (number, id) = (chunk.number, self.execution);
        let key = [id.into(), self.attempt.into(), number.into()];
        if number <= self.last {
            let there = tx.row(ONE, &key).await?.as_ref().map(read).transpose()?;
            // When it was read is what may differ: whoever says it again may have looked at the clock again.
            return match there {
                Some(there) if same(&there, chunk) => Ok(()),
                _ => Err(refusal(
                    ErrorKind::Conflict,
                    "chunk_exists",
                    format!("chunk {number} of execution `{id}` is there already, and is different"),
                )),
            };
        }
        if number != self.last + 1 {
            let message = format!("chunk {number} of execution `{id}` comes before chunk {}", self.last + 1);
            return Err(refusal(ErrorKind::Conflict, "chunk_gap", message));
        }
        let size = chunk.content.size();
        let total = self.total.saturating_add(size);
        if total > self.max_bytes {
            let message = format!("execution `{id}` may have {} bytes of it, not {total}", self.max_bytes);
            return Err(refusal(ErrorKind::TooLarge, "chunks_too_long", message));
        }
        if self.is_ended && self.attempt == INPUT {
            let message = format!("the input of execution `{id}` has ended");
            return Err(refusal(ErrorKind::Conflict, "input_ended", message));
        }
        let (blob, bytes) = self.content(tx, chunk).await?;
        let [execution, attempt, number] = key;
        let stream = chunk.stream.as_str().into();
        let end = Value::Int(chunk.end.into());
        tx.execute(
            ADD,
            &[execution, attempt, number, stream, chunk.at.into(), size.into(), total.into(), end, blob, bytes],
        )
        .await?;
        (self.last, self.total, self.is_ended) = (chunk.number, total, self.is_ended || chunk.end);
        Ok(())
    }

    /// Returns what the row holds: the bytes, or the name of a blob that is there and as long as it says.
    async fn content(&self, tx: &Tx<'_>, chunk: &Chunk) -> Result<(Value, Value), StoreError> {
        match &chunk.content {
            Content::Inline { bytes } => Ok((Value::Null, bytes.0.as_slice().into())),
            Content::Blob { digest, size } => {
                let there = BlobGet { digest: *digest, tenant: self.tenant }.run(tx).await?;
                if there.size != *size || *size > MAX_CHUNK_BLOB_BYTES {
                    let message =
                        format!("blob `{digest}` has {} bytes, of at most {MAX_CHUNK_BLOB_BYTES}", there.size);
                    return Err(refusal(ErrorKind::Invalid, "chunk_invalid", message));
                }
                content::name(tx, self.tenant, *digest).await?;
                Ok(((*digest).into(), Value::Null))
            }
        }
    }
}

fn same(there: &Chunk, said: &Chunk) -> bool {
    there.stream == said.stream && there.content == said.content && there.end == said.end
}

/// Sends an execution something to read.
struct InputSend {
    id: ExecutionId,
    tenant: Option<TenantId>,
    chunk: Chunk,
}

impl Operation for InputSend {
    type Answer = Chunk;

    async fn run(&self, tx: &Tx<'_>) -> Result<Chunk, StoreError> {
        let hold = match tx.session() {
            Session::Sqlite(_) => HOLD_SQLITE,
            Session::Postgres(_) => HOLD_POSTGRES,
        };
        tx.row(hold, &[self.id.into()]).await?;
        let found = get(tx, self.id).await?;
        let found = found
            .filter(|found| self.tenant.is_none_or(|tenant| tenant == found.tenant))
            .ok_or_else(|| missing(self.id))?;
        let refuse =
            |code, why: &str| Err(refusal(ErrorKind::Conflict, code, format!("execution `{}` {why}", self.id)));
        if found.recipe.input != Input::Stream {
            return refuse("input_not_streamed", "takes no input while it runs");
        }
        if found.state.is_final() {
            return refuse("execution_ended", "has ended");
        }
        Appender::at_end(tx, &found, INPUT, MAX_INPUT_BYTES).await?.add(tx, &self.chunk).await?;
        Ok(self.chunk.clone())
    }
}

/// Which chunks to look at.
#[derive(Clone, Copy, Debug)]
pub struct ChunkCheck {
    /// Of which execution.
    pub id: ExecutionId,
    /// Whose it must be; nobody named means that anybody's will do.
    pub tenant: Option<TenantId>,
    /// Of which attempt; none means the last one that wrote any.
    pub attempt: Option<u32>,
    /// Only those with a higher number.
    pub after: u64,
    /// How many at most.
    pub limit: u32,
}

impl Operation for ChunkCheck {
    type Answer = ChunkPage;

    async fn run(&self, tx: &Tx<'_>) -> Result<ChunkPage, StoreError> {
        // The execution first: what it wrote before its end is there when its end is.
        let about = tx.row(ABOUT, &[self.id.into()]).await?.ok_or_else(|| missing(self.id))?;
        let tenant: TenantId = about.parsed(0)?;
        if self.tenant.is_some_and(|ours| ours != tenant) {
            return Err(missing(self.id));
        }
        let state: ExecutionState = about.word(1)?;
        let current = u32::try_from(about.count(2)?).unwrap_or(u32::MAX);
        let attempt = match self.attempt {
            Some(attempt) => attempt,
            None => match tx.row(WRITER, &[self.id.into()]).await?.map(|row| row.maybe_int(0)).transpose()?.flatten() {
                Some(attempt) => u32::try_from(attempt).unwrap_or(u32::MAX),
                // Nothing has run, so nothing was written; under attempt 0 there is only what it is to read.
                None if current == INPUT => {
                    let ended = state.is_final();
                    return Ok(ChunkPage { attempt: current, items: Vec::new(), next: self.after, ended });
                }
                None => current,
            },
        };
        let is_over = state.is_final() || (attempt != INPUT && attempt < current);
        let mut page = ChunkPage { attempt, items: Vec::new(), next: self.after, ended: false };
        let mut bytes = 0;
        loop {
            let left = self.limit.saturating_sub(u32::try_from(page.items.len()).unwrap_or(u32::MAX)).min(SLICE);
            if left == 0 || bytes >= PAGE_BYTES {
                return Ok(page);
            }
            let rows = tx.rows(LIST, &[self.id.into(), attempt.into(), page.next.into(), left.into()]).await?;
            for row in &rows {
                let chunk = read(row)?;
                if let Content::Inline { bytes: inline } = &chunk.content {
                    bytes += inline.0.len() as u64;
                }
                page.next = chunk.number;
                page.ended = attempt == INPUT && chunk.end;
                page.items.push(chunk);
            }
            if rows.len() < left as usize {
                page.ended |= is_over;
                return Ok(page);
            }
        }
    }
}

impl Store {
    /// Sends an execution something to read while it runs.
    pub async fn input_send(
        &self,
        id: ExecutionId,
        tenant: Option<TenantId>,
        chunk: Chunk,
    ) -> Result<Chunk, StoreError> {
        self.write(InputSend { id, tenant, chunk }).await
    }

    /// Returns some chunks of an attempt, or of the input, which is attempt 0.
    pub async fn chunk_list(&self, check: ChunkCheck) -> Result<ChunkPage, StoreError> {
        self.read(check).await
    }
}
