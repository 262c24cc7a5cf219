//! Errands: what whoever looks at a dump beside an execution asks this node to fetch, while it runs.
//!
//! A debugger in the sandbox writes build ids into a pipe, a line each, and a word behind them; once what there is of them
//! stands on the shelf beside it, a file of that name says what could not be had. Nothing that is asked is trusted: lines,
//! build ids and answers have bounds, and what is fetched has those of a shelf. Nobody outside hears more of it than a build
//! id, and no one but the servers that the operator named, and the store of the tenant.

use super::modules::{Fetched, Fetcher, Shelf};
use model::analysis::{Lack, MAX_WANTED, Wanted};
use model::pack::MAX_BUILD_ID_BYTES;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Where answers are on the shelf.
pub(super) const ANSWERS: &str = "answers";
/// Bytes of one line: a build id, and what of it is missing.
const MAX_LINE_BYTES: usize = 2 * MAX_BUILD_ID_BYTES + 16;
/// Digits of the word that an answer is called by.
const WORD_DIGITS: usize = 16;
/// Answers that are kept; nobody waits for so many at once.
const MAX_ANSWERS: usize = 64;

/// Questions of one execution that are answered at once; who asks more waits before each answer.
const MAX_QUICK: usize = 256;
/// How long that is.
const PAUSE: Duration = Duration::from_secs(1);

/// What is asked, and where it is answered.
pub(super) struct Errands {
    pipe: pipe::Receiver,
    heard: Heard,
    fetcher: Fetcher,
    shelf: Shelf,
    answered: VecDeque<String>,
    questions: usize,
}

/// What was heard so far.
#[derive(Debug, Default)]
struct Heard {
    line: Vec<u8>,
    /// Whether the line is longer than lines are; the rest of it is passed over.
    is_long: bool,
    wanted: Vec<Wanted>,
}

impl Errands {
    /// Opens the pipe from both sides, so that nobody's going ends it.
    pub(super) fn open(pipe: &Path, fetcher: Fetcher, shelf: Shelf) -> io::Result<Self> {
        let answers = shelf.path().join(ANSWERS);
        fs::create_dir(&answers)?;
        fs::set_permissions(&answers, Permissions::from_mode(0o755))?;
        let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(pipe)?;
        Ok(Self { pipe, heard: Heard::default(), fetcher, shelf, answered: VecDeque::new(), questions: 0 })
    }

    /// Does what is asked until nobody waits for this any more.
    pub(super) async fn run(&mut self) -> io::Result<Infallible> {
        let mut piece = vec![0; 4 << 10];
        loop {
            let count = self.pipe.read(&mut piece).await?;
            for byte in &piece[..count] {
                let Some((word, wanted)) = self.heard.take(*byte) else { continue };
                self.questions += 1;
                if self.questions > MAX_QUICK {
                    tokio::time::sleep(PAUSE).await;
                }
                self.shelf.wait_anew();
                let Fetched { remarks, .. } = self.fetcher.fetch(&wanted, &mut self.shelf).await;
                if let Err(error) = self.answer(word, &remarks) {
                    // Whoever waits gives up in time; what was asked for is there all the same.
                    tracing::warn!(%error, "what a debugger asked for cannot be answered");
                }
            }
        }
    }

    fn answer(&mut self, word: String, remarks: &[String]) -> io::Result<()> {
        let folder = self.shelf.path().join(ANSWERS);
        if self.answered.len() >= MAX_ANSWERS
            && let Some(oldest) = self.answered.pop_front()
        {
            fs::remove_file(folder.join(oldest))?;
        }
        if self.answered.contains(&word) {
            return Ok(());
        }
        // Whoever finds it finds all of it.
        let draft = self.shelf.path().join("draft");
        fs::write(&draft, remarks.join("\n"))?;
        fs::set_permissions(&draft, Permissions::from_mode(0o444))?;
        fs::rename(&draft, folder.join(&word))?;
        self.answered.push_back(word);
        Ok(())
    }
}

impl Heard {
    /// Takes a byte; at the end of a question, returns it with the word that it is to be answered by.
    fn take(&mut self, byte: u8) -> Option<(String, Vec<Wanted>)> {
        if byte != b'\n' {
            self.is_long |= self.line.len() >= MAX_LINE_BYTES;
            if !self.is_long {
                self.line.push(byte);
            }
            return None;
        }
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.is_long) {
            return None;
        }
        let (first, second) = std::str::from_utf8(&line).ok()?.split_once(' ')?;
        let lack = match (first, second) {
            ("end", word) => {
                let is_word = word.len() == WORD_DIGITS && word.bytes().all(|one| one.is_ascii_hexdigit());
                return is_word.then(|| (word.to_owned(), std::mem::take(&mut self.wanted)));
            }
            (_, "module") => Lack::Module,
            (_, "debug") => Lack::Debug,
            _ => return None,
        };
        if self.wanted.len() < MAX_WANTED {
            self.wanted.push(Wanted { build_id: first.to_owned(), lack, has_frames: true });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_line_by_line_within_bounds() {
        let check = |text: &str, expected: &[(&str, &[(&str, Lack)])]| {
            let mut heard = Heard::default();
            let asked: Vec<_> = text.bytes().filter_map(|byte| heard.take(byte)).collect();
            let plain =
                |wanted: &[Wanted]| wanted.iter().map(|one| (one.build_id.clone(), one.lack)).collect::<Vec<_>>();
            let asked: Vec<_> = asked.iter().map(|(word, wanted)| (word.as_str(), plain(wanted))).collect();
            let own = |wanted: &[(&str, Lack)]| wanted.iter().map(|(id, lack)| ((*id).to_owned(), *lack)).collect();
            assert_eq!(asked, expected.iter().map(|(word, wanted)| (*word, own(wanted))).collect::<Vec<_>>(), "{text}");
        };
        let end = "end 0123456789abcdef\n";
        let word = "0123456789abcdef";
        check(&format!("abcd module\ncdef debug\n{end}"), &[(word, &[("abcd", Lack::Module), ("cdef", Lack::Debug)])]);
        check(&format!("{end}abcd debug\n{end}"), &[(word, &[]), (word, &[("abcd", Lack::Debug)])]);
        // What is no question is passed over, and so is a line that never ends.
        check("abcd module\nend ../../../../etc/pw\nend x\nabcd\n\u{ff}\n", &[]);
        check(&format!("{}\nabcd module\n{end}", "x".repeat(1 << 20)), &[(word, &[("abcd", Lack::Module)])]);
        let many = "abcd module\n".repeat(MAX_WANTED + 1) + end;
        let mut heard = Heard::default();
        let asked: Vec<_> = many.bytes().filter_map(|byte| heard.take(byte)).collect();
        assert_eq!(asked[0].1.len(), MAX_WANTED);
    }
}
