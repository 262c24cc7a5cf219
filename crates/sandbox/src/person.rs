//! Who a program is inside: `USER` or `USER:GROUP`, by name or number, looked up in the sandbox's own /etc. What is read
//! there is foreign: bounded, and a line that makes no sense is passed over.

use crate::event::{Fault, FaultKind};
use crate::root::machine;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes of /etc/passwd and /etc/group that are looked at.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Groups that one user may be in.
const MAX_GROUPS: usize = 64;
/// Bytes of a home's path, as the kernel counts them.
const MAX_HOME_BYTES: usize = 4_095;
/// The home of root, where nothing else is said.
const ROOTS_HOME: &str = "/root";
/// The home of a user who has none.
const NO_HOME: &str = "/";

/// A user and its groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// The home that is written down for it.
    home: Option<String>,
}

impl Person {
    /// Returns where it is at home, which need not be there.
    pub(crate) fn home(&self) -> &str {
        let usual = if self.uid == 0 { ROOTS_HOME } else { NO_HOME };
        self.home.as_deref().unwrap_or(usual)
    }
}

/// Finds out whom these words mean; at most `count` ids are there.
pub(crate) fn find(words: &str, count: u32) -> Result<Person, Fault> {
    if words == "0" || words == "0:0" || (words == "root" && count == 1) {
        return Ok(Person::default());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).map_err(machine("the root could not be opened"))?;
    find_in(&root, words, count)
}

/// Finds out whom these words mean in a root that is somewhere else.
pub(crate) fn find_in(root: impl AsFd, words: &str, count: u32) -> Result<Person, Fault> {
    let passwd = read(root.as_fd(), "/etc/passwd");
    let group = read(root.as_fd(), "/etc/group");
    look_up(words, &passwd, &group).and_then(|person| {
        if person.uid < count && person.gid < count {
            let groups = person.groups.iter().copied().filter(|id| *id < count).collect();
            Ok(Person { groups, ..person })
        } else {
            Err(fault(format!("the user `{words}` has an id above {}, the last of this sandbox", count - 1)))
        }
    })
}

fn fault(cause: String) -> Fault {
    Fault { kind: FaultKind::Order, cause }
}

fn read(root: BorrowedFd<'_>, path: &str) -> String {
    let mut bytes = Vec::new();
    // A file that is not there holds nobody, and neither does what is no file; a pipe must not hold us up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve).map(File::from);
    if let Ok(file) = file
        && file.metadata().is_ok_and(|found| found.is_file())
    {
        let _ = file.take(MAX_FILE_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn look_up(words: &str, passwd: &str, group: &str) -> Result<Person, Fault> {
    let (user, chosen) = words.split_once(':').map_or((words, None), |(user, group)| (user, Some(group)));
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 4 && (fields[0] == user || (fields[2] == user && user.parse::<u32>().is_ok())));
    let number = user.parse::<u32>().ok();
    let home =
        entry.as_ref().and_then(|fields| fields.get(5)).filter(|home| is_home(home)).map(|home| (*home).to_owned());
    let (name, uid, own) = match (&entry, number) {
        (Some(fields), _) => {
            let id = |field: &str| {
                field.parse::<u32>().map_err(|_| fault(format!("the user `{user}` has no number in /etc/passwd")))
            };
            (Some(fields[0]), id(fields[2])?, id(fields[3])?)
        }
        (None, Some(uid)) => (None, uid, 0),
        (None, None) => return Err(fault(format!("the user `{user}` does not exist inside"))),
    };
    let groups = group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 3);
    if let Some(chosen) = chosen {
        let gid = groups
            .filter(|fields| fields[0] == chosen)
            .find_map(|fields| fields[2].parse().ok())
            .or_else(|| chosen.parse().ok())
            .ok_or_else(|| fault(format!("the group `{chosen}` does not exist inside")))?;
        return Ok(Person { uid, gid, groups: vec![gid], home });
    }
    let belongs = |fields: &Vec<&str>| {
        fields.get(3).is_some_and(|members| members.split(',').any(|member| Some(member.trim()) == name))
    };
    let mut all: Vec<u32> = groups.filter(belongs).filter_map(|fields| fields[2].parse().ok()).collect();
    all.truncate(MAX_GROUPS);
    if !all.contains(&own) {
        all.insert(0, own);
    }
    Ok(Person { uid, gid: own, groups: all, home })
}

/// Tells whether a variable can hold it and a program make something of it.
fn is_home(text: &str) -> bool {
    text.starts_with('/') && text.len() <= MAX_HOME_BYTES && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_found_by_name_and_number() {
        let passwd = "root:x:0:0::/:/bin/sh\nnonsense\nann:x:1000:100::/home/ann:/bin/sh\n";
        let group = "root:x:0:\nstaff:x:50:ann,bob\nwheel:x:10:bob, ann\nbad\n";
        let check = |words: &str, expected: Option<(u32, u32, &[u32])>| {
            let found = look_up(words, passwd, group).ok();
            let found = found.as_ref().map(|person| (person.uid, person.gid, person.groups.as_slice()));
            assert_eq!(found, expected, "{words}");
        };
        check("root", Some((0, 0, &[0])));
        check("ann", Some((1000, 100, &[100, 50, 10])));
        check("1000", Some((1000, 100, &[100, 50, 10])));
        check("ann:staff", Some((1000, 50, &[50])));
        check("ann:7", Some((1000, 7, &[7])));
        check("42", Some((42, 0, &[0])));
        check("42:42", Some((42, 42, &[42])));
        check("eve", None);
        check("ann:nobody", None);
        check("", None);
    }

    #[test]
    fn a_home_is_what_is_written_down_if_it_can_be_one() {
        let long = format!("/{}", "x".repeat(MAX_HOME_BYTES));
        let passwd = format!(
            "root:x:0:0::/:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\nbob:x:1001:1001\neve:x:1002:1:::\n\
             ned:x:1003:1::home/ned:\nmax:x:1004:1::/home\0/max:\nsam:x:1005:1::{long}:\ntom:x:1006:1::/home/tom\n"
        );
        let check = |words: &str, expected: &str| {
            assert_eq!(look_up(words, &passwd, "").expect("is somebody").home(), expected, "{words}");
        };
        check("ann", "/home/ann");
        check("1000", "/home/ann");
        check("ann:7", "/home/ann");
        check("tom", "/home/tom");
        check("root", "/");
        for nowhere in ["bob", "eve", "ned", "max", "sam", "4242", "4242:4242"] {
            check(nowhere, "/");
        }
        assert_eq!(look_up("0:7", "", "").expect("is root").home(), "/root");
        assert_eq!(Person::default().home(), "/root");
    }
}
