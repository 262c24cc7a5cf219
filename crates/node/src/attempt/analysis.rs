//! The analysis of a dump: fetched and put together here, opened by a child in a sandbox, and what that says stored.
//!
//! Nothing of a dump is parsed in this process. The child is our own program under another name, in a sandbox over the
//! machine's own files with no network and 60 seconds; it writes one line, which is read, then a report, which is stored as
//! it is, and what it found out about symbols. Beside the dump it sees the files that the execution that died had brought
//! along and the layers of its image, so that modules and debug information of both are found. If it says that it lacks
//! some and any of them can be fetched (`modules.rs`), another child looks again with them beside it; what that comes to
//! counts only if it ends well. So a dump of which nothing is missing costs one child.
//!
//! What was found out about symbols is kept in a folder that is its tenant's alone: whoever could make a child write
//! nonsense only ever misleads their own tenant. No child may write there: what it made comes behind the report, so many
//! bytes and no more, and the folder is emptied when it has grown too large.

use super::modules::{FILES, Fetched, Fetcher, PACKS, Reader, Shelf};
use super::{Attempt, Product, Trouble, Wish, wished};
use crate::files::Form;
use crate::output::{MAX_AFTERMATH, Output, Source};
use crate::parcel::{Fenced, ParcelError, fetch, read};
use crate::recipe::host_user;
use crate::scratch::Scratch;
use client::blob::Content as BlobContent;
use model::analysis::{DumpOrder, MAX_SYMBOL_FILES, MAX_SYMBOLS_BYTES, MAX_TOLD_BYTES, Told};
use model::chunk::Stream;
use model::dump::DumpFindings;
use model::parcel::{MAX_MANIFEST_BYTES, Manifest};
use model::report::MAX_REPORT_BYTES;
use model::{Access, Network, Outcome, Usage};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use sandbox::{Bind, Order, Plan, Root};
use serde_json::json;
use std::any::Any;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;

/// Where the child finds what is for it: a folder that is empty in every sandbox.
const INSIDE: &str = "/run/quarry";
/// The word by which our program knows that it is to open a dump.
const CHILD: &str = "analyser";
/// Who is root inside, and nobody in particular outside.
const ROOT: &str = "0:0";
/// Bytes that a tenant's symbols may take before they are made anew.
const MAX_KEPT_BYTES: u64 = 2 << 30;
/// Where the child puts what it finds out about symbols; the sandbox's own, and as large as its limits say.
const FRESH: &str = "/tmp/symbols";
/// Children that look at one dump, each with more modules than the one before.
const MAX_LOOKS: u32 = 4;
/// Layers of an image that are looked through.
const MAX_LAYERS: usize = 128;

/// What the child sees, and what must last as long as it.
struct Ground {
    plan: Plan,
    order: Order,
    shelf: Shelf,
    _keep: Vec<Box<dyn Any + Send + Sync>>,
}

/// What came of one look at a dump.
struct Look {
    product: Product,
    /// What the child said and its report, if it ended well and spoke as it should.
    taken: Option<(Told, Scratch)>,
}

/// Files that a dump came from.
pub(super) struct Sources {
    pub(super) binds: Vec<Bind>,
    /// Where they stand for `/`, as the sandbox sees it.
    pub(super) roots: Vec<PathBuf>,
    pub(super) keep: Vec<Box<dyn Any + Send + Sync>>,
}

