//! `run`, interrupted before its execution is known: while it prepares, while the answer is awaited, while an image is
//! pulled for it; and the making of an image for its own sake. What was made is stopped, and what was not begun never is.

use crate::execution::{execution, json};
use crate::image::image;
use crate::stub::{Ran, Seen, Stub, answer, quarry, refuse};
use axum::response::Response;
use model::{Blob, ChunkPage, ExecutionState, ImageState, NewExecution, NewImage, Outcome, Purpose};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A server at which one request waits for a test's word before it is answered.
#[derive(Clone)]
struct Play {
    /// How that request begins.
    held: &'static str,
    stage: Arc<(Mutex<Stage>, Condvar)>,
}

#[derive(Default)]
struct Stage {
    has_come: bool,
    may_go: bool,
    made: Option<NewExecution>,
    pulled: Option<NewImage>,
    cancelled: Vec<String>,
}

impl Play {
    fn new(held: &'static str) -> Self {
        Self { held, stage: Arc::default() }
    }

    fn hold(&self) {
        let (stage, bell) = &*self.stage;
        let mut stage = stage.lock().expect("is whole");
        stage.has_come = true;
        bell.notify_all();
        let _stage = bell.wait_timeout_while(stage, Duration::from_secs(30), |stage| !stage.may_go).expect("is whole");
    }

    fn await_held(&self) {
        let (stage, bell) = &*self.stage;
        let stage = stage.lock().expect("is whole");
        let waited = bell.wait_timeout_while(stage, Duration::from_secs(30), |stage| !stage.has_come);
        assert!(waited.expect("is whole").0.has_come, "`{}` never came", self.held);
    }

    fn release(&self) {
        let (stage, bell) = &*self.stage;
        stage.lock().expect("is whole").may_go = true;
        bell.notify_all();
    }

    fn answer(&self, seen: &Seen) -> Response {
        let line = seen.line.as_str();
        if line.starts_with(self.held) {
            tokio::task::block_in_place(|| self.hold());
        }
        if let Some(digest) = line.strip_prefix("PUT /v1/blobs/").and_then(|rest| rest.split('?').next()) {
            let (digest, size) = (digest.parse().expect("is a digest"), seen.body.len() as u64);
            let created_at = jiff::Timestamp::UNIX_EPOCH;
            return json(201, &Blob { digest, size, created_at, purpose: Purpose::Image });
        }
        let mut stage = self.stage.0.lock().expect("is whole");
        if let Some(id) = line.strip_prefix("POST /v1/executions/").and_then(|rest| rest.split_once("/cancel")) {
            stage.cancelled.push(id.0.to_owned());
        } else if line.starts_with("POST /v1/executions") {
            stage.made = Some(serde_json::from_slice(&seen.body).expect("is a request"));
        } else if line.starts_with("POST /v1/images") {
            let new: NewImage = serde_json::from_slice(&seen.body).expect("is a request");
            stage.pulled = Some(new.clone());
            return json(201, &image(&new, ImageState::Importing));
        } else if line.starts_with("HEAD ") || line.starts_with("GET /v1/images/") {
            return if line.starts_with("HEAD ") { answer(404, "") } else { refuse(404, "lost") };
        }
        let is_over = !stage.cancelled.is_empty();
        if line.contains("/chunks") {
            return json(200, &ChunkPage { attempt: 1, items: Vec::new(), next: 0, ended: is_over });
        }
        let new = stage.made.clone().unwrap_or_else(|| crate::execution::request(1));
        match is_over {
            true => json(200, &execution(&new, ExecutionState::Cancelled, Some(Outcome::Cancelled))),
            false => json(201, &execution(&new, ExecutionState::Running, None)),
        }
    }

    /// Runs a command, and hands its process over once the request has come that waits.
    async fn run(&self, args: &[&str], then: impl FnOnce(&Child) + Send + 'static) -> Ran {
        let play = self.clone();
        let stub = Stub::start(move |seen| play.answer(seen)).await;
        std::fs::write(stub.home.path().join("data"), "1 2 3\n").expect("is written");
        let mut command = quarry(args, stub.home.path());
        command.env("QUARRY_URL", &stub.url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let play = self.clone();
        let ended = tokio::task::spawn_blocking(move || {
            let child = command.spawn().expect("starts");
            play.await_held();
            then(&child);
            child.wait_with_output().expect("ends")
        });
        let ended = ended.await.expect("runs");
        self.release();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("is text");
        Ran { code: ended.status.code().expect("was not killed"), out: text(ended.stdout), err: text(ended.stderr) }
    }

    fn stage(&self) -> std::sync::MutexGuard<'_, Stage> {
        self.stage.0.lock().expect("is whole")
    }
}

