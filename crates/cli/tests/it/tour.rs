//! A user's way through the house: the commands of the README in their order, and what each of them says.
//!
//! What differs from run to run (ids, times, secrets, the address) is masked, and gaps between columns are made even.

use crate::stub::{Ran, quarry, run_with};
use crate::system::{Engine, House, Server};
use std::path::Path;
use std::process::Command;

/// A user at their shell.
struct Tour {
    house: House,
    server: Server,
    said: String,
}

impl Tour {
    fn begin(engine: Engine) -> Option<Self> {
        let house = House::new(engine)?;
        let server = house.start();
        let mut tour = Self { house, server, said: String::new() };
        let url = tour.server.url.clone();
        tour.step(&["login", &url, "--token-file", "token"]);
        Some(tour)
    }

    fn home(&self) -> &Path {
        self.house.home()
    }

    /// Runs a command with what `login` has kept, and writes down what it says.
    fn step(&mut self, args: &[&str]) -> Ran {
        let command = quarry(args, self.home());
        self.note(args, command)
    }

    /// Runs a command as whoever has this token.
    fn step_as(&mut self, token: &str, args: &[&str]) -> Ran {
        let command = self.server.command(token, args);
        self.note(args, command)
    }

    fn note(&mut self, args: &[&str], command: Command) -> Ran {
        let ran = run_with(command, b"");
        let mut said = format!("$ quarry {}\n{}{}", args.join(" "), ran.out, ran.err);
        if ran.code != 0 {
            said.push_str(&format!("[exit code {}]\n", ran.code));
        }
        self.said.push_str(&masked(&said.replace(&self.server.url, "URL")));
        ran
    }

    /// Returns what was said since the last chapter.
    fn chapter(&mut self) -> String {
        std::mem::take(&mut self.said)
    }

    /// Makes a token by a command and returns its secret.
    fn secret(&mut self, args: &[&str]) -> String {
        let ran = self.step(args);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out.trim().to_owned()
    }
}

/// Masks what differs from run to run.
fn masked(text: &str) -> String {
    let mask_word = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_id = bare.len() == 30 && ["exe_", "tok_", "usr_", "ten_"].iter().any(|prefix| bare.starts_with(prefix));
        if is_id {
            word.replace(bare, &format!("{}…", &bare[..4]))
        } else if bare.starts_with("qry_") && bare.len() > 60 {
            word.replace(bare, "SECRET")
        } else if bare.len() >= 20 && bare.starts_with("20") && bare.ends_with('Z') && bare.contains('T') {
            word.replace(bare, "TIME")
        } else {
            word.to_owned()
        }
    };
    let mask_line = |line: &str| {
        let mut even = String::new();
        let mut gap = 0;
        for word in line.split(' ') {
            if word.is_empty() {
                gap += 1;
                continue;
            }
            if !even.is_empty() {
                even.push_str(if gap > 0 { "  " } else { " " });
            }
            gap = 0;
            even.push_str(&mask_word(word));
        }
        even
    };
    text.lines().map(|line| mask_line(line) + "\n").collect()
}

/// The way through executions, the log, tokens, users, tenants.
fn tour(engine: Engine) -> Option<Vec<String>> {
    let mut tour = Tour::begin(engine)?;
    let chapters =
        vec![executions(&mut tour), tokens(&mut tour), users(&mut tour), tenants(&mut tour), refusals(&mut tour)];
    tour.server.stop();
    Some(chapters)
}

fn executions(tour: &mut Tour) -> String {
    tour.step(&["login", "--show"]);
    let id = tour.step(&["execution", "create", "--env", "LEVEL=3", "--", "echo", "hello world"]).out.trim().to_owned();
    tour.step(&[
        "execution",
        "create",
        "--class",
        "batch",
        "--lane",
        "nightly",
        "--input",
        "1 2 3",
        "--",
        "sort",
        "-n",
    ]);
    tour.step(&["execution", "ls"]);
    tour.step(&["execution", "info", &id]);
    tour.step(&["execution", "wait", &id, "--timeout", "100ms"]);
    // Somebody waits for it, and somebody else follows the log, while it is cancelled.
    let wait = quarry(&["execution", "wait", &id], tour.home());
    let follow = quarry(&["changes", "-f", "--after", "5", "--limit", "1", "--noun", "execution"], tour.home());
    let (waiting, following) = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| run_with(wait, b""));
        let follower = scope.spawn(|| run_with(follow, b""));
        tour.step(&["execution", "cancel", &id]);
        (waiter.join().expect("does not panic"), follower.join().expect("does not panic"))
    });
    assert_eq!((waiting.code, masked(&waiting.out).as_str()), (1, "exe_…  cancelled  stopped by a user\n"));
    assert_eq!(
        (following.code, masked(&following.out).as_str()),
        (0, "6  TIME  execution  cancelled  exe_…  by admin\n")
    );
    tour.step(&["execution", "cancel", &id]);
    tour.step(&["execution", "ls", "--state", "cancelled"]);
    tour.step(&["changes", "--after", "3"]);
    tour.chapter()
}

