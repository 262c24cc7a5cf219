//! What an honest layer becomes.

use super::tape::Head;
use super::{Packing, Room, Tape, file_of, listing};
use sandbox::unpack::{UnpackError, unpack};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

const OPAQUE: &str = "user.overlay.opaque";

fn check(tape: Tape, expected: &[(&str, &str)]) -> Room {
    let room = Room::new();
    room.unpack(&tape.end(), Packing::Tar).expect("it unpacks");
    let found = listing(&room.root());
    let found: Vec<_> = found.iter().map(|(path, what)| (path.as_str(), what.as_str())).collect();
    assert_eq!(found, expected);
    room
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let length = rustix::fs::lgetxattr(path, name, buffer.as_mut_slice()).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

#[test]
fn every_sort_of_entry_is_written() {
    let name = [b"d/".as_slice(), &[b'n'; 200]].concat();
    let tape = Tape::default()
        .head(Head::new(b'5', b"./").mode(0o751))
        .head(Head::new(b'5', b"d/").mode(0o2750).owner(7, 8))
        .head(Head::new(b'0', b"d/f").mode(0o4711).owner(1000, 65_535).size(5))
        .content(b"hello")
        .symlink(b"d/s", b"/etc/passwd")
        .hard_link(b"h", b"./d/f")
        .head(Head::new(b'6', b"p").mode(0o622))
        .head(Head::new(b'3', b"dev").octal(329, 8, 1).octal(337, 8, 3))
        .head(Head::new(b'L', b"././@LongLink").size(name.len() as u64 + 1))
        .content(&[name.as_slice(), b"\0"].concat())
        .file(b"short", b"x")
        .pax(&[("path", b"line\nfeed"), ("mtime", b"1234567890.5"), ("uid", b"12")])
        .file(b"ignored", b"")
        .file(b"made/way", b"");
    let long = format!("d/{}", "n".repeat(200));
    let expected = [
        ("", "751 0:0 folder @1000000000"),
        ("d", "2750 7:8 folder @1000000000"),
        ("d/f", "4711 1000:65535 5 bytes, 2 links @1000000000"),
        (&long, "644 0:0 1 bytes, 1 links @1000000000"),
        ("d/s", "777 0:0 -> /etc/passwd @1000000000"),
        ("h", "4711 1000:65535 5 bytes, 2 links @1000000000"),
        ("line\nfeed", "644 12:0 0 bytes, 1 links @1234567890"),
        ("made", "755 0:0 folder @now"),
        ("made/way", "644 0:0 0 bytes, 1 links @1000000000"),
        ("p", "622 0:0 fifo @1000000000"),
    ];
    check(tape, &expected);
}

#[test]
fn a_whiteout_hides_what_lies_below_and_not_its_own_layer() {
    let tape = Tape::default()
        .folder(b"./")
        .file(b".wh.gone", b"")
        .file(b"kept", b"x")
        .file(b".wh.kept", b"")
        .folder(b"full/")
        .file(b"full/.wh..wh..opq", b"")
        .file(b"full/own", b"")
        .file(b".wh.again", b"")
        .folder(b"again/")
        .file(b".wh.parent", b"")
        .file(b"parent/child", b"")
        .folder(b"own/")
        .file(b".wh.own", b"")
        .file(b".wh..wh.plnk", b"");
    let expected = [
        ("", "755 0:0 folder @1000000000"),
        ("again", "755 0:0 folder @1000000000"),
        ("full", "755 0:0 folder @1000000000"),
        ("full/own", "644 0:0 0 bytes, 1 links @1000000000"),
        ("gone", "0 0:0 device 0 @now"),
        ("kept", "644 0:0 1 bytes, 1 links @1000000000"),
        ("own", "755 0:0 folder @1000000000"),
        ("parent", "755 0:0 folder @now"),
        ("parent/child", "644 0:0 0 bytes, 1 links @1000000000"),
    ];
    let room = check(tape, &expected);
    for name in ["full", "again", "parent", "own"] {
        assert_eq!(attribute(&room.root().join(name), OPAQUE).as_deref(), Some(b"y".as_slice()), "{name}");
    }
    assert_eq!(attribute(&room.root(), OPAQUE), None);
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let tape = Tape::default()
        .folder(b"./")
        .file(b"a", b"first")
        .file(b"a", b"second!")
        .symlink(b"b", b"a")
        .file(b"b", b"x")
        .folder(b"c/")
        .file(b"c/deep/er", b"")
        .file(b"c", b"")
        .file(b"d", b"")
        .folder(b"d/")
        .folder(b"e/")
        .file(b"e/kept", b"")
        .head(Head::new(b'5', b"e/").mode(0o700))
        .symlink(b"f", b"e")
        .folder(b"f/");
    let expected = [
        ("", "755 0:0 folder @1000000000"),
        ("a", "644 0:0 7 bytes, 1 links @1000000000"),
        ("b", "644 0:0 1 bytes, 1 links @1000000000"),
        ("c", "644 0:0 0 bytes, 1 links @1000000000"),
        ("d", "755 0:0 folder @1000000000"),
        ("e", "700 0:0 folder @1000000000"),
        ("e/kept", "644 0:0 0 bytes, 1 links @1000000000"),
        ("f", "755 0:0 folder @1000000000"),
    ];
    check(tape, &expected);
}

#[test]
fn attributes_of_the_user_are_kept_and_no_others() {
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.user.note", b"two\nlines"),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("size", b"3"),
    ];
    let room = check(
        Tape::default().folder(b"./").pax(records).head(Head::new(b'0', b"f")).content(b"abc"),
        &[("", "755 0:0 folder @1000000000"), ("f", "644 0:0 3 bytes, 1 links @1000000000")],
    );
    let file = room.root().join("f");
    assert_eq!(attribute(&file, "user.note").as_deref(), Some(b"two\nlines".as_slice()));
    for name in ["user.overlay.redirect", OPAQUE, "security.capability", "trusted.overlay.opaque"] {
        assert_eq!(attribute(&file, name), None, "{name}");
    }
}

