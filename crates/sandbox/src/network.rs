//! What a sandbox may reach: a network namespace that holds nothing but itself, or one whose only way out is a TUN device
//! that a user-mode stack on the node reads.

use crate::event::Fault;
use crate::root::machine;
use crate::system;
use model::Network;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, OwnedFd};

/// The sandbox's own address.
const ADDRESS: [u8; 4] = [10, 0, 2, 100];
const MASK: [u8; 4] = [255, 255, 255, 0];
/// Where everything goes.
const GATEWAY: [u8; 4] = [10, 0, 2, 2];
/// The same in IPv6, where the kernel has it.
const ADDRESS_SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);
const BITS_SIX: u32 = 64;
const GATEWAY_SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const MTU: i32 = 65_520;

/// Opens what a wire is made from; it belongs to the network namespace of the caller.
pub(crate) fn open_tun() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
}

/// Lets everybody in the calling thread's network namespace serve on every port: nobody inside has a capability over it, and
/// it is nobody else's. A kernel without that setting keeps the lowest ports closed.
pub(crate) fn open_ports() {
    let path = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    if let Ok(file) = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::io::write(&file, b"0");
    }
}

/// Sets up the network of a sandbox from within; returns the wire's other end, if there is a wire.
pub(crate) fn set_up(network: Network) -> Result<Option<OwnedFd>, Fault> {
    if network == Network::Host {
        return Ok(None);
    }
    let what = machine("the network could not be set up");
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(&what)?;
    system::interface_up(socket.as_fd(), c"lo", None).map_err(&what)?;
    open_ports();
    if network == Network::None {
        return Ok(None);
    }
    let tun = open_tun().map_err(machine("`/dev/net/tun` could not be opened"))?;
    system::make_tun(&tun, c"eth0").map_err(&what)?;
    system::interface_up(socket.as_fd(), c"eth0", Some((ADDRESS, MASK, MTU))).map_err(&what)?;
    system::route_all(socket.as_fd(), GATEWAY).map_err(&what)?;
    // A kernel without IPv6, or one that keeps it from new namespaces, leaves a sandbox that has the other.
    let _ = set_up_six();
    Ok(Some(tun))
}

fn set_up_six() -> rustix::io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let index = rustix::net::netdevice::name_to_index(&socket, "eth0")?.cast_signed();
    // Nobody else is on the wire and the device knows no neighbours, so the address needs no proof that it is free.
    system::address_six(socket.as_fd(), index, ADDRESS_SIX, BITS_SIX)?;
    system::route_all_six(socket.as_fd(), index, GATEWAY_SIX)
}
