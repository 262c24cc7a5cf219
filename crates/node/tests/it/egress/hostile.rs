//! Packets that no kernel would send: whatever comes over the wire, the stack goes on serving.

use super::inside::{PATIENCE, abroad, echo, noise, serve};
use node::egress::{Egress, Outside};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use tokio_util::task::TaskTracker;

/// The one's complement sum of RFC 1071.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = words.map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// An IPv4 packet from the sandbox.
fn packet(protocol: u8, to: [u8; 4], content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + content.len()).unwrap().to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 2, 100];
    header.extend_from_slice(&to);
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    header.extend_from_slice(content);
    header
}

/// The opening of a connection from this port to port 80, with options.
fn opening(port: u16) -> Vec<u8> {
    let mut segment = port.to_be_bytes().to_vec();
    segment.extend_from_slice(&[0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x70, 2, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend_from_slice(&[2, 4, 5, 0xb4, 1, 3, 3, 7]);
    packet(6, [192, 0, 2, 7], &segment)
}

fn question() -> Vec<u8> {
    let mut message = vec![0x99, 0x88, 0, 53, 0, 37, 0, 0];
    message.extend_from_slice(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05other\x04test\x00\x00\x01\x00\x01");
    let bytes = u16::try_from(message.len()).unwrap().to_be_bytes();
    message[4..6].copy_from_slice(&bytes);
    packet(17, [10, 0, 2, 3], &message)
}

fn drain(wire: &OwnedFd) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut room = vec![0; 65_536];
    while let Ok(bytes) = rustix::io::read(wire, &mut room[..]) {
        packets.push(room[..bytes].to_vec());
    }
    packets
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

/// Sends what finds room, and lets the stack go on meanwhile.
async fn send(wire: &OwnedFd, packet: &[u8]) {
    while rustix::io::write(wire, packet).is_err() {
        tokio::task::yield_now().await;
    }
}

/// Asks for a name until the answer comes; questions too many get none.
async fn answered(wire: &OwnedFd) {
    let is_answer = |packet: &[u8]| packet.len() > 40 && packet[9] == 17 && packet[28..30] == [0x12, 0x34];
    let wait = async {
        loop {
            send(wire, &question()).await;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            if drain(wire).iter().any(|packet| is_answer(packet)) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the stack answers");
}

/// Opens a connection and returns its first segment, with this content.
async fn established(wire: &OwnedFd, port: u8, content: &[u8]) -> Vec<u8> {
    send(wire, &opening(port.into())).await;
    let is_accepted = |packet: &&Vec<u8>| packet[9] == 6 && packet[23] == port && packet[33] == 0x12;
    let wait = async {
        loop {
            if let Some(packet) = drain(wire).iter().find(is_accepted) {
                return u32::from_be_bytes(packet[24..28].try_into().unwrap());
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let number = tokio::time::timeout(PATIENCE, wait).await.expect("it is accepted") + 1;
    let mut segment = vec![0, port, 0, 80, 1, 2, 3, 5];
    segment.extend_from_slice(&number.to_be_bytes());
    segment.extend_from_slice(&[0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend_from_slice(content);
    packet(6, [192, 0, 2, 7], &segment)
}

#[tokio::test]
async fn whatever_comes_the_stack_goes_on() {
    let (ours, theirs) = pair();
    let tracker = TaskTracker::new();
    let servers = TaskTracker::new();
    let outside = Outside::default().with_peer(abroad(80), serve(&servers, echo).await);
    let rules = ["192.0.2.7:80".to_owned(), "example.test".to_owned()];
    let egress = Egress::start_towards(outside, theirs, &rules, &tracker).unwrap();
    let noise = noise(1 << 20);
    let good = [
        opening(1000),
        question(),
        packet(1, [10, 0, 2, 2], &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
        established(&ours, 7, b"hello").await,
        established(&ours, 8, &[1; 1000]).await,
        packet(17, [192, 0, 2, 7], &[1, 1, 0, 80, 0, 12, 0, 0, 1, 2, 3, 4]),
    ];
    let mut number = 0;
    for round in 0..12_000 {
        let at = (round * 131) % (noise.len() - 4096);
        let mut packet = good[round % good.len()].clone();
        match round % 5 {
            // Noise alone, and noise that looks like IP.
            0 => packet = noise[at..at + 1 + usize::from(noise[at])].to_vec(),
            1 => packet.truncate(1 + usize::from(noise[at]) % packet.len()),
            // Single bytes changed: lengths, flags, options, addresses.
            _ => {
                for step in 0..=round % 3 {
                    let place = usize::from(noise[at + step]) % packet.len();
                    packet[place] = noise[at + step + 8];
                }
            }
        }
        send(&ours, &packet).await;
        number += 1;
        if number % 64 == 0 {
            drain(&ours);
            tokio::task::yield_now().await;
        }
    }
    drain(&ours);
    answered(&ours).await;
    assert!(egress.counts().dropped > 1000, "{:?}", egress.counts());
    assert!(egress.counts().connections >= 3, "{:?}", egress.counts());
    drop(egress);
    tracker.close();
    tokio::time::timeout(PATIENCE, tracker.wait()).await.expect("the task ends");
    // With the task its end of the wire is gone.
    assert!(matches!(rustix::io::write(&ours, b"x"), Err(rustix::io::Errno::PIPE)));
}

#[tokio::test]
async fn a_flood_of_openings_is_bounded() {
    let (ours, theirs) = pair();
    let tracker = TaskTracker::new();
    let egress = Egress::start(theirs, &["192.0.2.8".to_owned()], &tracker).unwrap();
    for port in 1..6000 {
        send(&ours, &opening(port)).await;
        drain(&ours);
    }
    answered(&ours).await;
    let counts = egress.counts();
    assert!(counts.refused >= 1000 && counts.dropped >= 1000, "{counts:?}");
    assert!(counts.refused + counts.dropped <= 5999, "{counts:?}");
}

#[tokio::test]
async fn openings_that_hang_are_bounded_even_if_they_are_given_up() {
    // Who never accepts soon has no room, and then a connection to it is neither made nor refused.
    let deaf = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&deaf, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&deaf, 0).unwrap();
    let place = SocketAddr::try_from(rustix::net::getsockname(&deaf).unwrap()).unwrap();
    let (ours, theirs) = pair();
    let tracker = TaskTracker::new();
    let outside = Outside::default().with_peer(abroad(80), place);
    let egress = Egress::start_towards(outside, theirs, &["192.0.2.7".to_owned()], &tracker).unwrap();
    let sockets = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = sockets();
    for port in 1000..1900_u16 {
        send(&ours, &opening(port)).await;
        let mut reset = opening(port);
        reset[33] = 4;
        send(&ours, &reset).await;
    }
    answered(&ours).await;
    let counts = egress.counts();
    assert!(counts.dropped >= 700, "{counts:?}");
    assert!(sockets() - before <= 130, "{} sockets", sockets() - before);
    drop(egress);
    tracker.close();
    tokio::time::timeout(PATIENCE, tracker.wait()).await.expect("the task ends");
    assert!(sockets() <= before, "{} sockets are left", sockets() - before);
}

#[tokio::test]
async fn the_end_of_the_wire_is_the_end_of_the_task() {
    let (ours, theirs) = pair();
    let tracker = TaskTracker::new();
    let _egress = Egress::start(theirs, &[], &tracker).unwrap();
    drop(ours);
    tracker.close();
    tokio::time::timeout(PATIENCE, tracker.wait()).await.expect("the task ends by itself");
}
