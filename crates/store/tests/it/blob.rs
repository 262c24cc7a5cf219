//! Blobs on both back ends: every check runs on a local folder and on a real S3 server.

use crate::bucket::{self, Bucket, SECRET_KEY};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use model::Digest;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use store::blob::{BlobConfig, BlobError, Blobs, BodyError, Capabilities, Patience, Stored, Swept};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const MIB: usize = 1 << 20;
const NO_LIMIT: u64 = u64::MAX;

/// A store of blobs and the files behind it.
struct Stand {
    blobs: Blobs,
    /// Where `blobs/` and `incoming/` lie.
    disk: PathBuf,
    /// Where anything at all may lie that an upload leaves behind.
    root: PathBuf,
    bucket: Option<Bucket>,
    _folder: Option<tempfile::TempDir>,
}

impl Stand {
    fn local() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let root = folder.path().join("not/there/yet");
        let blobs = Blobs::open(BlobConfig::Local { folder: root.clone() }).expect("a folder can be opened");
        Self { blobs, disk: root.clone(), root, bucket: None, _folder: Some(folder) }
    }

    async fn bucket() -> Self {
        Self::of(Bucket::serve().await)
    }

    fn of(bucket: Bucket) -> Self {
        let blobs = Blobs::open(bucket.config(SECRET_KEY)).expect("a bucket can be opened");
        Self { blobs, disk: bucket.disk(), root: bucket.root().into(), bucket: Some(bucket), _folder: None }
    }

    fn blob_file(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.disk.join("blobs").join(&name[..2]).join(&name[2..4]).join(name)
    }

    fn tree_file(&self, digest: Digest) -> PathBuf {
        self.blob_file(digest).with_extension("tree")
    }

    /// Returns every file and its length, without what `s3s-fs` notes about objects and its own drafts of requests that
    /// we broke off: it removes those in its own time, and nobody can read them.
    fn files(&self) -> BTreeMap<PathBuf, u64> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, u64>) {
            for entry in std::fs::read_dir(folder).expect("a folder can be read") {
                let entry = entry.expect("a folder can be read");
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() {
                    walk(&entry.path(), found);
                } else if ![".bucket-", ".tmp."].iter().any(|own| entry.file_name().to_string_lossy().starts_with(own))
                {
                    found.insert(entry.path(), metadata.len());
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.root, &mut found);
        found
    }

    fn assert_empty(&self, why: &str) {
        assert_eq!(self.files(), BTreeMap::new(), "{why}");
    }

    async fn put(&self, expected: Option<Digest>, content: &Bytes) -> Result<Stored, BlobError> {
        self.blobs.put(expected, body(content), NO_LIMIT).await
    }

    async fn read(&self, digest: Digest, range: Option<Range<u64>>) -> Result<Vec<u8>, BlobError> {
        let reading = self.blobs.get(digest, range).await?;
        let announced = reading.range.end - reading.range.start;
        let bytes =
            reading.stream.try_fold(Vec::new(), async |bytes, piece| Ok([bytes, piece.to_vec()].concat())).await?;
        assert_eq!(bytes.len() as u64, announced);
        Ok(bytes)
    }
}

/// Runs a check on both back ends.
async fn both(check: impl AsyncFn(Stand)) {
    check(Stand::local()).await;
    check(Stand::bucket().await).await;
}