fn tokens(tour: &mut Tour) -> String {
    let id = tour.step(&["token", "create", "ci", "--scope", "execution:read", "--expires", "90d", "--file", "ci"]).out;
    let secret = std::fs::read_to_string(tour.home().join("ci")).expect("is written");
    tour.step_as(secret.trim(), &["execution", "ls", "--limit", "1"]);
    tour.step_as(secret.trim(), &["execution", "create", "--", "true"]);
    tour.step_as(secret.trim(), &["token", "create", "more"]);
    tour.step(&["token", "ls"]);
    tour.step(&["token", "revoke", id.trim()]);
    tour.step_as(secret.trim(), &["execution", "ls"]);
    tour.step(&["token", "info", id.trim()]);
    tour.chapter()
}

fn users(tour: &mut Tour) -> String {
    tour.step(&["user", "create", "ada", "--role", "user"]);
    let ada = tour.secret(&["token", "create", "laptop", "--user", "ada"]);
    tour.step_as(&ada, &["execution", "create", "--", "true"]);
    tour.step_as(&ada, &["user", "ls"]);
    tour.step(&["user", "role", "ada", "viewer"]);
    tour.step_as(&ada, &["execution", "create", "--", "true"]);
    tour.step(&["user", "disable", "ada"]);
    tour.step_as(&ada, &["execution", "ls"]);
    tour.step(&["user", "enable", "ada"]);
    tour.step_as(&ada, &["execution", "ls", "--limit", "1"]);
    tour.step(&["user", "ls"]);
    tour.chapter()
}

fn tenants(tour: &mut Tour) -> String {
    tour.step(&["tenant", "create", "biology"]);
    tour.step(&["user", "create", "bob", "--role", "admin", "--tenant", "biology"]);
    let bob = tour.secret(&["token", "create", "desk", "--user", "bob", "--tenant", "biology"]);
    let id = tour.step_as(&bob, &["execution", "create", "--", "true"]).out;
    tour.step_as(&bob, &["execution", "ls"]);
    tour.step(&["execution", "ls", "--tenant", "biology"]);
    tour.step(&["changes", "--tenant", "biology"]);
    // Bob keeps his own tenant, and does not learn of another one.
    let other = tour.step(&["execution", "ls", "--limit", "1", "--json"]).out;
    let other: serde_json::Value = serde_json::from_str(&other).expect("is JSON");
    tour.said.truncate(tour.said.rfind("$ ").unwrap_or(0));
    tour.step_as(&bob, &["execution", "info", other["items"][0]["id"].as_str().expect("is there")]);
    tour.step_as(&bob, &["execution", "ls", "--tenant", "house"]);
    tour.step_as(&bob, &["tenant", "create", "chemistry"]);
    tour.step_as(&bob, &["log", "levels"]);
    tour.step(&["execution", "cancel", id.trim()]);
    tour.step(&["tenant", "ls"]);
    tour.chapter()
}

fn refusals(tour: &mut Tour) -> String {
    tour.step(&["log", "set", "store=debug", "--for", "10m"]);
    tour.step(&["log", "set", "kitchen=debug"]);
    tour.step(&["execution", "info", "exe_00000000000000000000000001"]);
    tour.step(&["user", "info", "nobody"]);
    tour.step(&["tenant", "info", "nowhere"]);
    tour.step(&["user", "create", "ada", "--role", "user"]);
    tour.step(&["tenant", "create", "Biology"]);
    tour.step(&["--token", "qry_wrong", "execution", "ls"]);
    tour.step(&["--url", "http://127.0.0.1:1", "execution", "ls"]);
    tour.step(&["execution", "create", "--memory", "1", "--", "true"]);
    tour.step(&["changes", "--after", "100000"]);
    tour.step(&["login", "--forget"]);
    tour.step(&["execution", "ls"]);
    tour.chapter()
}

