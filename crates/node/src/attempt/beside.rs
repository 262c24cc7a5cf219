//! A dump beside an execution: its file, what is known of it, an analyzer, and the commands by which something is asked.
//!
//! ```text
//! /run/quarry/dump/NAME      the dump, read-only, kept on the node as long as there is room
//! /run/quarry/files, layers  what the program that died had brought along, and the layers of its image
//! /run/quarry/analyzer       the analyzer
//! /run/quarry/thoth/         info.json, bin (thoth_set and the others), more (json), and the pipes `ask` and `lack`
//! /run/quarry/modules        packs and what debuginfod servers gave, once a debugger has asked for it (`errand.rs`)
//! ```
//! What is asked comes through the pipe and is read here while the program runs, up to a bound; nothing that it says is
//! trusted, and it needs no network, no credential and no place on the node's disk. The server does what is asked when it
//! hears of the execution's end.

use super::analysis::Sources;
use super::errand::{ANSWERS, Errands};
use super::modules::{FILES, Fetcher, PACKS, Reader, Shelf};
use super::{Attempt, Trouble};
use crate::files::{FileError, Form, Kept};
use crate::image::{BlobFault, Blobs};
use crate::output::Output;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::blob::Content as BlobContent;
use model::analysis::DumpOrder;
use model::analyzer::{Asked, Beside, DumpIn, MAX_ASKED_BYTES};
use model::dump::DumpChange;
use model::dump::known::Known;
use model::node::Work;
use model::{Access, Digest};
use rustix::fs::{CWD, FileType, Mode};
use sandbox::{Bind, Order};
use serde_json::{Value, json};
use std::any::Any;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Where all of it is seen.
const INSIDE: &str = "/run/quarry";
/// The commands, all of them in one file.
const TOOLS: &str = include_str!("tools.sh");
/// What the commands are called, and where: what is in `more` gives way to the machine's own.
const NAMES: [(&str, &[&str]); 2] = [
    ("bin", &["thoth_set", "thoth_unset", "thoth_ticket", "thoth_unticket", "thoth_analyze", "thoth_shell", "debug"]),
    ("more", &["json"]),
];
/// Where an analyzer is edited.
const EDITED: &str = "/tmp";
/// Characters of a dump's name that are kept as they are.
const MAX_FILE_NAME: usize = 128;

/// What an execution sees of a dump, and how it is heard.
pub(super) struct Ground {
    pub(super) binds: Vec<Bind>,
    pub(super) ear: Ear,
    pub(super) errands: Errands,
    /// Variables for the environment.
    env: Vec<(&'static str, String)>,
    /// Whether the files can be read by the superuser of the inside alone.
    has_image: bool,
    pub(super) keep: Vec<Box<dyn Any + Send + Sync>>,
}

/// What is read from the pipe.
pub(super) struct Ear {
    pipe: pipe::Receiver,
    heard: Vec<u8>,
    is_full: bool,
}

/// The content of a dump, where blobs are fetched.
struct Content<'a> {
    attempt: &'a Attempt,
    order: &'a DumpOrder,
    /// Why it could not be had, in our own words.
    trouble: Mutex<Option<Trouble>>,
}

impl Blobs for Content<'_> {
    async fn store(&self, _: Digest, _: u64, _: &Path) -> Result<(), BlobFault> {
        Err("a dump is not stored so".into())
    }

    async fn fetch(&self, _: Digest, file: &Path) -> Result<(), BlobFault> {
        let Err(trouble) = self.attempt.fetch_dump(self.order, file).await else { return Ok(()) };
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
        Err("it could not be put together".into())
    }
}