impl Attempt {
    /// Finds out what is in a dump.
    pub(super) async fn analyse(&mut self, order: &DumpOrder, output: &mut Output) -> Result<Product, Trouble> {
        let mut wish = self.wish.clone();
        let mut ground = tokio::select! {
            biased;
            () = wished(&mut wish, Wish::Cancel) => return Ok(Product::bare(Outcome::Cancelled)),
            ground = self.lay_ground(order, output) => ground?,
        };
        let mut best = self.look(&ground, output).await?;
        let fetcher = Fetcher::new(self);
        for _ in 1..MAX_LOOKS {
            let Some((told, _)) = &best.taken else { break };
            let fetched = tokio::select! {
                biased;
                () = wished(&mut wish, Wish::Cancel) => return Ok(Product::bare(Outcome::Cancelled)),
                fetched = fetcher.fetch(&told.wanted, &mut ground.shelf) => fetched,
            };
            let Fetched { files, remarks } = fetched;
            for remark in remarks {
                output.remark(&format!("[{remark}]\n")).await;
            }
            if files == 0 {
                break;
            }
            output.remark(&format!("[{files} files of modules were fetched: the dump is looked at again]\n")).await;
            let mut next = self.look(&ground, output).await?;
            let usage = both(best.product.usage, next.product.usage);
            if next.taken.is_none() && next.product.outcome != Outcome::Cancelled {
                output.remark("[with them it could not be looked at; what was known without them stays]\n").await;
                best.product.usage = usage;
                break;
            }
            next.product.usage = usage;
            best = next;
        }
        let Look { mut product, taken } = best;
        if product.outcome != (Outcome::Exited { code: 0 }) {
            return Ok(product);
        }
        match taken {
            // The dump is then unreadable: our own child does not speak like that, unless somebody took it over.
            None => output.remark("[the analysis wrote no findings that can be read]\n").await,
            Some((told, report)) => {
                let stored = self.fence.store(BlobContent::File(report.path().to_owned())).await;
                let (report, _) =
                    stored.map_err(|error| Trouble::of_client(&error, "the report of a dump cannot be stored"))?;
                product.findings = Some(DumpFindings { report: Some(report), ..told.findings });
            }
        }
        Ok(product)
    }

