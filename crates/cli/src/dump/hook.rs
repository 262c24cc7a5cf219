//! `quarry dump install-handler`: telling the kernel who takes cores in, and untelling it.
//!
//! What is to change is found out first and shown; only `--apply` does it. What was there before is remembered in a file, so
//! that `--remove` brings it back; what somebody else has changed since is left as it is. All paths are below `--root`, so
//! that an image, or a test, can be prepared without touching the machine.

use super::catch::SettingsArgs;
use crate::exit::{Exit, Failure};
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

const PATTERN: &str = "proc/sys/kernel/core_pattern";
const PIPE_LIMIT: &str = "proc/sys/kernel/core_pipe_limit";
const RELEASE: &str = "proc/sys/kernel/osrelease";
/// What brings it back after a start; it comes behind the file of systemd-coredump, which begins with 50.
const SYSCTL: &str = "etc/sysctl.d/60-quarry-catch.conf";
const MEMORY: &str = "var/lib/quarry/handler.json";
/// What the kernel tells of each crash.
const WORDS: &str = "%P %u %g %s %t %c %h %e";
/// Bytes of a pattern, as the kernel counts them.
const MAX_PATTERN_BYTES: usize = 127;
/// Programs that crash and are waited for at once. Zero would mean that the kernel waits for none, and that what `/proc`
/// tells of a process may be gone before it is read.
const PIPES: u32 = 16;
/// The first kernel that asks at a socket before it writes.
const ASKS_SINCE: (u32, u32) = (6, 17);
/// Bytes of any file that is read here.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Shows what telling the kernel to hand cores to `quarry dump catch` would change, and does it with --apply
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump install-handler
  quarry dump install-handler --apply
  quarry dump install-handler --remove --apply")]
pub(crate) struct InstallHandler {
    /// Do it
    #[arg(long)]
    apply: bool,
    /// Bring back what was there before
    #[arg(long, conflicts_with_all = ["socket", "program"])]
    remove: bool,
    /// The folder that stands for `/`
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Have the kernel connect to this socket, at which `quarry dump catch --listen` listens, in place of starting a program
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The program that the kernel starts; this one, if nothing is said
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// A file that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    /// Where it is, below the root.
    path: String,
    /// What is in it; nothing, if it is not there.
    before: Option<String>,
    /// What shall be in it; nothing, if it shall not be there.
    after: Option<String>,
}

