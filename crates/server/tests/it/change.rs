//! The log over HTTP: as a page, and as a request that is held until something happens.

use crate::app::TestApp;
use crate::engine::{Place, on_both_engines};
use jiff::SignedDuration;
use model::{Change, Execution, Noun, Page, Role, Scope};
use std::time::{Duration, Instant};
use store::Retention;

on_both_engines!(
    the_log_is_read_page_by_page,
    only_what_is_wanted_is_shown,
    only_what_one_may_see_is_shown,
    a_request_is_held_until_something_happens,
    a_cursor_that_cannot_be_is_refused,
    a_cursor_that_is_too_old_is_told_so,
);

/// What comes at once comes within this, on a busy machine too.
const AT_ONCE: Duration = Duration::from_secs(8);

async fn page(app: &TestApp, token: &str, question: &str) -> Page<Change> {
    let page: Page<Change> = app.get(token, &format!("/v1/changes?{question}")).await.must(200).json();
    assert!(page.next.is_some(), "there is always somewhere to go on from");
    assert!(page.items.is_sorted_by(|one, next| one.seq < next.seq), "out of order");
    page
}

/// Drops everything from the log, and returns its floor.
pub(crate) async fn forget_all(app: &TestApp) -> u64 {
    let retention = Retention { age: SignedDuration::ZERO, bytes: 1 << 30 };
    let later = app.clock.now() + SignedDuration::from_secs(1);
    while app.store().log_retain(retention, later).await.expect("drops").more {}
    let bounds = app.store().log_bounds().await.expect("a log");
    assert_eq!(bounds.floor, bounds.head, "all of it is dropped");
    bounds.floor
}

async fn the_log_is_read_page_by_page(place: &Place) {
    let app = TestApp::start(place).await;
    for _ in 0..30 {
        app.execution(&app.house).await;
    }
    let head = app.head().await;
    for limit in [1, 7, 1000] {
        let (mut found, mut after) = (Vec::new(), 0);
        loop {
            let page = page(&app, &app.house, &format!("limit={limit}&after={after}")).await;
            assert_eq!(page.as_of, head);
            assert!(page.items.len() <= limit);
            let next = page.next.unwrap().parse().unwrap();
            if page.items.is_empty() {
                assert_eq!(next, after, "the cursor stays at the end");
                break;
            }
            assert_eq!(next, page.items.last().unwrap().seq);
            found.extend(page.items.iter().map(|change| change.seq));
            after = next;
        }
        assert_eq!(found, (1..=head).collect::<Vec<_>>(), "pages of {limit}");
    }
    // Without a cursor a page begins at the oldest.
    assert_eq!(page(&app, &app.house, "limit=1").await.items[0].seq, 1);
    app.stop().await;
}

async fn only_what_is_wanted_is_shown(place: &Place) {
    let app = TestApp::start(place).await;
    let (one, other) = (app.admin("one").await, app.admin("other").await);
    let vera = app.somebody("one", "vera", Role::Operator).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(app.execution(&one.secret).await);
        app.execution(&other.secret).await;
    }
    app.order(&one.secret, &format!("/v1/executions/{}/cancel", made[1].id)).await.must(200);
    let head = app.head().await;

    let seen = page(&app, &vera.secret, "limit=1000").await;
    assert!(seen.items.iter().all(|change| change.tenant == one.user.tenant), "another tenant's things are seen");
    assert_eq!(seen.next.as_deref(), Some(&*head.to_string()), "the cursor moves past others' things");
    let nouns = |noun| seen.items.iter().filter(|change| change.noun == noun).count();
    assert_eq!((nouns(Noun::Tenant), nouns(Noun::User), nouns(Noun::Token), nouns(Noun::Execution)), (1, 2, 2, 4));
    assert!(seen.items.iter().all(|change| !change.body.get().contains("hash")), "a secret is shown");
    for noun in Noun::ALL {
        let only = page(&app, &vera.secret, &format!("limit=1000&noun={}", noun.as_str())).await;
        assert_eq!(only.items.len(), nouns(noun), "{noun:?}");
        assert!(only.items.iter().all(|change| change.noun == noun));
    }
    let only = page(&app, &vera.secret, &format!("id={}", made[1].id)).await;
    let states: Vec<_> = only.items.iter().map(|change| change.state.as_str()).collect();
    assert_eq!(states, ["queued", "cancelled"]);
    let body: Execution = serde_json::from_str(only.items[1].body.get()).unwrap();
    let now: Execution = app.get(&vera.secret, &format!("/v1/executions/{}", made[1].id)).await.json();
    assert_eq!(body, now, "the change shows what the endpoint shows");
    assert_eq!(page(&app, &other.secret, &format!("id={}", made[1].id)).await.items.len(), 0);
    // Who keeps the house chooses: their own tenant's, another's, or all.
    let count = async |question: &str| page(&app, &app.house, &format!("limit=1000{question}")).await.items.len();
    assert_eq!(count("").await, 3);
    assert_eq!(count("&tenant=one").await, seen.items.len());
    assert_eq!(count("&tenant=*").await as u64, head);
    app.stop().await;
}