    /// Has a child look at the dump.
    async fn look(&mut self, ground: &Ground, output: &mut Output) -> Result<Look, Trouble> {
        let machine = |error: io::Error| Trouble::Machine(format!("the report of a dump cannot be taken: {error}"));
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| machine(error.into()));
        let (told, told_inside) = pipe()?;
        let (said, said_inside) = pipe()?;
        let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let inside = [nothing.map_err(|error| machine(error.into()))?, told_inside, said_inside];
        let report = self.scratch().map_err(machine)?;
        let symbols = self.symbols().map_err(machine)?;
        let (handle, events) = self.shop.sandboxes.open();
        handle.run(&ground.plan, &ground.order, &inside).map_err(|error| Trouble::Machine(error.to_string()))?;
        drop(inside);
        let begun = crate::worker::Worker { handle, events, wire: None };
        let outside = super::Outside { feed: None, sources: vec![Source { stream: Stream::Error, fd: said }] };
        let (ending, taken) = {
            let mut taking = pin!(take(told, report.path().to_owned(), symbols));
            let mut accompanying = pin!(self.accompany(begun, outside, output));
            let mut taken = None;
            let ending = loop {
                tokio::select! {
                    ending = &mut accompanying => break ending,
                    done = &mut taking, if taken.is_none() => taken = Some(done),
                }
            };
            if taken.is_none() {
                taken = tokio::time::timeout(MAX_AFTERMATH, taking).await.ok();
            }
            (ending, taken)
        };
        let product = self.result(ending?);
        let has_ended_well = product.outcome == Outcome::Exited { code: 0 };
        let taken = if has_ended_well { taken.transpose().map_err(machine)?.flatten() } else { None };
        Ok(Look { product, taken: taken.map(|told| (told, report)) })
    }

    /// Fetches what the child is to see, and says how it is begun.
    async fn lay_ground(&self, order: &DumpOrder, output: &mut Output) -> Result<Ground, Trouble> {
        let machine = |error: io::Error| Trouble::Machine(format!("no room for a dump: {error}"));
        let scratch = self.scratch().map_err(machine)?;
        self.fetch_dump(order, scratch.path()).await?;
        let program = fs::canonicalize(&self.shop.settings.helper)
            .map_err(|error| Trouble::Machine(format!("our own program is not there any more: {error}")))?;
        let shelf = Shelf::new(&self.shop.settings, Reader::Analysis).map_err(machine)?;
        let bind = |source: PathBuf, inner: &str, access| Bind { source, target: inside(inner), access };
        let mut binds = vec![
            bind(scratch.path().to_owned(), "dump", Access::ReadOnly),
            bind(program, "program", Access::ReadOnly),
            bind(self.symbols().map_err(machine)?, "symbols", Access::ReadOnly),
            bind(shelf.path().to_owned(), "modules", Access::ReadOnly),
        ];
        let Sources { binds: of_files, mut roots, mut keep } = self.sources(order, output).await;
        binds.extend(of_files);
        keep.push(Box::new(scratch));
        let mut more = Vec::new();
        if let Some(rules) = &order.rules {
            match self.shop.files.get(rules.blob, Form::Plain, &*self.fence).await {
                Ok(kept) => {
                    binds.push(bind(kept.path().to_owned(), "rules", Access::ReadOnly));
                    keep.push(Box::new(kept));
                }
                // The child says in the report that it did without them.
                Err(error) => output.remark(&format!("[the rules of signatures are not there: {error}]\n")).await,
            }
            let name: String = rules.name.chars().filter(|one| !one.is_control()).collect();
            more.extend([inside("rules").display().to_string(), name]);
        }
        // What an image keeps from others is kept from its own dumps no more than from its own programs.
        let user = if order.image.is_some() { ROOT } else { host_user(&self.shop.settings) };
        roots.push(PathBuf::from("/"));
        let debug: Vec<_> = roots.iter().map(|root| root.join("usr/lib/debug")).collect();
        let (files, packs) = (inside("modules").join(FILES), inside("modules").join(PACKS));
        let places = json!({
            "roots": roots, "debug": debug, "by_build_id": [files], "packs": [packs], "cache": inside("symbols"),
            "fresh": FRESH,
        });
        Ok(Ground { plan: self.plan(binds), order: command(&places, more, user), shelf, _keep: keep })
    }

    /// Fetches the files that the program had which left a dump, and the layers of its image.
    pub(super) async fn sources(&self, order: &DumpOrder, output: &mut Output) -> Sources {
        let bind = |source: PathBuf, inner: &str, access| Bind { source, target: inside(inner), access };
        let (mut binds, mut roots) = (Vec::new(), Vec::new());
        let mut keep: Vec<Box<dyn Any + Send + Sync>> = Vec::new();
        for file in &order.files {
            let form = if file.executable { Form::Executable } else { Form::Plain };
            match self.shop.files.get(file.digest, form, &*self.fence).await {
                Ok(kept) => {
                    let target = format!("files/{}", file.target.trim_start_matches('/'));
                    binds.push(bind(kept.path().to_owned(), &target, Access::ReadOnly));
                    keep.push(Box::new(kept));
                }
                // It may be gone by now; the dump is worth a look without it.
                Err(error) => output.remark(&format!("[`{}` is not there: {error}]\n", file.target)).await,
            }
        }
        if !binds.is_empty() {
            roots.push(inside("files"));
        }
        if let Some(image) = &order.image {
            match self.shop.cache.layers(image, &*self.fence).await {
                Ok(layers) => {
                    for (number, folder) in layers.folders().iter().take(MAX_LAYERS).enumerate() {
                        let inner = format!("layers/{number}");
                        binds.push(bind(folder.clone(), &inner, Access::ReadOnly));
                        roots.push(inside(&inner));
                    }
                    keep.push(Box::new(layers));
                }
                Err(error) => output.remark(&format!("[the image is not there: {error}]\n")).await,
            }
        }
        Sources { binds, roots, keep }
    }

    fn plan(&self, binds: Vec<Bind>) -> Plan {
        Plan {
            root: Root::Host,
            binds,
            hostname: "sandbox".to_owned(),
            network: Network::None,
            limits: self.assignment.recipe.limits,
            ptrace: false,
            terminal: false,
            file_capabilities: false,
        }
    }

    /// Puts the dump together in a file, proved by its digest.
    pub(super) async fn fetch_dump(&self, order: &DumpOrder, path: &Path) -> Result<(), Trouble> {
        let refused = |why: String| Trouble::Refused(format!("the dump cannot be had: {why}"));
        let failed = |error: ParcelError| Trouble::of_parcels(&error);
        let digest = order.manifest.ok_or_else(|| refused("its content was dropped".to_owned()))?;
        let (client, fence) = (self.fence.client.clone(), self.fence.show());
        let reader = client.execution_blob_get(fence, digest).await.map_err(|error| failed(error.into()))?;
        let manifest = read(reader, MAX_MANIFEST_BYTES).await.map_err(failed)?;
        let manifest = Manifest::decode(&manifest).map_err(|error| refused(error.to_string()))?;
        let (held, room) = (manifest.extents.iter().map(|extent| extent.bytes).sum::<u64>(), self.room());
        if held > room {
            return Err(refused(format!("it holds {held} bytes, and this node has room for {room} of a dump")));
        }
        let file = File::create_new(path).map_err(|error| Trouble::Machine(format!("no room for a dump: {error}")))?;
        fetch(&Fenced { client, fence }, &manifest, &file, &|_| ()).await.map_err(failed)?;
        // Whoever the child is inside may read it.
        file.set_permissions(Permissions::from_mode(0o444))
            .map_err(|error| Trouble::Machine(format!("a dump cannot be shown: {error}")))
    }

    /// Returns how much of a dump this node takes.
    fn room(&self) -> u64 {
        self.shop.settings.cache_bytes / 2
    }

    pub(super) fn scratch(&self) -> io::Result<Scratch> {
        Scratch::new(&self.shop.settings.state.join(super::DUMPS))
    }

    /// Returns the folder for what is found out about symbols for this tenant.
    fn symbols(&self) -> io::Result<PathBuf> {
        let folder = self.shop.settings.state.join(super::SYMBOLS).join(self.assignment.tenant.to_string());
        if size(&folder) > MAX_KEPT_BYTES {
            // Whoever uses it meanwhile still has it.
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        // The folder above is the node's alone; the child, whoever it is inside, sees this one by a mount.
        fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
        Ok(folder)
    }
}

