//! The process that becomes the program: it confines itself, waits for its order if it has none yet, becomes whom the order
//! names and executes. Until then it is our own code, with nothing of the spawner's open but the wire of its orders, which
//! the program's start closes: that is how the spawner knows that it runs.

use crate::event::{Fault, FaultKind};
use crate::init::Birth;
use crate::message::{self, MAX_MESSAGE_BYTES, Request, Word};
use crate::plan::Order;
use crate::root::machine;
use crate::trace::Meeting;
use crate::{confine, ids, person, system};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Where nearly every program is, or finds what it is linked to; as the large distributions have it.
#[cfg(target_arch = "x86_64")]
const USUAL: [&CStr; 5] = [
    c"/bin/sh",
    c"/etc/ld.so.cache",
    c"/lib64/ld-linux-x86-64.so.2",
    c"/lib/x86_64-linux-gnu/libc.so.6",
    c"/lib64/libc.so.6",
];
#[cfg(target_arch = "aarch64")]
const USUAL: [&CStr; 5] = [
    c"/bin/sh",
    c"/etc/ld.so.cache",
    c"/lib/ld-linux-aarch64.so.1",
    c"/lib/aarch64-linux-gnu/libc.so.6",
    c"/lib64/libc.so.6",
];
/// What runs a script that does not say what runs it.
const SHELL: &str = "/bin/sh";

/// Becomes the program, or says why not.
///
/// The memory is init's, which waits, and descriptors are this process's own: what is closed here stays open there.
pub(crate) fn run(
    birth: &Birth,
    wire: Option<&OwnedFd>,
    meeting: Option<&Meeting>,
    inits_end: Option<&OwnedFd>,
) -> Infallible {
    system::die_with_parent();
    system::close_one(&birth.control);
    if let Some(inits_end) = inits_end {
        system::close_one(inits_end);
    }
    let Err(fault) = become_program(birth, wire, meeting);
    let _ = message::say(birth.orders.as_fd(), &Word::Failed(fault), &[]);
    system::leave(127)
}

fn become_program(birth: &Birth, wire: Option<&OwnedFd>, meeting: Option<&Meeting>) -> Result<Infallible, Fault> {
    system::default_signals();
    rustix::process::setsid().map_err(machine("a session could not be made"))?;
    let listener = confine::confine(&birth.plan, birth.means)?;
    if let (Some(meeting), Some(listener)) = (meeting, listener) {
        meeting.show(&listener).and_then(|()| meeting.wait()).map_err(machine("init could not be met"))?;
        system::close_one(&listener);
        std::mem::forget(listener);
    }
    let what = machine("the spawner could not be told");
    let waiting;
    let (order, stdio) = if let Some((order, stdio)) = &birth.order {
        if let Some(wire) = wire {
            message::say(birth.orders.as_fd(), &Word::Built, &[wire.as_fd()]).map_err(&what)?;
        }
        (order, stdio)
    } else {
        let fds: Vec<_> = wire.into_iter().map(AsFd::as_fd).collect();
        message::say(birth.orders.as_fd(), &Word::Built, &fds).map_err(&what)?;
        waiting = wait(birth);
        (&waiting.0, &waiting.1)
    };
    if let Some(wire) = wire {
        system::close_one(wire);
    }
    start(birth, order, stdio)
}

/// Waits for the order; a spawner that is gone, or says something else, ends this process.
fn wait(birth: &Birth) -> (Order, [OwnedFd; 3]) {
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    rehearse(&mut buffer);
    look_around();
    match message::hear::<Request<'_>>(&birth.orders, &mut buffer, RecvFlags::empty()) {
        Ok(Some((Request::Start { order, .. }, fds))) => match <[OwnedFd; 3]>::try_from(fds) {
            Ok(stdio) => (order.into_owned(), stdio),
            Err(_) => system::leave(127),
        },
        _ => system::leave(127),
    }
}

/// Reads an order that means nothing, so that the memory which the real one will need is this process's own by then: each
/// page of it would else be copied between the order's arrival and the program's start.
fn rehearse(buffer: &mut [u8]) {
    let words = vec![String::from("sample"); 8];
    let env = words.iter().map(|word| (word.clone(), word.clone())).collect();
    let order = Order { command: words, env, cwd: "/".to_owned(), user: "0".to_owned(), window: None };
    let request = Request::Start { number: 0, order: std::borrow::Cow::Owned(order) };
    let bytes = serde_json::to_vec(&request).unwrap_or_default();
    buffer[..bytes.len()].copy_from_slice(&bytes);
    if let Ok(Request::Start { order, .. }) = serde_json::from_slice::<Request<'_>>(&buffer[..bytes.len()]) {
        let order = order.into_owned();
        std::hint::black_box((strings(&order.command, ""), person::find("0", 1)).0.is_ok());
    }
}

