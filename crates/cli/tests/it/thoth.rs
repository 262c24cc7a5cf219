//! The examples of Thoth's README, replayed by the binary when it is called as `thoth`, in a real house on both engines.
//!
//! What an analysis would find out of the dumps is written behind the server's back.

use crate::dump::core;
use crate::stub::{Ran, run_with};
use crate::system::{Engine, House, Server};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

struct Scene {
    house: House,
    server: Server,
    token: String,
    program: PathBuf,
}

impl Scene {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).env_clear().env("HOME", self.house.home()).current_dir(self.house.home());
        command.env("QUARRY_URL", &self.server.url).env("QUARRY_TOKEN", &self.token);
        command
    }

    fn thoth(&self, words: &[&str]) -> Ran {
        run_with(self.command(words), b"")
    }

    fn fed(&self, words: &[&str], input: &str) -> Ran {
        run_with(self.command(words), input.as_bytes())
    }

    fn ok(&self, words: &[&str]) -> String {
        let ran = self.thoth(words);
        assert_eq!(ran.code, 0, "{words:?}: {}", ran.err);
        ran.out
    }

    fn info(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["info"], words].concat())).expect("is JSON")
    }

    fn refused(&self, words: &[&str], code: i32, said: &str) {
        let ran = self.thoth(words);
        assert_eq!((ran.code, &*ran.out), (code, ""), "{words:?}: {}", ran.err);
        assert!(ran.err.contains(said) && ran.err.starts_with("thoth: "), "{words:?}: {}", ran.err);
    }

    /// Returns the short names of what is listed.
    fn names(&self, words: &[&str]) -> Vec<String> {
        let out = self.ok(&[&["ls"], words].concat());
        out.lines().skip(1).map(|line| line.chars().take(16).collect()).collect()
    }

    /// Makes a core of its own, uploads it, and writes down what is known of it.
    fn upload(&self, name: &str, known: &str) -> String {
        core(&self.house.home().join(name), name.as_bytes(), name.as_bytes());
        let hash = self.ok(&["upload", name]).trim().to_owned();
        self.house.sql(&format!("UPDATE dump SET {known} WHERE hash = '{hash}'"));
        hash
    }
}

fn on(engine: Engine, play: impl FnOnce(&Scene)) {
    let Some(house) = House::new(engine) else { return };
    let server = house.start();
    let (token, program) = (house.token(), house.home().join("thoth"));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_quarry"), &program).expect("is made");
    let scene = Scene { house, server, token, program };
    play(&scene);
    scene.server.stop();
}