#[test]
fn sparse_files_have_their_holes_however_they_are_written() {
    let formats: &[&[&str]] = &[
        &["--format=gnu"],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ];
    let folder = tempfile::tempdir().expect("is made");
    let mut content = vec![0_u8; 3 << 20];
    for at in 0..40 {
        content[at * 70_000] = u8::try_from(at + 1).expect("is small");
    }
    content[(3 << 20) - 70_000] = 9;
    let holes = folder.path().join("holes");
    let file = fs::File::create(&holes).expect("is made");
    for (at, piece) in content.chunks(4096).enumerate().filter(|(_, piece)| piece.iter().any(|byte| *byte != 0)) {
        std::os::unix::fs::FileExt::write_all_at(&file, piece, at as u64 * 4096).expect("is written");
    }
    file.set_len(content.len() as u64).expect("is ours");
    for format in formats {
        let tar = Command::new("tar").arg("-C").arg(folder.path()).args(*format).args(["-S", "-c", "holes"]).output();
        let archive = tar.expect("tar is there").stdout;
        assert!(archive.len() < content.len() / 2, "{format:?} is not sparse");
        let room = Room::new();
        room.unpack(&archive, Packing::Tar).unwrap_or_else(|error| panic!("{format:?}: {error}"));
        assert!(fs::read(room.root().join("holes")).expect("is there") == content, "{format:?}");
    }
}

#[test]
fn a_digest_is_that_of_the_whole_archive_without_its_packing() {
    let archive = Tape::default().file(b"f", &[7; 100_000]).end();
    let padded = [archive.as_slice(), &[0; 9000]].concat();
    let gzip = |bytes: &[u8]| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).expect("a vector takes it");
        packer.finish().expect("a vector takes it")
    };
    let two_members = [gzip(&padded[..50_000]), gzip(&padded[50_000..])].concat();
    let zstd = zstd::encode_all(padded.as_slice(), 3).expect("it packs");
    let expected = Sha256::digest(&padded).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (bytes, packing) in [
        (padded.clone(), Packing::Tar),
        (gzip(&padded), Packing::Gzip),
        (two_members, Packing::Gzip),
        (zstd, Packing::Zstd),
    ] {
        let found = Room::new().unpack(&bytes, packing).expect("it unpacks");
        assert_eq!(found.diff_id, format!("sha256:{expected}"), "{packing:?}");
        assert_eq!((found.archive_bytes, found.bytes, found.entries), (padded.len() as u64, 100_000, 1));
    }
}

#[test]
fn a_caller_can_stop_and_a_slow_archive_is_late() {
    let room = Room::new();
    let (reader, writer) = std::io::pipe().expect("a pipe is made");
    let input = || fs::File::from(std::os::fd::OwnedFd::from(reader.try_clone().expect("is open")));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| unpack(&room.settings, input(), Packing::Tar, &room.root(), &stop));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(waiting.join().expect("does not panic"), Err(UnpackError::Stopped));
    });
    let mut settings = room.settings.clone();
    settings.time_max = std::time::Duration::from_millis(300);
    let found = unpack(&settings, input(), Packing::Tar, &room.root(), &AtomicBool::new(false));
    assert_eq!(found, Err(UnpackError::Late(1)));
    drop(writer);
}

