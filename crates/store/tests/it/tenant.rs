//! Tenants, and the first moment of a house.

use crate::engine::{Fresh, on_both_engines};
use crate::sample::{at, house, log, refused, tenant};
use futures_util::future::join_all;
use model::{NewTenant, Noun, TenantId};
use store::{TenantKey, random};

on_both_engines!(makes_and_finds, pages, opens_the_house_once);

async fn makes_and_finds(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let store = &stores[0];
    let new = NewTenant { id: TenantId::new(at(0), random()), name: "physics".to_owned() };
    let made = join_all((0..16).map(|n| stores[n % 2].tenant_create(new.clone(), "test", at(1)))).await;
    let made: Vec<_> = made.into_iter().map(|made| made.expect("is made")).collect();
    assert_eq!(made.iter().filter(|(_, is_new)| *is_new).count(), 1);
    let tenant = made[0].0.clone();
    assert_eq!((tenant.id, tenant.name.as_str(), tenant.created_at), (new.id, "physics", at(1)));
    let other = NewTenant { id: TenantId::new(at(0), random()), ..new.clone() };
    refused(store.tenant_create(other, "test", at(2)).await, "tenant `physics` already exists, and is different");
    let other = NewTenant { name: "chemistry".to_owned(), ..new.clone() };
    refused(store.tenant_create(other, "test", at(2)).await, "tenant `chemistry` already exists, and is different");

    // A name in a header knows no case, so none may differ by case alone.
    let shouted = NewTenant { id: TenantId::new(at(0), random()), name: "PHYSICS".to_owned() };
    refused(store.tenant_create(shouted, "test", at(2)).await, "tenant `PHYSICS` already exists, and is different");

    let name = |name: &str| TenantKey::Name(name.to_owned());
    for key in [TenantKey::Id(new.id), name("physics"), name("Physics")] {
        assert_eq!(store.tenant_get(key).await.expect("is there"), tenant);
    }
    let id = TenantId::new(at(0), random());
    refused(store.tenant_get(TenantKey::Id(id)).await, &format!("tenant `{id}` does not exist"));
    for name in ["physics ", "", "phys\0ics", "\u{feff}"] {
        let found = store.tenant_get(TenantKey::Name(name.to_owned())).await;
        refused(found, &format!("tenant `{name}` does not exist"));
    }
    let changes = log(store, 0).await;
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].noun, changes[0].state.as_str()), (Noun::Tenant, "created"));
    assert_eq!(changes[0].body.get(), serde_json::to_string(&tenant).expect("JSON"));
    for store in stores {
        store.close().await;
    }
}

async fn pages(fresh: &Fresh) {
    let store = fresh.open().await;
    let mut made = Vec::new();
    for n in 0..7 {
        made.push(tenant(&store, &format!("t{n}")).await);
    }
    made.sort();
    let mut found = Vec::new();
    loop {
        let (page, as_of) = store.tenant_list(found.last().copied(), 3).await.expect("a page");
        assert_eq!(as_of, 7);
        if page.is_empty() {
            break;
        }
        found.extend(page.into_iter().map(|tenant| tenant.id));
    }
    assert_eq!(found, made);
    store.close().await;
}

async fn opens_the_house_once(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let opened = join_all((0..8).map(|n| {
        let (tenant, admin, token) = house();
        let store = &stores[n % 2];
        async move { (store.house_open(tenant, admin, token.clone()).await.expect("is answered"), token) }
    }))
    .await;
    let won: Vec<_> = opened.iter().filter(|(won, _)| *won).collect();
    assert_eq!(won.len(), 1, "one of them opens it");
    let bearer = stores[0].token_bearer(won[0].1.token.id).await.expect("reads").expect("is there");
    assert!(bearer.tenant.is_house());
    assert_eq!((bearer.row.hash, bearer.user.name.as_str()), (won[0].1.hash, "admin"));
    assert_eq!(
        log(&stores[0], 0).await.iter().map(|change| change.noun).collect::<Vec<_>>(),
        [Noun::Tenant, Noun::User, Noun::Token]
    );
    for (_, token) in opened.iter().filter(|(won, _)| !won) {
        assert!(stores[0].token_bearer(token.token.id).await.expect("reads").is_none());
    }
    for store in stores {
        store.close().await;
    }
}
