//! Lives of programs: how they end, what they say, what they are told.

use crate::bench::{Bench, Who, order, plan, shell, text};
use sandbox::{FaultKind, Order, Plan, Status};
use std::fs::File;
use std::io::{Read, Write};

#[test]
fn programs_end_as_they_do_by_hand() {
    for who in [Who::Root, Who::Ordinary] {
        let mut bench = Bench::of(who);
        let mut check = |script: &str, status: Status, output: &str| {
            let run = bench.run(&plan(), &shell(script));
            let told = (run.ending.status, run.output.as_str());
            assert_eq!(told, (status, output), "{script} as {who:?}: {run:?}");
        };
        check("echo hello", Status::Exited(0), "hello\n");
        check("exit 7", Status::Exited(7), "");
        check("kill -SEGV $$", Status::Signalled(libc::SIGSEGV), "");
        check("kill -KILL $$", Status::Signalled(libc::SIGKILL), "");
        check("kill -TERM $$", Status::Signalled(libc::SIGTERM), "");
        check("exec python3 -c 'import os; os.abort()'", Status::Signalled(libc::SIGABRT), "");
        check("echo $$", Status::Exited(0), "2\n");
        check("(sleep 100 &) ; echo gone", Status::Exited(0), "gone\n");
        check("hostname; id -u; pwd", Status::Exited(0), "box\n0\n/\n");
        check("ls /proc/self/fd | wc -l", Status::Exited(0), "4\n");
        check(
            "grep -E '^(CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status | sort | tr -d '\\t\\n'",
            Status::Exited(0),
            "CapAmb:0000000000000000CapBnd:0000000000000000CapEff:0000000000000000CapPrm:0000000000000000NoNewPrivs:1",
        );
    }
}

#[test]
fn what_cannot_run_says_why() {
    let mut bench = Bench::new();
    let mut check = |order: &Order, words: &str, kind: FaultKind| {
        let fault = bench.try_run(&plan(), order, b"").expect_err(words);
        assert_eq!(fault.kind, kind, "{fault}");
        assert!(fault.cause.contains(words), "{fault}");
    };
    check(&order(&["no-such-program"]), "does not exist", FaultKind::NoProgram);
    check(&order(&["/no/such/program"]), "does not exist", FaultKind::NoProgram);
    check(&order(&["/etc/passwd"]), "may not be run", FaultKind::NotExecutable);
    check(&order(&["/etc"]), "may not be run", FaultKind::NotExecutable);
    check(&Order { cwd: "/nowhere".to_owned(), ..shell("true") }, "the folder `/nowhere`", FaultKind::Order);
    check(
        &Order { user: "nobody-of-that-name".to_owned(), ..shell("true") },
        "does not exist inside",
        FaultKind::Order,
    );
    check(&Order { user: "70000".to_owned(), ..shell("true") }, "above 65535", FaultKind::Order);
}

#[test]
fn input_and_both_outputs_are_the_programs_own() {
    for who in [Who::Root, Who::Ordinary] {
        let mut bench = Bench::of(who);
        let run = bench.try_run(&plan(), &shell("cat; echo mistake >&2"), b"some input").expect("it runs");
        assert_eq!((run.output.as_str(), run.error.as_str()), ("some input", "mistake\n"), "{who:?}");
    }
}

#[test]
fn a_program_is_whom_the_order_names() {
    let mut bench = Bench::new();
    let mut check = |user: &str, output: &str| {
        let run = bench.run(&plan(), &Order { user: user.to_owned(), ..shell("id -u; id -g; id -G; echo $HOME") });
        assert_eq!(run.output, output, "{user}: {run:?}");
    };
    check("0", "0\n0\n0\n/root\n");
    check("nobody", "65534\n65534\n65534\n/nonexistent\n");
    check("1234:99", "1234\n99\n99\n/\n");
    let env = vec![("HOME".to_owned(), "/mine".to_owned())];
    let run = bench.run(&plan(), &Order { user: "nobody".to_owned(), env, ..shell("echo $HOME") });
    assert_eq!(run.output, "/mine\n");
    let own = Bench::of(Who::Ordinary).try_run(&plan(), &Order { user: "1234".to_owned(), ..shell("id") }, b"");
    assert_eq!(own.expect_err("one id is all there is").kind, FaultKind::Order);
}

