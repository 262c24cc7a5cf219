//! Tokens: made once, found by whoever shows one, revoked for good.

use crate::engine::{Fresh, on_both_engines};
use crate::sample::{at, log, refused, tenant, token, user};
use futures_util::future::join_all;
use model::{Role, Token, TokenId, UserChange, UserState};
use store::{TokenRow, random};

on_both_engines!(makes_and_finds, revokes, notes_its_use, pages);

async fn makes_and_finds(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let (ann, bob) = (user(&store, ours, "ann", Role::User).await, user(&store, ours, "bob", Role::User).await);
    let head = store.log_bounds().await.expect("bounds").head;
    let row = token(ours, ann.id, "laptop");
    assert_eq!(store.token_create(row.clone(), "ann").await.expect("is made"), row.token);
    let words = format!("token `{}` already exists, and is different", row.token.id);
    refused(store.token_create(row.clone(), "ann").await, &words);
    let of_nobody = TokenRow { token: Token { tenant: theirs, ..token(ours, ann.id, "x").token }, ..row.clone() };
    refused(store.token_create(of_nobody, "eve").await, &format!("user `{}` does not exist", ann.id));

    let changes = log(&store, head).await;
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].state.as_str(), changes[0].by.as_str(), changes[0].at), ("created", "ann", at(1)));
    assert_eq!(changes[0].body.get(), serde_json::to_string(&row.token).expect("JSON"), "and no hash in it");

    for whose in [None, Some(ann.id)] {
        assert_eq!(store.token_get(row.token.id, ours, whose).await.expect("is there"), row.token);
    }
    let nowhere = TokenId::new(at(0), random());
    for (id, tenant, whose) in [(row.token.id, theirs, None), (row.token.id, ours, Some(bob.id)), (nowhere, ours, None)]
    {
        let words = format!("token `{id}` does not exist");
        refused(store.token_get(id, tenant, whose).await, &words);
        refused(store.token_revoke(id, tenant, whose, "eve", at(2)).await, &words);
    }
    let bearer = store.token_bearer(row.token.id).await.expect("reads").expect("is there");
    assert_eq!((bearer.row.token, bearer.row.hash, bearer.user), (row.token.clone(), row.hash, ann.clone()));
    assert_eq!((bearer.tenant.id, bearer.tenant.name.as_str()), (ours, "ours"));
    assert!(store.token_bearer(nowhere).await.expect("reads").is_none());
    let disabled = UserChange { role: None, state: Some(UserState::Disabled) };
    store.user_update(ann.id, ours, disabled, "boss", at(3)).await.expect("changes");
    let bearer = store.token_bearer(row.token.id).await.expect("reads").expect("is there");
    assert_eq!(bearer.user.state, UserState::Disabled, "the bearer is read as they are now");
    store.close().await;
}

async fn revokes(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let store = &stores[0];
    let ours = tenant(store, "ours").await;
    let ann = user(store, ours, "ann", Role::User).await;
    for whose in [None, Some(ann.id)] {
        let row = token(ours, ann.id, "laptop");
        store.token_create(row.clone(), "ann").await.expect("is made");
        let head = store.log_bounds().await.expect("bounds").head;
        let revoked = join_all((0..16).map(|n| stores[n % 2].token_revoke(row.token.id, ours, whose, "ann", at(5))));
        let expected = Token { revoked_at: Some(at(5)), ..row.token.clone() };
        for revoked in revoked.await {
            assert_eq!(revoked.expect("is revoked"), expected);
        }
        let again = store.token_revoke(row.token.id, ours, whose, "ann", at(6)).await.expect("twice is harmless");
        assert_eq!(again, expected, "the first time counts");
        let changes = log(store, head).await;
        assert_eq!(changes.iter().map(|change| change.state.as_str()).collect::<Vec<_>>(), ["revoked"]);
        let bearer = store.token_bearer(row.token.id).await.expect("reads").expect("is there");
        assert_eq!(bearer.row.token.revoked_at, Some(at(5)));
    }
    for store in stores {
        store.close().await;
    }
}

async fn notes_its_use(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let ann = user(&store, ours, "ann", Role::User).await;
    let id = store.token_create(token(ours, ann.id, "laptop"), "ann").await.expect("is made").id;
    let head = store.log_bounds().await.expect("bounds").head;
    for (used, noted) in [(10, 10), (30, 30), (20, 30), (30, 30)] {
        store.token_use(id, at(used)).await.expect("is noted");
        assert_eq!(store.token_get(id, ours, None).await.expect("is there").used_at, Some(at(noted)));
    }
    store.token_use(TokenId::new(at(0), random()), at(1)).await.expect("one that is gone is no matter");
    assert_eq!(store.log_bounds().await.expect("bounds").head, head, "use is no transition");
    store.close().await;
}

async fn pages(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let ann = user(&store, ours, "ann", Role::User).await.id;
    let bob = user(&store, ours, "bob", Role::User).await.id;
    let eve = user(&store, theirs, "eve", Role::User).await.id;
    let mut made = Vec::new();
    for n in 0..12 {
        let (tenant, user) = [(ours, ann), (ours, bob), (theirs, eve)][n % 3];
        let token = store.token_create(token(tenant, user, &format!("n{n}")), "test").await.expect("is made");
        made.push(token);
    }
    made.sort_by_key(|token| token.id);
    let head = store.log_bounds().await.expect("bounds").head;
    for (tenant, user) in [(ours, None), (ours, Some(ann)), (theirs, None), (theirs, Some(eve)), (theirs, Some(ann))] {
        let mut found: Vec<Token> = Vec::new();
        loop {
            let after = found.last().map(|token| token.id);
            let (page, as_of) = store.token_list(tenant, user, after, 3).await.expect("a page");
            assert_eq!(as_of, head);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        let ours = |token: &&Token| token.tenant == tenant && user.is_none_or(|user| user == token.user);
        assert_eq!(found, made.iter().filter(ours).cloned().collect::<Vec<_>>());
    }
    store.close().await;
}
