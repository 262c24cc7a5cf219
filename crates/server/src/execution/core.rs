//! Cores of executions on their way in: the node stored their parcels and manifests (`fence.rs`), and the sync that tells
//! of an execution's end names them. Nothing is unpacked here.

use crate::app::App;
use crate::caller::Caller;
use crate::dump;
use crate::error::{Answer, Failure};
use model::dump::check_size;
use model::node::{Finished, Held};
use model::{ErrorKind, NewDump, SessionId, TenantId};
use std::collections::BTreeMap;
use store::{DumpLeft, StoreError};

/// Looks at the dumps that executions left by the word of a node's sync. One that cannot be had is none: its execution has
/// ended all the same. What fails for the moment fails the sync, which comes again.
pub(crate) async fn left(
    app: &App,
    caller: &Caller,
    session: SessionId,
    finished: &[Finished],
) -> Answer<BTreeMap<Held, DumpLeft>> {
    let mut dumps = BTreeMap::new();
    for finished in finished {
        let (Some(new), held) = (&finished.dump, finished.held) else { continue };
        let tenant = match app.store.fence_check(held, session, caller.owner()).await {
            Ok(tenant) => tenant,
            // Whoever does not hold it any more hears so of the sync itself.
            Err(StoreError::Stale { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        match look(app, new, tenant).await {
            Ok(left) => drop(dumps.insert(held, left)),
            Err(failure) if matches!(failure.kind(), ErrorKind::Internal | ErrorKind::Unavailable) => {
                return Err(failure);
            }
            Err(failure) => {
                let error = failure.to_string();
                tracing::warn!(execution = %held.execution, error, "the dump of an execution is none");
            }
        }
    }
    Ok(dumps)
}

async fn look(app: &App, new: &NewDump, tenant: TenantId) -> Result<DumpLeft, Failure> {
    new.check()?;
    let manifest = dump::read_manifest(app, new, tenant).await?;
    check_size(manifest.size)?;
    let parcels = app.store.frame_parcels(&manifest.frames, tenant).await?;
    Ok(DumpLeft { new: new.clone(), digest: manifest.digest, size: manifest.size, parcels })
}