macro_rules! on_both_engines {
    ($($play:ident),+) => {
        mod sqlite { $(#[test] fn $play() { super::on(super::Engine::Sqlite, super::$play); })+ }
        mod postgres { $(#[test] fn $play() { super::on(super::Engine::Postgres, super::$play); })+ }
    };
}
on_both_engines!(the_readme_is_true, values_are_found_as_they_are_shown, mistakes_change_nothing);

fn the_readme_is_true(scene: &Scene) {
    let init = scene.thoth(&["init"]);
    assert_eq!(
        (init.code, init.err),
        (0, format!("thoth: using server at {}\nthoth: tenant `house` has 0 dumps\n", scene.server.url))
    );
    core(&scene.house.home().join("core.bc.24388"), b"a note", b"memory");
    let hash = scene.ok(&["object", "core.bc.24388"]).trim().to_owned();
    let uploaded = scene.thoth(&["upload", "core.bc.24388"]);
    assert_eq!(uploaded.err, format!("thoth: creating {hash}\nthoth: uploading core.bc.24388 to {hash}\n"));
    // 2015-12-04T13:10:26, 2013-04-25T05:55:50 and 2017-08-10T01:57:56.
    scene.house.sql(&format!("UPDATE dump SET cmd = 'bc', time = 1449234626000000 WHERE hash = '{hash}'"));
    let short = &hash[..16];
    assert_eq!(
        scene.ok(&["ls"]),
        format!(
            "NAME             TYPE  TIME                NODE/CMD         TICKET\n\
             {short} core  2015-12-04T13:10:26 bc               -\n"
        )
    );
    let utmpd = scene.upload(
        "core.19972",
        "cmd = 'utmpd', time = 1366869350000000, pid = 19972, psargs = '/usr/lib/utmpd', node = 'headnode', \
         platform = 'joyent_20130418T192128Z'",
    );
    let svc = scene.upload("core.svc.startd.1", "cmd = 'svc.startd', time = 1502330276000000, platform = 'joyent_1'");
    let crash = scene.upload("vmcore.0", "kind = 'illumos', time = 1502330276000001, node = '95SY9R1'");

    // info
    let info = scene.ok(&["info", &utmpd]);
    assert!(info.starts_with(&format!("{{\n    \"name\": \"/thoth/stor/thoth/{utmpd}\",\n    \"dump\":")), "{info}");
    let info = scene.info(&[&utmpd[..10]]);
    let expected = json!(["19972", "utmpd", "/usr/lib/utmpd", "headnode", "1", 1_366_869_350, "core", {}, utmpd]);
    let names = ["pid", "cmd", "psargs", "node", "version", "time", "type", "properties", "id"];
    assert_eq!(Value::from(names.map(|name| info[name].clone()).to_vec()), expected);
    assert_eq!(scene.info(&["core.19972"])["id"], utmpd, "a file is asked for by its hash");
    std::fs::write(scene.house.home().join("core.never.seen"), "panicked at src/main.rs:1").expect("is written");
    scene.refused(&["info", "core.never.seen"], 2, "does not exist");
    scene.refused(&["info", "core.not.even.there"], 2, "dump `core.not.even.there` does not exist");
    scene.refused(&["info", "0123456789abcdef"], 2, "dump `0123456789abcdef` does not exist");
    let all = scene.info(&["cmd=*", "limit=2"]);
    assert_eq!(
        (all[0]["id"].as_str(), all[1]["id"].as_str()),
        (Some(&*hash), Some(&*svc)),
        "the newest two, in their order"
    );

    // ls with constraints and columns
    let names = |words: &[&str]| scene.names(words);
    let shorts = |hashes: &[&String]| hashes.iter().map(|hash| hash[..16].to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&[]), shorts(&[&utmpd, &hash, &svc, &crash]));
    assert_eq!(names(&["type=crash", "node=95SY9R1"]), shorts(&[&crash]));
    assert_eq!(names(&["cmd=svc*", "ticket=undefined"]), shorts(&[&svc]));
    assert_eq!(names(&["uploaded=6h", "time<2016-01-01"]), shorts(&[&utmpd, &hash]));
    assert_eq!(names(&["mtime=6h"]), shorts(&[]));
    assert_eq!(names(&["cmd=bc", "OR", "NOT", "type=core"]), shorts(&[&hash, &crash]));
    assert_eq!(
        scene.ok(&["ls", "cmd=svc.startd", "pid", "platform"]),
        format!(
            "NAME             TYPE  TIME                NODE/CMD   TICKET PID PLATFORM\n\
             {} core  2017-08-10T01:57:56 svc.startd -      -   joyent_1\n",
            &svc[..16]
        )
    );
    let read = scene.fed(&["ls", "dump=stdin"], &format!("{svc}\n{utmpd} \n"));
    assert_eq!((read.code, &*read.err), (0, "thoth: reading dump identifiers from stdin\n"));
    assert_eq!(read.out.lines().count(), 3);

    // report
    scene.house.sql("UPDATE dump SET platform = 'joyent_1' WHERE cmd = 'bc'");
    assert_eq!(
        scene.ok(&["report", "type=core", "platform"]),
        "{\n  \"joyent_20130418T192128Z\": 1,\n  \"joyent_1\": 2\n}\n"
    );
    assert_eq!(scene.ok(&["report", "type=core"]), "3\n");

    // set, from a word and from standard input
    scene.ok(&["set", &svc[..16], "triage", "bmc"]);
    assert_eq!(scene.info(&[&svc])["properties"]["triage"], "bmc");
    let set = scene.fed(&["set", "cmd=svc.startd", "triage"], r#"{"category": "SMF", "engineer": "bm'c", "level": 3}"#);
    assert_eq!((set.code, &*set.err), (0, "thoth: `triage` set on 1 dump\n"));
    assert_eq!(scene.info(&[&svc])["properties"]["triage"]["engineer"], "bm'c");
    assert_eq!(names(&["properties.triage.engineer=bm*", "properties.triage.level>2"]), shorts(&[&svc]));
    assert_eq!(scene.ok(&["report", "type=core", "properties.triage.category"]), "{\n  \"SMF\": 1\n}\n");
    // Uploading again resets nothing.
    scene.ok(&["upload", "core.svc.startd.1"]);
    assert_eq!(scene.info(&[&svc])["properties"]["triage"]["category"], "SMF");
    scene.ok(&["unset", &svc, "triage"]);
    assert_eq!(names(&["properties.triage=undefined"]).len(), 4);

    // ticket
    scene.ok(&["ticket", "cmd=bc", "OR", "cmd=utmpd", "OS-2359"]);
    assert_eq!(names(&["ticket=OS-2359"]), shorts(&[&utmpd, &hash]));
    let line = scene.ok(&["ls", "cmd=bc"]);
    assert!(line.ends_with("bc               OS-2359\n"), "{line}");
    assert_eq!(scene.info(&["ticket=OS-2359"])[1]["ticket"], "OS-2359");
    scene.ok(&["unticket", &hash]);
    assert_eq!(names(&["ticket=OS-2359"]), shorts(&[&utmpd]));
}

/// What `info` shows may be asked for, and a report be of few.
fn values_are_found_as_they_are_shown(scene: &Scene) {
    let utmpd = scene.upload("core.19972", "cmd = 'utmpd', time = 1366869350000000, pid = 19972");
    scene.upload("core.svc.startd.1", "cmd = 'svc.startd', time = 1502330276000000");
    scene.upload("vmcore.0", "kind = 'illumos', time = 1502330276000001");
    let found = |word: &str| scene.names(&[word]);
    let ours = [utmpd[..16].to_owned()];
    assert_eq!(found(&format!("dump=/thoth/stor/thoth/{utmpd}/core.19972")), ours);
    assert_eq!(found(&format!("name=/thoth/stor/thoth/{utmpd}")), ours);
    assert_eq!(found(&format!("dump=/thoth/stor/thoth/{utmpd}/core.1")).len(), 0);
    assert_eq!(found("pid=199*"), ours);
    std::fs::copy(scene.house.home().join("core.19972"), scene.house.home().join("19972")).expect("is copied");
    assert_eq!(scene.info(&["19972"])["id"], utmpd, "digits that are no dump's may be a file's name");
    scene.ok(&["set", &utmpd, "level", "-5"]);
    assert_eq!(found("properties.level=-5"), ours);
    scene.ok(&["set", &utmpd, "big", "9007199254740993"]);
    assert_eq!(found("properties.big=9007199254740993"), ours);
    assert_eq!(found("properties.big=9007199254740992").len(), 0);
    assert_eq!(scene.ok(&["report", "properties.big"]), "{\n  \"9007199254740993\": 1\n}\n");
    scene.ok(&["set", &utmpd, "alias", "\"00000000000000000000000000000001\""]);
    assert_eq!(scene.info(&["0000000000000000"])["id"], utmpd, "it was called so before");
    let few = scene.ok(&["report", "time>2000-01-01", "limit=2", "type"]);
    assert_eq!(few, "{\n  \"core\": 1,\n  \"crash\": 1\n}\n");
    assert_eq!(scene.ok(&["report", "time>2000-01-01", "limit=3"]), "3\n");
}

fn mistakes_change_nothing(scene: &Scene) {
    let hashes: Vec<_> = (0..3).map(|index| scene.upload(&format!("core.{index}"), "cmd = 'java', time = 1")).collect();
    let count = |words: &[&str]| scene.ok(&[&["report"], words].concat()).trim().to_owned();
    scene.refused(&["ticket", "cmd=java", "type=core"], 1, "one ticket, without `=`");
    scene.refused(&["ticket", &hashes[0], "OS=1"], 1, "one ticket, without `=`");
    scene.refused(&["ticket", "OS-1"], 1, "one ticket");
    scene.refused(&["set", "cmd=java"], 1, "which property");
    scene.refused(&["set", "cmd=java", "a", "b", "c"], 1, "stands behind the value");
    scene.refused(&["set", "cmd=java", "triage"], 1, "standard input is not JSON");
    scene.refused(&["set", "cmd=nobody", "triage", "x"], 2, "no dump is meant");
    scene.refused(&["set", "abcdefabcdef", "triage", "x"], 2, "does not exist");
    scene.refused(&["ls", "frob=1"], 1, "`frob` is no property of dumps");
    scene.refused(&["ls", "cmd=java", "stack", "type=core"], 1, "can't intermix");
    scene.refused(&["ls", "dump=stdin", "cmd=java"], 1, "\"stdin\" cannot be used with subsequent specifications");
    scene.refused(&["ls", "dump=stdin"], 1, "\"stdin\" specified, but no dumps provided");
    scene.refused(&["rm", "cmd=java"], 1, "3 dumps would be dropped");
    assert_eq!(scene.thoth(&["frobnicate"]).code, 1);
    assert_eq!((count(&["ticket=undefined"]), count(&["state=purged"])), ("3".to_owned(), "0".to_owned()));

    let tried = scene.thoth(&["ticket", "--dry-run", "cmd=java", "OS-7"]);
    assert_eq!(
        (tried.code, tried.out.lines().count(), &*tried.err),
        (0, 3, "thoth: ticket OS-7 would be set on 3 dumps\n")
    );
    assert_eq!(count(&["ticket=OS-7"]), "0");
    let done: Value =
        serde_json::from_str(&scene.ok(&["ticket", "--json", "cmd=java", "limit=2", "OS-7"])).expect("is JSON");
    assert_eq!((&done["matched"], &done["changed"]), (&json!(2), &json!(2)));
    assert_eq!(count(&["ticket=OS-7"]), "2");
    let again = scene.thoth(&["ticket", "cmd=java", "OS-7"]);
    assert_eq!(&*again.err, "thoth: ticket OS-7 set on 1 dump; 2 dumps had it so\n");
    let unset = scene.thoth(&["unset", &hashes[0], "nosuch"]);
    assert_eq!(&*unset.err, "thoth: `nosuch` taken from 0 dumps; 1 dump did not have it\n");
    let removed = scene.thoth(&["rm", &hashes[0]]);
    assert_eq!((removed.code, &*removed.err), (0, "thoth: the content dropped of 1 dump\n"));
    assert_eq!(scene.thoth(&["rm", "--dry-run", "cmd=java"]).out.lines().count(), 2);
    let again = scene.thoth(&["rm", &hashes[0]]);
    assert_eq!(&*again.err, "thoth: the content dropped of 0 dumps; 1 dump had none any more\n");
    scene.ok(&["rm", "--yes", "cmd=java"]);
    assert_eq!((count(&["state=purged"]), count(&["ticket=OS-7"])), ("3".to_owned(), "3".to_owned()));

    // By its other name the binary counts differently.
    let quarry = scene.server.run(&scene.token, &["dump", "ls", "frob=1"]);
    assert_eq!(quarry.code, 64, "{}", quarry.err);
    assert!(quarry.err.starts_with("error: `frob` is no property of dumps"), "{}", quarry.err);
}
