//! The whole of the command line: reads it, runs the command, reports how it ended.
//!
//! Every command gets a `Session` and returns an `Exit` or an error; only this file turns either into an exit code.
//! Commands that ask a server end at once on Ctrl-C; a server, and what
//! stands for a program, have their own way to stop.

use crate::connection::Global;
use crate::exit::{self, Exit, Failure, Told};
use crate::output::{Colour, Output};
use crate::session::Session;
use crate::thoth::Thoth;
use crate::{
    blob, change, collect, completion, config, doctor, dump, execution, image, log, login, migrate, node, registry,
    run, serve,
};
use crate::{ps, signature, tenant, thoth, token, top, up, user};
use clap::error::ErrorKind;
use clap::{ArgMatches, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs programs nobody trusts, and keeps, explains and hunts down every crash they leave.
#[derive(Parser)]
#[command(
    name = "quarry",
    version,
    propagate_version = false,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "Example:
  quarry up --data ./quarry-data --token-file ./token
  quarry login http://localhost:8080 --token-file ./token
  quarry run -- echo hello
  quarry changes -f

Exit codes: 0 ok, 1 the thing failed, 2 not found, 3 conflict or not allowed, 4 server unreachable, 64 usage")]
pub(crate) struct Quarry {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(up::Up),
    Serve(serve::Serve),
    Migrate(migrate::Migrate),
    Doctor(doctor::Doctor),
    #[command(subcommand)]
    Config(config::Config),
    Login(login::Login),
    #[command(subcommand)]
    Token(token::Token),
    #[command(subcommand)]
    User(user::User),
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    Run(run::Run),
    Ps(ps::Ps),
    Top(top::Top),
    Changes(change::Changes),
    #[command(subcommand)]
    Execution(execution::Execution),
    Node(Box<node::Node>),
    #[command(subcommand)]
    Image(image::Image),
    #[command(subcommand)]
    Registry(registry::Registry),
    #[command(subcommand)]
    Dump(dump::Dump),
    Collect(collect::Collect),
    #[command(subcommand)]
    Signature(signature::Signature),
    #[command(subcommand)]
    Blob(blob::Blob),
    #[command(subcommand)]
    Log(log::Log),
    Completion(completion::Completion),
    /// Tries what `doctor` asks about, in a process of its own.
    #[command(hide = true)]
    Probe(doctor::probe::Probe),
}

/// Reads the command line, runs it, and returns the exit code.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    if thoth::is_called(args.first().map(OsString::as_os_str)) {
        return run_as_thoth(args);
    }
    let quarry = match parse(args) {
        Ok(quarry) => quarry,
        Err(error) => return refuse(&error, args).into(),
    };
    let Quarry { global, command } = quarry;
    if let Command::Probe(probe) = &command {
        // Before there is a second thread: a process with several may not enter a user namespace.
        return probe.run().into();
    }
    let output = Output::new(&global);
    conclude(command, Session { global, output }).into()
}

/// Reads and runs a command line of Thoth's.
fn run_as_thoth(args: &[OsString]) -> ExitCode {
    let ended = match matches(Thoth::command(), args).and_then(|matches| Thoth::from_arg_matches(&matches)) {
        Ok(Thoth { global, verb }) => {
            let output = Output::new(&global).speaking_as(thoth::NAME);
            conclude(Command::Dump(verb), Session { global, output })
        }
        Err(error) => refuse(&error, args),
    };
    thoth::exit(ended).into()
}

/// Runs a command to its end, and reports how that was.
fn conclude(command: Command, mut session: Session) -> Exit {
    let ended = execute(command, &mut session).and_then(|exit| match session.output.flush() {
        // That nobody reads any more is no news to a command that has ended because of it.
        Err(error) if exit != Exit::Ok && error.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit),
        flushed => Ok(flushed.map(|()| exit)?),
    });
    ended.unwrap_or_else(|error| session.report(&error))
}

fn execute(command: Command, session: &mut Session) -> anyhow::Result<Exit> {
    if matches!(&command, Command::Up(_) | Command::Serve(_))
        || matches!(&command, Command::Node(node) if node.is_role())
    {
        ::node::be_prompt();
        ::node::raise_open_files();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        match command {
            Command::Up(up) => up.run(session).await,
            Command::Serve(serve) => serve.run(session).await,
            Command::Run(run) => run.run(session).await,
            Command::Dump(dump) if dump.is_program() => dump.run(session).await,
            Command::Image(image) if image.is_made() => image.run(session).await,
            Command::Node(node) if node.is_role() => node.run(session).await,
            other => tokio::select! {
                ended = ask(other, session) => ended,
                pressed = tokio::signal::ctrl_c() => { pressed?; Ok(Exit::Interrupted) }
            },
        }
    });
    // A read of standard input cannot be taken back; nobody waits for it.
    runtime.shutdown_background();
    ended
}

