//! What to run and how, from words on the command line; `run` and `execution create` share them.
//!
//! A limit that is named is demanded: where a node cannot enforce it, the execution does not run there.

use crate::exit::Failure;
use crate::quantity;
use ::node::egress::Egress;
use anyhow::Context;
use clap::Args;
use jiff::SignedDuration;
use model::{Access, Class, ExecutionId, Input, LimitSet, Limits, Mount, Network, NewExecution, Sandbox};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of a file of variables; what is longer would not fit into an execution anyway.
const MAX_ENV_FILE_BYTES: u64 = 64 << 10;

/// What to run it in, and with what.
#[derive(Args)]
pub(crate) struct RecipeArgs {
    /// The image to run in; none means the node's own files, read-only
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// The lane to keep its turn in: at most one execution of a lane runs at a time
    #[arg(long)]
    lane: Option<String>,
    /// Who is served first: human, event or batch
    #[arg(long, default_value = "human", value_parser = class)]
    class: Class,
    /// A variable added to its environment
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A file of variables, `NAME=VALUE` on each line; `#` begins a comment
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Memory it may use, such as `512M`
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    memory: Option<u64>,
    /// Cores it may use, such as `2` or `0.5`
    #[arg(long, value_name = "CORES", value_parser = quantity::cpu_milli)]
    cpus: Option<u32>,
    /// Processes and threads it may have
    #[arg(long, value_name = "N")]
    pids: Option<u32>,
    /// Time it may take, such as `30s`
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    time: Option<SignedDuration>,
    /// Files of its own that it may write, such as `256M`
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    disk: Option<u64>,
    /// How much of what it prints is kept, `16M` if nothing is said and `1G` at most; beyond that it goes on unheard
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    log_bytes: Option<u64>,
    /// Bytes a second from and to storage, each way, such as `10M`
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    io: Option<u64>,
    /// What it may reach: none, egress (what --allow names) or host (all that the node reaches)
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    net: Option<Network>,
    /// Whom it may reach, outwards: `host`, `host:port`, `*.domain:port` or `address/bits:port`; means `--net egress`
    #[arg(long, value_name = "WHOM", value_delimiter = ',', value_parser = rule)]
    allow: Vec<String>,
    /// A folder or file of the node to see in the sandbox; the node must offer it
    #[arg(long, value_name = "SOURCE:TARGET[:ro|rw]", value_parser = mount)]
    mount: Vec<Mount>,
    /// The folder to begin in
    #[arg(long, value_name = "FOLDER")]
    cwd: Option<String>,
    /// Who to be inside: `USER` or `USER:GROUP`, by name or number
    #[arg(long)]
    user: Option<String>,
    /// What goes before the command in place of the image's own; several times for several words, empty for nothing
    #[arg(long, value_name = "WORD")]
    entrypoint: Vec<String>,
    /// A label that the node must have
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    label: Vec<(String, String)>,
    /// Another OCI runtime than Quarry's own, by the name under which nodes offer it
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// Let processes inside trace each other, as debuggers do
    #[arg(long)]
    ptrace: bool,
}

/// Reads a class's word.
pub(crate) fn class(text: &str) -> Result<Class, String> {
    let found = Class::ALL.into_iter().find(|class| super::class_text(*class) == text);
    found.ok_or_else(|| "it is none of: human, event, batch".to_owned())
}

/// Reads `NAME=VALUE`.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not of the form `NAME=VALUE`")),
    }
}

fn network(text: &str) -> Result<Network, String> {
    let found = [Network::None, Network::Egress, Network::Host].into_iter().find(|network| network.as_str() == text);
    found.ok_or_else(|| "it is none of: none, egress, host".to_owned())
}

/// Reads a rule as a node will; a mistake in it shall not be found there.
fn rule(text: &str) -> Result<String, String> {
    match Egress::check(&[text.to_owned()]) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)),
    }
}

fn mount(text: &str) -> Result<Mount, String> {
    let (paths, access) = match text.rsplit_once(':') {
        Some((paths, "ro")) => (Some(paths), Access::ReadOnly),
        Some((paths, "rw")) => (Some(paths), Access::ReadWrite),
        _ => (None, Access::ReadOnly),
    };
    match paths.unwrap_or(text).split_once(':') {
        Some((source, target)) if source.starts_with('/') && target.starts_with('/') => {
            // A target may hold a colon, but a word behind one that says nothing of access is a mistake in it.
            if paths.is_none()
                && let Some((_, last)) = target.rsplit_once(':')
            {
                return Err(format!("`{last}` is neither `ro` nor `rw`"));
            }
            Ok(Mount { source: source.to_owned(), target: target.to_owned(), access })
        }
        _ => {
            Err(format!("`{text}` is not of the form `/SOURCE:/TARGET`, `/SOURCE:/TARGET:ro` or `/SOURCE:/TARGET:rw`"))
        }
    }
}

