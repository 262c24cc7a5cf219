//! An attempt: one execution on this node, from its assignment to what is reported of its end.
//!
//! ```text
//! prepare ─► (worker | cold sandbox) ─► started ─► ended ─► output flushed, core sent ─► finished
//!    └── trouble ─► finished: set-up failed     └── cancel ─► stop gently ─► ended
//! ```
//! An attempt that is abandoned, because its lease is gone, ends its sandbox and reports nothing. Everything that it says
//! carries its fence, so what a slow attempt says after it was given to another node does not count.

mod analysis;
mod beside;
mod core;
mod errand;
mod modules;
mod trouble;

pub(crate) use trouble::Trouble;
use trouble::whole;

use crate::cache::Cache;
use crate::debuginfod::Debuginfod;
use crate::egress::Egress;
use crate::files::{Files, Form};
use crate::image::{self, BlobFault, Blobs, Step};
use crate::input::{self, Fed, Sort};
use crate::meter::{self, Meters};
use crate::output::{Output, Say, Source};
use crate::recipe::{self, Placed};
use crate::runtime::Runtimes;
use crate::sandboxes::{Handle, Sandboxes};
use crate::settings::Settings;
use crate::worker::{Keep, Worker, Workers};
use client::blob::Content as BlobContent;
use client::{Client, ClientError};
use model::analyzer::{Asked, Beside};
use model::chunk::{Content, Stream};
use model::dump::DumpFindings;
use model::image::{ImageOrder, Manifest};
use model::limits::MAX_CHUNK_BLOB_BYTES;
use model::node::{Assignment, Finished, Held, Work};
use model::{Digest, Input, Outcome, SessionId, SetUpFault, Usage};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use sandbox::{Core, Ending, Event, Order, Plan, Status, Stop};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where dumps and reports lie while they are worked on, beneath the node's folder.
pub(crate) const DUMPS: &str = "dumps";
/// Where what was found out about symbols is kept, a folder for each tenant; nobody else on the machine may enter it.
pub(crate) const SYMBOLS: &str = "symbols";

/// What a dispatcher wants of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Go on.
    Run,
    /// Stop gently and report it.
    Cancel,
    /// End at once and report nothing.
    Abandon,
}

/// What proves that an attempt is still ours, and the way to the server for it alone.
pub(crate) struct Fence {
    pub(crate) client: Client,
    pub(crate) session: SessionId,
    pub(crate) held: Held,
}

/// What every attempt of a node shares.
pub(crate) struct Shop {
    pub(crate) settings: Settings,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) runtimes: Runtimes,
    pub(crate) workers: Workers,
    pub(crate) cache: Cache,
    pub(crate) files: Files,
    /// Who is asked for modules and debug files, if anybody.
    pub(crate) debuginfod: Option<Debuginfod>,
    pub(crate) meters: Meters,
    /// The networks of sandboxes; each ends with its attempt.
    pub(crate) networks: TaskTracker,
}

/// One execution on this node.
pub(crate) struct Attempt {
    pub(crate) shop: Arc<Shop>,
    pub(crate) fence: Arc<Fence>,
    pub(crate) assignment: Assignment,
    pub(crate) say: Say,
    pub(crate) wish: watch::Receiver<Wish>,
}

/// What an attempt came to.
pub(crate) struct Ended {
    pub(crate) held: Held,
    /// Nothing, if it was abandoned.
    pub(crate) finished: Option<Finished>,
    /// The machine's failure, if it was one.
    pub(crate) failure: Option<String>,
}

/// How the work came out.
struct Product {
    outcome: Outcome,
    usage: Usage,
    core: Option<Core>,
    manifest: Option<Manifest>,
    findings: Option<DumpFindings>,
    asked: Option<Asked>,
}

impl Product {
    fn bare(outcome: Outcome) -> Self {
        Self { outcome, usage: Usage::default(), core: None, manifest: None, findings: None, asked: None }
    }

