//! Running the binary, and a stub of a server for it to talk to; what the real server does is tested with the real one.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;

/// What came of running the binary.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Returns the binary with an environment that holds nothing of ours.
pub(crate) fn quarry(args: &[&str], home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quarry"));
    command.args(args).env_clear().env("HOME", home).current_dir(home);
    command
}

/// Runs a command with this on its standard input.
pub(crate) fn run_with(mut command: Command, input: &[u8]) -> Ran {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("is piped");
    // A command that does not read its input may be gone before all of it is written.
    let _ = stdin.write_all(input);
    drop(stdin);
    let ended = child.wait_with_output().expect("ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("is text");
    Ran { code: ended.status.code().expect("was not killed"), out: text(ended.stdout), err: text(ended.stderr) }
}

/// Runs the binary in a home of its own, with nothing on its standard input.
pub(crate) fn run(args: &[&str]) -> Ran {
    let home = tempfile::tempdir().expect("is made");
    run_with(quarry(args, home.path()), b"")
}

/// A request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) token: String,
    pub(crate) body: Bytes,
}

/// The stub; it ends with the test.
pub(crate) struct Stub {
    pub(crate) url: String,
    pub(crate) home: tempfile::TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
    _task: JoinSet<()>,
}

impl Stub {
    /// Starts a stub that answers every request as `answer` says.
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Response + Clone + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("is bound"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let memory = seen.clone();
        let router = Router::new().fallback(move |request: Request| {
            let (answer, memory) = (answer.clone(), memory.clone());
            async move {
                let (parts, body) = request.into_parts();
                let token = parts.headers.get("authorization").map(|value| value.to_str().expect("is text").to_owned());
                let seen = Seen {
                    line: format!("{} {}", parts.method, parts.uri),
                    token: token.unwrap_or_default(),
                    body: axum::body::to_bytes(body, 64 << 20).await.unwrap_or_default(),
                };
                memory.lock().expect("is whole").push(seen.clone());
                answer(&seen)
            }
        });
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.expect("serves") });
        Self { url, home: tempfile::tempdir().expect("is made"), seen, _task: task }
    }

    /// Runs the binary against the stub.
    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, b"").await
    }

    /// Runs the binary against the stub with this on its standard input.
    pub(crate) async fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut command = quarry(args, self.home.path());
        command.env("QUARRY_URL", &self.url).env("QUARRY_TOKEN", "tok_secret");
        let input = input.to_vec();
        tokio::task::spawn_blocking(move || run_with(command, &input)).await.expect("runs")
    }

    /// Returns what came in so far, and forgets it.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().expect("is whole"))
    }

    /// Returns the first lines of what came in so far, and forgets it.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.take().into_iter().map(|seen| seen.line).collect()
    }
}

/// Makes an answer.
pub(crate) fn answer(status: u16, body: impl Into<Body>) -> Response {
    Response::builder().status(status).header("x-request-id", "req_1").body(body.into()).expect("is an answer")
}

/// Makes a refusal.
pub(crate) fn refuse(status: u16, code: &str) -> Response {
    answer(status, format!(r#"{{"code":"{code}","message":"the stub says {code}","hint":"ask the stub"}}"#))
}
