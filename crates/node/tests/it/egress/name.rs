//! Names: who is told which addresses, and what that opens.

use super::inside::{Inside, abroad, echo, serve};
use node::egress::Outside;
use std::net::IpAddr;
use tokio_util::task::TaskTracker;

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Looks a name up as programs do, and with messages of its own.
const LOOK: &str = r"
def look(name):
    try:
        return sorted({a[4][0] for a in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)})
    except socket.gaierror as error:
        return error.errno
def question(name, kind, id=7):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.'))
    return struct.pack('>6H', id, 0x100, 1, 0, 0, 0) + labels + b'\0' + struct.pack('>2H', kind, 1)
def ask(name, kind, tcp=False, server='10.0.2.3'):
    message = question(name, kind)
    if tcp:
        s = dial(server, 53)
        s.sendall(struct.pack('>H', len(message)) + message)
        size = struct.unpack('>H', s.recv(2, socket.MSG_WAITALL))[0]
        answer = s.recv(size, socket.MSG_WAITALL)
    else:
        s = socket.socket(socket.AF_INET6 if ':' in server else socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(10)
        s.connect((server, 53))
        s.send(message)
        answer = s.recv(9000)
    id, flags, _, count, _, _ = struct.unpack('>6H', answer[:12])
    assert id == 7 and flags & 0x8080 == 0x8080
    return flags & 15, count, bool(flags & 0x200)
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_answered_as_far_as_rules_cover_them() {
    let many: Vec<IpAddr> = (1..=40).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    let outside = Outside::default()
        .with_host("both.example.test", &addresses(&["192.0.2.7", "2001:db8::7"]))
        .with_host("four.example.test", &addresses(&["192.0.2.8"]))
        .with_host("many.example.test", &many)
        .with_host("example.test", &addresses(&["192.0.2.9"]))
        .with_host("other.test", &addresses(&["192.0.2.10"]));
    let Some(inside) = Inside::new(outside, &["*.example.test:80", "*.invalid"]).await else { return };
    let program = r"
assert look('both.example.test') == ['192.0.2.7', '2001:db8::7'], look('both.example.test')
assert look('Four.Example.TEST') == ['192.0.2.8']
start = time.monotonic()
for name in ['example.test', 'other.test', 'localhost.localdomain', 'nobody.invalid']:
    assert look(name) in (socket.EAI_NONAME, socket.EAI_AGAIN), (name, look(name))
for name in ['example.test', 'other.test']:
    assert look(name) == socket.EAI_NONAME
    assert ask(name, 1) == (3, 0, False)
assert ask('four.example.test', 1) == (0, 1, False)
assert ask('four.example.test', 28) == (0, 0, False)
assert ask('four.example.test', 16) == (0, 0, False)
assert ask('many.example.test', 1) == (0, 29, True), ask('many.example.test', 1)
assert ask('many.example.test', 1, tcp=True) == (0, 32, False)
assert ask('both.example.test', 28, tcp=True) == (0, 1, False)
assert ask('both.example.test', 28, server='fd00::3') == (0, 1, False)
";
    inside.python(&format!("{LOOK}{program}")).await;
    assert!(inside.counts().names_refused >= 4);
    assert_eq!(inside.counts().connections, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_opens_what_it_was_answered_with_and_no_port_more() {
    let servers = TaskTracker::new();
    let place = serve(&servers, echo).await;
    let outside = Outside::default()
        .with_host("a.test", &[abroad(80).ip()])
        .with_peer(abroad(80), place)
        .with_peer(abroad(81), place)
        .with_host("six.test", &addresses(&["2001:db8::7"]))
        .with_peer("[2001:db8::7]:80".parse().unwrap(), place);
    let Some(inside) = Inside::new(outside, &["a.test:80", "six.test"]).await else { return };
    let program = r"
fails(errno.ECONNREFUSED, lambda: dial('192.0.2.7', 80))
s = dial('a.test', 80)
s.sendall(b'hello')
assert s.recv(5, socket.MSG_WAITALL) == b'hello'
dial('192.0.2.7', 80)
fails(errno.ECONNREFUSED, lambda: dial('192.0.2.7', 81))
s = dial('six.test', 80, socket.AF_INET6)
s.sendall(b'hello')
assert s.recv(5, socket.MSG_WAITALL) == b'hello'
";
    inside.python(program).await;
    assert_eq!((inside.counts().connections, inside.counts().refused), (3, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_points_inwards_opens_nothing() {
    let servers = TaskTracker::new();
    let place = serve(&servers, echo).await;
    let mut outside = Outside::default()
        .with_host("loop.test", &addresses(&["127.0.0.1", "::1"]))
        .with_host("meta.test", &addresses(&["169.254.169.254", "fd00:ec2::254"]))
        .with_host("house.test", &addresses(&["192.168.1.1", "10.1.1.1"]))
        .with_host("mixed.test", &addresses(&["192.168.1.1", "192.0.2.7", "127.0.0.1"]))
        .with_host("known.test", &addresses(&["10.7.7.7", "10.1.1.1"]));
    for peer in ["192.168.1.1:80", "10.1.1.1:80", "10.7.7.7:80", "10.7.7.7:81", "169.254.169.254:80", "192.0.2.7:80"] {
        outside = outside.with_peer(peer.parse().unwrap(), place);
    }
    let Some(inside) = Inside::new(outside, &["*", "10.7.7.7:80"]).await else { return };
    let program = r"
for name in ['loop.test', 'meta.test', 'house.test']:
    assert ask(name, 1) == (5, 0, False), name
    start = time.monotonic()
    assert look(name) == socket.EAI_AGAIN, look(name)
    assert time.monotonic() - start < 3
assert look('mixed.test') == ['192.0.2.7']
assert look('known.test') == ['10.7.7.7']
dial('192.0.2.7', 80)
dial('10.7.7.7', 80)
for host, port in [('192.168.1.1', 80), ('10.1.1.1', 80), ('10.7.7.7', 81), ('169.254.169.254', 80)]:
    fails(errno.ECONNREFUSED, lambda: dial(host, port))
";
    inside.python(&format!("{LOOK}{program}")).await;
    assert_eq!((inside.counts().connections, inside.counts().refused), (2, 4));
}
