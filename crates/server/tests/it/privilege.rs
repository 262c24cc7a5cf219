//! Nobody gets more than they were given: not by a token of their own making, not by another's, not by a name.

use crate::app::TestApp;
use crate::engine::{Place, on_both_engines};
use model::user::WhoAmI;
use model::{
    ErrorKind, Execution, NewTenant, NewToken, NewUser, Page, Role, Scope, Tenant, TenantId, Token, TokenIssued, User,
    UserChange, UserId, UserState,
};
use reqwest::Method;
use store::random;

on_both_engines!(
    a_token_never_allows_more_than_its_maker,
    a_token_without_scopes_stays_as_narrow_as_its_maker,
    nobody_below_an_admin_keeps_users,
    only_the_house_reaches_beyond_its_tenant,
    the_last_admin_stays,
    a_change_of_role_counts_at_once,
);

async fn who(app: &TestApp, secret: &str) -> WhoAmI {
    app.get(secret, "/v1/whoami").await.must(200).json()
}

async fn a_token_never_allows_more_than_its_maker(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    let vera = app.somebody("one", "vera", Role::Viewer).await;
    let ulla = app.somebody("one", "ulla", Role::User).await;
    // Everybody can hand on what they have, and everything else is refused, scope by scope.
    for (secret, role) in [(&vera.secret, Role::Viewer), (&ulla.secret, Role::User), (&ada.secret, Role::Admin)] {
        for scope in Scope::ALL {
            let new = NewToken { scopes: vec![scope], ..app.new_token("one") };
            let answer = app.post(secret, "/v1/tokens", &new).await;
            if role.has(scope) && !scope.is_of_the_house() {
                let issued: TokenIssued = answer.must(201).json();
                assert_eq!(who(&app, &issued.secret).await.scopes, [scope]);
            } else {
                let error = answer.error(403, "not_allowed");
                assert!(error.message.contains(scope.as_str()), "{error:?}");
            }
        }
    }
    // For somebody else only an admin makes one, and only in their own tenant.
    let new = |user: UserId| NewToken { user: Some(user), ..app.new_token("theirs") };
    app.post(&ulla.secret, "/v1/tokens", &new(vera.user.id)).await.error(403, "not_allowed");
    app.post(&ulla.secret, "/v1/tokens", &new(ada.user.id)).await.error(403, "not_allowed");
    let issued: TokenIssued = app.post(&ada.secret, "/v1/tokens", &new(vera.user.id)).await.must(201).json();
    assert_eq!(who(&app, &issued.secret).await.role, Role::Viewer);
    let other = app.admin("other").await;
    app.post(&ada.secret, "/v1/tokens", &new(other.user.id)).await.error(404, "user_not_found");
    app.post(&app.house, "/v1/tokens", &new(other.user.id)).await.error(404, "user_not_found");
    app.post(&app.house, "/v1/tokens?tenant=other", &new(ada.user.id)).await.error(404, "user_not_found");
    // A token that exists is not made again, because nobody would learn its secret.
    let new = app.new_token("twice");
    app.post(&ulla.secret, "/v1/tokens", &new).await.must(201);
    app.post(&ulla.secret, "/v1/tokens", &new).await.error(409, "token_exists");
    app.stop().await;
}

async fn a_token_without_scopes_stays_as_narrow_as_its_maker(place: &Place) {
    let app = TestApp::start(place).await;
    app.admin("one").await;
    let ulla = app.somebody("one", "ulla", Role::User).await;
    let narrow = app.narrow(&ulla.secret, &[Scope::TokenWrite, Scope::ExecutionRead]).await;
    app.post(&narrow.secret, "/v1/tokens", &app.new_token("wider")).await.error(403, "not_allowed");
    let same = NewToken { scopes: narrow.token.scopes.clone(), ..app.new_token("same") };
    app.post(&narrow.secret, "/v1/tokens", &same).await.must(201);
    // One that names all that its user may do today must not become one that has all they may do tomorrow.
    let today: Vec<_> = Scope::ALL.into_iter().filter(|scope| Role::User.has(*scope)).collect();
    let narrow = app.narrow(&ulla.secret, &today).await;
    app.post(&narrow.secret, "/v1/tokens", &app.new_token("wider")).await.error(403, "not_allowed");
    let change = UserChange { role: Some(Role::Admin), state: None };
    let path = format!("/v1/users/{}?tenant=one", ulla.user.id);
    app.json(Method::PATCH, &app.house, &path, &change).await.must(200);
    assert_eq!(who(&app, &narrow.secret).await.scopes, today);
    assert!(who(&app, &ulla.secret).await.scopes.contains(&Scope::UserWrite));
    app.stop().await;
}

