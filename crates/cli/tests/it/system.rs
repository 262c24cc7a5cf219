//! A house of one's own: the real binary as a process, in a folder and on a database that vanish with the test.
//!
//! A server that runs is ended by its process id when the test is over, however the test ends. Nothing is asked for by
//! a name that another test could have taken.

use crate::stub::{Ran, quarry, run_with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Which database a house stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// A place for servers: their folder, their database, the command that starts one.
pub(crate) struct House {
    home: tempfile::TempDir,
    database: Option<Database>,
    listen: String,
    more: Vec<String>,
}

impl House {
    /// Makes a place where nothing has been yet; none, where the engine is not there to be tested.
    pub(crate) fn new(engine: Engine) -> Option<Self> {
        let database = match engine {
            Engine::Sqlite => None,
            Engine::Postgres => Some(Database::new()?),
        };
        let home = tempfile::tempdir().expect("is made");
        Some(Self { home, database, listen: "127.0.0.1:0".to_owned(), more: Vec::new() })
    }

    /// Gives every server of this house the same address, so that whoever was connected finds the next one.
    pub(crate) fn at_one_address(mut self) -> Self {
        self.listen = format!("127.0.0.1:{}", free_port());
        self
    }

    /// Lets every server of this house listen at every address, always at the same port.
    pub(crate) fn everywhere(mut self) -> Self {
        self.listen = format!("0.0.0.0:{}", free_port());
        self
    }

    /// Returns the port that was settled.
    pub(crate) fn port(&self) -> u16 {
        self.listen.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("has a port")
    }

    /// Adds words to the command that starts a server.
    pub(crate) fn with(mut self, more: &[&str]) -> Self {
        self.more.extend(more.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Returns the folder that everything of this house is in.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Returns the servers' data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.home().join("data")
    }

    /// Returns where the first token is kept.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.home().join("token")
    }

    /// Returns the kept token.
    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.token_file()).expect("is kept").trim().to_owned()
    }

    /// Returns the database's address, if it is not a file in the folder.
    pub(crate) fn database(&self) -> Option<&str> {
        self.database.as_ref().map(|database| database.url.as_str())
    }

    /// Returns the command that starts a server, always the same.
    pub(crate) fn command(&self) -> Command {
        self.command_with(&["serve"], &self.data())
    }

    /// Returns a command that starts a server by another verb or with a folder of its own.
    pub(crate) fn command_with(&self, verb: &[&str], data: &Path) -> Command {
        let mut command = quarry(verb, self.home());
        command.args(["--json", "--listen", &self.listen]).arg("--data").arg(data);
        command.arg("--token-file").arg(self.token_file()).args(&self.more);
        if let Some(url) = self.database() {
            command.args(["--db", url]);
        }
        command
    }

    /// Starts a server, which must succeed.
    pub(crate) fn start(&self) -> Server {
        self.try_start().unwrap_or_else(|ran| panic!("the server did not start: {ran:?}"))
    }

    /// Starts a server, or returns how it ended instead.
    pub(crate) fn try_start(&self) -> Result<Server, Ran> {
        Server::begin(self.command(), self.home())
    }

    /// Runs SQL behind the server's back.
    pub(crate) fn sql(&self, sql: &str) {
        match self.database() {
            Some(url) => execute(url, sql).expect("is run"),
            None => rusqlite::Connection::open(self.data().join("quarry.db"))
                .and_then(|connection| connection.execute_batch(sql))
                .expect("is run"),
        }
    }

    /// Replaces what differs from run to run: this house's folder.
    pub(crate) fn masked(&self, text: &str) -> String {
        text.replace(&self.home().display().to_string(), "HOME")
    }
}

/// A server that runs.
pub(crate) struct Server {
    child: Child,
    home: PathBuf,
    log: PathBuf,
    /// Held open: a server whose greeting nobody reads must not be stopped by that.
    _out: BufReader<ChildStdout>,
    /// Where it listens.
    pub(crate) url: String,
    /// The token it showed, if it showed one.
    pub(crate) shown: Option<String>,
    /// How long it took from its start to its greeting.
    pub(crate) took: Duration,
}

