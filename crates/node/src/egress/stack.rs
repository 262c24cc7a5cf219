//! The stack: the one task that owns a sandbox's wire, its connections and flows. It turns: takes what came over the wire,
//! carries what can be carried, sends what there is to send, and sleeps until something wakes it.
//!
//! A connection is made outside first and only then accepted inside, so a refusal outside is a refusal inside. No turn
//! waits for anything, and each takes a bounded number of steps for each of its parties.

use super::bucket::Bucket;
use super::connection::{Connection, Far, Progress, near};
use super::count::{Counters, add};
use super::flow::Flows;
use super::message::Transport;
use super::name::Names;
use super::outside::Outside;
use super::packet::{Deed, GATEWAY_V4, GATEWAY_V6, Packet, Pair, write_datagram, write_refusal};
use super::reach::{Leave, Reach};
use super::wire::Wire;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Connections of one sandbox.
const MAX_CONNECTIONS: usize = 256;
/// Of these, how many may be in the making.
const MAX_CONNECTING: usize = 128;
/// Connections and flows a second, for long, refused ones included.
const MAX_OPENED_PER_S: u32 = 500;
/// Connections and flows at once after a silence.
const MAX_OPENED_BURST: u32 = 1000;
/// Packets a second that a sandbox may send; more wait in its own kernel, and are dropped there.
const MAX_PACKETS_PER_S: u32 = 200_000;
/// Packets of one turn.
const MAX_PACKETS: u32 = 128;
/// Messages from our own futures in one turn; more than the packets of a turn could begin.
const MAX_EVENTS: usize = 512;
/// Rounds of sending in one turn; each socket sends one segment a round.
const MAX_ROUNDS: usize = 64;
/// Refused peers that are logged by name; more are only counted.
const MAX_LOGGED: usize = 64;

/// What our own futures tell.
enum Event {
    /// A connection was made outside, or not.
    Connected { pair: Pair, result: io::Result<TcpStream> },
    /// A question was answered, if it was worth it.
    Answered { pair: Pair, answer: Option<Vec<u8>> },
    /// A stream of questions ended.
    Served,
}

/// The parts of a stack that are made before its task runs.
pub(crate) struct Parts {
    pub(crate) wire: Wire,
    pub(crate) reach: Reach,
    pub(crate) outside: Outside,
    pub(crate) counters: Arc<Counters>,
    /// Seeds the sequence numbers and is nobody else's business.
    pub(crate) seed: u64,
}

/// The state of the task.
pub(crate) struct Stack {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: HashMap<Pair, Connection>,
    /// Connections in the making, each with the packet that asked for it, unless the sandbox has given up meanwhile. The
    /// sockets are still there then, and still count.
    connecting: HashMap<Pair, Option<Vec<u8>>>,
    flows: Flows,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    names: Arc<Names>,
    reach: Arc<Mutex<Reach>>,
    outside: Arc<Outside>,
    counters: Arc<Counters>,
    openings: Bucket,
    packets: Bucket,
    logged: HashSet<SocketAddr>,
    started_at: Instant,
}

/// How a turn ended.
enum Turn {
    /// There is more to do at once.
    Busy,
    /// There is nothing to do until something wakes the task, or until then.
    Idle(Option<Instant>),
    /// The wire is gone.
    Over,
}

