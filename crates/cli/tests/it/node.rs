//! Nodes, images and registries from the command line, against a stub.

use crate::execution::{execution, json, request};
use crate::stub::{Ran, Stub, answer, refuse};
use model::chunk::Bytes;
use model::image::{ArchiveKind, ImageSource, Layer};
use model::node::{Hold, HoldKind};
use model::{
    Chunk, ChunkPage, Content, ExecutionState, Image, ImageConfig, ImageState, LimitSet, Manifest, Network, NewImage,
    NewRegistry, Node, NodeState, Offer, Page, Platform, Registry, SandboxKind, SessionId, Stream, TenantId,
};
use std::sync::{Arc, Mutex};

const NODE: &str = "nod_00000000000000000000000001";

fn at() -> jiff::Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("is an instant")
}

fn tenant() -> TenantId {
    TenantId::new(jiff::Timestamp::UNIX_EPOCH, 1)
}

fn platform() -> Platform {
    Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None }
}

fn node(state: NodeState, hold: Option<HoldKind>) -> Node {
    let held = |kind| Hold { kind, cause: "its disk is slow".to_owned(), by: "ada".to_owned(), at: at() };
    Node {
        id: NODE.parse().expect("is an id"),
        tenant: tenant(),
        name: "builder".to_owned(),
        state,
        hold: hold.map(held),
        session: Some(SessionId::new(jiff::Timestamp::UNIX_EPOCH, 1)),
        offer: Offer {
            version: "0.1.0".to_owned(),
            platform: platform(),
            kinds: vec![SandboxKind::Process, SandboxKind::Oci],
            networks: vec![Network::None, Network::Egress],
            runtimes: vec![],
            slots: 8,
            cpu_milli: 2_000,
            memory_bytes: 8 << 30,
            enforces: LimitSet { io: false, ..LimitSet::ALL },
            mounts: vec!["/data:ro".to_owned()],
            labels: [("disk".to_owned(), "ssd".to_owned())].into(),
        },
        busy: Some(3),
        by: "ada".to_owned(),
        created_at: at(),
        joined_at: Some(at()),
        lease_until: None,
    }
}

fn page<T: serde::Serialize>(items: Vec<T>) -> axum::response::Response {
    json(200, &Page { items, next: None, as_of: 7 })
}

