//! Tests of the log as a whole: what stands in the stream and the files, while levels change and disks fill up.

use super::*;
use model::log::LogLevel;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::subscriber::with_default;

/// A stream that can be read back, and that takes only so many bytes.
#[derive(Clone)]
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: Arc<AtomicUsize>,
}

impl Stream {
    fn new() -> Self {
        Self { bytes: Arc::default(), room: Arc::new(AtomicUsize::new(usize::MAX)) }
    }

    fn taken(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.bytes.lock().expect("no test panics within")))
            .expect("lines are text")
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room.load(Ordering::Relaxed);
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let written = bytes.len().min(room);
        if room != usize::MAX {
            self.room.store(room - written, Ordering::Relaxed);
        }
        self.bytes.lock().expect("no test panics within").extend(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn clock() -> Clock {
    Clock::manual("2026-03-01T12:00:00Z".parse().expect("an instant"))
}

fn config(format: LogFormat, level: LogLevel, modules: &[(&str, LogLevel)]) -> LogConfig {
    let modules = modules.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect();
    LogConfig { format, level, modules, ..LogConfig::default() }
}

fn streamed(config: &LogConfig) -> (Log, impl tracing::Subscriber + Send + Sync, Stream) {
    let stream = Stream::new();
    let output = LogOutput::Writer(Box::new(stream.clone()));
    let (log, subscriber) = Log::subscriber(config, output, clock()).expect("a stream always opens");
    (log, subscriber, stream)
}

fn change(module: &str, level: LogLevel, seconds: Option<u64>) -> LogChange {
    LogChange { default: None, modules: BTreeMap::from([(module.to_owned(), level)]), seconds }
}

#[test]
fn text_lines() {
    let (_log, subscriber, stream) = streamed(&config(LogFormat::Text, LogLevel::Info, &[]));
    with_default(subscriber, || {
        let _outer =
            tracing::info_span!(target: "server::http", "http", request = "req_1", user = tracing::field::Empty)
                .entered();
        tracing::Span::current().record("user", "eve [admin]");
        let _inner = tracing::info_span!(target: "store", "claim", count = 3).entered();
        let evil = "a\nb\u{1b}[2J x=1";
        tracing::warn!(target: "store::execution", lane = "l1", path = ?"a b", evil, took_ms = 1.5, ok = true, "slow {}", evil);
        tracing::info!(target: "hyper", empty = "");
        let cause = LogError::File { path: "a.log".into(), source: io::Error::other("no\nroom") };
        tracing::error!(target: "server", error = &cause as &dyn std::error::Error, "failed");
    });
    insta::assert_snapshot!(stream.taken(), @r#"
    2026-03-01T12:00:00.000000Z warn  store::execution: slow a\nb\u{1b}[2J x=1 lane=l1 path="a b" evil="a\nb\u{1b}[2J x=1" took_ms=1.5 ok=true [http request=req_1 user="eve [admin]"] [claim count=3]
    2026-03-01T12:00:00.000000Z info  hyper: empty="" [http request=req_1 user="eve [admin]"] [claim count=3]
    2026-03-01T12:00:00.000000Z error server: failed error="the log file `a.log` cannot be opened: no\nroom" [http request=req_1 user="eve [admin]"] [claim count=3]
    "#);
}

#[test]
fn json_lines() {
    let (_log, subscriber, stream) = streamed(&config(LogFormat::Json, LogLevel::Info, &[]));
    with_default(subscriber, || {
        let _outer = tracing::info_span!(target: "server::http", "http", request = "req_1", n = 1).entered();
        let _inner = tracing::info_span!(target: "store", "claim", n = 2).entered();
        tracing::warn!(target: "store", target = "field", level = 7, "line\nbreak");
    });
    insta::assert_snapshot!(stream.taken(), @r#"
    {"timestamp":"2026-03-01T12:00:00.000000Z","level":"warn","target":"store","message":"line\nbreak","fields":{"level":7,"target":"field"},"span":{"n":2,"request":"req_1"},"spans":["http","claim"]}
    "#);
}

#[test]
fn a_huge_value_is_cut() {
    let (_log, subscriber, stream) = streamed(&config(LogFormat::Json, LogLevel::Info, &[]));
    with_default(subscriber, || {
        let huge = "ü".repeat(1 << 20);
        tracing::info!(target: "server", huge, debug = ?vec![0; 1 << 20], "{huge}");
    });
    let line = stream.taken();
    assert!(line.len() < 30_000, "{}", line.len());
    let line: Value = serde_json::from_str(&line).expect("one line of JSON");
    assert!(line["message"].as_str().expect("text").ends_with("ü…"));
}

#[test]
fn levels_by_module() {
    let modules = [("store", LogLevel::Debug), ("client", LogLevel::Off), ("other", LogLevel::Error)];
    let (log, subscriber, stream) = streamed(&config(LogFormat::Text, LogLevel::Warn, &modules));
    with_default(subscriber, || {
        // The span is below the level of its module, but the line within needs what it says.
        let _span = tracing::info_span!(target: "server", "http", request = "req_1").entered();
        tracing::debug!(target: "store::blob", "yes");
        tracing::trace!(target: "store::blob", "no");
        tracing::warn!(target: "server", "yes");
        tracing::info!(target: "server", "no");
        tracing::error!(target: "client", "no");
        tracing::warn!(target: "hyper", "no");
        tracing::error!(target: "hyper", "yes");
    });
    let lines = stream.taken();
    assert_eq!((lines.matches(" yes [http request=req_1]\n").count(), lines.matches(" no").count()), (3, 0), "{lines}");
    let levels = log.levels();
    assert_eq!((levels.default, levels.modules.len(), levels.until), (LogLevel::Warn, 3, None));
}

#[test]
fn levels_change_while_running_and_come_back() {
    let (log, subscriber, stream) = streamed(&config(LogFormat::Text, LogLevel::Info, &[]));
    let now = clock().now();
    with_default(subscriber, || {
        // One callsite all the time, so that a decision that was remembered too long would show.
        let say = |expected: usize| {
            tracing::debug!(target: "store", "detail");
            assert_eq!(stream.taken().matches("detail").count(), expected);
        };
        say(0);
        let levels = log.change(&change("store", LogLevel::Debug, Some(60)), now).expect("a known module");
        assert_eq!(levels.until.map(|until| until.duration_since(now).as_secs()), Some(60));
        say(1);
        log.restore(now);
        say(1);
        log.restore(log.next_restore().expect("it is to come back"));
        assert!(stream.taken().contains("log levels are back"));
        say(0);
        log.change(&change("store", LogLevel::Trace, None), now).expect("a known module");
        assert_eq!(log.next_restore(), None);
        say(1);
        log.change(&change("stor", LogLevel::Off, None), now).expect_err("no such module");
        say(1);
    });
}

#[tokio::test]
async fn the_timer_brings_levels_back() {
    let (log, _subscriber, _stream) = streamed(&config(LogFormat::Text, LogLevel::Info, &[]));
    let clock = log.shared.clock.clone();
    let shutdown = CancellationToken::new();
    let steps = async {
        // The timer is asleep with nothing to wait for, and learns of each change.
        log.change(&change("store", LogLevel::Debug, Some(3600)), clock.now()).expect("a known module");
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(log.next_restore().is_some(), "its time is not over");
        clock.advance(jiff::SignedDuration::from_secs(3600));
        log.change(&change("server", LogLevel::Debug, Some(3600)), clock.now()).expect("a known module");
        while log.levels().modules.contains_key("store") {
            tokio::task::yield_now().await;
        }
        assert_eq!(log.levels().modules, BTreeMap::from([("server".to_owned(), LogLevel::Debug)]));
        shutdown.cancel();
    };
    tokio::join!(log.run(shutdown.clone()), steps);
}

#[test]
fn a_file_for_each_module() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = LogConfig { split: true, ..config(LogFormat::Json, LogLevel::Info, &[]) };
    let output = LogOutput::of(&config, folder.path());
    let (_log, subscriber) = Log::subscriber(&config, output, clock()).expect("the folder can be made");
    with_default(subscriber, || {
        tracing::info!(target: "store::change", "to store");
        tracing::info!(target: "quarry::up", "to cli");
        tracing::info!(target: "rustls", "to other");
    });
    for module in MODULES {
        let content = fs::read_to_string(folder.path().join(format!("log/{module}.log"))).expect(module);
        let told = ["store", "cli", "other"].contains(&module);
        assert_eq!(content.lines().count(), usize::from(told), "{module}");
        assert_eq!(content.contains(&format!("\"to {module}\"")), told, "{content}");
    }
}

#[test]
fn a_grown_file_is_put_aside_and_only_a_few_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_log, subscriber) = Log::over(
        &config(LogFormat::Text, LogLevel::Info, &[]),
        Sinks::files(folder.path(), 4096).expect("opens"),
        clock(),
    );
    let lines: usize = 1000;
    let threads: usize = 4;
    let dispatch = tracing::Dispatch::new(subscriber);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let dispatch = dispatch.clone();
            scope.spawn(move || {
                tracing::dispatcher::with_default(&dispatch, || {
                    for line in 0..lines / threads {
                        tracing::info!(target: "store", thread, line, "one of many");
                    }
                });
            });
        }
    });
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    let names = ["store.log.4", "store.log.3", "store.log.2", "store.log.1", "store.log"];
    let kept: Vec<String> = names.iter().map(|name| read(name)).collect();
    assert!(kept.iter().all(|content| !content.is_empty() && content.len() <= 4096), "all are filled, none too much");
    assert!(read("store.log.5").is_empty());
    // What is left is the end of what each thread said, without a hole.
    for thread in 0..threads {
        let mark = format!(" thread={thread} line=");
        let said: Vec<usize> = kept
            .concat()
            .lines()
            .filter_map(|line| line.split_once(&mark).map(|(_, number)| number.parse().expect("a whole line")))
            .collect();
        let end = lines / threads;
        assert_eq!(said, (end - said.len()..end).collect::<Vec<_>>(), "thread {thread}");
    }
}

