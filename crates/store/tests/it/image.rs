//! Images in the store: what a node says of one is not believed, and what nobody needs any more goes, and nothing else.

use crate::engine::{Fresh, on_both_engines};
use crate::node::{finished, held, join, manifest, new_image, report};
use crate::sample::{accepted, at, execution, refused, tenant};
use model::image::{ArchiveKind, ImageFreed};
use model::sandbox::FileIn;
use model::{
    Blob, Digest, Image, ImageConfig, ImageQuery, ImageSource, ImageState, Input, Manifest, NewExecution, NewImage,
    NewNode, Outcome, Purpose, Sandbox, TenantId,
};
use store::{ImageKey, Store};

on_both_engines!(
    believes_no_manifest,
    keeps_a_foreign_cause,
    lists_by_name_and_state,
    frees_what_nobody_needs_and_nothing_else,
    takes_the_place_of_what_is_the_same,
    spares_what_is_in_the_making,
    gives_nobody_content_that_is_being_removed,
);

const HOUR: i64 = 3_600_000;
const MINUTE: i64 = HOUR / 60;

fn blob(number: u8) -> Blob {
    Blob {
        digest: Digest::from_bytes([number; 32]),
        size: u64::from(number),
        created_at: at(0),
        purpose: Purpose::Kept,
    }
}

async fn store_for(purpose: Purpose, number: u8, ms: i64, store: &Store, whose: TenantId) {
    let blob = Blob { created_at: at(ms), purpose, ..blob(number) };
    store.blob_create(blob, whose, "ann").await.expect("is noted");
}

fn made_of(numbers: &[u8]) -> Manifest {
    let one = |number: &u8| manifest(blob(*number), "amd64").layers.remove(0);
    Manifest { layers: numbers.iter().map(one).collect(), ..manifest(blob(0), "amd64") }
}

/// Asks for an image, and has a node begin with it.
async fn begin(store: &Store, whose: TenantId, node: &NewNode, new: &NewImage, ms: i64) -> model::node::Held {
    store.image_create(new.clone(), whose, "ann", at(ms)).await.expect("is asked for");
    let heard = store.node_exchange(report(node, whose, ms)).await.expect("is heard");
    held(&heard.assigned[0])
}

/// Ends the making of an image with what a node says it is made of; with nothing, it has failed.
async fn end(
    store: &Store,
    whose: TenantId,
    node: &NewNode,
    (new, held): (&NewImage, model::node::Held),
    made: Option<Manifest>,
    ms: i64,
) -> Image {
    let mut done = finished(node, whose, held, ms);
    if made.is_none() {
        done.sync.finished[0].outcome =
            Outcome::SetUpFailed { cause: "no reason".to_owned(), fault: model::execution::SetUpFault::Machine };
    }
    done.sync.finished[0].manifest = made;
    assert_eq!(store.node_exchange(done).await.expect("is heard").refused, []);
    store.image_get(ImageKey::Id(new.id), None, whose).await.expect("is there")
}

async fn make(store: &Store, whose: TenantId, node: &NewNode, made: Manifest, ms: i64) -> Image {
    let new = new_image(ms);
    let held = begin(store, whose, node, &new, ms).await;
    end(store, whose, node, (&new, held), Some(made), ms).await
}

/// The same, while the node holds something else.
async fn make_beside(
    store: &Store,
    whose: TenantId,
    node: &NewNode,
    (made, other): (Manifest, model::node::Held),
    ms: i64,
) -> Image {
    let new = new_image(ms);
    store.image_create(new.clone(), whose, "ann", at(ms)).await.expect("is asked for");
    let mut said = report(node, whose, ms);
    said.sync.held = vec![other];
    let heard = store.node_exchange(said).await.expect("is heard");
    let mut done = finished(node, whose, held(&heard.assigned[0]), ms);
    done.sync.held = vec![other];
    done.sync.finished[0].manifest = Some(made);
    assert_eq!(store.node_exchange(done).await.expect("is heard").refused, []);
    store.image_get(ImageKey::Id(new.id), None, whose).await.expect("is there")
}

/// Drops what is not needed; returns how many that were, and says what of some blobs is left.
async fn gc(store: &Store, whose: TenantId, ms: i64) -> ImageFreed {
    store.image_gc(whose, "ann", at(ms)).await.expect("drops")
}

