//! Files of this side that are to be sent: what can be read again is; a pipe is read once, from when somebody writes.

use crate::exit::{Exit, Failure};
use crate::session::Session;
use anyhow::Context;
use std::fs::FileType;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::fs::File;

/// How long a pipe may have nobody who writes before that is told.
const SOON: Duration = Duration::from_secs(1);

/// Opens what stands at a path if it is a pipe, whose content cannot be read twice.
pub(crate) async fn pipe(session: &Session, path: &Path) -> anyhow::Result<Option<File>> {
    let cannot = || format!("`{}` cannot be read", path.display());
    if !tokio::fs::metadata(path).await.with_context(cannot)?.file_type().is_fifo() {
        return Ok(None);
    }
    Ok(Some(open(session, path).await.with_context(cannot)?))
}

/// Opens a file; a pipe opens when somebody writes into it, which is told if it lasts.
pub(crate) async fn open(session: &Session, path: &Path) -> io::Result<File> {
    let mut opening = pin!(File::open(path));
    match tokio::time::timeout(SOON, &mut opening).await {
        Ok(opened) => opened,
        Err(_) => {
            session.output.say(&format!("waiting until somebody writes into `{}`", path.display()));
            opening.await
        }
    }
}

/// Refuses what a sandbox cannot be given.
pub(crate) async fn check(path: &Path) -> anyhow::Result<()> {
    let cannot = || format!("`{}` cannot be read", path.display());
    let kind: FileType = tokio::fs::metadata(path).await.with_context(cannot)?.file_type();
    let refuse = |why| Failure::new(Exit::Failed, "not_a_file", format!("`{}` {why}", path.display()));
    if kind.is_dir() {
        let hint = "pack it as a tar; a folder of the node is seen by `--mount`";
        return Err(refuse("is a folder").hint(hint).into());
    }
    if kind.is_file() || kind.is_fifo() { Ok(()) } else { Err(refuse("is neither a file nor a pipe").into()) }
}
