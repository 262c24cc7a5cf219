//! Rows that operations of one group insert, gathered into one statement.
//!
//! On PostgreSQL the work of a statement is mostly the statement, not the row: 256 rows in one cost a tenth of 256
//! statements. Operations that overlap hand their rows in here and wait; whoever runs them sends what has gathered. On
//! SQLite there is nothing to save, and each row goes at once.

use crate::error::StoreError;
use crate::postgres;
use crate::value::Value;
use deadpool_postgres::Object;
use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use tokio::sync::oneshot;
use tokio_postgres::types::ToSql;

/// What a column holds; a column of nothing but nulls does not show it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Numbers.
    Int,
    /// Texts.
    Text,
}

/// How rows of one sort are inserted. A row whose first value is there already is passed over.
#[derive(Debug)]
pub(crate) struct Insert {
    /// The statement for one row.
    pub(crate) one: &'static str,
    /// The statement for many, on PostgreSQL; it returns the first value of each row that is new.
    pub(crate) many: &'static str,
    /// What the columns hold.
    pub(crate) kinds: &'static [Kind],
}

#[derive(Debug)]
struct Waiting {
    into: &'static Insert,
    values: Vec<Value>,
    done: oneshot::Sender<Result<bool, StoreError>>,
}

/// Rows that wait to be inserted.
#[derive(Debug, Default)]
pub(crate) struct Bulk {
    waiting: Mutex<Vec<Waiting>>,
}

impl Bulk {
    /// Hands in a row, and tells whether it is new once it has been inserted with the others.
    pub(crate) async fn insert(&self, into: &'static Insert, values: Vec<Value>) -> Result<bool, StoreError> {
        let (done, inserted) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Waiting { into, values, done });
        inserted.await.map_err(|_| StoreError::Unavailable { source: None })?
    }

    /// Inserts what is handed in, for as long as it is polled. It must be polled by the task that runs the operations,
    /// after them: then it needs no other sign that there is something to do.
    pub(crate) async fn serve(&self, client: &Object) {
        loop {
            let mut waiting = poll_fn(|_| {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if waiting.is_empty() { Poll::Pending } else { Poll::Ready(std::mem::take(&mut *waiting)) }
            })
            .await;
            while let Some(first) = waiting.first() {
                let into = first.into;
                let (same, others) = waiting.into_iter().partition(|row| std::ptr::eq(row.into, into));
                waiting = others;
                insert(client, same).await;
            }
        }
    }
}

/// Inserts rows of one sort, and tells each whether it is new.
async fn insert(client: &Object, rows: Vec<Waiting>) {
    let Some(into) = rows.first().map(|row| row.into) else { return };
    let columns = into.kinds.iter().enumerate().map(|(index, kind)| column(&rows, index, *kind)).collect::<Vec<_>>();
    let arguments = columns.iter().map(|column| &**column as &(dyn ToSql + Sync)).collect::<Vec<_>>();
    let inserted = postgres::query_columns(client, into.many, &arguments).await;
    drop(arguments);
    drop(columns);
    let mut new = match inserted {
        Ok(new) => new.iter().filter_map(|row| row.text(0).ok().map(str::to_owned)).collect::<HashSet<_>>(),
        Err(error) => {
            // The transaction is broken for all of them; the first carries the cause, the others run again with it.
            let mut error = Some(error);
            for row in rows {
                drop(row.done.send(Err(error.take().unwrap_or(StoreError::Again))));
            }
            return;
        }
    };
    for row in rows {
        // Of two rows with the same key in one statement the first is the new one.
        let is_new = matches!(&row.values[0], Value::Text(key) if new.remove(key));
        drop(row.done.send(Ok(is_new)));
    }
}

fn column<'r>(rows: &'r [Waiting], index: usize, kind: Kind) -> Box<dyn ToSql + Sync + Send + 'r> {
    match kind {
        Kind::Int => Box::new(
            rows.iter()
                .map(|row| if let Value::Int(value) = row.values[index] { Some(value) } else { None })
                .collect::<Vec<_>>(),
        ),
        Kind::Text => Box::new(
            rows.iter()
                .map(|row| if let Value::Text(value) = &row.values[index] { Some(value.as_str()) } else { None })
                .collect::<Vec<_>>(),
        ),
    }
}