async fn had(store: &Store, whose: TenantId) -> Vec<u64> {
    let (blobs, _) = store.blob_list(whose, None, 100).await.expect("lists");
    blobs.iter().map(|blob| blob.size).collect()
}

async fn believes_no_manifest(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let node = join(&store, ours, "one", 0).await;
    store_for(Purpose::Image, 7, 0, &store, ours).await;
    store_for(Purpose::Image, 8, 0, &store, theirs).await;
    let mut ms = 0;
    let mut check = async |made: Manifest, why: &str| {
        ms += 10;
        let image = make(&store, ours, &node, made, ms).await;
        let expected = (ImageState::Failed, Some(why), None);
        assert_eq!((image.state, image.cause.as_deref(), image.manifest), expected);
    };
    let layer = format!("sha256:{}", "a".repeat(64));
    let not_ours = format!("its layer `{layer}` is said to be blob `{}`, which the tenant has not", blob(8).digest);
    check(made_of(&[8]), &not_ours).await;
    check(made_of(&[7, 8]), &not_ours).await;
    let longer =
        Manifest { layers: vec![model::image::Layer { size: 9, ..made_of(&[7]).layers[0].clone() }], ..made_of(&[]) };
    check(longer, &format!("its layer `{layer}` is said to have 9 bytes, and blob `{}` has 7", blob(7).digest)).await;
    let strange = Manifest { digest: "sha256:../../etc".to_owned(), ..made_of(&[7]) };
    check(strange, "a digest of an image is `sha256:` and 64 hexadecimal digits").await;
    assert_eq!(make(&store, ours, &node, made_of(&[7]), 100).await.state, ImageState::Ready);
    store.close().await;
}

async fn keeps_a_foreign_cause(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let new = new_image(10);
    let held = begin(&store, ours, &node, &new, 10).await;
    let mut done = finished(&node, ours, held, 20);
    let cause = "its system is `a\0b`".to_owned();
    done.sync.finished[0].outcome = Outcome::SetUpFailed { cause, fault: model::execution::SetUpFault::Refused };
    assert_eq!(store.node_exchange(done).await.expect("is heard").refused, []);
    let image = store.image_get(ImageKey::Id(new.id), None, ours).await.expect("is there");
    assert_eq!((image.state, image.cause.as_deref()), (ImageState::Failed, Some("its system is `ab`")));
    store.close().await;
}

async fn lists_by_name_and_state(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    store_for(Purpose::Image, 7, 0, &store, ours).await;
    let ready = make(&store, ours, &node, made_of(&[7]), 10).await;
    let mut failed = Vec::new();
    for ms in [20, 30, 40] {
        failed.push(make(&store, ours, &node, made_of(&[8]), ms).await.id);
    }
    failed.reverse();
    let list = async |name: &str, state, limit| {
        let query = ImageQuery { name: Some(name.to_owned()), state, ..ImageQuery::default() };
        let (images, _) = store.image_list(ours, &query, limit).await.expect("a page");
        images.into_iter().map(|image| image.id).collect::<Vec<_>>()
    };
    assert_eq!(list("box", Some(ImageState::Ready), 2).await, [ready.id], "those that failed fill no page of it");
    assert_eq!(list("box", Some(ImageState::Failed), 2).await, failed[..2]);
    assert_eq!(list("box", None, 9).await.len(), 4);
    assert_eq!(list("other", Some(ImageState::Ready), 2).await, []);
    store.close().await;
}

