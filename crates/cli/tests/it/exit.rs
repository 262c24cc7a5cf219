//! The exit codes of the help's table, verb by verb, in a real house: what is not there, what cannot be meant, what is not
//! allowed, what conflicts. `connection.rs` has the servers that are not there.

use crate::stub::run_with;
use crate::system::{Engine, House, Server};

/// Commands, one a line; `%` stands for 26 digits of an id that nothing has.
const NOT_FOUND: &str = "
execution info exe_%
execution cancel exe_%
execution logs exe_%
execution retry exe_%
execution wait exe_%
execution create --image nothing -- true
run --pull never --image nothing -- true
image inspect nothing
image inspect img_%
image rm nothing
image rm img_%
node info nothing
node cordon nothing
node drain nothing
node rm nod_%
ps --node nothing
execution ls --tenant nothing
top --once --tenant nothing
tenant info nothing
token info tok_%
token revoke tok_%
token create x --user nothing
user info nothing
user role nothing viewer
user disable nothing
registry logout nothing
dump show dmp_%
signature info 0123456789abcdef0123456789abcdef";

const USAGE: &str = "
execution info x
execution cancel exe_1
execution ls --limit x
run
run --nope -- true
run --memory 1 -- true
run --time soon -- true
run --allow somebody:x -- true
run --allow a_b/c -- true
run --net wide -- true
run --env A -- true
run --runtime runc -- true
run --cwd here -- true
execution create --class royal -- true
image import rootfs
image ls --state asleep
node ls --state asleep
node --slots x
ps --limit x
top --often
tenant create UPPER_x!
token create x --expires soon
token create x --scope nope
user create x
log set x";

const NOT_ALLOWED: &str = "
run -- true
run --detach -- true
run --image nothing -- true
execution create -- true
execution cancel exe_%
execution retry exe_%
image pull debian
image rm img_%
image gc
node cordon nothing
tenant create x
user create x --role viewer
token create x --user nobody
log set server=debug
blob put quarry.toml";

const CONFLICT: &str = "
execution retry LIVE
execution create --id LIVE -- echo other
tenant create house
user create ann --role viewer";

#[track_caller]
fn check(server: &Server, token: &str, commands: &str, code: i32) {
    for line in commands.lines().filter(|line| !line.is_empty()) {
        let line = line.replace('%', "01k9yvx0g8m6f3s2d1a0q7w5e4");
        let ran = run_with(server.command(token, &line.split(' ').collect::<Vec<_>>()), b"");
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{line}: {}", ran.err);
        assert!(ran.err.starts_with("error: ") || ran.err.starts_with("pulling "), "{line}: {}", ran.err);
    }
}

#[test]
fn every_verb_ends_with_the_code_of_the_table() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    std::fs::write(house.home().join("quarry.toml"), "").expect("is written");
    let (server, token) = (house.start(), house.token());
    let said = |args: &[&str]| {
        let ran = server.run(&token, args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran.out.trim().to_owned()
    };
    check(&server, &token, NOT_FOUND, 2);
    check(&server, &token, USAGE, 64);
    said(&["user", "create", "ann", "--role", "viewer"]);
    let viewer = said(&["token", "create", "laptop", "--user", "ann"]);
    check(&server, &viewer, NOT_ALLOWED, 3);
    check(&server, "qry_wrong", "run -- true\nps\ntop --once\nimage ls\nnode ls\ntoken ls\nexecution ls", 3);
    // No node is there, so it waits for ever.
    let live = said(&["run", "--detach", "true"]);
    said(&["execution", "create", "--id", &live, "--", "true"]);
    check(&server, &token, &CONFLICT.replace("LIVE", &live), 3);
    server.stop();
}