impl Attempt {
    /// Fetches all that is to be beside this execution; nothing, if it has no dump beside it.
    pub(super) async fn beside(&self, told: Option<&Beside>, output: &mut Output) -> Result<Option<Ground>, Trouble> {
        let Some(dump_in) = &self.assignment.recipe.sandbox.dump else { return Ok(None) };
        let Some(told) = told else {
            return Err(Trouble::Refused(format!("the dump `{}` is not there any more", dump_in.id)));
        };
        let machine = |error: io::Error| Trouble::Machine(format!("no room for what is beside a dump: {error}"));
        let dump = self.dump_file(&told.order).await?;
        let scratch = self.scratch().map_err(machine)?;
        lay_tools(scratch.path(), told).map_err(machine)?;
        let program = fs::canonicalize(&self.shop.settings.helper)
            .map_err(|error| Trouble::Machine(format!("our own program is not there any more: {error}")))?;
        let name = file_name(&told.dump.name);
        let shelf = Shelf::new(&self.shop.settings, Reader::Debugger).map_err(machine)?;
        let mut binds = vec![
            bind(dump.path().to_owned(), &format!("dump/{name}")),
            bind(scratch.path().to_owned(), "thoth"),
            bind(program, "program"),
            bind(shelf.path().to_owned(), "modules"),
        ];
        let Sources { binds: of_files, roots, mut keep } = self.sources(&told.order, output).await;
        binds.extend(of_files);
        if let Some(script) = self.script(dump_in, told).await? {
            binds.push(bind(script.path().to_owned(), "analyzer"));
            keep.push(Box::new(script));
        }
        let debug: Vec<_> = roots.iter().map(|root| root.join("usr/lib/debug")).collect();
        let modules = Path::new(INSIDE).join("modules");
        let (files, packs) = (modules.join(FILES), modules.join(PACKS));
        let places = json!({ "roots": roots, "debug": debug, "by_build_id": [files], "packs": [packs] }).to_string();
        let env = variables(dump_in, told, &name, places);
        let ear = Ear::open(&scratch.path().join("ask")).map_err(machine)?;
        let errands = Errands::open(&scratch.path().join("lack"), Fetcher::new(self), shelf).map_err(machine)?;
        keep.push(Box::new((dump, scratch)));
        Ok(Some(Ground { binds, ear, errands, env, has_image: told.order.image.is_some(), keep }))
    }

    /// Returns a dump's file, which stays on the node as long as there is room.
    async fn dump_file(&self, order: &DumpOrder) -> Result<Arc<Kept>, Trouble> {
        let gone = || Trouble::Refused("the dump cannot be had: its content was dropped".to_owned());
        let digest = order.manifest.ok_or_else(gone)?;
        let content = Content { attempt: self, order, trouble: Mutex::new(None) };
        match self.shop.files.get(digest, Form::Dump, &content).await {
            Ok(kept) => Ok(kept),
            Err(error) => {
                let trouble = content.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(trouble.unwrap_or_else(|| error.into()))
            }
        }
    }

    async fn script(&self, dump_in: &DumpIn, told: &Beside) -> Result<Option<Arc<Kept>>, Trouble> {
        let Some(analyzer) = &dump_in.analyzer else { return Ok(None) };
        let gone = || {
            let name = &analyzer.name;
            Trouble::Refused(format!("version {} of the analyzer `{name}` is not there any more", analyzer.version))
        };
        let digest = told.script.ok_or_else(gone)?;
        let kept: Result<_, FileError> = self.shop.files.get(digest, Form::Executable, &*self.fence).await;
        Ok(Some(kept?))
    }

    /// Returns what was asked for, and stores what an analyzer was edited to; says what cannot be done.
    pub(super) async fn asked(&self, ear: Ear, output: &mut Output) -> Option<Asked> {
        let Some(dump_in) = &self.assignment.recipe.sandbox.dump else { return None };
        let (heard, is_full) = ear.end();
        if heard.is_empty() {
            return None;
        }
        if is_full {
            let words = format!("[what it asked for has more than {MAX_ASKED_BYTES} bytes, and is not heard]\n");
            output.remark(&words).await;
            return Some(Asked { is_cut: true, ..Asked::default() });
        }
        let there = match &self.assignment.work {
            Work::Run { dump: Some(beside), .. } => beside.dump.properties.clone(),
            _ => BTreeMap::new(),
        };
        let Wanted { change, script, refused } = understand(&heard, &there);
        let is_cut = !refused.is_empty();
        for why in refused {
            output.remark(&format!("[{why}]\n")).await;
        }
        let mut asked = Asked { change, script: None, is_cut };
        if dump_in.access == Access::ReadOnly && asked.change != DumpChange::default() {
            output.remark("[nothing is noted on the dump, which is only there to be read]\n").await;
            asked.change = DumpChange::default();
        }
        let is_edited = dump_in.analyzer.as_ref().is_some_and(|analyzer| analyzer.access == Access::ReadWrite);
        if let Some(script) = script.filter(|_| is_edited) {
            match self.fence.store(BlobContent::Bytes(script.into())).await {
                Ok((digest, _)) => asked.script = Some(digest),
                Err(error) => output.remark(&format!("[the analyzer could not be stored: {error}]\n")).await,
            }
        }
        (asked != Asked::default()).then_some(asked)
    }
}

impl Ground {
    /// Tells a program where everything is.
    pub(super) fn guide(&self, order: &mut Order, has_user: bool) {
        for (name, value) in &self.env {
            order.env.retain(|(other, _)| other != name);
            order.env.push(((*name).to_owned(), value.clone()));
        }
        if let Some((_, path)) = order.env.iter_mut().find(|(name, _)| name == "PATH") {
            *path = format!("{INSIDE}/thoth/bin:{path}:{INSIDE}/thoth/more");
        }
        // What an image keeps from others is kept from its own dumps no more than from its own programs.
        if self.has_image && !has_user {
            "0:0".clone_into(&mut order.user);
        }
    }
}

