//! Users over HTTP: made once, listed, changed. Who may do so is told in `privilege.rs`.

use crate::app::TestApp;
use crate::engine::{Place, on_both_engines};
use model::{NewUser, Page, Role, User, UserChange, UserId, UserState};
use reqwest::Method;
use store::random;

on_both_engines!(a_user_is_made_once, a_user_is_changed, the_list_is_read_page_by_page);

fn new(app: &TestApp, name: &str, role: Role) -> NewUser {
    NewUser { id: UserId::new(app.clock.now(), random()), name: name.to_owned(), role }
}

async fn a_user_is_made_once(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    let asked = new(&app, "jo", Role::User);
    let made: User = app.post(&ada.secret, "/v1/users", &asked).await.must(201).json();
    assert_eq!((made.id, made.role, made.state), (asked.id, Role::User, UserState::Active));
    assert_eq!(made.tenant, ada.user.tenant);
    let again: User = app.post(&ada.secret, "/v1/users", &asked).await.must(200).json();
    assert_eq!(again, made);
    for other in [
        NewUser { role: Role::Admin, ..asked.clone() },
        NewUser { name: "joe".to_owned(), ..asked.clone() },
        new(&app, "jo", Role::User),
    ] {
        app.post(&ada.secret, "/v1/users", &other).await.error(409, "user_exists");
    }
    // The same id in another tenant is taken too, and tells nothing about whom it belongs to.
    let other = app.admin("other").await;
    let error = app.post(&other.secret, "/v1/users", &asked).await.error(409, "user_exists");
    assert!(!error.message.contains("one"), "{error:?}");
    // The same name is somebody else there.
    app.post(&other.secret, "/v1/users", &new(&app, "jo", Role::User)).await.must(201);
    for name in ["", "two words", "a\0b", "-x"] {
        app.post(&ada.secret, "/v1/users", &new(&app, name, Role::User)).await.error(400, "user_invalid");
    }
    app.stop().await;
}

async fn a_user_is_changed(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    let jo: User = app.post(&ada.secret, "/v1/users", &new(&app, "jo", Role::User)).await.must(201).json();
    let path = format!("/v1/users/{}", jo.id);
    let both = UserChange { role: Some(Role::Operator), state: Some(UserState::Disabled) };
    let head = app.head().await;
    let changed: User = app.json(Method::PATCH, &ada.secret, &path, &both).await.must(200).json();
    assert_eq!(changed, User { role: Role::Operator, state: UserState::Disabled, ..jo });
    assert_eq!(app.get(&ada.secret, &path).await.must(200).json::<User>(), changed);
    assert_eq!(app.head().await, head + 1, "one change, whatever it changes");
    let again: User = app.json(Method::PATCH, &ada.secret, &path, &both).await.must(200).json();
    assert_eq!((again, app.head().await), (changed, head + 1));
    app.stop().await;
}

async fn the_list_is_read_page_by_page(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    for at in 0..7 {
        app.post(&ada.secret, "/v1/users", &new(&app, &format!("u{at}"), Role::Viewer)).await.must(201);
    }
    for limit in [1, 4, 8, 100] {
        let (mut names, mut after) = (Vec::new(), String::new());
        loop {
            let page: Page<User> = app.get(&ada.secret, &format!("/v1/users?limit={limit}{after}")).await.json();
            names.extend(page.items.into_iter().map(|user| user.name));
            let Some(next) = page.next else { break };
            after = format!("&after={next}");
        }
        assert_eq!(names, ["ada", "u0", "u1", "u2", "u3", "u4", "u5", "u6"], "pages of {limit}");
    }
    app.stop().await;
}
