//! Cores of executions on their way in: the node stored their parcels and manifests (`fence.rs`), and the sync that tells
//! of an execution's end names them. Nothing is unpacked here.

use crate::app::App;
use crate::caller::Caller;
use crate::dump;
use crate::error::{Answer, Failure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use model::dump::check_size;
use model::node::{Finished, Held};
use model::parcel::Manifest;
use model::{ApiError, Blob, ErrorKind, NewDump, SessionId, TenantId};
use std::collections::BTreeMap;
use std::time::Duration;
use store::{DumpLeft, StoreError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout_at};

/// Dumps that are looked at at once.
const LOOKS: usize = 4;
/// How long to wait before a manifest is read again that could not be read for the moment.
const PAUSE: Duration = Duration::from_millis(200);

/// Looks at the dumps that executions left by the word of a node's sync. One that cannot be had is none: its execution has
/// ended all the same. What the database cannot say for the moment fails the sync, which comes again. Blobs are waited for
/// until then and no longer: a sync that fails renews no lease, and all that the node holds would end for one dump.
pub(crate) async fn left(
    app: &App,
    caller: &Caller,
    (session, finished): (SessionId, &[Finished]),
    until: Instant,
) -> Answer<BTreeMap<Held, DumpLeft>> {
    let mut looks = Vec::new();
    for finished in finished {
        if let Some(new) = &finished.dump {
            looks.push(left_by(app, caller, (session, finished.held), new, until));
        }
    }
    let left: Vec<_> = stream::iter(looks).buffer_unordered(LOOKS).try_collect().await?;
    Ok(left.into_iter().flatten().collect())
}

async fn left_by(
    app: &App,
    caller: &Caller,
    (session, held): (SessionId, Held),
    new: &NewDump,
    until: Instant,
) -> Answer<Option<(Held, DumpLeft)>> {
    let tenant = match app.store.fence_check(held, session, caller.owner()).await {
        Ok(tenant) => tenant,
        // Whoever does not hold it any more hears so of the sync itself.
        Err(StoreError::Stale { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match look(app, new, tenant, until).await {
        Ok(left) => Ok(Some((held, left))),
        Err(failure) if is_passing(&failure) => Err(failure),
        Err(failure) => {
            let (execution, manifest, error) = (held.execution, new.manifest, failure.to_string());
            tracing::warn!(%execution, %manifest, error, "the dump of an execution is none");
            Ok(None)
        }
    }
}

fn is_passing(failure: &Failure) -> bool {
    matches!(failure.kind(), ErrorKind::Internal | ErrorKind::Unavailable)
}

async fn look(app: &App, new: &NewDump, tenant: TenantId, until: Instant) -> Result<DumpLeft, Failure> {
    new.check()?;
    let blob = dump::manifest_blob(app, new, tenant).await?;
    let (manifest, _room) = read_manifest(app, blob, until).await?;
    check_size(manifest.size)?;
    let parcels = app.store.frame_parcels(&manifest.frames, tenant).await?;
    Ok(DumpLeft { new: new.clone(), digest: manifest.digest, size: manifest.size, parcels })
}

/// Reads a manifest, again and again while the place of the blobs does not answer.
async fn read_manifest(app: &App, blob: Blob, until: Instant) -> Result<(Manifest, OwnedSemaphorePermit), Failure> {
    let unreadable = |why: &str| ApiError::new(ErrorKind::Gone, "manifest_unreadable", why).into();
    loop {
        match timeout_at(until, dump::read_manifest(app, blob)).await {
            Ok(Err(failure)) if failure.kind() == ErrorKind::Unavailable && Instant::now() + PAUSE < until => {
                sleep(PAUSE).await;
            }
            Ok(Err(failure)) if is_passing(&failure) => return Err(unreadable(failure.cause())),
            Ok(read) => return read,
            Err(_) => return Err(unreadable("it could not be read in time")),
        }
    }
}
