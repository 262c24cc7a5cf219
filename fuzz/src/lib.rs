//! What the targets share: bytes as a file, and what must hold of every report.

use dump::Places;
use model::report::{MAX_MODULES, MAX_NOTES, MAX_THREADS, Report};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::cell::RefCell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

thread_local! {
    static FILE: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// Calls `look` with the path of a file that holds these bytes.
pub fn as_file<T>(bytes: &[u8], look: impl FnOnce(&PathBuf) -> T) -> T {
    FILE.with_borrow_mut(|file| {
        let file = file.get_or_insert_with(|| {
            File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a file in memory can be made"))
        });
        ftruncate(&*file, 0).expect("it can be emptied");
        file.write_all_at(bytes, 0).expect("it can be written");
        look(&PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))
    })
}

/// Analyses a dump and holds the report against what is promised of every one.
pub fn report(bytes: &[u8]) -> Report {
    let report = as_file(bytes, |path| dump::analyse(path, &Places::default()));
    assert!(report.threads.len() <= MAX_THREADS);
    assert!(report.modules.len() <= MAX_MODULES);
    assert!(report.notes.len() <= MAX_NOTES);
    let text = serde_json::to_string(&report).expect("a report is JSON");
    let back: Report = serde_json::from_str(&text).expect("a report reads back");
    assert_eq!(back.threads.len(), report.threads.len());
    dump::signature::Rules::builtin().sign(&dump::signature::stack(&report));
    report
}

/// The same with another beginning, so that it is read as what the target is about.
pub fn report_with_head(head: &[u8], bytes: &[u8]) {
    let mut whole = bytes.to_vec();
    if whole.len() < head.len() {
        whole.resize(head.len(), 0);
    }
    whole[..head.len()].copy_from_slice(head);
    report(&whole);
}
