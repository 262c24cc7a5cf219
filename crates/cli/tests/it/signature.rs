//! `quarry signature` in a real house on both engines, and what `dump upload --redact` leaves out.
//!
//! What an analysis finds out is written here behind the server's back, by the house's own rules.

use crate::stub::Ran;
use crate::system::{Engine, House, Server};
use dump::signature::Rules;
use model::dump::DumpFindings;
use model::report::DumpKind;
use model::signature::{STACK_VERSION, Signed, Stack, StackFrame};
use model::{DumpId, DumpState};
use serde_json::Value;
use std::path::Path;
use store::{Clock, DumpKey, Place, Store, StoreConfig, Taken};

macro_rules! on_both_engines {
    ($($play:ident),+) => {
        mod sqlite { $(#[test] fn $play() { super::$play(super::Engine::Sqlite); })+ }
        mod postgres { $(#[test] fn $play() { super::$play(super::Engine::Postgres); })+ }
    };
}
on_both_engines!(defects_are_told_and_decided_about, what_rules_leave_out_is_not_sent);

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).expect("is JSON")
}

/// Notes of a core: each an owner, a kind and a content.
fn notes(notes: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, content) in notes {
        for word in [5, content.len() as u32, *kind] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(b"CORE\0\0\0\0");
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Writes a core with these notes and one segment of memory, which begins at `ADDRESS`.
fn core(path: &Path, notes: &[u8], memory: &[u8]) {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    bytes.resize(16, 0);
    let mut put = |value: u64, width: usize| bytes.extend_from_slice(&value.to_le_bytes()[..width]);
    for (value, width) in [(4, 2), (62, 2), (1, 4), (0, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (2, 2), (0, 6)] {
        put(value, width);
    }
    let segments = [(4, 176, 0, notes.len() as u64, 4), (1, 8192, ADDRESS, memory.len() as u64, 4096)];
    for (kind, offset, address, length, align) in segments {
        let fields = [(kind, 4), (6, 4), (offset, 8), (address, 8), (0, 8), (length, 8), (length, 8), (align, 8)];
        for (value, width) in fields {
            put(value, width);
        }
    }
    bytes.extend_from_slice(notes);
    bytes.resize(8192, 0);
    bytes.extend_from_slice(memory);
    std::fs::write(path, bytes).expect("is written");
}

const ADDRESS: u64 = 0x7ffc_0000_0000;

/// What an analysis would say of a crash with these functions.
fn findings(keys: &[&str]) -> DumpFindings {
    let frame = |key: &&str| StackFrame { key: (*key).to_owned(), ..StackFrame::default() };
    let stack = Stack {
        version: STACK_VERSION,
        kind: DumpKind::Core,
        class: "null_read".to_owned(),
        message: None,
        program: Some("app".to_owned()),
        modules: Vec::new(),
        files: Vec::new(),
        frames: keys.iter().map(frame).collect(),
        frames_cut: 0,
        addresses: Vec::new(),
    };
    let signed = Rules::builtin().sign(&stack);
    let signed = Signed { signature: signed.signature, stack, explanation: signed.explanation };
    DumpFindings { signed: Some(Box::new(signed)), ..DumpFindings::new(DumpState::Analysed, DumpKind::Core) }
}

/// Writes what was found out about dumps, while no server runs.
fn find(house: &House, found: &[(&str, &[&str])]) {
    let place = match house.database() {
        Some(url) => Place::Postgres { url: url.to_owned(), readers: 1 },
        None => Place::Folder(house.data()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let clock = Clock::default();
        let store = Store::open(&StoreConfig::new(place), clock.now()).await.expect("opens");
        for (id, keys) in found {
            let id: DumpId = id.parse().expect("an id");
            let taken = Taken { reach: None, namespace: model::TenantId::new(clock.now(), 0) };
            let dump = store.dump_get(DumpKey::Id(id), taken).await.expect("is there");
            store.dump_find(id, dump.digest, findings(keys), "node", clock.now()).await.expect("is kept");
        }
        store.close().await;
    });
}

/// Uploads some cores, and returns their ids.
pub(crate) fn upload(house: &House, server: &Server, token: &str, count: usize) -> Vec<String> {
    let one = |number| {
        let name = format!("core.{number}");
        core(&house.home().join(&name), &notes(&[(1, vec![number as u8; 8])]), &[7; 5000]);
        let told = json(&server.run(token, &["dump", "upload", "--json", &name]));
        told["dump"]["id"].as_str().expect("an id").to_owned()
    };
    (0..count).map(one).collect()
}

fn defects_are_told_and_decided_about(engine: Engine) {
    let Some(house) = House::new(engine) else { return };
    let server = house.start();
    let token = house.token();
    let stacks: [&[&str]; 4] = [
        &["parse", "load", "work", "main"],
        &["wrap", "parse", "load", "work", "main"],
        &["draw", "paint", "main"],
        &["draw", "brush", "main"],
    ];
    let dumps = upload(&house, &server, &token, stacks.len());
    server.stop();
    let found: Vec<_> = dumps.iter().map(String::as_str).zip(stacks).collect();
    find(&house, &found);
    let server = house.start();
    let run = |words: &[&str]| server.run(&token, &[&["signature"], words].concat());
    decide(&house, &run, &dumps);
    server.stop();
}

fn decide(house: &House, run: &dyn Fn(&[&str]) -> Ran, dumps: &[String]) {
    let list = json(&run(&["ls", "--json"]));
    let items = list["items"].as_array().expect("a list");
    assert_eq!(items.iter().map(|one| one["dumps"].as_u64().expect("a count")).sum::<u64>(), 4);
    let named = |text: &str| {
        let found = items.iter().find(|one| one["text"] == text);
        found.unwrap_or_else(|| panic!("{text}: {list}"))["id"].as_str().expect("an id").to_owned()
    };
    let (parse, wrap, draw) = (named("null_access | parse"), named("null_access | wrap"), named("null_access | draw"));
    let table = run(&["ls", "--limit", "1"]);
    assert!(table.out.starts_with("ID ") && table.err.contains("there are more than 1"), "{table:?}");

    let info = json(&run(&["info", "--json", &parse[..12]]));
    assert_eq!(info["proposals"][0]["text"], "null_access | wrap");
    let told = run(&["info", &parse]);
    for line in ["null_access | parse", "#0  parse", "#0  stop   parse: no rule speaks of it", "perhaps the same"] {
        assert!(told.out.contains(line), "{line}: {}", told.out);
    }
    assert_eq!(run(&["info", "ffffffffffff"]).code, 2);
    assert_eq!(run(&["info", "no digits"]).code, 64);
    assert_eq!(json(&run(&["title", "--json", &parse, "the parser"]))["title"], "the parser");

    assert_eq!(json(&run(&["fix", "--json", &parse]))["state"], "fixed");
    assert_eq!(run(&["fix", &parse]).code, 3);
    assert_eq!(json(&run(&["reopen", "--json", &parse]))["state"], "reopened");

    let dry = json(&run(&["merge", "--json", "--dry-run", &wrap, &parse]));
    assert_eq!((&dry["dumps"], &dry["dry_run"]), (&1.into(), &true.into()));
    let merged = run(&["merge", &wrap, &parse]);
    assert_eq!((merged.code, merged.out.trim()), (0, &*parse), "{}", merged.err);
    assert_eq!(merged.err, format!("1 dump moved from `{wrap}` to `{parse}`\n"));
    assert_eq!(run(&["merge", &wrap, &parse]).code, 3);
    assert_eq!(run(&["merge", &wrap, "ffff"]).code, 2);

    let split = json(&run(&["split", "--json", &draw, "--dump", &dumps[3]]));
    assert_eq!((&split["from"]["dumps"], &split["into"]["dumps"]), (&1.into(), &1.into()));
    assert_eq!(run(&["split", &draw, "--dump", &dumps[2]]).code, 3, "nothing would stay");

    // Rules: what was decided stays, what was not goes as they say.
    let write = |name: &str, text: &str| std::fs::write(house.home().join(name), text).expect("is written");
    write("bad.toml", "[[rule]]\nrole = 'skip'\nwhy = 'x'\n");
    let bad = run(&["try-rules", "bad.toml"]);
    assert!(bad.code == 64 && bad.err.contains("`bad.toml:2`"), "{bad:?}");
    let skip = "[[rule]]\nrole = 'skip'\nwhy = 'ours'\nfunction = ['parse', 'wrap', 'draw']\n";
    write(
        "wrong.toml",
        &format!(
            "{skip}\n[[example]]\nclass = 'null_read'\nframes = ['parse', 'load']\nsignature = 'null_access | parse'\n"
        ),
    );
    assert_eq!(run(&["try-rules", "wrong.toml"]).code, 1);
    write("ours.toml", skip);
    let moves = json(&run(&["try-rules", "--json", "ours.toml"]));
    assert_eq!((&moves["dumps"], &moves["moved"]), (&4.into(), &4.into()), "{moves}");
    let one = run(&["try-rules", "ours.toml", "--signature", &parse]);
    assert!(one.out.contains("1 × null_access | load") || one.out.contains("2 × null_access | load"), "{one:?}");
    try_among(&run, &parse, dumps);
    assert_eq!(json(&run(&["rules", "--json"])), Value::Null);
    assert_eq!(run(&["apply-rules", "ours.toml", "--dry-run"]).code, 0);
    assert_eq!(json(&run(&["rules", "--json"])), Value::Null);
    let applied = run(&["apply-rules", "ours.toml"]);
    assert_eq!(applied.code, 0, "{}", applied.err);
    assert_eq!(run(&["rules"]).out, skip);
    let after = json(&run(&["info", "--json", &parse]));
    let told = &after["signature"];
    assert_eq!((&told["dumps"], &told["title"]), (&2.into(), &"the parser".into()), "{after}");
    assert_eq!((&told["text"], &told["state"]), (&"null_access | load".into(), &"reopened".into()));
    let whole = json(&run(&["info", "--json", split["into"]["id"].as_str().expect("an id")]));
    assert_eq!(whole["signature"]["dumps"], 1, "{whole}");
    let dumps_of: Vec<_> = after["dumps"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(dumps_of.contains(&&*dumps[0]) && dumps_of.contains(&&*dumps[1]), "{after}");
    let again = json(&run(&["apply-rules", "--json", "ours.toml"]));
    assert_eq!(again["moved"], 0);
    assert_eq!(run(&["apply-rules", "--none"]).code, 0);
    assert_eq!(json(&run(&["info", "--json", &parse]))["signature"]["text"], "null_access | parse");
    // What was merged is taken back.
    assert_eq!(json(&run(&["reopen", "--json", &wrap]))["dumps"], 1);
    let fixed = json(&run(&["ls", "--json", "--state", "merged"]));
    assert_eq!(fixed["items"], Value::Array(Vec::new()));
}

/// Tries rules among some dumps only: they are told of, and counted, and no others.
fn try_among(run: &dyn Fn(&[&str]) -> Ran, parse: &str, dumps: &[String]) {
    let tried = |words: &[&str]| json(&run(&[&["try-rules", "--json", "ours.toml"], words].concat()));
    let check = |words: &[&str], count: u64| {
        let moves = tried(words);
        let counts = ["dumps", "moved"].map(|name| moves[name].as_u64().expect("a count"));
        assert_eq!(counts, [count; 2], "{words:?}: {moves}");
    };
    check(&[&dumps[2]], 1);
    check(&[&dumps[0], "OR", &dumps[2]], 2);
    check(&["signature=*"], 4);
    check(&[&format!("signature={}", &parse[..12])], 2);
    assert_eq!(run(&["try-rules", "ours.toml", "signature=ffffffffffff"]).code, 2);
    check(&["NOT", &dumps[3]], 3);
    check(&["cmd=nobody"], 0);
    check(&["limit=3"], 3);
    check(&["hash=*", "--signature", parse], 2);
    check(&["NOT", &dumps[1], "--signature", parse], 1);
    check(&[&dumps[2], "--signature", parse], 0);
    let told = run(&["try-rules", "ours.toml", &dumps[2]]);
    assert!(told.out.contains("1 × null_access | paint") && !told.out.contains("load"), "{told:?}");
    assert_eq!(told.err, "1 of 1 dumps get another text; 1 texts become 1\n");
    assert_eq!(run(&["try-rules", "ours.toml", "ffffffffffff"]).code, 2);
    assert_eq!(run(&["try-rules", "ours.toml", "colour=red"]).code, 64);
}

/// Makes a core with secrets in its arguments and its environment, and returns rules that leave them out, with a part of
/// its memory: 2 values and 1 part, of 123 bytes in all.
pub(crate) fn secretive(path: &Path) -> String {
    // Random numbers, arguments, environment, name: as the kernel puts them at the top of the stack.
    let mut memory = vec![1; 4096];
    memory.extend_from_slice(&[9; 16]);
    memory.extend_from_slice(b"app\0--token=t0psecret\0HOME=/root\0GH_TOKEN=hunter2hunter2\0PATH=/bin\0");
    let name_at = ADDRESS + memory.len() as u64;
    memory.extend_from_slice(b"/bin/app\0");
    memory.resize(3 * 4096, 3);
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let auxv = words(&[25, ADDRESS + 4096, 31, name_at, 0, 0]);
    core(path, &notes(&[(6, auxv), (0x4649_4c45, words(&[0, 4096]))]), &memory);
    format!(
        "[environment]\nleave_out = ['*token*']\n[[memory]]\nfrom = '{:#x}'\nto = '{:#x}'\n",
        ADDRESS + 8192,
        ADDRESS + 8292
    )
}

fn what_rules_leave_out_is_not_sent(engine: Engine) {
    let Some(house) = House::new(engine) else { return };
    let server = house.start();
    let token = house.token();
    let path = house.home().join("core.app");
    std::fs::write(house.home().join("rules.toml"), secretive(&path)).expect("is written");
    let hash = server.run(&token, &["dump", "object", "core.app"]).out;
    let before = std::fs::read(&path).expect("is read");
    // Cut before all of the environment has come it is not sent, and nothing else of it.
    let place = before.windows(7).position(|window| window == b"hunter2").expect("is there");
    std::fs::write(house.home().join("core.cut"), &before[..place + 10]).expect("is written");
    let ran = server.run(&token, &["dump", "upload", "--redact", "rules.toml", "core.cut"]);
    assert!(ran.code == 1 && ran.err.contains("the dump is cut before the end of its environment"), "{ran:?}");
    let told = json(&server.run(&token, &["dump", "upload", "--json", "--redact", "rules.toml", "core.app"]));
    let redaction = &told["dump"]["redaction"];
    assert_eq!(told["dump"]["hash"], hash.trim());
    let counts = ["values", "ranges", "bytes"].map(|name| redaction[name].as_u64().expect("a count"));
    assert_eq!(counts, [2, 1, 9 + 14 + 100], "{redaction}");
    let info = json(&server.run(&token, &["dump", "info", hash.trim()]));
    assert_eq!(&info["redaction"], redaction, "{info}");
    let fetched = server.run(&token, &["dump", "download", hash.trim(), "-o", "back"]);
    assert_eq!(fetched.code, 0, "{}", fetched.err);
    let back = std::fs::read(house.home().join("back")).expect("is read");
    let holds = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    for (text, is_kept) in
        [(&b"t0psecret"[..], false), (b"hunter2", false), (b"GH_TOKEN=\0", true), (b"HOME=/root\0", true)]
    {
        assert_eq!(holds(&back, text), is_kept, "{}", String::from_utf8_lossy(text));
    }
    assert!(holds(&before, b"hunter2") && before.len() == back.len());
    assert_eq!(before.iter().zip(&back).filter(|(one, other)| one != other).count(), 9 + 14 + 100);
    // What is no core, and what comes without what it takes, is not sent.
    std::fs::write(house.home().join("text"), "panicked at src/main.rs").expect("is written");
    core(&house.home().join("core.bare"), &notes(&[(1, vec![5; 8])]), &[3; 4096]);
    for (file, why) in [("text", "it is not an ELF core"), ("core.bare", "it does not say where its environment is")] {
        let ran = server.run(&token, &["dump", "upload", "--redact", "rules.toml", file]);
        assert!(ran.code == 1 && ran.err.contains(why), "{ran:?}");
    }
    std::fs::write(house.home().join("bad.toml"), "[[memory]]\n").expect("is written");
    assert_eq!(server.run(&token, &["dump", "upload", "--redact", "bad.toml", "core.app"]).code, 64);
    let left = json(&server.run(&token, &["blob", "ls", "--json"]));
    assert_eq!(left["items"].as_array().map(Vec::len), Some(2), "a parcel and a manifest of the first: {left}");
    server.stop();
}
