//! The whole path as somebody outside sees it: executions are asked for over HTTP, and a follower of the log hears of their
//! ends. Prints JSON. Used by `bench/execution`.
//!
//!   executions PORT TOKEN COUNT CALLERS COMMAND…
//!
//! With no callers, one connection asks for each after the end of the one before, and every execution's time is told; else
//! that many connections ask each after the answer to the one before, and all of it is timed from the first request to the
//! last end. It shares the machine with what it measures, so it costs as little as can be: blocking sockets and no parser.

use model::ExecutionId;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long the server may say nothing.
const MAX_SILENCE: Duration = Duration::from_secs(60);
/// Bytes that are read at once.
const PIECE: usize = 1 << 16;
const CHANGE: &[u8] = b"data: {\"seq\":";
const STATE: &[u8] = b"\",\"state\":\"";

/// One connection and what came over it beyond what was asked for.
struct Line {
    stream: TcpStream,
    rest: Vec<u8>,
    piece: Vec<u8>,
}

impl Line {
    fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(MAX_SILENCE))?;
        Ok(Self { stream, rest: Vec::new(), piece: vec![0; PIECE] })
    }

    fn receive(&mut self) -> io::Result<()> {
        let bytes = self.stream.read(&mut self.piece)?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.rest.extend_from_slice(&self.piece[..bytes]);
        Ok(())
    }
}

/// Returns where a text begins.
fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// A connection that creates executions, each after the answer to the one before.
struct Caller {
    line: Line,
    head: String,
    command: Vec<String>,
}

impl Caller {
    fn open(port: u16, token: &str, command: &[String]) -> io::Result<Self> {
        let head = format!(
            "POST /v1/executions HTTP/1.1\r\nhost: quarry\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: "
        );
        Ok(Self { line: Line::open(port)?, head, command: command.to_vec() })
    }

    /// Asks for an execution and reads the answer; returns its id.
    fn create(&mut self) -> io::Result<String> {
        let id = client::id::fresh(ExecutionId::new).to_string();
        let body = serde_json::json!({ "id": id, "command": self.command }).to_string();
        let request = format!("{}{}\r\n\r\n{body}", self.head, body.len());
        self.line.stream.write_all(request.as_bytes())?;
        let head = loop {
            match find(&self.line.rest, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.line.receive()?,
            }
        };
        let text = String::from_utf8_lossy(&self.line.rest[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let (true, Some(length)) = (text.starts_with("http/1.1 201 "), length) else {
            return Err(io::Error::other(format!("an execution was refused: {text}")));
        };
        while self.line.rest.len() < head + length {
            self.line.receive()?;
        }
        self.line.rest.drain(..head + length);
        Ok(id)
    }
}

/// A connection that follows the log.
struct Follower {
    line: Line,
    /// Bytes of the line's rest that have been looked at.
    seen: usize,
}

impl Follower {
    fn open(port: u16, token: &str) -> io::Result<Self> {
        let mut line = Line::open(port)?;
        let head = "GET /v1/changes?noun=execution HTTP/1.1\r\nhost: quarry\r\nauthorization: Bearer ";
        line.stream.write_all(format!("{head}{token}\r\naccept: text/event-stream\r\n\r\n").as_bytes())?;
        // Its first words tell where it stands; from there on it misses nothing.
        while find(&line.rest, b"id: ").is_none() {
            line.receive()?;
        }
        Ok(Self { line, seen: 0 })
    }

    /// Returns the next execution that has ended; one that did not succeed is an error.
    fn ended(&mut self) -> io::Result<String> {
        loop {
            while let Some(end) = self.line.rest[self.seen..].iter().position(|byte| *byte == b'\n') {
                let line = &self.line.rest[self.seen..self.seen + end];
                self.seen += end + 1;
                let Some((id, state)) = line.starts_with(CHANGE).then(|| read(line)).flatten() else { continue };
                match state {
                    "succeeded" => return Ok(id.to_owned()),
                    "failed" | "cancelled" | "quarantined" => {
                        return Err(io::Error::other(format!("{id} ended as {state}")));
                    }
                    _ => {}
                }
            }
            self.line.rest.drain(..self.seen);
            self.seen = 0;
            self.line.receive()?;
        }
    }
}

/// Reads the id and the state of a change.
fn read(line: &[u8]) -> Option<(&str, &str)> {
    let at = find(line, STATE)?;
    let begin = line[..at].iter().rposition(|byte| *byte == b'"')? + 1;
    let (id, rest) = (&line[begin..at], &line[at + STATE.len()..]);
    let end = rest.iter().position(|byte| *byte == b'"')?;
    Some((std::str::from_utf8(id).ok()?, std::str::from_utf8(&rest[..end]).ok()?))
}

/// Returns the times from each request to its end, in milliseconds.
fn lone(follower: &mut Follower, mut caller: Caller, count: usize) -> io::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        let id = caller.create()?;
        while follower.ended()? != id {}
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// Returns how many ended a second.
fn many(follower: &mut Follower, callers: Vec<Caller>, count: usize) -> io::Result<f64> {
    let each = count / callers.len();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let expected = each * callers.len();
        for mut caller in callers {
            scope.spawn(move || (0..each).try_for_each(|_| caller.create().map(drop)).expect("the server takes them"));
        }
        for _ in 0..expected {
            follower.ended()?;
        }
        Ok(expected as f64 / begun.elapsed().as_secs_f64())
    })
}

#[expect(clippy::print_stdout, reason = "this is what it is run for")]
fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().expect("PORT TOKEN COUNT CALLERS COMMAND…");
    let (port, token): (u16, _) = (next().parse().expect("a port"), next());
    let (count, callers): (usize, usize) = (next().parse().expect("a number"), next().parse().expect("a number"));
    let command: Vec<_> = args.collect();
    let mut follower = Follower::open(port, &token)?;
    let open = || Caller::open(port, &token, &command);
    let told = if callers == 0 {
        serde_json::json!({ "ms": lone(&mut follower, open()?, count)? })
    } else {
        let callers = (0..callers).map(|_| open()).collect::<io::Result<_>>()?;
        serde_json::json!({ "per_second": many(&mut follower, callers, count)? })
    };
    println!("{told}");
    Ok(())
}
