//! Bounds that a program and its user meet by hand: how much is kept of what it prints, how long its command may be, and
//! how long its input waits for somebody who does not come back.

use crate::system::{Engine, House, Server};

/// Opens a house with a node inside that is told more; none without root, since programs need sandboxes here.
fn open(more: &[&str]) -> Option<(House, Server)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let command = house.command_with(&[&["up"], more].concat(), &house.data());
    let server = Server::begin(command, house.home()).expect("starts");
    Some((house, server))
}

#[test]
fn what_is_not_kept_is_told_and_costs_nothing_else() {
    let Some((house, server)) = open(&[]) else { return };
    let script = "echo 0123456789abcdef; exit 7";
    let ran = server.run(&house.token(), &["run", "--log-bytes", "10", "--", "sh", "-c", script]);
    assert_eq!((ran.code, ran.out.as_str()), (7, "0123456789"), "{}", ran.err);
    insta::assert_snapshot!(ran.err, @"[the log limit was reached: the first 10 bytes are kept and the other 7 are not; the program itself went on (hint: `--log-bytes` sets another limit)]");
    server.stop();
}
