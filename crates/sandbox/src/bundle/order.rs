//! What a runtime is told, one command at a time: each has a time by which it must have answered, and is killed after it.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a runtime may take for anything but creating a container.
pub(super) const MAX_ORDER: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const MAX_OUTPUT_BYTES: u64 = 16 << 10;

/// Runs a command to its end; nothing if it had to be killed.
pub(super) fn obeyed(mut command: Command, most: Duration) -> Option<ExitStatus> {
    let mut child = command.spawn().ok()?;
    ended(&mut child, most)
}

/// Runs a command and returns what it writes, or why it did not.
pub(super) fn output(mut command: Command, most: Duration) -> Result<String, String> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("cannot be run: {error}"))?;
    let status = ended(&mut child, most).ok_or("does not answer")?;
    if !status.success() {
        return Err(format!("fails: {status}"));
    }
    let mut text = Vec::new();
    let read = child.stdout.take().map(|pipe| pipe.take(MAX_OUTPUT_BYTES).read_to_end(&mut text));
    read.transpose().map_err(|error| format!("cannot be read: {error}"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn ended(child: &mut Child, most: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + most;
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).ok();
    while let Some(process) = &process {
        let mut ready = [PollFd::new(process, PollFlags::IN)];
        let left = end.saturating_duration_since(Instant::now());
        let count = poll(&mut ready, Timespec::try_from(left).ok().as_ref());
        if count.is_ok_and(|count| count > 0) {
            return child.wait().ok();
        }
        if left.is_zero() {
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}
