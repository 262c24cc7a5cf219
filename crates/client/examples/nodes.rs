//! Many nodes in one process, as far as the protocol goes: they join, wait at the server for work, take what they are given
//! and say that it has ended. Prints how long syncs took, as JSON. Used by `bench/nodes`.
//!
//! A sync that waits is measured by how much longer it took than it asked to wait; one that reports, by all of its time.

use client::{Client, ClientError, Options};
use model::image::Platform;
use model::node::{Finished, Held, Sync};
use model::{LimitSet, Network, NewNode, NodeId, Offer, Outcome, SandboxKind, SessionId, Usage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// How long a sync may wait for work.
const WAIT_MS: u64 = 8_000;

#[derive(Default)]
struct Told {
    waits: Vec<u64>,
    reports: Vec<u64>,
}

/// What all nodes share.
struct Fleet {
    client: Client,
    told: Mutex<Told>,
    failed: AtomicU64,
    finished: AtomicU64,
    begin: Instant,
    end: Instant,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().expect("URL TOKEN NODES SECONDS");
    let (url, token) = (next(), next());
    let (nodes, seconds): (u64, u64) = (next().parse().expect("a number"), next().parse().expect("a number"));
    let client = Client::new(&url, Some(&token), Options::default()).expect("an address and a token");
    // The first part of the time is for joining, and is not measured.
    let joining = Duration::from_secs(5 + nodes / 200);
    let begin = Instant::now() + joining;
    let fleet = Arc::new(Fleet {
        client,
        told: Mutex::default(),
        failed: AtomicU64::new(0),
        finished: AtomicU64::new(0),
        begin,
        end: begin + Duration::from_secs(seconds),
    });
    let mut tasks = JoinSet::new();
    for number in 0..nodes {
        let fleet = Arc::clone(&fleet);
        // Spread over the time of joining: a thundering herd is another subject.
        let pause = joining.mul_f64(number as f64 / nodes as f64) * 4 / 5;
        tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            if let Err(error) = fleet.live(number).await {
                fleet.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, number, "a node failed");
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let mut told = fleet.told.lock().await;
    let quantile = |values: &mut Vec<u64>, share: f64| {
        values.sort_unstable();
        let at = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
        values.get(at).map_or(0.0, |micros| *micros as f64 / 1_000.0)
    };
    let Told { waits, reports } = &mut *told;
    let result = serde_json::json!({
        "nodes": nodes,
        "failed": fleet.failed.load(Ordering::Relaxed),
        "finished": fleet.finished.load(Ordering::Relaxed),
        "waits": waits.len(),
        "reports": reports.len(),
        "wait_p50_ms": quantile(waits, 0.5),
        "wait_p99_ms": quantile(waits, 0.99),
        "report_p50_ms": quantile(reports, 0.5),
        "report_p99_ms": quantile(reports, 0.99),
    });
    #[expect(clippy::print_stdout, reason = "this is what it is run for")]
    {
        println!("{result}");
    }
}

impl Fleet {
    async fn live(&self, number: u64) -> Result<(), ClientError> {
        let (id, session) = (client::id::fresh(NodeId::new), client::id::fresh(SessionId::new));
        self.client.node_join(&introduction(id, session, number)).await?;
        let mut held: Vec<Held> = Vec::new();
        while Instant::now() < self.end {
            let is_report = !held.is_empty();
            let sync = Sync {
                used: Vec::new(),
                session,
                free: 4,
                held: Vec::new(),
                chunks: Vec::new(),
                finished: held.drain(..).map(finished).collect(),
                wait_ms: if is_report { 0 } else { WAIT_MS },
                trouble: None,
                leaving: false,
            };
            let begun = Instant::now();
            let answer = self.client.node_sync(id, &sync).await?;
            let took = begun.elapsed();
            self.finished.fetch_add(sync.finished.len() as u64, Ordering::Relaxed);
            if begun >= self.begin {
                let mut told = self.told.lock().await;
                if is_report {
                    told.reports.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                } else {
                    let over = took.saturating_sub(Duration::from_millis(WAIT_MS));
                    told.waits.push(u64::try_from(over.as_micros()).unwrap_or(u64::MAX));
                }
            }
            held.extend(answer.assigned.iter().map(|assignment| assignment.held));
        }
        Ok(())
    }
}

fn finished(held: Held) -> Finished {
    let outcome = Outcome::Exited { code: 0 };
    Finished { held, outcome, usage: Usage::default(), dump: None, manifest: None, findings: None, asked: None }
}

fn introduction(id: NodeId, session: SessionId, number: u64) -> NewNode {
    let offer = Offer {
        version: "0.0.0".to_owned(),
        platform: Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None },
        kinds: vec![SandboxKind::Process, SandboxKind::Oci],
        networks: vec![Network::None],
        runtimes: Vec::new(),
        slots: 4,
        cpu_milli: 4_000,
        memory_bytes: 16 << 30,
        enforces: LimitSet::ALL,
        mounts: Vec::new(),
        labels: BTreeMap::new(),
    };
    NewNode { id, name: format!("simulated-{number}"), session, offer }
}