#[test]
fn nothing_is_lost_over_a_restart_of_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    for round in 0..3 {
        let output = LogOutput::Folder(folder.path().to_owned());
        let (_log, subscriber) =
            Log::subscriber(&config(LogFormat::Text, LogLevel::Info, &[]), output, clock()).expect("opens");
        with_default(subscriber, || tracing::info!(target: "server", round, "started"));
    }
    let content = fs::read_to_string(folder.path().join("server.log")).expect("it is there");
    assert_eq!(content.lines().count(), 3, "{content}");
}

#[test]
fn a_full_disk_is_survived_and_told() {
    let (_log, subscriber, stream) = streamed(&config(LogFormat::Json, LogLevel::Info, &[]));
    with_default(subscriber, || {
        // Room for half of the first line only.
        stream.room.store(40, Ordering::Relaxed);
        for number in 0..5 {
            tracing::info!(target: "store", number, "lost");
        }
        stream.room.store(usize::MAX, Ordering::Relaxed);
        tracing::info!(target: "store", "found again");
        tracing::info!(target: "store", "as ever");
    });
    let taken = stream.taken();
    let lines: Vec<&str> = taken.lines().collect();
    assert_eq!(lines.len(), 4, "{taken}");
    // Only the line that was cut short is spoilt; every other one stands alone.
    let message = |line: &str| serde_json::from_str::<Value>(line).map(|line| line["message"].clone()).ok();
    assert_eq!(message(lines[0]), None);
    assert_eq!(message(lines[1]), Some("5 lines before this one could not be written".into()));
    assert_eq!(message(lines[2]), Some("found again".into()));
    assert_eq!(message(lines[3]), Some("as ever".into()));
}

