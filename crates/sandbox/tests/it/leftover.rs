//! What is left when a spawner dies without a chance to clear up: nothing that the next one would not find.

use crate::bench::{plan, settings, shell, streams};
use crate::stop::named;
use sandbox::{Event, SandboxError, Spawner};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Lists the control groups of one state folder's spawners.
fn groups(state: &Path) -> Vec<PathBuf> {
    let name = state
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let name = format!("quarry-{name:016x}");
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").expect("there are control groups").filter_map(Result::ok);
    hierarchies
        .flat_map(|hierarchy| std::fs::read_dir(hierarchy.path()).into_iter().flatten().filter_map(Result::ok))
        .filter(|entry| entry.file_name().to_string_lossy() == name)
        .map(|entry| entry.path())
        .collect()
}

#[test]
fn a_killed_spawner_leaves_nothing_for_long() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings(folder.path().join("state"), 2);
    let (spawner, mut events) = Spawner::start(&settings).expect("a spawner");
    assert!(
        matches!(Spawner::start(&settings), Err(SandboxError::Refused { cause }) if cause.contains("another spawner"))
    );
    let name = format!("leftover-{}", std::process::id());
    let (stdio, ..) = streams(b"");
    let script = format!("cp /bin/sleep /tmp/{name}; (setsid /tmp/{name} 1000 &); exec /tmp/{name} 1000");
    spawner.run(1, &plan(), &shell(&script), &stdio).expect("the spawner listens");
    spawner.build(2, &plan()).expect("the spawner listens");
    for _ in 0..2 {
        assert!(matches!(events.next(), Some(Event::Started { .. } | Event::Built { .. })));
    }
    assert!(!groups(&settings.state).is_empty(), "there should be groups");
    let pid = rustix::process::Pid::from_raw(spawner.pid().cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it can be killed");
    assert!(events.next().is_none());
    let end = Instant::now() + Duration::from_secs(5);
    while !named(&name).is_empty() {
        assert!(Instant::now() < end, "{:?}", named(&name));
        std::thread::yield_now();
    }
    drop((spawner, events));
    let (spawner, events) = Spawner::start(&settings).expect("a spawner");
    drop((spawner, events));
    assert_eq!(groups(&settings.state), Vec::<PathBuf>::new());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("there are mounts");
    assert!(!mounts.contains(&*folder.path().to_string_lossy()), "{mounts}");
}
