//! What the tests of images share: a cache, a tenant's blobs, and an image made by other people's tools.

use model::Digest;
use model::id::ImageId;
use model::image::{ArchiveKind, Credential, ImageConfig, ImageOrder, ImageSource, Manifest};
use node::cache::{Cache, CacheSettings, LayerSet};
use node::image::{AllowedRegistry, BlobFault, Blobs, ImageError, Patience, Registries, Step, make};
use sandbox::Place;
use sandbox::unpack::Settings;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// Where the ids of what the tests unpack lie.
pub(crate) const FIRST: u32 = 1_300_000;

/// A tenant's blobs in a folder, which count how often they are asked.
pub(crate) struct Shop {
    folder: TempDir,
    pub(crate) fetches: AtomicUsize,
    /// How long every fetch takes.
    pub(crate) delay: Duration,
}

impl Shop {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("is made");
        Self { folder, fetches: AtomicUsize::new(0), delay: Duration::ZERO }
    }

    pub(crate) fn add(&self, content: &[u8]) -> Digest {
        let digest = Digest::from_bytes(*blake3::hash(content).as_bytes());
        fs::write(self.path(digest), content).expect("is written");
        digest
    }

    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.folder.path().join(digest.to_string())
    }
}

impl Blobs for Shop {
    async fn store(&self, digest: Digest, bytes: u64, file: &Path) -> Result<(), BlobFault> {
        let content = fs::read(file)?;
        assert_eq!(content.len() as u64, bytes);
        assert_eq!(self.add(&content), digest);
        Ok(())
    }

    async fn fetch(&self, digest: Digest, file: &Path) -> Result<(), BlobFault> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        fs::copy(self.path(digest), file)?;
        Ok(())
    }
}

/// A node's cache and a tenant's blobs.
pub(crate) struct Room {
    _folder: TempDir,
    pub(crate) cache: Cache,
    pub(crate) shop: Shop,
    pub(crate) steps: Mutex<Vec<Step>>,
    /// At first those on this machine are allowed.
    pub(crate) registries: Registries,
}

pub(crate) fn settings(folder: &Path, budget_bytes: u64) -> CacheSettings {
    let is_root = rustix::process::geteuid().is_root();
    let place = if is_root { Place::Range { first: FIRST, count: 65_536 } } else { Place::Own };
    let tests = std::env::current_exe().expect("we run");
    let program = tests.ancestors().nth(2).expect("tests lie in `deps`").join("examples/unpack_child");
    CacheSettings { folder: folder.join("cache"), budget_bytes, unpack: Settings { program, ..Settings::new(place) } }
}

impl Room {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("is made");
        let cache = Cache::open(settings(folder.path(), 1 << 30)).await.expect("it opens");
        let allowed = vec![AllowedRegistry::parse("127.0.0.1").expect("is one")];
        let registries = Registries { allowed, ..Registries::default() };
        Self { _folder: folder, cache, shop: Shop::new(), steps: Mutex::default(), registries }
    }

    pub(crate) async fn make(&self, order: &ImageOrder, patience: Patience) -> Result<Manifest, ImageError> {
        let made = self.attempt(order, patience).await;
        assert_eq!(self.left(), Vec::<String>::new(), "something is left of making an image");
        made
    }

    /// Makes an image and does not look at what is left: others that were given up may still be cleaned up after.
    pub(crate) async fn attempt(&self, order: &ImageOrder, patience: Patience) -> Result<Manifest, ImageError> {
        let progress = |step| self.steps.lock().expect("nobody panics").push(step);
        let registries = Registries { patience, ..self.registries.clone() };
        make(order, &self.cache, &self.shop, &registries, &progress).await
    }

    pub(crate) async fn pull(&self, reference: &str, credential: Option<Credential>) -> Result<Manifest, ImageError> {
        self.make(&pulled(reference, credential), impatient()).await
    }

    pub(crate) async fn import(
        &self,
        archive: &[u8],
        kind: ArchiveKind,
        config: ImageConfig,
    ) -> Result<Manifest, ImageError> {
        self.make(&self.order(archive, kind, config), impatient()).await
    }

    /// Returns the order to import an archive.
    pub(crate) fn order(&self, archive: &[u8], kind: ArchiveKind, config: ImageConfig) -> ImageOrder {
        let source = ImageSource::Archive { blob: self.shop.add(archive), archive: kind, reference: None, config };
        ImageOrder { id: id(), source, credential: None, plain_http: false }
    }

    pub(crate) async fn layers(&self, manifest: &Manifest) -> LayerSet {
        self.cache.layers(manifest, &self.shop).await.expect("its layers are had")
    }

    /// Returns what lies in the cache that is neither a layer nor a note.
    pub(crate) fn left(&self) -> Vec<String> {
        let names = |name: &str| fs::read_dir(self.cache.folder().join(name)).expect("is there");
        let all = names("scratch").chain(names("layers"));
        let all = all.map(|entry| entry.expect("is there").file_name().to_string_lossy().into_owned());
        all.filter(|name| name.len() < 64).collect()
    }
}

pub(crate) fn pulled(reference: &str, credential: Option<Credential>) -> ImageOrder {
    let source = ImageSource::Registry { reference: reference.to_owned(), platform: None, runtime: None };
    ImageOrder { id: id(), source, credential, plain_http: false }
}

/// Patience for servers in this process.
pub(crate) fn impatient() -> Patience {
    Patience { stall: Duration::from_secs(2), tries: 3, pause: Duration::from_millis(10) }
}

