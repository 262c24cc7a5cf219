//! A server's life: its first start, the next ones, those that must not succeed, and its end.

use crate::stub::{Ran, quarry, run_with};
use crate::system::{Engine, Held, House, Server};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("is there").permissions().mode() & 0o777
}

/// Asserts whom the server takes the bearer of a token for.
fn assert_admin(server: &Server, token: &str) {
    let ran = server.run(token, &["login", "--show", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let who: serde_json::Value = serde_json::from_str(&ran.out).expect("is JSON");
    assert_eq!((who["user"].as_str(), who["role"].as_str()), (Some("admin"), Some("admin")));
}

fn the_first_token(engine: Engine) {
    let Some(house) = House::new(engine) else { return };
    let server = house.start();
    let first = server.shown.clone().expect("the first start shows a token");
    assert_eq!(house.token(), first);
    assert_eq!(mode(&house.token_file()), 0o600);
    assert_admin(&server, &first);
    server.stop();

    let server = house.start();
    assert_eq!((server.shown.as_deref(), house.token()), (None, first.clone()), "a second start shows no token");
    assert_admin(&server, &first);
    server.stop();

    std::fs::remove_file(house.token_file()).expect("was there");
    let server = house.start();
    let fresh = server.shown.clone().expect("a lost token file gets a fresh token");
    assert_ne!(fresh, first);
    assert_eq!((house.token(), mode(&house.token_file())), (fresh.clone(), 0o600));
    assert_admin(&server, &fresh);
    assert_admin(&server, &first);
    server.stop();
}

#[test]
fn the_first_token_on_sqlite() {
    the_first_token(Engine::Sqlite);
}

#[test]
fn the_first_token_on_postgres() {
    the_first_token(Engine::Postgres);
}

#[test]
fn a_person_is_told_where_and_how_to_go_on() {
    let home = tempfile::tempdir().expect("is made");
    let begin = || {
        let mut command = quarry(&["up", "--listen", "127.0.0.1:0"], home.path());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        Held::start(command)
    };
    let mut first = begin();
    let lines: Vec<String> = first.lines().take(3).collect();
    let url = lines[0].rsplit(' ').next().expect("ends in an address");
    let token = lines[1].rsplit(' ').next().expect("ends in a token");
    assert!(token.starts_with("qry_"), "{lines:?}");
    let said = lines.join("\n").replace(url, "URL").replace(token, "TOKEN");
    insta::assert_snapshot!(said.replace(env!("CARGO_PKG_VERSION"), "VERSION"), @"
    quarry VERSION listens at URL
    an admin's token, shown this once: TOKEN
    next, in another terminal: export QUARRY_URL=URL QUARRY_TOKEN=TOKEN
    ");
    drop(first);
    let mut second = begin();
    let mut lines = second.lines();
    assert!(lines.next().expect("greets").starts_with("quarry "));
    drop(second);
    assert_eq!(lines.next(), None, "a second start shows no token");
}

#[test]
fn a_first_start_that_cannot_hand_over_its_token_locks_nobody_out() {
    let home = tempfile::tempdir().expect("is made");
    let up =
        |more: &[&str]| quarry(&[&["up", "--listen", "127.0.0.1:0", "--data", "data"], more].concat(), home.path());
    let ran = run_with(up(&["--token-file", "nosuch/token"]), b"");
    assert_eq!(ran.code, 1, "{}", ran.err);
    insta::assert_snapshot!(ran.err, @"
    error: the token cannot be written to `nosuch/token`: No such file or directory (os error 2)
    hint: name another one with --token-file
    ");
    let ran = run_with(up(&["--token-file", "data"]), b"");
    assert!(ran.code == 1 && ran.err.contains("`data` is a folder"), "{}", ran.err);
    assert!(!home.path().join("data/quarry.db").exists(), "a house was made that nobody can enter");

    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("is there");
    let ended = up(&[]).stdout(full).stderr(Stdio::piped()).output().expect("runs");
    let said = String::from_utf8(ended.stderr).expect("is text");
    assert_eq!(ended.status.code(), Some(1), "{said}");
    let token = said.split("shown this once: ").nth(1).expect("is told").lines().next().expect("is one").to_owned();
    let said = said.lines().skip_while(|line| !line.starts_with("error:")).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(said.replace(&token, "TOKEN"), @"
    error: standard output cannot be written: No space left on device (os error 28)
    error: an admin's token, shown this once: TOKEN
    hint: `quarry up --token-file NEW` makes another
    ");
    let server = Server::begin(up(&["--json", "--token-file", "token"]), home.path()).expect("starts");
    assert_admin(&server, &token);
    assert_admin(&server, &server.shown.clone().expect("another one is made"));
}

#[test]
fn a_place_that_cannot_be_used_is_named() {
    let home = tempfile::tempdir().expect("is made");
    std::fs::write(home.path().join("file"), "").expect("is written");
    let check = |data: &str, expected: &str| {
        let ran = run_with(quarry(&["up", "--data", data], home.path()), b"");
        assert!(ran.code == 1 && ran.err.starts_with(expected), "{ran:?}");
        assert!(ran.err.ends_with("hint: name another one with --data\n"), "{ran:?}");
    };
    check("file", "error: the data folder `file` cannot be made: it is not a folder\n");
    check("/proc/x", "error: the data folder `/proc/x` cannot be made: No such file or directory");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("is there");
    let ended = quarry(&["completion", "bash"], home.path()).stdout(full).stderr(Stdio::piped()).output();
    let said = String::from_utf8(ended.expect("runs").stderr).expect("is text");
    assert_eq!(said, "error: standard output cannot be written: No space left on device (os error 28)\n");
}

#[test]
fn nobody_else_reads_a_token_through_a_file_left_over() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let draft = house.token_file().with_extension("new");
    std::fs::write(&draft, "left over").expect("is written");
    std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o644)).expect("is ours");
    let server = house.start();
    assert_eq!(mode(&house.token_file()), 0o600);
    assert_admin(&server, &house.token());
}

/// Returns the refusal of a start that must not succeed.
fn refused(house: &House) -> Ran {
    match house.try_start() {
        Err(ran) => ran,
        Ok(server) => panic!("it started at {}", server.url),
    }
}

/// Returns the last thing said on standard error, which with `--json` is the refusal.
fn refusal(house: &House, ran: &Ran) -> String {
    house.masked(ran.err.lines().last().unwrap_or_default())
}

#[test]
fn a_folder_has_one_server() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let server = house.start();
    let ran = refused(&house);
    assert_eq!(ran.code, 3, "{}", ran.err);
    insta::assert_snapshot!(refusal(&house, &ran), @r#"{"error":{"code":"folder_in_use","message":"the store cannot be opened: folder `HOME/data` is in use by another quarry","hint":"stop the other one, or name another folder with --data"}}"#);
    assert_admin(&server, &house.token());
    server.kill();
    assert_admin(&house.start(), &house.token());
}

#[test]
fn an_address_has_one_server_and_a_failed_start_loses_no_token() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("is bound").to_string();
    let home = tempfile::tempdir().expect("is made");
    let ran = run_with(quarry(&["up", "--listen", &address], home.path()), b"");
    assert_eq!(ran.code, 1, "{}", ran.err);
    let said = ran.err.lines().rev().take(2).collect::<Vec<_>>();
    insta::assert_snapshot!(said.into_iter().rev().collect::<Vec<_>>().join("\n").replace(&address, "ADDRESS"), @"
    error: cannot listen on `ADDRESS`: Address already in use (os error 98)
    hint: name another one with --listen; port 0 takes a free one
    ");
    drop(taken);
    // Without a token file this is the only chance to learn the token.
    let server = Server::begin(quarry(&["up", "--json", "--listen", &address], home.path()), home.path());
    let server = server.expect("starts");
    assert_admin(&server, &server.shown.clone().expect("the first start that succeeds shows the token"));
}

fn a_newer_schema_is_refused(engine: Engine) -> Option<String> {
    let house = House::new(engine)?;
    house.start().stop();
    house.sql("INSERT INTO migration (version, name, at) VALUES (999, 'from the future', 0)");
    let ran = refused(&house);
    assert_eq!(ran.code, 3, "{}", ran.err);
    let said = refusal(&house, &ran);
    house.sql("DELETE FROM migration WHERE version = 999");
    house.start().stop();
    Some(said)
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let said = a_newer_schema_is_refused(Engine::Sqlite).expect("needs nothing");
    insta::assert_snapshot!(said, @r#"{"error":{"code":"schema_newer","message":"the store cannot be opened: the database has schema 999, written by a newer quarry; this one knows up to 20","hint":"use the version that wrote it, or a newer one"}}"#);
    if let Some(other) = a_newer_schema_is_refused(Engine::Postgres) {
        assert_eq!(other, said);
    }
}

#[test]
fn a_database_that_is_none_is_told() {
    let house = House::new(Engine::Sqlite).expect("needs nothing").with(&["--db", "postgres://quarry@127.0.0.1:1/x"]);
    let ran = refused(&house);
    assert_eq!(ran.code, 4, "{}", ran.err);
    insta::assert_snapshot!(refusal(&house, &ran), @r#"{"error":{"code":"database_unreachable","message":"the store cannot be opened: the database is not available: Error occurred while creating a new object: error connecting to server: Connection refused (os error 111)","hint":"is it running, and is --db right? `quarry doctor --db …` looks"}}"#);

    let house = House::new(Engine::Sqlite).expect("needs nothing");
    std::fs::create_dir(house.data()).expect("is made");
    std::fs::write(house.data().join("quarry.db"), "a letter to my landlord, kept here by mistake".repeat(99))
        .expect("is written");
    let ran = refused(&house);
    assert_eq!(ran.code, 1, "{}", ran.err);
    insta::assert_snapshot!(refusal(&house, &ran), @r#"{"error":{"code":"start_failed","message":"the database `HOME/data/quarry.db` cannot be used: sqlite failed while setting up: file is not a database: Error code 26: file is not a database","hint":"is it whole, and may this user write it? --data names another folder"}}"#);
}

#[test]
fn after_an_end_in_order_the_file_alone_is_everything() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let server = house.start();
    let id = server.run(&house.token(), &["execution", "create", "--", "true"]).out;
    server.stop();
    let copy = House::new(Engine::Sqlite).expect("needs nothing");
    std::fs::create_dir(copy.data()).expect("is made");
    std::fs::copy(house.data().join("quarry.db"), copy.data().join("quarry.db")).expect("is there");
    let server = copy.start();
    assert_eq!(server.run(&house.token(), &["execution", "info", id.trim()]).code, 0);
}

/// A blob half of which is on its way.
struct Upload {
    stream: TcpStream,
    rest: &'static [u8],
}

impl Upload {
    fn begin(server: &Server, token: &str) -> Self {
        let mut stream = TcpStream::connect(server.address()).expect("connects");
        let head = format!(
            "POST /v1/blobs HTTP/1.1\r\nhost: quarry\r\nauthorization: Bearer {token}\r\ncontent-length: 10\r\n\
             expect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("is sent");
        // The interim answer comes when the handler begins to read: from here on the request is under way.
        let mut interim = [0; 25];
        stream.read_exact(&mut interim).expect("is answered");
        assert!(interim.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&interim));
        stream.write_all(b"hello").expect("is sent");
        Self { stream, rest: b"world" }
    }

    fn finish(mut self) -> String {
        self.stream.write_all(self.rest).expect("is sent");
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).expect("is answered, and then closed");
        answer
    }
}

/// Follows the log; returns when the stream of events has begun.
fn follow(server: &Server, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).expect("connects");
    let head = format!(
        "GET /v1/changes HTTP/1.1\r\nhost: quarry\r\nauthorization: Bearer {token}\r\naccept: text/event-stream\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("is sent");
    let mut begin = [0; 16];
    stream.read_exact(&mut begin).expect("is answered");
    assert_eq!(&begin, b"HTTP/1.1 200 OK\r");
    stream
}

/// Waits until nobody listens at the address any more.
fn await_refusal(server: &Server) {
    let begun = Instant::now();
    while TcpStream::connect(server.address()).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it still listens: {}", server.said());
        std::thread::yield_now();
    }
}

#[test]
fn an_end_in_order_lets_requests_finish() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let server = house.start();
    let upload = Upload::begin(&server, &house.token());
    // A follower would stay for ever, so it is let go; a connection that idles has nothing to finish.
    let mut follower = follow(&server, &house.token());
    let idle = TcpStream::connect(server.address()).expect("connects");
    server.signal(Signal::TERM);
    await_refusal(&server);
    let mut rest = String::new();
    follower.read_to_string(&mut rest).expect("ends in order");
    assert!(rest.contains("the server stops"), "{rest}");
    let answer = upload.finish();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let begun = Instant::now();
    let ran = server.wait();
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(begun.elapsed() < Duration::from_secs(2), "it waited for nobody: {:?}", begun.elapsed());
    drop(idle);
    let server = house.start();
    let listed = server.run(&house.token(), &["blob", "ls"]);
    assert_eq!(listed.out.lines().count(), 2, "{}", listed.out);
}

#[test]
fn a_start_that_takes_long_hears_signals() {
    /// Bit of a signal among those that a process has something to do about.
    const TERM: u64 = 1 << 14;
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    house.start().stop();
    // Somebody else writes, so the schema has to wait.
    let other = rusqlite::Connection::open(house.data().join("quarry.db")).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("is nobody's");
    for (signal, code) in [(Signal::TERM, 0), (Signal::INT, 130)] {
        let starting = Held::start(house.command());
        let status = format!("/proc/{}/status", starting.pid());
        let begun = Instant::now();
        let hears = || {
            let status = std::fs::read_to_string(&status).expect("runs");
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("is told").trim();
            u64::from_str_radix(caught, 16).expect("is a number") & TERM != 0
        };
        while !hears() {
            assert!(begun.elapsed() < Duration::from_secs(9), "it does not come so far");
            std::thread::sleep(Duration::from_millis(5));
        }
        rustix::process::kill_process(starting.pid(), signal).expect("runs");
        assert_eq!(starting.wait(), code);
        assert!(begun.elapsed() < Duration::from_secs(9), "it waited for the database");
    }
    other.execute_batch("ROLLBACK").expect("was begun");
    house.start().stop();
}

#[test]
fn a_second_signal_ends_at_once() {
    for (first, second, code) in [(Signal::TERM, Signal::TERM, 1), (Signal::INT, Signal::INT, 130)] {
        let house = House::new(Engine::Sqlite).expect("needs nothing");
        let server = house.start();
        let upload = Upload::begin(&server, &house.token());
        server.signal(first);
        await_refusal(&server);
        let begun = Instant::now();
        server.signal(second);
        let ran = server.wait();
        assert_eq!(ran.code, code, "{}", ran.err);
        assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
        drop(upload);
        // What was half-written is gone, and the next start needs no help.
        let server = house.start();
        assert_eq!(server.run(&house.token(), &["blob", "ls"]).out.lines().count(), 1);
    }
}

#[test]
fn servers_share_a_database() {
    let Some(house) = House::new(Engine::Postgres) else { return };
    let (one, two) = std::thread::scope(|scope| {
        let begin = |name: &str| Server::begin(house.command_with(&["serve"], &house.home().join(name)), house.home());
        // Both at once, on a database in which nothing is: one of them makes the house.
        let one = scope.spawn(move || begin("one"));
        let two = scope.spawn(move || begin("two"));
        (one.join().expect("does not panic").expect("starts"), two.join().expect("does not panic").expect("starts"))
    });
    let token = one.shown.clone().or(two.shown.clone()).expect("one of them shows a token");
    for server in [&one, &two] {
        assert_admin(server, &token);
        assert_eq!(server.run(&token, &["user", "ls"]).out.lines().count(), 2, "there is one admin");
    }
    let made = |server: &Server| {
        let ran = server.run(&token, &["execution", "create", "--", "true"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out.trim().to_owned()
    };
    let head = |server: &Server| {
        let ran = server.run(&token, &["changes", "--limit", "0", "--json"]);
        let last: serde_json::Value =
            serde_json::from_str(ran.out.lines().last().expect("something happened")).expect("is JSON");
        last["seq"].as_u64().expect("is a number").to_string()
    };
    // What is written through one is seen by who follows the other.
    let after = head(&one);
    let follow = two.command(&token, &["changes", "-f", "--after", &after, "--limit", "1", "--json"]);
    let follower = std::thread::spawn(move || run_with(follow, b""));
    let begun = Instant::now();
    let id = made(&one);
    let seen = follower.join().expect("does not panic");
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    assert!(seen.out.contains(&id), "{seen:?}");
    assert_eq!(two.run(&token, &["execution", "cancel", &id]).code, 0);
    // A token made by one works with the other at once.
    let ran = one.run(&token, &["token", "create", "other"]);
    assert_admin(&two, ran.out.trim());
    one.kill();
    let id = made(&two);
    assert_eq!(two.run(&token, &["execution", "info", &id]).code, 0);
    two.stop();
}

#[test]
fn a_wrong_configuration_is_usage() {
    let home = tempfile::tempdir().expect("is made");
    let file = home.path().join("quarry.toml");
    std::fs::write(&file, "[server]\nlissten = \"127.0.0.1:0\"\n[retention]\nchanges_age = \"soon\"\n")
        .expect("is written");
    for verb in [&["up"][..], &["serve"], &["config", "check"], &["config", "show"]] {
        let mut command = quarry(&[verb, &["--set", "store.synchronus=full"]].concat(), home.path());
        command.env("QUARRY_RATE_PER_SECONDS", "5");
        let ran = run_with(command, b"");
        assert_eq!((ran.code, ran.out.as_str()), (64, ""), "{verb:?}: {}", ran.err);
        insta::allow_duplicates! {
            insta::assert_snapshot!(ran.err, @r#"
            error: quarry.toml:2: `server.lissten` is not a known key (the nearest one is `server.listen`)
            error: quarry.toml:4: `retention.changes_age` is `"soon"`; expected a time such as `500ms`, `30s`, `1h30m` or `7d`
            error: QUARRY_RATE_PER_SECONDS: the configuration knows no such variable (the nearest one is `QUARRY_RATE_PER_SECOND`; see `quarry config show`)
            error: --set: `store.synchronus` is not a known key (the nearest one is `store.synchronous`)
            "#);
        }
    }
    assert!(!home.path().join("quarry-data").exists(), "something was made although nothing was in order");
    let ran = run_with(quarry(&["up", "--config", "nowhere.toml"], home.path()), b"");
    assert_eq!(ran.code, 64, "{}", ran.err);
}

#[test]
fn flags_go_before_the_environment_and_that_before_the_file() {
    let home = tempfile::tempdir().expect("is made");
    let toml = "[server]\ndrain_timeout = \"1s\"\nheader_timeout = \"1s\"\nrequest_timeout = \"1s\"\n\
                [store]\ndatabase = \"postgres://quarry:hush@db.example.org/quarry\"\n\
                [blob]\nurl = \"s3://bucket\"\naccess_key_id = \"AKIA\"\nsecret_access_key = \"hush\"\n";
    std::fs::write(home.path().join("quarry.toml"), toml).expect("is written");
    let show = |more: &[&str]| {
        let mut command =
            quarry(&[&["config", "show"], more, &["--set", "server.drain_timeout=3s"]].concat(), home.path());
        command.env("QUARRY_SERVER_DRAIN_TIMEOUT", "2s").env("QUARRY_SERVER_HEADER_TIMEOUT", "2s");
        let ran = run_with(command, b"");
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(!ran.out.contains("hush"), "a secret is shown: {}", ran.out);
        ran.out
    };
    let shown = show(&[]);
    let of = |part: &str| shown.lines().filter(|line| line.contains(part)).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(of("_timeout"), @r#"
    server.request_timeout    = "1s"                              # quarry.toml:4
    server.header_timeout     = "2s"                              # QUARRY_SERVER_HEADER_TIMEOUT
    server.drain_timeout      = "3s"                              # --set
    "#);
    insta::assert_snapshot!([of("store.database"), of("blob.")].join("\n"), @r#"
    store.database            = "postgres://quarry:********@db.example.org/quarry"  # quarry.toml:6
    blob.url                  = "s3://bucket"                     # quarry.toml:8
    blob.endpoint             = ""                                # default
    blob.region               = ""                                # default
    blob.access_key_id        = "AKIA"                            # quarry.toml:9
    blob.secret_access_key    = "********"                        # quarry.toml:10
    blob.allow_http           = false                             # default
    "#);
    serde_json::from_str::<serde_json::Value>(&show(&["--json"])).expect("is JSON");

    // What is shown is what a server does.
    let mut command = quarry(&["up", "--json"], home.path());
    std::fs::write(home.path().join("quarry.toml"), "[server]\nlisten = \"127.0.0.1:0\"\ndata = \"file\"\n")
        .expect("is written");
    command.env("QUARRY_SERVER_DATA", "environment");
    let server = Server::begin(command, home.path()).expect("starts");
    assert!(server.url.starts_with("http://127.0.0.1:") && server.url != "http://127.0.0.1:7070", "{}", server.url);
    let there = |name: &str| home.path().join(name).exists();
    assert!(there("environment/quarry.db") && !there("file") && !there("quarry-data"));
}

#[test]
fn what_benches_and_tests_are_told_is_no_configuration() {
    let home = tempfile::tempdir().expect("is made");
    let mut command = quarry(&["config", "check"], home.path());
    for name in ["QUARRY_URL", "QUARRY_TOKEN", "QUARRY_SOAK", "QUARRY_BIN", "QUARRY_SCHEMATHESIS"] {
        command.env(name, "x");
    }
    let ran = run_with(command, b"");
    assert_eq!(ran.code, 0, "{}", ran.err);
}

/// An authority and a certificate for the loopback address that it has signed, as files.
fn certificate(home: &Path, name: &str) {
    let key = rcgen::KeyPair::generate().expect("is made");
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("is valid");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, name);
    let authority_pem = authority.self_signed(&key).expect("is signed").pem();
    let issuer = rcgen::Issuer::new(authority, key);
    let key = rcgen::KeyPair::generate().expect("is made");
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("is valid");
    let signed = params.signed_by(&key, &issuer).expect("is signed");
    std::fs::write(home.join(format!("{name}.pem")), authority_pem).expect("is written");
    std::fs::write(home.join("key.pem"), key.serialize_pem()).expect("is written");
    std::fs::write(home.join("certificate.pem"), signed.pem()).expect("is written");
}

#[test]
fn a_certificate_is_served_and_exchanged() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let house = house.with(&["--set", "tls.certificate=certificate.pem", "--set", "tls.key=key.pem"]);
    certificate(house.home(), "old");
    let server = house.start();
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let token = house.token();
    let ask = |authority: &str| server.run(&token, &["--ca-file", authority, "execution", "ls"]);
    let ran = ask("old.pem");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let ran = server.run(&token, &["execution", "ls"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("hint: ") && ran.err.contains("--ca-file"), "{}", ran.err);

    certificate(house.home(), "new");
    server.signal(Signal::HUP);
    let begun = Instant::now();
    // The exchange is done when the new authority is needed; there is nothing else to see it by.
    while ask("new.pem").code != 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", server.said());
    }
    assert_eq!(ask("old.pem").code, 4);

    std::fs::write(house.home().join("key.pem"), "no key").expect("is written");
    server.stop();
    let ran = refused(&house);
    assert_eq!(ran.code, 64, "{}", ran.err);
    insta::assert_snapshot!(refusal(&house, &ran), @r#"{"error":{"code":"config_invalid","message":"the certificate cannot be used: `key.pem` holds no private key that can be read; expected is PEM without a passphrase","hint":"`quarry config check` looks at every file that is named"}}"#);
}
