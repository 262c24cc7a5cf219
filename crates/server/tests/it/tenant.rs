//! Tenants over HTTP: made once, under a name that nobody else has.

use crate::app::TestApp;
use crate::engine::{Place, on_both_engines};
use model::limits::MAX_NAME_CHARS;
use model::{NewTenant, Page, Role, Tenant, TenantChange, TenantId};
use reqwest::Method;
use store::random;

on_both_engines!(
    a_tenant_is_made_once,
    names_that_would_not_survive_are_refused,
    what_holds_for_a_tenant_is_the_houses_to_say,
);

fn new(app: &TestApp, name: &str) -> NewTenant {
    NewTenant { id: TenantId::new(app.clock.now(), random()), name: name.to_owned() }
}

async fn a_tenant_is_made_once(place: &Place) {
    let app = TestApp::start(place).await;
    let asked = new(&app, "One");
    let made: Tenant = app.post(&app.house, "/v1/tenants", &asked).await.must(201).json();
    assert_eq!((made.id, made.name.as_str()), (asked.id, "One"));
    let again: Tenant = app.post(&app.house, "/v1/tenants", &asked).await.must(200).json();
    assert_eq!(again, made);
    let found: Tenant = app.get(&app.house, &format!("/v1/tenants/{}", made.id)).await.must(200).json();
    assert_eq!(found, made);
    // A name is taken in every spelling, since headers know no case; so is an id.
    for name in ["One", "one", "ONE", "House", "house"] {
        app.post(&app.house, "/v1/tenants", &new(&app, name)).await.error(409, "tenant_exists");
    }
    let other = NewTenant { name: "two".to_owned(), ..asked };
    app.post(&app.house, "/v1/tenants", &other).await.error(409, "tenant_exists");
    for at in 0..5 {
        app.tenant(&format!("t{at}")).await;
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page: Page<Tenant> = app.get(&app.house, &format!("/v1/tenants?limit=3{after}")).await.json();
        assert_eq!(page.as_of, app.head().await);
        names.extend(page.items.into_iter().map(|tenant| tenant.name));
        let Some(next) = page.next else { break };
        after = format!("&after={next}");
    }
    assert_eq!(names, ["house", "One", "t0", "t1", "t2", "t3", "t4"]);
    app.stop().await;
}

async fn names_that_would_not_survive_are_refused(place: &Place) {
    let app = TestApp::start(place).await;
    let long = "x".repeat(MAX_NAME_CHARS + 1);
    for name in ["", ".", "-x", "two words", "a/b", "a\0b", "ä", "*", "a\nb", &long] {
        let error = app.post(&app.house, "/v1/tenants", &new(&app, name)).await.error(400, "tenant_invalid");
        assert!(error.message.contains("64"), "{error:?}");
    }
    for name in ["x", "9", "a.b_c@d-e", &long[1..]] {
        app.post(&app.house, "/v1/tenants", &new(&app, name)).await.must(201);
        // What is a name can be asked for by it.
        app.get(&app.house, &format!("/v1/executions?tenant={name}")).await.must(200);
    }
    app.stop().await;
}

async fn what_holds_for_a_tenant_is_the_houses_to_say(place: &Place) {
    let app = TestApp::start(place).await;
    let physics = app.tenant("physics").await;
    let ada = app.somebody("physics", "ada", Role::Admin).await;
    let path = format!("/v1/tenants/{}", physics.id);
    let change = |runtime: &str| TenantChange { runtime: Some(runtime.to_owned()) };
    assert_eq!(physics.runtime, None);
    app.json(Method::PATCH, &ada.secret, &path, &change("crun")).await.error(403, "not_allowed");
    for runtime in ["", "two words", "\u{ae}", &"x".repeat(MAX_NAME_CHARS + 1)] {
        app.json(Method::PATCH, &app.house, &path, &change(runtime)).await.error(400, "tenant_invalid");
    }
    let head = app.head().await;
    for (runtime, kept, moves) in
        [("crun", Some("crun"), 1), ("crun", Some("crun"), 1), ("quarry", None, 2), ("quarry", None, 2)]
    {
        let changed: Tenant = app.json(Method::PATCH, &app.house, &path, &change(runtime)).await.must(200).json();
        assert_eq!(changed, Tenant { runtime: kept.map(str::to_owned), ..physics.clone() });
        assert_eq!(app.get(&ada.secret, &path).await.must(200).json::<Tenant>(), changed);
        assert_eq!(app.head().await, head + moves, "what changes nothing is no change");
    }
    let nobody = format!("/v1/tenants/{}", TenantId::new(app.clock.now(), random()));
    app.json(Method::PATCH, &app.house, &nobody, &change("crun")).await.error(404, "tenant_not_found");
    app.stop().await;
}
