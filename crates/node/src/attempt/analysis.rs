//! The analysis of a dump: fetched and put together here, opened by a child in a sandbox, and what that says stored.
//!
//! Nothing of a dump is parsed in this process. The child is our own program under another name, in a sandbox over the
//! machine's own files with no network and 60 seconds; it writes one short line of findings, which are read, and a report,
//! which is stored as it is. Beside the dump it sees the files that the execution that died had brought along and the
//! layers of its image, so that modules and debug information of both are found.
//!
//! What a child found out about symbols it keeps in a folder that is its tenant's alone: whoever could make it write
//! nonsense there only ever misleads their own tenant. The folder is emptied when it has grown too large.

use super::{Attempt, MAX_AFTERMATH, Product, Trouble, Wish, whole, wished};
use crate::files::Form;
use crate::output::{Output, Source};
use crate::parcel::{Fenced, ParcelError, fetch, read};
use crate::recipe::host_user;
use crate::scratch::Scratch;
use client::blob::Content as BlobContent;
use model::analysis::{DumpOrder, MAX_FINDINGS_BYTES};
use model::chunk::Stream;
use model::dump::DumpFindings;
use model::parcel::{MAX_MANIFEST_BYTES, Manifest};
use model::report::MAX_REPORT_BYTES;
use model::{Access, Network, Outcome};
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
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

/// Where the child finds what is for it: a folder that is empty in every sandbox.
const INSIDE: &str = "/run/quarry";
/// The word by which our program knows that it is to open a dump.
const CHILD: &str = "analyser";
/// Who is root inside, and nobody in particular outside.
const ROOT: &str = "0:0";
/// Bytes that a tenant's symbols may take before they are made anew.
const MAX_SYMBOL_BYTES: u64 = 2 << 30;
/// Layers of an image that are looked through.
const MAX_LAYERS: usize = 128;

/// What the child sees, and what must last as long as it.
struct Ground {
    plan: Plan,
    order: Order,
    _keep: Vec<Box<dyn Any + Send + Sync>>,
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
        let ground = tokio::select! {
            biased;
            () = wished(&mut wish, Wish::Cancel) => return Ok(Product::bare(Outcome::Cancelled)),
            ground = self.lay_ground(order, output) => ground?,
        };
        let machine = |error: io::Error| Trouble::Machine(format!("the report of a dump cannot be taken: {error}"));
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| machine(error.into()));
        let (told, told_inside) = pipe()?;
        let (said, said_inside) = pipe()?;
        let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let inside = [nothing.map_err(|error| machine(error.into()))?, told_inside, said_inside];
        let (handle, events) = self.shop.sandboxes.open();
        handle.run(&ground.plan, &ground.order, &inside).map_err(|error| Trouble::Machine(error.to_string()))?;
        drop(inside);
        let begun = crate::worker::Worker { handle, events, wire: None };
        let outside = super::Outside { feed: None, sources: vec![Source { stream: Stream::Error, fd: said }] };
        let scratch = self.scratch().map_err(machine)?;
        let (ending, taken) = {
            let mut taking = pin!(take(told, scratch.path().to_owned()));
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
        let mut product = self.result(ending?);
        drop(ground);
        if product.outcome != (Outcome::Exited { code: 0 }) {
            return Ok(product);
        }
        match taken.transpose().map_err(machine)?.flatten() {
            // The dump is then unreadable: our own child does not speak like that, unless somebody took it over.
            None => output.remark("[the analysis wrote no findings that can be read]\n").await,
            Some(findings) => {
                let stored = self.fence.store(BlobContent::File(scratch.path().to_owned())).await;
                let (report, _) = stored
                    .map_err(|error| Trouble::Machine(format!("the report of a dump cannot be stored: {error}")))?;
                product.findings = Some(DumpFindings { report: Some(report), ..findings });
            }
        }
        Ok(product)
    }

    /// Fetches what the child is to see, and says how it is begun.
    async fn lay_ground(&self, order: &DumpOrder, output: &mut Output) -> Result<Ground, Trouble> {
        let machine = |error: io::Error| Trouble::Machine(format!("no room for a dump: {error}"));
        let scratch = self.scratch().map_err(machine)?;
        self.fetch_dump(order, scratch.path()).await?;
        let program = fs::canonicalize(&self.shop.settings.helper)
            .map_err(|error| Trouble::Machine(format!("our own program is not there any more: {error}")))?;
        let cache = self.symbols().map_err(machine)?;
        let bind = |source: PathBuf, inner: &str, access| Bind { source, target: inside(inner), access };
        let mut binds = vec![
            bind(scratch.path().to_owned(), "dump", Access::ReadOnly),
            bind(program, "program", Access::ReadOnly),
            bind(cache, "symbols", Access::ReadWrite),
        ];
        let Sources { binds: of_files, mut roots, mut keep } = self.sources(order, output).await;
        binds.extend(of_files);
        keep.push(Box::new(scratch));
        // What an image keeps from others is kept from its own dumps no more than from its own programs.
        let user = if order.image.is_some() { ROOT } else { host_user(&self.shop.settings) };
        roots.push(PathBuf::from("/"));
        let debug: Vec<_> = roots.iter().map(|root| root.join("usr/lib/debug")).collect();
        let places = json!({ "roots": roots, "debug": debug, "cache": inside("symbols") }).to_string();
        Ok(Ground { plan: self.plan(binds), order: command(places, user), _keep: keep })
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
        let failed = |error: ParcelError| match error {
            ParcelError::Missing(_) | ParcelError::TooLong(..) => refused(error.to_string()),
            error => Trouble::Machine(format!("the dump cannot be fetched: {}", whole(&error))),
        };
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
        if size(&folder) > MAX_SYMBOL_BYTES {
            // Whoever uses it meanwhile still has it.
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        // The folder above is the node's alone; the child, whoever it is inside, sees this one by a mount.
        fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
        Ok(folder)
    }
}