fn interrupt(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("is ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_whose_answer_is_awaited_is_stopped_when_it_is_known() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let play = Play::new("POST /v1/executions");
        let stage = play.clone();
        let ran = play.run(&["run", "--", "work"], move |child| {
            interrupt(child, signal);
            stage.release();
        });
        let ran = ran.await;
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (code, "", "error: stopped by a user\n"));
        let stage = play.stage();
        let id = stage.made.as_ref().expect("was made").id.to_string();
        assert_eq!(stage.cancelled, [id]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_to_itself_is_known_or_stopped() {
    let play = Play::new("POST /v1/executions");
    let stage = play.clone();
    let ran = play.run(&["run", "--detach", "--", "work"], move |child| {
        interrupt(child, Signal::INT);
        stage.release();
    });
    let ran = ran.await;
    let stage = play.stage();
    let id = stage.made.as_ref().expect("was made").id.to_string();
    // The answer may overtake the signal on its way through the process; then there was nothing to interrupt any more.
    match ran.code {
        130 => assert_eq!((ran.out.as_str(), &stage.cancelled), ("", &vec![id])),
        code => assert_eq!((code, ran.out, &stage.cancelled), (0, format!("{id}\n"), &Vec::new())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_come_is_not_awaited_for_ever() {
    let play = Play::new("POST /v1/executions");
    let ran = play.run(&["run", "--", "work"], |child| {
        interrupt(child, Signal::INT);
        // The second is another one, so that the two cannot become one on their way.
        interrupt(child, Signal::TERM);
    });
    let ran = ran.await;
    assert!([130, 143].contains(&ran.code), "{ran:?}");
    assert!(ran.err.starts_with("the server did not answer; it may have made execution `exe_"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_of_what_is_interrupted_before() {
    let play = Play::new("HEAD /v1/blobs/");
    let ran = play.run(&["run", "--file", "data", "--", "work"], |child| interrupt(child, Signal::INT)).await;
    assert_eq!((ran.code, ran.err.as_str()), (130, ""));
    assert!(play.stage().made.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_pulled_for_it_is_pulled_no_further() {
    for held in ["POST /v1/images", "GET /v1/executions/"] {
        let play = Play::new(held);
        let stage = play.clone();
        let ran = play.run(&["run", "--image", "debian:stable", "--", "work"], move |child| {
            interrupt(child, Signal::INT);
            stage.release();
        });
        let ran = ran.await;
        let said = "pulling image `debian:stable`\nthe pull of image `debian:stable` was stopped\n";
        assert_eq!((ran.code, ran.err.as_str()), (130, said), "{held}");
        let stage = play.stage();
        let pulled = stage.pulled.as_ref().expect("was begun").execution.to_string();
        assert!(stage.made.is_none() && stage.cancelled == [pulled], "{held}: {:?}", stage.cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_making_of_an_image_is_stopped() {
    let commands = [
        (&["image", "pull", "debian:stable"][..], "the pull of image `debian:stable` was stopped\n"),
        (
            &["image", "import", "--name", "ours:1", "--kind", "root", "data"],
            "the import of image `ours:1` was stopped\n",
        ),
    ];
    for (args, said) in commands {
        let play = Play::new("POST /v1/images");
        let stage = play.clone();
        let ran = play.run(args, move |child| {
            interrupt(child, Signal::INT);
            stage.release();
        });
        let ran = ran.await;
        assert_eq!((ran.code, ran.out.as_str()), (130, ""), "{args:?}: {ran:?}");
        assert!(ran.err.ends_with(said), "{args:?}: {ran:?}");
        let stage = play.stage();
        let made = stage.pulled.as_ref().expect("was begun").execution.to_string();
        assert_eq!(stage.cancelled, [made], "{args:?}");
    }
}
