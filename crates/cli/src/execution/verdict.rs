//! How a command that stands for a program ends: as the program did, counted as shells and `timeout` count it.

use crate::exit::Exit;
use crate::output::Style;
use crate::session::Session;
use model::{Execution, ExecutionState, Outcome, Recipe, SetUpFault};
use std::path::Path;

/// What `timeout` ends with when time was up.
const TIMED_OUT: u8 = 124;
/// What container tools end with when a program could not be begun.
const NOT_BEGUN: u8 = 125;
/// What shells end with when a program cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// What shells end with when there is no such program.
const NO_PROGRAM: u8 = 127;
/// What shells add to a signal's number.
const SIGNALLED: u8 = 128;

/// Signals by number, as every architecture of ours counts them.
const SIGNALS: [(i32, &str); 22] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (4, "ILL"),
    (5, "TRAP"),
    (6, "ABRT"),
    (7, "BUS"),
    (8, "FPE"),
    (9, "KILL"),
    (10, "USR1"),
    (11, "SEGV"),
    (12, "USR2"),
    (13, "PIPE"),
    (14, "ALRM"),
    (15, "TERM"),
    (16, "STKFLT"),
    (17, "CHLD"),
    (24, "XCPU"),
    (25, "XFSZ"),
    (26, "VTALRM"),
    (29, "IO"),
    (31, "SYS"),
];

/// Writes a signal as people know it: `11 (SEGV)`.
pub(crate) fn signal_text(signal: i32) -> String {
    let name = SIGNALS.iter().find(|(number, _)| *number == signal).map(|(_, name)| *name);
    name.map_or_else(|| signal.to_string(), |name| format!("{signal} ({name})"))
}

/// Returns the exit code of an execution that has ended.
pub(crate) fn exit(execution: &Execution) -> Exit {
    let low = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    match &execution.outcome {
        Some(Outcome::Exited { code: 0 }) => Exit::Ok,
        Some(Outcome::Exited { code }) => Exit::Program(low(*code)),
        Some(Outcome::Signalled { signal }) => Exit::Program(low(*signal).saturating_add(SIGNALLED)),
        Some(Outcome::OutOfMemory) => Exit::Program(SIGNALLED + 9),
        Some(Outcome::TimedOut) => Exit::Program(TIMED_OUT),
        Some(Outcome::SetUpFailed { fault, .. }) => Exit::Program(not_begun(*fault)),
        Some(Outcome::NodesLost { .. }) => Exit::Program(NOT_BEGUN),
        Some(Outcome::Cancelled) => Exit::Failed,
        None if execution.state == ExecutionState::Succeeded => Exit::Ok,
        None => Exit::Failed,
    }
}

/// Tells a program that is not there or cannot be executed from all else that keeps one from beginning.
const fn not_begun(fault: SetUpFault) -> u8 {
    match fault {
        SetUpFault::NoProgram => NO_PROGRAM,
        SetUpFault::NotExecutable => NOT_EXECUTABLE,
        SetUpFault::Refused | SetUpFault::Machine => NOT_BEGUN,
    }
}

/// Says of an execution what its exit code alone does not tell.
pub(crate) fn tell(session: &Session, execution: &Execution) {
    let output = &session.output;
    let label = output.err_style(Style::Bad, "error:");
    let hint = |text: &str| output.complain(&output.err_style(Style::Strong, "hint:"), text);
    match &execution.outcome {
        None | Some(Outcome::Exited { .. }) => {}
        Some(outcome) => output.complain(&label, &super::outcome_text(outcome)),
    }
    let id = execution.id;
    match &execution.outcome {
        Some(Outcome::OutOfMemory) => {
            let limit = crate::quantity::bytes_text(execution.recipe.limits.memory_bytes);
            hint(&format!("it was {limit}; --memory sets another one"));
        }
        Some(Outcome::TimedOut) => {
            let limit = crate::quantity::ms_text(execution.recipe.limits.wall_ms);
            hint(&format!("it was {limit}; --time sets another one"));
        }
        Some(Outcome::SetUpFailed { fault, .. }) => hint(&match fault {
            SetUpFault::NoProgram if is_sent(&execution.recipe) => {
                "it was sent; what its first line names, or the loader that it asks for, is not there".to_owned()
            }
            SetUpFault::NoProgram if is_here(&execution.recipe) => {
                "it exists here; if it does on the node, then what its first line names is not there".to_owned()
            }
            SetUpFault::NoProgram if execution.recipe.image.is_none() => {
                "programs are looked up on the node; write `./NAME` to send one of yours".to_owned()
            }
            SetUpFault::NoProgram => "programs are looked up inside the image; see `quarry image inspect`".to_owned(),
            SetUpFault::NotExecutable => "is it a program for this machine, and marked as executable?".to_owned(),
            SetUpFault::Machine => format!("the machine failed: `quarry execution retry {id}` tries once more"),
            SetUpFault::Refused => format!("`quarry execution info {id}` shows what was asked for"),
        }),
        Some(Outcome::NodesLost { .. }) => hint(&format!("see `quarry node ls`, then `quarry execution retry {id}`")),
        _ => {}
    }
    if let Some(dump) = execution.dump {
        output.say(&format!("dump {dump}: `quarry dump show {dump}`"));
    }
}

/// Tells whether the program is a file that was sent along.
fn is_sent(recipe: &Recipe) -> bool {
    let Some(program) = recipe.command.first().filter(|program| program.contains('/')) else { return false };
    let whole = Path::new(recipe.sandbox.cwd.as_deref().unwrap_or("/")).join(program);
    recipe.sandbox.files.iter().any(|file| Path::new(&file.target) == whole)
}

/// Tells whether the program is one of the node's, of a name that a file has here, too.
fn is_here(recipe: &Recipe) -> bool {
    let program = recipe.command.first().map(Path::new);
    recipe.image.is_none() && program.is_some_and(|program| program.is_absolute() && program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_their_names() {
        assert_eq!((signal_text(11), signal_text(64)), ("11 (SEGV)".to_owned(), "64".to_owned()));
    }
}