/// The log tells of things, and whoever may not see a thing is not told of it here either.
async fn only_what_one_may_see_is_shown(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    let viewer = app.somebody("one", "vera", Role::Viewer).await;
    app.execution(&ada.secret).await;
    let nouns = async |secret: &str| {
        let page = page(&app, secret, "limit=1000").await;
        page.items.iter().map(|change| change.noun.as_str()).collect::<std::collections::BTreeSet<_>>()
    };
    let all = nouns(&ada.secret).await;
    assert!(["execution", "user", "token"].iter().all(|noun| all.contains(noun)), "{all:?}");
    let seen = nouns(&viewer.secret).await;
    assert!(seen.contains("execution") && !seen.contains("user") && !seen.contains("token"), "{seen:?}");
    app.get(&viewer.secret, "/v1/changes?noun=user").await.error(403, "not_allowed");
    let narrow = app.narrow(&ada.secret, &[Scope::ChangeRead]).await;
    assert!(nouns(&narrow.secret).await.is_empty());
    app.get(&narrow.secret, "/v1/changes?noun=execution").await.error(403, "not_allowed");
    app.stop().await;
}

async fn a_request_is_held_until_something_happens(place: &Place) {
    let app = TestApp::start(place).await;
    let (one, other) = (app.admin("one").await, app.admin("other").await);
    let begun = Instant::now();
    let head = app.head().await;
    let held = |wait_ms: u64, question: &str| {
        let question = format!("after={head}&wait_ms={wait_ms}{question}");
        let (app, secret) = (&app, &one.secret);
        async move { page(app, secret, &question).await }
    };
    // Nothing happens: an empty page, not before the time is over.
    let empty = held(300, "").await;
    assert!(begun.elapsed() >= Duration::from_millis(300), "answered too soon");
    assert!(begun.elapsed() < AT_ONCE, "answered too late");
    assert_eq!((empty.items.len(), empty.next, empty.as_of), (0, Some(head.to_string()), head));

    // Something happens to somebody else, and then to us: the first is not shown and moves no more than the cursor.
    let begun = Instant::now();
    let (page, made) = tokio::join!(held(30_000, "&noun=execution"), async {
        app.execution(&other.secret).await;
        app.post(&one.secret, "/v1/tokens", &app.new_token("other-noun")).await.must(201);
        app.execution(&one.secret).await
    });
    assert!(begun.elapsed() < AT_ONCE, "held although something has happened");
    assert_eq!(page.items.iter().map(|change| change.id.clone()).collect::<Vec<_>>(), [made.id.to_string()]);
    assert_eq!((page.next, page.as_of), (Some((head + 3).to_string()), head + 3));
    // What has happened already is not waited for.
    assert_eq!(held(30_000, "&limit=1").await.items.len(), 1);
    assert!(begun.elapsed() < AT_ONCE);
    app.stop().await;
}

async fn a_cursor_that_cannot_be_is_refused(place: &Place) {
    let app = TestApp::start(place).await;
    let head = app.head().await;
    for after in [head + 1, u64::from(u32::MAX), i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
        for kind in ["application/json", "text/event-stream"] {
            let path = format!("/v1/changes?wait_ms=30000&after={after}");
            let request = app.request(reqwest::Method::GET, &app.house, &path).header("accept", kind);
            let error = app.send(request).await.error(400, "cursor_ahead");
            assert!(error.message.contains(&after.to_string()) && error.hint.is_some(), "{error:?}");
        }
    }
    for id in ["x", "-1", "", "99999999999999999999999999"] {
        let request = app.request(reqwest::Method::GET, &app.house, "/v1/changes");
        let request = request.header("accept", "text/event-stream").header("last-event-id", id);
        app.send(request).await.error(400, "cursor_invalid");
    }
    app.stop().await;
}

async fn a_cursor_that_is_too_old_is_told_so(place: &Place) {
    let app = TestApp::start(place).await;
    let made = app.execution(&app.house).await;
    let floor = forget_all(&app).await;
    for after in [0, floor - 1] {
        for kind in ["application/json", "text/event-stream"] {
            let path = format!("/v1/changes?wait_ms=30000&after={after}");
            let request = app.request(reqwest::Method::GET, &app.house, &path).header("accept", kind);
            let error = app.send(request).await.error(410, "cursor_gone");
            assert!(error.hint.is_some_and(|hint| hint.contains("as_of")), "no way to go on");
        }
    }
    // The way on: list again, and follow from there.
    let listed: Page<Execution> = app.get(&app.house, "/v1/executions").await.json();
    assert_eq!((listed.items, listed.as_of), (vec![made.clone()], floor));
    assert_eq!(page(&app, &app.house, &format!("after={}", listed.as_of)).await.items.len(), 0);
    app.order(&app.house, &format!("/v1/executions/{}/cancel", made.id)).await.must(200);
    let next = page(&app, &app.house, "").await;
    assert_eq!(next.items.iter().map(|change| change.seq).collect::<Vec<_>>(), [floor + 1]);
    app.stop().await;
}
