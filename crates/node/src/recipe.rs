//! From a recipe to a plan and an order: what its user wants, what its image says, and what this node allows.

use crate::attempt::Trouble;
use crate::settings::Settings;
use model::image::{ImageConfig, Manifest};
use model::limits::{MAX_COMMAND_WORDS, MAX_ROW_BYTES};
use model::node::Assignment;
use model::{Network, Recipe};
use sandbox::{Bind, Order, Place, Plan, Root};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where programs are looked for unless somebody says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Who a program is inside, over the machine's own files: nobody in particular.
const HOST_USER: &str = "1000:1000";
/// Who it is where there is but one id inside, which is that of the node itself.
const ONLY_USER: &str = "0:0";
/// Where it begins then, and its home.
const HOST_FOLDER: &str = "/tmp";

/// Bytes of a word besides its own where an order is written.
const WORD_BYTES: usize = 3;

/// A file that a recipe brings along, as it lies in the cache.
pub(crate) struct Placed {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
}

/// Draws the plan of the sandbox that an assignment needs.
pub(crate) fn plan(
    assignment: &Assignment,
    layers: Option<Vec<PathBuf>>,
    files: Vec<Placed>,
    settings: &Settings,
) -> Result<Plan, Trouble> {
    let recipe = &assignment.recipe;
    if recipe.sandbox.network == Network::Host && !settings.host_network {
        return Err(Trouble::Refused("this node does not give its own network to executions".to_owned()));
    }
    let mut binds = recipe.sandbox.mounts.iter().map(|mount| bind(mount, settings)).collect::<Result<Vec<_>, _>>()?;
    binds.extend(files.into_iter().map(|file| Bind {
        source: file.source,
        target: file.target.into(),
        access: model::Access::ReadOnly,
    }));
    Ok(Plan {
        file_capabilities: layers.is_some(),
        root: layers.map_or(Root::Host, Root::Layers),
        binds,
        hostname: "sandbox".to_owned(),
        network: recipe.sandbox.network,
        limits: recipe.limits,
        ptrace: recipe.sandbox.ptrace,
        terminal: recipe.sandbox.terminal.is_some(),
    })
}

fn bind(mount: &model::Mount, settings: &Settings) -> Result<Bind, Trouble> {
    let refuse = |why: String| Trouble::Refused(format!("mount of `{}`: {why}", mount.source));
    // Resolved before it is compared: a link inside an offered folder must not lead out of it.
    let source = std::fs::canonicalize(&mount.source).map_err(|error| refuse(error.to_string()))?;
    if !settings.mounts.iter().any(|allowed| allowed.covers(&source, mount.access)) {
        let offered = settings.mounts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(refuse(if offered.is_empty() {
            "this node offers no folder (hint: start it with `--allow-mount PATH:ro`)".to_owned()
        } else {
            format!("this node offers only {offered}")
        }));
    }
    Ok(Bind { source, target: PathBuf::from(&mount.target), access: mount.access })
}

/// Returns who a program is inside, over the machine's own files, unless somebody says otherwise.
pub(crate) fn host_user(settings: &Settings) -> &'static str {
    match settings.place() {
        Place::Range { .. } => HOST_USER,
        Place::Own => ONLY_USER,
    }
}

/// Writes the order for the program that a recipe names, or that its image does.
pub(crate) fn order(
    assignment: &Assignment,
    manifest: Option<&Manifest>,
    settings: &Settings,
) -> Result<Order, Trouble> {
    let recipe = &assignment.recipe;
    let none = ImageConfig::default();
    let config = manifest.map_or(&none, |manifest| &manifest.config);
    let command = command(recipe, config);
    if command.is_empty() {
        return Err(Trouble::Refused("neither the execution nor its image names a command".to_owned()));
    }
    let sandbox = &recipe.sandbox;
    let in_image = manifest.is_some();
    let user = sandbox.user.clone().or_else(|| config.user.clone()).filter(|user| !user.is_empty());
    let folder = sandbox.cwd.clone().or_else(|| config.cwd.clone()).filter(|cwd| cwd.starts_with('/'));
    let order = Order {
        env: env(assignment, config, in_image),
        cwd: folder.unwrap_or_else(|| if in_image { "/" } else { HOST_FOLDER }.to_owned()),
        user: user.unwrap_or_else(|| if in_image { "0:0" } else { host_user(settings) }.to_owned()),
        window: sandbox.terminal.map(|window| (window.rows, window.columns)),
        command,
    };
    let words = order.command.len();
    let bytes: usize = order.command.iter().map(|word| word.len() + WORD_BYTES).sum::<usize>()
        + order.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if words > 2 * MAX_COMMAND_WORDS || bytes > 8 * MAX_ROW_BYTES {
        return Err(Trouble::Refused("the command and environment of the image and execution are too long".to_owned()));
    }
    Ok(order)
}

/// An entrypoint goes first; a command of the execution's own takes the place of the image's.
fn command(recipe: &Recipe, config: &ImageConfig) -> Vec<String> {
    let entrypoint = recipe.sandbox.entrypoint.as_ref();
    let mut words = entrypoint.unwrap_or(&config.entrypoint).clone();
    if !recipe.command.is_empty() {
        words.extend_from_slice(&recipe.command);
    } else if entrypoint.is_none() {
        words.extend_from_slice(&config.cmd);
    }
    words
}

fn env(assignment: &Assignment, config: &ImageConfig, in_image: bool) -> Vec<(String, String)> {
    let recipe = &assignment.recipe;
    let mut env: BTreeMap<&str, String> = [("PATH", PATH.to_owned())].into();
    if !in_image {
        // In an image it is what is written down there for the user, which only the sandbox can look up.
        env.insert("HOME", HOST_FOLDER.to_owned());
    }
    if recipe.sandbox.terminal.is_some() {
        env.insert("TERM", "xterm-256color".to_owned());
    }
    let own = [
        ("QUARRY_EXECUTION", assignment.held.execution.to_string()),
        ("QUARRY_ATTEMPT", assignment.held.attempt.to_string()),
    ];
    env.extend(config.env.iter().chain(&recipe.env).map(|(name, value)| (name.as_str(), value.clone())));
    env.extend(own);
    env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
