//! The core that an execution left: cut into frames, sent for its tenant, and named in what is reported of its end.

use super::Attempt;
use crate::output::Output;
use crate::parcel::{Fenced, ParcelError, send};
use client::blob::Content as BlobContent;
use dump::parcel::split_file_by;
use model::dump::{DumpFacts, MAX_WORD_CHARS};
use model::{DumpId, NewDump};
use sandbox::Core;

impl Attempt {
    /// Sends a core; if that fails the execution still ends as it ended, and its log says why there is no dump.
    pub(super) async fn keep_core(&self, core: Core, output: &mut Output) -> Option<NewDump> {
        let bytes = core.bytes;
        match self.send_core(core).await {
            Ok(dump) => Some(dump),
            Err(error) => {
                let cause = super::trouble::whole(&error);
                tracing::warn!(execution = %self.fence.held.execution, cause, "a core cannot be stored");
                output.remark(&format!("[the core of {bytes} bytes could not be stored: {cause}]\n")).await;
                None
            }
        }
    }

    async fn send_core(&self, core: Core) -> Result<NewDump, ParcelError> {
        let depot = Fenced { client: self.fence.client.clone(), fence: self.fence.show() };
        let Core { file, pid, program, is_truncated, .. } = core;
        let rules = self.shop.settings.redaction.clone();
        let (split, _) = send(&depot, move |sink| split_file_by(&file, rules.as_deref(), sink), &|_| ()).await?;
        let (manifest, _) = self.fence.store(BlobContent::Bytes(split.manifest.encode().into())).await?;
        // The program's name is its own word.
        let program: String = program.chars().filter(|one| !one.is_control()).take(MAX_WORD_CHARS / 2).collect();
        Ok(NewDump {
            id: client::id::fresh(DumpId::new),
            hash: split.hash(),
            manifest,
            kind: split.head.kind(),
            is_truncated: is_truncated || split.is_truncated(),
            name: format!("core.{program}.{pid}"),
            facts: DumpFacts {
                cmd: Some(program).filter(|program| !program.is_empty()),
                pid: u32::try_from(pid).ok(),
                node: Some(self.shop.settings.name.clone()),
                ..DumpFacts::default()
            },
            execution: Some(self.fence.held.execution),
            redaction: split.redaction,
            packs: Vec::new(),
        })
    }
}