#[test]
fn the_tour() {
    let chapters = tour(Engine::Sqlite).expect("needs nothing");
    let checks = [check_executions, check_tokens, check_users, check_tenants, check_refusals];
    assert_eq!(chapters.len(), checks.len());
    for (chapter, check) in chapters.iter().zip(checks) {
        check(chapter);
    }
}

fn check_executions(said: &str) {
    insta::assert_snapshot!(said, @"
    $ quarry login URL --token-file token
    server  URL
    user  admin
    tenant  house
    role  admin
    scopes  change:read execution:read execution:write blob:read blob:write image:read image:write registry:read registry:write dump:read dump:write node:read node:write node:run token:read token:write user:read user:write tenant:read tenant:write log:read log:write
    token  tok_…
    $ quarry login --show
    server  URL
    user  admin
    tenant  house
    role  admin
    scopes  change:read execution:read execution:write blob:read blob:write image:read image:write registry:read registry:write dump:read dump:write node:read node:write node:run token:read token:write user:read user:write tenant:read tenant:write log:read log:write
    token  tok_…
    $ quarry execution create --env LEVEL=3 -- echo hello world
    exe_…
    $ quarry execution create --class batch --lane nightly --input 1 2 3 -- sort -n
    exe_…
    $ quarry execution ls
    ID  STATE  CLASS  CREATED  BY  COMMAND
    exe_…  queued  batch  TIME  admin  sort -n
    exe_…  queued  human  TIME  admin  echo 'hello world'
    $ quarry execution info exe_…
    id  exe_…
    state  queued
    command  echo 'hello world'
    env  LEVEL=3
    limits  512 MiB memory, 1 cores, 256 processes, 60 min, 256 MiB of files, 16 MiB of log
    class  human
    by  admin
    attempt  0
    created  TIME
    $ quarry execution wait exe_… --timeout 100ms
    error: execution `exe_…` has not ended
    [exit code 1]
    $ quarry execution cancel exe_…
    exe_…  cancelled  stopped by a user
    $ quarry execution cancel exe_…
    exe_…  cancelled  stopped by a user
    $ quarry execution ls --state cancelled
    ID  STATE  CLASS  CREATED  BY  COMMAND
    exe_…  cancelled  human  TIME  admin  echo 'hello world'
    $ quarry changes --after 3
    4  TIME  execution  queued  exe_…  by admin
    5  TIME  execution  queued  exe_…  by admin
    6  TIME  execution  cancelled  exe_…  by admin
    ");
}

fn check_tokens(said: &str) {
    insta::assert_snapshot!(said, @"
    $ quarry token create ci --scope execution:read --expires 90d --file ci
    tok_…
    the secret stands in `ci`
    $ quarry execution ls --limit 1
    ID  STATE  CLASS  CREATED  BY  COMMAND
    exe_…  queued  batch  TIME  admin  sort -n
    there are more than 1; see --limit
    $ quarry execution create -- true
    error: `execution:write` is needed for this
    hint: your role allows it, this token does not; use another one
    [exit code 3]
    $ quarry token create more
    error: `token:write` is needed for this
    hint: your role allows it, this token does not; use another one
    [exit code 3]
    $ quarry token ls
    ID  NAME  USER  STATE  CREATED  EXPIRES  USED  SCOPES
    tok_…  first  usr_…  active  TIME  never  TIME  all of its user
    tok_…  ci  usr_…  active  TIME  TIME  TIME  execution:read
    $ quarry token revoke tok_…
    tok_…  revoked
    $ quarry execution ls
    error: the token `tok_…` was revoked at TIME
    [exit code 3]
    $ quarry token info tok_…
    id  tok_…
    name  ci
    user  usr_…
    tenant  ten_…
    state  revoked
    scopes  execution:read
    created  TIME
    expires  TIME
    used  TIME
    revoked  TIME
    ");
}

fn check_users(said: &str) {
    insta::assert_snapshot!(said, @"
    $ quarry user create ada --role user
    id  usr_…
    name  ada
    tenant  ten_…
    role  user
    state  active
    created  TIME
    $ quarry token create laptop --user ada
    SECRET
    token `tok_…`; its secret is not shown again:
    $ quarry execution create -- true
    exe_…
    $ quarry user ls
    error: `user:read` is needed for this
    hint: you are user in tenant `house`; ask an admin
    [exit code 3]
    $ quarry user role ada viewer
    id  usr_…
    name  ada
    tenant  ten_…
    role  viewer
    state  active
    created  TIME
    $ quarry execution create -- true
    error: `execution:write` is needed for this
    hint: you are viewer in tenant `house`; ask an admin
    [exit code 3]
    $ quarry user disable ada
    id  usr_…
    name  ada
    tenant  ten_…
    role  viewer
    state  disabled
    created  TIME
    $ quarry execution ls
    error: the token belongs to a user who is disabled
    hint: ask an admin
    [exit code 3]
    $ quarry user enable ada
    id  usr_…
    name  ada
    tenant  ten_…
    role  viewer
    state  active
    created  TIME
    $ quarry execution ls --limit 1
    ID  STATE  CLASS  CREATED  BY  COMMAND
    exe_…  queued  human  TIME  ada  true
    there are more than 1; see --limit
    $ quarry user ls
    ID  ROLE  STATE  CREATED  NAME
    usr_…  admin  active  TIME  admin
    usr_…  viewer  active  TIME  ada
    ");
}

fn check_tenants(said: &str) {
    insta::assert_snapshot!(said, @"
    $ quarry tenant create biology
    id  ten_…
    name  biology
    created  TIME
    $ quarry user create bob --role admin --tenant biology
    id  usr_…
    name  bob
    tenant  ten_…
    role  admin
    state  active
    created  TIME
    $ quarry token create desk --user bob --tenant biology
    SECRET
    token `tok_…`; its secret is not shown again:
    $ quarry execution create -- true
    exe_…
    $ quarry execution ls
    ID  STATE  CLASS  CREATED  BY  COMMAND
    exe_…  queued  human  TIME  bob  true
    $ quarry execution ls --tenant biology
    ID  STATE  CLASS  CREATED  BY  COMMAND
    exe_…  queued  human  TIME  bob  true
    $ quarry changes --tenant biology
    15  TIME  tenant  created  ten_…  by admin
    16  TIME  user  active  usr_…  by admin
    17  TIME  token  created  tok_…  by admin
    18  TIME  execution  queued  exe_…  by bob
    $ quarry execution info exe_…
    error: execution `exe_…` does not exist
    [exit code 2]
    $ quarry execution ls --tenant house
    error: tenant `house` does not exist
    [exit code 2]
    $ quarry tenant create chemistry
    error: `tenant:write` is needed for this
    hint: only the house's own tenant can do this
    [exit code 3]
    $ quarry log levels
    error: `log:read` is needed for this
    hint: only the house's own tenant can do this
    [exit code 3]
    $ quarry execution cancel exe_…
    exe_…  cancelled  stopped by a user
    $ quarry tenant ls
    ID  CREATED  NAME
    ten_…  TIME  house
    ten_…  TIME  biology
    ");
}

fn check_refusals(said: &str) {
    insta::assert_snapshot!(said, @"
    $ quarry log set store=debug --for 10m
    MODULE  LEVEL
    default  info
    store  debug
    until TIME
    $ quarry log set kitchen=debug
    error: log module `kitchen` is none of: model, store, server, client, node, sandbox, dump, cli, other
    hint: the nearest one is `other`
    [exit code 64]
    $ quarry execution info exe_…
    error: execution `exe_…` does not exist
    [exit code 2]
    $ quarry user info nobody
    error: user `nobody` does not exist
    hint: see `quarry user ls`
    [exit code 2]
    $ quarry tenant info nowhere
    error: tenant `nowhere` does not exist
    hint: see `quarry tenant ls`
    [exit code 2]
    $ quarry user create ada --role user
    error: user `ada` already exists, and is different
    hint: choose another id or name, or look at the one that is there
    [exit code 3]
    $ quarry tenant create Biology
    error: tenant `Biology` already exists, and is different
    hint: choose another id or name, or look at the one that is there
    [exit code 3]
    $ quarry --token qry_wrong execution ls
    error: the token is not one of ours
    [exit code 3]
    $ quarry --url http://127.0.0.1:1 execution ls
    error: the server at `http://127.0.0.1:1` cannot be reached: Connection refused (os error 111)
    hint: is it running, and is the address right? (--url, QUARRY_URL or `quarry login`)
    [exit code 4]
    $ quarry execution create --memory 1 -- true
    error: `limits.memory_bytes` of execution `exe_…` is 1; it must be 1048576 to 1099511627776
    [exit code 64]
    $ quarry changes --after 100000
    error: cursor 100000 is ahead of the log, which ends at 19
    hint: take `as_of` or `next` of a page of this server
    [exit code 64]
    $ quarry login --forget
    forgotten; the token itself still works until it is revoked
    $ quarry execution ls
    error: no server is named
    hint: use --url or QUARRY_URL, or `quarry login URL` once; `quarry up` starts one
    [exit code 64]
    ");
}

#[test]
fn the_tour_is_the_same_on_postgres() {
    let (one, other) = (tour(Engine::Sqlite), tour(Engine::Postgres));
    if other.is_some() {
        assert_eq!(one, other);
    }
}

/// Thirty megabytes of text, whose every line tells where it stands.
fn large() -> String {
    (0..30 * 1024 * 1024 / 16).map(|line| format!("line {line:010}\n")).collect()
}

#[test]
fn a_large_file_goes_there_and_back() {
    let mut tour = Tour::begin(Engine::Sqlite).expect("needs nothing");
    tour.chapter();
    let text = large();
    std::fs::write(tour.home().join("core"), &text).expect("is written");
    let digest = tour.step(&["blob", "put", "core"]).out.trim().to_owned();
    tour.step(&["blob", "put", "core"]);
    tour.step(&["blob", "info", &digest]);
    tour.step(&["blob", "ls"]);
    tour.step(&["blob", "get", &digest, "-o", "back"]);
    assert!(std::fs::read_to_string(tour.home().join("back")).expect("is text") == text, "it came back changed");
    tour.step(&["blob", "get", &digest, "--range", "0-15"]);
    tour.step(&["blob", "get", &digest, "--range", "16777216-16777231"]);
    tour.step(&["blob", "get", &digest, "--range", "31457264-"]);
    tour.step(&["blob", "get", &digest, "--range", "31457280-"]);
    tour.step(&["blob", "get", &"0".repeat(64), "-o", "nothing"]);
    assert!(!tour.home().join("nothing").exists(), "something was made for a blob that is not there");
    tour.step(&["blob", "put", "nowhere"]);
    insta::assert_snapshot!(tour.chapter(), @"
    $ quarry blob put core
    8b5afe37410d6adef8e0e39645e76f5666621aabf54339dd2cedf1a52a384cf5
    $ quarry blob put core
    8b5afe37410d6adef8e0e39645e76f5666621aabf54339dd2cedf1a52a384cf5
    it was stored already
    $ quarry blob info 8b5afe37410d6adef8e0e39645e76f5666621aabf54339dd2cedf1a52a384cf5
    digest  8b5afe37410d6adef8e0e39645e76f5666621aabf54339dd2cedf1a52a384cf5
    size  31457280
    $ quarry blob ls
    DIGEST  CREATED  SIZE
    8b5afe37410d6adef8e0e39645e76f5666621aabf54339dd2cedf1a52a384cf5  TIME  31457280
    $ quarry blob get 8b5afe37410d6adef8e0e39645e76f5666621aabf54339dd2cedf1a52a384cf5 -o back
    $ quarry blob get 8b5afe37410d6adef8e0e39645e76f5666621aabf54339dd2cedf1a52a384cf5 --range 0-15
    line 0000000000
    $ quarry blob get 8b5afe37410d6adef8e0e39645e76f5666621aabf54339dd2cedf1a52a384cf5 --range 16777216-16777231
    line 0001048576
    $ quarry blob get 8b5afe37410d6adef8e0e39645e76f5666621aabf54339dd2cedf1a52a384cf5 --range 31457264-
    line 0001966079
    $ quarry blob get 8b5afe37410d6adef8e0e39645e76f5666621aabf54339dd2cedf1a52a384cf5 --range 31457280-
    error: the range lies outside blob `8b5afe37410d6adef8e0e39645e76f5666621aabf54339dd2cedf1a52a384cf5` of 31457280 bytes
    [exit code 64]
    $ quarry blob get 0000000000000000000000000000000000000000000000000000000000000000 -o nothing
    error: blob `0000000000000000000000000000000000000000000000000000000000000000` does not exist
    [exit code 2]
    $ quarry blob put nowhere
    error: `nowhere` cannot be read: No such file or directory (os error 2)
    [exit code 1]
    ");
}
