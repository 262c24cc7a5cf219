//! Packets: what came over the wire, told apart; and those that we write ourselves, datagrams and refusals of them.
//!
//! Only what has the sandbox's own address as its source counts. Fragments and IPv6 extension headers are thrown away.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Message, Icmpv6Packet,
    Icmpv6Repr, IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpPacket, UdpPacket,
    UdpRepr,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use super::wire::{MAX_PACKET_BYTES, Wire};

/// The sandbox's addresses.
pub(crate) const NEAR_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
pub(crate) const NEAR_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);
/// The addresses of its gateway, which answers echo requests and nothing else.
pub(crate) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(crate) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
/// Where its questions for names go.
const NAMES_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const NAMES_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
const NAMES_PORT: u16 = 53;

const HOP_LIMIT: u8 = 64;
const UDP_HEADER_BYTES: usize = 8;
/// Bytes of a refused datagram that its refusal shows; its headers are enough for the sender to know it again.
const SHOWN_BYTES: usize = 64;

/// Who speaks with whom: the sandbox's own address and port, and the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pair {
    pub(crate) near: SocketAddr,
    pub(crate) far: SocketAddr,
}

impl Pair {
    /// Whether the peer is the sandbox's DNS server.
    pub(crate) fn is_for_names(&self) -> bool {
        let servers: [IpAddr; 2] = [NAMES_V4.into(), NAMES_V6.into()];
        self.far.port() == NAMES_PORT && servers.contains(&self.far.ip())
    }
}

/// What came over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// A segment of TCP.
    Segment {
        /// Whose.
        pair: Pair,
        /// What it does to the connection.
        deed: Deed,
    },
    /// A datagram of UDP.
    Datagram {
        /// Whose.
        pair: Pair,
        /// Where in the packet its content lies.
        content: Range<usize>,
    },
    /// An echo request to the gateway.
    Echo,
    /// Anything else; it goes nowhere.
    Other,
}

/// What a segment does to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// It opens one.
    Open,
    /// It resets it.
    Reset,
    /// It goes on.
    Continue,
}

impl Packet {
    /// Tells a packet apart.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let parsed = match bytes.first().map(|first| first >> 4) {
            Some(4) => parse_v4(bytes),
            Some(6) => parse_v6(bytes),
            _ => None,
        };
        parsed.unwrap_or(Self::Other)
    }
}

fn parse_v4(bytes: &[u8]) -> Option<Packet> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    let is_fragment = packet.more_frags() || packet.frag_offset() != 0;
    if packet.src_addr() != NEAR_V4 || is_fragment {
        return None;
    }
    let content = usize::from(packet.header_len())..usize::from(packet.total_len());
    let ends = (packet.src_addr().into(), packet.dst_addr().into());
    match packet.next_header() {
        IpProtocol::Icmp => {
            let is_echo = Icmpv4Packet::new_checked(bytes.get(content)?).ok()?.msg_type() == Icmpv4Message::EchoRequest;
            (is_echo && packet.dst_addr() == GATEWAY_V4).then_some(Packet::Echo)
        }
        protocol => parse_transport(bytes, protocol, ends, content),
    }
}

fn parse_v6(bytes: &[u8]) -> Option<Packet> {
    let packet = Ipv6Packet::new_checked(bytes).ok()?;
    if packet.src_addr() != NEAR_V6 {
        return None;
    }
    let content = packet.header_len()..packet.total_len();
    let ends = (packet.src_addr().into(), packet.dst_addr().into());
    match packet.next_header() {
        IpProtocol::Icmpv6 => {
            let is_echo = Icmpv6Packet::new_checked(bytes.get(content)?).ok()?.msg_type() == Icmpv6Message::EchoRequest;
            (is_echo && packet.dst_addr() == GATEWAY_V6).then_some(Packet::Echo)
        }
        protocol => parse_transport(bytes, protocol, ends, content),
    }
}

