//! What a running execution uses, seen from the command line while it runs; and that what it used in the end replaces it.

use crate::stub::run_with;
use crate::system::{Engine, House, Server};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How long a measure may take to be seen: some seconds, on a machine that has other things to do.
const MAX_WAIT: Duration = Duration::from_secs(30);

#[test]
fn what_runs_is_measured_while_it_runs() {
    if !rustix::process::geteuid().is_root() {
        // Without control groups nothing counts what is inside.
        return;
    }
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let server = Server::begin(house.command_with(&["up"], &house.data()), house.home()).expect("starts");
    let token = house.token();
    let say = |args: &[&str]| {
        let ran = run_with(server.command(&token, args), b"");
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran.out
    };
    let words = "echo begun; while :; do :; done";
    let id = say(&["run", "--detach", "--", "sh", "-c", words]).trim().to_owned();
    let usage = || {
        let shown: Value = serde_json::from_str(&say(&["execution", "info", "--json", &id])).expect("is JSON");
        (shown["state"].as_str().expect("has one").to_owned(), shown["usage"].clone())
    };
    let begun = Instant::now();
    let (state, first) = loop {
        let (state, usage) = usage();
        if usage["cpu_ms"].as_u64().is_some_and(|ms| ms > 0) {
            break (state, usage);
        }
        assert!(begun.elapsed() < MAX_WAIT, "{state} {usage}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(state, "running");
    assert!(first["wall_ms"].as_u64() > Some(500) && first["memory_peak_bytes"].as_u64() > Some(0), "{first}");
    assert_eq!(first["log_bytes"], 6);
    let shown = say(&["execution", "info", &id]);
    assert!(shown.lines().any(|line| line.starts_with("used ") && line.contains("of processor")), "{shown}");
    let (ps, top) = (say(&["ps"]), say(&["top", "--once"]));
    for (name, text) in [("ps", &ps), ("top", &top)] {
        let head = text.lines().find(|line| line.contains("MEMORY")).unwrap_or_else(|| panic!("{name}: {text}"));
        let line = text.lines().find(|line| line.contains(&id)).expect("is shown");
        let cell = line.get(head.find("MEMORY").expect("is there")..).expect("is as long");
        assert!(cell.starts_with(|first: char| first.is_ascii_digit()), "{name}: {text}");
    }
    // It goes on: the next measure says more.
    while usage().1["cpu_ms"].as_u64() <= first["cpu_ms"].as_u64() {
        assert!(begun.elapsed() < MAX_WAIT, "nothing new in {MAX_WAIT:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    // The log does not hear of it.
    let changes = say(&["changes", "--json"]);
    assert_eq!(
        changes.lines().filter(|line| line.contains(&id) && line.contains("\"running\"")).count(),
        1,
        "{changes}"
    );
    say(&["execution", "cancel", &id]);
    say_any(&server, &token, &["execution", "wait", &id]);
    let (state, last) = usage();
    assert_eq!(state, "cancelled");
    assert!(last["cpu_ms"].as_u64() >= first["cpu_ms"].as_u64(), "{last}");
    server.stop();
}

/// Runs a command that may well fail.
fn say_any(server: &Server, token: &str, args: &[&str]) {
    let _ = run_with(server.command(token, args), b"");
}
