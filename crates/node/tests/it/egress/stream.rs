//! Connections: what is carried, refused, ended, reset and held back.

use super::inside::{Inside, PATIENCE, abroad, echo, http, noise, read, serve};
use node::egress::Outside;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_leads_to_its_server_and_every_byte_arrives() {
    let servers = TaskTracker::new();
    let content: Arc<Vec<u8>> = Arc::new(noise(24 << 20));
    let served = content.clone();
    let place = serve(&servers, move |stream| {
        let served = served.clone();
        async move { http(stream, &served).await }
    })
    .await;
    let outside = Outside::default().with_host("files.example.test", &[abroad(80).ip()]).with_peer(abroad(80), place);
    let Some(mut inside) = Inside::new(outside, &["*.example.test:80"]).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    inside.run(&["curl", "-sSf", "-m", "50", "-o", file.to_str().unwrap(), "http://files.example.test/"]).await;
    assert!(read(&file) == *content, "what came in is not what was sent");
    inside.counts_until(|counts| counts.connections == 1 && counts.connections_ended == 1).await;
    assert!(inside.counts().bytes_in > 24 << 20);
    inside.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_goes_both_ways_at_once_and_comes_back_the_same() {
    for mtu in [1500, 65_520] {
        let servers = TaskTracker::new();
        let outside = Outside::default().with_peer(abroad(7), serve(&servers, echo).await);
        let Some(inside) = Inside::with_mtu(outside, &["192.0.2.7:7"], mtu).await else { return };
        inside
            .python(
                r"
s = dial('192.0.2.7', 7)
sent = os.urandom(16 << 20)
def send():
    s.sendall(sent)
    s.shutdown(socket.SHUT_WR)
sender = threading.Thread(target=send)
sender.start()
got = all_of(s)
sender.join()
assert got == sent, (len(got), len(sent))
",
            )
            .await;
        inside.counts_until(|counts| counts.connections_ended == 1).await;
        assert_eq!((inside.counts().bytes_out, inside.counts().bytes_in), (16 << 20, 16 << 20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_are_open_at_once_and_then_no_more() {
    let servers = TaskTracker::new();
    let outside = Outside::default().with_peer(abroad(7), serve(&servers, echo).await);
    let Some(inside) = Inside::new(outside, &["192.0.2.0/24:7"]).await else { return };
    inside
        .python(
            r"
held = []
lock = threading.Lock()
def one(number):
    s = dial('192.0.2.7', 7)
    with lock:
        held.append((number, s))
workers = [threading.Thread(target=one, args=(n,)) for n in range(200)]
for w in workers: w.start()
for w in workers: w.join()
assert len(held) == 200, len(held)
for number, s in held: s.sendall(struct.pack('>I', number) * 1000)
for number, s in held:
    got = b''
    while len(got) < 4000: got += s.recv(4000)
    assert got == struct.pack('>I', number) * 1000
for number in range(56): one(number)
fails(errno.ECONNREFUSED, lambda: one(0))
for number, s in held: s.close()
",
        )
        .await;
    inside.counts_until(|counts| counts.connections == 256 && counts.connections_ended == 256).await;
    // There is room again.
    inside.python("dial('192.0.2.7', 7)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_rule_allows_is_refused_at_once() {
    let servers = TaskTracker::new();
    let place = serve(&servers, echo).await;
    // These would lead somewhere if anything let them through.
    let mut outside = Outside::default();
    for peer in ["192.0.2.7:81", "127.0.0.1:80", "10.0.2.2:80", "10.0.2.3:80", "169.254.169.254:80", "10.9.9.9:80"] {
        outside = outside.with_peer(peer.parse().unwrap(), place);
    }
    let Some(inside) = Inside::new(outside, &["192.0.2.7:80", "0.0.0.0/0:90", "10.8.0.0/16"]).await else { return };
    inside
        .python(
            r"
for host, port in [('192.0.2.7', 81), ('10.0.2.2', 80), ('10.0.2.3', 80), ('169.254.169.254', 80), ('10.9.9.9', 80),
                   ('169.254.169.254', 90), ('10.9.9.9', 90), ('192.168.1.1', 90), ('168.63.129.16', 90)]:
    fails(errno.ECONNREFUSED, lambda: dial(host, port))
for host in ['2001:db8::1', 'fd00::2', 'fd00:ec2::254']:
    fails(errno.ECONNREFUSED, lambda: dial(host, 90, socket.AF_INET6))
",
        )
        .await;
    let counts = inside.counts();
    assert_eq!((counts.refused, counts.connections, counts.failed), (12, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_outside_is_a_refusal_inside() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let outside = Outside::default().with_peer(abroad(80), closed);
    let Some(inside) = Inside::new(outside, &["192.0.2.7"]).await else { return };
    inside.python("fails(errno.ECONNREFUSED, lambda: dial('192.0.2.7', 80))").await;
    assert_eq!((inside.counts().failed, inside.counts().connections), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_side_may_end_first_and_the_other_goes_on() {
    let servers = TaskTracker::new();
    // One server answers only after the end of what it is sent, the other ends first and then listens.
    let late = serve(&servers, |mut stream| async move {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        received.reverse();
        stream.write_all(&received).await.unwrap();
    })
    .await;
    let (tell, mut told) = mpsc::channel(1);
    let early = serve(&servers, move |mut stream| {
        let tell = tell.clone();
        async move {
            stream.write_all(b"that is all").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            tell.send(received).await.unwrap();
        }
    })
    .await;
    let outside = Outside::default().with_peer(abroad(1), late).with_peer(abroad(2), early);
    let Some(inside) = Inside::new(outside, &["192.0.2.7"]).await else { return };
    inside
        .python(
            r"
s = dial('192.0.2.7', 1)
sent = os.urandom(3 << 20)
s.sendall(sent)
s.shutdown(socket.SHUT_WR)
assert all_of(s) == sent[::-1]
s = dial('192.0.2.7', 2)
assert all_of(s) == b'that is all'
s.sendall(b'a' * 1000000)
s.close()
",
        )
        .await;
    let received = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    assert!(received == vec![b'a'; 1_000_000]);
    inside.counts_until(|counts| counts.connections_ended == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_on_either_side_is_one_on_the_other() {
    let servers = TaskTracker::new();
    let rude = serve(&servers, |mut stream| async move {
        stream.read_u8().await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let (tell, mut told) = mpsc::channel(1);
    let patient = serve(&servers, move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut received = Vec::new();
            let result = stream.read_to_end(&mut received).await;
            tell.send(result.map_err(|error| error.kind())).await.unwrap();
        }
    })
    .await;
    let outside = Outside::default().with_peer(abroad(1), rude).with_peer(abroad(2), patient);
    let Some(mut inside) = Inside::new(outside, &["192.0.2.7"]).await else { return };
    inside
        .python(
            r"
s = dial('192.0.2.7', 1)
s.sendall(b'x')
fails(errno.ECONNRESET, lambda: s.recv(1))
s = dial('192.0.2.7', 2)
s.sendall(b'half of a mess')
time.sleep(0.2)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
s.close()
",
        )
        .await;
    let result = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    assert_eq!(result, Err(std::io::ErrorKind::ConnectionReset));
    inside.counts_until(|counts| counts.connections_ended == 2).await;
    // The end of the egress itself resets both sides, too.
    let program = "s = dial('192.0.2.7', 2)\ns.sendall(b'half')\nfails(errno.ECONNRESET, lambda: (s.recv(1), 1/0))\n";
    let program = program.replace("fails(", "print('open', flush=True)\nfails(");
    let mut child = inside.start(&program.replace("time.monotonic() - start < 3", "True"));
    let mut line = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut line).await.unwrap();
    inside.counts_until(|counts| counts.bytes_out >= 19).await;
    inside.end().await;
    let result = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    assert_eq!(result, Err(std::io::ErrorKind::ConnectionReset));
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_not_sent_more_and_stalls_nobody() {
    let servers = TaskTracker::new();
    let deaf = serve(&servers, |stream| async move {
        // Held open, never read.
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let spoken = Arc::new(AtomicU64::new(0));
    let counter = spoken.clone();
    let talker = serve(&servers, move |mut stream| {
        let counter = counter.clone();
        async move {
            while stream.write_all(&[7; 4096]).await.is_ok() {
                counter.fetch_add(4096, Ordering::Relaxed);
            }
        }
    })
    .await;
    let echoing = serve(&servers, echo).await;
    let outside =
        Outside::default().with_peer(abroad(1), deaf).with_peer(abroad(2), talker).with_peer(abroad(3), echoing);
    let Some(inside) = Inside::new(outside, &["192.0.2.7"]).await else { return };
    inside
        .python(
            r"
deaf = [dial('192.0.2.7', 1) for _ in range(5)]
mute = [dial('192.0.2.7', 2) for _ in range(5)]
total = 0
for s in deaf:
    s.settimeout(0.5)
    try:
        while True: total += s.send(b'x' * 65536)
    except TimeoutError:
        pass
assert total < 5 * (24 << 20), total
start = time.monotonic()
s = dial('192.0.2.7', 3)
for _ in range(200):
    s.sendall(b'y' * 10000)
    got = 0
    while got < 10000: got += len(s.recv(10000))
assert time.monotonic() - start < 5
",
        )
        .await;
    let all = spoken.load(Ordering::Relaxed);
    assert!(all < 5 * (24 << 20), "{all}");
    // Connections that wait cost nothing meanwhile.
    let held = inside
        .start("held = [dial('192.0.2.7', n % 3 + 1) for n in range(60)]\nprint('open', flush=True)\ntime.sleep(60)\n");
    inside.counts_until(|counts| counts.connections - counts.connections_ended >= 60).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = cpu_ticks();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ticks = cpu_ticks() - before;
    assert!(ticks < 20, "{ticks} ticks in a second");
    drop(held);
}

/// Returns what this process has used of the processors, in hundredths of a second.
fn cpu_ticks() -> u64 {
    let line = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = line.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_lives() {
    // At full size it is idle for longer than a minute, after which many a table of connections forgets.
    let (idle, pause) = if std::env::var_os("QUARRY_SOAK").is_some() { ("75", "20") } else { ("4", "1") };
    let servers = TaskTracker::new();
    let outside = Outside::default().with_peer(abroad(7), serve(&servers, echo).await);
    let Some(inside) = Inside::new(outside, &["192.0.2.7"]).await else { return };
    let program = "s = dial('192.0.2.7', 7)\ntime.sleep(SECONDS)\ns.sendall(b'hello')\nassert s.recv(5) == b'hello'\n";
    let child = inside.start(&program.replace("SECONDS", idle));
    // Others keep the stack awake meanwhile.
    for seconds in ["0", pause, pause, pause] {
        inside.python(&program.replace("SECONDS", seconds)).await;
    }
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Measures; `cargo nextest run -p node --release --run-ignored only throughput --no-capture` shows the numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn throughput() {
    for mtu in [1500, 16_384, 65_520] {
        let servers = TaskTracker::new();
        let source = serve(&servers, |mut stream| async move {
            let block = vec![1; 1 << 18];
            for _ in 0..1024 {
                stream.write_all(&block).await.unwrap();
            }
        })
        .await;
        let sink = serve(&servers, |mut stream| async move {
            let mut block = vec![0; 1 << 18];
            while stream.read(&mut block).await.is_ok_and(|bytes| bytes > 0) {}
        })
        .await;
        let outside = Outside::default().with_peer(abroad(1), source).with_peer(abroad(2), sink);
        let Some(inside) = Inside::with_mtu(outside, &["192.0.2.7"], mtu).await else { return };
        for (verb, program) in [
            ("in", "s = dial('192.0.2.7', 1)\nb = bytearray(1 << 18)\nwhile s.recv_into(b): pass\n"),
            (
                "out",
                "s = dial('192.0.2.7', 2)\nb = b'1' * (1 << 18)\nfor _ in range(1024): s.sendall(b)\ns.shutdown(1)\ns.recv(1)\n",
            ),
        ] {
            let start = Instant::now();
            let text = inside
                .python(&format!(
                    "begin = time.monotonic()\n{program}print(256 * 1.048576 / (time.monotonic() - begin))"
                ))
                .await;
            println!("mtu {mtu}: {} MB/s {verb} ({:?} in all)", text.trim(), start.elapsed());
            assert!(start.elapsed() < Duration::from_secs(30));
        }
    }
}