fn inside(inner: &str) -> PathBuf {
    Path::new(INSIDE).join(inner)
}

fn command(places: &serde_json::Value, more: Vec<String>, user: &str) -> Order {
    let path = |inner: &str| inside(inner).display().to_string();
    let command = [path("program"), CHILD.to_owned(), path("dump"), places.to_string()];
    Order {
        command: command.into_iter().chain(more).collect(),
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: user.to_owned(),
        window: None,
    }
}

/// Returns what two looks used together.
fn both(one: Usage, other: Usage) -> Usage {
    Usage {
        wall_ms: one.wall_ms.saturating_add(other.wall_ms),
        cpu_ms: one.cpu_ms.saturating_add(other.cpu_ms),
        memory_peak_bytes: one.memory_peak_bytes.max(other.memory_peak_bytes),
        read_bytes: one.read_bytes.saturating_add(other.read_bytes),
        write_bytes: one.write_bytes.saturating_add(other.write_bytes),
        oom_kills: one.oom_kills.saturating_add(other.oom_kills),
        ..other
    }
}

/// Returns how much the files of a folder of symbols take; they are in folders of their own.
fn size(folder: &Path) -> u64 {
    let inner = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = inner.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    files.filter_map(|file| file.metadata().ok()).fold(0, |sum, metadata| sum.saturating_add(metadata.len()))
}

/// Reads what the child says, puts the report behind it into a file, and the symbols behind that into their folder; nothing,
/// if it is not what it should be.
async fn take(told: OwnedFd, report: PathBuf, symbols: PathBuf) -> io::Result<Option<Told>> {
    let mut reader = BufReader::with_capacity(64 << 10, pipe::Receiver::from_owned_fd(told)?);
    let mut line = Vec::new();
    (&mut reader).take(MAX_TOLD_BYTES as u64 + 1).read_until(b'\n', &mut line).await?;
    let told = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<Told>(line).ok());
    let Some(told) = told.filter(|told| told.report_bytes <= MAX_REPORT_BYTES as u64) else { return Ok(None) };
    if !save(&mut reader, told.report_bytes, &report).await? {
        return Ok(None);
    }
    let mut left = MAX_SYMBOLS_BYTES;
    for file in told.symbols.iter().take(MAX_SYMBOL_FILES) {
        let Some((folder, name)) = file.place().filter(|_| file.bytes <= left) else { break };
        left -= file.bytes;
        let folder = symbols.join(folder);
        tokio::fs::create_dir_all(&folder).await?;
        // Beside the report, which is this analysis' own: what breaks off goes with it.
        let draft = report.with_extension("symbols");
        if !save(&mut reader, file.bytes, &draft).await? {
            break;
        }
        // Whoever reads the one that was there still has it.
        tokio::fs::rename(&draft, folder.join(name)).await?;
    }
    Ok(Some(told))
}

