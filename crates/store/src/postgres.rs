//! PostgreSQL: one connection that writes, a pool that reads, and one that hears when another server has written.

use crate::error::StoreError;
use crate::value::{Row, Value};
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use rustls_platform_verifier::BuilderVerifierExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Config};
use tokio_util::sync::CancellationToken;

/// The oldest server version that is supported.
const OLDEST: i64 = 150_000;
/// How long a connection may be silent in the middle of something.
const SILENCE: Duration = Duration::from_secs(30);
/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long to wait for a place among those who ask what may take long.
const TURN: Duration = Duration::from_secs(20);

/// The connections to one database.
#[derive(Clone)]
pub(crate) struct Postgres {
    pub(crate) writer: Pool,
    pub(crate) readers: Pool,
    /// Those of them that questions may have which take long.
    asking: Arc<Semaphore>,
    config: Config,
}

impl Postgres {
    /// Prepares the pools and makes sure that the database is there and new enough.
    pub(crate) async fn open(url: &str, readers: usize) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Postgres { doing: "reading the database's address", source };
        let mut config: Config = url.parse().map_err(failed)?;
        config.application_name("quarry").connect_timeout(CONNECT);
        // A network that goes silent must not hold the writer for the kernel's quarter of an hour.
        config.tcp_user_timeout(SILENCE).keepalives_idle(SILENCE);
        // A forgotten snapshot starves the vacuum, and with it the queue.
        let options = config.get_options().unwrap_or_default();
        // Every statement of ours is over before a compiler would be; the walk over the queue's index looks costly to the
        // planner and would be compiled anew each time (measured: 12 ms in place of 0.07 ms).
        let ours = "-c idle_in_transaction_session_timeout=60000 -c timezone=UTC -c jit=off";
        config.options(format!("{options} {ours}").trim().to_owned());
        let pool = |size| {
            let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
            let manager = Manager::from_config(config.clone(), tls(), recycling);
            Pool::builder(manager)
                .max_size(size)
                .wait_timeout(Some(CONNECT))
                .create_timeout(Some(CONNECT))
                .runtime(Runtime::Tokio1)
                .build()
                .map_err(|source| StoreError::Unavailable { source: Some(source.into()) })
        };
        let asking = Arc::new(Semaphore::new((readers / 2).max(1)));
        let postgres = Self { writer: pool(1)?, readers: pool(readers)?, asking, config: config.clone() };
        let version =
            rows(&postgres.client().await?, "SELECT cast(current_setting('server_version_num') as bigint)", &[])
                .await?
                .first()
                .map_or(Ok(0), |row| row.int(0))?;
        if version < OLDEST {
            let why = format!("the database is PostgreSQL {}; 15 or newer is needed", version / 10_000);
            return Err(StoreError::Unsupported { why });
        }
        Ok(postgres)
    }

    /// Lets go of every connection that is not in use, and gives out no more.
    pub(crate) fn close(&self) {
        self.writer.close();
        self.readers.close();
    }

    /// Waits for a place among those who ask what may take long; they may not have all connections.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        match tokio::time::timeout(TURN, self.asking.acquire()).await {
            Ok(turn) => turn.map_err(|_| StoreError::Unavailable { source: None }),
            Err(_) => Err(StoreError::Busy),
        }
    }

    /// Returns a connection that reads.
    pub(crate) async fn client(&self) -> Result<Object, StoreError> {
        get(&self.readers).await
    }

    /// Calls `wake` whenever another server says that the log has moved, until told to stop. It connects again as
    /// often as needed; what it misses meanwhile, the poll behind it finds.
    pub(crate) async fn listen(&self, wake: impl Fn(), stop: CancellationToken) {
        const AGAIN: Duration = Duration::from_secs(2);
        while !stop.is_cancelled() {
            let ended = stop.run_until_cancelled(self.listen_once(&wake)).await;
            if let Some(Err(error)) = ended {
                tracing::debug!(%error, "lost the connection that listens");
            }
            stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
        }
    }

    async fn listen_once(&self, wake: &impl Fn()) -> Result<(), tokio_postgres::Error> {
        let (client, mut connection) = self.config.connect(tls()).await?;
        let hear = async {
            while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if matches!(message?, AsyncMessage::Notification(_)) {
                    wake();
                }
            }
            Ok(())
        };
        let ask = async {
            client.batch_execute("LISTEN quarry_log").await?;
            std::future::pending::<Result<(), tokio_postgres::Error>>().await
        };
        tokio::select! {
            heard = hear => heard,
            asked = ask => asked,
        }
    }
}

