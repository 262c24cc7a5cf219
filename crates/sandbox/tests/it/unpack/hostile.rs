//! Archives that mean harm: each ends in one clear error or a correct layer, and nothing else changes.

use super::tape::Head;
use super::{Packing, Room, Tape, listing};
use sandbox::unpack::UnpackError;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

/// Unpacks and expects a refusal that says so.
fn refused(name: &str, archive: &[u8], why: &str) {
    refused_packed(name, archive, Packing::Tar, why);
}

fn refused_packed(name: &str, archive: &[u8], packing: Packing, why: &str) {
    match Room::new().unpack(archive, packing) {
        Err(error @ (UnpackError::Archive(_) | UnpackError::Large(_))) => {
            let found = error.to_string();
            assert!(found.contains(why), "{name}: `{found}` does not say `{why}`");
            assert!(found.len() < 600 && !found.contains('\n'), "{name}: {found:?} is no clear sentence");
        }
        other => panic!("{name}: {other:?}"),
    }
}

/// Unpacks and expects these names, and no others, below the root.
fn harmless(name: &str, tape: Tape, expected: &[&str]) -> Room {
    let room = Room::new();
    room.unpack(&tape.end(), Packing::Tar).unwrap_or_else(|error| panic!("{name}: {error}"));
    let found = listing(&room.root());
    let found: Vec<_> = found.keys().filter(|path| !path.is_empty()).map(String::as_str).collect();
    assert_eq!(found, expected, "{name}");
    room
}

#[test]
fn paths_that_would_leave() {
    let tape = Tape::default;
    refused("up", &tape().file(b"../outside/secret", b"x").end(), "leads upwards");
    refused("up inside", &tape().file(b"a/../../outside/secret", b"x").end(), "leads upwards");
    refused("absolute up", &tape().file(b"/../outside/secret", b"x").end(), "leads upwards");
    refused("folder up", &tape().folder(b"../outside/new/").end(), "leads upwards");
    refused("pax up", &tape().pax(&[("path", b"../outside/secret")]).file(b"ok", b"x").end(), "leads upwards");
    refused("zero", &tape().pax(&[("path", b"a\0b")]).file(b"ok", b"x").end(), "zero byte");
    refused("empty", &tape().file(b"", b"x").end(), "is empty");
    refused("root is a file", &tape().file(b"./.", b"x").end(), "its own root");
    refused("root is a link", &tape().symlink(b".", b"/").end(), "its own root");
    refused("root is hidden", &tape().file(b".wh.", b"").end(), "hides what is no name");
    refused("parent is hidden", &tape().file(b"a/.wh...", b"").end(), "hides what is no name");
    refused("self is hidden", &tape().file(b"a/.wh..", b"").end(), "hides what is no name");
    refused("too long", &tape().pax(&[("path", &[b'a'; 5000])]).file(b"ok", b"").end(), "too long");
    refused("part too long", &tape().pax(&[("path", &[b'a'; 300])]).file(b"ok", b"").end(), "too long");
    refused("too deep", &tape().pax(&[("path", &b"a/".repeat(1000))]).file(b"ok", b"").end(), "too deep");
    harmless("absolute", tape().file(b"/etc/passwd", b"x"), &["etc", "etc/passwd"]);
    harmless("not UTF-8", tape().file(b"\xff\xfe\n\x1b[31m", b"x"), &["\u{fffd}\u{fffd}\n\u{1b}[31m"]);
    harmless("dots", tape().file(b"...", b"x").file(b"..a", b"x"), &["...", "..a"]);
}

