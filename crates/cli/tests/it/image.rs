//! `image` and `registry`: against a stub, what is asked for and how progress and failures are told; in a real house, that
//! what was a folder here can be run in.

use crate::execution::{execution, json};
use crate::stub::{Ran, Seen, Stub, answer, refuse, run_with};
use crate::system::{Engine, House, Server};
use axum::response::Response;
use model::chunk::Bytes;
use model::image::{ArchiveKind, ImageFreed, Layer, Packing};
use model::{
    Chunk, ChunkPage, Content, Digest, Execution, ExecutionId, ExecutionState, Image, ImageConfig, ImageId,
    ImageSource, ImageState,
};
use model::{Manifest, NewImage, NewRegistry, Page, Platform, Registry, Stream, TenantId};
use std::sync::{Arc, Mutex};

const REMARKS: [&str; 3] = ["resolving library/bu", "sybox\n2 layers, \u{1b}[2J", "1.5 MiB\n"];

fn manifest() -> Manifest {
    let sha = |digit: char| format!("sha256:{}", digit.to_string().repeat(64));
    let layer = |digit: char, size: u64| Layer {
        blob: Digest::from_bytes([7; 32]),
        size,
        packing: Packing::Gzip,
        digest: sha(digit),
        diff_id: sha(digit),
    };
    Manifest {
        digest: sha('a'),
        platform: Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None },
        config: ImageConfig {
            entrypoint: vec!["/bin/entry".to_owned(), "a b".to_owned()],
            cmd: vec!["sh".to_owned()],
            env: [("PATH".to_owned(), "/bin".to_owned())].into(),
            ..ImageConfig::default()
        },
        layers: vec![layer('b', 1 << 20), layer('c', 512 << 10)],
    }
}

pub(crate) fn image(new: &NewImage, state: ImageState) -> Image {
    Image {
        id: new.id,
        tenant: TenantId::new(jiff::Timestamp::UNIX_EPOCH, 1),
        name: new.name().to_owned(),
        state,
        source: new.source.clone(),
        execution: new.execution,
        manifest: (state == ImageState::Ready).then(manifest),
        cause: (state == ImageState::Failed).then(|| "the registry does not know `library/busybox:9`".to_owned()),
        by: "ada".to_owned(),
        created_at: "2026-01-01T00:00:00Z".parse().expect("is an instant"),
        ended_at: None,
    }
}

fn request(reference: &str) -> NewImage {
    NewImage {
        id: ImageId::new(jiff::Timestamp::UNIX_EPOCH, 1),
        execution: ExecutionId::new(jiff::Timestamp::UNIX_EPOCH, 1),
        name: None,
        source: ImageSource::Registry { reference: reference.to_owned(), platform: None, runtime: None },
        plain_http: false,
    }
}

