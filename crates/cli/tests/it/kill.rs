//! The server is killed at random moments under load, and started again by the same command and nothing else.
//!
//! Whatever was acknowledged must be there afterwards, whole; whatever was not can be asked for again under the same id.
//! The log must have neither a gap nor a repetition, must say what the tables say, and those who follow it must have
//! seen each change once and in order. Six kills by default, fifty with `QUARRY_SOAK`.

mod ledger;
mod load;

use crate::system::{Engine, Held, House, Server, http};
use load::Load;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long a start may take until requests are served; the debug build beside other tests on a busy machine.
const MAX_START: Duration = Duration::from_secs(10);

fn kills() -> u32 {
    if std::env::var_os("QUARRY_SOAK").is_some() { 50 } else { 6 }
}

/// Returns a random moment of a time span.
pub(crate) fn moment(span: Duration) -> Duration {
    let share = u32::try_from(store::random() >> 96).expect("has 32 bits");
    span.mul_f64(f64::from(share) / f64::from(u32::MAX))
}

/// Starts a server and waits until it serves; it must do so by itself and soon.
async fn start(house: &House) -> Server {
    let begun = Instant::now();
    let server = tokio::task::block_in_place(|| house.start());
    let answer = http().get(format!("{}/readyz", server.url)).send().await.expect("is answered");
    assert_eq!(answer.status(), 200);
    assert!(begun.elapsed() < MAX_START, "the start took {:?}", begun.elapsed());
    server
}

/// Begins a start that is killed when this is dropped.
fn begin(house: &House) -> Held {
    let mut command = house.command();
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Held::start(command)
}

async fn killed_under_load(engine: Engine) {
    let Some(house) = House::new(engine) else { return };
    // The load is one caller, who would soon be told to slow down.
    let house = house.at_one_address().with(&["--set", "rate.per_second=0", "--set", "log.level=warn"]);
    let mut server = start(&house).await;
    let load = Load::begin(&server, &house);
    for kill in 0..kills() {
        load.await_progress().await;
        // A random moment is what this is about; there is nothing to wait on.
        tokio::time::sleep(moment(Duration::from_millis(300))).await;
        load.expect_no_server();
        server.kill();
        if kill % 3 == 2 {
            // The next start is killed too, before or after it has begun to serve.
            let first = begin(&house);
            tokio::time::sleep(moment(Duration::from_millis(150))).await;
            drop(first);
        }
        server = start(&house).await;
        assert_eq!(server.shown, None, "a start after a kill shows no token");
        load.expect_server();
    }
    load.await_progress().await;
    load.finish().await.check(&server).await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_on_sqlite() {
    killed_under_load(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_on_postgres() {
    killed_under_load(Engine::Postgres).await;
}

/// Kills the very first start at a random moment, in a house in which nothing is; the next one must make it whole.
async fn killed_at_first(engine: Engine) {
    let Some(house) = House::new(engine) else { return };
    let whole = start(&house).await.took;
    for _ in 0..kills() {
        let house = House::new(engine).expect("was there a moment ago");
        let first = begin(&house);
        tokio::time::sleep(moment(whole)).await;
        drop(first);
        let server = start(&house).await;
        let ran = server.run(&house.token(), &["user", "ls"]);
        assert_eq!((ran.code, ran.out.lines().count()), (0, 2), "there is one user: {ran:?}");
        let ran = server.run(&house.token(), &["tenant", "ls"]);
        assert_eq!((ran.code, ran.out.lines().count()), (0, 2), "there is one tenant: {ran:?}");
        let ran = server.run(&house.token(), &["changes", "--json"]);
        let nouns = |line: &str| serde_json::from_str::<model::Change>(line).expect("is a change").noun.as_str();
        let nouns: Vec<_> = ran.out.lines().map(nouns).collect();
        assert!(nouns.starts_with(&["tenant", "user", "token"]) && nouns.len() <= 4, "{nouns:?}");
        server.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_first_on_sqlite() {
    killed_at_first(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_first_on_postgres() {
    killed_at_first(Engine::Postgres).await;
}