fn id() -> ImageId {
    "img_00000000000000000000000001".parse().expect("is an id")
}

/// Runs a tool and expects it to succeed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {talk}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sh(folder: &Path, script: &str) -> String {
    run(Command::new("sh").arg("-euc").arg(script).current_dir(folder))
}

/// An OCI layout `layout:good` of three layers, made by umoci from busybox, and what umoci unpacks from it.
pub(crate) struct Sample {
    pub(crate) folder: TempDir,
}

impl Sample {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("is made");
        let script = "
            umoci init --layout layout && umoci new --image layout:good
            umoci unpack --image layout:good one >/dev/null
            cd one/rootfs
            mkdir -p bin etc/deep/er var/tmp gone/below opaque home
            cp /bin/busybox bin/busybox && chmod 4755 bin/busybox
            ln bin/busybox bin/sh && ln -s ../bin/busybox etc/link && ln -s /nowhere etc/dangling
            mkfifo var/fifo && chmod 1777 var/tmp
            echo removed > gone/below/file && echo hidden > opaque/old && echo first > etc/changed
            printf x > 'etc/a name with
a line' && chown 65534:65534 home && chmod 2750 home && chown -h 7:8 etc/link
            setfattr -n user.note -v hello etc/changed 2>/dev/null || true
            touch -d '2001-02-03 04:05:06' etc/changed bin/busybox var/fifo && touch -h -d '2002-02-02' etc/link
            cd ../.. && umoci repack --image layout:good one
            umoci unpack --image layout:good two >/dev/null
            rm -r two/rootfs/gone && rm two/rootfs/opaque/old && echo second > two/rootfs/etc/changed
            rm two/rootfs/etc/dangling && mkdir two/rootfs/etc/dangling && echo new > two/rootfs/opaque/new
            umoci repack --image layout:good two
            umoci unpack --image layout:good three >/dev/null && rm -r three/rootfs/opaque && echo now > three/rootfs/opaque
            umoci repack --image layout:good three
            umoci config --image layout:good --config.cmd /bin/sh --config.cmd -c --config.env A=b=c \\
                --config.workingdir /etc --config.user 7:8 --config.label note=yes
            umoci unpack --image layout:good whole >/dev/null";
        sh(folder.path(), script);
        Self { folder }
    }

    /// Lists what umoci makes of the image.
    pub(crate) fn listing(&self) -> String {
        list(&self.folder.path().join("whole/rootfs"), "", 0)
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        fs::read(self.make("tar -C layout -cf layout.tar .", "layout.tar")).expect("is there")
    }

    /// The layout with another image beside the one, `other`, which runs another command.
    pub(crate) fn tar_of_two(&self) -> Vec<u8> {
        let script = "umoci config --image layout:good --tag other --clear config.cmd --config.cmd /bin/other";
        fs::read(self.make(&format!("{script} && tar -C layout -cf two.tar ."), "two.tar")).expect("is there")
    }

    pub(crate) fn docker(&self) -> Vec<u8> {
        let script = "skopeo --insecure-policy copy -q oci:layout:good docker-archive:docker.tar:me/sample:latest";
        fs::read(self.make(script, "docker.tar")).expect("is there")
    }

    fn make(&self, script: &str, name: &str) -> PathBuf {
        sh(self.folder.path(), script);
        self.folder.path().join(name)
    }

    pub(crate) fn config() -> ImageConfig {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect::<BTreeMap<_, _>>()
        };
        ImageConfig {
            cmd: vec!["/bin/sh".to_owned(), "-c".to_owned()],
            env: pairs(&[("A", "b=c")]),
            cwd: Some("/etc".to_owned()),
            user: Some("7:8".to_owned()),
            labels: pairs(&[("note", "yes")]),
            ..ImageConfig::default()
        }
    }
}

/// Lists a tree as a sandbox would see it: our layers, put over each other by the kernel in a mount namespace of its own.
pub(crate) fn list_layers(set: &LayerSet) -> String {
    let folders: Vec<_> = set.folders().iter().map(|folder| folder.display().to_string()).collect();
    let [only] = folders.as_slice() else {
        let mount = format!("mount -t overlay overlay -o ro,userxattr,lowerdir={} /mnt", folders.join(":"));
        return list(Path::new("/mnt"), &mount, FIRST);
    };
    list(Path::new(only), "", FIRST)
}

fn list(folder: &Path, before: &str, first: u32) -> String {
    let before = if before.is_empty() { "true" } else { before };
    // Lengths of folders and the times of the topmost are the file system's own affair.
    let script = format!(
        "{before} && cd '{}' && find . -mindepth 1 \\( -type d -printf '%P %y %m %U %G %T@\\n' \\) -o -printf '%P %y %m %U %G %T@ %s %n %l\\n'",
        folder.display()
    );
    let text = run(Command::new("unshare").args(["-m", "--propagation", "private", "sh", "-euc", &script]));
    let mut lines: Vec<_> = text.lines().map(|line| shifted(line, first)).collect();
    lines.sort();
    lines.join("\n")
}

/// Takes the first id outside away from the owners of a line, so that they are as inside.
fn shifted(line: &str, first: u32) -> String {
    let shift = |word: &str| match word.parse::<u32>() {
        Ok(id) if id >= FIRST && id - FIRST < 65_536 && first > 0 => (id - first).to_string(),
        _ => word.to_owned(),
    };
    line.split(' ').map(shift).collect::<Vec<_>>().join(" ")
}