    fn unbegun(fault: SetUpFault, cause: String) -> Self {
        Self::bare(Outcome::SetUpFailed { cause, fault })
    }
}

impl Fence {
    /// Stores content for the execution's tenant.
    pub(crate) async fn store(&self, content: BlobContent) -> Result<(Digest, u64), ClientError> {
        let (digest, size) = content.digest().await.map_err(ClientError::Content)?;
        let blob = self.client.execution_blob_put(self.show(), digest, size, &content).await?;
        Ok((blob.digest, blob.size))
    }

    fn show(&self) -> client::blob::Fence {
        client::blob::Fence { held: self.held, session: self.session }
    }

    /// Returns a blob that a chunk may name.
    async fn read(&self, digest: Digest) -> Result<Vec<u8>, ClientError> {
        let mut reader = self.client.execution_blob_get(self.show(), digest).await?;
        let mut bytes = Vec::new();
        // What a chunk says of its size is its user's word; the blob's own length is what counts.
        if reader.size() > MAX_CHUNK_BLOB_BYTES {
            return Err(ClientError::Content(io::Error::other(format!("{} bytes are too many", reader.size()))));
        }
        while let Some(piece) = reader.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// Returns what a chunk holds.
    pub(crate) async fn content(&self, content: &Content) -> Result<Vec<u8>, Trouble> {
        match content {
            Content::Inline { bytes } => Ok(bytes.0.clone()),
            Content::Blob { size, .. } if *size > MAX_CHUNK_BLOB_BYTES => {
                Err(Trouble::Refused(format!("a chunk of input has {size} bytes of {MAX_CHUNK_BLOB_BYTES}")))
            }
            Content::Blob { digest, .. } => {
                self.read(*digest).await.map_err(|error| Trouble::of_client(&error, &format!("blob `{digest}`")))
            }
        }
    }
}

impl Blobs for Fence {
    async fn store(&self, digest: Digest, bytes: u64, file: &Path) -> Result<(), BlobFault> {
        let content = BlobContent::File(file.to_owned());
        self.client.execution_blob_put(self.show(), digest, bytes, &content).await?;
        Ok(())
    }

    async fn fetch(&self, digest: Digest, file: &Path) -> Result<(), BlobFault> {
        let mut file = tokio::fs::File::create_new(file).await?;
        let saved = self.client.execution_blob_get(self.show(), digest).await?.save(&mut file).await;
        saved.map_err(|error| match error {
            ClientError::Content(source) => {
                io::Error::new(source.kind(), format!("it cannot be written on this node: {source}")).into()
            }
            error => error.into(),
        })
    }
}

impl Attempt {
    /// Runs the attempt to its end.
    pub(crate) async fn run(mut self) -> Ended {
        let held = self.fence.held;
        let mut output =
            Output::new(Arc::clone(&self.fence), self.say.clone(), self.assignment.recipe.limits.log_bytes);
        let mut wish = self.wish.clone();
        let worked = tokio::select! {
            biased;
            () = wished(&mut wish, Wish::Abandon) => None,
            worked = self.work(&mut output) => Some(worked),
        };
        let Some(worked) = worked else { return Ended { held, finished: None, failure: None } };
        let (mut result, failure) = match worked {
            Ok(result) => (result, None),
            Err(Trouble::Refused(cause)) => (Product::unbegun(SetUpFault::Refused, cause), None),
            Err(Trouble::Program(fault, cause)) => (Product::unbegun(fault, cause), None),
            Err(Trouble::Server(cause)) => {
                tracing::warn!(execution = %held.execution, cause, "the server did not do its part for an execution");
                (Product::unbegun(SetUpFault::Machine, cause), None)
            }
            Err(Trouble::Machine(cause)) => {
                tracing::warn!(execution = %held.execution, cause, "an execution could not be set up");
                (Product::unbegun(SetUpFault::Machine, cause.clone()), Some(cause))
            }
        };
        let dump = match result.core.take() {
            None => None,
            Some(core) => self.keep_core(core, &mut output).await,
        };
        result.usage.log_bytes = output.finish().await.bytes;
        let Product { outcome, usage, manifest, findings, asked, .. } = result;
        Ended { held, finished: Some(Finished { held, outcome, usage, dump, manifest, findings, asked }), failure }
    }

