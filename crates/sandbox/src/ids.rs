//! User namespaces, made ahead: each maps the ids of a sandbox to those of the machine that its spawner was given. One
//! belongs to one sandbox at a time and is used again afterwards, because to make one takes a process and two wake-ups.
//! Host id 0 is never mapped.

use crate::plan::Place;
use crate::system;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// The lowest id outside that a sandbox may have; those below belong to the machine's own services.
const MIN_ID: u32 = 1_000;

/// Refuses a place that would give a sandbox ids of the machine's own.
pub(crate) fn check(place: Place, is_superuser: bool) -> Result<(), String> {
    match place {
        Place::Range { first, count } if first < MIN_ID || count == 0 || first.checked_add(count).is_none() => {
            Err(format!("ids {first} to {first}+{count} cannot be a sandbox's; they must begin at {MIN_ID} or later"))
        }
        Place::Range { .. } if !is_superuser => Err("a range of ids needs a spawner that is the superuser".to_owned()),
        Place::Own if is_superuser => {
            Err("the superuser's own id is never given to a sandbox; name a range".to_owned())
        }
        Place::Range { .. } | Place::Own => Ok(()),
    }
}

/// Makes a user namespace with a range of ids, which belongs to one of them: what the kernel counts for each user, such as
/// watches, queues and signals that wait, it counts for a namespace's owner too, and the superuser would share it with all
/// sandboxes. Nobody inside is the owner to the kernel, which wants that of a process outside.
pub(crate) fn make(first: u32, count: u32, owner: u32) -> rustix::io::Result<OwnedFd> {
    let (held, holds) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (told, tells) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let child = system::clone_process(0, None, || {
        // Its own copies of the other ends would keep it, and the spawner, waiting for itself.
        system::close_one(&holds);
        system::close_one(&told);
        if own(owner).and_then(|()| system::unshare_ids()).is_ok() {
            system::die_with_parent();
            let _ = rustix::io::write(&tells, &[1]);
            let _ = rustix::io::read(&held, &mut [0_u8; 1]);
        }
        system::leave(0)
    })?;
    drop(tells);
    let is_made = rustix::io::read(&told, &mut [0_u8; 1]) == Ok(1);
    let map = format!("0 {first} {count}");
    let written = ["uid_map", "gid_map"].iter().try_for_each(|name| match is_made {
        true => std::fs::write(format!("/proc/{child}/{name}"), &map),
        false => Err(std::io::ErrorKind::PermissionDenied.into()),
    });
    let namespace = rustix::fs::open(format!("/proc/{child}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    drop(holds);
    system::wait_for(child, 0);
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    namespace
}

/// Becomes somebody else by name, with all privileges: some machines let nobody without make namespaces.
fn own(owner: u32) -> rustix::io::Result<()> {
    let sets = rustix::thread::capabilities(None)?;
    let superuser = rustix::process::Uid::ROOT;
    rustix::thread::set_thread_res_uid(superuser, rustix::process::Uid::from_raw(owner), superuser)?;
    rustix::thread::set_capabilities(None, sets)
}

/// Maps the one id that an ordinary user has to the superuser of the inside; to be called in a new user namespace.
pub(crate) fn map_own(uid: u32, gid: u32) -> std::io::Result<()> {
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Enters a namespace as its superuser; every privilege outside it is gone with that.
pub(crate) fn enter(namespace: &OwnedFd) -> rustix::io::Result<()> {
    let flags = Some(rustix::thread::LinkNameSpaceType::User);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), flags)?;
    become_person(0, 0, &[])
}

/// Becomes somebody inside.
pub(crate) fn become_person(uid: u32, gid: u32, groups: &[u32]) -> rustix::io::Result<()> {
    let (uid, gid) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
    let groups: Vec<_> = groups.iter().map(|id| rustix::process::Gid::from_raw(*id)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_ids_are_nobodys_place() {
        let check = |place, is_superuser, good| assert_eq!(check(place, is_superuser).is_ok(), good, "{place:?}");
        check(Place::Range { first: 100_000, count: 65_536 }, true, true);
        check(Place::Range { first: 100_000, count: 65_536 }, false, false);
        check(Place::Range { first: 0, count: 65_536 }, true, false);
        check(Place::Range { first: 999, count: 1 }, true, false);
        check(Place::Range { first: u32::MAX, count: 2 }, true, false);
        check(Place::Range { first: 100_000, count: 0 }, true, false);
        check(Place::Own, true, false);
        check(Place::Own, false, true);
    }
}
