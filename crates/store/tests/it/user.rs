//! Users of a tenant, and the last admin who must remain.

use crate::engine::{Fresh, on_both_engines};
use crate::sample::{at, log, refused, tenant, user};
use futures_util::future::join_all;
use model::{NewUser, Role, User, UserChange, UserId, UserState};
use store::{UserKey, random};

on_both_engines!(makes_and_finds, changes, keeps_an_admin, keeps_an_admin_when_two_go_at_once, pages);

async fn makes_and_finds(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let store = &stores[0];
    let (ours, theirs) = (tenant(store, "ours").await, tenant(store, "theirs").await);
    let new = NewUser { id: UserId::new(at(0), random()), name: "ann".to_owned(), role: Role::User };
    let made = join_all((0..16).map(|n| stores[n % 2].user_create(new.clone(), ours, "test", at(1)))).await;
    let made: Vec<_> = made.into_iter().map(|made| made.expect("is made")).collect();
    assert_eq!(made.iter().filter(|(_, is_new)| *is_new).count(), 1);
    let ann = made[0].0.clone();
    assert_eq!((ann.id, ann.tenant, ann.role, ann.state), (new.id, ours, Role::User, UserState::Active));

    let words = "user `ann` already exists, and is different";
    let same_name = NewUser { id: UserId::new(at(0), random()), ..new.clone() };
    refused(store.user_create(same_name.clone(), ours, "test", at(2)).await, words);
    refused(store.user_create(NewUser { role: Role::Admin, ..new.clone() }, ours, "test", at(2)).await, words);
    refused(store.user_create(new.clone(), theirs, "test", at(2)).await, words);
    let namesake = store.user_create(same_name, theirs, "test", at(2)).await.expect("another tenant's ann").0;

    for key in [UserKey::Id(new.id), UserKey::Name("ann".to_owned())] {
        assert_eq!(store.user_get(key, ours).await.expect("is there"), ann);
    }
    let elsewhere = store.user_get(UserKey::Name("ann".to_owned()), theirs).await.expect("is there");
    assert_eq!(elsewhere, namesake);
    refused(store.user_get(UserKey::Id(new.id), theirs).await, &format!("user `{}` does not exist", new.id));
    for name in ["Ann", "", "a\0nn"] {
        let found = store.user_get(UserKey::Name(name.to_owned()), ours).await;
        refused(found, &format!("user `{name}` does not exist"));
    }
    for store in stores {
        store.close().await;
    }
}

fn to(role: Option<Role>, state: Option<UserState>) -> UserChange {
    UserChange { role, state }
}

async fn changes(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    // No admin is needed to change somebody who is none.
    let mut ann = user(&store, ours, "ann", Role::User).await;
    let moves = [
        (Some(Role::Operator), None),
        (None, Some(UserState::Disabled)),
        (Some(Role::Viewer), Some(UserState::Active)),
        (Some(Role::User), Some(UserState::Disabled)),
        (Some(Role::User), Some(UserState::Disabled)),
        (None, None),
    ];
    for ((role, state), ms) in moves.into_iter().zip(10..) {
        let head = store.log_bounds().await.expect("bounds").head;
        let changed = store.user_update(ann.id, ours, to(role, state), "boss", at(ms)).await.expect("changes");
        let expected = User { role: role.unwrap_or(ann.role), state: state.unwrap_or(ann.state), ..ann.clone() };
        assert_eq!(changed, expected);
        let changes = log(&store, head).await;
        assert_eq!(changes.len(), usize::from(changed != ann), "only what changes is logged");
        if let Some(change) = changes.first() {
            assert_eq!(change.body.get(), serde_json::to_string(&changed).expect("JSON"));
            assert_eq!((change.by.as_str(), change.at), ("boss", at(ms)));
        }
        ann = changed;
    }
    let words = format!("user `{}` does not exist", ann.id);
    refused(store.user_update(ann.id, theirs, to(Some(Role::Admin), None), "them", at(99)).await, &words);
    store.close().await;
}

async fn keeps_an_admin(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let (ann, bob) = (user(&store, ours, "ann", Role::Admin).await, user(&store, ours, "bob", Role::User).await);
    // Admins of another tenant do not count.
    user(&store, tenant(&store, "theirs").await, "eve", Role::Admin).await;
    let words = format!("user `{}` is the tenant's last active admin, and stays so", ann.id);
    let less = [to(Some(Role::Operator), None), to(None, Some(UserState::Disabled))];
    for change in &less {
        refused(store.user_update(ann.id, ours, change.clone(), "ann", at(1)).await, &words);
    }
    assert_eq!(store.user_get(UserKey::Id(ann.id), ours).await.expect("is there"), ann, "nothing of it stays");
    // An admin who may not come in is no admin.
    let disabled = to(Some(Role::Admin), Some(UserState::Disabled));
    store.user_update(bob.id, ours, disabled, "ann", at(2)).await.expect("changes");
    for change in &less {
        refused(store.user_update(ann.id, ours, change.clone(), "ann", at(3)).await, &words);
    }
    store.user_update(bob.id, ours, to(None, Some(UserState::Active)), "ann", at(4)).await.expect("changes");
    store.user_update(ann.id, ours, less[1].clone(), "bob", at(5)).await.expect("bob remains");
    store.close().await;
}

async fn keeps_an_admin_when_two_go_at_once(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    for round in 0..12 {
        let ours = tenant(&stores[0], &format!("t{round}")).await;
        let ann = user(&stores[0], ours, "ann", Role::Admin).await;
        let bob = user(&stores[0], ours, "bob", Role::Admin).await;
        let go = |n: usize, id| stores[n].user_update(id, ours, to(Some(Role::Viewer), None), "self", at(1));
        let (first, second) = futures_util::join!(go(0, ann.id), go(1, bob.id));
        assert!(first.is_ok() != second.is_ok(), "one goes, one stays: {first:?} {second:?}");
        let (users, _) = stores[0].user_list(ours, None, 9).await.expect("a page");
        assert_eq!(users.iter().filter(|user| user.role == Role::Admin).count(), 1);
    }
    for store in stores {
        store.close().await;
    }
}

async fn pages(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let mut made = Vec::new();
    for n in 0..7 {
        made.push(user(&store, ours, &format!("u{n}"), Role::User).await.id);
        user(&store, theirs, &format!("u{n}"), Role::User).await;
    }
    made.sort();
    let head = store.log_bounds().await.expect("bounds").head;
    let mut found = Vec::new();
    loop {
        let (page, as_of) = store.user_list(ours, found.last().copied(), 3).await.expect("a page");
        assert_eq!(as_of, head);
        if page.is_empty() {
            break;
        }
        found.extend(page.into_iter().map(|user| user.id));
    }
    assert_eq!(found, made);
    store.close().await;
}