async fn nobody_below_an_admin_keeps_users(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    let new = |role| NewUser { id: UserId::new(app.clock.now(), random()), name: "mallory".to_owned(), role };
    for role in [Role::Viewer, Role::User, Role::Operator] {
        let somebody = app.somebody("one", role.as_str(), role).await;
        app.post(&somebody.secret, "/v1/users", &new(Role::Viewer)).await.error(403, "not_allowed");
        for (user, change) in [
            (&somebody.user, UserChange { role: Some(Role::Admin), state: None }),
            (&ada.user, UserChange { role: None, state: Some(UserState::Disabled) }),
        ] {
            let path = format!("/v1/users/{}", user.id);
            app.json(Method::PATCH, &somebody.secret, &path, &change).await.error(403, "not_allowed");
        }
        // Others' tokens are as good as none, be it to see or to revoke.
        let path = format!("/v1/tokens/{}", ada.token.id);
        app.order(&somebody.secret, &format!("{path}/revoke")).await.error(404, "token_not_found");
        let sees = app.get(&somebody.secret, &path).await;
        let listed: Page<Token> = app.get(&somebody.secret, "/v1/tokens").await.json();
        if role == Role::Operator {
            sees.must(200);
            assert!(listed.items.len() > 1);
        } else {
            sees.error(404, "token_not_found");
            assert_eq!(listed.items.iter().map(|token| token.id).collect::<Vec<_>>(), [somebody.token.id]);
            app.get(&somebody.secret, "/v1/users").await.error(403, "not_allowed");
            app.get(&somebody.secret, &format!("/v1/users/{}", ada.user.id)).await.error(403, "not_allowed");
        }
        let own: User = app.get(&somebody.secret, &format!("/v1/users/{}", somebody.user.id)).await.must(200).json();
        assert_eq!(own, somebody.user);
    }
    // An admin whose token may not keep users does not keep them either.
    let narrow = app.narrow(&ada.secret, &[Scope::UserRead, Scope::TokenWrite]).await;
    app.post(&narrow.secret, "/v1/users", &new(Role::Viewer)).await.error(403, "not_allowed");
    // And one whose token keeps users makes an admin, but no token for them that does more.
    let narrow = app.narrow(&ada.secret, &[Scope::UserWrite, Scope::TokenWrite]).await;
    let puppet: User = app.post(&narrow.secret, "/v1/users", &new(Role::Admin)).await.must(201).json();
    let token = NewToken { user: Some(puppet.id), ..app.new_token("puppet") };
    app.post(&narrow.secret, "/v1/tokens", &token).await.error(403, "not_allowed");
    app.stop().await;
}