impl Ear {
    /// Opens a pipe from both sides: whoever writes is never refused, and nobody's going ends it.
    fn open(path: &Path) -> io::Result<Self> {
        let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(path)?;
        Ok(Self { pipe, heard: Vec::new(), is_full: false })
    }

    /// Listens until nobody waits for this any more. What is too much is read all the same, so that no writer waits.
    pub(super) async fn listen(&mut self) -> io::Result<Infallible> {
        let mut piece = vec![0; 16 << 10];
        loop {
            let count = self.pipe.read(&mut piece).await?;
            self.take(&piece[..count]);
        }
    }

    fn take(&mut self, piece: &[u8]) {
        self.is_full |= self.heard.len() + piece.len() > MAX_ASKED_BYTES;
        if !self.is_full {
            self.heard.extend_from_slice(piece);
        }
    }

    /// Reads what is left once nobody writes any more.
    fn end(mut self) -> (Vec<u8>, bool) {
        let mut piece = vec![0; 16 << 10];
        while let Ok(count) = self.pipe.try_read(&mut piece) {
            if count == 0 {
                break;
            }
            let read = piece[..count].to_vec();
            self.take(&read);
        }
        (self.heard, self.is_full)
    }
}

fn bind(source: PathBuf, inner: &str) -> Bind {
    Bind { source, target: Path::new(INSIDE).join(inner), access: Access::ReadOnly }
}

/// Returns a dump's name as a file's: it is its uploader's word.
fn file_name(name: &str) -> String {
    let good = |one: char| if one.is_ascii_alphanumeric() || "-_.+".contains(one) { one } else { '_' };
    let name: String = name.chars().take(MAX_FILE_NAME).map(good).collect();
    if name.trim_matches('.').is_empty() { "dump".to_owned() } else { name }
}

/// Fills the folder that is seen beside the dump. It belongs to the node, and nobody inside may change anything there.
fn lay_tools(folder: &Path, told: &Beside) -> io::Result<()> {
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    fs::create_dir(folder)?;
    open(folder, 0o755)?;
    for (inner, names) in NAMES {
        let inner = folder.join(inner);
        fs::create_dir(&inner)?;
        open(&inner, 0o755)?;
        for name in names {
            fs::write(inner.join(name), TOOLS)?;
            open(&inner.join(name), 0o555)?;
        }
    }
    let info = serde_json::to_vec_pretty(&Known::from(&told.dump)).map_err(io::Error::other)?;
    fs::write(folder.join("info.json"), info)?;
    open(&folder.join("info.json"), 0o444)?;
    for pipe in ["ask", "lack"] {
        let pipe = folder.join(pipe);
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o622), 0)?;
        open(&pipe, 0o622)?;
    }
    Ok(())
}

fn variables(dump_in: &DumpIn, told: &Beside, name: &str, places: String) -> Vec<(&'static str, String)> {
    let dump = format!("{INSIDE}/dump/{name}");
    let mut env = vec![
        ("THOTH_DUMP", dump.clone()),
        ("MANTA_INPUT_FILE", dump),
        ("THOTH_INFO", format!("{INSIDE}/thoth/info.json")),
        ("THOTH_TYPE", told.dump.type_word().to_owned()),
        ("THOTH_NAME", told.dump.hash.clone()),
        ("THOTH_TMPDIR", EDITED.to_owned()),
        ("QUARRY_ASK", format!("{INSIDE}/thoth/ask")),
        ("QUARRY_LACK", format!("{INSIDE}/thoth/lack")),
        ("QUARRY_ANSWERS", format!("{INSIDE}/modules/{ANSWERS}")),
        ("QUARRY_PROGRAM", format!("{INSIDE}/program")),
        ("QUARRY_PLACES", places),
    ];
    if let Some(analyzer) = &dump_in.analyzer {
        let there = format!("{INSIDE}/analyzer");
        let edited = format!("{EDITED}/{}", analyzer.name);
        let is_edited = analyzer.access == Access::ReadWrite;
        env.push(("THOTH_ANALYZER", if is_edited { edited } else { there.clone() }));
        env.push(("THOTH_ANALYZER_NAME", analyzer.name.clone()));
        env.push(("QUARRY_ANALYZER", there));
    }
    env
}

/// What somebody wants, as far as it can be understood.
#[derive(Debug, Default, PartialEq)]
struct Wanted {
    change: DumpChange,
    script: Option<Vec<u8>>,
    refused: Vec<String>,
}