#[test]
fn links_that_would_leave() {
    let tape = Tape::default;
    let through = "symbolic link";
    for target in [b"../outside".as_slice(), b"/", b"..", b"/proc/self/root", b"/proc/self/fd/0", b"."] {
        refused("write", &tape().symlink(b"out", target).file(b"out/secret", b"x").end(), through);
        refused("folder", &tape().symlink(b"out", target).folder(b"out/new/").end(), through);
        refused("chain", &tape().symlink(b"a", target).symlink(b"b", b"a").file(b"b/secret", b"x").end(), through);
        // Below a link there is nothing to hide, here or anywhere else.
        let hides = tape().symlink(b"out", target).file(b"out/.wh.secret", b"").file(b"out/.wh..wh..opq", b"");
        harmless("whiteouts", hides, &["out"]);
        refused(
            "link",
            &tape().symlink(b"out", target).hard_link(b"mine", b"out/secret").end(),
            "no file of this layer",
        );
    }
    refused("hard link up", &tape().hard_link(b"mine", b"../outside/secret").end(), "leads upwards");
    refused("hard link absolute", &tape().hard_link(b"mine", b"/outside/secret").end(), "no file of this layer");
    refused("hard link to a folder", &tape().folder(b"d/").hard_link(b"mine", b"d").end(), "no file of this layer");
    refused("hard link to the root", &tape().hard_link(b"mine", b"/").end(), "no file of this layer");
    refused("hard link to nothing", &tape().hard_link(b"a", b"b").hard_link(b"b", b"a").end(), "no file of this layer");
    refused(
        "hard link into what it replaces",
        &tape().file(b"d/f", b"").hard_link(b"d", b"d/f").end(),
        "no file of this layer",
    );
    refused(
        "hard link to a whiteout",
        &tape().file(b".wh.w", b"").hard_link(b"x", b"w").end(),
        "no file of this layer",
    );
    refused("link to nowhere", &tape().symlink(b"s", b"").end(), "leads nowhere");
    refused("loop", &tape().symlink(b"a", b"b").symlink(b"b", b"a").file(b"a/f", b"").end(), through);
    // A link is replaced, and what it leads to stays as it is; a hard link to a link is one more link.
    harmless("file for a link", tape().symlink(b"s", b"../outside/secret").file(b"s", b"x"), &["s"]);
    harmless("hard link to a link", tape().symlink(b"s", b"../outside/secret").hard_link(b"t", b"s"), &["s", "t"]);
    let room = harmless(
        "write through a hard link",
        tape().symlink(b"s", b"../outside/secret").hard_link(b"t", b"s").file(b"t", b"x"),
        &["s", "t"],
    );
    assert!(room.root().join("s").is_symlink());
    harmless("link to itself", tape().file(b"a", b"x").hard_link(b"a", b"a"), &["a"]);
}

#[test]
fn names_that_collide() {
    let tape = Tape::default;
    refused("file then folder below", &tape().file(b"a", b"x").file(b"a/b", b"x").end(), "no folder");
    refused("fifo then folder below", &tape().head(Head::new(b'6', b"a")).file(b"a/b", b"x").end(), "no folder");
    let covered =
        tape().file(b"a", b"x").file(b"a/.wh.b", b"").file(b"a/b/.wh.c", b"").file(b"a/b/c/.wh..wh..opq", b"");
    harmless("whiteouts below a file", covered, &["a"]);
    harmless("whiteouts below a whiteout", tape().file(b".wh.a", b"").file(b"a/b/.wh.c", b""), &["a", "a/b", "a/b/c"]);
    harmless("a whiteout of a whiteout", tape().file(b".wh..wh.a", b""), &[]);
    harmless("twice", tape().file(b".wh.a", b"").file(b".wh.a", b""), &["a"]);
    let mut deep = tape().folder(b"d/");
    for _ in 0..50 {
        deep = deep.file(b"d/a/b/c/d/e/f", b"").file(b"d", b"").file(b".wh.d", b"").folder(b"d/");
    }
    harmless("a folder that comes and goes", deep, &["d"]);
}

#[test]
fn device_nodes_are_left_out() {
    let tape = Tape::default()
        .head(Head::new(b'3', b"mem").octal(329, 8, 1).octal(337, 8, 1))
        .head(Head::new(b'4', b"disk").octal(329, 8, 8).octal(337, 8, 0))
        .head(Head::new(b'3', b"whiteout"))
        .head(Head::new(b'g', b"global").size(0))
        .head(Head::new(b'V', b"label"))
        .head(Head::new(b'Z', b"unknown").size(700))
        .content(&[1; 700])
        .file(b"after", b"");
    harmless("devices", tape.clone(), &["after"]);
    assert_eq!(Room::new().unpack(&tape.end(), Packing::Tar).expect("it unpacks").skipped, 5);
}