#[test]
fn a_file_on_a_full_disk_keeps_the_others_going() {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink("/dev/full", folder.path().join("store.log")).expect("links");
    let output = LogOutput::Folder(folder.path().to_owned());
    let (_log, subscriber) =
        Log::subscriber(&config(LogFormat::Text, LogLevel::Info, &[]), output, clock()).expect("opens");
    with_default(subscriber, || {
        for _ in 0..3 {
            tracing::info!(target: "store", "nowhere to go");
            tracing::info!(target: "server", "here");
        }
    });
    let content = fs::read_to_string(folder.path().join("server.log")).expect("it is there");
    assert_eq!(content.matches("here").count(), 3, "{content}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("writes");
    let output = LogOutput::Folder(file.join("log"));
    let Err(error) = Log::subscriber(&LogConfig::default(), output, clock()) else { panic!("a file is no folder") };
    assert!(error.to_string().contains("file/log` cannot be made"), "{error}");
}

#[test]
fn a_second_start_is_refused() {
    let start = || Log::start(&LogConfig::default(), LogOutput::Writer(Box::new(Stream::new())), clock());
    let first = start().expect("nobody has started it before in this process");
    assert!(matches!(start(), Err(LogError::Started)));
    assert_eq!(first.levels().default, LogLevel::Info);
}
