//! Where the server is, who we are there, and how a refusal is told.

use crate::stub::{Stub, answer, quarry, refuse, run, run_with};
use std::os::unix::fs::PermissionsExt;

const WHO: &str = r#"{"user":"ada","tenant":{"id":"ten_00000000000000000000000001","name":"house","created_at":"2026-01-01T00:00:00Z"},"role":"admin","scopes":["change:read"]}"#;

#[test]
fn a_server_that_is_not_named_or_not_there() {
    let ran = run(&["execution", "ls"]);
    assert_eq!((ran.code, ran.out.as_str()), (64, ""));
    insta::assert_snapshot!(ran.err, @"
    error: no server is named
    hint: use --url or QUARRY_URL, or `quarry login URL` once; `quarry up` starts one
    ");
    let ran = run(&["--url", "http://127.0.0.1:1", "execution", "ls"]);
    assert_eq!((ran.code, ran.out.as_str()), (4, ""));
    insta::assert_snapshot!(ran.err, @"
    error: the server at `http://127.0.0.1:1` cannot be reached: Connection refused (os error 111)
    hint: is it running, and is the address right? (--url, QUARRY_URL or `quarry login`)
    ");
    let ran = run(&["--url", "127.0.0.1:1", "--json", "execution", "ls"]);
    assert_eq!((ran.code, ran.out.as_str()), (64, ""));
    insta::assert_snapshot!(ran.err, @r#"{"error":{"code":"invalid","message":"`127.0.0.1:1` is not the address of a server","hint":"write `http://127.0.0.1:1` or `https://127.0.0.1:1`"}}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_exit_code() {
    for (status, code) in [(400, 64), (401, 3), (403, 3), (404, 2), (409, 3), (410, 3), (413, 64), (500, 1)] {
        let stub = Stub::start(move |_| refuse(status, "no")).await;
        let ran = stub.run(&["execution", "ls"]).await;
        assert_eq!((ran.code, ran.err.as_str()), (code, "error: the stub says no\nhint: ask the stub\n"), "{status}");
        let ran = stub.run(&["--json", "execution", "ls"]).await;
        let said = r#"{"error":{"code":"no","message":"the stub says no","hint":"ask the stub","request_id":"req_1"}}"#;
        assert_eq!((ran.code, ran.err.trim_end()), (code, said), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_checked_kept_and_forgotten() {
    let stub =
        Stub::start(
            |seen| if seen.token == "Bearer tok_good" { answer(200, WHO) } else { refuse(401, "unauthorised") },
        )
        .await;
    let home = stub.home.path();
    let kept = home.join(".config/quarry/login.json");
    let login = |args: &[&str], input: &'static [u8]| {
        let command = quarry(&[&["login"], args].concat(), home);
        tokio::task::spawn_blocking(move || run_with(command, input))
    };
    let ran = login(&[&stub.url], b"tok_bad\n").await.expect("runs");
    assert_eq!((ran.code, kept.exists()), (3, false), "{}", ran.err);
    let ran = login(&[&stub.url], b"").await.expect("runs");
    assert_eq!((ran.code, ran.err.as_str()), (64, "error: no token was given\n"));

    std::fs::write(home.join("token"), "tok_good\n").expect("is written");
    let ran = login(&[&format!("{}/", stub.url), "--token-file", "token"], b"").await.expect("runs");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("user    ada\n"), "{}", ran.out);
    assert_eq!(std::fs::metadata(&kept).expect("is kept").permissions().mode() & 0o777, 0o600);

    let ran = login(&["--show", "--json"], b"").await.expect("runs");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&ran.out).expect("is JSON")["user"], "ada");

    assert_eq!(login(&["--forget"], b"").await.expect("runs").code, 0);
    assert!(!kept.exists());
    assert_eq!(login(&["--show"], b"").await.expect("runs").code, 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_token_goes_nowhere_else() {
    let stub = Stub::start(|_| answer(200, WHO)).await;
    let folder = stub.home.path().join(".config/quarry");
    std::fs::create_dir_all(&folder).expect("is made");
    let kept = r#"{"url":"http://127.0.0.1:1","token":"tok_of_another"}"#;
    std::fs::write(folder.join("login.json"), kept).expect("is written");
    let command = quarry(&["login", "--show", "--url", &stub.url], stub.home.path());
    let ran = tokio::task::spawn_blocking(move || run_with(command, b"")).await.expect("runs");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(stub.take()[0].token, "");
}