#[test]
fn numbers_that_lie() {
    let tape = Tape::default;
    let file = || Head::new(b'0', b"f");
    refused("endless", &tape().head(file().size((8 << 30) - 1)).end(), "more than");
    refused("negative", &tape().head(file().bytes(124, &[0xff; 12])).end(), "no number");
    refused("most negative", &tape().head(file().bytes(124, b"\xc0\0\0\0\0\0\0\0\0\0\0\0")).end(), "no number");
    refused(
        "too large",
        &tape().head(file().bytes(124, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")).end(),
        "no number",
    );
    refused(
        "nearly too large",
        &tape().head(file().bytes(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")).end(),
        "more than",
    );
    refused("pax size", &tape().pax(&[("size", b"18446744073709551615")]).head(file()).end(), "more than");
    refused("pax size overflows", &tape().pax(&[("size", b"99999999999999999999")]).head(file()).end(), "no number");
    refused("pax negative", &tape().pax(&[("size", b"-1")]).head(file()).end(), "no number");
    refused(
        "unknown sort, endless",
        &tape().head(Head::new(b'Z', b"z").bytes(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")).end(),
        "ends in the middle",
    );
    refused("octal that is none", &tape().head(file().bytes(124, b"0000000009\0\0")).end(), "no number");
    if rustix::process::geteuid().is_root() {
        refused("foreign owner", &tape().head(file().owner(65_536, 0)).end(), "belongs to id 65536");
        refused("owner beyond", &tape().head(file().bytes(108, &[0xff; 8])).end(), "belongs to id");
        refused("pax owner", &tape().pax(&[("gid", b"4294967296")]).head(file()).end(), "belongs to id 4294967296");
    }
    let times = tape()
        .pax(&[("mtime", b"9223372036854775807")])
        .file(b"late", b"")
        .pax(&[("mtime", b"-9223372036854775807.999")])
        .file(b"early", b"");
    harmless("times", times, &["early", "late"]);
    let smuggled = Tape::default().file(b"inner", b"x").0;
    let link = tape().head(Head::new(b'1', b"l").link(b"f").size(smuggled.len() as u64));
    harmless(
        "a link has no content",
        Tape([tape().file(b"f", b"").0, link.0, smuggled].concat()),
        &["f", "inner", "l"],
    );
}

#[test]
fn headers_without_end() {
    let tape = Tape::default;
    refused("long name", &tape().head(Head::new(b'L', b"l").size((8 << 30) - 1)).end(), "headers of one entry");
    refused("pax", &tape().head(Head::new(b'x', b"x").size((8 << 30) - 1)).end(), "headers of one entry");
    let mut many = tape();
    for _ in 0..5000 {
        many = many.head(Head::new(b'x', b"x").size(0));
    }
    refused("many", &many.end(), "headers of one entry");
    let mut global = tape();
    for _ in 0..5000 {
        global = global.head(Head::new(b'g', b"g").size(0));
    }
    refused("global", &global.end(), "headers of one entry");
    refused("extension of nothing", &tape().pax(&[("path", b"a")]).end(), "should follow");
    refused("broken sum", &tape().file(b"a", b"").0.iter().map(|byte| byte ^ 1).collect::<Vec<_>>(), "no tar archive");
    refused("text", &b"#!/bin/sh\n".repeat(200), "no tar archive");
    refused(
        "record",
        &tape().head(Head::new(b'x', b"x").size(9)).content(b"99 path=a").file(b"a", b"").end(),
        "PAX record is broken",
    );
    let attributes: Vec<_> = (0..100).map(|at| format!("SCHILY.xattr.user.a{at}")).collect();
    let bomb: Vec<_> = attributes.iter().map(|name| (name.as_str(), b"v".as_slice())).collect();
    refused("attributes", &tape().pax(&bomb).file(b"a", b"").end(), "more than 64 attributes");
    let long = vec![b'v'; 100_000];
    refused("attribute", &tape().pax(&[("SCHILY.xattr.user.a", &long)]).file(b"a", b"").end(), "do not fit");
    let many = [("SCHILY.xattr.user.a", vec![b'v'; 60_000]), ("SCHILY.xattr.user.b", vec![b'w'; 60_000])];
    let many: Vec<_> = many.iter().map(|(name, value)| (*name, value.as_slice())).collect();
    match Room::new().unpack(&tape().pax(&many).file(b"a", b"").end(), Packing::Tar) {
        Ok(_) | Err(UnpackError::Archive(_)) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn sparse_files_that_lie() {
    let tape = Tape::default;
    let old = |offset: u64, length: u64, real: u64| {
        Head::new(b'S', b"s").size(512).octal(386, 12, offset).octal(398, 12, length).octal(483, 12, real)
    };
    let fit = "map of a sparse file";
    refused("beyond", &tape().head(old(0, 1 << 30, 512)).content(&[1; 512]).end(), fit);
    refused("short", &tape().head(old(0, 100, 512)).content(&[1; 512]).end(), fit);
    refused("huge", &tape().head(old((8 << 30) - 513, 512, (8 << 30) - 1)).content(&[1; 512]).end(), "more than");
    refused(
        "backwards",
        &tape().head(old(512, 256, 1024).octal(410, 12, 0).octal(422, 12, 256)).content(&[1; 512]).end(),
        fit,
    );
    refused("no number", &tape().head(old(0, 512, 512).bytes(398, b"99999999999\0")).content(&[1; 512]).end(), fit);
    let mut endless = tape().head(old(0, 512, 512).bytes(482, b"\x01"));
    for _ in 0..5 {
        let mut block = [0; 512];
        block[504] = 1;
        endless = endless.content(&block);
    }
    refused("endless map", &endless.end(), fit);
    let new = |map: &[u8]| {
        let padded = [map, &vec![0; map.len().next_multiple_of(512) - map.len()]].concat();
        tape().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"4096")]).file(b"s", &padded).end()
    };
    refused("map of words", &new(b"what\n"), fit);
    refused("map of many", &new(b"99999999\n"), "too many stretches");
    refused("map without end", &new(&[b'1'; 512]), fit);
    refused("map that ends", &new(b"5\n1\n"), fit);
    refused("no map", &new(b""), fit);
    refused(
        "pairs",
        &tape().pax(&[("GNU.sparse.map", b"0,1,2,3"), ("GNU.sparse.size", b"9")]).file(b"s", b"12345").end(),
        fit,
    );
    refused("half a pair", &tape().pax(&[("GNU.sparse.numbytes", b"1")]).file(b"s", b"1").end(), "no offset");
    refused(
        "overflow",
        &tape()
            .pax(&[("GNU.sparse.map", b"18446744073709551615,5"), ("GNU.sparse.size", b"9")])
            .file(b"s", b"12345")
            .end(),
        fit,
    );
}

#[test]
fn bombs_end_at_a_bound() {
    let zeros = |megabytes: usize| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let file = Tape::default().head(Head::new(b'0', b"f").size((megabytes as u64) << 20)).0;
        packer.write_all(&file).expect("a vector takes it");
        for _ in 0..megabytes {
            packer.write_all(&[0; 1 << 20]).expect("a vector takes it");
        }
        packer.finish().expect("a vector takes it")
    };
    refused_packed("file", &zeros(65), Packing::Gzip, "more than 67108864 bytes");
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&Tape::default().file(b"f", b"").end()).expect("a vector takes it");
    for _ in 0..20 {
        packer.write_all(&[0; 1 << 20]).expect("a vector takes it");
    }
    refused_packed("trailer", &packer.finish().expect("a vector takes it"), Packing::Gzip, "follow its end");
    let mut many = Tape::default();
    for at in 0..20_001 {
        many = many.file(format!("f{}", at % 10).as_bytes(), b"");
    }
    refused("entries", &many.end(), "more than 20000 entries");
    let room = Room::new();
    let mut spread = Tape::default();
    for at in 0..5_000 {
        spread = spread.folder(format!("d{}/e{}/", at % 50, at).as_bytes());
    }
    assert_eq!(room.unpack(&spread.end(), Packing::Tar).expect("it unpacks").entries, 5_000);
    assert_eq!(std::fs::metadata(room.root().join("d0")).expect("is there").nlink(), 102);
}

#[test]
fn packings_that_are_broken() {
    let archive = Tape::default().file(b"f", &[7; 5000]).end();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&archive).expect("a vector takes it");
    let gzip = packer.finish().expect("a vector takes it");
    let zstd = zstd::encode_all(archive.as_slice(), 3).expect("it packs");
    refused_packed("gzip, cut", &gzip[..gzip.len() / 2], Packing::Gzip, "packing is broken");
    refused_packed("gzip, sum cut", &gzip[..gzip.len() - 4], Packing::Gzip, "packing is broken");
    let mut wrong = gzip.clone();
    let at = wrong.len() - 6;
    wrong[at] ^= 1;
    refused_packed("gzip, wrong sum", &wrong, Packing::Gzip, "packing is broken");
    refused_packed(
        "gzip, garbage behind",
        &[gzip.as_slice(), b"garbage that is no member"].concat(),
        Packing::Gzip,
        "packing is broken",
    );
    refused_packed("no gzip", &archive, Packing::Gzip, "packing is broken");
    refused_packed("zstd, cut", &zstd[..zstd.len() / 2], Packing::Zstd, "packing is broken");
    refused_packed("no zstd", &archive, Packing::Zstd, "packing is broken");
    refused_packed("zstd, garbage behind", &[zstd.as_slice(), b"garbage"].concat(), Packing::Zstd, "packing is broken");
    // A window of 2 GiB, and a frame that needs a dictionary.
    refused_packed("window", b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00", Packing::Zstd, "packing is broken");
    refused_packed(
        "dictionary",
        b"\x28\xb5\x2f\xfd\x23\x78\x56\x34\x12\x05\x29\x00\x00hello",
        Packing::Zstd,
        "packing is broken",
    );
    refused("cut in a file", &archive[..1024], "ends in the middle");
    refused("cut in a header", &archive[..300], "ends in the middle");
    // Archives without their two empty blocks, and with something behind them, are read as `tar` reads them.
    harmless("no end", Tape(Tape::default().file(b"f", b"x").0), &["f"]);
    let behind = Tape([Tape::default().file(b"f", b"x").end(), b"garbage".to_vec()].concat());
    assert_eq!(Room::new().unpack(&behind.0, Packing::Tar).expect("it unpacks").entries, 1);
    assert_eq!(Room::new().unpack(b"", Packing::Tar).expect("an empty archive is one").entries, 0);
}
