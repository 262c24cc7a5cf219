//! Promptness: how soon a thread goes on once it is woken. Who only passes word on, between a server, a node and a spawner,
//! computes little and is waited for by everybody, so it takes short turns; and the kernel lets who takes short turns go
//! before what computes, be it a sandbox that is being built or a program that eats processors. Known since Linux 6.12;
//! before, nothing changes.
//!
//! Threads and processes inherit it, so whatever runs something foreign, or long, ends it first.
#![expect(unsafe_code, reason = "these calls have no safe wrapper")]

/// A turn, in nanoseconds; one of the kernel's own choice is ten times as long, and a third of this is the least.
const TURN_NS: u64 = 300_000;

/// Has the calling thread, and what it will start, take short turns.
pub fn begin() {
    take_turns(TURN_NS);
}

/// Has the calling thread take turns as long as anybody's.
pub(crate) fn end() {
    take_turns(0);
}

fn take_turns(ns: u64) {
    let bytes = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: zeroes are a valid structure; the kernel writes no more than so many bytes to it, and reads as many.
    unsafe {
        let mut how: libc::sched_attr = std::mem::zeroed();
        if libc::syscall(libc::SYS_sched_getattr, 0, &raw mut how, bytes, 0) != 0 {
            return;
        }
        // Whoever was given another way of taking turns was given it on purpose.
        if how.sched_policy == libc::SCHED_OTHER.cast_unsigned() {
            how.size = bytes;
            how.sched_runtime = ns;
            libc::syscall(libc::SYS_sched_setattr, 0, &raw const how, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how long the calling thread's turns are, as the kernel tells it.
    fn turn_ns() -> u64 {
        let bytes = size_of::<libc::sched_attr>() as libc::c_uint;
        // SAFETY: as above.
        unsafe {
            let mut how: libc::sched_attr = std::mem::zeroed();
            assert_eq!(libc::syscall(libc::SYS_sched_getattr, 0, &raw mut how, bytes, 0), 0);
            how.sched_runtime
        }
    }

    #[test]
    fn turns_are_short_until_that_is_ended() {
        let usual = turn_ns();
        begin();
        // A kernel that knows nothing of this tells nothing.
        if turn_ns() == 0 {
            return;
        }
        assert_eq!(turn_ns(), TURN_NS);
        std::thread::spawn(|| {
            assert_eq!(turn_ns(), TURN_NS, "threads inherit it");
            end();
            assert!(turn_ns() > TURN_NS);
        })
        .join()
        .expect("ends");
        end();
        assert_eq!(turn_ns(), usual);
    }
}
