//! What Linux calls its signals and their codes.

/// The code that says the kernel raised it and knows no more, such as for an address that no pointer can hold.
pub(crate) const SI_KERNEL: i32 = 128;

pub(crate) const SIGILL: i32 = 4;
pub(crate) const SIGTRAP: i32 = 5;
pub(crate) const SIGABRT: i32 = 6;
pub(crate) const SIGBUS: i32 = 7;
pub(crate) const SIGFPE: i32 = 8;
pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGSEGV: i32 = 11;
const SIGCHLD: i32 = 17;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
const SIGTSTP: i32 = 20;
const SIGTTIN: i32 = 21;
const SIGTTOU: i32 = 22;
const SIGURG: i32 = 23;
const SIGWINCH: i32 = 28;
pub(crate) const SIGSYS: i32 = 31;

const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// Returns a signal's name.
pub(crate) fn name(number: i32) -> String {
    let known = usize::try_from(number).ok().and_then(|number| NAMES.get(number.wrapping_sub(1)));
    match known {
        Some(name) => (*name).to_owned(),
        None if (32..=64).contains(&number) => format!("SIGRT{number}"),
        None => format!("signal {number}"),
    }
}

/// Tells whether a signal never ends a process: it stops one, lets one go on, or is ignored unless it is caught.
pub(crate) fn is_harmless(number: i32) -> bool {
    matches!(number, SIGCHLD | SIGCONT | SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU | SIGURG | SIGWINCH)
}

/// Returns what a signal's code is called.
pub(crate) fn code_name(number: i32, code: i32) -> Option<&'static str> {
    let names: &[&str] = match number {
        SIGILL => &[
            "ILL_ILLOPC",
            "ILL_ILLOPN",
            "ILL_ILLADR",
            "ILL_ILLTRP",
            "ILL_PRVOPC",
            "ILL_PRVREG",
            "ILL_COPROC",
            "ILL_BADSTK",
            "ILL_BADIADDR",
        ],
        SIGFPE => &[
            "FPE_INTDIV",
            "FPE_INTOVF",
            "FPE_FLTDIV",
            "FPE_FLTOVF",
            "FPE_FLTUND",
            "FPE_FLTRES",
            "FPE_FLTINV",
            "FPE_FLTSUB",
        ],
        SIGSEGV => &[
            "SEGV_MAPERR",
            "SEGV_ACCERR",
            "SEGV_BNDERR",
            "SEGV_PKUERR",
            "SEGV_ACCADI",
            "SEGV_ADIDERR",
            "SEGV_ADIPERR",
            "SEGV_MTEAERR",
            "SEGV_MTESERR",
            "SEGV_CPERR",
        ],
        SIGBUS => &["BUS_ADRALN", "BUS_ADRERR", "BUS_OBJERR", "BUS_MCEERR_AR", "BUS_MCEERR_AO"],
        SIGTRAP => &["TRAP_BRKPT", "TRAP_TRACE", "TRAP_BRANCH", "TRAP_HWBKPT", "TRAP_UNK", "TRAP_PERF"],
        SIGSYS => &["SYS_SECCOMP", "SYS_USER_DISPATCH"],
        _ => &[],
    };
    let general = match code {
        0 => "SI_USER",
        SI_KERNEL => "SI_KERNEL",
        -1 => "SI_QUEUE",
        -2 => "SI_TIMER",
        -3 => "SI_MESGQ",
        -4 => "SI_ASYNCIO",
        -5 => "SI_SIGIO",
        -6 => "SI_TKILL",
        _ => return usize::try_from(code).ok().and_then(|code| names.get(code.checked_sub(1)?)).copied(),
    };
    Some(general)
}

/// Tells whether a signal with this code says which address it is about.
pub(crate) fn has_address(number: i32, code: i32) -> bool {
    matches!(number, SIGILL | SIGFPE | SIGSEGV | SIGBUS | SIGTRAP) && code > 0 && code != SI_KERNEL
}

/// Tells whether a signal with this code says who sent it.
pub(crate) fn has_sender(code: i32) -> bool {
    matches!(code, 0 | -1 | -6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_their_names() {
        assert_eq!((name(11).as_str(), code_name(11, 1)), ("SIGSEGV", Some("SEGV_MAPERR")));
        assert_eq!((name(31).as_str(), code_name(31, 1)), ("SIGSYS", Some("SYS_SECCOMP")));
        assert_eq!((name(34).as_str(), code_name(8, 9)), ("SIGRT34", None));
        assert_eq!((name(0).as_str(), name(-1).as_str(), name(99).as_str()), ("signal 0", "signal -1", "signal 99"));
        assert_eq!((code_name(6, -6), code_name(6, 7), code_name(11, i32::MIN)), (Some("SI_TKILL"), None, None));
    }
}
