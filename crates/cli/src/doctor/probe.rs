//! Really entering a user namespace, in a process of its own, since there is no way back and only a process with a
//! single thread may go.
//!
//! Entering is not enough: Ubuntu 24.04 lets everybody in and then takes the powers away. So the child also maps itself
//! to root and makes the namespaces that a sandbox consists of.

use crate::exit::Exit;
use clap::Args;
use rustix::thread::UnshareFlags;
use std::io::Write;
use std::process::{Command, Stdio};

/// What there is to try.
#[derive(Args)]
#[command(after_help = "Example:\n  quarry probe")]
pub(crate) struct Probe {}

impl Probe {
    /// Tries, writes to standard output which step failed, and ends.
    #[expect(clippy::unused_self, reason = "a command is run through its arguments, even if it has none")]
    pub(crate) fn run(&self) -> Exit {
        let Err((step, error)) = enter() else { return Exit::Ok };
        let _ = write!(std::io::stdout(), "{step}: {error}");
        Exit::Failed
    }
}

/// Starts this program once more to try; absent if even that cannot be done.
pub(crate) fn try_user_namespace() -> Option<Result<(), String>> {
    let this = std::env::current_exe().ok()?;
    let child = Command::new(this).arg("probe").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    if child.status.success() {
        return Some(Ok(()));
    }
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    Some(Err(if said.is_empty() { child.status.to_string() } else { said }))
}

fn enter() -> Result<(), (&'static str, std::io::Error)> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWUSER).map_err(|error| ("entering a user namespace", error))?;
    let write = |path: &str, text: String| std::fs::write(path, text).map_err(|error| ("mapping users", error));
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {user} 1"))?;
    write("/proc/self/gid_map", format!("0 {group} 1"))?;
    for (step, flag) in [
        ("making a mount namespace", UnshareFlags::NEWNS),
        ("making a process namespace", UnshareFlags::NEWPID),
        ("making a network namespace", UnshareFlags::NEWNET),
    ] {
        unshare(flag).map_err(|error| (step, error))?;
    }
    Ok(())
}

fn unshare(flags: UnshareFlags) -> std::io::Result<()> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe for the sake of shared file tables, which we do not unshare"
    )]
    let entered = rustix::thread::unshare(flags);
    entered.map_err(std::io::Error::from)
}