#[test]
fn capabilities_over_files_are_kept_when_asked_for() {
    let mut bench = Bench::new();
    let plan = Plan { file_capabilities: true, ..plan() };
    let script = "touch /tmp/a && chown 5:6 /tmp/a && stat -c %u:%g /tmp/a; grep CapEff /proc/self/status";
    let run = bench.run(&plan, &shell(script));
    assert_eq!(run.output, "5:6\nCapEff:\t00000000800004fb\n", "{run:?}");
}

#[test]
fn a_terminal_is_one() {
    for who in [Who::Root, Who::Ordinary] {
        let mut bench = Bench::of(who);
        let plan = Plan { terminal: true, ..plan() };
        let script =
            r#"tty; stty size; while [ "$(stty size)" = "33 44" ]; do :; done; stty size; read line; echo "[$line]""#;
        let order = Order { window: Some((33, 44)), ..shell(script) };
        let number = bench.number();
        let (stdio, ..) = crate::bench::streams(b"");
        bench.spawner.run(number, &plan, &order, &stdio).expect("the spawner listens");
        let mut terminal = File::from(bench.started(number).expect("a terminal"));
        let mut seen = String::new();
        let mut read_until = |terminal: &mut File, words: &str| {
            let mut buffer = [0; 64];
            while !seen.contains(words) {
                let bytes = terminal.read(&mut buffer).expect("the terminal can be read");
                seen.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
            }
        };
        read_until(&mut terminal, "/dev/pts/0\r\n33 44\r\n");
        bench.spawner.resize(number, 55, 66).expect("the spawner listens");
        read_until(&mut terminal, "55 66\r\n");
        terminal.write_all(b"word\n").expect("the terminal takes a line");
        read_until(&mut terminal, "[word]\r\n");
        assert_eq!(bench.end(number).expect("it ran").status, Status::Exited(0), "{who:?}");
    }
}

#[test]
fn usage_is_counted() {
    for who in [Who::Root, Who::Ordinary] {
        let mut bench = Bench::of(who);
        let script = "import time\nx = b'x' * (64 << 20)\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass";
        let usage = bench.run(&plan(), &order(&["python3", "-c", script])).ending.usage;
        assert!((300..3000).contains(&usage.cpu_ms), "{who:?}: {usage:?}");
        assert!(usage.wall_ms >= 300, "{who:?}: {usage:?}");
        assert!((64 << 20..200 << 20).contains(&usage.memory_peak_bytes), "{who:?}: {usage:?}");
        assert_eq!(usage.unenforced.memory, who == Who::Ordinary, "{usage:?}");
    }
}

#[test]
fn a_wire_is_all_there_is_of_a_network() {
    let mut bench = Bench::new();
    let plan = Plan { network: model::Network::Egress, ..plan() };
    let number = bench.number();
    let script = "cat /etc/resolv.conf; cat /proc/net/route | grep -c eth0; \
        exec python3 -c 'import socket; socket.socket(2, 2).sendto(b\"ping\", (\"192.0.2.1\", 9))'";
    let (stdio, output, error) = crate::bench::streams(b"");
    bench.spawner.run(number, &plan, &shell(script), &stdio).expect("the spawner listens");
    drop(stdio);
    let wire = match bench.events.next() {
        Some(sandbox::Event::Built { wire: Some(wire), .. }) => File::from(wire),
        other => panic!("there should be a wire: {other:?}"),
    };
    let ending = bench.end(number).expect("it runs");
    let (output, error) = (text(output), text(error));
    assert_eq!(output, "nameserver 10.0.2.3\n2\n", "{ending:?} {error}");
    let mut packet = [0; 2048];
    let mut seen = false;
    // The kernel also sends what it pleases, of IPv6 for instance.
    while let Ok(bytes) = (&wire).read(&mut packet) {
        seen |= packet[..bytes].ends_with(b"ping");
        if seen {
            break;
        }
    }
    assert!(seen, "the packet should have come out of the wire");
    let none = bench
        .run(&crate::bench::plan(), &shell("ls /sys/class/net 2>/dev/null; cut -d: -f1 /proc/net/dev | tail -n +3"));
    assert_eq!(none.output.trim(), "lo", "{none:?}");
}