async fn ask(command: Command, session: &mut Session) -> anyhow::Result<Exit> {
    match command {
        Command::Migrate(migrate) => migrate.run(session).await,
        Command::Doctor(doctor) => doctor.run(session).await,
        Command::Config(config) => config.run(session),
        Command::Login(login) => login.run(session).await,
        Command::Token(token) => token.run(session).await,
        Command::User(user) => user.run(session).await,
        Command::Tenant(tenant) => tenant.run(session).await,
        Command::Ps(ps) => ps.run(session).await,
        Command::Top(top) => top.run(session).await,
        Command::Changes(changes) => changes.run(session).await,
        Command::Execution(execution) => execution.run(session).await,
        Command::Node(node) => node.run(session).await,
        Command::Image(image) => image.run(session).await,
        Command::Registry(registry) => registry.run(session).await,
        Command::Dump(dump) => dump.run(session).await,
        Command::Signature(signature) => signature.run(session).await,
        Command::Collect(collect) => collect.run(session).await,
        Command::Blob(blob) => blob.run(session).await,
        Command::Log(log) => log.run(session).await,
        Command::Completion(completion) => completion.run(session, Quarry::command()),
        Command::Up(_) | Command::Serve(_) | Command::Run(_) | Command::Probe(_) => {
            unreachable!("these were taken out before")
        }
    }
}

fn choice(args: &[OsString]) -> ColorChoice {
    match Colour::spoken(args) {
        Colour::Auto => ColorChoice::Auto,
        Colour::Always => ColorChoice::Always,
        Colour::Never => ColorChoice::Never,
    }
}

fn parse(args: &[OsString]) -> Result<Quarry, clap::Error> {
    Quarry::from_arg_matches(&matches(Quarry::command(), args)?)
}

/// Reads a command line; what is wrong with it is told without what the environment says, which nobody wrote there.
fn matches(command: clap::Command, args: &[OsString]) -> Result<ArgMatches, clap::Error> {
    let command = command.color(choice(args));
    command.clone().try_get_matches_from(args).map_err(|error| match error.kind() {
        // Help tells of the environment.
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::DisplayVersion => {
            error
        }
        _ => deaf(command).try_get_matches_from(args).err().unwrap_or(error),
    })
}

/// Makes a command that does not look at the environment.
fn deaf(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.env(None::<&'static str>)).mut_subcommands(deaf)
}

/// Shows the help that was asked for, or what is wrong with the command line.
fn refuse(error: &clap::Error, args: &[OsString]) -> Exit {
    let is_json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked || !is_json {
        // A closed pipe is no reason to complain.
        let _ = error.print();
        return if asked { Exit::Ok } else { Exit::Usage };
    }
    let text = error.render().to_string();
    let (message, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let message = message.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
    let failure = Failure::usage("usage", message);
    let hint = rest.lines().map(str::trim).find(|line| line.starts_with("tip:") || line.starts_with("Usage:"));
    let failure = if let Some(hint) = hint { failure.hint(hint) } else { failure };
    exit::write_json(&Told::from(&failure));
    Exit::Usage
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(command: &mut clap::Command, path: &str, seen: &mut Vec<String>) {
        let help = command.render_long_help().to_string();
        assert!(help.contains("\nExample:\n  quarry "), "{path} shows no example:\n{help}");
        assert!(command.get_about().is_some(), "{path} says nothing about itself");
        for argument in command.get_arguments() {
            let id = argument.get_id();
            assert!(argument.get_help().is_some() || id == "help", "{path} does not explain `{id}`");
        }
        seen.push(path.to_owned());
        for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
            visit(sub, &format!("{path} {}", sub.get_name().to_owned()), seen);
        }
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        let mut command = Quarry::command();
        command.build();
        let mut seen = Vec::new();
        visit(&mut command, "quarry", &mut seen);
        assert!(seen.len() > 40, "{seen:?}");
    }

    #[test]
    fn the_examples_are_commands() {
        fn examples(command: &clap::Command) -> Vec<String> {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines = help.lines().filter_map(|line| line.strip_prefix("  quarry ")).map(str::to_owned);
            lines.chain(command.get_subcommands().flat_map(examples)).collect()
        }
        for example in examples(&Quarry::command()) {
            let simple = example.split([';', '|', '>', '<']).next().expect("a split has a first part");
            let words = simple.split_whitespace().map(|word| word.trim_matches(['\'', '"']));
            let parsed = Quarry::try_parse_from(std::iter::once("quarry").chain(words));
            assert!(parsed.is_ok(), "{example}: {}", parsed.err().expect("is an error"));
        }
    }
}