    async fn work(&mut self, output: &mut Output) -> Result<Product, Trouble> {
        match self.assignment.work.clone() {
            Work::Run { image, dump } => self.run_recipe(image.as_ref(), dump.as_deref(), output).await,
            Work::Image { order } => self.make_image(&order, output).await,
            Work::Dump { order } => self.analyse(&order, output).await,
        }
    }

    async fn make_image(&mut self, order: &ImageOrder, output: &mut Output) -> Result<Product, Trouble> {
        let mut wish = self.wish.clone();
        let (steps, mut taken) = mpsc::channel(64);
        // A step that finds no room is only one line less for whoever looks on.
        let progress = move |step| {
            let _ = steps.try_send(step);
        };
        let making = image::make(order, &self.shop.cache, &*self.fence, &self.shop.settings.registries, &progress);
        tokio::pin!(making);
        let patience = Duration::from_millis(self.assignment.recipe.limits.wall_ms);
        let over = tokio::time::sleep(patience);
        tokio::pin!(over);
        let mut last = String::new();
        let made = loop {
            tokio::select! {
                biased;
                () = wished(&mut wish, Wish::Cancel) => return Ok(Product::bare(Outcome::Cancelled)),
                Some(step) = taken.recv() => {
                    let line = line(step);
                    if line != last {
                        output.remark(&format!("{line}\n")).await;
                        last = line;
                    }
                }
                made = &mut making => break made,
                () = &mut over => return Ok(Product::bare(Outcome::TimedOut)),
            }
        };
        let manifest = made?;
        let product = Product::bare(Outcome::Exited { code: 0 });
        Ok(Product { manifest: Some(manifest), ..product })
    }

    async fn run_recipe(
        &mut self,
        image: Option<&Manifest>,
        dump: Option<&Beside>,
        output: &mut Output,
    ) -> Result<Product, Trouble> {
        if let (Some(id), None) = (self.assignment.recipe.image_id, image) {
            // Without it the program would run over the machine's own files.
            return Err(Trouble::Refused(format!("image `{id}`, in which it was to run, is not there any more")));
        }
        let mut wish = self.wish.clone();
        let (mut prepared, mut beside) = tokio::select! {
            biased;
            () = wished(&mut wish, Wish::Cancel) => return Ok(Product::bare(Outcome::Cancelled)),
            prepared = async { Ok::<_, Trouble>((self.prepare(image).await?, self.beside(dump, output).await?)) } => prepared?,
        };
        let mut order = recipe::order(&self.assignment, image, &self.shop.settings)?;
        if let Some(beside) = &mut beside {
            prepared.plan.binds.append(&mut beside.binds);
            let has_user = image.is_some() || self.assignment.recipe.sandbox.user.is_some();
            beside.guide(&mut order, has_user);
        }
        let stdio = tokio::select! {
            biased;
            () = wished(&mut wish, Wish::Cancel) => return Ok(Product::bare(Outcome::Cancelled)),
            stdio = self.stdio() => stdio?,
        };
        Egress::check(&self.assignment.recipe.sandbox.egress).map_err(|error| Trouble::Refused(whole(&error)))?;
        let begun = match self.assignment.recipe.runtime(image) {
            Some(runtime) => self.contain(runtime, &prepared, &order, &stdio.inside)?,
            // Nobody else sees just this, so no worker is built ahead for it.
            None => self.start(&prepared, &order, &stdio.inside, beside.is_none())?,
        };
        // The program's ends are its own now; ours would keep its output from ever ending.
        drop(stdio.inside);
        let ending = match &mut beside {
            None => self.accompany(begun, stdio.outside, output).await?,
            Some(beside) => {
                let mut accompanying = pin!(self.accompany(begun, stdio.outside, output));
                let hearing = async { tokio::try_join!(beside.ear.listen(), beside.errands.run()) };
                tokio::select! {
                    ending = &mut accompanying => ending?,
                    Err(error) = hearing => {
                        tracing::warn!(%error, "what is asked beside a dump cannot be heard");
                        accompanying.await?
                    }
                }
            }
        };
        drop(prepared.keep);
        let mut product = self.result(ending);
        if let Some(beside) = beside {
            product.asked = self.asked(beside.ear, output).await;
            drop(beside.keep);
        }
        Ok(product)
    }