/// Puts so many bytes of what comes into a new file; tells whether that many came.
async fn save(reader: &mut BufReader<pipe::Receiver>, bytes: u64, path: &Path) -> io::Result<bool> {
    let mut file = tokio::fs::File::create_new(path).await?;
    let written = tokio::io::copy_buf(&mut reader.take(bytes), &mut file).await?;
    file.flush().await?;
    Ok(written == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::DumpState;
    use model::analysis::SymbolFile;
    use model::report::DumpKind;
    use std::io::Write;

    /// Returns what is taken of what a child writes, the report, and the names of the symbols that are kept.
    async fn taken(told: &Told, behind: &[u8]) -> (Option<Told>, Option<String>, Vec<String>) {
        let folder = tempfile::tempdir().expect("is made");
        let (report, symbols) = (folder.path().join("report"), folder.path().join("symbols"));
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("is made");
        let line = serde_json::to_vec(told).expect("is JSON");
        let written = [&line, &b"\n"[..], behind].concat();
        let writing = std::thread::spawn(move || drop(File::from(writer).write_all(&written)));
        let told = take(reader, report.clone(), symbols.clone()).await.expect("is read");
        writing.join().expect("ends");
        let mut names = Vec::new();
        for inner in fs::read_dir(&symbols).into_iter().flatten().flatten() {
            let files = fs::read_dir(inner.path()).expect("is there").flatten();
            names.extend(files.map(|file| file.path().strip_prefix(&symbols).expect("is in it").display().to_string()));
        }
        names.sort();
        (told, fs::read_to_string(report).ok(), names)
    }

    fn told(report_bytes: u64, symbols: &[(&str, u64)]) -> Told {
        let file = |(name, bytes): &(&str, u64)| SymbolFile { name: (*name).to_owned(), bytes: *bytes };
        let findings = DumpFindings::new(DumpState::Analysed, DumpKind::Core);
        Told { findings, report_bytes, wanted: Vec::new(), symbols: symbols.iter().map(file).collect() }
    }

    #[tokio::test]
    async fn what_a_child_writes_is_taken_as_far_as_it_may_be() {
        let check = async |told: Told, behind: &str, expected: (bool, &[&str])| {
            let (taken, report, names) = taken(&told, behind.as_bytes()).await;
            assert_eq!((taken.is_some(), names), (expected.0, expected.1.iter().map(ToString::to_string).collect()));
            assert!(taken.is_none() || report.as_deref() == Some("{}"), "{report:?}");
        };
        let one = ("ab/c-d.symbols", 3);
        check(told(2, &[one, ("cd/e-f.symbols", 1)]), "{}onex", (true, &["ab/c-d.symbols", "cd/e-f.symbols"])).await;
        check(told(2, &[]), "{}and more than it said", (true, &[])).await;
        check(told(3, &[]), "{}", (false, &[])).await;
        check(told(MAX_REPORT_BYTES as u64 + 1, &[]), "{}", (false, &[])).await;
        check(told(2, &[one, ("cd/e-f.symbols", 9)]), "{}onex", (true, &["ab/c-d.symbols"])).await;
        check(told(2, &[("../c-d.symbols", 3)]), "{}one", (true, &[])).await;
        check(told(2, &[one, ("cd/e-f.symbols", MAX_SYMBOLS_BYTES)]), "{}onex", (true, &["ab/c-d.symbols"])).await;
    }
}
