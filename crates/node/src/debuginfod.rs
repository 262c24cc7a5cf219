//! Files of modules and of their debug information from debuginfod servers, by build id, kept in a folder.
//!
//! Which servers are asked is the operator's word, and so is which of them may have an address that is not public; a
//! redirect is followed only to where a request could have been sent in the first place. Every size, count and time has a
//! bound. What comes is foreign: it is kept if it begins as an ELF file does, never opened here, and proved by its build id
//! where it is used. The folder is laid out as `Places::by_build_id` of the `dump` crate reads it: `ab/cdef….elf` is a
//! module, `ab/cdef….debug` what was stripped off it. Beyond its budget what was used least recently goes.

use crate::image::{AllowedRegistry, Reach, Registries};
use futures_util::StreamExt;
use model::pack::check_build_id;
use reqwest::header::LOCATION;
use reqwest::{Client, Response, StatusCode, Url};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW};
use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Servers that are asked, one after the other.
const MAX_SERVERS: usize = 8;
/// Redirects of one request.
const MAX_REDIRECTS: usize = 3;
/// How long a connection may take to come about.
const MAX_CONNECT: Duration = Duration::from_secs(5);
/// How long no byte may come; a server may have to unpack a whole archive first.
const MAX_STALL: Duration = Duration::from_secs(60);
/// How long it is remembered that nobody had a file.
const MISSING: Duration = Duration::from_secs(600);
/// Files of which that is remembered.
const MAX_MISSING: usize = 16_384;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The module itself.
    Module,
    /// What was stripped off it.
    Debug,
}

impl Part {
    const fn word(self) -> &'static str {
        match self {
            Self::Module => "executable",
            Self::Debug => "debuginfo",
        }
    }

    pub(crate) const fn ending(self) -> &'static str {
        match self {
            Self::Module => "elf",
            Self::Debug => "debug",
        }
    }
}

/// The servers that an operator names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// Their addresses, in the order in which they are asked.
    pub urls: Vec<String>,
    /// Hosts that are reached whatever their address is.
    pub allowed: Vec<AllowedRegistry>,
}

/// Whom to ask, and how much may come.
#[derive(Clone, Debug)]
pub struct DebuginfodSettings {
    /// The servers, in the order in which they are asked.
    pub servers: Vec<String>,
    /// Those that are reached whatever their address is.
    pub allowed: Vec<AllowedRegistry>,
    /// Where files are kept.
    pub folder: PathBuf,
    /// Bytes of one file.
    pub file_bytes_max: u64,
    /// Bytes of all files that are kept.
    pub budget_bytes: u64,
    /// How long one file may take.
    pub time_max: Duration,
}

impl DebuginfodSettings {
    /// Returns settings with the usual bounds, for servers and a folder.
    pub fn new(servers: Vec<String>, allowed: Vec<AllowedRegistry>, folder: PathBuf) -> Self {
        let time_max = Duration::from_secs(300);
        Self { servers, allowed, folder, file_bytes_max: 2 << 30, budget_bytes: 20 << 30, time_max }
    }
}

/// Why a file cannot be had, besides that nobody has it.
#[derive(Debug, thiserror::Error)]
pub enum DebuginfodError {
    /// What was asked for is no build id.
    #[error("`{0}` is no build id")]
    BuildId(String),
    /// A server is not named by an address that can be asked.
    #[error("`{0}` is not the address of a debuginfod server, such as `https://debuginfod.example.org`")]
    Address(String),
    /// There are too many.
    #[error("{0} debuginfod servers are named; at most {MAX_SERVERS} are asked")]
    TooMany(usize),
    /// No server had it, and one could not be asked.
    #[error("debuginfod server `{server}` gave nothing: {cause}")]
    Server {
        /// Which one.
        server: String,
        /// Why.
        cause: String,
    },
    /// It cannot be kept.
    #[error("a file from a debuginfod server cannot be kept")]
    Keep(#[from] io::Error),
}

/// Debuginfod servers, and what came from them.
#[derive(Debug)]
pub struct Debuginfod {
    settings: DebuginfodSettings,
    servers: Vec<Url>,
    missing: Mutex<HashMap<(String, Part), Instant>>,
}

impl Debuginfod {
    /// Makes the folder, and looks at the servers' addresses.
    pub fn open(settings: DebuginfodSettings) -> Result<Self, DebuginfodError> {
        if settings.servers.len() > MAX_SERVERS {
            return Err(DebuginfodError::TooMany(settings.servers.len()));
        }
        let parse = |text: &String| {
            let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            let is_plain = |url: &Url| url.username().is_empty() && url.password().is_none() && url.query().is_none();
            url.filter(is_plain).ok_or_else(|| DebuginfodError::Address(text.clone()))
        };
        let servers = settings.servers.iter().map(parse).collect::<Result<_, _>>()?;
        fs::create_dir_all(&settings.folder)?;
        Ok(Self { settings, servers, missing: Mutex::default() })
    }

    /// Returns where files are kept.
    pub fn folder(&self) -> &Path {
        &self.settings.folder
    }