    /// Fetches what the sandbox is made of.
    async fn prepare(&self, image: Option<&Manifest>) -> Result<Prepared, Trouble> {
        let fence = &*self.fence;
        let set = match image {
            None => None,
            Some(manifest) => Some(self.shop.cache.layers(manifest, fence).await?),
        };
        let (mut files, mut kept) = (Vec::new(), Vec::new());
        for file in &self.assignment.recipe.sandbox.files {
            let form = if file.executable { Form::Executable } else { Form::Plain };
            let blob = self.shop.files.get(file.digest, form, fence).await?;
            files.push(Placed { source: blob.path().to_owned(), target: file.target.clone() });
            kept.push(blob);
        }
        let layers = set.as_ref().map(|set| set.folders().to_vec());
        let plan = recipe::plan(&self.assignment, layers, files, &self.shop.settings)?;
        Ok(Prepared { plan, keep: Arc::new((set, kept)) })
    }

    /// Starts the program in a worker if there is one, else in a new sandbox.
    fn start(
        &self,
        prepared: &Prepared,
        order: &Order,
        stdio: &[OwnedFd; 3],
        is_common: bool,
    ) -> Result<Worker, Trouble> {
        let gone = |error: sandbox::SandboxError| Trouble::Machine(error.to_string());
        if is_common && let Some(worker) = self.shop.workers.take(&prepared.plan, Some(&prepared.keep)) {
            worker.handle.start(order, stdio).map_err(gone)?;
            return Ok(worker);
        }
        let (handle, events) = self.shop.sandboxes.open();
        handle.run(&prepared.plan, order, stdio).map_err(gone)?;
        Ok(Worker { handle, events, wire: None })
    }

    /// Has another runtime run the program.
    fn contain(
        &self,
        runtime: &str,
        prepared: &Prepared,
        order: &Order,
        stdio: &[OwnedFd; 3],
    ) -> Result<Worker, Trouble> {
        let Held { execution, attempt } = self.fence.held;
        let id = format!("quarry-{execution}-{attempt}");
        let Some(bundle) = self.shop.runtimes.bundle(runtime, id, &prepared.plan, order) else {
            return Err(Trouble::Refused(format!("the runtime `{runtime}` is asked for, and this node has it not")));
        };
        let contained = self.shop.sandboxes.contain(&self.shop.settings.helper, &bundle, stdio);
        let (handle, events) = contained.map_err(|error| Trouble::Machine(whole(&error)))?;
        Ok(Worker { handle, events, wire: None })
    }

