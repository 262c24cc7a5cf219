//! The doctor on the machine that the tests are on, whichever it is.

use crate::stub::{quarry, run_with};

#[test]
fn the_doctor_explains_this_machine() {
    let home = tempfile::tempdir().expect("is made");
    let ran = run_with(quarry(&["doctor", "--json"], home.path()), b"");
    let said: serde_json::Value = serde_json::from_str(&ran.out).expect("is JSON");
    assert_eq!(said["ok"], ran.code == 0, "{said}");
    let findings = said["findings"].as_array().expect("is a list");
    for name in
        ["kernel", "disk", "clock", "user namespaces", "control groups", "overlayfs", "/dev/kvm", "core_pattern"]
    {
        let finding = findings.iter().find(|finding| finding["name"] == name).expect(name);
        assert!(!finding["found"].as_str().expect("is text").is_empty(), "{finding}");
        assert!(!finding["meaning"].as_str().expect("is text").is_empty(), "{finding}");
        let is_bad = finding["level"] == "warning" || finding["level"] == "failed";
        assert!(!is_bad || finding["mend"].is_string(), "nothing mends {finding}");
    }
    assert_eq!(std::fs::read_dir(home.path()).expect("is read").count(), 0, "the doctor left something behind");
}

#[test]
fn a_folder_that_cannot_be_written_fails() {
    let home = tempfile::tempdir().expect("is made");
    let ran = run_with(quarry(&["doctor", "--data", "/proc/quarry"], home.path()), b"");
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert!(ran.out.contains("failed   disk"), "{}", ran.out);
    assert!(ran.err.contains("will not work here"), "{}", ran.err);
}