async fn frees_what_nobody_needs_and_nothing_else(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let node = join(&store, ours, "one", 0).await;
    for number in 1..=7 {
        store_for(Purpose::Image, number, 0, &store, ours).await;
    }
    // 2 is stored for itself after, and 8 before it is a layer as well.
    store_for(Purpose::Kept, 2, 1, &store, ours).await;
    store_for(Purpose::Kept, 8, 0, &store, ours).await;
    store_for(Purpose::Image, 8, 1, &store, ours).await;
    store_for(Purpose::Image, 4, 0, &store, theirs).await;
    for (number, purpose) in [(1, Purpose::Image), (2, Purpose::Kept), (8, Purpose::Kept)] {
        assert_eq!(store.blob_get(blob(number).digest, ours).await.expect("is there").purpose, purpose, "{number}");
    }
    let first = make(&store, ours, &node, made_of(&[1, 2, 3, 4, 5, 6, 8]), 10).await;
    let second = make(&store, ours, &node, made_of(&[3, 7]), 20).await;
    // 5 is a file of an execution that waits, 6 the input of another.
    let file = FileIn { digest: blob(5).digest, target: "/f".to_owned(), executable: false };
    let waits = NewExecution { sandbox: Sandbox { files: vec![file], ..Sandbox::default() }, ..execution(30) };
    accepted(&store, &waits, ours, 30).await;
    let reads = NewExecution { input: Input::Blob { digest: blob(6).digest }, ..execution(31) };
    accepted(&store, &reads, ours, 31).await;
    assert_eq!(gc(&store, ours, 40).await, ImageFreed::default(), "all of it is needed");
    store.image_remove(first.id, None, "ann", at(50)).await.expect("is removed");
    assert_eq!(gc(&store, ours, 100_000).await, ImageFreed { blobs: 2, bytes: 1 + 4 });
    assert_eq!(had(&store, ours).await, [2, 3, 5, 6, 7, 8]);
    assert_eq!(had(&store, theirs).await, [4]);
    let first = blob(1).digest;
    assert_eq!(store.removal_list(at(2 * HOUR)).await.expect("lists"), [first], "the other tenant's bytes stay");
    // One server removes it; who died meanwhile is not waited for.
    assert!(store.removal_take(first, at(2 * HOUR)).await.expect("is told"));
    assert!(!store.removal_take(first, at(2 * HOUR + MINUTE)).await.expect("is told"), "another has begun");
    assert_eq!(store.removal_list(at(2 * HOUR + MINUTE)).await.expect("lists"), []);
    assert_eq!(store.removal_list(at(2 * HOUR + 11 * MINUTE)).await.expect("lists"), [first]);
    assert!(store.removal_take(first, at(2 * HOUR + 11 * MINUTE)).await.expect("is told"));
    store.removal_end(blob(1).digest).await.expect("is noted");
    assert_eq!(gc(&store, ours, 2 * HOUR).await, ImageFreed::default());
    store.execution_cancel(waits.id, None, "ann", at(60)).await.expect("ends");
    store.execution_cancel(reads.id, None, "ann", at(60)).await.expect("ends");
    store.image_remove(second.id, None, "ann", at(60)).await.expect("is removed");
    assert_eq!(gc(&store, ours, 2 * HOUR).await, ImageFreed { blobs: 4, bytes: 3 + 5 + 6 + 7 });
    assert_eq!(had(&store, ours).await, [2, 8], "what is kept for itself stays");
    // The other tenant's own clearing ends it.
    assert_eq!(gc(&store, theirs, 2 * HOUR).await.blobs, 1);
    assert!(store.removal_list(at(2 * HOUR)).await.expect("lists").contains(&blob(4).digest));
    store.close().await;
}

/// An image that is pulled again and again is there once; whoever named an older one by its id means the newest.
async fn takes_the_place_of_what_is_the_same(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    for number in [1, 2] {
        store_for(Purpose::Image, number, 0, &store, ours).await;
    }
    let first = make(&store, ours, &node, made_of(&[1]), 10).await;
    let waits = NewExecution { image: Some("box".to_owned()), ..execution(20) };
    store.execution_accept_in(&waits, &first, ("ann", at(20)), || {}).await.expect("is accepted");
    let heard = store.node_exchange(report(&node, ours, 20)).await.expect("is heard");
    let runs = held(&heard.assigned[0]);
    let other = make_beside(&store, ours, &node, (made_of(&[2]), runs), 30).await;
    let second = make_beside(&store, ours, &node, (made_of(&[1]), runs), 40).await;
    let state = async |id| store.image_get(ImageKey::Id(id), None, ours).await.map(|image| (image.state, image.cause));
    let why = Some("the same image was made again".to_owned());
    assert_eq!(state(first.id).await.expect("is there"), (ImageState::Gone, why));
    assert_eq!(state(other.id).await.expect("is there"), (ImageState::Ready, None), "it only has the same name");
    for name in ["box".to_owned(), first.id.to_string(), second.id.to_string()] {
        assert_eq!(store.image_resolve(&name, ours).await.expect("is ready").id, second.id, "{name}");
    }
    // What runs in it keeps it, however old it is.
    assert_eq!(store.images_retain(at(HOUR), at(2 * HOUR)).await.expect("looks"), 0);
    assert_eq!(gc(&store, ours, 2 * HOUR).await, ImageFreed::default());
    store.node_exchange(finished(&node, ours, runs, 50)).await.expect("is heard");
    assert_eq!(gc(&store, ours, 2 * HOUR).await, ImageFreed::default(), "what took its place needs the same");
    assert!(store.image_resolve(&first.id.to_string(), ours).await.is_err(), "it was cleared away");
    assert_eq!(store.images_retain(at(HOUR), at(2 * HOUR)).await.expect("forgets"), 1);
    assert!(state(first.id).await.is_err());
    // Who was removed by a user has no successor.
    store.image_remove(other.id, None, "ann", at(60)).await.expect("is removed");
    make(&store, ours, &node, made_of(&[2]), 70).await;
    assert!(store.image_resolve(&other.id.to_string(), ours).await.is_err());
    store.close().await;
}