fn inside(inner: &str) -> PathBuf {
    Path::new(INSIDE).join(inner)
}

fn command(places: String, user: &str) -> Order {
    let path = |inner: &str| inside(inner).display().to_string();
    Order {
        command: vec![path("program"), CHILD.to_owned(), path("dump"), places],
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: user.to_owned(),
        window: None,
    }
}

/// Returns how much the files of a folder take. It holds nothing else, unless somebody put it there, and then it is too much.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let metadata = entries.filter_map(|entry| entry.metadata().ok());
    metadata.map(|one| if one.is_file() { one.len() } else { u64::MAX }).fold(0, u64::saturating_add)
}

/// Reads the child's findings, and puts the report behind them into a file; nothing, if they are not what they should be.
async fn take(told: OwnedFd, path: PathBuf) -> io::Result<Option<DumpFindings>> {
    let mut told = pipe::Receiver::from_owned_fd(told)?;
    let mut line = Vec::new();
    let mut piece = vec![0; 64 << 10];
    let rest = loop {
        let count = told.read(&mut piece).await?;
        if count == 0 || line.len() > MAX_FINDINGS_BYTES {
            return Ok(None);
        }
        match piece[..count].iter().position(|one| *one == b'\n') {
            None => line.extend_from_slice(&piece[..count]),
            Some(end) => {
                line.extend_from_slice(&piece[..end]);
                break end + 1..count;
            }
        }
    };
    let mut file = tokio::fs::File::create_new(path).await?;
    file.write_all(&piece[rest.clone()]).await?;
    let mut length = rest.len();
    loop {
        let count = told.read(&mut piece).await?;
        if count == 0 {
            break;
        }
        length += count;
        if length > MAX_REPORT_BYTES {
            return Ok(None);
        }
        file.write_all(&piece[..count]).await?;
    }
    file.flush().await?;
    Ok(serde_json::from_slice(&line).ok())
}