/// Returns content that is the same for the same length, and never the same in two blocks.
fn content(size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&size.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn digest_of(content: &[u8]) -> Digest {
    Digest::from_bytes(*blake3::hash(content).as_bytes())
}

/// Returns a body in pieces that fit no block and no part.
fn body(content: &Bytes) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + use<> {
    let content = content.clone();
    let step = 77_777;
    stream::iter((0..content.len()).step_by(step))
        .map(move |start| Ok(content.slice(start..content.len().min(start + step))))
}

/// Returns a body that fails after `content`.
fn broken_body(content: &Bytes) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + use<> {
    body(content).chain(stream::once(async { Err("the wire was cut".into()) }))
}

fn flip(file: &Path, place: usize) {
    let mut bytes = std::fs::read(file).expect("the file is there");
    bytes[place] ^= 0x10;
    std::fs::write(file, bytes).expect("the file can be written");
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(|error| format!("{error}\n")).collect()
}

async fn check_length(stand: &Stand, size: usize) {
    let content = content(size);
    let digest = digest_of(&content);
    for expected in [Some(digest), None] {
        let stored = |already| Stored { digest, size: size as u64, already };
        assert_eq!(stand.blobs.head(digest).await.expect("it can be asked"), None, "{size}");
        assert_eq!(stand.put(expected, &content).await.expect("it can be stored"), stored(false), "{size}");
        assert_eq!(stand.put(expected, &content).await.expect("it can be stored again"), stored(true), "{size}");
        assert_eq!(stand.blobs.head(digest).await.expect("it can be asked"), Some(size as u64), "{size}");
        assert!(stand.read(digest, None).await.expect("it can be read") == content, "{size}");
        let listed: Vec<_> = stand.blobs.list().try_collect().await.expect("it can be listed");
        assert_eq!(listed, [(digest, size as u64)]);
        let files: Vec<_> = stand.files().into_keys().collect();
        let mut wanted = vec![stand.blob_file(digest)];
        wanted.extend((size > MIB).then(|| stand.tree_file(digest)));
        assert_eq!(files, wanted, "nothing else stays");
        stand.blobs.delete(digest).await.expect("it can be removed");
        stand.blobs.delete(digest).await.expect("it can be removed twice");
        let error = stand.read(digest, None).await.expect_err("it is gone");
        assert!(matches!(error, BlobError::NotFound { digest: named } if named == digest), "{error}");
        stand.assert_empty("after the removal");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_of_every_length_comes_back() {
    both(async |stand| {
        for size in [0, 1, MIB - 1, MIB, MIB + 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 40 * MIB] {
            check_length(&stand, size).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_upload_leaves_nothing() {
    both(async |stand| {
        for size in [1000, 3 * MIB, 19 * MIB] {
            let content = content(size);
            let (right, wrong) = (digest_of(&content), digest_of(b"something else"));
            let error = stand.put(Some(wrong), &content).await.expect_err("the digest is wrong");
            assert!(
                matches!(error, BlobError::Mismatch { expected, actual } if (expected, actual) == (wrong, right)),
                "{error}"
            );
            stand.assert_empty("after a wrong digest");
            for expected in [None, Some(right)] {
                let max_bytes = size as u64 - 1;
                let error = stand.blobs.put(expected, body(&content), max_bytes).await.expect_err("it is too long");
                assert!(matches!(error, BlobError::TooLong { max_bytes: named } if named == max_bytes), "{error}");
                stand.assert_empty("after too much");
                let error =
                    stand.blobs.put(expected, broken_body(&content), NO_LIMIT).await.expect_err("the body breaks");
                assert!(matches!(error, BlobError::Body { .. }), "{error}");
                assert!(chain(&error).contains("the wire was cut"));
                stand.assert_empty("after a broken body");
            }
            stand.blobs.put(Some(right), body(&content), size as u64).await.expect("the limit itself is allowed");
            stand.blobs.delete(right).await.expect("it can be removed");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_alone_does_not_claim_a_blob() {
    both(async |stand| {
        for size in [5, 10 * MIB] {
            let (ours, theirs) = (content(size), content(size + 1));
            let digest = digest_of(&theirs);
            stand.put(Some(digest), &theirs).await.expect("it can be stored");
            let error = stand.put(Some(digest), &ours).await.expect_err("that is not its content");
            assert!(matches!(error, BlobError::Mismatch { .. }), "{error}");
            let error = stand.blobs.put(Some(digest), broken_body(&theirs), NO_LIMIT).await.expect_err("it broke off");
            assert!(matches!(error, BlobError::Body { .. }), "{error}");
            assert!(stand.read(digest, None).await.expect("it is untouched") == theirs);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_outside_is_refused() {
    both(async |stand| {
        let content = content(3 * MIB);
        let size = content.len() as u64;
        let digest = stand.put(None, &content).await.expect("it can be stored").digest;
        for range in [size..size + 1, size + 5..size + 6, Range { start: 5, end: 4 }] {
            let error = stand.blobs.get(digest, Some(range.clone())).await.expect_err("it is outside");
            assert!(matches!(error, BlobError::OutOfRange { size: named, .. } if named == size), "{range:?}: {error}");
        }
        let tail = stand.read(digest, Some(size - 3..u64::MAX)).await.expect("an end behind the end is cut");
        assert_eq!(tail, content[content.len() - 3..]);
        assert!(stand.read(digest, Some(7..7)).await.expect("an empty range is one").is_empty());
    })
    .await;
}

#[test]
fn every_range_is_what_the_plain_bytes_say() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let check = |stand: Stand| {
        let content = content(5 * MIB + 4321);
        let size = content.len();
        let digest = runtime.block_on(stand.put(None, &content)).expect("it can be stored").digest;
        let check = |range: Range<usize>| {
            let asked = range.start as u64..range.end as u64;
            let bytes = runtime.block_on(stand.read(digest, Some(asked))).expect("the range is inside");
            assert!(bytes == content[range.clone()], "{range:?}");
        };
        let borders: Vec<_> =
            [1, 4, 5].iter().flat_map(|block| [block * MIB - 1, block * MIB, block * MIB + 1]).collect();
        for (index, start) in borders.iter().enumerate() {
            for end in &borders[index..] {
                check(*start..*end);
            }
        }
        let mut runner = TestRunner::new(ProptestConfig::with_cases(32));
        runner
            .run(&(0..size, 0..=2 * MIB + 1), |(start, length)| {
                check(start..size.min(start + length));
                Ok(())
            })
            .expect("every range is right");
    };
    check(Stand::local());
    check(runtime.block_on(Stand::bucket()));
}

async fn check_corrupt(stand: &Stand, digest: Digest, range: Option<Range<u64>>) {
    let error = stand.read(digest, range).await.expect_err("it is corrupt");
    assert!(matches!(error, BlobError::Corrupt { digest: named } if named == digest), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_false_is_handed_out() {
    both(async |stand| {
        let content = content(9 * MIB + 5);
        let digest = stand.put(None, &content).await.expect("it can be stored").digest;
        let mib = MIB as u64;
        flip(&stand.blob_file(digest), 6 * MIB + 17);
        check_corrupt(&stand, digest, Some(6 * mib + 100..6 * mib + 101)).await;
        check_corrupt(&stand, digest, Some(5 * mib..7 * mib)).await;
        check_corrupt(&stand, digest, None).await;
        let sound = stand.read(digest, Some(7 * mib - 1..8 * mib)).await;
        assert!(sound.is_err(), "the last byte of a false block is not handed out either");
        let sound = stand.read(digest, Some(7 * mib..9 * mib)).await.expect("the other blocks are sound");
        assert!(sound == content[7 * MIB..9 * MIB]);

        let stream = stand.blobs.get(digest, None).await.expect("its beginning is sound").stream;
        let pieces: Vec<_> = stream.collect().await;
        let (last, before) = pieces.split_last().expect("something comes");
        assert!(matches!(last, Err(BlobError::Corrupt { .. })), "the error comes once and last");
        let before: Vec<u8> = before.iter().flat_map(|piece| piece.as_ref().expect("sound").to_vec()).collect();
        assert!(content.starts_with(&before) && before.len() <= 6 * MIB);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_of_a_false_length_is_corrupt() {
    both(async |stand| {
        for size in [3, MIB, 9 * MIB + 5] {
            let content = content(size);
            let digest = stand.put(None, &content).await.expect("it can be stored").digest;
            let longer = [&content[..], b"x"].concat();
            let others = [&content[..size - 1], &content[..size - size.min(MIB)], &content[..0], &longer];
            for other in others {
                std::fs::write(stand.blob_file(digest), other).expect("the file can be written");
                check_corrupt(&stand, digest, None).await;
            }
            std::fs::write(stand.blob_file(digest), &content[..size - 1]).expect("the file can be written");
            // Large content is not kept at hand, so it takes one more upload to mend it.
            let stored = match stand.put(Some(digest), &content).await {
                Err(BlobError::Vanished { .. }) => stand.put(Some(digest), &content).await,
                other => other,
            };
            assert!(!stored.expect("an upload mends it").already);
            assert!(stand.read(digest, None).await.expect("it is sound again") == content);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_broken_tree_is_rebuilt() {
    both(async |stand| {
        let content = content(10 * MIB + 3);
        let digest = stand.put(None, &content).await.expect("it can be stored").digest;
        let tree = stand.tree_file(digest);
        let right = std::fs::read(&tree).expect("the tree is there");
        let broken: [&dyn Fn(); 4] = [
            &|| std::fs::remove_file(&tree).expect("it can be removed"),
            &|| flip(&tree, 50),
            &|| std::fs::write(&tree, b"").expect("it can be emptied"),
            &|| std::fs::write(&tree, [&right[..], &[0; 32]].concat()).expect("it can be made longer"),
        ];
        for make_broken in broken {
            make_broken();
            let range = MIB as u64 - 2..MIB as u64 + 2;
            let bytes = stand.read(digest, Some(range)).await.expect("it is rebuilt");
            assert_eq!(bytes, content[MIB - 2..MIB + 2]);
            assert_eq!(std::fs::read(&tree).expect("it was written back"), right);
        }
        std::fs::remove_file(&tree).expect("it can be removed");
        flip(&stand.blob_file(digest), 10 * MIB);
        check_corrupt(&stand, digest, Some(0..1)).await;
        assert!(!tree.exists(), "no tree is made from false content");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_uploads_of_one_blob_end_with_it() {
    both(async |stand| {
        for size in [2 * MIB, 10 * MIB] {
            let content = content(size);
            let digest = digest_of(&content);
            let mut uploads = JoinSet::new();
            for number in 0..16 {
                let (blobs, body) = (stand.blobs.clone(), body(&content));
                uploads.spawn(async move { blobs.put((number % 2 == 0).then_some(digest), body, NO_LIMIT).await });
            }
            for stored in uploads.join_all().await {
                assert_eq!(stored.expect("each succeeds").digest, digest);
            }
            assert!(stand.read(digest, None).await.expect("it can be read") == content);
            let mut wanted = vec![stand.blob_file(digest), stand.tree_file(digest)];
            wanted.sort();
            assert_eq!(stand.files().into_keys().collect::<Vec<_>>(), wanted);
            stand.blobs.delete(digest).await.expect("it can be removed");
        }
    })
    .await;
}

/// Drops an upload once `content` was taken from its body.
async fn cancel_after(stand: &Stand, expected: Option<Digest>, content: &Bytes) {
    let taken = Arc::new(tokio::sync::Notify::new());
    let tell = taken.clone();
    let endless = body(content).chain(stream::once(async move {
        tell.notify_one();
        std::future::pending().await
    }));
    tokio::select! {
        stored = stand.blobs.put(expected, endless, NO_LIMIT) => panic!("the body never ends: {stored:?}"),
        () = taken.notified() => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_upload_is_invisible_and_swept() {
    both(async |stand| {
        for size in [100, 2 * MIB, 20 * MIB] {
            for expected in [None, Some(digest_of(&content(size)))] {
                cancel_after(&stand, expected, &content(size)).await;
                let listed: Vec<_> = stand.blobs.list().try_collect().await.expect("it can be listed");
                assert_eq!(listed, []);
                assert_eq!(stand.blobs.head(digest_of(&content(size))).await.expect("it can be asked"), None);
                let swept = stand.blobs.sweep(Timestamp::UNIX_EPOCH).await.expect("it can be swept");
                assert_eq!(swept, Swept::default(), "what is young stays");
                let swept = stand.blobs.sweep(Timestamp::MAX).await.expect("it can be swept");
                assert_eq!(swept.uploads, u64::from(stand.bucket.is_some() && size > 8 * MIB));
                // A part that was on its way may still arrive; the server forgets it with its next sweep of its own.
                let left = stand.files().into_keys().filter(|file| !file.to_string_lossy().contains(".part"));
                assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new());
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_takes_leftovers_and_nothing_else() {
    both(async |stand| {
        let kept = content(3 * MIB);
        let digest = stand.put(None, &kept).await.expect("it can be stored").digest;
        let orphan = digest_of(b"never stored");
        let plant = |file: PathBuf| {
            std::fs::create_dir_all(file.parent().expect("it lies in a folder")).expect("the folder can be made");
            std::fs::write(file, b"left behind").expect("it can be written");
        };
        plant(stand.disk.join("incoming/0123"));
        plant(stand.disk.join("probe/0123-plain"));
        plant(stand.tree_file(orphan));
        plant(stand.disk.join("incoming/0123.upload"));
        if stand.bucket.is_none() {
            plant(stand.blob_file(orphan).with_extension("#1"));
            plant(stand.disk.join("incoming/4567#12"));
        }
        let before = stand.files();
        let young = stand.blobs.sweep(Timestamp::UNIX_EPOCH).await.expect("it can be swept");
        assert_eq!((young, stand.files()), (Swept::default(), before));
        let swept = stand.blobs.sweep(Timestamp::MAX).await.expect("it can be swept");
        let expected = match stand.bucket {
            None => Swept { staged: 3, files: 2, trees: 1, uploads: 0 },
            Some(_) => Swept { staged: 2, files: 0, trees: 1, uploads: 0 },
        };
        assert_eq!(swept, expected);
        assert_eq!(stand.files().into_keys().collect::<Vec<_>>(), [stand.blob_file(digest), stand.tree_file(digest)]);
        assert!(stand.read(digest, None).await.expect("it can be read") == kept);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_never_lets_one_upload_publish_the_file_of_another() {
    let stand = Stand::local();
    let content = content(20 * MIB);
    let digest = digest_of(&content);
    let (stalled, go_on) = (tokio::sync::Semaphore::new(0), tokio::sync::Semaphore::new(0));
    let halting = || {
        let cut = 18 * MIB;
        let first = body(&content.slice(..cut));
        let rest = stream::once(async {
            stalled.add_permits(1);
            go_on.acquire().await.expect("never closed").forget();
            Ok(content.slice(18 * MIB..))
        });
        stand.blobs.put(Some(digest), first.chain(rest), NO_LIMIT)
    };
    let director = async {
        stalled.acquire().await.expect("never closed").forget();
        let swept = stand.blobs.sweep(Timestamp::MAX).await.expect("it can be swept");
        assert_eq!(swept.files, 0, "the file of an upload that goes on stays");
        let second = async {
            stalled.acquire().await.expect("never closed").forget();
            go_on.add_permits(2);
        };
        tokio::join!(halting(), second).0
    };
    let (one, other) = tokio::join!(halting(), director);
    assert_eq!((one.expect("it succeeds").digest, other.expect("it succeeds").digest), (digest, digest));
    assert!(stand.read(digest, None).await.expect("it can be read") == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_leads_only_to_what_is_ours() {
    let stand = Stand::bucket().await;
    std::fs::create_dir_all(stand.disk.join("incoming")).expect("the folder can be made");
    let note = stand.disk.join("incoming/0123.upload");
    let foreign = r#"{"path": "other/blobs/x", "upload": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}"#;
    std::fs::write(&note, foreign).expect("it can be written");
    let swept = stand.blobs.sweep(Timestamp::MAX).await.expect("it can be swept");
    assert_eq!(swept, Swept::default());
    assert!(!note.exists(), "a note that is none of ours is dropped unread");
    std::fs::write(&note, foreign.replace("other/", "some/prefix/")).expect("it can be written");
    stand.blobs.sweep(Timestamp::MAX).await.expect("it can be swept");
    assert!(note.exists(), "the server refused, so the note stays for the next time");
}

fn works(found: &Capabilities) -> [bool; 6] {
    [&found.conditional_put, &found.multipart, &found.range_reads, &found.list, &found.copy, &found.delete]
        .map(|capability| capability.works)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_says_what_works() {
    both(async |stand| {
        let found = stand.blobs.probe().await.expect("plain writing and reading works");
        assert_eq!(works(&found), [true; 6], "{found:?}");
        assert!(found.write_us > 0 && !found.place.contains(SECRET_KEY));
        stand.assert_empty("a probe cleans up");
        let text = serde_json::to_string(&found).expect("it can be written");
        assert_eq!(serde_json::from_str::<Capabilities>(&text).expect("it can be read"), found);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_says_what_does_not_work() {
    let bucket = Bucket::serve_except(|request| request.contains("copy") || request.contains("uploads")).await;
    let stand = Stand::of(bucket);
    let found = stand.blobs.probe().await.expect("plain writing and reading works");
    assert_eq!(works(&found), [true, false, true, true, false, true], "{found:?}");
    let cause = found.copy.cause.expect("a failure has a cause");
    assert!(cause.contains("400") && !cause.contains('\n'), "{cause}");
    stand.assert_empty("a probe cleans up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_copy_is_written_to_twice() {
    let stand = Stand::of(Bucket::serve_except(|request| request.contains("copy")).await);
    check_length(&stand, 17 * MIB + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_refused_clearly() {
    let bucket = Bucket::serve().await;
    let blobs = Blobs::open(bucket.config("another-secret")).expect("opening contacts nobody");
    let content = content(10);
    let errors = [
        blobs.probe().await.expect_err("the key is wrong"),
        blobs.head(digest_of(&content)).await.expect_err("the key is wrong"),
        blobs.get(digest_of(&content), None).await.expect_err("the key is wrong"),
        blobs.put(None, body(&content), NO_LIMIT).await.expect_err("the key is wrong"),
    ];
    for error in errors {
        assert!(matches!(error, BlobError::Refused { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("bucket `quarry` at `http://127.0.0.1") && text.contains("check the access key"),
            "{text}"
        );
        let all = format!("{}{error:?}", chain(&error));
        assert!(!all.contains("another-secret") && !all.contains(SECRET_KEY), "{all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port can be bound");
    let address = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            held.push(socket);
        }
    });
    let part = Duration::from_millis(200);
    let patience = Patience { connect: part, request: part, retries: 2, retry: 2 * part };
    let blobs = Blobs::open_with(bucket::config(&address, SECRET_KEY), patience).expect("opening contacts nobody");
    let begun = Instant::now();
    let error = tokio::time::timeout(patience.bound(), blobs.put(None, body(&content(10)), NO_LIMIT))
        .await
        .expect("it ends within the bound")
        .expect_err("nobody answers");
    assert!(begun.elapsed() >= part, "it was waited for");
    assert!(matches!(error, BlobError::Place { .. }), "{error:?}");
    assert!(chain(&error).contains(&address), "{}", chain(&error));
    let begun = Instant::now();
    blobs.probe().await.expect_err("nobody answers");
    assert!(begun.elapsed() <= patience.bound(), "the first failure ends a probe");

    server.shutdown().await;
    let error = tokio::time::timeout(patience.bound(), blobs.head(digest_of(b""))).await.expect("within the bound");
    assert!(matches!(error, Err(BlobError::Place { .. })), "nobody listens: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_endpoint_is_spoken_to_in_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port can be bound");
    let address = format!("https://{}", listener.local_addr().expect("a bound socket has an address"));
    let part = Duration::from_secs(2);
    let patience = Patience { connect: part, request: part, retries: 0, retry: part };
    let blobs = Blobs::open_with(bucket::config(&address, SECRET_KEY), patience).expect("opening contacts nobody");
    let hello = async {
        let (mut socket, _) = listener.accept().await.expect("somebody comes");
        let mut first = [0; 1];
        socket.read_exact(&mut first).await.expect("something comes");
        first
    };
    let (first, asked) = tokio::join!(hello, blobs.head(digest_of(b"")));
    assert_eq!(first, [0x16], "a handshake begins so");
    assert!(asked.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_holds_three_parts_at_most() {
    let stand = Stand::bucket().await;
    let bucket = stand.bucket.as_ref().expect("it is a bucket");
    let (given, most) = (AtomicU64::new(0), AtomicU64::new(0));
    let piece = content(MIB);
    let counted = stream::iter(0..80).map(|_| {
        let held = given.fetch_add(MIB as u64, Ordering::SeqCst) + MIB as u64 - bucket.part_bytes();
        most.fetch_max(held, Ordering::SeqCst);
        Ok(piece.clone())
    });
    stand.blobs.put(None, counted, NO_LIMIT).await.expect("it can be stored");
    let most = most.into_inner();
    assert!((8 * MIB as u64..=25 * MIB as u64).contains(&most), "{most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("file");
    std::fs::write(&file, b"").expect("it can be written");
    let error = Blobs::open(BlobConfig::Local { folder: file.clone() }).expect_err("a file is no folder");
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");

    let blobs = Blobs::open(BlobConfig::Local { folder: folder.path().into() }).expect("a folder can be opened");
    let content = content(10);
    let name = digest_of(&content).to_string();
    std::fs::write(folder.path().join("blobs").join(&name[..2]), b"in the way").expect("it can be written");
    let error = blobs.put(None, body(&content), NO_LIMIT).await.expect_err("a file is in the way");
    let text = error.to_string();
    assert!(text.contains(&name) && text.contains(&folder.path().display().to_string()), "{text}");
}
