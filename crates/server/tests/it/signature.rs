//! Signatures over HTTP: who may see them and decide, what is proposed, and that another tenant has none of it.

use crate::app::TestApp;
use crate::dump::known_as as known;
use crate::engine::{Place, on_both_engines};
use model::dump::DumpFindings;
use model::signature::{
    Explanation, MergeInto, Moved, NewRules, STACK_VERSION, Signature, SignatureChange, SignatureInfo, SignatureState,
    SignatureText, Signed, SignedAgain, SignedStack, SplitOff, Stack, StackFrame, StackSigned,
};
use model::{Digest, Dump, DumpKind, DumpState, Page, Role, SignatureId};
use reqwest::Method;
use serde_json::json;

on_both_engines!(a_signature_is_kept_and_decided_about, rights_are_kept, the_controller_keeps_the_rules_of_retention);

fn id(text: &str) -> SignatureId {
    SignatureId::from_bytes(*blake3::hash(text.as_bytes()).as_bytes().first_chunk().expect("is longer"))
}

/// Says of a dump that it crashed here, called so.
pub(crate) async fn find(app: &TestApp, dump: &Dump, called: &str, keys: &[&str]) -> Dump {
    let frame = |key: &&str| StackFrame { key: (*key).to_owned(), ..StackFrame::default() };
    let signed = Signed {
        signature: SignatureText {
            id: id(called),
            text: called.to_owned(),
            message: None,
            proto: keys.iter().map(ToString::to_string).collect(),
            address_id: None,
            rules: "r1".to_owned(),
        },
        stack: Stack {
            version: STACK_VERSION,
            kind: DumpKind::Core,
            class: "abort".to_owned(),
            message: None,
            program: None,
            modules: Vec::new(),
            files: Vec::new(),
            frames: keys.iter().map(frame).collect(),
            frames_cut: 0,
            addresses: Vec::new(),
        },
        explanation: Explanation::default(),
    };
    let findings =
        DumpFindings { signed: Some(Box::new(signed)), ..DumpFindings::new(DumpState::Analysed, DumpKind::Core) };
    app.store().dump_find(dump.id, dump.digest, findings, "node", app.clock.now()).await.expect("is kept")
}

fn hash(number: u8) -> String {
    format!("{number:02x}{:0>30}", "")
}

async fn a_signature_is_kept_and_decided_about(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("acme").await;
    let mut dumps = Vec::new();
    for (number, (called, keys)) in (1..).zip([
        ("abort | read", &["read", "parse", "load", "main"][..]),
        ("abort | wrap", &["wrap", "read", "parse", "load", "main"]),
        ("abort | draw", &["draw", "paint", "loop", "main"]),
        ("abort | draw", &["draw", "brush", "loop", "main"]),
    ]) {
        let dump = known(&app, &ada.secret, &hash(number)).await;
        dumps.push(find(&app, &dump, called, keys).await);
    }
    let list: Page<Signature> = app.get(&ada.secret, "/v1/signatures?limit=2").await.must(200).json();
    let rest = format!("/v1/signatures?limit=2&after={}", list.next.expect("there is more"));
    let rest: Page<Signature> = app.get(&ada.secret, &rest).await.must(200).json();
    let counts: Vec<_> = list.items.iter().chain(&rest.items).map(|one| one.dumps).collect();
    assert_eq!((counts.iter().sum::<u64>(), counts.len()), (4, 3));
    app.get(&ada.secret, "/v1/signatures?after=nonsense").await.error(400, "after_invalid");

    let path = |called: &str| format!("/v1/signatures/{}", id(called));
    let short = path("abort | read")[..20].to_owned();
    let info: SignatureInfo = app.get(&ada.secret, &short).await.must(200).json();
    assert_eq!((info.signature.dumps, &info.dumps[..]), (1, &[dumps[0].id][..]));
    assert_eq!(info.stack.expect("is there").frames[0].key, "read");
    assert_eq!(info.proposals[0].text, "abort | wrap", "{:?}", info.proposals);
    app.get(&ada.secret, "/v1/signatures/xyz").await.error(400, "id_invalid");
    app.get(&ada.secret, &path("nothing")).await.error(404, "signature_not_found");

    let title = SignatureChange { title: Some("the parser".to_owned()) };
    let named: Signature = app.json(Method::PATCH, &ada.secret, &path("abort | wrap"), &title).await.must(200).json();
    assert_eq!(named.title.as_deref(), Some("the parser"));
    let fixed: Signature = app.order(&ada.secret, &format!("{}/fix", path("abort | read"))).await.must(200).json();
    assert_eq!(fixed.state, SignatureState::Fixed);
    app.order(&ada.secret, &format!("{}/fix", path("abort | read"))).await.error(409, "signature_fixed");
    let fixed: Page<Signature> = app.get(&ada.secret, "/v1/signatures?state=fixed").await.must(200).json();
    assert_eq!(fixed.items.len(), 1);

    let merge = |dry_run| MergeInto { into: id("abort | wrap"), dry_run };
    let path_of = format!("{}/merge", path("abort | read"));
    let dry: Moved = app.post(&ada.secret, &path_of, &merge(true)).await.must(200).json();
    assert_eq!((dry.dumps, dry.from.state), (1, SignatureState::Fixed));
    let moved: Moved = app.post(&ada.secret, &path_of, &merge(false)).await.must(200).json();
    assert_eq!((moved.dumps, moved.from.dumps, moved.into.dumps), (1, 0, 2));
    app.post(&ada.secret, &path_of, &merge(false)).await.error(409, "signature_merged");
    let dump: Dump = app.get(&ada.secret, &format!("/v1/dumps/{}", dumps[0].id)).await.must(200).json();
    assert_eq!(dump.signature.expect("has one").text, "abort | wrap");

    let split = |dump: &Dump| SplitOff { dumps: vec![dump.id], dry_run: false };
    let path_of = format!("{}/split", path("abort | draw"));
    app.post(&ada.secret, &path_of, &split(&dumps[0])).await.error(409, "dump_elsewhere");
    let moved: Moved = app.post(&ada.secret, &path_of, &split(&dumps[3])).await.must(200).json();
    assert_eq!((moved.dumps, moved.from.dumps, moved.into.dumps), (1, 1, 1));
    app.post(&ada.secret, &path_of, &json!({"dumps": []})).await.error(400, "signature_invalid");

    let stacks: Page<SignedStack> = app.get(&ada.secret, "/v1/signature-stacks?limit=2").await.must(200).json();
    assert!(stacks.next.is_some());
    let signed = StackSigned {
        number: stacks.items[0].number,
        signature: SignatureText {
            id: id("new"),
            text: "new".to_owned(),
            message: None,
            proto: Vec::new(),
            address_id: None,
            rules: "r2".to_owned(),
        },
        explanation: Explanation::default(),
    };
    let many = SignedAgain { stacks: vec![signed.clone(); 9] };
    app.post(&ada.secret, "/v1/signature-stacks", &many).await.error(400, "signature_invalid");
    let one = SignedAgain { stacks: vec![signed] };
    let renamed: serde_json::Value = app.post(&ada.secret, "/v1/signature-stacks", &one).await.must(200).json();
    assert_eq!(renamed, json!({"renamed": 1}));
    app.stop().await;
}

