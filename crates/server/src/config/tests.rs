//! Tests of the configuration as a whole: precedence, origins, masks, and every way to get it wrong.

use super::section::Draft;
use super::*;
use model::log::LogLevel;
use model::permission::Role;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

fn file(text: &str) -> Sources {
    Sources::new().file(ConfigFile::Text { path: "quarry.toml".into(), text: text.to_owned() })
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn loaded(sources: &Sources) -> Loaded {
    Config::load(sources).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Expects these lines, and no other, to be said about the sources.
fn refused(sources: &Sources, expected: &[&str]) {
    let said = match Config::load(sources) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    };
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

fn setting(loaded: &Loaded, key: &str) -> (String, String) {
    let found = loaded.settings.0.iter().find(|setting| setting.key == key).expect(key);
    (found.value.to_string(), found.origin.to_string())
}

#[test]
fn the_later_source_wins() {
    let text = "[server]\nlisten = '127.0.0.1:1'\ndata = 'from-file'\nbody_bytes_max = '1MiB'\n[log.modules]\nstore = 'debug'\nnode = 'off'\n";
    let environment = [
        ("QUARRY_SERVER_LISTEN", "127.0.0.1:2"),
        ("QUARRY_SERVER_BODY_BYTES_MAX", "2048"),
        ("QUARRY_LOG_MODULES_STORE", "trace"),
        ("QUARRY_LOG_MODULES_NODE", ""),
        ("QUARRY_URL", "http://elsewhere"),
        ("QUARRY_TOKEN", "qry_1"),
        ("PATH", "/bin"),
    ];
    let sources = file(text)
        .environment(variables(&environment))
        .flag("server.listen", "127.0.0.1:3", "--listen")
        .flag("server.metrics_public", "true", "--set");
    let loaded = loaded(&sources);
    let server = &loaded.config.server;
    assert_eq!((server.listen.port(), server.data.to_str()), (3, Some("from-file")));
    assert_eq!((server.body_bytes_max, server.metrics_public), (Bytes::new(2048), true));
    assert_eq!(loaded.config.log.modules, BTreeMap::from([("store".to_owned(), LogLevel::Trace)]));
    let check = |key: &str, value: &str, origin: &str| {
        assert_eq!(setting(&loaded, key), (value.to_owned(), origin.to_owned()), "{key}");
    };
    check("server.listen", "\"127.0.0.1:3\"", "--listen");
    check("server.data", "\"from-file\"", "quarry.toml:3");
    check("server.body_bytes_max", "\"2KiB\"", "QUARRY_SERVER_BODY_BYTES_MAX");
    check("server.request_timeout", "\"30s\"", "default");
    check("log.modules.store", "\"trace\"", "QUARRY_LOG_MODULES_STORE");
}

#[test]
fn defaults_need_no_source() {
    let loaded = loaded(&Sources::new());
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.settings.0.iter().all(|setting| setting.origin == Origin::Default));
}

#[test]
fn every_value_can_be_put_back() {
    // What is shown of the defaults is a file that gives the defaults.
    let shown = loaded(&Sources::new()).settings.to_string();
    assert_eq!(loaded(&file(&shown)).config, Config::default());
}

#[test]
fn every_key_has_its_own_variable() {
    let keys = Draft::keys();
    let names: BTreeSet<String> = keys.iter().map(|key| source::variable_name(key)).collect();
    assert_eq!(names.len(), keys.len());
}

#[test]
fn a_whole_file_is_read() {
    let loaded = loaded(&file(FULL));
    let config = &loaded.config;
    assert_eq!(config.tls.as_ref().map(|tls| tls.key.clone()), Some("key.pem".into()));
    assert_eq!(config.store.synchronous, Synchronous::Normal);
    assert_eq!(config.blob.bucket(), Some(("crashes", "house/one")));
    assert_eq!(config.retention.changes_age, Duration::from_secs(7 * 86_400));
    assert_eq!((config.rate.per_second, config.rate.burst), (10.0, 20.5));
    let [shared, keyed] = config.issuers.as_slice() else { panic!("two issuers") };
    assert_eq!((shared.algorithm, shared.header.as_str()), (JwtAlgorithm::Hs256, "X-JWT-Assertion-{tenant}"));
    assert_eq!(shared.key.as_ref().map(Secret::expose), Some("0123456789abcdef0123456789abcdef"));
    assert_eq!(shared.role_map, BTreeMap::from([("Internal/everyone".to_owned(), Role::User)]));
    assert_eq!((keyed.algorithm, keyed.default_role), (JwtAlgorithm::EdDsa, Some(Role::Viewer)));
}

const FULL: &str = r#"
[server]
listen = "[::]:7070"
connections_max = 0x10
[tls]
certificate = "cert.pem"
key = "key.pem"
[store]
database = "postgres://quarry:hunter2@db.example.org/quarry?sslmode=require"
synchronous = "normal"
[blob]
url = "s3://crashes/house/one/"
endpoint = "http://127.0.0.1:9000"
access_key_id = "AKIA"
secret_access_key = "hunter2"
allow_http = true
[retention]
changes_age = "1w"
[rate]
per_second = 10
burst = 20.5
[log]
format = "json"
modules = { store = "debug" }
[[issuer]]
name = "corporate"
header = "X-JWT-Assertion-{tenant}"
algorithm = "HS256"
key = "0123456789abcdef0123456789abcdef"
user_claim = "http://wso2.org/claims/enduser"
roles_claim = "http://wso2.org/claims/role"
role_map = { "Internal/everyone" = "user" }
[[issuer]]
name = "ci"
algorithm = "EdDSA"
jwks_file = "ci.json"
audience = ""
tenant = "house"
default_role = "viewer"
"#;

#[test]
fn show_masks_and_tells_origins() {
    let sources = file(FULL).environment(variables(&[("QUARRY_BLOB_SECRET_ACCESS_KEY", "hunter3")])).flag(
        "log.level",
        "debug",
        "--set log.level=debug",
    );
    let loaded = loaded(&sources);
    let shown = loaded.settings.to_string();
    let json = serde_json::to_string(&loaded.settings).expect("serialises");
    for text in [&shown, &json, &format!("{loaded:?}")] {
        assert!(!text.contains("hunter") && !text.contains("0123456789abcdef"), "{text}");
    }
    insta::assert_snapshot!(shown, @r#"
    server.listen             = "[::]:7070"                       # quarry.toml:3
    server.data               = "quarry-data"                     # default
    server.request_timeout    = "30s"                             # default
    server.header_timeout     = "10s"                             # default
    server.drain_timeout      = "30s"                             # default
    server.body_bytes_max     = "256KiB"                          # default
    server.connections_max    = 16                                # quarry.toml:4
    server.metrics_public     = false                             # default
    server.secret_key         = ""                                # default
    tls.certificate           = "cert.pem"                        # quarry.toml:6
    tls.key                   = "key.pem"                         # quarry.toml:7
    store.database            = "postgres://quarry:********@db.example.org/quarry?sslmode=require"  # quarry.toml:9
    store.synchronous         = "normal"                          # quarry.toml:10
    store.pool_size           = 8                                 # default
    blob.url                  = "s3://crashes/house/one/"         # quarry.toml:12
    blob.endpoint             = "http://127.0.0.1:9000"           # quarry.toml:13
    blob.region               = ""                                # default
    blob.access_key_id        = "AKIA"                            # quarry.toml:14
    blob.secret_access_key    = "********"                        # QUARRY_BLOB_SECRET_ACCESS_KEY
    blob.allow_http           = true                              # quarry.toml:16
    retention.changes_age     = "7d"                              # quarry.toml:18
    retention.changes_bytes   = "4GiB"                            # default
    retention.executions_age  = "90d"                             # default
    retention.dumps_age       = ""                                # default
    retention.dumps_kept      = ""                                # default
    node.lease                = "30s"                             # default
    node.max_age              = ""                                # default
    node.unserved_max         = "1h"                              # default
    rate.per_second           = 10.0                              # quarry.toml:20
    rate.burst                = 20.5                              # quarry.toml:21
    rate.anonymous_per_second = 20.0                              # default
    rate.anonymous_burst      = 40.0                              # default
    log.format                = "json"                            # quarry.toml:23
    log.level                 = "debug"                           # --set log.level=debug
    log.split                 = false                             # default
    log.folder                = ""                                # default
    log.modules.store         = "debug"                           # quarry.toml:24
    issuer[0].name            = "corporate"                       # quarry.toml:26
    issuer[0].header          = "X-JWT-Assertion-{tenant}"        # quarry.toml:27
    issuer[0].algorithm       = "HS256"                           # quarry.toml:28
    issuer[0].key             = "********"                        # quarry.toml:29
    issuer[0].key_file        = ""                                # default
    issuer[0].jwks_file       = ""                                # default
    issuer[0].issuer          = ""                                # default
    issuer[0].audience        = ""                                # default
    issuer[0].user_claim      = "http://wso2.org/claims/enduser"  # quarry.toml:30
    issuer[0].tenant_claim    = ""                                # default
    issuer[0].roles_claim     = "http://wso2.org/claims/role"     # quarry.toml:31
    issuer[0].tenant          = ""                                # default
    issuer[0].default_role    = ""                                # default
    issuer[0].role_map        = { "Internal/everyone" = "user" }  # quarry.toml:32
    issuer[1].name            = "ci"                              # quarry.toml:34
    issuer[1].header          = "Authorization"                   # default
    issuer[1].algorithm       = "EdDSA"                           # quarry.toml:35
    issuer[1].key             = ""                                # default
    issuer[1].key_file        = ""                                # default
    issuer[1].jwks_file       = "ci.json"                         # quarry.toml:36
    issuer[1].issuer          = ""                                # default
    issuer[1].audience        = ""                                # quarry.toml:37
    issuer[1].user_claim      = "sub"                             # default
    issuer[1].tenant_claim    = ""                                # default
    issuer[1].roles_claim     = ""                                # default
    issuer[1].tenant          = "house"                           # quarry.toml:38
    issuer[1].default_role    = "viewer"                          # quarry.toml:39
    issuer[1].role_map        = {}                                # default
    "#);
    let of = |key: &str| {
        let found = loaded.settings.0.iter().find(|setting| setting.key == key);
        serde_json::to_string(&found).expect("serialises")
    };
    insta::assert_snapshot!([of("store.database"), of("blob.secret_access_key"), of("server.data"), of("log.level")].join("\n"), @r#"
    {"key":"store.database","value":"postgres://quarry:********@db.example.org/quarry?sslmode=require","origin":{"kind":"file","path":"quarry.toml","line":9}}
    {"key":"blob.secret_access_key","value":"********","origin":{"kind":"environment","name":"QUARRY_BLOB_SECRET_ACCESS_KEY"}}
    {"key":"server.data","value":"quarry-data","origin":{"kind":"default"}}
    {"key":"log.level","value":"debug","origin":{"kind":"flag","name":"--set log.level=debug"}}
    "#);
}

#[test]
fn unknown_keys_name_the_nearest() {
    let text = "listen = 'x'\n[server]\nlisen = '127.0.0.1:1'\n\"modules.store\" = 1\n[sevrer]\ndata = 'x'\n[log]\nlvel = 'info'\n\"modules.store\" = 'debug'\n[log.modules]\nstroe = 'debug'\n[[issuer]]\nname = 'a'\nalgoritm = 'HS256'\n";
    let sources = file(text)
        .environment(variables(&[
            ("QUARRY_SERVER_LISEN", "127.0.0.1:1"),
            ("QUARRY_LOG", "debug"),
            ("QUARRY_ISSUER_0_KEY", "hunter2"),
        ]))
        .flag("blob.ulr", "s3://hunter2", "--set blob.ulr=…");
    let errors = Config::load(&sources).expect_err("nearly nothing is right");
    assert!(!errors.to_string().contains("hunter2"));
    insta::assert_snapshot!(errors, @r#"
    quarry.toml:1: `listen` is not a known key (the nearest one is `server.listen`)
    quarry.toml:3: `server.lisen` is not a known key (the nearest one is `server.listen`)
    quarry.toml:4: `server."modules.store"` is not a known key (the nearest one is `log.modules.store`)
    quarry.toml:5: `sevrer` is not a known section (the nearest one is `[server]`)
    quarry.toml:8: `log.lvel` is not a known key (the nearest one is `log.level`)
    quarry.toml:9: `log."modules.store"` is not a known key (the nearest one is `log.modules.store`)
    quarry.toml:11: `log.modules.stroe` is not a known key (the nearest one is `log.modules.store`)
    quarry.toml:12: `issuer[0].algorithm` is missing
    quarry.toml:12: `issuer[0].tenant` is missing, and nothing else tells a user's tenant (set `tenant` or `tenant_claim`, or put `{tenant}` into `header`)
    quarry.toml:12: `issuer[0].default_role` is missing, and nothing else gives anybody a role (set `default_role`, or both `roles_claim` and `role_map`)
    quarry.toml:14: `issuer[0].algoritm` is not a known key (the nearest one is `algorithm`)
    QUARRY_SERVER_LISEN: the configuration knows no such variable (the nearest one is `QUARRY_SERVER_LISTEN`; see `quarry config show`)
    QUARRY_LOG: the configuration knows no such variable (the nearest one is `QUARRY_LOG_LEVEL`; see `quarry config show`)
    QUARRY_ISSUER_0_KEY: issuers can only be set in the configuration file (a secret can stay out of the file: `key_file` names the file that holds it)
    --set blob.ulr=…: `blob.ulr` is not a known key (the nearest one is `blob.url`)
    "#);
    let json = serde_json::to_value(&errors.problems[1]).expect("serialises");
    insta::assert_snapshot!(json, @r#"
    {"hint":"the nearest one is `server.listen`","key":"server.lisen","message":"is not a known key","origin":{"kind":"file","line":3,"path":"quarry.toml"}}
    "#);
}

#[test]
fn wrong_values_name_what_is_expected() {
    let text = r#"
[server]
listen = "localhost"
data = ""
request_timeout = 30
drain_timeout = "2h"
body_bytes_max = "1"
connections_max = "8"
metrics_public = "true"
[store]
database = "mysql://q:hunter2@host/db"
synchronous = "off"
pool_size = -1
[blob]
secret_access_key = 12345
[rate]
per_second = nan
burst = "many"
[log]
format = "xml"
level = "verbose"
split = 1
modules = "debug"
[retention]
changes_age = 1979-05-27
changes_bytes = [1]
"#;
    insta::assert_snapshot!(Config::load(&file(text)).expect_err("nothing is right"), @r#"
    quarry.toml:3: `server.listen` is `"localhost"`; expected an address and a port, such as `127.0.0.1:7070` or `[::]:7070`
    quarry.toml:4: `server.data` is `""`; expected a path
    quarry.toml:5: `server.request_timeout` is `30`; expected a time such as `500ms`, `30s`, `1h30m` or `7d`
    quarry.toml:6: `server.drain_timeout` is `2h`, which is out of range; expected `0s` to `1h`
    quarry.toml:7: `server.body_bytes_max` is `1`, which is out of range; expected `1KiB` to `64MiB`
    quarry.toml:8: `server.connections_max` is `"8"`; expected a whole number
    quarry.toml:9: `server.metrics_public` is `"true"`; expected `true` or `false`
    quarry.toml:11: `store.database` is `"mysql://q:********@host/db"`; expected `sqlite` or an address such as `postgres://quarry@localhost/quarry`
    quarry.toml:12: `store.synchronous` is `"off"`; expected `full` or `normal`
    quarry.toml:13: `store.pool_size` is `-1`; expected a whole number
    quarry.toml:15: `blob.secret_access_key` is `********`; expected text
    quarry.toml:17: `rate.per_second` is `nan`; expected a number
    quarry.toml:18: `rate.burst` is `"many"`; expected a number
    quarry.toml:20: `log.format` is `"xml"`; expected `text` or `json`
    quarry.toml:21: `log.level` is `"verbose"`; expected one of `off`, `error`, `warn`, `info`, `debug`, `trace`
    quarry.toml:22: `log.split` is `1`; expected `true` or `false`
    quarry.toml:23: `log.modules` has the wrong shape; expected a section `[log.modules]`
    quarry.toml:25: `retention.changes_age` is `1979-05-27`; expected a time such as `500ms`, `30s`, `1h30m` or `7d`
    quarry.toml:26: `retention.changes_bytes` is `[…]`; expected a size such as `64MiB`, or a number of bytes
    "#);
    let environment = variables(&[
        ("QUARRY_SERVER_LISTEN", ""),
        ("QUARRY_STORE_POOL_SIZE", "4097"),
        ("QUARRY_SERVER_METRICS_PUBLIC", "yes"),
        ("QUARRY_RATE_BURST", "inf"),
        ("QUARRY_STORE_DATABASE", "postgress://q:hunter2@host/db"),
    ]);
    let sources = Sources::new().environment(environment).flag("server.data", "", "--data");
    insta::assert_snapshot!(Config::load(&sources).expect_err("nothing is right"), @r#"
    QUARRY_SERVER_LISTEN: `server.listen` is ``; expected an address and a port, such as `127.0.0.1:7070` or `[::]:7070`
    QUARRY_STORE_POOL_SIZE: `store.pool_size` is `4097`, which is out of range; expected `1` to `1024`
    QUARRY_SERVER_METRICS_PUBLIC: `server.metrics_public` is `yes`; expected `true` or `false`
    QUARRY_RATE_BURST: `rate.burst` is `inf`; expected a number
    QUARRY_STORE_DATABASE: `store.database` is `postgress://q:********@host/db`; expected `sqlite` or an address such as `postgres://quarry@localhost/quarry`
    --data: `server.data` is ``; expected a path
    "#);
    let bad = vec![("QUARRY_SERVER_DATA".into(), OsString::from_vec(vec![0xff]))];
    refused(&Sources::new().environment(bad), &["QUARRY_SERVER_DATA: `server.data` is not UTF-8 text"]);
}

#[test]
fn keys_that_belong_together() {
    let check = |text: &str, expected: &[&str]| refused(&file(text), expected);
    check("[tls]\nkey = 'k'", &["quarry.toml:2: `tls.key` is given without `tls.certificate` (give both or none)"]);
    // The other half is there, only wrong: that is said once.
    check("[tls]\nkey = 'k'\ncertificate = 1", &["quarry.toml:3: `tls.certificate` is `1`; expected a path"]);
    check(
        "[rate]\nburst = 0.5",
        &[
            "quarry.toml:2: `rate.burst` is `0.5`, which lets no request through; expected at least `1` (`rate.per_second = 0` switches the limit off)",
        ],
    );
    check("[rate]\nper_second = 0\nburst = 0\nanonymous_per_second = 0.0\nanonymous_burst = 0", &[]);
    for database in ["postgres:///db", "postgres://:5432/db", "postgresql://q:p@/db"] {
        let expected = "quarry.toml:2: `store.database` has no host in its address (an address looks like `postgres://quarry@localhost/quarry`)";
        check(&format!("[store]\ndatabase = '{database}'"), &[expected]);
    }
    for database in ["sqlite", "postgres://h", "postgresql://q:p@h:1/db?x=y", "postgres:///db?host=/run/postgresql"] {
        check(&format!("[store]\ndatabase = '{database}'"), &[]);
    }
    for url in
        ["s3://", "s3:///p", "s3://ab", "s3://Crashes", "gs://crashes", "/folder", "s3://k:s@crashes", "s3://crashes?x"]
    {
        let expected = "quarry.toml:2: `blob.url` does not name a bucket (a bucket looks like `s3://bucket/prefix`; leave the key out to keep blobs in the data folder)";
        check(&format!("[blob]\nurl = '{url}'"), &[expected]);
    }
    check("[blob]\nurl = ''", &[]);
    check(
        "[blob]\nendpoint = 'https://h'",
        &["quarry.toml:2: `blob.endpoint` is given without `blob.url` (name the bucket there)"],
    );
    check(
        "[blob]\nurl = 's3://crashes'\nendpoint = 'http://h'\naccess_key_id = 'a'",
        &[
            "quarry.toml:3: `blob.endpoint` is an address without TLS (use https, or set `blob.allow_http = true`)",
            "quarry.toml:4: `blob.access_key_id` is given without `blob.secret_access_key` (give both or none)",
        ],
    );
}

#[test]
fn issuers_are_checked() {
    const GOOD: &str = "[[issuer]]\nname = 'a'\ntenant = 'house'\ndefault_role = 'user'\n";
    let check = |rest: &str, expected: &[&str]| refused(&file(&format!("{GOOD}{rest}")), expected);
    let key = "k".repeat(32);
    check("algorithm = 'RS256'\nkey_file = 'k'", &[]);
    check(&format!("algorithm = 'HS256'\nkey = '{key}'"), &[]);
    check("algorithm = 'HS256'\njwks_file = 'k'\nheader = 'X-{tenant}-Y'", &[]);
    check("key_file = 'k'", &["quarry.toml:1: `issuer[0].algorithm` is missing"]);
    check(
        "algorithm = 'none'",
        &["quarry.toml:5: `issuer[0].algorithm` is `\"none\"`; expected one of `HS256`, `RS256`, `ES256`, `EdDSA`"],
    );
    check(
        "algorithm = 'HS256'",
        &["quarry.toml:1: `issuer[0].key` is missing (HS256 needs `key`, `key_file` or `jwks_file`)"],
    );
    check(
        "algorithm = 'ES256'",
        &["quarry.toml:1: `issuer[0].key_file` is missing (ES256 needs `key_file` or `jwks_file`)"],
    );
    check(
        "algorithm = 'HS256'\nkey = 'hunter2'",
        &[
            "quarry.toml:6: `issuer[0].key` is too short; HS256 needs at least 32 bytes (`openssl rand -hex 32` makes one)",
        ],
    );
    check(
        &format!("algorithm = 'ES256'\nkey = '{key}'"),
        &[
            "quarry.toml:6: `issuer[0].key` is a shared secret, which ES256 has no use for (put the public key into `key_file` or `jwks_file`)",
        ],
    );
    check(
        "algorithm = 'ES256'\njwks_file = 'j'\nkey_file = 'k'",
        &["quarry.toml:6: `issuer[0].jwks_file` is given beside `key_file` (one place of keys is enough)"],
    );
    for header in ["", "X Y", "X-{tenant}-{tenant}", "X-{user}", "X:"] {
        let expected = "quarry.toml:7: `issuer[0].header` is not the name of a header (such as `Authorization` or `X-JWT-Assertion-{tenant}`)";
        check(&format!("algorithm = 'RS256'\nkey_file = 'k'\nheader = '{header}'"), &[expected]);
    }
    check(
        "algorithm = 'RS256'\nkey_file = 'k'\nroles_claim = 'r'\nrole_map = { a = 'root' }",
        &[
            "quarry.toml:8: `issuer[0].role_map` is `{…}`; expected a table of at most 256 entries, each one of `viewer`, `user`, `operator`, `admin`",
        ],
    );
    let twice = format!("algorithm = 'RS256'\nkey_file = 'k'\n{GOOD}algorithm = 'RS256'\nkey_file = 'k'");
    check(&twice, &["quarry.toml:8: `issuer[1].name` is `a`, which another issuer is called already"]);
    refused(
        &file("[[issuer]]\nalgorithm = 'RS256'\nkey_file = 'k'\nrole_map = { a = 'user' }"),
        &[
            "quarry.toml:1: `issuer[0].name` is missing",
            "quarry.toml:1: `issuer[0].tenant` is missing, and nothing else tells a user's tenant (set `tenant` or `tenant_claim`, or put `{tenant}` into `header`)",
            "quarry.toml:1: `issuer[0].default_role` is missing, and nothing else gives anybody a role (set `default_role`, or both `roles_claim` and `role_map`)",
            "quarry.toml:4: `issuer[0].role_map` is given without `roles_claim` (name the claim that lists the roles)",
        ],
    );
    let expected = "has the wrong shape; expected one or more sections `[[issuer]]`";
    for text in ["issuer = 1", "[issuer]\nname = 'a'", "issuer = [1]"] {
        refused(&file(text), &[&format!("quarry.toml:1: `issuer` {expected}")]);
    }
    let many =
        format!("{GOOD}algorithm = 'RS256'\nkey_file = 'k'\n").repeat(65).replace("tenant = ", "tenant_claim = ");
    let errors = Config::load(&file(&many)).expect_err("too many");
    assert!(errors.to_string().contains("at most 64 issuers are possible"), "{errors}");
}

#[test]
fn broken_files_are_told_without_their_secrets() {
    let text = "[server\nlisten = '127.0.0.1:1'\n[store]\ndatabase = postgres://q:hunter2@h\npool_size = 0\n";
    let errors = Config::load(&file(text)).expect_err("this is not TOML");
    assert!(!errors.to_string().contains("hunter2"), "{errors}");
    insta::assert_snapshot!(errors, @r#"
    quarry.toml:1: is not TOML: unclosed table, expected `]`
    quarry.toml:4: is not TOML: string values must be quoted, expected literal string
    quarry.toml:5: `store.pool_size` is `0`, which is out of range; expected `1` to `1024`
    "#);
    insta::assert_snapshot!(Config::load(&file("[log]\nlevel = 'info'\nlevel = 'debug'\n")).expect_err("twice"), @r#"
    quarry.toml:3: is not TOML: duplicate key
    "#);
}

#[test]
fn files_are_found_or_missed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("quarry.toml");
    assert!(Config::load(&Sources::new().file(ConfigFile::Usual(path.clone()))).is_ok());
    let named = || Config::load(&Sources::new().file(ConfigFile::Named(path.clone())));
    assert!(
        named()
            .expect_err("it is missing")
            .to_string()
            .contains("quarry.toml: the configuration file cannot be read: No such")
    );
    std::fs::write(&path, "[store]\npool_size = 3\n").expect("writes");
    assert_eq!(named().expect("it is there").config.store.pool_size, 3);
    std::fs::write(&path, [0xff]).expect("writes");
    assert!(named().expect_err("not text").to_string().contains("UTF-8"));
    std::fs::write(&path, "#".repeat((1 << 20) + 1)).expect("writes");
    assert!(named().expect_err("too large").to_string().contains("larger than 1048576 bytes"));
    let folder = Config::load(&Sources::new().file(ConfigFile::Usual(folder.path().to_owned())));
    assert!(folder.expect_err("not a file").to_string().contains("directory"));
}

#[test]
fn named_files_are_looked_at() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("writes");
        path
    };
    let pem = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    let certificate = path("certificate", &pem("CERTIFICATE"));
    let private = path("private", &pem("PRIVATE KEY"));
    let public = path("public", &pem("PUBLIC KEY"));
    let set = path("set", r#"{"keys":[{}]}"#);
    let (empty, short) = (path("empty", ""), path("short", &format!("{}   \n", "k".repeat(31))));
    let long = path("long", &"k".repeat(32));
    let missing = folder.path().join("missing");
    let check = |config: &Config, expected: &[&str]| {
        let loaded = Loaded { config: config.clone(), settings: Settings(Vec::new()) };
        let said = loaded.check_files().err().map_or_else(String::new, |errors| errors.to_string());
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            lines.len() == expected.len() && lines.iter().zip(expected).all(|(line, part)| line.contains(part)),
            "{said}"
        );
    };
    let tls = |certificate: &PathBuf, key: &PathBuf| Config {
        tls: Some(TlsConfig { certificate: certificate.clone(), key: key.clone() }),
        ..Config::default()
    };
    check(&tls(&certificate, &private), &[]);
    check(&tls(&private, &certificate), &["which holds no certificate as PEM", "which holds no private key as PEM"]);
    check(&tls(&empty, &missing), &["which holds no certificate", "`tls.key` names `"]);
    check(&tls(&certificate, &folder.path().to_owned()), &["which cannot be read: it is not a file"]);
    let issuer = |algorithm, key_file: Option<&PathBuf>, jwks_file: Option<&PathBuf>| {
        let issuer = IssuerConfig {
            algorithm,
            key_file: key_file.cloned(),
            jwks_file: jwks_file.cloned(),
            ..IssuerConfig::default()
        };
        Config { issuers: vec![issuer], ..Config::default() }
    };
    check(&issuer(JwtAlgorithm::Rs256, Some(&public), None), &[]);
    check(
        &issuer(JwtAlgorithm::Rs256, Some(&private), None),
        &["which holds a private key where a public one is expected"],
    );
    check(&issuer(JwtAlgorithm::Rs256, Some(&long), None), &["`issuer[0].key_file` names `"]);
    check(&issuer(JwtAlgorithm::Hs256, Some(&long), None), &[]);
    check(&issuer(JwtAlgorithm::Hs256, Some(&short), None), &["which is too short"]);
    check(&issuer(JwtAlgorithm::Es256, None, Some(&set)), &[]);
    check(&issuer(JwtAlgorithm::Es256, None, Some(&public)), &["which is not JSON"]);
    let loaded = loaded(&file("[tls]\ncertificate = '/nowhere/c'\nkey = '/nowhere/k'"));
    let said = loaded.check_files().expect_err("there is no such folder").to_string();
    assert!(
        said.starts_with("quarry.toml:2: `tls.certificate` names `/nowhere/c`, which cannot be read: No such"),
        "{said}"
    );
}