/// Looks up what nearly every program needs, so that the kernel knows the way there by the time that one starts: the first
/// look through the layers of a new root costs it several times any later one.
fn look_around() {
    for place in USUAL {
        // What is not there will not be needed.
        let _ = rustix::fs::stat(place);
    }
}

fn start(birth: &Birth, order: &Order, stdio: &[OwnedFd; 3]) -> Result<Infallible, Fault> {
    let person = person::find(&order.user, birth.ids())?;
    let terminal = birth.plan.terminal.then(|| open_terminal(birth, order, person.uid)).transpose()?;
    if birth.ids() > 1 {
        ids::become_person(person.uid, person.gid, &person.groups)
            .map_err(machine("the program's user could not be set"))?;
        system::die_with_parent();
    }
    confine::give_up(&birth.plan, person.uid)?;
    rustix::process::chdir(order.cwd.as_str())
        .map_err(|errno| refusal(format!("the folder `{}` cannot be entered: {errno}", order.cwd)))?;
    let stdio = terminal.as_ref().map_or_else(
        || [stdio[0].as_raw_fd(), stdio[1].as_raw_fd(), stdio[2].as_raw_fd()],
        |terminal| [terminal.as_raw_fd(); 3],
    );
    let command = strings(&order.command, "the command")?;
    let env = strings(&order.words(person.home()), "the environment")?;
    let name = order.command.first().ok_or_else(|| refusal("the command is empty".to_owned()))?;
    system::set_stdio(stdio).map_err(machine("the standard streams could not be set"))?;
    // What it becomes inherits this from the memory that it shares with init until then; init takes it back.
    system::use_huge_pages(1);
    let errno = execute(order, name, &command, &env)?;
    Err(match errno {
        Errno::NOENT => {
            Fault { kind: FaultKind::NoProgram, cause: format!("the program `{name}` does not exist inside") }
        }
        Errno::ACCESS | Errno::PERM => not_executable(format!("the program `{name}` may not be run")),
        Errno::NOMEM | Errno::AGAIN => machine("the program could not be started")(errno),
        errno => not_executable(format!("the program `{name}` cannot be run: {errno}")),
    })
}

fn refusal(cause: String) -> Fault {
    Fault { kind: FaultKind::Order, cause }
}

fn not_executable(cause: String) -> Fault {
    Fault { kind: FaultKind::NotExecutable, cause }
}

fn strings(words: &[String], what: &str) -> Result<Vec<CString>, Fault> {
    words.iter().map(|word| CString::new(word.as_str()).map_err(|_| refusal(format!("{what} holds a NUL")))).collect()
}

/// Opens the sandbox's own terminal and sends its other side out.
fn open_terminal(birth: &Birth, order: &Order, uid: u32) -> Result<OwnedFd, Fault> {
    let what = machine("the terminal could not be made");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/ptmx", flags, Mode::empty()).map_err(&what)?;
    rustix::pty::unlockpt(&master).map_err(&what)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&master, flags).map_err(&what)?;
    if let Some((rows, columns)) = order.window {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).map_err(&what)?;
    }
    if uid != 0 {
        let _ = rustix::fs::fchown(&terminal, Some(rustix::fs::Uid::from_raw(uid)), None);
    }
    system::take_terminal(terminal.as_fd()).map_err(&what)?;
    message::say(birth.orders.as_fd(), &Word::Terminal, &[master.as_fd()]).map_err(&what)?;
    Ok(terminal)
}

/// Tries each place where the program may be, as a shell does; returns the most telling of the errors.
fn execute(order: &Order, name: &str, command: &[CString], env: &[CString]) -> Result<Errno, Fault> {
    if name.contains('/') {
        return Ok(execute_at(&command[0], command, env));
    }
    let mut told = Errno::NOENT;
    for folder in order.path().split(':') {
        let folder = if folder.is_empty() { "." } else { folder };
        let candidate =
            CString::new(format!("{folder}/{name}")).map_err(|_| refusal("`PATH` holds a NUL".to_owned()))?;
        match execute_at(&candidate, command, env) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => told = Errno::ACCESS,
            errno => return Ok(errno),
        }
    }
    Ok(told)
}

fn execute_at(program: &CString, command: &[CString], env: &[CString]) -> Errno {
    let errno = system::execute(program, command, env);
    if errno != Errno::NOEXEC {
        return errno;
    }
    let shell = CString::new(SHELL).expect("a constant without NUL");
    let words: Vec<CString> =
        [shell.clone(), program.clone()].into_iter().chain(command.iter().skip(1).cloned()).collect();
    system::execute(&shell, &words, env)
}