impl InstallHandler {
    /// Runs the command.
    pub(crate) fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let (steps, notes) = if self.remove { self.removal()? } else { (self.installation()?, Vec::new()) };
        notes.iter().for_each(|note| session.output.say(note));
        if session.output.is_json() {
            session.output.json(&serde_json::json!({ "steps": steps, "applied": self.apply && !steps.is_empty() }))?;
        } else {
            for step in &steps {
                session.output.line(&format!("{}", self.root.join(&step.path).display()))?;
                let lines =
                    |text: &Option<String>| text.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
                let (before, after): (Vec<_>, Vec<_>) = (lines(&step.before), lines(&step.after));
                before.iter().try_for_each(|line| session.output.line(&format!("  - {line}")))?;
                after.iter().try_for_each(|line| session.output.line(&format!("  + {line}")))?;
            }
        }
        if steps.is_empty() {
            session.output.say("there is nothing to change");
            return Ok(Exit::Ok);
        }
        if !self.apply {
            session.output.say("nothing was changed; --apply does it");
            return Ok(Exit::Ok);
        }
        for step in &steps {
            self.write(step)?;
        }
        Ok(Exit::Ok)
    }

    /// Returns what the kernel shall be told.
    fn pattern(&self) -> anyhow::Result<String> {
        if let Some(socket) = &self.socket {
            let release = self.read(RELEASE)?.unwrap_or_default();
            if version(&release).is_none_or(|version| version < ASKS_SINCE) {
                let message = format!("kernel `{}` has no coredump socket that asks first", release.trim());
                let failure = Failure::new(Exit::Refused, "kernel_too_old", message);
                return Err(failure.hint("6.17 is the first that has; without --socket it starts a program").into());
            }
            if !socket.is_absolute() {
                return Err(Failure::usage("usage", "the socket's path must begin at the root").into());
            }
            return Ok(format!("@@{}", socket.display()));
        }
        let program = match &self.program {
            Some(program) => std::path::absolute(program)?,
            None => std::env::current_exe().context("this program does not know where it is")?,
        };
        let mut words = vec![program.display().to_string(), "dump".to_owned(), "catch".to_owned()];
        words.extend(self.settings.words()?);
        if let Some(odd) = words.iter().find(|word| word.contains(char::is_whitespace)) {
            let failure = Failure::usage("usage", format!("the kernel cannot be told of `{odd}`, which holds a space"));
            return Err(failure.hint("name another place with --program, --config or --spool").into());
        }
        Ok(format!("|{} {WORDS}", words.join(" ").replace('%', "%%")))
    }

    fn installation(&self) -> anyhow::Result<Vec<Step>> {
        let pattern = self.pattern()?;
        if pattern.len() > MAX_PATTERN_BYTES {
            let message = format!("`{pattern}` has {} bytes; the kernel takes {MAX_PATTERN_BYTES}", pattern.len());
            return Err(Failure::usage("pattern_too_long", message).hint("name a shorter path with --program").into());
        }
        let pipes = self.read(PIPE_LIMIT)?.and_then(|text| text.trim().parse().ok()).filter(|count| *count > 0);
        let pipes: u32 = pipes.unwrap_or(PIPES);
        let sysctl = format!(
            "# Written by `quarry dump install-handler`.\nkernel.core_pattern={pattern}\nkernel.core_pipe_limit={pipes}\n"
        );
        let mut steps = Vec::new();
        // The order in which they are done: whoever is ended in between leaves what --remove can undo.
        for (path, text) in [(SYSCTL, sysctl), (PIPE_LIMIT, format!("{pipes}\n")), (PATTERN, format!("{pattern}\n"))] {
            let before = self.read(path)?;
            if before.as_deref().map(str::trim_end) != Some(text.trim_end()) {
                steps.push(Step { path: path.to_owned(), before, after: Some(text) });
            }
        }
        if !steps.is_empty() {
            steps.insert(0, self.memory(&steps)?);
        }
        Ok(steps)
    }

    /// Returns the step that remembers what was there before; of what was remembered earlier, that stays.
    fn memory(&self, steps: &[Step]) -> anyhow::Result<Step> {
        let before = self.read(MEMORY)?;
        let earlier: Vec<Step> =
            before.as_deref().map(serde_json::from_str).transpose().unwrap_or_default().unwrap_or_default();
        let first = |step: &Step| {
            let known = earlier.iter().find(|known| known.path == step.path && known.after == step.before);
            Step { before: known.map_or_else(|| step.before.clone(), |known| known.before.clone()), ..step.clone() }
        };
        let mut all: Vec<_> = steps.iter().map(first).collect();
        all.extend(earlier.iter().filter(|known| steps.iter().all(|step| step.path != known.path)).cloned());
        Ok(Step { path: MEMORY.to_owned(), before, after: Some(serde_json::to_string_pretty(&all)? + "\n") })
    }

    /// Returns how to bring back what was there, and what cannot be.
    fn removal(&self) -> anyhow::Result<(Vec<Step>, Vec<String>)> {
        let Some(memory) = self.read(MEMORY)? else {
            return Ok((Vec::new(), vec!["nothing was installed here".to_owned()]));
        };
        let known: Vec<Step> = serde_json::from_str(&memory)
            .with_context(|| format!("`{}` is not understood", self.root.join(MEMORY).display()))?;
        let (mut steps, mut notes) = (Vec::new(), Vec::new());
        for step in known.into_iter().rev().filter(|step| [SYSCTL, PIPE_LIMIT, PATTERN].contains(&&*step.path)) {
            let now = self.read(&step.path)?;
            let trimmed = |text: &Option<String>| text.as_deref().map(|text| text.trim_end().to_owned());
            if trimmed(&now) == trimmed(&step.before) {
                continue;
            }
            if trimmed(&now) != trimmed(&step.after) {
                notes
                    .push(format!("`{}` was changed by somebody else and stays", self.root.join(&step.path).display()));
                continue;
            }
            steps.push(Step { before: now, after: step.before, path: step.path });
        }
        steps.push(Step { path: MEMORY.to_owned(), before: Some(memory), after: None });
        Ok((steps, notes))
    }

    fn read(&self, path: &str) -> anyhow::Result<Option<String>> {
        let path = self.root.join(path);
        let mut text = String::new();
        match fs::File::open(&path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text)) {
            Ok(_) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("`{}` cannot be read", path.display())),
        }
    }

    fn write(&self, step: &Step) -> anyhow::Result<()> {
        let path = self.root.join(&step.path);
        let cannot = || format!("`{}` cannot be changed", path.display());
        let Some(text) = &step.after else {
            return fs::remove_file(&path).with_context(cannot);
        };
        if let Some(folder) = path.parent().filter(|_| !step.path.starts_with("proc/")) {
            fs::create_dir_all(folder).with_context(cannot)?;
        }
        fs::write(&path, text).with_context(cannot)?;
        // The kernel cuts what is too long for it without a word.
        let now = self.read(&step.path)?;
        let is_there = now.as_deref().map(str::trim_end) == Some(text.trim_end());
        anyhow::ensure!(is_there, "`{}` holds something else than was written there", Path::new(&step.path).display());
        Ok(())
    }
}

/// Returns the first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared() {
        let check = |release: &str, expected: Option<(u32, u32)>| assert_eq!(version(release), expected, "{release}");
        check("6.17.0-rc1\n", Some((6, 17)));
        check("6.1.0-18-cloud-amd64", Some((6, 1)));
        check("7", None);
        check("", None);
    }
}
