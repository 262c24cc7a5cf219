//! `quarry completion`: scripts by which shells complete this program's words.

use crate::exit::Exit;
use crate::session::Session;
use clap::{Args, Command};
use clap_complete::Shell;

/// Prints the script by which a shell completes commands and options
#[derive(Args)]
#[command(after_help = "Example:
  quarry completion bash > ~/.local/share/bash-completion/completions/quarry
  quarry completion zsh > ~/.zfunc/_quarry
  quarry completion fish > ~/.config/fish/completions/quarry.fish")]
pub(crate) struct Completion {
    /// For which shell
    shell: Shell,
}

impl Completion {
    /// Runs the command.
    pub(crate) fn run(&self, session: &mut Session, mut command: Command) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "quarry", &mut script);
        session.output.bytes(&script)?;
        Ok(Exit::Ok)
    }
}
