//! Files from debuginfod servers: a real one where there is one, and ones that are hostile.

use node::debuginfod::{Debuginfod, DebuginfodError, DebuginfodSettings, Part};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ID: &str = "0123456789abcdef0123456789abcdef01234567";

fn settings(port: u16, folder: &Path, allowed: &[&str]) -> DebuginfodSettings {
    let allowed = allowed.iter().map(|text| text.parse().expect("is one")).collect();
    DebuginfodSettings::new(vec![format!("http://127.0.0.1:{port}")], allowed, folder.join("cache"))
}

/// Answers each connection with the next of some texts, after having heard a request; then it is gone.
fn serve(answers: Vec<Vec<u8>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let port = listener.local_addr().expect("has one").port();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("comes");
            let (mut heard, mut piece) = (Vec::<u8>::new(), [0; 1024]);
            while !heard.windows(4).any(|four| four == b"\r\n\r\n") {
                let read = stream.read(&mut piece).expect("is read");
                heard.extend(&piece[..read]);
            }
            // Whoever asked may have heard enough.
            let _ = stream.write_all(&answer);
        }
    });
    port
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_real_server_is_asked_once() {
    if Command::new("debuginfod").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return;
    }
    let folder = tempfile::tempdir().expect("is made");
    let files = folder.path().join("files");
    std::fs::create_dir(&files).expect("is made");
    std::fs::write(files.join("demo.c"), "int main(void) { return 3; }\n").expect("is written");
    let run = |program: &str, words: &[&str]| {
        let ran = Command::new(program).args(words).current_dir(&files).output().expect("runs");
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).expect("is text")
    };
    run("gcc", &["-g", "-Wl,--build-id", "-o", "demo", "demo.c"]);
    run("objcopy", &["--only-keep-debug", "demo", "demo.debug"]);
    run("strip", &["--strip-debug", "demo"]);
    let notes = run("readelf", &["-n", "demo"]);
    let id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).expect("has one").to_owned();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("is free").port();
    let server = Command::new("debuginfod")
        .args(["-F", "-p", &port.to_string(), "-d", ":memory:", "-t", "1"])
        .arg(&files)
        .env_remove("DEBUGINFOD_URLS")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let server = Running(server.expect("starts"));
    let settings = settings(port, folder.path(), &["127.0.0.1"]);
    let until = Instant::now() + Duration::from_secs(60);
    let found = loop {
        // What nobody had is remembered, so each time it is asked anew.
        let asked = Debuginfod::open(settings.clone()).expect("opens");
        if let Ok(Some(found)) = asked.fetch(&id, Part::Debug).await {
            break found;
        }
        assert!(Instant::now() < until, "it never has it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(found, folder.path().join("cache").join(&id[..2]).join(format!("{}.debug", &id[2..])));
    assert_eq!(std::fs::read(&found).expect("is kept"), std::fs::read(files.join("demo.debug")).expect("is there"));
    let asked = Debuginfod::open(settings).expect("opens");
    let module = asked.fetch(&id, Part::Module).await.expect("is asked").expect("is there");
    assert_eq!(std::fs::read(module).expect("is kept"), std::fs::read(files.join("demo")).expect("is there"));
    assert_eq!(asked.fetch(ID, Part::Debug).await.expect("is asked"), None);
    // What is kept, and what nobody has, takes no server.
    drop(server);
    assert_eq!(asked.fetch(&id, Part::Debug).await.expect("is kept"), Some(found));
    assert_eq!(asked.fetch(ID, Part::Debug).await.expect("is remembered"), None);
    assert!(asked.fetch(ID, Part::Module).await.is_err());
}

#[tokio::test]
async fn hostile_servers_are_refused() {
    let elf = [b"\x7fELF".as_slice(), &[7; 5_000]].concat();
    let check = async |answers: Vec<Vec<u8>>, allowed: &[&str], expected: &str| {
        let folder = tempfile::tempdir().expect("is made");
        let mut settings = settings(serve(answers), folder.path(), allowed);
        (settings.file_bytes_max, settings.time_max) = (10_000, Duration::from_secs(2));
        let asked = Debuginfod::open(settings).expect("opens");
        match asked.fetch(ID, Part::Debug).await {
            Ok(found) => assert_eq!(if found.is_some() { "found" } else { "nothing" }, expected),
            Err(error @ DebuginfodError::Server { .. }) => {
                assert!(error.to_string().contains(expected), "{error}");
                let left = std::fs::read_dir(folder.path().join("cache").join(&ID[..2])).map_or(0, Iterator::count);
                assert_eq!(left, 0, "{expected}: something was left");
            }
            Err(error) => panic!("{error}"),
        }
    };
    let here: &[&str] = &["127.0.0.1"];
    check(vec![answer("200 OK", &elf)], here, "found").await;
    check(vec![answer("404 Not Found", b"")], here, "nothing").await;
    check(vec![answer("200 OK", &elf)], &[], "no public address").await;
    check(vec![answer("500 Oh", b"")], here, "500").await;
    check(vec![answer("200 OK", b"<html>")], here, "not an ELF file").await;
    check(vec![answer("200 OK", &[&elf[..], &elf, &elf].concat())], here, "longer than 10000 bytes").await;
    let mut endless = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
    endless.extend([&elf[..], &elf, &elf].concat());
    check(vec![endless], here, "longer than 10000 bytes").await;
    let mut short = answer("200 OK", &elf);
    short.truncate(2_000);
    check(vec![short], here, "").await;
    let lead =
        |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    check(vec![lead("http://localhost:1/x").into_bytes()], here, "no public address").await;
    check(vec![lead("file:///etc/passwd").into_bytes()], here, "it leads nowhere").await;
    check(vec![lead("/again").into_bytes(); 5], here, "leads on more than").await;
    check(vec![lead("/other").into_bytes(), answer("200 OK", &elf)], here, "found").await;
}

#[tokio::test]
async fn what_was_used_least_recently_makes_way() {
    let folder = tempfile::tempdir().expect("is made");
    let elf = [b"\x7fELF".as_slice(), &[7; 3_996]].concat();
    let mut settings = settings(serve(vec![answer("200 OK", &elf); 3]), folder.path(), &["127.0.0.1"]);
    settings.budget_bytes = 10_000;
    let asked = Debuginfod::open(settings).expect("opens");
    let ids = ["aa01", "bb02", "cc03"];
    let fetch = async |id: &str| asked.fetch(id, Part::Module).await.expect("is asked").expect("is there");
    let first = fetch(ids[0]).await;
    let second = fetch(ids[1]).await;
    fetch(ids[0]).await;
    let third = fetch(ids[2]).await;
    assert_eq!([&first, &second, &third].map(|path| path.exists()), [true, false, true]);
    for bad in ["", "../..", "ABCD", "abc"] {
        assert!(matches!(asked.fetch(bad, Part::Debug).await, Err(DebuginfodError::BuildId(_))), "{bad}");
    }
    for bad in ["ftp://a", "debuginfod", "http://me:pw@a/", "file:///etc"] {
        let settings = DebuginfodSettings::new(vec![bad.to_owned()], Vec::new(), folder.path().to_owned());
        assert!(matches!(Debuginfod::open(settings), Err(DebuginfodError::Address(_))), "{bad}");
    }
}