async fn spares_what_is_in_the_making(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    // 1 is an old layer that is stored again, 2 a new one, 3 the archive of an import that waits, 4 nobody's.
    for number in [1, 3, 4] {
        store_for(Purpose::Image, number, -5 * HOUR, &store, ours).await;
    }
    let source = ImageSource::Archive {
        blob: blob(3).digest,
        archive: ArchiveKind::Auto,
        reference: None,
        config: ImageConfig::default(),
    };
    let (pull, import) = (new_image(10), NewImage { source, ..new_image(30) });
    let pulling = begin(&store, ours, &node, &pull, 10).await;
    store.image_create(import.clone(), ours, "ann", at(30)).await.expect("is asked for");
    for number in [1, 2] {
        store_for(Purpose::Image, number, 40, &store, ours).await;
    }
    assert_eq!(gc(&store, ours, 4 * HOUR).await, ImageFreed { blobs: 1, bytes: 4 });
    assert_eq!(had(&store, ours).await, [1, 2, 3]);
    let image = end(&store, ours, &node, (&pull, pulling), Some(made_of(&[1])), 50).await;
    assert_eq!(image.state, ImageState::Ready);
    // What a making left that failed stays for an hour, in case it is tried again.
    let heard = store.node_exchange(report(&node, ours, 50)).await.expect("is heard");
    let importing = held(&heard.assigned[0]);
    store_for(Purpose::Image, 5, 50, &store, ours).await;
    assert_eq!(end(&store, ours, &node, (&import, importing), None, 50).await.state, ImageState::Failed);
    gc(&store, ours, HOUR / 2).await;
    assert_eq!(had(&store, ours).await, [1, 2, 5], "only what is old goes");
    gc(&store, ours, 2 * HOUR).await;
    assert_eq!(had(&store, ours).await, [1]);
    store.close().await;
}

async fn gives_nobody_content_that_is_being_removed(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    store_for(Purpose::Image, 7, 0, &store, ours).await;
    assert_eq!(gc(&store, ours, 2 * HOUR).await.blobs, 1);
    let digest = blob(7).digest;
    let words = format!("blob `{digest}` is being removed, and can be stored again in a moment");
    refused(store.blob_create(blob(7), theirs, "eve").await, &words);
    // Another server may not have seen that, and has made a row: its content is let be.
    let row = format!("INSERT INTO blob (tenant, digest, size, created_at) VALUES ('{theirs}', '{digest}', 7, 0)");
    fresh.raw().await.script(&row).await;
    assert!(store.removal_is_pending(digest).await.expect("is told"));
    assert_eq!(store.removal_list(at(2 * HOUR)).await.expect("lists"), []);
    assert!(!store.removal_take(digest, at(2 * HOUR)).await.expect("is told"));
    assert_eq!(store.removal_give_up(at(2 * HOUR)).await.expect("is done"), 0, "somebody may be removing it");
    assert_eq!(store.removal_give_up(at(3 * HOUR)).await.expect("is done"), 1);
    assert!(!store.removal_is_pending(digest).await.expect("is told"));
    store.blob_create(blob(7), ours, "ann").await.expect("is noted");
    store.close().await;
}