async fn rights_are_kept(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("acme").await;
    let vera = app.somebody("acme", "vera", Role::Viewer).await;
    let eve = app.admin("evil").await;
    let dump = known(&app, &ada.secret, &hash(1)).await;
    find(&app, &dump, "abort | f", &["f", "main"]).await;
    let other = known(&app, &ada.secret, &hash(2)).await;
    find(&app, &other, "abort | g", &["g", "main"]).await;
    let path = format!("/v1/signatures/{}", id("abort | f"));
    let rules = NewRules { name: "a".to_owned(), blob: Digest::from_bytes([7; 32]), rules: "r".to_owned() };
    let merge = MergeInto { into: id("abort | g"), dry_run: false };
    let split = SplitOff { dumps: vec![dump.id], dry_run: true };
    let title = SignatureChange { title: Some("x".to_owned()) };
    let again = SignedAgain { stacks: Vec::new() };

    // Who may look sees all and changes nothing.
    for read in ["/v1/signatures", &path, "/v1/signature-rules", "/v1/signature-stacks"] {
        app.get(&vera.secret, read).await.must(200);
        let narrow = app.narrow(&ada.secret, &[model::Scope::BlobRead]).await;
        app.get(&narrow.secret, read).await.error(403, "not_allowed");
    }
    // Another tenant sees nothing, and what it names is not there.
    let nothing: Page<Signature> = app.get(&eve.secret, "/v1/signatures").await.must(200).json();
    assert_eq!(nothing.items, []);
    let nothing: Page<SignedStack> = app.get(&eve.secret, "/v1/signature-stacks").await.must(200).json();
    assert_eq!(nothing.items, []);
    app.get(&eve.secret, &path).await.error(404, "signature_not_found");
    app.get(&eve.secret, &format!("{path}?tenant=acme")).await.must(404);
    for (secret, status) in [(&vera.secret, 403), (&eve.secret, 404)] {
        app.json(Method::PATCH, secret, &path, &title).await.must(status);
        app.order(secret, &format!("{path}/fix")).await.must(status);
        app.order(secret, &format!("{path}/reopen")).await.must(status);
        app.post(secret, &format!("{path}/merge"), &merge).await.must(status);
        app.post(secret, &format!("{path}/split"), &split).await.must(status);
        app.json(Method::PUT, secret, "/v1/signature-rules", &rules).await.must(status);
    }
    app.post(&vera.secret, "/v1/signature-stacks", &again).await.error(403, "not_allowed");
    app.send(app.request(Method::DELETE, &vera.secret, "/v1/signature-rules")).await.error(403, "not_allowed");
    // What is not one's own cannot be merged into, nor split off.
    let theirs = known(&app, &eve.secret, &hash(1)).await;
    find(&app, &theirs, "abort | f", &["f", "main"]).await;
    app.post(&eve.secret, &format!("{path}/merge"), &merge).await.error(404, "signature_not_found");
    app.post(&eve.secret, &format!("{path}/split"), &split).await.error(404, "dump_not_found");
    let info: SignatureInfo = app.get(&ada.secret, &path).await.must(200).json();
    assert_eq!((info.signature.state, info.signature.dumps, info.signature.title), (SignatureState::Open, 1, None));
    assert_eq!(info.dumps, [dump.id]);
    app.stop().await;
}

async fn the_controller_keeps_the_rules_of_retention(place: &Place) {
    let app = TestApp::start_with(place, |config| config.retention.dumps_kept = Some(1)).await;
    let ada = app.admin("acme").await;
    for number in 0..3 {
        let dump = known(&app, &ada.secret, &hash(number)).await;
        find(&app, &dump, "abort | f", &["f", "main"]).await;
    }
    let gone = async || {
        let dumps: Page<Dump> = app.get(&ada.secret, "/v1/dumps").await.must(200).json();
        dumps.items.into_iter().filter_map(|dump| dump.purged).collect::<Vec<_>>()
    };
    let end = std::time::Instant::now() + crate::app::WAIT;
    while gone().await.len() < 2 {
        assert!(std::time::Instant::now() < end, "the controller purges within its time");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(gone().await.len(), 2);
    assert_eq!(gone().await[0].why, "its signature keeps the content of the 1 newest");
    app.stop().await;
}