impl Stack {
    /// Makes one.
    pub(crate) fn new(mut parts: Parts) -> Self {
        let now = Instant::now();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = parts.seed;
        let mut interface = Interface::new(config, &mut parts.wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            for (address, bits) in [(IpAddress::from(GATEWAY_V4), 24), (IpAddress::from(GATEWAY_V6), 64)] {
                addresses.push(IpCidr::new(address, bits)).expect("smoltcp has room for two addresses");
            }
        });
        // Whatever address the sandbox speaks to, we answer for it.
        interface.set_any_ip(true);
        let reach = Arc::new(Mutex::new(parts.reach));
        let outside = Arc::new(parts.outside);
        let counters = parts.counters;
        Self {
            wire: parts.wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: HashMap::new(),
            connecting: HashMap::new(),
            flows: Flows::new(),
            events: FuturesUnordered::new(),
            names: Arc::new(Names::new(outside.clone(), reach.clone(), counters.clone())),
            reach,
            outside,
            counters,
            openings: Bucket::new(MAX_OPENED_PER_S, MAX_OPENED_BURST, now),
            packets: Bucket::new(MAX_PACKETS_PER_S, MAX_PACKETS * 8, now),
            logged: HashSet::new(),
            started_at: now,
        }
    }

    /// Turns until it is stopped or the wire is gone; then both ends of every connection are reset.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            // A turn asks for readiness of as many sockets as there are; tokio would cut it short in the middle.
            match tokio::task::coop::unconstrained(poll_fn(|context| Poll::Ready(self.turn(context)))).await {
                Turn::Busy => tokio::task::yield_now().await,
                Turn::Over => break,
                Turn::Idle(until) => {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = until_then(until) => {}
                        () = until_woken() => {}
                    }
                }
            }
        }
        self.end();
    }

    /// Does what can be done now, and sees to it that the task is woken when there is more.
    fn turn(&mut self, context: &mut Context<'_>) -> Turn {
        let mut is_busy = false;
        let throttled_until = match self.take_packets(context) {
            Ok(Taken::Everything) => None,
            Ok(Taken::Many) => {
                is_busy = true;
                None
            }
            Ok(Taken::Throttled(until)) => Some(until),
            Err(error) => {
                tracing::debug!(%error, "egress: the wire is gone");
                return Turn::Over;
            }
        };
        // After the packets, for they begin futures that must be asked once before they can wake us.
        is_busy |= self.take_events(context);
        for connection in self.connections.values_mut() {
            let near = self.sockets.get_mut(connection.handle);
            is_busy |= connection.carry(near, &self.counters, context) == Progress::More;
        }
        is_busy |= self.flows.carry(&mut self.wire, &self.counters, context);
        is_busy |= self.send();
        self.reap();
        match self.wire.poll_write(context) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Turn::Over,
            Poll::Pending => is_busy = false,
        }
        if is_busy {
            return Turn::Busy;
        }
        let flows_until = self.flows.sweep(Instant::now());
        Turn::Idle([throttled_until, flows_until, self.timer()].into_iter().flatten().min())
    }

    /// Takes what our futures tell; says whether there may be more.
    fn take_events(&mut self, context: &mut Context<'_>) -> bool {
        for _ in 0..MAX_EVENTS {
            match self.events.poll_next_unpin(context) {
                Poll::Ready(Some(Event::Connected { pair, result })) => self.connected(pair, result),
                Poll::Ready(Some(Event::Answered { pair, answer })) => {
                    if let Some(answer) = answer {
                        write_datagram(&mut self.wire, pair, &answer);
                    }
                }
                Poll::Ready(Some(Event::Served)) => {}
                Poll::Ready(None) | Poll::Pending => return false,
            }
        }
        true
    }

    /// Takes packets from the wire.
    fn take_packets(&mut self, context: &mut Context<'_>) -> io::Result<Taken> {
        let now = Instant::now();
        for _ in 0..MAX_PACKETS {
            if !self.packets.take(now) {
                return Ok(Taken::Throttled(now + Duration::from_millis(1)));
            }
            match self.wire.poll_read(context)? {
                Poll::Ready(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(bytes) => self.take_packet(bytes, now),
                Poll::Pending => return Ok(Taken::Everything),
            }
        }
        Ok(Taken::Many)
    }

    fn take_packet(&mut self, bytes: usize, now: Instant) {
        match Packet::parse(self.wire.packet(bytes)) {
            Packet::Segment { pair, deed } => self.take_segment(bytes, pair, deed, now),
            Packet::Datagram { pair, content } => self.take_datagram(bytes, pair, content, now),
            Packet::Echo => self.hand_over(bytes),
            Packet::Other => add(&self.counters.dropped, 1),
        }
    }

    /// Hands the packet in the inbox to smoltcp, which finds its socket or answers with a reset.
    fn hand_over(&mut self, bytes: usize) {
        self.wire.load(bytes);
        let now = self.now();
        self.interface.poll_ingress_single(now, &mut self.wire, &mut self.sockets);
    }

    fn take_segment(&mut self, bytes: usize, pair: Pair, deed: Deed, now: Instant) {
        if let Some(connection) = self.connections.get(&pair) {
            let is_over = connection.is_over(self.sockets.get(connection.handle));
            if deed != Deed::Open || !is_over {
                return self.hand_over(bytes);
            }
            // The sandbox uses the same port again; what is left of the former connection must not answer.
            self.let_go(pair);
        }
        match deed {
            Deed::Open if self.connecting.contains_key(&pair) => {}
            Deed::Open => self.open(bytes, pair, now),
            Deed::Reset => {
                self.connecting.entry(pair).and_modify(|packet| *packet = None);
            }
            // Nobody knows of such a connection: a reset says so.
            Deed::Continue => self.hand_over(bytes),
        }
    }

    /// Begins to make a connection that the sandbox asks for.
    fn open(&mut self, bytes: usize, pair: Pair, now: Instant) {
        // Without an answer the sandbox's kernel asks again in a second: the right way to make it wait.
        if self.connecting.len() >= MAX_CONNECTING || !self.openings.take(now) {
            return add(&self.counters.dropped, 1);
        }
        let leave = self.leave(pair);
        if leave == Leave::Refused && !pair.is_for_names() {
            self.refused(pair);
            return self.hand_over(bytes);
        }
        if self.connections.len() + self.connecting.len() >= MAX_CONNECTIONS {
            add(&self.counters.failed, 1);
            return self.hand_over(bytes);
        }
        self.connecting.insert(pair, Some(self.wire.packet(bytes).to_vec()));
        if pair.is_for_names() {
            return self.connect_names(pair);
        }
        let outside = self.outside.clone();
        self.events.push(Box::pin(async move {
            let result = outside.connect(pair.far, leave).await;
            Event::Connected { pair, result }
        }));
    }

    fn connect_names(&mut self, pair: Pair) {
        let Ok((far, served)) = UnixStream::pair() else {
            self.connecting.remove(&pair);
            return;
        };
        let names = self.names.clone();
        self.events.push(Box::pin(async move {
            // However it ends, the sandbox's end is told by the end of the stream.
            names.serve(served).await.ok();
            Event::Served
        }));
        self.accept(pair, Far::Names(far));
    }

    fn connected(&mut self, pair: Pair, result: io::Result<TcpStream>) {
        match result {
            Ok(stream) => self.accept(pair, Far::Peer(stream)),
            Err(error) => {
                let Some(Some(packet)) = self.connecting.remove(&pair) else { return };
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.refused(pair);
                } else {
                    add(&self.counters.failed, 1);
                    tracing::debug!(peer = %pair.far, %error, "egress: no connection");
                }
                // No socket listens for it, so smoltcp refuses it.
                self.wire.put_back(&packet);
                let now = self.now();
                self.interface.poll_ingress_single(now, &mut self.wire, &mut self.sockets);
            }
        }
    }

    /// Accepts inside what was connected outside. If the sandbox has given up meanwhile, the peer is let go.
    fn accept(&mut self, pair: Pair, far: Far) {
        let Some(Some(packet)) = self.connecting.remove(&pair) else { return };
        let mut socket = near();
        let is_listening = socket.listen((IpAddress::from(pair.far.ip()), pair.far.port())).is_ok();
        let handle = self.sockets.add(socket);
        self.wire.put_back(&packet);
        let now = self.now();
        self.interface.poll_ingress_single(now, &mut self.wire, &mut self.sockets);
        let socket = self.sockets.get::<Socket>(handle);
        let is_ours = socket.remote_endpoint() == Some(pair.near.into()) && socket.state() == State::SynReceived;
        let is_peer = matches!(far, Far::Peer(_));
        let connection = Connection::new(handle, far);
        if !is_listening || !is_ours {
            self.sockets.remove(handle);
            return connection.let_go();
        }
        add(&self.counters.connections, usize::from(is_peer));
        self.connections.insert(pair, connection);
    }

    fn take_datagram(&mut self, bytes: usize, pair: Pair, content: std::ops::Range<usize>, now: Instant) {
        let content = &self.wire.packet(bytes)[content];
        if self.flows.send(pair, content, now, &self.counters) {
            return;
        }
        if pair.is_for_names() {
            let (names, content) = (self.names.clone(), content.to_vec());
            // `Names` bounds how many of these wait; the others are over at once.
            return self.events.push(Box::pin(async move {
                let answer = names.answer(&content, Transport::Udp).await;
                Event::Answered { pair, answer }
            }));
        }
        if !self.openings.take(now) {
            return add(&self.counters.dropped, 1);
        }
        let leave = self.leave(pair);
        let socket = match leave {
            Leave::Refused => Err(io::ErrorKind::PermissionDenied.into()),
            Leave::Abroad | Leave::Anywhere => self.outside.datagrams(pair.far, leave),
        };
        match socket {
            Ok(socket) => {
                add(&self.counters.flows, 1);
                self.flows.open(pair, socket, now);
                let content = Packet::parse(self.wire.packet(bytes));
                if let Packet::Datagram { content, .. } = content {
                    self.flows.send(pair, &self.wire.packet(bytes)[content], now, &self.counters);
                }
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.refused(pair);
                } else {
                    add(&self.counters.failed, 1);
                }
                let packet = self.wire.packet(bytes).to_vec();
                write_refusal(&mut self.wire, &packet);
            }
        }
    }

    fn leave(&self, pair: Pair) -> Leave {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner).leave(pair.far)
    }

    /// Counts a refusal, and logs it if it is the first of its peer.
    fn refused(&mut self, pair: Pair) {
        add(&self.counters.refused, 1);
        if self.logged.len() < MAX_LOGGED && self.logged.insert(pair.far) {
            tracing::info!(peer = %pair.far, "egress: refused a peer that no rule allows");
        }
    }

    /// Sends what the sockets have to say; tells whether there is more.
    fn send(&mut self) -> bool {
        let now = self.now();
        for _ in 0..MAX_ROUNDS {
            if self.interface.poll_egress(now, &mut self.wire, &mut self.sockets) == PollResult::None {
                return false;
            }
        }
        true
    }

    /// Lets go of connections of which nothing more will come. They have had their turn to say so to both sides.
    fn reap(&mut self) {
        let is_over = |connection: &Connection| connection.is_over(self.sockets.get(connection.handle));
        let over: Vec<Pair> =
            self.connections.iter().filter(|(_, connection)| is_over(connection)).map(|(pair, _)| *pair).collect();
        for pair in over {
            self.let_go(pair);
        }
    }

    fn let_go(&mut self, pair: Pair) {
        if let Some(connection) = self.connections.remove(&pair) {
            add(&self.counters.connections_ended, usize::from(connection.is_to_peer()));
            self.sockets.remove(connection.handle);
            connection.let_go();
        }
    }

    /// Resets both ends of every connection.
    fn end(&mut self) {
        for connection in self.connections.values() {
            self.sockets.get_mut::<Socket>(connection.handle).abort();
        }
        self.send();
        for pair in self.connections.keys().copied().collect::<Vec<_>>() {
            self.let_go(pair);
        }
        let counts = self.counters.read();
        if counts.refused + counts.names_refused > 0 {
            let (refused, names) = (counts.refused, counts.names_refused);
            tracing::info!(refused, names, "egress: what was refused in all");
        }
    }

    /// Returns when smoltcp wants to be called again.
    fn timer(&mut self) -> Option<Instant> {
        let now = self.now();
        let at = self.interface.poll_at(now, &self.sockets).filter(|_| self.wire.is_free())?;
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        Some(self.started_at + Duration::from_micros(micros))
    }

    fn now(&self) -> smoltcp::time::Instant {
        let micros = self.started_at.elapsed().as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

/// How many packets were taken.
enum Taken {
    /// All there were.
    Everything,
    /// As many as a turn takes.
    Many,
    /// As many as the rate allows, until then.
    Throttled(Instant),
}

async fn until_then(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Returns when the task is woken, by whatever it was.
async fn until_woken() {
    let mut has_slept = false;
    poll_fn(|_| if std::mem::replace(&mut has_slept, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}