async fn house() -> Stub {
    Stub::start(|seen| {
        let line = seen.line.split('?').next().expect("is one");
        match line {
            "GET /v1/nodes" => page(vec![node(NodeState::Ready, None), node(NodeState::Ready, Some(HoldKind::Cordon))]),
            "GET /v1/nodes/builder" => json(200, &node(NodeState::Ready, Some(HoldKind::Quarantine))),
            "POST /v1/nodes/builder/cordon" => json(200, &node(NodeState::Ready, Some(HoldKind::Cordon))),
            "POST /v1/nodes/builder/uncordon" => json(200, &node(NodeState::Ready, None)),
            "POST /v1/nodes/builder/drain" => json(200, &node(NodeState::Draining, None)),
            "DELETE /v1/nodes/builder" => json(200, &node(NodeState::Gone, None)),
            "GET /v1/changes" if seen.line.contains("limit=1") => answer(200, r#"{"items":[],"next":"7","as_of":7}"#),
            "GET /v1/changes" => {
                let body = serde_json::to_string(&node(NodeState::Gone, None)).expect("serialises");
                let change = format!(
                    r#"{{"seq":8,"at":"2026-01-01T00:00:00Z","tenant":"{}","noun":"node","id":"{NODE}","state":"gone","by":"ada","body":{body}}}"#,
                    tenant()
                );
                answer(200, format!("id: 8\nevent: change\ndata: {change}\n\n"))
            }
            "PUT /v1/registries/registry.example.org:5000" | "PUT /v1/registries/registry.example.org%3A5000" => {
                let new: NewRegistry = serde_json::from_slice(&seen.body).expect("is a request");
                assert_eq!(new.secret, "hush hush");
                json(200, &registry(&new.user))
            }
            "GET /v1/registries" => page(vec![registry("ada")]),
            "DELETE /v1/registries/localhost" => json(200, &registry("ada")),
            _ => refuse(404, "lost"),
        }
    })
    .await
}

fn registry(user: &str) -> Registry {
    Registry { host: "registry.example.org:5000".to_owned(), user: user.to_owned(), created_at: at() }
}

async fn said(stub: &Stub, args: &[&str], input: &[u8]) -> String {
    let Ran { code, out, err } = stub.run_with(args, input).await;
    let code = if code == 0 { String::new() } else { format!("[exit code {code}]\n") };
    format!("$ quarry {}\n{out}{err}{code}", args.join(" "))
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_shown_and_kept() {
    let stub = house().await;
    let mut all = String::new();
    for args in [
        "node ls",
        "node ls --state lost",
        "node info builder",
        "node uncordon builder",
        "node drain builder",
        "node drain --wait builder",
        "node rm builder other",
        "node info other",
    ] {
        all.push_str(&said(&stub, &args.split(' ').collect::<Vec<_>>(), b"").await);
    }
    insta::assert_snapshot!(all, @"
    $ quarry node ls
    ID                              STATE  BUSY  SLOTS  JOINED                NAME     HOLD
    nod_00000000000000000000000001  ready  3     8      2026-01-01T00:00:00Z  builder
    nod_00000000000000000000000001  ready  3     8      2026-01-01T00:00:00Z  builder  cordoned: its disk is slow
    $ quarry node ls --state lost
    ID                              STATE  BUSY  SLOTS  JOINED                NAME     HOLD
    nod_00000000000000000000000001  ready  3     8      2026-01-01T00:00:00Z  builder
    nod_00000000000000000000000001  ready  3     8      2026-01-01T00:00:00Z  builder  cordoned: its disk is slow
    $ quarry node info builder
    id           nod_00000000000000000000000001
    name         builder
    state        ready
    hold         quarantined: its disk is slow, since 2026-01-01T00:00:00Z
    busy         3 of 8
    machine      linux/amd64, 2 cores, 8 GiB memory
    version      0.1.0
    sandboxes    process oci
    networks     none egress
    enforces     memory, cpu, pids
    lacks        io
    mounts       /data:ro
    labels       disk=ssd
    tenant       ten_00000000000000000000000001
    by           ada
    session      ses_00000000000000000000000001
    created      2026-01-01T00:00:00Z
    joined       2026-01-01T00:00:00Z
    $ quarry node uncordon builder
    nod_00000000000000000000000001  ready  builder
    $ quarry node drain builder
    nod_00000000000000000000000001  draining  builder
    $ quarry node drain --wait builder
    nod_00000000000000000000000001  gone  builder
    $ quarry node rm builder other
    nod_00000000000000000000000001  gone  builder
    error: the stub says lost
    hint: ask the stub
    [exit code 2]
    $ quarry node info other
    error: the stub says lost
    hint: ask the stub
    [exit code 2]
    ");
    stub.take();
    assert_eq!(stub.run(&["node", "cordon", "builder", "--cause", "its disk is slow"]).await.code, 0);
    assert_eq!(&stub.take()[0].body[..], br#"{"cause":"its disk is slow"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_too_little_is_told() {
    let stub = house().await;
    let home = stub.home.path().join("state").display().to_string();
    let check = async |args: &[&str], code: i32, part: &str| {
        let ran = stub.run(args).await;
        assert!(ran.code == code && ran.err.contains(part), "{args:?}: {ran:?}");
    };
    check(&["node"], 64, "which server to join").await;
    check(&["node", "--slots", "4"], 64, "which server to join").await;
    // A file that is named goes before the token in the environment, and must be there.
    check(&["node", "--join", "http://127.0.0.1:1", "--token-file", "/nowhere"], 1, "/nowhere").await;
    check(&["node", "--join", "127.0.0.1:1", "--state", &home], 64, "write `http://127.0.0.1:1`").await;
    check(&["node", "--join", "http://x", "--label", "a"], 64, "NAME=VALUE").await;
    check(&["node", "--join", "http://x", "--allow-mount", "data"], 64, "not an absolute path").await;
    check(&["node", "--join", "http://x", "ls"], 64, "cannot be used with").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_offer_makes_no_sense_is_usage() {
    for (status, code) in [(400, 64), (403, 3)] {
        let stub = Stub::start(move |_| refuse(status, "node_invalid")).await;
        let home = stub.home.path().join("state").display().to_string();
        let ran = stub.run(&["node", "--join", &stub.url, "--state", &home, "--slots", "0"]).await;
        assert!(ran.err.contains("error: the server refused this node: the stub says node_invalid"), "{ran:?}");
        assert_eq!((ran.code, ran.err.contains("scope")), (code, status == 403), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_for_registries_are_kept() {
    let stub = house().await;
    let login = ["registry", "login", "registry.example.org:5000", "--user", "ada"];
    let mut all = said(&stub, &[&login[..], &["--password-stdin"]].concat(), b"hush hush\n").await;
    all += &said(&stub, &login, b"hush hush\n").await;
    all += &said(&stub, &[&login[..], &["--password-stdin"]].concat(), b"").await;
    all += &said(&stub, &["registry", "ls"], b"").await;
    all += &said(&stub, &["registry", "logout", "localhost"], b"").await;
    insta::assert_snapshot!(all, @"
    $ quarry registry login registry.example.org:5000 --user ada --password-stdin
    host    registry.example.org:5000
    user    ada
    stored  2026-01-01T00:00:00Z
    $ quarry registry login registry.example.org:5000 --user ada
    error: no password was given
    hint: use --password-stdin
    [exit code 64]
    $ quarry registry login registry.example.org:5000 --user ada --password-stdin
    error: no password was given
    [exit code 64]
    $ quarry registry ls
    CREATED               USER  HOST
    2026-01-01T00:00:00Z  ada   registry.example.org:5000
    $ quarry registry logout localhost
    the credential for `localhost` is forgotten
    ");
}

/// A house that makes images, and fails to when told so.
#[derive(Clone, Default)]
struct Workshop {
    made: Arc<Mutex<Option<NewImage>>>,
    archive: Arc<Mutex<Vec<u8>>>,
    cause: Option<&'static str>,
}

impl Workshop {
    fn image(&self) -> Image {
        let new = self.made.lock().expect("is whole").clone().expect("was asked for");
        let sha = |one: char| format!("sha256:{}", one.to_string().repeat(64));
        let layer = Layer {
            blob: model::Digest::from_bytes([1; 32]),
            size: 3 << 20,
            packing: model::image::Packing::Gzip,
            digest: sha('b'),
            diff_id: sha('c'),
        };
        let config = match &new.source {
            ImageSource::Archive { config, .. } => config.clone(),
            ImageSource::Registry { .. } => ImageConfig { cmd: vec!["bash".to_owned()], ..ImageConfig::default() },
        };
        let manifest = Manifest { digest: sha('a'), platform: platform(), config, layers: vec![layer] };
        Image {
            id: new.id,
            tenant: tenant(),
            name: new.name().to_owned(),
            state: if self.cause.is_some() { ImageState::Failed } else { ImageState::Ready },
            source: new.source,
            execution: new.execution,
            manifest: self.cause.is_none().then_some(manifest),
            cause: self.cause.map(str::to_owned),
            by: "ada".to_owned(),
            created_at: at(),
            ended_at: Some(at()),
        }
    }

    async fn start(&self) -> Stub {
        let shop = self.clone();
        Stub::start(move |seen| {
            let line = seen.line.split('?').next().expect("is one");
            if line == "POST /v1/images" {
                let new: NewImage = serde_json::from_slice(&seen.body).expect("is a request");
                *shop.made.lock().expect("is whole") = Some(new);
                return json(201, &shop.image());
            }
            if line.ends_with("/chunks") {
                let bytes = Bytes(b"layer 1 of 1: 3 MiB\n".to_vec());
                let content = Content::Inline { bytes };
                let chunk = Chunk { number: 1, stream: Stream::Error, at: at(), content, end: false };
                let items = if seen.line.contains("after=0") { vec![chunk] } else { Vec::new() };
                return json(200, &ChunkPage { attempt: 1, items, next: 1, ended: true });
            }
            if line.starts_with("HEAD /v1/blobs/") {
                return answer(404, "");
            }
            if line.starts_with("POST /v1/blobs") || line.starts_with("PUT /v1/blobs") {
                *shop.archive.lock().expect("is whole") = seen.body.to_vec();
                let digest = "0".repeat(64);
                let size = seen.body.len();
                return answer(
                    201,
                    format!(r#"{{"digest":"{digest}","size":{size},"created_at":"2026-01-01T00:00:00Z"}}"#),
                );
            }
            if line.starts_with("GET /v1/executions/") {
                return json(200, &execution(&request(1), ExecutionState::Succeeded, None));
            }
            match line {
                "POST /v1/images/gc" => answer(200, r#"{"blobs":3,"bytes":4194304}"#),
                "GET /v1/images" => page(vec![shop.image()]),
                "GET /v1/images/absent" => refuse(404, "image_not_found"),
                line if line.starts_with("GET /v1/images/") || line.starts_with("DELETE /v1/images/") => {
                    json(200, &shop.image())
                }
                _ => refuse(404, "lost"),
            }
        })
        .await
    }
}

fn masked(text: &str) -> String {
    let mask = |word: &str| {
        let is_id = word.len() == 30 && ["exe_", "img_"].iter().any(|prefix| word.starts_with(prefix));
        if is_id { format!("{}…", &word[..4]) } else { word.to_owned() }
    };
    let words = text.split_inclusive([' ', '\n', '`']).map(|word| {
        let bare = word.trim_end_matches([' ', '\n', '`']);
        mask(bare) + &word[bare.len()..]
    });
    words.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pulled_shown_and_removed() {
    let shop = Workshop::default();
    let stub = shop.start().await;
    let pull = ["image", "pull", "debian:stable", "--platform", "linux/amd64", "--plain-http", "--name", "mine"];
    let mut all = said(&stub, &pull, b"").await;
    let new = shop.made.lock().expect("is whole").clone().expect("was asked for");
    assert!(new.plain_http && new.name.as_deref() == Some("mine"), "{new:?}");
    assert_eq!(
        new.source,
        ImageSource::Registry { reference: "debian:stable".to_owned(), platform: Some(platform()), runtime: None }
    );
    for args in
        ["image ls", "image ls --state ready --name mine", "image inspect mine", "image rm mine absent", "image gc"]
    {
        all += &said(&stub, &args.split(' ').collect::<Vec<_>>(), b"").await;
    }
    insta::assert_snapshot!(masked(&all), @"
    $ quarry image pull debian:stable --platform linux/amd64 --plain-http --name mine
    id          img_…
    name        mine
    state       ready
    source      registry, `debian:stable` for linux/amd64
    digest      sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    platform    linux/amd64
    size        3 MiB
    layers      1
    command     bash
    by          ada
    execution   exe_…
    created     2026-01-01T00:00:00Z
    ended       2026-01-01T00:00:00Z
    layer 1 of 1: 3 MiB
    $ quarry image ls
    ID                              STATE  CREATED               SIZE     DIGEST                                                                   NAME
    img_…  ready  2026-01-01T00:00:00Z  3145728  sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  mine
    $ quarry image ls --state ready --name mine
    ID                              STATE  CREATED               SIZE     DIGEST                                                                   NAME
    img_…  ready  2026-01-01T00:00:00Z  3145728  sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  mine
    $ quarry image inspect mine
    id          img_…
    name        mine
    state       ready
    source      registry, `debian:stable` for linux/amd64
    digest      sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    platform    linux/amd64
    size        3 MiB
    layers      1
    command     bash
    by          ada
    execution   exe_…
    created     2026-01-01T00:00:00Z
    ended       2026-01-01T00:00:00Z
    $ quarry image rm mine absent
    img_…  ready  mine
    error: the stub says image_not_found
    hint: ask the stub
    [exit code 2]
    $ quarry image gc
    3 blobs, 4 MiB
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_made_says_why() {
    let shop = Workshop { cause: Some("the registry does not know it"), ..Workshop::default() };
    let stub = shop.start().await;
    insta::assert_snapshot!(masked(&said(&stub, &["image", "pull", "debian:unstable"], b"").await), @"
    $ quarry image pull debian:unstable
    layer 1 of 1: 3 MiB
    error: image `debian:unstable` could not be made: the registry does not know it
    hint: `quarry execution logs exe_…` has what its making wrote
    [exit code 1]
    ");
    let ran = stub.run(&["run", "--image", "absent", "--", "true"]).await;
    insta::assert_snapshot!(masked(&ran.err), @"
    pulling image `absent`
    layer 1 of 1: 3 MiB
    error: image `absent` could not be made: the registry does not know it
    hint: `quarry execution logs exe_…` has what its making wrote
    ");
    assert_eq!(ran.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_or_an_archive_becomes_an_image() {
    let shop = Workshop::default();
    let stub = shop.start().await;
    let root = stub.home.path().join("root");
    std::fs::create_dir_all(root.join("bin")).expect("is made");
    std::fs::write(root.join("bin/tool"), vec![b'x'; 300_000]).expect("is written");
    let args = "image import --name tools:1 root --cmd /bin/tool --cmd -v --entrypoint /bin/sh --env A=1 --user 7";
    let ran = stub.run(&args.split(' ').collect::<Vec<_>>()).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let archive = shop.archive.lock().expect("is whole").clone();
    let names: Vec<_> = tar_names(&archive);
    assert_eq!(names, ["bin", "bin/tool"]);
    let source = |shop: &Workshop| shop.made.lock().expect("is whole").clone().expect("was asked for").source;
    let ImageSource::Archive { archive, config, .. } = source(&shop) else { panic!("is no archive") };
    assert_eq!((archive, config.cmd.join(" ").as_str()), (ArchiveKind::Root, "/bin/tool -v"));
    assert_eq!((config.entrypoint.join(" ").as_str(), config.user.as_deref()), ("/bin/sh", Some("7")));

    std::fs::write(stub.home.path().join("some.tar"), "archive").expect("is written");
    for (args, input) in
        [("image import --name b some.tar --kind oci-layout", ""), ("image import --name b -", "piped")]
    {
        let ran = stub.run_with(&args.split(' ').collect::<Vec<_>>(), input.as_bytes()).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    assert_eq!(shop.archive.lock().expect("is whole").as_slice(), b"piped");
    let ran = stub.run(&["image", "import", "--name", "b", "nowhere"]).await;
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (1, "error: `nowhere` cannot be read: No such file or directory (os error 2)\n")
    );
}

/// Returns the names in an archive; its other contents are looked at where it is packed.
fn tar_names(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().expect("is an archive");
    entries.map(|entry| entry.expect("is an entry").path().expect("is a name").display().to_string()).collect()
}
