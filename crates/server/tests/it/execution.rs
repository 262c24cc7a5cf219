//! Executions over HTTP: accepted once, listed page by page, cancelled.

use crate::app::TestApp;
use crate::engine::{Place, on_both_engines};
use jiff::SignedDuration;
use model::limits::{MAX_COMMAND_WORDS, MAX_ENV_VARIABLES, MAX_LANE_CHARS, MAX_ROW_BYTES};
use model::{
    Execution, ExecutionState, Input, Lease, NewExecution, NodeId, Origin, Outcome, Page, Role, SessionId, Usage,
};
use store::{Clock, ExecutionEnd, MAX_SHAPES, TenantKey, random};

on_both_engines!(
    an_execution_is_accepted_once,
    an_execution_is_cancelled_once,
    what_no_node_could_run_is_refused,
    the_list_is_read_page_by_page,
    what_claims_do_not_come_to_is_told_so,
);

async fn an_execution_is_accepted_once(place: &Place) {
    let app = TestApp::start(place).await;
    let new = NewExecution { lane: Some("actor 1".to_owned()), ..app.new_execution() };
    let made: Execution = app.post(&app.house, "/v1/executions", &new).await.must(201).json();
    assert_eq!((made.id, made.state, made.by.as_str()), (new.id, ExecutionState::Queued, "admin"));
    assert_eq!((&made.lane, &made.recipe), (&new.lane, &new.recipe()));
    let again: Execution = app.post(&app.house, "/v1/executions", &new).await.must(200).json();
    assert_eq!(again, made);
    let found: Execution = app.get(&app.house, &format!("/v1/executions/{}", new.id)).await.must(200).json();
    assert_eq!(found, made);
    let other = NewExecution { command: vec!["false".to_owned()], ..new.clone() };
    let error = app.post(&app.house, "/v1/executions", &other).await.error(409, "execution_exists");
    assert!(error.message.contains(&new.id.to_string()), "{error:?}");
    // Two at once: one of them makes it.
    let twin = app.new_execution();
    let (one, two) =
        tokio::join!(app.post(&app.house, "/v1/executions", &twin), app.post(&app.house, "/v1/executions", &twin));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201]);
    assert_eq!(one.json::<Execution>(), two.json());
    app.stop().await;
}

async fn an_execution_is_cancelled_once(place: &Place) {
    let app = TestApp::start(place).await;
    let made = app.execution(&app.house).await;
    let path = format!("/v1/executions/{}/cancel", made.id);
    let cancelled: Execution = app.order(&app.house, &path).await.must(200).json();
    assert_eq!((cancelled.state, &cancelled.outcome), (ExecutionState::Cancelled, &Some(Outcome::Cancelled)));
    let head = app.head().await;
    let again: Execution = app.order(&app.house, &path).await.must(200).json();
    assert_eq!((again, app.head().await), (cancelled, head), "the second order changes nothing");

    let (node, session) = (NodeId::new(app.clock.now(), random()), SessionId::new(app.clock.now(), random()));
    let running = app.execution(&app.house).await;
    let claimed = app.store().execution_claim(Lease { node, session }, 1, app.clock.now()).await.unwrap();
    assert_eq!(claimed[0].id, running.id);
    let path = format!("/v1/executions/{}/cancel", running.id);
    let stopping: Execution = app.order(&app.house, &path).await.must(200).json();
    assert_eq!(stopping.state, ExecutionState::Cancelling);
    let again: Execution = app.order(&app.house, &path).await.must(200).json();
    assert_eq!(again, stopping);
    let (outcome, usage) = (Outcome::Exited { code: 0 }, Usage::default());
    let end = ExecutionEnd {
        id: running.id,
        attempt: 1,
        session,
        outcome,
        usage,
        dump: None,
        manifest: None,
        findings: None,
        asked: None,
    };
    app.store().execution_finish(end, "node", app.clock.now()).await.unwrap();
    app.order(&app.house, &path).await.error(409, "execution_succeeded");
    app.stop().await;
}