/// Reads words about a dump that has these properties, each word with a NUL behind it; what was asked last counts.
fn understand(heard: &[u8], there: &BTreeMap<String, Value>) -> Wanted {
    let mut wanted = Wanted::default();
    let text = String::from_utf8_lossy(heard.strip_suffix(b"\0").unwrap_or(heard));
    let mut words = text.split('\0');
    while let Some(verb) = words.next() {
        let mut next = || words.next().unwrap_or_default().to_owned();
        let before = wanted.change.clone();
        match verb {
            "set" => {
                let (name, value) = (next(), next());
                let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
                if value.is_null() {
                    wanted.refused.push(format!("`{name}` was not set: null is no value (hint: thoth_unset)"));
                    continue;
                }
                wanted.change.properties.insert(bare(&name), value);
            }
            "unset" => drop(wanted.change.properties.insert(bare(&next()), Value::Null)),
            "ticket" => wanted.change.ticket = Some(Some(next())),
            "unticket" => wanted.change.ticket = Some(None),
            "analyzer" => {
                let packed: String = next().split_whitespace().collect();
                wanted.script = STANDARD.decode(packed).ok();
            }
            _ => {
                wanted.refused.push("something was asked for that is not understood".to_owned());
                return wanted;
            }
        }
        let applied = wanted.change.check().and_then(|()| wanted.change.apply(there));
        if let Err(error) = applied {
            wanted.refused.push(error.message);
            wanted.change = before;
        }
    }
    wanted
}

/// Returns a property's name, which may have been written as in a specification.
fn bare(name: &str) -> String {
    name.strip_prefix("properties.").unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::limits::MAX_ROW_BYTES;

    fn heard(words: &[&str]) -> Wanted {
        understand(
            &words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect::<Vec<_>>(),
            &BTreeMap::new(),
        )
    }

    #[test]
    fn what_is_asked_is_typed_as_set_is_and_the_last_word_counts() {
        let wanted = heard(&["set", "a", "1", "set", "properties.b", "plain text", "unset", "c", "ticket", "OS-1"]);
        let properties = json!({ "a": 1, "b": "plain text", "c": null });
        assert_eq!(serde_json::to_value(&wanted.change.properties).expect("is JSON"), properties);
        assert_eq!((wanted.change.ticket, wanted.refused), (Some(Some("OS-1".to_owned())), vec![]));
        assert_eq!(heard(&["ticket", "OS-1", "unticket"]).change.ticket, Some(None));
        assert_eq!(heard(&["set", "a", "1", "unset", "a"]).change.properties["a"], Value::Null);
        assert_eq!(heard(&["analyzer", "aGVs\nbG8="]).script.as_deref(), Some(&b"hello"[..]));
    }

    #[test]
    fn what_does_not_fit_beside_what_is_there_is_left_out_and_told() {
        let there = BTreeMap::from([("long".to_owned(), Value::String("x".repeat(MAX_ROW_BYTES - 100)))]);
        let words = ["set", "more", &"y".repeat(200), "set", "found", "yes", "ticket", "OS-78"];
        let heard: Vec<u8> = words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
        let wanted = understand(&heard, &there);
        assert_eq!((wanted.change.properties.len(), wanted.refused.len()), (1, 1), "{wanted:?}");
        assert_eq!(wanted.change.ticket, Some(Some("OS-78".to_owned())));
    }

    #[test]
    fn what_cannot_be_noted_is_left_out_and_told() {
        let long = "x".repeat(MAX_ROW_BYTES);
        for bad in
            [&["ticket", "a=b"][..], &["set", "", "1"], &["set", "a", &long], &["set", "a", "null"], &["rm", "-rf"]]
        {
            let wanted = heard(&[&["set", "good", "1"], bad].concat());
            assert_eq!((wanted.change.properties.len(), wanted.change.ticket), (1, None), "{bad:?}");
            assert_eq!(wanted.refused.len(), 1, "{bad:?}");
        }
        assert_eq!(understand(b"set", &BTreeMap::new()), heard(&["set"]));
        assert!(understand(&[0xff, 0, 0, 1, 0], &BTreeMap::new()).change == DumpChange::default());
    }

    #[test]
    fn names_stay_within_their_folder() {
        let cases = [("core.1", "core.1"), ("../../etc", ".._.._etc"), ("..", "dump"), ("", "dump"), ("a b\n", "a_b_")];
        for (name, expected) in cases {
            assert_eq!(file_name(name), expected);
        }
        assert_eq!(file_name(&"x".repeat(1_000)).len(), MAX_FILE_NAME);
    }
}
