//! Archives of every sort become images.

use crate::peer::archive;
use crate::room::{Room, Sample, impatient, list_layers};
use model::image::{ArchiveKind, ImageConfig, ImageSource, Packing};
use node::image::Step;
use std::io::Write;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).expect("a vector takes it");
    packer.finish().expect("a vector takes it")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("it packs")
}

#[tokio::test]
async fn a_layout_and_a_saved_image_become_what_umoci_makes_of_them() {
    let sample = Sample::new();
    let (layout, docker) = (sample.tar(), sample.docker());
    let cases = [
        (layout.clone(), ArchiveKind::Auto),
        (layout.clone(), ArchiveKind::OciLayout),
        (gzip(&layout), ArchiveKind::Auto),
        (zstd(&layout), ArchiveKind::Auto),
        (docker.clone(), ArchiveKind::Auto),
        (gzip(&docker), ArchiveKind::DockerArchive),
    ];
    for (at, (archive, kind)) in cases.into_iter().enumerate() {
        let room = Room::new().await;
        let made = room.import(&archive, kind, ImageConfig::default()).await;
        let made = made.unwrap_or_else(|error| panic!("{at}: {error}"));
        assert_eq!(made.config, Sample::config(), "{at}");
        assert_eq!((made.layers.len(), made.platform.os.as_str()), (3, "linux"), "{at}");
        for layer in &made.layers {
            assert_eq!(std::fs::metadata(room.shop.path(layer.blob)).expect("is stored").len(), layer.size, "{at}");
        }
        let set = room.layers(&made).await;
        let (found, expected) = (list_layers(&set), sample.listing());
        assert!(expected.lines().count() > 15 && expected.contains("etc/link l 777 7 8"), "{expected}");
        assert_eq!(found, expected, "{at}");
    }
}

#[tokio::test]
async fn of_several_images_in_a_layout_the_one_is_taken_that_is_named() {
    let sample = Sample::new();
    let layout = sample.tar_of_two();
    let import = async |reference: Option<&str>| {
        let room = Room::new().await;
        let mut order = room.order(&layout, ArchiveKind::Auto, ImageConfig::default());
        let ImageSource::Archive { reference: meant, .. } = &mut order.source else { panic!("is an archive") };
        *meant = reference.map(str::to_owned);
        room.make(&order, impatient()).await.map(|made| made.config.cmd).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            format!("{error}: {cause}")
        })
    };
    assert_eq!(import(Some("good")).await.expect("is made"), Sample::config().cmd);
    assert_eq!(import(Some("other")).await.expect("is made"), ["/bin/other"]);
    let error = import(None).await.expect_err("is not clear");
    assert!(error.contains("it holds several images: `good`, `other` (hint: `--reference` names"), "{error}");
    let error = import(Some("third")).await.expect_err("is not there");
    assert!(error.contains("it holds no image `third`, only `good`, `other`"), "{error}");
}

#[tokio::test]
async fn a_root_archive_is_one_layer_and_takes_its_settings_from_the_order() {
    let plain = archive("bin/tool", b"tool");
    let config = ImageConfig { cmd: vec!["/bin/tool".to_owned()], ..ImageConfig::default() };
    for (bytes, packing) in
        [(plain.clone(), Packing::Tar), (gzip(&plain), Packing::Gzip), (zstd(&plain), Packing::Zstd)]
    {
        for kind in [ArchiveKind::Auto, ArchiveKind::Root] {
            let room = Room::new().await;
            let made = room.import(&bytes, kind, config.clone()).await.expect("it is made");
            assert_eq!((made.layers[0].packing, made.layers[0].size), (packing, bytes.len() as u64));
            assert_eq!(made.config, config);
            assert_eq!(made.layers[0].diff_id, crate::peer::sha256(&plain));
            assert!(list_layers(&room.layers(&made).await).contains("bin/tool f 644 0 0"));
            assert!(room.steps.lock().expect("nobody panics").contains(&Step::Unpacking { layer: 1, layers: 1 }));
        }
    }
}

#[tokio::test]
async fn settings_of_an_order_replace_those_of_an_archive() {
    let room = Room::new().await;
    let order = ImageConfig {
        entrypoint: vec!["/e".to_owned()],
        user: Some("0".to_owned()),
        runtime: Some("runc".to_owned()),
        ..ImageConfig::default()
    };
    let made = room.import(&Sample::new().tar(), ArchiveKind::Auto, order.clone()).await.expect("it is made");
    let expected =
        ImageConfig { entrypoint: order.entrypoint, user: order.user, runtime: order.runtime, ..Sample::config() };
    assert_eq!(made.config, expected);
}
