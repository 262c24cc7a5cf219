//! The outside: what lies beyond a sandbox's wire, reached by the node's own sockets and resolver.
//!
//! A node's operator can settle some of it beforehand: names with their addresses, and peers that are really elsewhere.
//! Rules judge what the sandbox asked for; where a peer really is, is the operator's business.

use super::reach::Leave;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};

/// How long a connection may take to be made.
const MAX_CONNECT_TIME: Duration = Duration::from_secs(15);
/// How long the resolver may take.
const MAX_RESOLVE_TIME: Duration = Duration::from_secs(10);
/// Addresses taken from one answer of the resolver.
const MAX_ADDRESSES: usize = 64;

/// What lies beyond a wire; by default the network as the node sees it.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    hosts: HashMap<String, Vec<IpAddr>>,
    peers: HashMap<SocketAddr, SocketAddr>,
}

/// Why a name has no addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResolveError {
    /// There is no such name.
    Unknown,
    /// The resolver did not answer.
    Failed,
}

impl Outside {
    /// Settles the addresses of a name, instead of asking the resolver.
    #[must_use]
    pub fn with_host(mut self, name: &str, addresses: &[IpAddr]) -> Self {
        self.hosts.insert(name.to_ascii_lowercase(), addresses.to_vec());
        self
    }

    /// Settles where a peer really is.
    #[must_use]
    pub fn with_peer(mut self, peer: SocketAddr, place: SocketAddr) -> Self {
        self.peers.insert(peer, place);
        self
    }

    /// Returns the addresses of a name.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Some(addresses) = self.hosts.get(name) {
            return Ok(addresses.clone());
        }
        // The last dot keeps the node's own search list out of it.
        let absolute = format!("{name}.");
        let lookup = tokio::net::lookup_host((absolute.as_str(), 0));
        match tokio::time::timeout(MAX_RESOLVE_TIME, lookup).await {
            Ok(Ok(found)) => {
                let mut addresses: Vec<IpAddr> = Vec::new();
                for address in found.map(|peer| peer.ip()).take(MAX_ADDRESSES) {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                Ok(addresses)
            }
            // The standard library tells the two apart in words alone.
            Ok(Err(error)) if !error.to_string().contains("emporary failure") => Err(ResolveError::Unknown),
            Ok(Err(_)) | Err(_) => Err(ResolveError::Failed),
        }
    }

    /// Connects to a peer, as far as the sandbox has leave to go.
    pub(crate) async fn connect(&self, peer: SocketAddr, leave: Leave) -> io::Result<TcpStream> {
        let place = self.place(peer, leave)?;
        let stream = tokio::time::timeout(MAX_CONNECT_TIME, TcpStream::connect(place)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Returns a socket whose datagrams go to a peer and come from there.
    pub(crate) fn datagrams(&self, peer: SocketAddr, leave: Leave) -> io::Result<UdpSocket> {
        let socket = towards(self.place(peer, leave)?)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    /// Returns where a peer is, unless that is this machine and the sandbox has no leave for it.
    fn place(&self, peer: SocketAddr, leave: Leave) -> io::Result<SocketAddr> {
        if let Some(place) = self.peers.get(&peer) {
            return Ok(*place);
        }
        // What the kernel would send from is the peer's own address only if the peer is this machine.
        let is_here = towards(peer)?.local_addr()?.ip() == peer.ip();
        if leave == Leave::Refused || (is_here && leave != Leave::Anywhere) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the peer is this machine itself"));
        }
        Ok(peer)
    }
}

/// Returns a datagram socket towards a peer; nothing is sent by that.
fn towards(peer: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_is_reached_only_by_its_own_rule() {
        // Loopback stands for the machine's other addresses here; the rules forbid it before it comes to this.
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let peer = listener.local_addr().unwrap();
        let outside = Outside::default();
        let refused = outside.connect(peer, Leave::Abroad).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(outside.datagrams(peer, Leave::Abroad).is_err());
        assert!(outside.connect(peer, Leave::Anywhere).await.is_ok());
        let elsewhere = Outside::default().with_peer("8.8.8.8:53".parse().unwrap(), peer);
        assert!(elsewhere.connect("8.8.8.8:53".parse().unwrap(), Leave::Abroad).await.is_ok());
    }

    #[tokio::test]
    async fn names_are_resolved() {
        let settled = "192.0.2.1".parse().unwrap();
        let outside = Outside::default().with_host("A.test", &[settled]);
        assert_eq!(outside.resolve("a.test").await, Ok(vec![settled]));
        assert!(outside.resolve("no-such-name.invalid").await.is_err());
    }
}
