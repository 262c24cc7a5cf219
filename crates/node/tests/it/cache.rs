//! The cache: one unpacking for many, what is used stays, what is not whole goes, and an end at the budget and the disk.

use crate::peer::archive;
use crate::room::{Room, Shop, impatient, list_layers, settings};
use model::Digest;
use model::image::{ArchiveKind, ImageConfig, Layer, Manifest, Packing, Platform};
use node::cache::{Cache, CacheError};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Stores a layer of one file and returns an image of it.
fn image(shop: &Shop, name: &str, bytes: usize) -> Manifest {
    let archive = archive(name, &vec![7; bytes]);
    let digest = crate::peer::sha256(&archive);
    let layer = Layer {
        blob: shop.add(&archive),
        size: archive.len() as u64,
        packing: Packing::Tar,
        digest: digest.clone(),
        diff_id: digest.clone(),
    };
    let platform = Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None };
    Manifest { digest, platform, config: ImageConfig::default(), layers: vec![layer] }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("cache/layers")).expect("is there");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("is there").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn is_there(folder: &Path, manifest: &Manifest) -> bool {
    names(folder).iter().any(|name| Some(name.as_str()) == manifest.layers[0].diff_id.strip_prefix("sha256:"))
}

#[tokio::test]
async fn many_that_need_one_layer_wait_for_one_unpacking() {
    let mut room = Room::new().await;
    room.shop.delay = Duration::from_millis(100);
    let manifest = image(&room.shop, "f", 10);
    let all = (0..16).map(|_| room.cache.layers(&manifest, &room.shop));
    let sets = futures_util::future::join_all(all).await;
    for set in &sets {
        assert_eq!(set.as_ref().expect("it is had").folders(), sets[0].as_ref().expect("it is had").folders());
    }
    assert_eq!(room.shop.fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn whoever_gives_up_leaves_the_layer_to_the_next() {
    let mut room = Room::new().await;
    room.shop.delay = Duration::from_millis(200);
    let manifest = image(&room.shop, "f", 10);
    let hurried = tokio::time::timeout(Duration::from_millis(50), room.cache.layers(&manifest, &room.shop));
    let (hurried, patient) = tokio::join!(hurried, room.cache.layers(&manifest, &room.shop));
    assert!(hurried.is_err());
    assert_eq!(patient.expect("it is had").count(), 1);
}

#[tokio::test]
async fn an_import_that_is_given_up_leaves_nothing() {
    let room = Room::new().await;
    let archive = crate::room::Sample::new().tar();
    for at in 0..40 {
        let order = room.order(&archive, ArchiveKind::Auto, ImageConfig::default());
        let import = room.attempt(&order, impatient());
        let _ = tokio::time::timeout(Duration::from_millis(at * 5), import).await;
    }
    // A child that was told to stop cleans up a moment later; the last import waits for none of them, but checks.
    for _ in 0..500 {
        if room.left().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    room.import(&archive, ArchiveKind::Auto, ImageConfig::default()).await.expect("it is made");
}

#[tokio::test]
async fn layers_lie_uppermost_first_and_once() {
    let room = Room::new().await;
    let (lower, upper) = (image(&room.shop, "f", 1), image(&room.shop, "f", 2));
    let layers = [&lower, &upper, &lower, &upper].map(|image| image.layers[0].clone()).to_vec();
    let set = room.layers(&Manifest { layers, ..lower.clone() }).await;
    let names: Vec<_> =
        set.folders().iter().map(|path| path.file_name().expect("has a name").to_string_lossy()).collect();
    let hex = |image: &Manifest| image.layers[0].diff_id.replace("sha256:", "");
    assert_eq!(names, [hex(&upper), hex(&lower)]);
    let listing = list_layers(&set);
    assert!(listing.starts_with("f f 644 0 0") && listing.contains(" 2 1 "), "{listing}");
}

#[tokio::test]
async fn what_is_used_least_goes_first_and_what_is_used_stays() {
    let (folder, shop) = (tempfile::tempdir().expect("is made"), Shop::new());
    let cache = Cache::open(settings(folder.path(), 350_000)).await.expect("it opens");
    let images: Vec<_> = (0..5).map(|at| image(&shop, &format!("f{at}"), 100_000)).collect();
    let held = cache.layers(&images[0], &shop).await.expect("it is had");
    for image in &images[1..3] {
        drop(cache.layers(image, &shop).await.expect("it is had"));
    }
    drop(cache.layers(&images[1], &shop).await.expect("it is had"));
    let next = cache.layers(&images[3], &shop).await.expect("it is had");
    let found: Vec<_> = images.iter().map(|image| is_there(folder.path(), image)).collect();
    assert_eq!(found, [true, true, false, true, false], "the one that nobody used for longest is gone");
    let last = cache.layers(&images[4], &shop).await.expect("it is had");
    match cache.layers(&images[2], &shop).await {
        Err(error @ CacheError::Budget { .. }) => {
            let used = 3 * (100_000 + 4096);
            let expected = format!(
                "the layers in use take {used} of the 350000 bytes that this node may keep, and 104096 more are needed"
            );
            assert_eq!((error.to_string(), error.is_machine()), (expected, true));
        }
        other => panic!("{other:?}"),
    }
    drop((held, next, last));
    cache.layers(&images[2], &shop).await.expect("there is room again");
    match cache.layers(&image(&shop, "huge", 400_000), &shop).await {
        Err(error @ CacheError::Large { .. }) => {
            let told = "has files of more than 350000 bytes, and this node keeps no more (`--cache`)";
            assert!(error.to_string().ends_with(told) && !error.is_machine(), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_restart_finds_what_is_whole_and_removes_the_rest() {
    let (folder, shop) = (tempfile::tempdir().expect("is made"), Shop::new());
    let (one, two) = (image(&shop, "one", 10), image(&shop, "two", 10));
    let cache = Cache::open(settings(folder.path(), 1 << 20)).await.expect("it opens");
    drop(cache.layers(&one, &shop).await.expect("it is had"));
    drop(cache.layers(&two, &shop).await.expect("it is had"));
    drop(cache);
    let layers = folder.path().join("cache/layers");
    let before = names(folder.path());
    fs::create_dir_all(layers.join(".new-7/etc")).expect("is made");
    fs::create_dir_all(layers.join(".old-7/etc")).expect("is made");
    fs::create_dir_all(layers.join("a".repeat(64))).expect("is made");
    fs::write(layers.join(format!("{}.json", "b".repeat(64))), "{}").expect("is written");
    fs::write(folder.path().join("cache/scratch/7"), "half").expect("is written");
    let cache = Cache::open(settings(folder.path(), 1 << 20)).await.expect("it opens");
    assert_eq!(names(folder.path()), before);
    assert_eq!(fs::read_dir(folder.path().join("cache/scratch")).expect("is there").count(), 0);
    let fetches = shop.fetches.load(Ordering::SeqCst);
    drop(cache.layers(&one, &shop).await.expect("it is had"));
    assert_eq!(shop.fetches.load(Ordering::SeqCst), fetches, "it was there");
    drop(cache);
    // Layers that were unpacked for other ids are of no use.
    let mut other = settings(folder.path(), 1 << 20);
    if let sandbox::Place::Range { first, .. } = &mut other.unpack.place {
        *first += 65_536;
        assert_eq!(Cache::open(other).await.expect("it opens").bytes(), 0);
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_full_disk_is_one_clear_error_and_the_cache_goes_on() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    /// A small disk, gone with the test.
    struct Disk(tempfile::TempDir);
    impl Drop for Disk {
        fn drop(&mut self) {
            let done = Command::new("umount").arg("-l").arg(self.0.path()).status().expect("umount is there");
            assert!(done.success());
        }
    }
    let disk = Disk(tempfile::tempdir().expect("is made"));
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(disk.0.path()).status();
    assert!(mounted.expect("mount is there").success());
    let shop = Shop::new();
    let cache = Cache::open(settings(disk.0.path(), 1 << 30)).await.expect("it opens");
    let (old, small, large) =
        (image(&shop, "old", 600_000), image(&shop, "small", 650_000), image(&shop, "large", 1_400_000));
    drop(cache.layers(&old, &shop).await.expect("it is had"));
    // The scratch copy and the layer fit only once the old one is gone.
    let held = cache.layers(&small, &shop).await.expect("room is made");
    match cache.layers(&large, &shop).await {
        Err(error @ CacheError::Full { .. }) => {
            let expected = format!("the disk of this node is full: layer `{}` does not fit", large.layers[0].diff_id);
            assert_eq!((error.to_string(), error.is_machine()), (expected, true));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(list_layers(&held).lines().count(), 1);
}

#[tokio::test]
async fn a_manifest_that_no_node_could_mount_is_refused() {
    let room = Room::new().await;
    let check = async |change: fn(&mut Manifest), why: &str| {
        let mut manifest = image(&room.shop, "f", 1);
        change(&mut manifest);
        let error = room.cache.layers(&manifest, &room.shop).await.expect_err("is refused").to_string();
        assert!(error.contains(why), "{error}");
    };
    check(|manifest| manifest.layers[0].diff_id = "sha256:../../../etc".to_owned(), "a digest").await;
    check(|manifest| manifest.layers = vec![manifest.layers[0].clone(); 129], "layers").await;
    check(|manifest| manifest.layers[0].blob = Digest::from_bytes([0; 32]), "cannot be fetched").await;
    let made = room.import(&archive("f", b"x"), ArchiveKind::Root, ImageConfig::default()).await.expect("it is made");
    assert_eq!(room.layers(&made).await.count(), 1);
}
