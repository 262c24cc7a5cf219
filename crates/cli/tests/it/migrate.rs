//! `quarry migrate --from`: a house moves into a database, or another folder, and counts its dumps there as before.

use crate::signature::upload;
use crate::stub::{Ran, quarry, run_with};
use crate::system::{Engine, House, Server};
use serde_json::Value;

/// What is counted, and among which dumps.
const REPORTS: [&[&str]; 9] = [
    &["hash=*"],
    &["type=core"],
    &["type=core", "type"],
    &["state=received", "state"],
    &["state=purged", "state"],
    &["truncated=false"],
    &["ticket=OS-1", "ticket"],
    &["ticket=OS-*", "ticket"],
    &["type=core", "ticket"],
];

fn reports(server: &Server, token: &str) -> Vec<Value> {
    let report = |words: &&[&str]| json(&server.run(token, &[&["dump", "report", "--json"], *words].concat()));
    REPORTS.iter().map(report).collect()
}

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).expect("is JSON")
}

fn moves_into(engine: Engine) {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let Some(other) = House::new(engine) else { return };
    let server = house.start();
    let token = house.token();
    let dumps = upload(&house, &server, &token, 5);
    let done = |server: &Server, words: &[&str]| {
        let ran = server.run(&token, &[&["dump"], words].concat());
        assert_eq!(ran.code, 0, "{words:?}: {}", ran.err);
    };
    done(&server, &["ticket", &dumps[0], "OS-1"]);
    done(&server, &["ticket", &dumps[1], "OS-2"]);
    done(&server, &["rm", &dumps[2]]);
    let before = reports(&server, &token);
    server.stop();

    let mut command = quarry(&["migrate", "--json", "--from"], house.home());
    command.arg(house.data()).arg("--data").arg(other.data());
    if let Some(url) = other.database() {
        command.args(["--db", url]);
    }
    let moved = json(&run_with(command, b""));
    assert_eq!(moved["rows"]["dump"], 5, "{moved}");

    let server = other.start();
    assert_eq!(reports(&server, &token), before);
    // What happens there is counted on from where it stood.
    done(&server, &["unticket", &dumps[0]]);
    done(&server, &["rm", &dumps[1]]);
    done(&server, &["rm", &dumps[3]]);
    let after = reports(&server, &token);
    let list = |words: &[&str]| {
        let listed = json(&server.run(&token, &[&["dump", "ls", "--json"], words].concat()));
        listed["items"].as_array().expect("a list").len()
    };
    for (words, report) in REPORTS.iter().zip(&after) {
        assert_eq!(report["dumps"], list(&words[..1]), "{words:?}: {report}");
    }
    assert_ne!(after, before);
    server.stop();
}

#[test]
fn a_folder_moves_into_a_database() {
    moves_into(Engine::Postgres);
}

#[test]
fn a_folder_moves_into_another() {
    moves_into(Engine::Sqlite);
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().expect("is made");
    let file = folder.path().join("quarry.db");
    let migrate = || {
        let mut command = quarry(&["migrate", "--check", "--data"], folder.path());
        command.arg(folder.path());
        run_with(command, b"")
    };
    std::fs::write(&file, [0xa5; 8_192]).expect("is written");
    let ran = migrate();
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains(&format!("the database `{}` cannot be used", file.display())), "{}", ran.err);
    // What a start left that was killed before anything else: nothing is there yet.
    std::fs::write(&file, []).expect("is written");
    let ran = migrate();
    assert_eq!((ran.code, ran.out.contains("schema 0, would become")), (0, true), "{}{}", ran.out, ran.err);
}
