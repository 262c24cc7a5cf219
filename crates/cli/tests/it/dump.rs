//! `dump upload`, `download` and `object` in a real house on both engines: what is sent, what is not sent again, and that
//! what comes back is what was there.

use crate::stub::{Ran, run_with};
use crate::system::{Engine, House, Server};
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes that hardly pack, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend(next());
    }
    bytes.truncate(length);
    bytes
}

/// A core with one note and one segment of memory, behind which is a hole.
pub(crate) fn core(path: &Path, note: &[u8], memory: &[u8]) {
    let mut head = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    head.resize(16, 0);
    let mut put = |value: u64, width: usize| head.extend_from_slice(&value.to_le_bytes()[..width]);
    for (value, width) in [(4, 2), (62, 2), (1, 4), (0, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (2, 2), (0, 6)] {
        put(value, width);
    }
    let hole = 64 << 20;
    let length = (memory.len() + hole) as u64;
    for (kind, offset, length) in [(4, 176, note.len() as u64), (1, 8192, length)] {
        for (value, width) in [(kind, 4), (6, 4), (offset, 8), (0, 8), (0, 8), (length, 8), (length, 8), (4096, 8)] {
            put(value, width);
        }
    }
    head.extend_from_slice(note);
    let file = File::create(path).expect("is made");
    file.write_all_at(&head, 0).expect("is written");
    file.write_all_at(memory, 8192).expect("is written");
    file.set_len(8192 + length).expect("is set");
}

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).expect("is JSON")
}

struct Scene<'h> {
    house: &'h House,
    server: Server,
    token: String,
}

impl Scene<'_> {
    fn run(&self, words: &[&str]) -> Ran {
        self.server.run(&self.token, words)
    }

    fn upload(&self, file: &str) -> Value {
        json(&self.run(&["dump", "upload", "--json", file]))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.house.home().join(name)
    }

    /// Returns how many bytes the blobs take.
    fn kept(&self) -> u64 {
        fn size(folder: &Path) -> u64 {
            let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("is listed").path());
            entries
                .map(|path| if path.is_dir() { size(&path) } else { path.metadata().map_or(0, |file| file.len()) })
                .sum()
        }
        size(&self.house.data().join("blob"))
    }
}

