//! Datagrams and echoes.

use super::inside::{Inside, abroad};
use node::egress::Outside;
use std::net::SocketAddr;
use tokio::net::UdpSocket;
use tokio_util::task::TaskTracker;

/// Answers each datagram with itself, as many times over as its first byte says.
async fn repeat(servers: &TaskTracker) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let place = socket.local_addr().unwrap();
    servers.spawn(async move {
        let mut content = vec![0; 65_536];
        while let Ok((bytes, peer)) = socket.recv_from(&mut content).await {
            let answer = content[..bytes].repeat(content[0].into());
            socket.send_to(&answer, peer).await.ok();
        }
    });
    place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_go_out_and_come_back_or_are_refused() {
    let servers = TaskTracker::new();
    let outside = Outside::default().with_peer(abroad(5), repeat(&servers).await);
    let Some(mut inside) = Inside::new(outside, &["192.0.2.7:5"]).await else { return };
    let program = r"
def open(host, port, family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(10)
    s.connect((host, port))
    return s
sockets = [open('192.0.2.7', 5) for _ in range(20)]
for n, s in enumerate(sockets): s.send(b'\1' + bytes([n]) * 1400)
for n, s in enumerate(sockets): assert s.recv(65536) == b'\1' + bytes([n]) * 1400
for size in [1, 100, 700]:
    sockets[0].send(b'\x28' + b'z' * size)
    assert sockets[0].recv(65536) == (b'\x28' + b'z' * size) * 40
for host, family in [('192.0.2.7', socket.AF_INET), ('10.0.2.2', socket.AF_INET), ('2001:db8::1', socket.AF_INET6)]:
    s = open(host, 6, family)
    s.send(b'x')
    fails(errno.ECONNREFUSED, lambda: s.recv(1))
";
    inside.python(program).await;
    let counts = inside.counts();
    assert_eq!((counts.flows, counts.refused), (20, 3));
    assert!(counts.bytes_out > 20 * 1401 && counts.bytes_in > 20 * 1401 + 40 * 800);
    // Old flows make room for new ones.
    inside.python("for n in range(600):\n s = socket.socket(2, 2)\n s.connect(('192.0.2.7', 5))\n s.send(b'\\1')\n assert s.recv(9)").await;
    assert!(inside.counts().flows > 500, "{:?}", inside.counts());
    inside.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_gateway_echoes() {
    let Some(inside) = Inside::new(Outside::default(), &["0.0.0.0/0"]).await else { return };
    let program = r"
def sum16(b):
    s = sum(struct.unpack('>%dH' % (len(b) // 2), b))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
def ping(host):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    s.settimeout(0.3)
    body = struct.pack('>BBHHH', 8, 0, 0, 77, 1) + b'hi' * 20
    s.sendto(body[:2] + struct.pack('>H', sum16(body)) + body[4:], (host, 0))
    try:
        answer, peer = s.recvfrom(100)
        return answer[20] == 0 and answer[28:] == b'hi' * 20 and peer[0] == host
    except TimeoutError:
        return False
assert ping('10.0.2.2')
assert not ping('192.0.2.1')
assert not ping('10.0.2.3')
assert not ping('224.0.0.1')
";
    inside.python(program).await;
}
