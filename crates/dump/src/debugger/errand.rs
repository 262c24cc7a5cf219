//! Errands: a debugger asks the node around its sandbox for modules that are not here, and waits until it has them.
//!
//! What is asked goes into a pipe, a line for each build id, and a last line with a word of the asker's own; the answer is
//! a file of that name with a line for each thing that could not be had. Whatever came lies in the folders of `Places` then.

use model::analysis::{Lack, MAX_WANTED, Wanted};
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

/// Between two looks for the answer.
const STEP: Duration = Duration::from_millis(20);
/// Looks after which somebody at a terminal is told what is waited for.
const QUIET_LOOKS: u32 = 50;
/// Looks after which nobody waits any more; a node gives up before.
const MAX_LOOKS: u32 = 10_000;
/// Bytes of an answer that are shown.
const MAX_ANSWER_BYTES: usize = 16 << 10;

/// The way to the node.
#[derive(Debug)]
pub(super) struct Errand {
    pipe: PathBuf,
    answers: PathBuf,
    asked: HashSet<(String, bool)>,
}

impl Errand {
    /// Returns the way that the environment tells, if it tells one.
    pub(super) fn told() -> Option<Self> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        Some(Self { pipe: path("QUARRY_LACK")?, answers: path("QUARRY_ANSWERS")?, asked: HashSet::new() })
    }

    /// Asks for what was not asked for before, and waits; tells whether there was anything to ask for.
    pub(super) fn run(&mut self, wanted: Vec<Wanted>) -> io::Result<bool> {
        let is_module = |one: &Wanted| one.lack == Lack::Module;
        let new = wanted.into_iter().filter(|one| self.asked.insert((one.build_id.clone(), is_module(one))));
        let new: Vec<_> = new.take(MAX_WANTED).collect();
        if new.is_empty() {
            return Ok(false);
        }
        let word = format!("{:016x}", RandomState::new().hash_one(&new[0].build_id));
        // One write each: lines of others may come between them, but never within one.
        let mut pipe = OpenOptions::new().write(true).open(&self.pipe)?;
        for one in &new {
            let lack = if is_module(one) { "module" } else { "debug" };
            pipe.write_all(format!("{} {lack}\n", one.build_id).as_bytes())?;
        }
        pipe.write_all(format!("end {word}\n").as_bytes())?;
        self.wait(&word);
        Ok(true)
    }

    fn wait(&self, word: &str) {
        let answer = self.answers.join(word);
        for looks in 0..MAX_LOOKS {
            if let Ok(bytes) = fs::read(&answer) {
                let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_ANSWER_BYTES)]);
                text.lines().for_each(|line| say(&format!("[{line}]")));
                return;
            }
            if looks == QUIET_LOOKS {
                say("[waiting for files of modules that this node does not have]");
            }
            sleep(STEP);
        }
        say("[the node does not answer: what is missing stays so]");
    }
}

/// Says something beside what a debugger says.
pub(super) fn say(line: &str) {
    let line: String = line.chars().filter(|one| !one.is_control()).collect();
    // Nobody listening is no reason to fail.
    let _ = writeln!(io::stderr(), "{line}");
}
