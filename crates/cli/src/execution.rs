//! `quarry execution`: create, list, show, read, cancel, retry, wait.

pub(crate) mod create;
mod logs;
pub(crate) mod recipe;
pub(crate) mod transcript;
pub(crate) mod verdict;
mod wait;

use crate::exit::Exit;
use crate::list::{ListArgs, list};
use crate::quantity;
use crate::session::Session;
use clap::{Args, Subcommand};
use model::{
    Access, Class, Execution as Entity, ExecutionId, ExecutionQuery, ExecutionState, Input, Limits, Mount, Network,
    Outcome, Sandbox, Usage,
};
use std::time::Duration;

/// How long an execution may wait before it is asked why.
const QUIET: Duration = Duration::from_secs(2);
/// How long until it is asked again.
const AGAIN: Duration = Duration::from_secs(3);

/// Runs commands in sandboxes, and says what became of them
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry execution create -- echo hello
  quarry execution ls --state running
  quarry execution logs -f exe_01k9yvx0g8m6f3s2d1a0q7w5e4
  quarry execution wait exe_01k9yvx0g8m6f3s2d1a0q7w5e4")]
pub(crate) enum Execution {
    Create(Box<create::Create>),
    Ls(Ls),
    /// Shows an execution
    #[command(after_help = "Example:\n  quarry execution info exe_01k9yvx0g8m6f3s2d1a0q7w5e4")]
    Info {
        /// Which one
        id: ExecutionId,
    },
    /// Stops executions, or keeps them from beginning
    #[command(after_help = "Example:\n  quarry execution cancel exe_01k9yvx0g8m6f3s2d1a0q7w5e4")]
    Cancel {
        /// Which ones
        #[arg(required = true)]
        id: Vec<ExecutionId>,
    },
    Logs(logs::Logs),
    /// Tries once more what has ended, as a new execution, and prints its id
    #[command(after_help = "Example:\n  quarry execution retry exe_01k9yvx0g8m6f3s2d1a0q7w5e4")]
    Retry {
        /// Which one
        id: ExecutionId,
    },
    Wait(wait::Wait),
}

/// Lists executions, newest first
#[derive(Args)]
#[command(after_help = "Example:
  quarry execution ls
  quarry execution ls --state failed --limit 0 --json")]
pub(crate) struct Ls {
    /// Only those in this state: queued, running, cancelling, succeeded, failed, cancelled or quarantined
    #[arg(long, value_parser = state)]
    state: Option<ExecutionState>,
    #[command(flatten)]
    list: ListArgs,
}

fn state(text: &str) -> Result<ExecutionState, String> {
    let known = || ExecutionState::ALL.map(ExecutionState::as_str).join(", ");
    let found = ExecutionState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| format!("it is none of: {}", known()))
}

impl Execution {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        match self {
            Self::Create(create) => create.run(session, &client).await,
            Self::Logs(logs) => logs.run(session, &client).await,
            Self::Retry { id } => {
                let retry = model::Retry { id: client::id::fresh(ExecutionId::new) };
                create::told(session, &client.execution_retry(id, &retry).await?)
            }
            Self::Wait(wait) => wait.run(session, &client).await,
            Self::Info { id } => show(session, &client.execution_get(id).await?),
            Self::Ls(Ls { state, list: args }) => {
                let head = ["id", "state", "class", "created", "by", "command"];
                list(session, args, &head, row, async |after, limit| {
                    let after = after.map(|after| after.parse()).transpose().map_err(|_| bad_cursor(&client))?;
                    client.execution_list(&ExecutionQuery { state, after, limit, tenant: None }).await
                })
                .await
            }
            Self::Cancel { id } => {
                let mut exit = Exit::Ok;
                for id in id {
                    exit = exit.or(match client.execution_cancel(id).await {
                        Ok(execution) => said(session, &execution)?,
                        Err(error) => session.report(&error.into()),
                    });
                }
                Ok(exit)
            }
        }
    }
}