async fn only_the_house_reaches_beyond_its_tenant(place: &Place) {
    let app = TestApp::start(place).await;
    let (ada, other) = (app.admin("one").await, app.admin("other").await);
    let operator = app.somebody("house", "otto", Role::Operator).await;
    let execution = app.execution(&ada.secret).await;
    // An admin of another tenant has none of the house's scopes, whatever the token says.
    let me = who(&app, &ada.secret).await;
    assert!(me.scopes.iter().all(|scope| !scope.is_of_the_house()), "{me:?}");
    let new = NewTenant { id: TenantId::new(app.clock.now(), random()), name: "mine".to_owned() };
    let error = app.post(&ada.secret, "/v1/tenants", &new).await.error(403, "not_allowed");
    assert!(error.hint.unwrap().contains("house"));
    app.get(&ada.secret, "/metrics").await.error(403, "not_allowed");
    app.get(&ada.secret, "/v1/log/levels").await.error(403, "not_allowed");
    // Below an admin, the house's own people see their own tenant only.
    app.get(&operator.secret, &format!("/v1/executions/{}", execution.id)).await.error(404, "execution_not_found");
    app.get(&operator.secret, "/v1/executions?tenant=one").await.error(404, "tenant_not_found");
    app.get(&operator.secret, "/v1/changes?tenant=*").await.error(404, "tenant_not_found");
    app.post(&operator.secret, "/v1/executions?tenant=one", &app.new_execution()).await.error(404, "tenant_not_found");
    // Naming one's own tenant is no reach.
    for name in ["one", "ONE"] {
        let page: Page<Execution> = app.get(&ada.secret, &format!("/v1/executions?tenant={name}")).await.json();
        assert_eq!(page.items.len(), 1);
    }
    // The house's admin reaches all of it, by id and by name.
    let found: Execution = app.get(&app.house, &format!("/v1/executions/{}", execution.id)).await.json();
    assert_eq!(found, execution);
    let made: Execution =
        app.post(&app.house, "/v1/executions?tenant=One", &app.new_execution()).await.must(201).json();
    assert_eq!(made.tenant, ada.user.tenant);
    // Whoever takes an id that another tenant has learns no more than that it is taken.
    let twin = model::NewExecution { id: execution.id, ..app.new_execution() };
    let error = app.post(&other.secret, "/v1/executions", &twin).await.error(409, "execution_exists");
    assert_eq!(error.kind, ErrorKind::default());
    let listed = async |secret: &str, question: &str| {
        let page: Page<Tenant> = app.get(secret, &format!("/v1/tenants{question}")).await.must(200).json();
        page.items.into_iter().map(|tenant| tenant.name).collect::<Vec<_>>()
    };
    assert_eq!(listed(&app.house, "").await, ["house", "one", "other"]);
    assert_eq!(listed(&app.house, "?limit=1&tenant=OTHER").await, ["other"]);
    assert_eq!(listed(&other.secret, "").await, ["other"]);
    assert_eq!(listed(&other.secret, "?limit=1").await, ["other"]);
    assert_eq!(listed(&operator.secret, "").await, ["house"]);
    assert_eq!(listed(&ada.secret, &format!("?after={}", ada.user.tenant)).await, Vec::<String>::new());
    app.stop().await;
}

async fn the_last_admin_stays(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    let path = format!("/v1/users/{}", ada.user.id);
    let demote = UserChange { role: Some(Role::User), state: None };
    let disable = UserChange { role: None, state: Some(UserState::Disabled) };
    let both = UserChange { role: Some(Role::Viewer), state: Some(UserState::Disabled) };
    for change in [&demote, &disable, &both] {
        let answer = app.json(Method::PATCH, &ada.secret, &path, change).await;
        answer.error(409, "user_last_admin");
        let house = format!("{path}?tenant=one");
        app.json(Method::PATCH, &app.house, &house, change).await.error(409, "user_last_admin");
    }
    assert_eq!(who(&app, &ada.secret).await.role, Role::Admin);
    // With a second one, one of them may go; two who go at once do not both get through.
    let eve = app.somebody("one", "eve", Role::Admin).await;
    let other = format!("/v1/users/{}", eve.user.id);
    let (one, two) = tokio::join!(
        app.json(Method::PATCH, &ada.secret, &path, &demote),
        app.json(Method::PATCH, &eve.secret, &other, &disable),
    );
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    // The second may also find that they are no admin any more.
    assert!(statuses[0] == 200 && [401, 403, 409].contains(&statuses[1]), "{statuses:?}");
    app.stop().await;
}

async fn a_change_of_role_counts_at_once(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    let ulla = app.somebody("one", "ulla", Role::User).await;
    let path = format!("/v1/users/{}", ulla.user.id);
    let change = async |role, state| {
        let change = UserChange { role, state };
        app.json(Method::PATCH, &ada.secret, &path, &change).await.must(200).json::<User>()
    };
    app.execution(&ulla.secret).await;
    assert_eq!(change(Some(Role::Viewer), None).await.role, Role::Viewer);
    app.post(&ulla.secret, "/v1/executions", &app.new_execution()).await.error(403, "not_allowed");
    let head = app.head().await;
    change(Some(Role::Viewer), Some(UserState::Active)).await;
    assert_eq!(app.head().await, head, "nothing has changed");
    change(None, Some(UserState::Disabled)).await;
    app.get(&ulla.secret, "/v1/whoami").await.error(401, "token_refused");
    change(Some(Role::Operator), Some(UserState::Active)).await;
    assert_eq!(who(&app, &ulla.secret).await.role, Role::Operator);
    let none = app.json(Method::PATCH, &ada.secret, &path, &UserChange::default()).await;
    assert_eq!(none.must(200).json::<User>().role, Role::Operator, "a change of nothing changes nothing");
    app.stop().await;
}