fn parse_transport(
    bytes: &[u8],
    protocol: IpProtocol,
    (near, far): (IpAddr, IpAddr),
    content: Range<usize>,
) -> Option<Packet> {
    if far.is_multicast() || far == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return None;
    }
    let inner = bytes.get(content.clone())?;
    let pair = |near_port, far_port| Pair { near: (near, near_port).into(), far: (far, far_port).into() };
    match protocol {
        IpProtocol::Tcp => {
            let segment = TcpPacket::new_checked(inner).ok()?;
            let deed = match (segment.syn(), segment.rst()) {
                (_, true) => Deed::Reset,
                (true, false) if !segment.ack() => Deed::Open,
                (_, false) => Deed::Continue,
            };
            let has_ports = segment.src_port() != 0 && segment.dst_port() != 0;
            has_ports.then(|| Packet::Segment { pair: pair(segment.src_port(), segment.dst_port()), deed })
        }
        IpProtocol::Udp => {
            let datagram = UdpPacket::new_checked(inner).ok()?;
            let start = content.start + UDP_HEADER_BYTES;
            let content = start..content.start + usize::from(datagram.len());
            let has_ports = datagram.src_port() != 0 && datagram.dst_port() != 0;
            has_ports.then(|| Packet::Datagram { pair: pair(datagram.src_port(), datagram.dst_port()), content })
        }
        _ => None,
    }
}

/// Writes a datagram from the peer to the sandbox; it may be longer than what the sandbox could send.
pub(crate) fn write_datagram(wire: &mut Wire, pair: Pair, content: &[u8]) {
    let checksums = ChecksumCapabilities::default();
    let (from, to) = (IpAddress::from(pair.far.ip()), IpAddress::from(pair.near.ip()));
    let ip = IpRepr::new(from, to, IpProtocol::Udp, UDP_HEADER_BYTES + content.len(), HOP_LIMIT);
    if ip.buffer_len() > MAX_PACKET_BYTES {
        return;
    }
    let udp = UdpRepr { src_port: pair.far.port(), dst_port: pair.near.port() };
    wire.write(ip.buffer_len(), |packet| {
        ip.emit(&mut *packet, &checksums);
        let mut datagram = UdpPacket::new_unchecked(&mut packet[ip.header_len()..]);
        let fill = |room: &mut [u8]| room.copy_from_slice(content);
        udp.emit(&mut datagram, &from, &to, content.len(), fill, &checksums);
    });
}

/// Tells the sandbox that a datagram of its own, of which these are the first bytes, goes nowhere.
pub(crate) fn write_refusal(wire: &mut Wire, refused: &[u8]) {
    if let Ok(packet) = Ipv4Packet::new_checked(refused) {
        refuse_v4(wire, &packet);
    } else if let Ok(packet) = Ipv6Packet::new_checked(refused) {
        refuse_v6(wire, &packet);
    }
}

fn refuse_v4(wire: &mut Wire, refused: &Ipv4Packet<&[u8]>) {
    let checksums = ChecksumCapabilities::default();
    let Ok(header) = Ipv4Repr::parse(refused, &ChecksumCapabilities::ignored()) else { return };
    let reason = Icmpv4DstUnreachable::PortUnreachable;
    let data = &refused.payload()[..refused.payload().len().min(SHOWN_BYTES)];
    let icmp = Icmpv4Repr::DstUnreachable { reason, header, data };
    let ip = Ipv4Repr {
        src_addr: GATEWAY_V4,
        dst_addr: NEAR_V4,
        next_header: IpProtocol::Icmp,
        payload_len: icmp.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    wire.write(ip.buffer_len() + icmp.buffer_len(), |packet| {
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut *packet), &checksums);
        icmp.emit(&mut Icmpv4Packet::new_unchecked(&mut packet[ip.buffer_len()..]), &checksums);
    });
}

fn refuse_v6(wire: &mut Wire, refused: &Ipv6Packet<&[u8]>) {
    let checksums = ChecksumCapabilities::default();
    let Ok(header) = Ipv6Repr::parse(refused) else { return };
    let reason = Icmpv6DstUnreachable::PortUnreachable;
    let data = &refused.payload()[..refused.payload().len().min(SHOWN_BYTES)];
    let icmp = Icmpv6Repr::DstUnreachable { reason, header, data };
    let ip = Ipv6Repr {
        src_addr: GATEWAY_V6,
        dst_addr: NEAR_V6,
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    wire.write(ip.buffer_len() + icmp.buffer_len(), |packet| {
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut *packet));
        let mut refusal = Icmpv6Packet::new_unchecked(&mut packet[ip.buffer_len()..]);
        icmp.emit(&GATEWAY_V6, &NEAR_V6, &mut refusal, &checksums);
    });
}