    /// Makes the program's standard streams, and our ends of them.
    async fn stdio(&self) -> Result<Stdio, Trouble> {
        let failed = |error: io::Error| Trouble::Machine(format!("pipes cannot be made: {error}"));
        let recipe = &self.assignment.recipe;
        let nothing = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        if recipe.sandbox.terminal.is_some() {
            let [a, b, c] = [nothing(), nothing(), nothing()].map(|fd| fd.map_err(|error| failed(error.into())));
            return Ok(Stdio { inside: [a?, b?, c?], outside: Outside { feed: None, sources: Vec::new() } });
        }
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()));
        let (out, out_inside) = pipe()?;
        let (err, err_inside) = pipe()?;
        let sources = vec![Source { stream: Stream::Output, fd: out }, Source { stream: Stream::Error, fd: err }];
        let (inside, feed) = match &recipe.input {
            Input::None => (nothing().map_err(|error| failed(error.into()))?, None),
            Input::Blob { digest } => {
                let blob = self.shop.files.get(*digest, Form::Plain, &*self.fence).await?;
                (std::fs::File::open(blob.path()).map_err(failed)?.into(), None)
            }
            Input::Text { .. } | Input::Stream => {
                let (inside, feed) = pipe()?;
                (inside, Some(feed))
            }
        };
        Ok(Stdio { inside: [inside, out_inside, err_inside], outside: Outside { feed, sources } })
    }

    /// Follows a sandbox to its end: output out, input in, and what the dispatcher wishes.
    async fn accompany(&mut self, begun: Worker, mut outside: Outside, output: &mut Output) -> Result<Ending, Trouble> {
        let Worker { handle, mut events, mut wire } = begun;
        let terminal = started(&handle, &mut events, &mut wire).await?;
        let rules = &self.assignment.recipe.sandbox.egress;
        let network = wire.map(|wire| Egress::start(wire, rules, &self.shop.networks)).transpose();
        // It lasts as long as the sandbox.
        let _network = network.map_err(|error| Trouble::Machine(whole(&error)))?;
        if let Some(terminal) = terminal {
            output.hurry();
            let copy = terminal.try_clone().map_err(|error| Trouble::Machine(error.to_string()))?;
            outside = Outside { feed: Some(copy), sources: vec![Source { stream: Stream::Output, fd: terminal }] };
        }
        let feeding = self.feed(handle.clone(), outside.feed);
        let written = output.written();
        let ended = CancellationToken::new();
        let mut following = Box::pin(output.follow(outside.sources, ended.clone()));
        tokio::pin!(feeding);
        let mut measure = tokio::time::interval_at(Instant::now() + meter::FIRST, meter::EVERY);
        measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut is_fed, mut is_read, mut is_stopping, mut is_measuring) = (false, false, false, false);
        let mut unfed = None;
        let ending = loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(Event::Ended { ending, .. }) => break *ending,
                    Some(Event::Failed { fault, .. }) => return Err(fault.into()),
                    Some(Event::Measured { usage, .. }) => {
                        is_measuring = false;
                        let usage = Usage { log_bytes: written.load(Ordering::Relaxed), ..usage };
                        self.shop.meters.put(self.fence.held, usage);
                    }
                    Some(Event::Built { .. } | Event::Started { .. }) => {}
                    None => return Err(Trouble::Machine("the spawner has gone".to_owned())),
                },
                () = wished(&mut self.wish, Wish::Cancel), if !is_stopping => {
                    is_stopping = true;
                    handle.stop(Stop::Gently);
                }
                _ = measure.tick(), if !is_measuring => {
                    is_measuring = handle.measure();
                }
                () = &mut following, if !is_read => is_read = true,
                fed = &mut feeding, if !is_fed => {
                    is_fed = true;
                    unfed = match fed {
                        Ok(Fed::Whole) => None,
                        Ok(Fed::Abandoned) => Some(format!("has ended: {}", self.abandoned())),
                        Err(trouble) => Some(format!("broke off: {}", trouble.cause())),
                    };
                }
            }
        };
        handle.ended();
        ended.cancel();
        if !is_read {
            following.as_mut().await;
        }
        drop(following);
        if let Some(why) = unfed {
            tracing::warn!(execution = %self.assignment.held.execution, why, "input was not passed on to its end");
            output.remark(&format!("[the program's input {why}]\n")).await;
        }
        Ok(ending)
    }

    fn abandoned(&self) -> String {
        let silence_max = self.shop.settings.input_silence;
        format!("whoever fed it gave no sign of life for {} s", silence_max.as_secs())
    }

    fn feed(&self, handle: Handle, to: Option<OwnedFd>) -> impl Future<Output = Result<Fed, Trouble>> + use<> {
        let (fence, input) = (Arc::clone(&self.fence), self.assignment.recipe.input.clone());
        let sort = if self.assignment.recipe.sandbox.terminal.is_some() { Sort::Terminal } else { Sort::Pipe };
        let silence_max = self.shop.settings.input_silence;
        async move {
            match (to, input) {
                (Some(to), Input::Text { text }) => input::pour(to, text.as_bytes())
                    .await
                    .map(|()| Fed::Whole)
                    .map_err(|error| Trouble::Machine(format!("standard input cannot be written: {error}"))),
                (Some(to), Input::Stream) => input::follow(fence, handle, (to, sort), silence_max).await,
                (None, _) | (Some(_), Input::None | Input::Blob { .. }) => Ok(Fed::Whole),
            }
        }
    }

    fn result(&self, ending: Ending) -> Product {
        let is_cancelled = *self.wish.borrow() == Wish::Cancel;
        let outcome = match ending.status {
            _ if ending.is_timed_out => Outcome::TimedOut,
            _ if ending.is_stopped && is_cancelled => Outcome::Cancelled,
            Status::Signalled(9) if ending.usage.oom_kills > 0 => Outcome::OutOfMemory,
            Status::Signalled(signal) => Outcome::Signalled { signal },
            Status::Exited(code) => Outcome::Exited { code },
        };
        Product { usage: ending.usage, core: ending.core, ..Product::bare(outcome) }
    }
}