fn bad_cursor(client: &client::Client) -> client::ClientError {
    let what = "the next page is not named by an execution".to_owned();
    client::ClientError::Unexpected { url: client.url().to_owned(), what, request: None }
}

/// Says why nobody has an execution, each reason once; ends when somebody has it.
pub(crate) async fn wait_reasons(session: &Session, client: &client::Client, id: ExecutionId, on_told: impl Fn()) {
    let mut told = String::new();
    tokio::time::sleep(QUIET).await;
    while let Ok(execution) = client.execution_get(id).await
        && execution.state == ExecutionState::Queued
    {
        if let Some(why) = execution.waiting.filter(|why| *why != told) {
            on_told();
            session.output.say(&format!("waiting: {why}"));
            told = why;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Says in a line where an execution stands.
fn said(session: &mut Session, execution: &Entity) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json_line(execution)?;
    } else {
        let outcome = execution.outcome.as_ref().map(|outcome| format!("  {}", outcome_text(outcome)));
        let line = format!("{}  {}{}", execution.id, execution.state.as_str(), outcome.unwrap_or_default());
        session.output.line(&crate::output::printable(&line))?;
    }
    Ok(Exit::Ok)
}

/// Returns a class's word.
pub(crate) fn class_text(class: Class) -> &'static str {
    match class {
        Class::Human => "human",
        Class::Event => "event",
        Class::Batch => "batch",
    }
}

/// Writes how an execution ended.
pub(crate) fn outcome_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Exited { code } => format!("exit code {code}"),
        Outcome::Signalled { signal } => format!("ended by signal {}", verdict::signal_text(*signal)),
        Outcome::OutOfMemory => "needed more memory than its limit".to_owned(),
        Outcome::TimedOut => "needed more time than its limit".to_owned(),
        Outcome::Cancelled => "stopped by a user".to_owned(),
        Outcome::SetUpFailed { cause, .. } => format!("never began: {cause}"),
        Outcome::NodesLost { nodes } => format!("{nodes} nodes were lost while they had it"),
    }
}