async fn what_no_node_could_run_is_refused(place: &Place) {
    let app = TestApp::start(place).await;
    let check = async |field: &str, change: &dyn Fn(&mut NewExecution)| {
        let mut new = app.new_execution();
        change(&mut new);
        let error = app.post(&app.house, "/v1/executions", &new).await.error(400, "execution_invalid");
        assert!(error.message.contains(&format!("`{field}`")), "{field}: {error:?}");
        app.get(&app.house, &format!("/v1/executions/{}", new.id)).await.error(404, "execution_not_found");
    };
    check("command", &|new| new.command.clear()).await;
    check("command", &|new| new.command = vec!["x".to_owned(); MAX_COMMAND_WORDS + 1]).await;
    check("command", &|new| new.command = vec!["nul\0".to_owned()]).await;
    check("lane", &|new| new.lane = Some("ä".repeat(MAX_LANE_CHARS + 1))).await;
    check("image", &|new| new.image = Some("a\0".to_owned())).await;
    check("env", &|new| new.env = (0..=MAX_ENV_VARIABLES).map(|at| (at.to_string(), String::new())).collect()).await;
    check("input", &|new| new.input = Input::Text { text: "\0".to_owned() }).await;
    check("command, env, sandbox and input", &|new| new.input = Input::Text { text: "x".repeat(MAX_ROW_BYTES) }).await;
    check("limits.pids", &|new| new.limits.pids = 0).await;
    check("limits.wall_ms", &|new| new.limits.wall_ms = u64::MAX).await;

    // What lies just within the bounds passes whole, whatever characters it is made of.
    let mut new = app.new_execution();
    new.lane = Some("🦀".repeat(MAX_LANE_CHARS));
    new.env.insert("E".to_owned(), "\u{7}\u{200b}\"'\\".to_owned());
    new.input = Input::Text { text: "x".repeat(MAX_ROW_BYTES - 4 - 3 - 8) };
    let made: Execution = app.post(&app.house, "/v1/executions", &new).await.must(201).json();
    assert_eq!((made.lane.clone(), made.recipe.clone()), (new.lane.clone(), new.recipe()));
    let found: Execution = app.get(&app.house, &format!("/v1/executions/{}", new.id)).await.must(200).json();
    assert_eq!(found, made);
    app.stop().await;
}

async fn the_list_is_read_page_by_page(place: &Place) {
    const ALL: usize = 250;
    let app = TestApp::start(place).await;
    let user = app.somebody("house", "ulla", Role::User).await;
    app.admin("other").await;
    let mut made = Vec::new();
    for batch in 0..10 {
        let news: Vec<_> = (0..ALL / 10).map(|_| app.new_execution()).collect();
        made.extend(news.iter().map(|new| new.id));
        let posted = news.iter().map(|new| app.post(&user.secret, "/v1/executions", new));
        for answer in futures_util::future::join_all(posted).await {
            answer.must(201);
        }
        if batch % 2 == 0 {
            app.order(&user.secret, &format!("/v1/executions/{}/cancel", news[0].id)).await.must(200);
        }
    }
    made.sort_unstable_by(|one, other| other.cmp(one));

    let read = async |question: &str, limit: usize| {
        let (mut found, mut after) = (Vec::<Execution>::new(), String::new());
        loop {
            let path = format!("/v1/executions?limit={limit}{question}{after}");
            let page: Page<Execution> = app.get(&user.secret, &path).await.must(200).json();
            assert!(page.items.len() <= limit);
            assert_eq!(page.as_of, app.head().await, "nothing has happened since");
            found.extend(page.items);
            match page.next {
                Some(next) => after = format!("&after={next}"),
                None => return found,
            }
        }
    };
    for limit in [1000, 100, 7, 250, 125] {
        let found: Vec<_> = read("", limit).await.iter().map(|execution| execution.id).collect();
        assert_eq!(found, made, "pages of {limit}");
    }
    let cancelled = read("&state=cancelled", 2).await;
    assert_eq!(cancelled.len(), 5);
    assert!(cancelled.iter().all(|execution| execution.state == ExecutionState::Cancelled));
    assert_eq!(read("&state=queued", 100).await.len(), ALL - 5);
    assert_eq!(read("&state=running", 100).await, []);
    let standard: Page<Execution> = app.get(&user.secret, "/v1/executions").await.json();
    assert_eq!(standard.items.len(), 100, "without a limit a page has a hundred");
    let other: Page<Execution> = app.get(&app.house, "/v1/executions?tenant=other").await.json();
    assert_eq!(other.items, [], "another tenant has none of them");
    app.stop().await;
}

async fn what_claims_do_not_come_to_is_told_so(place: &Place) {
    let clock = Clock::manual(Clock::System.now());
    let app = TestApp::start_at(place, clock.clone(), |_| ()).await;
    crate::node::join(&app, &app.house).await;
    let house = app.store().tenant_get(TenantKey::Name("house".to_owned())).await.expect("is there").id;
    let before = async |n: u64| {
        let mut new = NewExecution { image: Some("box".to_owned()), ..app.new_execution() };
        new.sandbox.labels.insert("nobody".to_owned(), n.to_string());
        app.store().execution_create(&new, house, Origin::default(), "test", clock.now()).await.expect("is accepted");
    };
    for n in 1..MAX_SHAPES {
        before(n).await;
    }
    let made = app.execution(&app.house).await;
    clock.advance(SignedDuration::from_secs(3));
    let why = async || {
        let path = format!("/v1/executions/{}", made.id);
        app.get(&app.house, &path).await.must(200).json::<Execution>().waiting.expect("waits")
    };
    assert_eq!(why().await, "1 node: fits and has no slot free");
    before(MAX_SHAPES).await;
    assert_eq!(
        why().await,
        "its tenant's executions of its class have more than 256 different needs, which are looked at in turns"
    );
    app.stop().await;
}
