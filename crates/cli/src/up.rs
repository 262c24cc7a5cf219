//! `quarry up`: a whole house in one process.

use crate::exit::Exit;
use crate::inside::InsideArgs;
use crate::server::ServerArgs;
use crate::session::Session;
use clap::Args;

/// Starts everything in one process: server, database, blobs and a node, in one folder
///
/// The first start makes an admin and shows a token once; --token-file keeps it as well. Ctrl-C or SIGTERM stops in
/// order, a second one at once.
#[derive(Args)]
#[command(after_help = "Example:
  quarry up
  quarry up --data /var/lib/quarry --listen 0.0.0.0:8080 --token-file /root/quarry-token
  quarry up --allow-registry localhost:5000
  quarry up --set log.format=json --set tls.certificate=cert.pem --set tls.key=key.pem")]
pub(crate) struct Up {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    inside: InsideArgs,
}

impl Up {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        self.server.run(Some(&self.inside), session).await
    }
}
