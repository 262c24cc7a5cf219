//! The machine itself: memory, disk, files and clock.

use super::facts::Facts;
use super::finding::{Finding, Level};
use crate::quantity::bytes_text;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

const MIN_MEMORY_BYTES: u64 = 128 << 20;
const GOOD_MEMORY_BYTES: u64 = 512 << 20;
const MIN_FREE_BYTES: u64 = 64 << 20;
const GOOD_FREE_BYTES: u64 = 2 << 30;
const MIN_FREE_INODES: u64 = 1_000;
const MIN_OPEN_FILES: u64 = 256;
const GOOD_OPEN_FILES: u64 = 4_096;
/// Forcing a write to the disk is slow from here on, and suspiciously fast up to there.
const SLOW_SYNC: Duration = Duration::from_millis(20);
const FAST_SYNC: Duration = Duration::from_micros(20);
/// How far two clocks may be apart: the disk's and ours.
const MAX_AHEAD: SignedDuration = SignedDuration::from_secs(5);

pub(super) fn memory(facts: &Facts) -> Finding {
    let finding = |level, found: String, meaning| Finding::new("memory", level, found, meaning);
    let Some((total, available)) = facts.memory_bytes else {
        return finding(Level::Note, "unknown".to_owned(), "/proc/meminfo cannot be read");
    };
    let found = format!("{} in all, {} to be had", bytes_text(total), bytes_text(available));
    match available {
        GOOD_MEMORY_BYTES.. => finding(Level::Ok, found, "enough for the server; executions need theirs on top"),
        MIN_MEMORY_BYTES.. => finding(Level::Warning, found, "enough for the server, with little left for executions"),
        _ => finding(Level::Warning, found, "the kernel may end the server when memory runs out")
            .mend("stop other programs, or add memory or swap"),
    }
}

pub(super) fn disk(facts: &Facts) -> Finding {
    let disk = &facts.disk;
    let finding = |level, found: String, meaning| Finding::new("disk", level, found, meaning);
    let path = disk.path.display();
    if let Some(Err(error)) = &disk.sync {
        return finding(Level::Failed, format!("`{path}`: {error}"), "nothing can be kept there")
            .mend("name another folder with --data, or let this user write there");
    }
    let (Some(bytes), inodes) = (disk.free_bytes, disk.free_inodes.unwrap_or(u64::MAX)) else {
        return finding(Level::Note, format!("`{path}`"), "how much is free there cannot be told");
    };
    let found = match disk.free_inodes {
        Some(inodes) => format!("`{path}`: {} and {inodes} files free", bytes_text(bytes)),
        None => format!("`{path}`: {} free", bytes_text(bytes)),
    };
    let mend = "make room there, or name another folder with --data";
    match (bytes, inodes) {
        (..MIN_FREE_BYTES, _) | (_, ..MIN_FREE_INODES) => {
            finding(Level::Failed, found, "the database would soon be unable to write").mend(mend)
        }
        (..GOOD_FREE_BYTES, _) => finding(Level::Warning, found, "a few dumps or images would fill it").mend(mend),
        _ => finding(Level::Ok, found, "room for the database, and for a beginning of blobs"),
    }
}

pub(super) fn sync(facts: &Facts) -> Finding {
    let finding = |level, found: String, meaning| Finding::new("disk latency", level, found, meaning);
    let Some(Ok(time)) = facts.disk.sync else {
        return finding(Level::Note, "unknown".to_owned(), "nothing could be written");
    };
    let found = format!("{} µs to force a small write to the disk", time.as_micros());
    if time >= SLOW_SYNC {
        return finding(Level::Warning, found, "every acknowledgement waits for this; throughput is kept by grouping")
            .mend("keep the data folder on a local SSD, not on a network or spinning disk");
    }
    if time <= FAST_SYNC {
        return finding(
            Level::Note,
            found,
            "so fast that it may not reach the disk at all (memory, or a cache): a power failure could lose data",
        );
    }
    finding(Level::Ok, found, "what is acknowledged is on the disk, and quickly")
}

pub(super) fn open_files(facts: &Facts) -> Finding {
    let finding = |level, found: String, meaning| Finding::new("open files", level, found, meaning);
    let (soft, hard) = facts.open_files;
    let word = |limit: Option<u64>| limit.map_or_else(|| "any number".to_owned(), |limit| limit.to_string());
    let found = format!("{} now, {} at most", word(soft), word(hard));
    let mend = "raise it: `ulimit -n 65536`, or `LimitNOFILE=65536` in the systemd unit";
    match soft.unwrap_or(u64::MAX) {
        ..MIN_OPEN_FILES => finding(Level::Failed, found, "too few for the server's connections and files").mend(mend),
        MIN_OPEN_FILES..GOOD_OPEN_FILES => {
            finding(Level::Note, found, "each connection and each follower takes one; hundreds at once need more")
                .mend(mend)
        }
        _ => finding(Level::Ok, found, "enough for thousands of connections"),
    }
}

pub(super) fn clock(facts: &Facts) -> Finding {
    let finding = |level, found: String, meaning| Finding::new("clock", level, found, meaning);
    let found = facts.now.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let built = Timestamp::from_second(1_750_000_000).expect("the middle of 2025 is in range");
    if facts.now < built {
        return finding(
            Level::Failed,
            found,
            "this is before this program was written; ids and expiries would be wrong",
        )
        .mend("set the clock, or let systemd-timesyncd or chrony do it");
    }
    if let Some(ahead) = facts.disk.ahead.filter(|ahead| ahead.abs() > MAX_AHEAD) {
        let found = format!("{found}; the disk's clock is {} s away", ahead.abs().as_secs());
        return finding(Level::Warning, found, "files seem to come from another time; one of the two clocks is wrong")
            .mend("let systemd-timesyncd or chrony set the clocks of both machines");
    }
    match facts.is_synchronised {
        Some(true) => finding(Level::Ok, found, "kept right by the network"),
        Some(false) => {
            finding(Level::Warning, found, "not in step with the network yet; tokens may expire early or late")
                .mend("`timedatectl set-ntp true`, and see `timedatectl status`")
        }
        None => finding(Level::Ok, found, "plausible; whether somebody keeps it right cannot be told here"),
    }
}