/// What a sandbox is made of, and what must last as long as it.
struct Prepared {
    plan: Plan,
    keep: Keep,
}

struct Stdio {
    inside: [OwnedFd; 3],
    outside: Outside,
}

/// Our ends of a program's standard streams.
struct Outside {
    feed: Option<OwnedFd>,
    sources: Vec<Source>,
}

/// Says a step of the making of an image in one line, the same for all of its bytes but each tenth.
fn line(step: Step) -> String {
    match step {
        Step::Asking { host } => format!("asking registry `{host}`"),
        Step::Again { why, tried, tries } => format!("{why}; trying again, {} of {tries}", tried + 1),
        Step::Fetching { layer, layers, bytes, bytes_total } => {
            let tenths = bytes.saturating_mul(10).checked_div(bytes_total).unwrap_or(0).min(10);
            format!("layer {layer} of {layers}: {}% of {bytes_total} bytes", tenths * 10)
        }
        Step::Unpacking { layer, layers } => format!("layer {layer} of {layers}: unpacking"),
        Step::Storing { layer, layers } => format!("layer {layer} of {layers}: storing"),
    }
}

/// Waits until the program runs; returns its terminal, if it has one, and keeps its wire.
async fn started(
    handle: &Handle,
    events: &mut mpsc::Receiver<Event>,
    wire: &mut Option<OwnedFd>,
) -> Result<Option<OwnedFd>, Trouble> {
    loop {
        match events.recv().await {
            Some(Event::Started { terminal, .. }) => return Ok(terminal),
            Some(Event::Built { wire: built, .. }) => *wire = built.or(wire.take()),
            Some(Event::Measured { .. }) => {}
            Some(Event::Failed { fault, .. }) => {
                handle.ended();
                return Err(fault.into());
            }
            Some(Event::Ended { .. }) | None => return Err(Trouble::Machine("the sandbox has gone".to_owned())),
        }
    }
}

/// Waits until the dispatcher wishes `what`, or has itself gone, which means to abandon.
async fn wished(wish: &mut watch::Receiver<Wish>, what: Wish) {
    if wish.wait_for(|now| *now == what).await.is_err() && what != Wish::Abandon {
        std::future::pending::<()>().await;
    }
}