fn on(engine: Engine, play: impl FnOnce(&Scene<'_>)) {
    let Some(house) = House::new(engine) else { return };
    let server = house.start();
    let token = house.token();
    let scene = Scene { house: &house, server, token };
    play(&scene);
    scene.server.stop();
}

macro_rules! on_both_engines {
    ($($play:ident),+) => {
        mod sqlite { $(#[test] fn $play() { super::on(super::Engine::Sqlite, super::$play); })+ }
        mod postgres { $(#[test] fn $play() { super::on(super::Engine::Postgres, super::$play); })+ }
    };
}
on_both_engines!(a_dump_is_kept_once_and_comes_back, what_broke_off_is_taken_up_again, another_dump_of_it_adds_little);

fn a_dump_is_kept_once_and_comes_back(scene: &Scene<'_>) {
    let path = scene.path("core.bc.24388");
    core(&path, b"the first note", &noise(1, 3_000_000));
    let object = scene.run(&["dump", "object", "core.bc.24388"]);
    let hash = object.out.trim().to_owned();
    assert_eq!((object.code, hash.len()), (0, 32));
    let first = scene.run(&["dump", "upload", "core.bc.24388"]);
    assert_eq!((first.code, first.out.trim()), (0, &*hash), "{}", first.err);
    assert_eq!(first.err, format!("creating {hash}\nuploading core.bc.24388 to {hash}\n"));
    let kept = scene.kept();
    assert!((3_000_000..3_100_000).contains(&kept), "{kept} bytes are kept");
    let again = scene.run(&["dump", "upload", "core.bc.24388"]);
    assert_eq!((again.code, again.err), (0, format!("core.bc.24388 is already there as {hash}\n")));
    // From standard input all of it is read, and none of it sent.
    let bytes = std::fs::read(&path).expect("is read");
    let command = scene.server.command(&scene.token, &["dump", "upload", "--json", "-"]);
    let streamed = json(&run_with(command, &bytes));
    assert_eq!((&streamed["arrival"], &streamed["sent_bytes"]), (&"known".into(), &0.into()), "{streamed}");
    assert_eq!((&streamed["dump"]["hash"], &streamed["dump"]["kind"]), (&hash.clone().into(), &"core".into()));
    assert_eq!(scene.kept(), kept);

    let back = scene.run(&["dump", "download", &hash[..8], "-o", "back"]);
    assert_eq!((back.code, back.out.trim()), (0, "back"), "{}", back.err);
    assert!(std::fs::read(scene.path("back")).expect("is there") == bytes, "it is not what was there");
    let blocks = |name: &str| scene.path(name).metadata().expect("is there").blocks();
    // The file system keeps its own accounts of extents: a few blocks are not a hole.
    let (ours, theirs) = (blocks("back"), blocks("core.bc.24388"));
    assert!(ours <= theirs + 64, "the hole is gone: {ours} blocks instead of {theirs}");
    let there = scene.run(&["dump", "download", &hash]);
    assert_eq!(there.code, 3, "{}", there.err);
    let missing = scene.run(&["dump", "download", "0123456789abcdef"]);
    assert_eq!((missing.code, missing.err.lines().next()), (2, Some("error: dump `0123456789abcdef` does not exist")));
    // What is packed is what it holds, and has its name.
    let packed = |name: &str, bytes: Vec<u8>| std::fs::write(scene.path(name), bytes).expect("is written");
    packed("core.bc.24388.zst", zstd::encode_all(&bytes[..], 1).expect("is packed"));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &bytes).expect("is packed");
    packed("core.bc.24388.gz", gzip.finish().expect("is packed"));
    for name in ["core.bc.24388.zst", "core.bc.24388.gz"] {
        assert_eq!(scene.run(&["dump", "object", name]).out.trim(), hash, "{name}");
        let known = scene.run(&["dump", "upload", name]);
        assert_eq!((known.code, known.err), (0, format!("core.bc.24388 is already there as {hash}\n")), "{name}");
    }
    packed("note.gz", b"\x1f\x8b no gzip".to_vec());
    let broken = scene.run(&["dump", "upload", "note.gz"]);
    assert_eq!((broken.code, broken.out.as_str()), (1, ""), "{}", broken.err);
    core(&scene.path("other"), b"another note", &noise(2, 200_000));
    packed(
        "other.xz.zst",
        zstd::encode_all(&std::fs::read(scene.path("other")).expect("is read")[..], 1).expect("is packed"),
    );
    let new = json(&scene.run(&["dump", "upload", "--json", "other.xz.zst"]));
    assert_eq!((&new["arrival"], &new["dump"]["kind"]), (&"new".into(), &"core".into()), "{new}");
    assert_eq!(scene.run(&["dump", "object", "other"]).out.trim(), new["dump"]["hash"].as_str().expect("is text"));
    // One that cannot be read does not keep the others from being uploaded.
    std::fs::write(scene.path("note"), "panicked at src/main.rs:1").expect("is written");
    let some = scene.run(&["dump", "upload", "nowhere", "note"]);
    assert_eq!((some.code, some.out.trim().len()), (1, 32), "{}", some.err);
    assert_eq!(scene.run(&["dump", "upload"]).code, 64);
}

fn what_broke_off_is_taken_up_again(scene: &Scene<'_>) {
    let memory = noise(2, 30 << 20);
    core(&scene.path("whole"), b"a note", &memory);
    let whole = std::fs::read(scene.path("whole")).expect("is read");
    // Half of it comes, then its sender is gone: what it brought is there, though nobody names it.
    let mut command = scene.server.command(&scene.token, &["dump", "upload", "-"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("is piped");
    std::io::Write::write_all(&mut stdin, &whole[..20 << 20]).expect("is taken");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while scene.kept() < 8 << 20 {
        assert!(std::time::Instant::now() < until, "nothing of it is kept");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().expect("is ours");
    child.wait().expect("ends");
    let kept = scene.kept();
    let rest = scene.upload("whole");
    let sent = rest["sent_bytes"].as_u64().expect("is a number");
    assert_eq!(rest["arrival"], "new", "{rest}");
    assert!(sent < (30 << 20) - (6 << 20), "{sent} bytes were sent, though {kept} were kept");

    // Cut short, it is kept as such; the whole takes its place, and what was noted stays.
    core(&scene.path("other"), b"another note", &noise(3, 2 << 20));
    let file = File::options().write(true).open(scene.path("other")).expect("is there");
    let length = file.metadata().expect("is there").len();
    file.set_len(1 << 20).expect("is cut");
    let cut = scene.run(&["dump", "upload", "other"]);
    assert!(cut.err.contains("other is truncated: it has 1048576 bytes, and its headers tell of"), "{}", cut.err);
    core(&scene.path("other"), b"another note", &noise(3, 2 << 20));
    let whole = scene.upload("other");
    assert_eq!((&whole["arrival"], &whole["dump"]["size"]), (&"replaced".into(), &length.into()), "{whole}");
    assert_eq!(whole["dump"]["is_truncated"], false);
    assert!(whole["sent_bytes"].as_u64() < Some(1_200_000), "half of it was there: {whole}");
    let back = scene.run(&["dump", "download", whole["dump"]["id"].as_str().expect("has an id"), "-o", "back"]);
    assert_eq!(back.code, 0, "{}", back.err);
    assert!(
        std::fs::read(scene.path("back")).expect("is there") == std::fs::read(scene.path("other")).expect("is there")
    );
}

fn another_dump_of_it_adds_little(scene: &Scene<'_>) {
    let mut memory = noise(4, 24 << 20);
    core(&scene.path("first"), b"a note", &memory);
    scene.upload("first");
    let kept = scene.kept();
    for place in (0..memory.len()).step_by(memory.len() / 20) {
        memory[place] ^= 1;
    }
    core(&scene.path("second"), b"another note", &memory);
    let second = scene.upload("second");
    let added = scene.kept() - kept;
    assert_eq!(second["arrival"], "new");
    assert!(added < kept / 10, "{added} bytes were added to {kept}");
}
