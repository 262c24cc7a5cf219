//! What everybody meets first: help, wrong words, completion.

use crate::stub::{quarry, run};
use std::io::Read;
use std::process::Stdio;

#[test]
fn help_and_version_are_results() {
    for args in [&["--help"][..], &["help"], &["-h"], &["execution", "--help"], &["help", "blob", "get"]] {
        let ran = run(args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
        assert!(ran.out.contains("Usage: quarry") && ran.out.contains("Example:"), "{args:?}: {}", ran.out);
    }
    assert_eq!(run(&["--version"]).out, format!("quarry {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_words_are_usage() {
    for args in [
        &[][..],
        &["execution"],
        &["execution", "create"],
        &["execution", "create", "--memory", "lots", "--", "true"],
        &["execution", "info", "tok_01k9yvx0g8m6f3s2d1a0q7w5e4"],
        &["execution", "ls", "--state", "asleep"],
        &["changes", "--noun", "cat"],
        &["blob", "info", "ABC"],
        &["user", "create", "ada", "--role", "queen"],
        &["--color", "mauve", "doctor"],
        &["frobnicate"],
        &["login"],
        &["image", "inspect", ""],
        &["image", "rm", "x", ""],
        &["node", "info", ""],
        &["signature", "info", ""],
        &["user", "info", ""],
        &["run", "--mount", "/usr/share:/mnt:wr", "true"],
        &["completion", "tcsh"],
    ] {
        let ran = run(args);
        assert_eq!((ran.code, ran.out.as_str()), (64, ""), "{args:?}");
        assert!(!ran.err.is_empty(), "{args:?}");
    }
}

#[test]
fn what_the_environment_says_is_not_demanded() {
    let home = tempfile::tempdir().expect("is made");
    let run_in = |args: &[&str]| {
        let mut command = quarry(args, home.path());
        command.env("QUARRY_URL", "http://x").env("QUARRY_TOKEN", "t").env("QUARRY_CA_FILE", "f");
        crate::stub::run_with(command, b"")
    };
    let ran = run_in(&["image", "inspect"]);
    assert_eq!(ran.code, 64);
    insta::assert_snapshot!(ran.err, @"
    error: the following required arguments were not provided:
      <IMAGE>

    Usage: quarry image inspect <IMAGE>

    For more information, try '--help'.
    ");
    assert!(run_in(&["image", "inspect", "--help"]).out.contains("[env: QUARRY_URL]"));
    assert_eq!(run_in(&[]).code, 64);
}

#[test]
fn wrong_words_are_told_as_json_too() {
    let ran = run(&["--json", "execution", "ls", "--state", "asleep"]);
    assert_eq!(ran.code, 64);
    insta::assert_snapshot!(ran.err, @r#"{"error":{"code":"usage","message":"invalid value 'asleep' for '--state <STATE>': it is none of: queued, running, cancelling, succeeded, failed, cancelled, quarantined"}}"#);
}

#[test]
fn every_shell_gets_its_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&["completion", shell]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{shell}");
        assert!(ran.out.contains("quarry") && ran.out.contains("execution"), "{shell}");
    }
}

#[test]
fn whoever_stops_reading_is_not_scolded() {
    let home = tempfile::tempdir().expect("is made");
    let mut command = quarry(&["completion", "bash"], home.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().expect("is piped").read_to_string(&mut said).expect("is text");
    assert_eq!((child.wait().expect("ends").code(), said.as_str()), (Some(0), ""));
}
