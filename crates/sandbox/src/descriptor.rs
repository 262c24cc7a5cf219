//! Descriptors: how many files a process may have open. A spawner needs many, some for each sandbox that there may be at once,
//! and is not to find out in the middle of its work that there are too few. So the limit is raised as far as it may be, what
//! is needed is asked for at the start, and programs get back what they usually find.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files of a sandbox while it is used, besides those of its cell: wires, processes, namespaces, streams.
const EACH: u64 = 12;
/// Open files of whoever holds sandboxes, besides.
const OWN: u64 = 64;
/// How many a program may have open until it asks for more: what distributions give, and old programs can count to.
const USUAL: u64 = 1024;

/// Lets this process open as many files as it may ever.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Sets back what a program usually finds.
pub(crate) fn lower() {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(USUAL, |maximum| maximum.min(USUAL));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
}

/// Refuses a number of sandboxes for which there is no room besides what is open already.
pub(crate) fn check(sandboxes: u32) -> Result<(), String> {
    let Some(may) = getrlimit(Resource::Nofile).current else { return Ok(()) };
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let needs = open + OWN + u64::from(sandboxes) * EACH;
    if needs <= may { Ok(()) } else { Err(refusal(sandboxes, needs, may)) }
}

/// Says that there is no room for a number of sandboxes, of which some could not even be prepared.
pub(crate) fn full(sandboxes: u32) -> String {
    let may = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    refusal(sandboxes, may, may)
}

fn refusal(sandboxes: u32, needs: u64, may: u64) -> String {
    format!(
        "{sandboxes} sandboxes at once need {needs} open files or more, and this process may have {may}; raise it \
         (`ulimit -n`, or `LimitNOFILE=` of the service), or ask for fewer slots and warm sandboxes"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_sandboxes_are_refused_by_number() {
        raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(check(1), Ok(()));
        let many = u32::MAX;
        let told = check(many).map_or_else(|told| told, |()| String::new());
        // Nobody may have so many, unless there is no limit at all.
        assert!(limit.current.is_none() || told.starts_with(&format!("{many} sandboxes at once need ")), "{told}");
        std::thread::spawn(lower).join().expect("ends");
        assert!(getrlimit(Resource::Nofile).current.is_some_and(|current| current <= USUAL));
    }
}