impl Server {
    /// Starts a server and waits for its greeting; if it ends before, returns how.
    pub(crate) fn begin(mut command: Command, home: &Path) -> Result<Self, Ran> {
        let log = home.join(format!("log-{:x}", store::random() >> 64));
        let begun = Instant::now();
        let stderr = std::fs::File::create(&log).expect("is made");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().expect("starts");
        let mut out = BufReader::new(child.stdout.take().expect("is piped"));
        let greeting = serde_json::Deserializer::from_reader(&mut out).into_iter::<Value>().next();
        let took = begun.elapsed();
        let Some(Ok(greeting)) = greeting else {
            let code = code(child.wait().expect("ends"));
            return Err(Ran { code, out: String::new(), err: std::fs::read_to_string(&log).expect("is text") });
        };
        let text = |name: &str| greeting[name].as_str().map(str::to_owned);
        let url = text("url").expect("the greeting says where");
        Ok(Self { child, home: home.to_owned(), log, _out: out, url, shown: text("token"), took })
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("is ours");
        self.child.wait().expect("ends");
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("is ours");
    }

    /// Returns its id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until it has ended, and returns how.
    pub(crate) fn wait(mut self) -> Ran {
        let code = code(self.child.wait().expect("ends"));
        Ran { code, out: String::new(), err: self.said() }
    }

    /// Stops it in order.
    pub(crate) fn stop(self) {
        self.signal(Signal::TERM);
        let ran = self.wait();
        assert_eq!(ran.code, 0, "{}", ran.err);
    }

    /// Returns what it has written about itself.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).expect("is text")
    }

    /// Runs a command against it with this token.
    pub(crate) fn run(&self, token: &str, args: &[&str]) -> Ran {
        run_with(self.command(token, args), b"")
    }

    /// Returns a command to run against it with this token.
    pub(crate) fn command(&self, token: &str, args: &[&str]) -> Command {
        let mut command = quarry(args, &self.home);
        command.env("QUARRY_URL", &self.url).env("QUARRY_TOKEN", token);
        command
    }

    /// Returns the address without its scheme.
    pub(crate) fn address(&self) -> &str {
        self.url.split_once("://").expect("is an address").1
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, or been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that ends with the test at the latest.
pub(crate) struct Held(Child);

impl Held {
    /// Starts it with nothing on its standard input.
    pub(crate) fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().expect("starts"))
    }

    /// Returns its id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    /// Waits for its end; returns the exit code, minus the signal's number if one ended it.
    pub(crate) fn wait(mut self) -> i32 {
        code(self.0.wait().expect("ends"))
    }

    /// Returns the lines of its standard output, which must be piped, as they come.
    pub(crate) fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        let out = BufReader::new(self.0.stdout.take().expect("is piped"));
        out.lines().map(|line| line.expect("is text"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the exit code; minus the signal's number, if one ended it.
fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| -status.signal().expect("has no code, so a signal"))
}

/// Returns a port that nobody has, below those that the kernel hands out: it stays free while its server is away.
fn free_port() -> u16 {
    std::iter::repeat_with(|| 12_000 + u16::try_from(store::random() % 8_000).expect("is small"))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("never ends")
}

/// A PostgreSQL database of one's own.
pub(crate) struct Database {
    server: String,
    name: String,
    url: String,
}

impl Database {
    /// Makes one, if there is a PostgreSQL to make it in.
    pub(crate) fn new() -> Option<Self> {
        let server = std::env::var("TEST_POSTGRES_URL").ok()?;
        let name = format!("house_{:x}", store::random() >> 64);
        execute(&server, &format!("CREATE DATABASE {name}")).expect("is made");
        let (rest, _) = server.rsplit_once('/').expect("an address ends in a database");
        Some(Self { url: format!("{rest}/{name}"), server, name })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // What is left behind bothers nobody, and the test may be failing for a better reason.
        let _ = execute(&self.server, &format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

/// Runs SQL on PostgreSQL, from wherever one is.
fn execute(url: &str, sql: &str) -> std::thread::Result<()> {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("connects");
            tokio::select! {
                done = client.batch_execute(&sql) => done.expect("is run"),
                ended = connection => panic!("the connection ended: {ended:?}"),
            }
        });
    };
    std::thread::spawn(work).join()
}

/// Returns a client for plain HTTP that tries once.
pub(crate) fn http() -> reqwest::Client {
    // Another test of this process may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("is built")
}