impl RecipeArgs {
    /// Makes the request for an execution of this command; it reads nothing yet.
    pub(crate) fn request(self, command: Vec<String>) -> anyhow::Result<NewExecution> {
        let limits = self.limits()?;
        let mut env = BTreeMap::new();
        for file in &self.env_file {
            env.extend(variables(file)?);
        }
        env.extend(self.env);
        let reach = if self.allow.is_empty() { Network::None } else { Network::Egress };
        let entrypoint = (!self.entrypoint.is_empty())
            .then(|| self.entrypoint.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>());
        let sandbox = Sandbox {
            cwd: self.cwd,
            user: self.user,
            entrypoint,
            network: self.net.unwrap_or(reach),
            egress: self.allow,
            mounts: self.mount,
            ptrace: self.ptrace,
            runtime: self.runtime,
            labels: self.label.into_iter().collect(),
            ..Sandbox::default()
        };
        Ok(NewExecution {
            id: client::id::fresh(ExecutionId::new),
            lane: self.lane,
            class: self.class,
            image: self.image,
            command,
            env,
            input: Input::None,
            limits,
            sandbox,
        })
    }

    fn limits(&self) -> Result<Limits, Failure> {
        let usual = Limits::default();
        let wall_ms = match self.time {
            None => usual.wall_ms,
            Some(time) => u64::try_from(time.as_millis())
                .map_err(|_| Failure::usage("usage", "`--time` is too long").hint("such as `--time 30s`"))?,
        };
        Ok(Limits {
            memory_bytes: self.memory.unwrap_or(usual.memory_bytes),
            cpu_milli: self.cpus.unwrap_or(usual.cpu_milli),
            pids: self.pids.unwrap_or(usual.pids),
            wall_ms,
            log_bytes: self.log_bytes.unwrap_or(usual.log_bytes),
            disk_bytes: self.disk.unwrap_or(usual.disk_bytes),
            io_bytes_second: self.io.unwrap_or(usual.io_bytes_second),
            demand: LimitSet {
                memory: self.memory.is_some(),
                cpu: self.cpus.is_some(),
                pids: self.pids.is_some(),
                io: self.io.is_some_and(|bytes| bytes > 0),
            },
            ..usual
        })
    }
}

/// Reads a file of variables.
fn variables(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let cannot = || format!("`{}` cannot be read", path.display());
    let file = std::fs::File::open(path).with_context(cannot)?;
    let mut text = String::new();
    file.take(MAX_ENV_FILE_BYTES + 1).read_to_string(&mut text).with_context(cannot)?;
    if text.len() as u64 > MAX_ENV_FILE_BYTES {
        let message = format!("`{}` has more than {MAX_ENV_FILE_BYTES} bytes", path.display());
        return Err(Failure::usage("usage", message).into());
    }
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let read = |(index, line): (usize, &str)| {
        let refuse = |why| Failure::usage("usage", format!("line {} of `{}`: {why}", index + 1, path.display()));
        variable(line).map_err(refuse)
    };
    Ok(lines.map(read).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let check = |text: &str, expected: Option<(&str, &str, Access)>| {
            let found = mount(text).ok();
            let found = found.as_ref().map(|mount| (mount.source.as_str(), mount.target.as_str(), mount.access));
            assert_eq!(found, expected, "{text}");
        };
        check("/data:/in", Some(("/data", "/in", Access::ReadOnly)));
        check("/data:/in:ro", Some(("/data", "/in", Access::ReadOnly)));
        check("/data:/in:rw", Some(("/data", "/in", Access::ReadWrite)));
        check("/data:/in:x:ro", Some(("/data", "/in:x", Access::ReadOnly)));
        for bad in ["", "/data", "data:/in", "/data:in", ":", "/data:rw", "/data:/in:", "/data:/in:/more"] {
            check(bad, None);
        }
        assert_eq!(mount("/data:/in:wr").expect_err("is a typo"), "`wr` is neither `ro` nor `rw`");
    }

    #[test]
    fn a_file_of_variables_is_read_and_its_mistake_named_by_line() {
        let file = tempfile::NamedTempFile::new().expect("is made");
        std::fs::write(file.path(), "# comment\nA=1\n\n  B=x=y  \n").expect("is written");
        let found = variables(file.path()).expect("is read");
        assert_eq!(found, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x=y".to_owned())]);
        std::fs::write(file.path(), "A=1\nB\n").expect("is written");
        let error = variables(file.path()).expect_err("is refused").to_string();
        assert!(error.starts_with("line 2 of"), "{error}");
    }
}