/// A house in which the making of an image ends so, one look after its last word.
#[derive(Clone)]
struct Play {
    end: ImageState,
    made: Arc<Mutex<Option<NewImage>>>,
    looks: Arc<Mutex<u32>>,
    blobs: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Play {
    fn new(end: ImageState) -> Self {
        Self { end, made: Arc::default(), looks: Arc::default(), blobs: Arc::default() }
    }

    fn answer(&self, seen: &Seen) -> Response {
        let line = seen.line.as_str();
        if line.starts_with("POST /v1/images") {
            let new: NewImage = serde_json::from_slice(&seen.body).expect("is a request");
            *self.made.lock().expect("is whole") = Some(new.clone());
            return json(201, &image(&new, ImageState::Importing));
        }
        if line.starts_with("GET /v1/images/") {
            let mut looks = self.looks.lock().expect("is whole");
            *looks += 1;
            return json(200, &image(&self.made(), if *looks > 1 { self.end } else { ImageState::Importing }));
        }
        if line.contains("/chunks") {
            return chunks(line);
        }
        if line.starts_with("GET /v1/executions/") {
            let made = execution(&crate::execution::request(1), ExecutionState::Succeeded, None);
            return json(200, &Execution { attempt: 1, ..made });
        }
        if line.starts_with("HEAD /v1/blobs/") {
            return answer(404, "");
        }
        if line.contains(" /v1/blobs") {
            self.blobs.lock().expect("is whole").push(seen.body.to_vec());
            let digest = line.strip_prefix("PUT /v1/blobs/").and_then(|rest| rest.strip_suffix("?purpose=image"));
            assert!(line.ends_with("?purpose=image"), "{line} keeps what goes with its image");
            let digest = digest.map_or_else(|| "07".repeat(32), str::to_owned);
            let size = seen.body.len();
            let at = "2026-01-01T00:00:00Z";
            return answer(201, format!(r#"{{"digest":"{digest}","size":{size},"created_at":"{at}"}}"#));
        }
        refuse(404, "lost")
    }

    fn made(&self) -> NewImage {
        self.made.lock().expect("is whole").clone().expect("was made")
    }

    async fn run(&self, args: &[&str], input: &[u8]) -> Ran {
        let play = self.clone();
        let stub = Stub::start(move |seen| play.answer(seen)).await;
        let home = stub.home.path();
        std::fs::create_dir_all(home.join("root/bin")).expect("is made");
        std::fs::write(home.join("root/bin/tool"), "#!/bin/sh\n").expect("is written");
        std::os::unix::fs::symlink("/etc/passwd", home.join("root/link")).expect("is linked");
        std::os::unix::net::UnixListener::bind(home.join("root/socket")).expect("is bound");
        std::fs::write(home.join("image.tar"), "an archive").expect("is written");
        std::fs::write(home.join("empty.tar"), "").expect("is written");
        std::fs::create_dir_all(home.join("layout/blobs/sha256")).expect("is made");
        for name in ["oci-layout", "index.json"] {
            std::fs::write(home.join("layout").join(name), "{}").expect("is written");
        }
        let mut ran = stub.run_with(&[&["image"], args].concat(), input).await;
        // Ids are made anew each time.
        if let Some(new) = self.made.lock().expect("is whole").as_ref() {
            for text in [&mut ran.out, &mut ran.err] {
                *text = text.replace(&new.id.to_string(), "img_X").replace(&new.execution.to_string(), "exe_X");
            }
        }
        ran
    }
}

fn chunks(line: &str) -> Response {
    let after: usize = line.split("after=").nth(1).and_then(|rest| rest.split('&').next()?.parse().ok()).unwrap_or(0);
    let items: Vec<_> = (after..REMARKS.len()).take(1).map(|index| chunk(index as u64 + 1, REMARKS[index])).collect();
    let next = after as u64 + items.len() as u64;
    json(200, &ChunkPage { attempt: 1, items, next, ended: next == REMARKS.len() as u64 })
}

fn chunk(number: u64, text: &str) -> Chunk {
    let content = Content::Inline { bytes: Bytes(text.as_bytes().to_vec()) };
    Chunk { number, stream: Stream::Output, at: jiff::Timestamp::UNIX_EPOCH, content, end: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_tells_its_progress_and_pins_a_digest() {
    let play = Play::new(ImageState::Ready);
    let ran =
        play.run(&["pull", "busybox:1", "--platform", "linux/arm64/v8", "--plain-http", "--name", "bb"], b"").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    insta::assert_snapshot!(ran.out, @"
    id          img_X
    name        bb
    state       ready
    source      registry, `busybox:1` for linux/arm64/v8
    digest      sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    platform    linux/amd64
    size        1.5 MiB
    layers      2
    entrypoint  /bin/entry 'a b'
    command     sh
    env         PATH=/bin
    by          ada
    execution   exe_X
    created     2026-01-01T00:00:00Z
    ");
    insta::assert_snapshot!(ran.err, @r"
    resolving library/busybox
    2 layers, \u{1b}[2J1.5 MiB
    ");
    let made = play.made();
    assert!(made.plain_http);
    insta::assert_snapshot!(serde_json::to_string(&made.source).expect("serialises"), @r#"{"kind":"registry","reference":"busybox:1","platform":{"os":"linux","architecture":"arm64","variant":"v8"}}"#);
    let ran = play.run(&["pull", "busybox", "--json"], b"").await;
    let image: serde_json::Value = serde_json::from_str(&ran.out).expect("is JSON");
    assert_eq!((&image["state"], &image["name"], ran.err.as_str()), (&"ready".into(), &"busybox".into(), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_says_why() {
    let ran = Play::new(ImageState::Failed).run(&["pull", "busybox:9", "--quiet"], b"").await;
    assert_eq!(ran.code, 1);
    insta::assert_snapshot!(ran.out + &ran.err, @"
    error: image `busybox:9` could not be made: the registry does not know `library/busybox:9`
    hint: `quarry execution logs exe_X` has what its making wrote
    ");
    let ran = Play::new(ImageState::Gone).run(&["pull", "busybox:9", "--quiet"], b"").await;
    assert_eq!(ran.code, 3);
    insta::assert_snapshot!(ran.err, @"error: image `busybox:9` was removed while it was made");
    let play = Play::new(ImageState::Ready);
    let check = async |args: &[&str], code: i32| {
        let ran = play.run(args, b"").await;
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(play.made.lock().expect("is whole").is_none(), "{args:?} was sent");
        ran.err
    };
    insta::assert_snapshot!(check(&["import", "--name", "x", "nothing"], 1).await, @"error: `nothing` cannot be read: No such file or directory (os error 2)");
    check(&["pull", "two words"], 64).await;
    check(&["pull", "x", "--platform", "linux"], 64).await;
    check(&["import", "image.tar"], 64).await;
    check(&["import", "--name", "x", "image.tar", "--env", "A"], 64).await;
    check(&["import", "--name", "x", "image.tar", "--kind", "zip"], 64).await;
    check(&["import", "--name", "", "image.tar"], 64).await;
    let said = check(&["import", "--name", "x", "root", "--kind", "oci-layout"], 64).await;
    insta::assert_snapshot!(said, @"
    error: `root` is no OCI layout
    hint: one holds the files `oci-layout` and `index.json`
    ");
    for empty in ["empty.tar", "/dev/null", "-"] {
        assert_eq!(check(&["import", "--name", "x", empty], 1).await, "error: the archive is empty\n");
    }
    assert!(play.blobs.lock().expect("is whole").is_empty(), "nothing was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_becomes_an_image() {
    let play = Play::new(ImageState::Ready);
    let args = "import --name tools:1 root --cmd /bin/tool --cmd -x --entrypoint env --env A=1 --cwd /w --user 1000";
    let ran = play.run(&args.split(' ').collect::<Vec<_>>(), b"").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.starts_with("devices and sockets left out: 1\n"), "{}", ran.err);
    let made = play.made();
    assert_eq!(made.name.as_deref(), Some("tools:1"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&made.source).expect("serialises"), @r#"
    {
      "kind": "archive",
      "blob": "0707070707070707070707070707070707070707070707070707070707070707",
      "archive": "root",
      "config": {
        "entrypoint": [
          "env"
        ],
        "cmd": [
          "/bin/tool",
          "-x"
        ],
        "env": {
          "A": "1"
        },
        "cwd": "/w",
        "user": "1000"
      }
    }
    "#);
    let blobs = play.blobs.lock().expect("is whole");
    let mut archive = tar::Archive::new(blobs[0].as_slice());
    let entries = archive.entries().expect("is an archive").map(|entry| {
        let entry = entry.expect("is an entry");
        format!("{} {:?}", entry.path().expect("is a path").display(), entry.header().entry_type())
    });
    insta::assert_snapshot!(entries.collect::<Vec<_>>().join("\n"), @"
    bin Directory
    bin/tool Regular
    link Symlink
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_what_it_looks_like_or_is_said_to_be() {
    let check = async |args: &[&str], expected: ArchiveKind| {
        let play = Play::new(ImageState::Ready);
        let ran = play.run(&[&["import", "--name", "x"], args].concat(), b"").await;
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        let ImageSource::Archive { archive, .. } = play.made().source else { panic!("it is no archive") };
        assert_eq!(archive, expected, "{args:?}");
    };
    check(&["root"], ArchiveKind::Root).await;
    check(&["root", "--kind", "docker-archive"], ArchiveKind::DockerArchive).await;
    check(&["layout"], ArchiveKind::OciLayout).await;
    check(&["layout", "--kind", "oci-layout"], ArchiveKind::OciLayout).await;
    check(&["layout", "--kind", "root"], ArchiveKind::Root).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_becomes_an_image() {
    let check = async |args: &[&str], input: &[u8], content: &[u8], expected: ArchiveKind| {
        let play = Play::new(ImageState::Ready);
        let ran = play.run(&[&["import", "--name", "x"], args].concat(), input).await;
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        assert_eq!(*play.blobs.lock().expect("is whole"), [content]);
        let ImageSource::Archive { archive, config, .. } = play.made().source else { panic!("it is no archive") };
        assert_eq!((archive, config), (expected, ImageConfig::default()));
    };
    check(&["image.tar"], b"", b"an archive", ArchiveKind::Auto).await;
    check(&["-"], b"piped", b"piped", ArchiveKind::Auto).await;
    check(&["image.tar", "--kind", "docker-archive"], b"", b"an archive", ArchiveKind::DockerArchive).await;
    check(&["image.tar", "--kind", "oci-layout"], b"", b"an archive", ArchiveKind::OciLayout).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_listed_shown_removed_and_collected() {
    let stub = Stub::start(|seen| {
        let new = request("team/tools:1");
        match seen.line.as_str() {
            "POST /v1/images/gc" => json(200, &ImageFreed { blobs: 3, bytes: 5 << 20 }),
            line if line.starts_with("GET /v1/images?") => {
                let other = NewImage { id: ImageId::new(jiff::Timestamp::UNIX_EPOCH, 0), ..request("x") };
                let items = vec![image(&new, ImageState::Ready), image(&other, ImageState::Failed)];
                json(200, &Page { items, next: None, as_of: 9 })
            }
            line if line.contains("missing") => refuse(404, "image_not_found"),
            line if line.starts_with("DELETE") => json(200, &image(&new, ImageState::Gone)),
            _ => json(200, &image(&new, ImageState::Ready)),
        }
    })
    .await;
    let ran = stub.run(&["image", "ls", "--name", "team/tools:1", "--state", "ready"]).await;
    insta::assert_snapshot!(ran.out, @"
    ID                              STATE   CREATED               SIZE     DIGEST                                                                   NAME
    img_00000000000000000000000001  ready   2026-01-01T00:00:00Z  1572864  sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  team/tools:1
    img_00000000000000000000000000  failed  2026-01-01T00:00:00Z  -        -                                                                        x
    ");
    let ran = stub.run(&["image", "inspect", "team/tools:1"]).await;
    insta::assert_snapshot!(ran.out, @"
    id          img_00000000000000000000000001
    name        team/tools:1
    state       ready
    source      registry, `team/tools:1`
    digest      sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    platform    linux/amd64
    size        1.5 MiB
    layers      2
    entrypoint  /bin/entry 'a b'
    command     sh
    env         PATH=/bin
    by          ada
    execution   exe_00000000000000000000000001
    created     2026-01-01T00:00:00Z
    ");
    let ran = stub.run(&["image", "rm", "missing", "team/tools:1"]).await;
    assert_eq!(ran.code, 2);
    // All of a name go, the newest last.
    insta::assert_snapshot!(ran.out + &ran.err, @"
    img_00000000000000000000000001  gone  team/tools:1
    img_00000000000000000000000001  gone  team/tools:1
    error: the stub says image_not_found
    hint: ask the stub
    ");
    let ran = stub.run(&["image", "gc"]).await;
    insta::assert_snapshot!(ran.out, @"3 blobs, 5 MiB");
    let ran = stub.run(&["image", "gc", "--json"]).await;
    let freed: ImageFreed = serde_json::from_str(&ran.out).expect("is what was freed");
    assert_eq!((freed.blobs, freed.bytes), (3, 5 << 20));
    insta::assert_snapshot!(stub.lines().join("\n"), @"
    GET /v1/images?name=team%2Ftools%3A1&state=ready&limit=100
    GET /v1/images/team%2Ftools:1
    GET /v1/images/missing
    GET /v1/images/team%2Ftools:1
    GET /v1/images?name=team%2Ftools%3A1&limit=1000
    DELETE /v1/images/img_00000000000000000000000000
    DELETE /v1/images/img_00000000000000000000000001
    POST /v1/images/gc
    POST /v1/images/gc
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_to_the_server_and_never_come_back() {
    let stub = Stub::start(|seen| {
        let registry = Registry {
            host: "localhost:5000".to_owned(),
            user: "ada".to_owned(),
            created_at: "2026-01-01T00:00:00Z".parse().expect("is an instant"),
        };
        match seen.line.as_str() {
            line if line.starts_with("GET") => json(200, &Page { items: vec![registry], next: None, as_of: 9 }),
            line if line.contains("elsewhere") => refuse(404, "registry_not_found"),
            _ => json(200, &registry),
        }
    })
    .await;
    let login = ["registry", "login", "localhost:5000", "--user", "ada", "--password-stdin"];
    let ran = stub.run_with(&login, b"s3cret word\n").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    insta::assert_snapshot!(ran.out, @"
    host    localhost:5000
    user    ada
    stored  2026-01-01T00:00:00Z
    ");
    let seen = stub.take();
    let new: NewRegistry = serde_json::from_slice(&seen[0].body).expect("is a credential");
    assert_eq!(
        (seen[0].line.as_str(), new.user, new.secret),
        ("PUT /v1/registries/localhost:5000", "ada".into(), "s3cret word".into())
    );
    insta::assert_snapshot!(stub.run(&["registry", "ls"]).await.out, @"
    CREATED               USER  HOST
    2026-01-01T00:00:00Z  ada   localhost:5000
    ");
    let ran = stub.run(&["registry", "logout", "localhost:5000"]).await;
    insta::assert_snapshot!(ran.out + &ran.err, @"the credential for `localhost:5000` is forgotten");
    assert_eq!(stub.run(&["registry", "logout", "elsewhere"]).await.code, 2);
    stub.take();
    let check = async |args: &[&str], input: &[u8]| {
        let ran = stub.run_with(args, input).await;
        assert_eq!(ran.code, 64, "{args:?}: {}", ran.err);
        assert!(stub.take().is_empty(), "{args:?} was sent");
    };
    check(&login, b"").await;
    check(&login, b"\n").await;
    check(&login, b"two\nlines").await;
    check(&login, &[b'x'; 9_000]).await;
    check(&login[..5], b"s3cret").await;
}

/// A program that needs no other file.
const BUSYBOX: &str = "/bin/busybox";

#[test]
fn a_real_house_makes_images_and_runs_in_them() {
    if !std::path::Path::new(BUSYBOX).exists() {
        // Nothing else here is a whole image by itself.
        return;
    }
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let server = Server::begin(house.command_with(&["up"], &house.data()), house.home()).expect("starts");
    let root = house.home().join("root");
    std::fs::create_dir_all(root.join("bin")).expect("is made");
    std::fs::copy(BUSYBOX, root.join("bin/sh")).expect("is copied");
    std::fs::write(root.join("greeting"), "from an image\n").expect("is written");
    let token = house.token();
    let check = |args: &[&str], input: &[u8], code: i32| {
        let ran = run_with(server.command(&token, args), input);
        assert_eq!(ran.code, code, "{args:?}: {}{}", ran.out, ran.err);
        ran
    };
    let made = check(&["image", "import", "--name", "team/tools:1", "root", "--env", "A=1", "--cwd", "/bin"], b"", 0);
    assert!(made.out.contains("sha256:") && made.out.contains("ready"), "{}", made.out);
    let words = "read line; echo $line $A; pwd; cat ../greeting; exit 3";
    let ran = check(&["run", "--image", "team/tools:1", "-i", "--", "sh", "-c", words], b"hello\n", 3);
    assert_eq!(ran.out, "hello 1\n/bin\nfrom an image\n");
    let inspected = check(&["image", "inspect", "team/tools:1"], b"", 0);
    assert_eq!(inspected.out, made.out);
    // What is no archive is refused with its cause, and the node goes on.
    let bad = check(&["image", "import", "--name", "bad", "-"], b"no archive", 1);
    assert!(bad.err.contains("image `bad` could not be made: the archive cannot be imported"), "{}", bad.err);
    // A digest removes one, and its name goes on to mean the one before; a name goes with all of its own.
    let import = |greeting: &str| {
        std::fs::write(root.join("greeting"), greeting).expect("is written");
        let made = check(&["image", "import", "--name", "team/tools:1", "root"], b"", 0).out;
        let line = made.lines().find_map(|line| line.strip_prefix("digest")).expect("is told");
        line.trim().to_owned()
    };
    let (second, third) = (import("second\n"), import("third\n"));
    let greeted = || check(&["run", "--image", "team/tools:1", "--", "sh", "-c", "cat /greeting"], b"", 0).out;
    assert_eq!(greeted(), "third\n");
    check(&["image", "rm", &third], b"", 0);
    assert_eq!(greeted(), "second\n");
    let gone = check(&["image", "rm", "team/tools:1"], b"", 0);
    assert_eq!(gone.out.lines().count(), 2, "{}", gone.out);
    for name in ["team/tools:1", &second] {
        check(&["image", "inspect", name], b"", 2);
    }
    assert!(check(&["image", "gc"], b"", 0).out.contains("MiB"));
    // What names no image, here or anywhere, is told at once and leaves nothing.
    let failed = || check(&["image", "ls", "--state", "failed"], b"", 0).out.lines().count();
    let before = failed();
    let nobody = format!("sha256:{}", "0".repeat(64));
    for (image, code, why) in [
        ("img_00000000000000000000000001", 2, "image `img_00000000000000000000000001` does not exist"),
        (nobody.as_str(), 2, "does not exist"),
        ("UPPER:1", 64, "capital letters"),
        ("tools@sha256:zz", 64, "a digest that is not"),
    ] {
        let refused = check(&["run", "--image", image, "--", "sh"], b"", code).err;
        assert!(refused.contains(why) && !refused.contains("image pull"), "{refused}");
    }
    check(&["image", "pull", "UPPER:1"], b"", 64);
    assert_eq!(failed(), before);
    let empty = check(&["image", "import", "--name", "zeros", "-"], &[0; 10_240], 1);
    assert!(empty.err.contains("there is nothing in it"), "{}", empty.err);
    server.stop();
}