#[test]
fn a_folder_that_holds_something_is_refused() {
    let room = Room::new();
    fs::write(room.root().join("something"), "").expect("is written");
    let found = unpack(&room.settings, file_of(b""), Packing::Tar, &room.root(), &AtomicBool::new(false));
    assert!(matches!(found, Err(UnpackError::Machine(why)) if why.contains("is not empty")));
}

/// Runs itself and all hostile archives again as somebody without privileges, when it is root.
#[test]
fn an_ordinary_user_unpacks_too() {
    if rustix::process::geteuid().is_root() {
        let tests = std::env::current_exe().expect("we run");
        let mut again = Command::new(tests);
        // One after the other, so that each can tell whether it has left a child.
        again.args(["unpack::hostile", "an_ordinary_user", "--test-threads=1"]).uid(20_001).gid(20_001);
        let output = again.current_dir("/").env("TMPDIR", "/tmp").output().expect("the tests run");
        let talk = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&talk));
        return;
    }
    let room = Room::new();
    let tape =
        Tape::default().head(Head::new(b'0', b"f").owner(5, 6)).file(b".wh.gone", b"").symlink(b"out", b"../outside");
    let tape = Tape(tape.0).folder(b"full/").file(b"full/.wh..wh..opq", b"");
    room.unpack(&tape.clone().end(), Packing::Tar).expect("it unpacks");
    let own = listing(&room.root());
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(own["f"], format!("644 {user}:{user} 0 bytes, 1 links @1000000000"));
    assert!(own["gone"].contains("device 0"), "{own:?}");
    assert_eq!(attribute(&room.root().join("full"), OPAQUE).as_deref(), Some(b"y".as_slice()));
    fs::remove_dir_all(room.root()).expect("all is ours");
    fs::create_dir(room.root()).expect("is made");
    let through = room.unpack(&tape.file(b"out/secret", b"overwritten").end(), Packing::Tar);
    assert!(matches!(through, Err(UnpackError::Archive(_))), "{through:?}");
}

#[test]
fn the_child_has_given_everything_away_before_it_reads() {
    let room = Room::new();
    let (reader, writer) = std::io::pipe().expect("a pipe is made");
    let input = fs::File::from(std::os::fd::OwnedFd::from(reader));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| unpack(&room.settings, input, Packing::Tar, &room.root(), &stop));
        let (child, status) = confined_child();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        // CHOWN, DAC_OVERRIDE, FOWNER and FSETID, of which the first needs a range of ids.
        let kept = if rustix::process::geteuid().is_root() { "000000000000001b" } else { "000000000000001a" };
        assert_eq!((field("CapEff").as_str(), field("CapPrm").as_str()), (kept, kept));
        assert_eq!((field("CapBnd").as_str(), field("CapInh").as_str()), ("0000000000000000", "0000000000000000"));
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
        assert_ne!(field("Uid").split(' ').next(), Some("0"));
        for space in ["user", "mnt", "net", "ipc", "uts"] {
            let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{space}")).expect("is there");
            assert_ne!(of(&child), of("self"), "{space}");
        }
        let mounts = fs::read_to_string(format!("/proc/{child}/mountinfo")).expect("is there");
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert!(fs::read_dir(format!("/proc/{child}/root")).expect("is there").next().is_none());
        // The three usual ones, a copy of two of them, and the root.
        assert!(fs::read_dir(format!("/proc/{child}/fd")).expect("is there").count() <= 6);
        drop(writer);
        assert_eq!(waiting.join().expect("does not panic").expect("an empty archive is one").entries, 0);
    });
}

/// Waits until the only child of this process has its filter, and returns its number and what the kernel says of it.
fn confined_child() -> (String, String) {
    loop {
        for task in fs::read_dir("/proc/self/task").expect("is there") {
            let path = task.expect("is there").path().join("children");
            let children = fs::read_to_string(path).unwrap_or_default();
            let Some(child) = children.split_whitespace().next() else { continue };
            let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
            if status.contains("Seccomp:\t2") && status.contains("State:\tS") {
                return (child.to_owned(), status);
            }
        }
        std::thread::yield_now();
    }
}
