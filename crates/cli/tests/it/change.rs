//! The log from the command line.

use crate::stub::{Stub, answer};

fn change(seq: u64) -> String {
    let tenant = model::TenantId::new(jiff::Timestamp::UNIX_EPOCH, 1);
    format!(
        r#"{{"seq":{seq},"at":"2026-01-01T00:00:00Z","tenant":"{tenant}","noun":"user","id":"usr_{seq}","state":"active","by":"ada","body":{{"n":{seq}}}}}"#
    )
}

/// A log of five changes, in pages of two.
async fn stub() -> Stub {
    Stub::start(|seen| {
        let number = |name: &str| {
            let rest = seen.line.split(name).nth(1)?;
            rest.split('&').next()?.parse::<u64>().ok()
        };
        let after = number("after=").unwrap_or(0);
        let last = (after + number("limit=").unwrap_or(2).min(2)).min(5);
        let items: Vec<_> = (after + 1..=last).map(change).collect();
        answer(200, format!(r#"{{"items":[{}],"next":"{last}","as_of":5}}"#, items.join(",")))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_read_page_by_page() {
    let stub = stub().await;
    let ran = stub.run(&["changes", "--limit", "0"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    insta::assert_snapshot!(ran.out, @"
    1  2026-01-01T00:00:00Z  user       active       usr_1  by ada
    2  2026-01-01T00:00:00Z  user       active       usr_2  by ada
    3  2026-01-01T00:00:00Z  user       active       usr_3  by ada
    4  2026-01-01T00:00:00Z  user       active       usr_4  by ada
    5  2026-01-01T00:00:00Z  user       active       usr_5  by ada
    ");
    insta::assert_snapshot!(stub.lines().join("\n"), @"
    GET /v1/changes?limit=1000
    GET /v1/changes?after=2&limit=1000
    GET /v1/changes?after=4&limit=1000
    ");
    let ran = stub.run(&["changes", "--after", "1", "--limit", "3", "--json", "--noun", "user"]).await;
    assert_eq!(ran.out, format!("{}\n{}\n{}\n", change(2), change(3), change(4)));
    let ran = stub.run(&["changes", "--after", "1", "--limit", "3"]).await;
    assert_eq!(ran.err, "there are more; go on with --after 4\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_more_than_asked_changes_nothing() {
    let stub =
        Stub::start(|_| answer(200, format!(r#"{{"items":[{},{}],"next":"2","as_of":9}}"#, change(1), change(2))))
            .await;
    let ran = stub.run(&["changes", "--limit", "1", "--json"]).await;
    assert_eq!((ran.code, ran.out), (0, format!("{}\n", change(1))));
    let ran = stub.run(&["changes", "--limit", "1"]).await;
    assert_eq!(ran.err, "there are more; go on with --after 1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_followed() {
    let stub = Stub::start(|seen| {
        assert_eq!(seen.line, "GET /v1/changes?after=6&id=usr_7");
        answer(200, format!("id: 7\ndata: {}\n\nid: 8\ndata: {}\n\n", change(7), change(8)))
    })
    .await;
    let ran = stub.run(&["changes", "-f", "--after", "6", "--id", "usr_7", "--limit", "2", "--json"]).await;
    assert_eq!((ran.code, ran.out), (0, format!("{}\n{}\n", change(7), change(8))));
}
