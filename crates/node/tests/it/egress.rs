//! Egress between a real network namespace, with a TUN device and the programs that live there, and real sockets.
//! A settled outside leads addresses of documentation networks to servers of the test on loopback.
//!
//! The tests that need a namespace do nothing unless they run as root; `hostile` needs none.

mod datagram;
mod hostile;
mod inside;
mod name;
mod stream;
