//! `run` and what reads an execution, against a stub: what is asked for, what is passed on, what it ends with. A program
//! that really runs is tested with the real house.

use crate::execution::{execution, json};
use crate::stub::{Ran, Seen, Stub, answer, quarry, refuse, run_with};
use axum::response::Response;
use model::chunk::Bytes;
use model::{
    Chunk, ChunkPage, Content, DumpId, Execution, ExecutionState, Input, NewExecution, Outcome, SetUpFault, Stream,
};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

/// A house of stubs in which every execution writes this and ends so.
#[derive(Clone)]
struct Play {
    attempts: Vec<Vec<(Stream, &'static [u8])>>,
    outcome: Option<Outcome>,
    dump: Option<DumpId>,
    made: Arc<Mutex<Option<NewExecution>>>,
    /// Whether it was stopped.
    is_cancelled: Arc<Mutex<bool>>,
    /// Whether it runs until it is stopped.
    lasts: bool,
    blobs: Arc<Mutex<Vec<Vec<u8>>>>,
    input: Arc<Mutex<Vec<Chunk>>>,
    /// Which attempt is read.
    turn: Arc<Mutex<usize>>,
}

fn play(chunks: &[(Stream, &'static [u8])], outcome: Outcome) -> Play {
    Play {
        attempts: vec![chunks.to_vec()],
        outcome: Some(outcome),
        dump: None,
        made: Arc::default(),
        is_cancelled: Arc::default(),
        lasts: false,
        blobs: Arc::default(),
        input: Arc::default(),
        turn: Arc::default(),
    }
}

fn number(line: &str, name: &str) -> Option<u64> {
    line.split(name).nth(1)?.split('&').next()?.parse().ok()
}

impl Play {
    fn now(&self) -> Execution {
        let new = self.made.lock().expect("is whole").clone().expect("was made");
        let is_cancelled = *self.is_cancelled.lock().expect("is whole");
        let outcome = if is_cancelled { Some(Outcome::Cancelled) } else { self.outcome.clone() };
        let outcome = outcome.filter(|_| is_cancelled || !self.lasts);
        let state = outcome.as_ref().map_or(ExecutionState::Running, Outcome::state);
        let turn = u32::try_from(*self.turn.lock().expect("is whole")).expect("is small");
        let is_last = turn as usize + 1 == self.attempts.len();
        let (state, outcome) = if is_last { (state, outcome) } else { (ExecutionState::Running, None) };
        Execution { dump: self.dump, attempt: turn + 1, ..execution(&new, state, outcome) }
    }

    /// Answers one chunk a page, of the last attempt that wrote any. When an attempt is read to its end, the next one
    /// begins, and the end of the one before is told as the server does.
    fn chunks(&self, line: &str) -> Response {
        let after = number(line, "after=").unwrap_or(0);
        let turn = *self.turn.lock().expect("is whole");
        let asked = number(line, "attempt=").map_or(turn, |asked| usize::try_from(asked).expect("is small") - 1);
        let index = usize::try_from(after).expect("is small");
        let items: Vec<_> = self.attempts[asked].iter().skip(index).take(1).collect();
        let items: Vec<_> = items.into_iter().map(|(stream, bytes)| chunk(after + 1, *stream, bytes)).collect();
        let next = after + items.len() as u64;
        let is_whole = next >= self.attempts[asked].len() as u64;
        let mut ended = is_whole && self.now().state.is_final();
        if is_whole && turn == asked && turn + 1 < self.attempts.len() {
            *self.turn.lock().expect("is whole") += 1;
            ended = true;
        }
        let attempt = u32::try_from(asked + 1).expect("is small");
        json(200, &ChunkPage { attempt, items, next, ended })
    }

    fn answer(&self, seen: &Seen) -> Response {
        let line = seen.line.as_str();
        let is =
            |verb: &str, end: &str| line.starts_with(verb) && line.split('?').next().expect("is one").ends_with(end);
        if is("POST", "/v1/executions") {
            *self.made.lock().expect("is whole") = Some(serde_json::from_slice(&seen.body).expect("is a request"));
            return json(201, &self.now());
        }
        if is("POST", "/cancel") {
            *self.is_cancelled.lock().expect("is whole") = true;
            return json(200, &self.now());
        }
        if is("POST", "/input") {
            let chunk: Chunk = serde_json::from_slice(&seen.body).expect("is a chunk");
            self.input.lock().expect("is whole").push(chunk.clone());
            return json(200, &chunk);
        }
        if is("GET", "/chunks") {
            return self.chunks(line);
        }
        if line.starts_with("HEAD /v1/blobs/") {
            return answer(404, "");
        }
        if line.starts_with("PUT /v1/blobs/") || line.starts_with("POST /v1/blobs") {
            self.blobs.lock().expect("is whole").push(seen.body.to_vec());
            let digest = line
                .strip_prefix("PUT /v1/blobs/")
                .map_or_else(|| "0".repeat(64), |name| name.chars().take(64).collect());
            let size = seen.body.len();
            return answer(
                201,
                format!(r#"{{"digest":"{digest}","size":{size},"created_at":"2026-01-01T00:00:00Z"}}"#),
            );
        }
        if line.starts_with("GET /v1/executions/") {
            return json(200, &self.now());
        }
        refuse(404, "lost")
    }

    async fn start(&self) -> Stub {
        let play = self.clone();
        Stub::start(move |seen| play.answer(seen)).await
    }

    fn made(&self) -> NewExecution {
        self.made.lock().expect("is whole").clone().expect("was made")
    }
}

fn chunk(number: u64, stream: Stream, bytes: &[u8]) -> Chunk {
    let content = Content::Inline { bytes: Bytes(bytes.to_vec()) };
    Chunk { number, stream, at: jiff::Timestamp::UNIX_EPOCH, content, end: false }
}

async fn ran(play: &Play, args: &[&str], input: &[u8]) -> Ran {
    let stub = play.start().await;
    let home = stub.home.path();
    std::fs::write(home.join("solve"), "#!/bin/sh\n").expect("is written");
    std::fs::write(home.join("data"), "1 2 3\n").expect("is written");
    std::fs::write(home.join("vars"), "A=0\nC=3\n").expect("is written");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(home.join("solve"), std::fs::Permissions::from_mode(0o755)).expect("is set");
    stub.run_with(&[&["run"], args].concat(), input).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_has_its_exit_code_and_its_words() {
    let check = async |outcome: Outcome, code: i32| {
        let mut play =
            play(&[(Stream::Output, b"out\xff"), (Stream::Error, b"err\n"), (Stream::Output, b"\0\n")], outcome);
        play.attempts[0][0].1 = b"out";
        play.dump = matches!(play.outcome, Some(Outcome::Signalled { .. }))
            .then(|| DumpId::new(jiff::Timestamp::UNIX_EPOCH, 7));
        let ran = ran(&play, &["--", "work"], b"").await;
        assert_eq!((ran.code, ran.out.as_str()), (code, "out\0\n"), "{}", ran.err);
        ran.err.replace(&play.made().id.to_string(), "exe_…")
    };
    let cause = |fault, text: &str| Outcome::SetUpFailed { cause: text.to_owned(), fault };
    let mut said = String::new();
    for (outcome, code) in [
        (Outcome::Exited { code: 0 }, 0),
        (Outcome::Exited { code: 3 }, 3),
        (Outcome::Signalled { signal: 11 }, 139),
        (Outcome::TimedOut, 124),
        (Outcome::OutOfMemory, 137),
        (cause(SetUpFault::Refused, "mount of `/data`: this node offers no folder"), 125),
        (cause(SetUpFault::NoProgram, "the program `work` does not exist inside"), 127),
        (cause(SetUpFault::NotExecutable, "the program `work` cannot be run: Exec format error (os error 8)"), 126),
        (Outcome::Cancelled, 1),
        (Outcome::NodesLost { nodes: 3 }, 125),
    ] {
        said.push_str(&format!("-- {code}\n{}", check(outcome, code).await));
    }
    insta::assert_snapshot!(said, @"
    -- 0
    err
    -- 3
    err
    -- 139
    err
    error: ended by signal 11 (SEGV)
    dump dmp_00000000000000000000000007: `quarry dump show dmp_00000000000000000000000007`
    -- 124
    err
    error: needed more time than its limit
    hint: it was 60 min; --time sets another one
    -- 137
    err
    error: needed more memory than its limit
    hint: it was 512 MiB; --memory sets another one
    -- 125
    err
    error: never began: mount of `/data`: this node offers no folder
    hint: `quarry execution info exe_…` shows what was asked for
    -- 127
    err
    error: never began: the program `work` does not exist inside
    hint: programs are looked up on the node; write `./NAME` to send one of yours
    -- 126
    err
    error: never began: the program `work` cannot be run: Exec format error (os error 8)
    hint: is it a program for this machine, and marked as executable?
    -- 1
    err
    error: stopped by a user
    -- 125
    err
    error: 3 nodes were lost while they had it
    hint: see `quarry node ls`, then `quarry execution retry exe_…`
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_without_its_interpreter_is_not_told_to_be_missing() {
    let check = async |args: &[&str], expected: &str| {
        let cause = "the program `x` does not exist inside".to_owned();
        let play = play(&[], Outcome::SetUpFailed { cause, fault: SetUpFault::NoProgram });
        let ran = ran(&play, args, b"").await;
        assert!(ran.code == 127 && ran.err.contains(&format!("hint: {expected}")), "{args:?}: {}", ran.err);
    };
    let sent = "it was sent; what its first line names, or the loader that it asks for, is not there";
    check(&["--", "./solve"], sent).await;
    check(&["--file", "solve:/opt/solve", "--", "/opt/solve"], sent).await;
    check(&["--file", "solve", "--", "./solve"], sent).await;
    check(&["--", "/bin/sh"], "it exists here; if it does on the node, then what its first line names").await;
    check(&["--", "/usr/nowhere"], "programs are looked up on the node").await;
    check(&["--pull", "never", "--image", "debian", "--", "/bin/sh"], "programs are looked up inside the image").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_sent_and_what_is_no_file_is_not() {
    let play = play(&[], Outcome::Exited { code: 0 });
    let stub = play.start().await;
    let fifo = stub.home.path().join("fifo");
    let make = || {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("is made");
    };
    make();
    let mut command = quarry(&["run", "--file", "fifo:x", "--", "cat", "x"], stub.home.path());
    command.env("QUARRY_URL", &stub.url).env("QUARRY_TOKEN", "t").stdin(Stdio::null()).stdout(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
        let mut said = [0; 8];
        // It says that it waits before anybody writes.
        child.stderr.as_mut().expect("is piped").read_exact(&mut said).expect("speaks");
        std::fs::write(&fifo, "hi\n").expect("is written");
        (said, child.wait_with_output().expect("ends"))
    });
    let (said, ended) = ended.await.expect("ends");
    assert_eq!((&said, ended.status.code()), (b"waiting ", Some(0)), "{ended:?}");
    assert_eq!(*play.blobs.lock().expect("is whole"), [b"hi\n"]);
    std::fs::create_dir(stub.home.path().join("folder")).expect("is made");
    let refused = async |file: &str| {
        let ran = stub.run(&["run", "--file", file, "--", "true"]).await;
        assert_eq!(ran.code, 1, "{}", ran.err);
        ran.err
    };
    let said = [refused("/dev/null").await, refused("folder").await, refused("nowhere").await].concat();
    insta::assert_snapshot!(said, @"
    error: `/dev/null` is neither a file nor a pipe
    error: `folder` is a folder
    hint: pack it as a tar; a folder of the node is seen by `--mount`
    error: `nowhere` cannot be read: No such file or directory (os error 2)
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_sent_is_told() {
    let folder = tempfile::tempdir().expect("is made");
    let path = folder.path().join("grow");
    std::fs::write(&path, vec![b'x'; 1 << 20]).expect("is written");
    let shrinking = path.clone();
    // Between the first reading and the sending it is asked whether the server has it.
    let stub = Stub::start(move |seen| {
        if seen.line.starts_with("HEAD") {
            std::fs::write(&shrinking, "short").expect("is written");
        }
        refuse(404, "lost")
    });
    let stub = stub.await;
    let file = format!("{}:x", path.display());
    let ran = stub.run(&["run", "--file", &file, "--", "true"]).await;
    assert_eq!((ran.code, ran.err), (1, format!("error: `{}` changed while it was sent\n", path.display())));
    let stub = Stub::start(|seen| match seen.line.starts_with("HEAD") {
        true => answer(404, ""),
        false => refuse(400, "digest_mismatch"),
    });
    let ran = stub.await.run(&["run", "--file", &file, "--", "true"]).await;
    assert_eq!((ran.code, ran.err), (1, format!("error: `{}` changed while it was sent\n", path.display())));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_json_the_execution_ends_what_is_said() {
    let play = play(&[(Stream::Output, b"out\n"), (Stream::Error, b"err\n")], Outcome::Exited { code: 3 });
    let ran = ran(&play, &["--json", "--", "work"], b"").await;
    assert_eq!((ran.code, ran.out.as_str()), (3, "out\n"));
    let (first, last) = ran.err.trim_end().split_once('\n').expect("are two lines");
    assert_eq!(first, "err");
    let execution: Execution = serde_json::from_str(last).expect("is an execution");
    assert_eq!(execution, play.now());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_attempt_is_told_and_the_next_one_read_from_its_beginning() {
    let mut play = play(&[(Stream::Output, b"one\n")], Outcome::Exited { code: 0 });
    play.attempts.push(vec![(Stream::Output, b"one\n"), (Stream::Output, b"two\n")]);
    let ran = ran(&play, &["--", "work"], b"").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "one\none\ntwo\n"), "{}", ran.err);
    insta::assert_snapshot!(ran.err, @"the node was lost; attempt 2 begins from the beginning");
}

#[tokio::test(flavor = "multi_thread")]
async fn words_become_a_request() {
    let play = play(&[], Outcome::Exited { code: 0 });
    let args = "--memory 64M --cpus 2 --pids 9 --time 30s --disk 1M --log-bytes 1K --io 10M --allow example.org:443 \
                --allow *.rs --mount /data:/in:rw --env A=1 --env-file vars --user 7:8 --label disk=ssd --ptrace \
                --lane l --class batch -- sort -n --key=2";
    let args: Vec<_> = args.split_whitespace().collect();
    let ran = ran(&play, &args, b"").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let mut new = serde_json::to_value(play.made()).expect("serialises");
    new.as_object_mut().expect("is one").remove("id");
    insta::assert_snapshot!(serde_json::to_string(&new).expect("serialises"), @r#"{"class":"batch","command":["sort","-n","--key=2"],"env":{"A":"1","C":"3"},"input":{"kind":"none"},"lane":"l","limits":{"core_bytes":1073741824,"cpu_milli":2000,"demand":{"cpu":true,"io":true,"memory":true,"pids":true},"disk_bytes":1048576,"grace_ms":2000,"io_bytes_second":10485760,"log_bytes":1024,"memory_bytes":67108864,"pids":9,"wall_ms":30000},"sandbox":{"egress":["example.org:443","*.rs"],"labels":{"disk":"ssd"},"mounts":[{"access":"rw","source":"/data","target":"/in"}],"network":"egress","ptrace":true,"user":"7:8"}}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_this_side_are_sent_along() {
    let check = async |args: &[&str], expected: &str| {
        let play = play(&[], Outcome::Exited { code: 0 });
        let ran = ran(&play, args, b"").await;
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        let new = play.made();
        let files =
            new.sandbox.files.iter().map(|file| format!("{}{}", file.target, if file.executable { "*" } else { "" }));
        let files = files.collect::<Vec<_>>().join(" ");
        let found = format!("{} | {files} | {}", new.command.join(" "), new.sandbox.cwd.unwrap_or_default());
        assert_eq!(found, expected, "{args:?}");
        assert_eq!(play.blobs.lock().expect("is whole").len(), new.sandbox.files.len(), "{args:?}");
        ran.err
    };
    check(&["--", "sort", "a/b"], "sort a/b |  | ").await;
    check(&["--", "/bin/true"], "/bin/true |  | ").await;
    check(&["--", "/nowhere/true"], "/nowhere/true |  | ").await;
    check(&["--", "./solve", "x"], "/work/solve x | /work/solve* | /work").await;
    check(&["--cwd", "/tmp", "./solve", "-x"], "/work/solve -x | /work/solve* | /tmp").await;
    check(&["--file", "data", "--file", "data:/etc/x", "cat", "data"], "cat data | /work/data /etc/x | /work").await;
    check(&["--file", "data:/etc/x", "cat"], "cat | /etc/x | ").await;
    check(&["--pull", "never", "--image", "debian", "--", "./solve"], "./solve |  | ").await;
    check(&["--pull", "never", "--image", "debian"], " |  | ").await;
    let said = check(&["-v", "--", "./solve"], "/work/solve | /work/solve* | /work").await;
    assert_eq!(said, "`./solve` is seen as `/work/solve`\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_tells_of_files_that_were_not_sent() {
    let check = async |code: i32, args: &[&str], expected: &str| {
        let ran = ran(&play(&[], Outcome::Exited { code }), args, b"").await;
        assert_eq!((ran.code, ran.err.as_str()), (code, expected), "{args:?}");
    };
    let note = "note: `data` here was not sent along (hint: `--file data`)\n";
    check(2, &["--", "python3", "data", "nowhere", "/usr/bin/env"], note).await;
    check(0, &["--", "python3", "data"], "").await;
    check(2, &["--file", "data", "--", "python3", "data"], "").await;
    check(2, &["--file", "data:/etc/x", "--", "python3", "data"], note).await;
    check(2, &["--mount", "/data:/work:ro", "--", "python3", "data"], "").await;
    check(2, &["--quiet", "--", "python3", "data"], "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_no_program_is_not_sent() {
    let check = async |args: &[&str], code: i32| {
        let play = play(&[], Outcome::Exited { code: 0 });
        let ran = ran(&play, args, b"").await;
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(play.made.lock().expect("is whole").is_none(), "{args:?} was made");
        ran.err
    };
    let mut said = check(&["--", "./nowhere"], 127).await;
    said += &check(&["--", "./data"], 126).await;
    said += &check(&["--", "../."], 126).await;
    said += check(&["--memory", "1", "--", "true"], 64).await.split("` is").nth(1).unwrap_or_default();
    said += &check(&["-t", "--detach", "--", "true"], 64).await;
    said += &check(&["--image", "debian", "--", "true"], 2).await;
    insta::assert_snapshot!(said, @"
    error: `./nowhere` cannot be read: No such file or directory (os error 2)
    error: `./data` is not executable
    hint: `chmod +x ./data`
    error: `../.` is a folder
     1; it must be 1048576 to 1099511627776
    error: what is left to itself has nobody at its terminal
    hint: leave out --detach or -t
    pulling image `debian`
    error: the stub says lost
    hint: ask the stub
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn input_travels_by_what_it_is() {
    // A pipe that was written and closed before, or a file: what is read does not depend on who is faster.
    let check = async |input: &[u8], args: &[&str]| {
        let play = play(&[], Outcome::Exited { code: 0 });
        let stub = play.start().await;
        let mut command = quarry(&[&["run"], args].concat(), stub.home.path());
        command.env("QUARRY_URL", &stub.url).stdout(Stdio::piped()).stderr(Stdio::piped());
        if input.len() < 60_000 {
            let (reader, mut writer) = std::io::pipe().expect("is made");
            writer.write_all(input).expect("fits");
            command.stdin(reader);
        } else {
            std::fs::write(stub.home.path().join("input"), input).expect("is written");
            command.stdin(std::fs::File::open(stub.home.path().join("input")).expect("opens"));
        }
        let ended = tokio::task::spawn_blocking(move || command.output().expect("ends")).await.expect("ends");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let blobs = play.blobs.lock().expect("is whole").clone();
        (play.made().input, blobs)
    };
    assert_eq!(check(b"", &["--", "cat"]).await, (Input::None, Vec::new()));
    assert_eq!(check(b"hi\n", &["--", "cat"]).await, (Input::Text { text: "hi\n".to_owned() }, Vec::new()));
    let (input, blobs) = check(b"a\0\xff", &["--", "cat"]).await;
    assert!(matches!(input, Input::Blob { .. }) && blobs == [b"a\0\xff"], "{input:?}");
    let (input, blobs) = check(&vec![b'x'; 200_000], &["--", "cat"]).await;
    assert!(matches!(input, Input::Blob { .. }) && blobs[0].len() == 200_000, "{input:?}");
    assert_eq!(check(b"hi\n", &["--detach", "--", "cat"]).await.0, Input::None);
    assert_eq!(check(b"hi\n", &["--detach", "-i", "--", "cat"]).await.0, Input::Text { text: "hi\n".to_owned() });
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_goes_on_is_sent_in_numbered_chunks() {
    let mut play = play(&[], Outcome::Exited { code: 0 });
    play.lasts = true;
    let stub = play.start().await;
    let mut command = quarry(&["run", "--", "cat"], stub.home.path());
    command.env("QUARRY_URL", &stub.url).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("is piped");
    let input = play.input.clone();
    let sent = tokio::task::spawn_blocking(move || {
        stdin.write_all(b"first").expect("is read");
        let wait = |chunks: usize| {
            while input.lock().expect("is whole").len() < chunks {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        };
        wait(1);
        stdin.write_all(&[b'x'; 60_000]).expect("is read");
        drop(stdin);
        while !input.lock().expect("is whole").iter().any(|chunk| chunk.end) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        input.lock().expect("is whole").clone()
    });
    let sent = sent.await.expect("is sent");
    kill_process(Pid::from_child(&child), Signal::INT).expect("is ours");
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    assert!(sent.iter().map(|chunk| chunk.number).eq(1..=sent.len() as u64), "{sent:?}");
    assert_eq!(sent.iter().map(|chunk| chunk.content.size()).sum::<u64>(), 60_005, "{sent:?}");
    assert_eq!(sent[0].content, Content::Inline { bytes: Bytes(b"first".to_vec()) });
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_nothing_to_say_gives_a_sign_of_life() {
    let mut play = play(&[], Outcome::Exited { code: 0 });
    play.lasts = true;
    let stub = play.start().await;
    let mut command = quarry(&["run", "--", "cat"], stub.home.path());
    command.env("QUARRY_URL", &stub.url).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("starts");
    let _silent = child.stdin.take().expect("is piped");
    let begun = std::time::Instant::now();
    while play.input.lock().expect("is whole").is_empty() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "it seems to be dead");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("is ours");
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    let sent = play.input.lock().expect("is whole")[0].clone();
    assert_eq!((sent.number, sent.stream, sent.content.size(), sent.end), (1, Stream::Input, 0, false));
}

/// Runs a command and interrupts it so often, each time once it has been seen to take the one before.
fn interrupted(stub: &Stub, play: &Play, times: usize) -> Ran {
    let mut command = quarry(&["run", "--", "work"], stub.home.path());
    command.env("QUARRY_URL", &stub.url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    let mut first = [0; 4];
    child.stdout.as_mut().expect("is piped").read_exact(&mut first).expect("is written");
    for _ in 0..times {
        kill_process(Pid::from_child(&child), Signal::INT).expect("is ours");
        while !*play.is_cancelled.lock().expect("is whole") {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    let ended = child.wait_with_output().expect("ends");
    let err = String::from_utf8(ended.stderr).expect("is text");
    Ran { code: ended.status.code().expect("was not killed"), out: String::new(), err }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_it_gently() {
    let mut play = play(&[(Stream::Output, b"out\n")], Outcome::Exited { code: 0 });
    play.lasts = true;
    let stub = play.start().await;
    let ran = tokio::task::spawn_blocking(move || interrupted(&stub, &play, 1)).await.expect("runs");
    assert_eq!((ran.code, ran.err.as_str()), (130, "error: stopped by a user\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_reading_stops_it_and_is_not_scolded() {
    let mut play = play(&[(Stream::Output, b"out\n".as_slice()); 50], Outcome::Exited { code: 0 });
    play.lasts = true;
    let stub = play.start().await;
    let mut command = quarry(&["run", "--", "yes"], stub.home.path());
    command.env("QUARRY_URL", &stub.url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("starts");
        drop(child.stdout.take());
        child.wait_with_output().expect("ends")
    });
    let ended = ended.await.expect("ends");
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(141), &b""[..]));
    assert!(*play.is_cancelled.lock().expect("is whole"));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_byte_for_byte() {
    let play = play(
        &[(Stream::Output, b"o1\n"), (Stream::Error, b"e1\n"), (Stream::Output, b"\0o2")],
        Outcome::Exited { code: 0 },
    );
    ran(&play, &["--detach", "--", "work"], b"").await;
    let stub = play.start().await;
    let id = play.made().id.to_string();
    let check = async |args: &[&str], out: &str, err: &str| {
        let ran = stub.run(&[&["execution", "logs", &id], args].concat()).await;
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, out, err), "{args:?}");
    };
    check(&[], "o1\n\0o2", "e1\n").await;
    check(&["-f"], "o1\n\0o2", "e1\n").await;
    check(&["--stream", "error"], "e1\n", "").await;
    check(&["--stream", "output", "--attempt", "1"], "o1\n\0o2", "").await;
    for attempt in ["0", "2", "9"] {
        let ran = stub.run(&["execution", "logs", &id, "--attempt", attempt]).await;
        let said = format!("error: execution `{id}` has no attempt {attempt}\nhint: it has had 1 so far\n");
        assert_eq!((ran.code, ran.out, ran.err), (2, String::new(), said));
    }
}

#[test]
fn a_terminal_is_made_raw_and_put_back() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("is built");
    let play = play(&[(Stream::Output, b"out\r\n")], Outcome::Exited { code: 3 });
    let stub = runtime.block_on(play.start());
    let home = stub.home.path();
    let quarry_path = env!("CARGO_BIN_EXE_quarry");
    let inner = format!(
        "stty rows 33 cols 101; stty -g > before; '{quarry_path}' run -t -- bash; echo $? > code; stty -g > after"
    );
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &inner, "/dev/null"]).current_dir(home).env("QUARRY_URL", &stub.url).env("HOME", home);
    let ran = run_with(command, b"");
    let read = |name: &str| {
        std::fs::read_to_string(home.join(name)).unwrap_or_else(|error| panic!("{name}: {error}: {ran:?}"))
    };
    assert_eq!(read("code").trim(), "3", "{ran:?}");
    assert_eq!(read("before"), read("after"));
    assert!(ran.out.contains("out\r\n"), "{ran:?}");
    let window = play.made().sandbox.terminal.expect("has one");
    assert_eq!((window.rows, window.columns), (33, 101));
    assert_eq!(play.made().input, Input::Stream);
}
