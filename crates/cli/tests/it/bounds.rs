//! Bounds that a program and its user meet by hand: how much is kept of what it prints, how long its command may be, and
//! how long its input waits for somebody who does not come back.

use crate::stub::run_with;
use crate::system::{Engine, House, Server};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

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

#[test]
fn a_long_command_runs_and_one_that_is_too_long_is_told_what_to_do() {
    let Some((house, server)) = open(&[]) else { return };
    let token = house.token();
    let run = |words: &[&str]| {
        let begin = ["run", "--", "sh", "-c", "echo $#", "sh"];
        server.run(&token, &[&begin, words].concat())
    };
    let ran = run(&["o"; 3_000]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "3000\n"), "{}", ran.err);
    for (words, field) in
        [(vec!["o"; 5_000], "command"), (vec!["a-longer-word"; 2_000], "command, env, sandbox and input")]
    {
        let ran = run(&words);
        assert_eq!(ran.code, 64, "{}", ran.err);
        assert!(ran.err.contains(&format!("`{field}` of execution")), "{}", ran.err);
        assert!(ran.err.contains("hint: ") && ran.err.contains("`quarry run --file`"), "{}", ran.err);
    }
    server.stop();
}

#[test]
fn input_that_nobody_feeds_any_more_ends() {
    let Some((house, server)) = open(&["--input-silence", "2s"]) else { return };
    let token = house.token();
    let mut command = server.command(&token, &["run", "--", "sh", "-c", "cat; echo over; exit 3"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let (mut stdin, stdout) = (child.stdin.take().expect("is piped"), child.stdout.take().expect("is piped"));
    writeln!(stdin, "first").expect("is read");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("is text");
    assert_eq!(line, "first\n");
    child.kill().expect("is ours");
    child.wait().expect("ends");
    let listed = server.run(&token, &["execution", "ls"]).out;
    let id = listed.split_whitespace().find(|word| word.starts_with("exe_")).expect("is listed").to_owned();
    assert_eq!(run_with(server.command(&token, &["execution", "wait", &id]), b"").code, 3);
    let logs = server.run(&token, &["execution", "logs", &id]);
    assert_eq!(logs.out, "first\nover\n", "{}", logs.err);
    insta::assert_snapshot!(logs.err, @"[the program's input has ended: whoever fed it gave no sign of life for 2 s]");
    server.stop();
}