    /// Returns where a file stands, which is fetched if it is not there; nothing if no server has it.
    pub async fn fetch(&self, build_id: &str, part: Part) -> Result<Option<PathBuf>, DebuginfodError> {
        check_build_id(build_id).map_err(|_| DebuginfodError::BuildId(build_id.to_owned()))?;
        let (folder, stem) = build_id.split_at(2);
        let path = self.settings.folder.join(folder).join(format!("{stem}.{}", part.ending()));
        if let Ok(file) = fs::File::open(&path) {
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            // Whoever cannot note that it was used lets it go sooner.
            let _ = rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now });
            return Ok(Some(path));
        }
        let key = (build_id.to_owned(), part);
        let until = self.missing.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        if until.is_some_and(|until| Instant::now() < until) {
            return Ok(None);
        }
        let mut failed = None;
        for server in &self.servers {
            let fetched = tokio::time::timeout(self.settings.time_max, self.fetch_from(server, &key, &path)).await;
            let seconds = self.settings.time_max.as_secs();
            match fetched.unwrap_or_else(|_| Err(Fault::Server(format!("it took longer than {seconds} seconds")))) {
                Ok(true) => return Ok(Some(path)),
                Ok(false) => {}
                Err(Fault::Keep(error)) => return Err(error.into()),
                Err(Fault::Server(cause)) => {
                    failed = Some(DebuginfodError::Server { server: server.to_string(), cause });
                }
            }
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.len() >= MAX_MISSING {
            missing.clear();
        }
        missing.insert(key, Instant::now() + MISSING);
        Ok(None)
    }

    async fn fetch_from(&self, server: &Url, (id, part): &(String, Part), path: &Path) -> Result<bool, Fault> {
        let Some(response) = self.ask(server, &format!("buildid/{id}/{}", part.word())).await? else {
            return Ok(false);
        };
        let bytes_max = self.settings.file_bytes_max;
        let too_long = || Fault::Server(format!("the file is longer than {bytes_max} bytes"));
        if response.content_length().is_some_and(|length| length > bytes_max) {
            return Err(too_long());
        }
        let mut draft = Draft::begin(path)?;
        let (mut begins, mut length, mut body) = (Vec::<u8>::new(), 0_u64, response.bytes_stream());
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| Fault::Server(error.to_string()))?;
            begins.extend(piece.iter().take(4_usize.saturating_sub(begins.len())));
            length += piece.len() as u64;
            if length > bytes_max {
                return Err(too_long());
            }
            draft.file.write_all(&piece)?;
        }
        if begins != b"\x7fELF" {
            return Err(Fault::Server("what it sent is not an ELF file".to_owned()));
        }
        self.make_room(length)?;
        draft.keep()?;
        Ok(true)
    }

    /// Asks a server, going where it leads; nothing if it does not have it.
    async fn ask(&self, server: &Url, path: &str) -> Result<Option<Response>, Fault> {
        let registries = Registries { allowed: self.settings.allowed.clone(), ..Registries::default() };
        let reach = Reach::new(&registries);
        // Whoever was first has said which one; there is only one to choose from.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .dns_resolver(reach.resolver())
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(MAX_CONNECT)
            .read_timeout(MAX_STALL)
            .user_agent("quarry")
            .build()
            .map_err(|error| Fault::Server(error.to_string()))?;
        let base = server.as_str().trim_end_matches('/');
        let mut url = Url::parse(&format!("{base}/{path}")).map_err(|error| Fault::Server(error.to_string()))?;
        for _ in 0..=MAX_REDIRECTS {
            reach.admit(&url, base).await.map_err(|error| Fault::Server(told(&error)))?;
            let sent = client.get(url.clone()).send().await;
            let response = sent.map_err(|error| Fault::Server(told(&error)))?;
            match response.status() {
                StatusCode::OK => return Ok(Some(response)),
                StatusCode::NOT_FOUND => return Ok(None),
                status if status.is_redirection() => {
                    let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
                    let next = to.and_then(|to| url.join(to).ok());
                    let next = next.filter(|next| matches!(next.scheme(), "http" | "https"));
                    // Never from a protected connection to an open one.
                    let next = next.filter(|next| url.scheme() == "http" || next.scheme() == "https");
                    url = next.ok_or_else(|| Fault::Server("it leads nowhere".to_owned()))?;
                }
                status => return Err(Fault::Server(format!("it says {status}"))),
            }
        }
        Err(Fault::Server(format!("it leads on more than {MAX_REDIRECTS} times")))
    }

    /// Removes what was used least recently, until there is room.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for folder in fs::read_dir(&self.settings.folder)?.flatten() {
            for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                let is_draft = file.file_name().to_string_lossy().contains(".new.");
                if let Some(metadata) = file.metadata().ok().filter(|metadata| metadata.is_file() && !is_draft) {
                    files.push((metadata.modified()?, metadata.len(), file.path()));
                }
            }
        }
        files.sort();
        let mut used = files.iter().map(|(_, length, _)| length).sum::<u64>();
        for (_, length, path) in files {
            if used.saturating_add(bytes) <= self.settings.budget_bytes {
                break;
            }
            fs::remove_file(path)?;
            used -= length;
        }
        Ok(())
    }
}

/// Why one server gave nothing.
enum Fault {
    Server(String),
    Keep(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Keep(error)
    }
}

/// Returns an error with what caused it.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
}

/// A file on its way, which vanishes unless it is kept.
struct Draft {
    file: fs::File,
    draft: PathBuf,
    path: PathBuf,
}

impl Draft {
    fn begin(path: &Path) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let draft = path.with_added_extension(format!("new.{:016x}", u64::from_le_bytes(random)));
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        Ok(Self { file: fs::File::create_new(&draft)?, draft, path: path.to_owned() })
    }

    fn keep(&mut self) -> io::Result<()> {
        fs::rename(&self.draft, &self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Once it has been kept it is not there any more.
        let _ = fs::remove_file(&self.draft);
    }
}
