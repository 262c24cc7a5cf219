//! Flows: datagrams between one port of the sandbox and one peer, each over a socket of the node's own that is connected
//! to the peer, so that nobody else's datagrams come in. A flow ends when nothing went either way for a while.

use super::count::{Counters, add};
use super::packet::{Pair, write_datagram};
use super::wire::Wire;
use rustix::net::SendFlags;
use std::collections::HashMap;
use std::io;
use std::task::Context;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;

/// Flows of one sandbox; a new one ends the one that was silent longest.
const MAX_FLOWS: usize = 256;
/// How long a flow may be silent.
const MAX_SILENCE: Duration = Duration::from_secs(60);
/// Datagrams that one flow brings in before another has its turn.
const MAX_STEPS: usize = 16;
/// Bytes of a datagram's content.
const MAX_CONTENT_BYTES: usize = 65_507;

/// The flows of one sandbox.
#[derive(Debug)]
pub(crate) struct Flows {
    flows: HashMap<Pair, Flow>,
    content: Vec<u8>,
}

#[derive(Debug)]
struct Flow {
    socket: UdpSocket,
    used_at: Instant,
}

impl Flows {
    /// Makes an empty set.
    pub(crate) fn new() -> Self {
        Self { flows: HashMap::new(), content: vec![0; MAX_CONTENT_BYTES] }
    }

    /// Sends a datagram over its flow, if it has one.
    pub(crate) fn send(&mut self, pair: Pair, content: &[u8], now: Instant, counters: &Counters) -> bool {
        let Some(flow) = self.flows.get_mut(&pair) else { return false };
        flow.used_at = now;
        // Not by tokio, which would first wait to hear that a new socket takes anything. What finds no room is lost.
        match rustix::net::send(&flow.socket, content, SendFlags::DONTWAIT) {
            Ok(bytes) => add(&counters.bytes_out, bytes),
            Err(_) => add(&counters.dropped, 1),
        }
        true
    }

    /// Opens a flow.
    pub(crate) fn open(&mut self, pair: Pair, socket: UdpSocket, now: Instant) {
        if self.flows.len() >= MAX_FLOWS {
            let stalest = self.flows.iter().min_by_key(|(_, flow)| flow.used_at).map(|(pair, _)| *pair);
            stalest.map(|pair| self.flows.remove(&pair));
        }
        self.flows.insert(pair, Flow { socket, used_at: now });
    }

    /// Brings in what came from the peers; tells whether there may be more at once.
    pub(crate) fn carry(&mut self, wire: &mut Wire, counters: &Counters, context: &mut Context<'_>) -> bool {
        let mut has_more = false;
        let now = Instant::now();
        for (pair, flow) in &mut self.flows {
            for step in 0..MAX_STEPS {
                match flow.socket.try_recv(&mut self.content) {
                    Ok(bytes) => {
                        flow.used_at = now;
                        add(&counters.bytes_in, bytes);
                        write_datagram(wire, *pair, &self.content[..bytes]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if flow.socket.poll_recv_ready(context).is_pending() {
                            break;
                        }
                    }
                    // The peer's refusals come in here; the next datagram may fare better.
                    Err(_) => {}
                }
                has_more |= step + 1 == MAX_STEPS;
            }
        }
        has_more
    }

    /// Ends flows that were silent for long, and tells when to look again.
    pub(crate) fn sweep(&mut self, now: Instant) -> Option<Instant> {
        self.flows.retain(|_, flow| now.duration_since(flow.used_at) < MAX_SILENCE);
        self.flows.values().map(|flow| flow.used_at + MAX_SILENCE).min()
    }
}