/// Returns a connection of a pool, connecting if need be.
pub(crate) async fn get(pool: &Pool) -> Result<Object, StoreError> {
    pool.get().await.map_err(|source| StoreError::Unavailable { source: Some(source.into()) })
}

/// Returns TLS with the roots that the machine trusts; whether it is used, the address's `sslmode` says.
fn tls() -> tokio_postgres_rustls::MakeRustlsConnect {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .expect("ring speaks every version that rustls does, and the verifier reads the roots when first asked")
        .with_no_client_auth();
    tokio_postgres_rustls::MakeRustlsConnect::new(config)
}

fn failed(source: tokio_postgres::Error) -> StoreError {
    // Classes of states: the connection broke, the server lacks something, an operator intervenes.
    let gone = |code: &SqlState| ["08", "53", "57"].iter().any(|class| code.code().starts_with(class));
    if source.is_closed() || source.code().is_none_or(gone) {
        return StoreError::Unavailable { source: Some(source.into()) };
    }
    StoreError::Postgres { doing: "running a statement", source }
}

/// Reads rows, or writes and returns what the statement returns.
pub(crate) async fn rows(client: &Object, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
    let statement = client.prepare_cached(sql).await.map_err(failed)?;
    let found = client.query(&statement, &arguments(values)).await.map_err(failed)?;
    found.iter().map(Row::from_postgres).collect::<Result<_, _>>().map_err(failed)
}

/// Reads rows by a text that will hardly come again: planned for these values, kept by nobody, and given up after a while.
pub(crate) async fn ask(
    client: &Object,
    sql: &str,
    values: &[Value],
    patience: Duration,
) -> Result<Vec<Row>, StoreError> {
    let kind = |value: &Value| match value {
        Value::Int(_) => Type::INT8,
        Value::Bytes(_) => Type::BYTEA,
        Value::Text(_) | Value::Null => Type::TEXT,
    };
    let values: Vec<_> = values.iter().map(|value| (value as &(dyn ToSql + Sync), kind(value))).collect();
    let bound = format!("SET statement_timeout = {}", patience.as_millis());
    // All three are sent before the first is answered: one round trip. Where the question breaks a transaction, the last
    // fails, and undoing the transaction sets back what the first has set.
    let (bounded, found, _) = futures_util::join!(
        client.batch_execute(&bound),
        client.query_typed(sql, &values),
        client.batch_execute("SET statement_timeout = 0"),
    );
    bounded.map_err(failed)?;
    let found = found.map_err(|source| match source.code() {
        Some(&SqlState::QUERY_CANCELED) => StoreError::Slow { after: patience },
        _ => failed(source),
    })?;
    found.iter().map(Row::from_postgres).collect::<Result<_, _>>().map_err(failed)
}

/// Writes, and returns how many rows were touched.
pub(crate) async fn execute(client: &Object, sql: &'static str, values: &[Value]) -> Result<u64, StoreError> {
    let statement = client.prepare_cached(sql).await.map_err(failed)?;
    client.execute(&statement, &arguments(values)).await.map_err(failed)
}

/// Makes a statement ready, so that using it sends its message at once.
pub(crate) async fn prepare(client: &Object, sql: &'static str) -> Result<(), StoreError> {
    client.prepare_cached(sql).await.map(drop).map_err(failed)
}

/// Writes with arguments that are columns of many rows, and returns what the statement returns.
pub(crate) async fn query_columns(
    client: &Object,
    sql: &'static str,
    columns: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, StoreError> {
    let statement = client.prepare_cached(sql).await.map_err(failed)?;
    let found = client.query(&statement, columns).await.map_err(failed)?;
    found.iter().map(Row::from_postgres).collect::<Result<_, _>>().map_err(failed)
}

/// Runs several statements that answer nothing.
pub(crate) async fn script(client: &Object, sql: &str) -> Result<(), StoreError> {
    client.batch_execute(sql).await.map_err(failed)
}

fn arguments(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}
