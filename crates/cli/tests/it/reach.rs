//! What an execution may reach, with real traffic: a whole house in a network namespace of its own, in which the addresses
//! of strangers are the test's.

use crate::stub::{Ran, run_with};
use crate::system::{Engine, House, Server};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

/// Addresses that look like anybody's; in the namespace they are the node's own, so only a rule for exactly them opens them.
const FOUR: &str = "9.9.9.9";
const SIX: &str = "2620:fe::9";

/// A network namespace, for as long as this lives.
struct Namespace(Child);

impl Namespace {
    /// Makes one and moves this thread into it, with all that it starts from now on; none, without the privileges.
    fn enter() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !std::path::Path::new("/dev/net/tun").exists() {
            return None;
        }
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo; exec sleep 600"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().expect("is piped"));
        std::io::BufRead::read_line(&mut out, &mut line).expect("is heard");
        let file = std::fs::File::open(format!("/proc/{}/ns/net", child.id())).expect("is there");
        let namespace = Self(child);
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("is entered");
        let (four, six) = (format!("addr add {FOUR}/32 dev lo"), format!("-6 addr add {SIX}/128 dev lo"));
        for words in ["link set lo up", &four, &six] {
            let done = Command::new("ip").args(words.split(' ')).status().expect("is there");
            assert!(done.success(), "ip {words}");
        }
        Some(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Greets whoever comes, a number of times; returns where.
fn greeter(address: &str, greeting: &'static str, times: usize) -> (SocketAddr, JoinHandle<()>) {
    let address: SocketAddr = address.parse().expect("is an address");
    let listener = TcpListener::bind(address).expect("binds");
    let at = listener.local_addr().expect("has one");
    let greet = move || {
        for _ in 0..times {
            listener.accept().expect("comes").0.write_all(greeting.as_bytes()).expect("is sent");
        }
    };
    (at, std::thread::spawn(greet))
}

#[test]
fn egress_lets_through_what_is_listed_and_refuses_the_rest() {
    let Some(_namespace) = Namespace::enter() else { return };
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let server = Server::begin(house.command_with(&["up"], &house.data()), house.home()).expect("starts");
    let token = house.token();
    let run = |args: &[&str]| -> Ran { run_with(server.command(&token, &[&["run"], args].concat()), b"") };
    let (open, greeted) = greeter(&format!("{FOUR}:0"), "hello from outside\n", 2);
    let (open_six, greeted_six) = greeter(&format!("[{SIX}]:0"), "hello from six\n", 1);
    // Nobody ever comes here, so nobody waits for it.
    let shut = TcpListener::bind(format!("{FOUR}:0")).expect("binds");
    let shut_at = shut.local_addr().expect("has one");
    let call = |at: SocketAddr| format!("exec 3<>/dev/tcp/{}/{} && cat <&3", at.ip(), at.port());
    let (rule, rule_six) = (open.to_string(), open_six.to_string());
    let egress = ["--net", "egress", "--allow", &rule, "--allow", &rule_six, "--", "bash", "-c"];

    let ran = run(&[&egress[..], &[&call(open)]].concat());
    assert_eq!((ran.code, ran.out.as_str()), (0, "hello from outside\n"), "{}", ran.err);
    let ran = run(&[&egress[..], &[&call(open_six)]].concat());
    assert_eq!((ran.code, ran.out.as_str()), (0, "hello from six\n"), "{}", ran.err);
    // The same address at another port, and in the same breath what is open still is.
    let both = format!("({}) || ({})", call(shut_at), call(open));
    let ran = run(&[&egress[..], &[&both]].concat());
    assert_eq!((ran.code, ran.out.as_str()), (0, "hello from outside\n"), "{}", ran.err);
    assert!(ran.err.contains("Connection refused"), "{}", ran.err);
    // Without a list, and without a network, there is nobody.
    for (net, why) in [("egress", "Connection refused"), ("none", "Network is unreachable")] {
        let ran = run(&["--net", net, "--", "bash", "-c", &call(open)]);
        assert!(ran.code == 1 && ran.err.contains(why), "{net}: {ran:?}");
    }
    shut.set_nonblocking(true).expect("is set");
    assert!(shut.accept().is_err(), "nobody came where nobody may");
    greeted.join().expect("greeted twice");
    greeted_six.join().expect("greeted once");
    // What is asked for must be a rule that can be met, and is looked at before anything is sent.
    let ran = run(&["--net", "egress", "--allow", "127.0.0.1:80", "--", "true"]);
    assert!(ran.code == 64 && ran.err.contains("no sandbox may reach what it names"), "{ran:?}");
    server.stop();
}
