//! Tokens, users, tenants and the server's log from the command line.

use crate::stub::{Stub, answer, refuse};
use std::os::unix::fs::PermissionsExt;

const TENANT: &str = "ten_00000000000000000000000001";
const ADA: &str = "usr_00000000000000000000000002";

fn user(state: &str) -> String {
    format!(
        r#"{{"id":"{ADA}","tenant":"{TENANT}","name":"ada","role":"user","state":"{state}","created_at":"2026-01-01T00:00:00Z"}}"#
    )
}

async fn stub() -> Stub {
    Stub::start(|seen| {
        let issued = |body: &[u8]| {
            let new: model::NewToken = serde_json::from_slice(body).expect("is a request");
            let token = format!(
                r#"{{"id":"{}","tenant":"{TENANT}","user":"{ADA}","name":"{}","scopes":[],"created_at":"2026-01-01T00:00:00Z"}}"#,
                new.id, new.name
            );
            answer(201, format!(r#"{{"token":{token},"secret":"hush"}}"#))
        };
        match seen.line.as_str() {
            line if line.starts_with("GET /v1/users?") => answer(200, format!(r#"{{"items":[{}],"as_of":1}}"#, user("active"))),
            line if line.starts_with("PATCH /v1/users/") => answer(200, user("disabled")),
            "POST /v1/tokens" => issued(&seen.body),
            "PUT /v1/log/levels" => answer(200, r#"{"default":"info","modules":{"store":"debug"}}"#),
            "GET /v1/log/levels" => answer(200, r#"{"default":"info","modules":{}}"#),
            _ => refuse(404, "lost"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_shown_once_or_written_down() {
    let stub = stub().await;
    let ran =
        stub.run(&["token", "create", "laptop", "--user", "ada", "--scope", "blob:read", "--expires", "90d"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "hush\n"), "{}", ran.err);
    let seen = stub.take();
    let new: model::NewToken = serde_json::from_slice(&seen[1].body).expect("is a request");
    assert_eq!(new.user.map(|user| user.to_string()).as_deref(), Some(ADA));
    assert_eq!(new.scopes, [model::Scope::BlobRead]);
    assert!(new.expires_at.is_some());

    let ran = stub.run(&["token", "create", "ci", "--file", "secret"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("tok_") && !(ran.out + &ran.err).contains("hush"));
    let file = stub.home.path().join("secret");
    assert_eq!(std::fs::read(&file).expect("is written"), b"hush\n");
    assert_eq!(std::fs::metadata(&file).expect("is written").permissions().mode() & 0o777, 0o600);

    stub.take();
    assert_eq!(stub.run(&["token", "create", "ci", "--file", "no/such/folder"]).await.code, 1);
    assert!(stub.take().is_empty(), "a token was made that nobody can have");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_go_by_name_or_id() {
    let stub = stub().await;
    let ran = stub.run(&["user", "disable", "ada"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    insta::assert_snapshot!(ran.out, @"
    id       usr_00000000000000000000000002
    name     ada
    tenant   ten_00000000000000000000000001
    role     user
    state    disabled
    created  2026-01-01T00:00:00Z
    ");
    let seen = stub.take();
    assert_eq!(
        seen.iter().map(|seen| seen.line.as_str()).collect::<Vec<_>>(),
        ["GET /v1/users?limit=1000".to_owned(), format!("PATCH /v1/users/{ADA}")]
    );
    assert_eq!(&seen[1].body[..], br#"{"state":"disabled"}"#);
    assert_eq!(stub.run(&["user", "role", ADA, "admin"]).await.code, 0);
    assert_eq!(stub.lines(), [format!("PATCH /v1/users/{ADA}")]);
    let ran = stub.run(&["user", "info", "bob"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (2, "error: user `bob` does not exist\nhint: see `quarry user ls`\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_are_shown_and_set() {
    let stub = stub().await;
    let ran = stub.run(&["log", "set", "store=debug", "default=info", "--for", "10m"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    insta::assert_snapshot!(ran.out, @"
    MODULE   LEVEL
    default  info
    store    debug
    ");
    assert_eq!(&stub.take()[0].body[..], br#"{"default":"info","modules":{"store":"debug"},"seconds":600}"#);
    for bad in [&["=debug"][..], &["store=loud"], &["loud"], &["debug", "--for", "10ms"]] {
        assert_eq!(stub.run(&[&["log", "set"], bad].concat()).await.code, 64, "{bad:?}");
    }
    assert!(stub.take().is_empty());
}