/// Writes a command as one could type it again.
pub(crate) fn command_text(command: &[String]) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./=:,@%+".contains(c);
    let quote = |word: &String| {
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    command.iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn row(execution: &Entity, session: &Session) -> Vec<String> {
    vec![
        execution.id.to_string(),
        execution.state.as_str().to_owned(),
        class_text(execution.class).to_owned(),
        session.output.time(execution.created_at),
        execution.by.clone(),
        command_text(&execution.recipe.command),
    ]
}

fn show(session: &mut Session, execution: &Entity) -> anyhow::Result<Exit> {
    let output = &mut session.output;
    if output.is_json() {
        output.json(execution)?;
        return Ok(Exit::Ok);
    }
    let recipe = &execution.recipe;
    let env = recipe.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    let input = match &recipe.input {
        Input::None => None,
        Input::Text { text } => Some(format!("{} of text", quantity::bytes_text(text.len() as u64))),
        Input::Blob { digest } => Some(format!("blob {digest}")),
        Input::Stream => Some("what its user sends".to_owned()),
    };
    let fields = [
        ("id", Some(execution.id.to_string())),
        ("state", Some(execution.state.as_str().to_owned())),
        ("waiting", execution.waiting.clone()),
        ("outcome", execution.outcome.as_ref().map(outcome_text)),
        ("command", Some(command_text(&recipe.command))),
        ("image", recipe.image.clone()),
        ("env", (!env.is_empty()).then(|| env.join(" "))),
        ("input", input),
        ("sandbox", sandbox_text(&recipe.sandbox)),
        ("limits", Some(limits_text(&recipe.limits))),
        ("used", execution.usage.as_ref().map(usage_text)),
        ("dump", execution.dump.map(|dump| dump.to_string())),
        ("class", Some(class_text(execution.class).to_owned())),
        ("lane", execution.lane.clone()),
        ("by", Some(execution.by.clone())),
        ("attempt", Some(execution.attempt.to_string())),
        ("losses", (execution.losses > 0).then(|| execution.losses.to_string())),
        ("node", execution.lease.map(|lease| lease.node.to_string())),
        ("created", Some(output.time(execution.created_at))),
        ("started", execution.started_at.map(|at| output.time(at))),
        ("ended", execution.ended_at.map(|at| output.time(at))),
    ];
    output.fields(&fields)?;
    Ok(Exit::Ok)
}

/// Writes limits, and which of them are demanded.
fn limits_text(limits: &Limits) -> String {
    let cores = format!("{}.{:03}", limits.cpu_milli / 1_000, limits.cpu_milli % 1_000);
    let mut text = format!(
        "{} memory, {} cores, {} processes, {}, {} of files, {} of log",
        quantity::bytes_text(limits.memory_bytes),
        cores.trim_end_matches('0').trim_end_matches('.'),
        limits.pids,
        quantity::ms_text(limits.wall_ms),
        quantity::bytes_text(limits.disk_bytes),
        quantity::bytes_text(limits.log_bytes),
    );
    if limits.io_bytes_second > 0 {
        text.push_str(&format!(", {} of storage a second", quantity::bytes_text(limits.io_bytes_second)));
    }
    if !limits.demand.is_empty() {
        text.push_str(&format!("; demanded: {}", limits.demand));
    }
    text
}

/// Writes what was used, and which limits were not enforced.
fn usage_text(usage: &Usage) -> String {
    let mut text = format!(
        "{}, {} of processor, {} memory",
        quantity::ms_text(usage.wall_ms),
        quantity::ms_text(usage.cpu_ms),
        quantity::bytes_text(usage.memory_peak_bytes),
    );
    if usage.read_bytes + usage.write_bytes > 0 {
        let (read, written) = (quantity::bytes_text(usage.read_bytes), quantity::bytes_text(usage.write_bytes));
        text.push_str(&format!(", {read} read, {written} written"));
    }
    if usage.log_bytes > 0 {
        text.push_str(&format!(", {} of log", quantity::bytes_text(usage.log_bytes)));
    }
    if usage.oom_kills > 0 {
        text.push_str(&format!(", {} ended for lack of memory", usage.oom_kills));
    }
    if !usage.unenforced.is_empty() {
        text.push_str(&format!("; not enforced: {}", usage.unenforced));
    }
    text
}

/// Writes what was chosen of a sandbox; nothing, if nothing was.
fn sandbox_text(sandbox: &Sandbox) -> Option<String> {
    let access = |access| if access == Access::ReadWrite { "rw" } else { "ro" };
    let mut words = Vec::new();
    words.extend(sandbox.cwd.as_ref().map(|cwd| format!("in {cwd}")));
    words.extend(sandbox.user.as_ref().map(|user| format!("as {user}")));
    words.extend(sandbox.entrypoint.as_ref().map(|entrypoint| format!("entrypoint {}", command_text(entrypoint))));
    words.extend((sandbox.network != Network::None).then(|| format!("network {}", sandbox.network.as_str())));
    words.extend((!sandbox.egress.is_empty()).then(|| format!("may reach {}", sandbox.egress.join(" "))));
    let mount = |mount: &Mount| format!("mount {}:{}:{}", mount.source, mount.target, access(mount.access));
    words.extend(sandbox.mounts.iter().map(mount));
    words.extend(sandbox.files.iter().map(|file| format!("file {}", file.target)));
    words.extend(sandbox.terminal.map(|window| format!("terminal {}x{}", window.columns, window.rows)));
    words.extend(sandbox.ptrace.then(|| "ptrace".to_owned()));
    words.extend(sandbox.runtime.as_ref().map(|runtime| format!("runtime {runtime}")));
    words.extend(sandbox.labels.iter().map(|(name, value)| format!("label {name}={value}")));
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_typed_again() {
        let check = |words: &[&str], expected: &str| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(command_text(&words), expected);
        };
        check(&["echo", "hello"], "echo hello");
        check(&["sh", "-c", "exit 3"], "sh -c 'exit 3'");
        check(&["echo", "it's", ""], r"echo 'it'\''s' ''");
    }
}
