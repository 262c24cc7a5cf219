//! Studies: an analyzer's look at a dump, as an execution; and what executions that have a dump beside them ask for.
//!
//! There is one study of a dump by a version, the last one. It counts as done only if it ended well, and only for the
//! content that it looked at. What a study asks to be noted is noted in the transaction that ends its execution, by whoever
//! asked for it; what was killed in the middle of asking is not heard.

use super::{edited, find, missing, script};
use crate::dump::{self, analysis};
use crate::error::StoreError;
use crate::execution::{self, ExecutionCreate, queued};
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Tx};
use jiff::Timestamp;
use model::analyzer::{Analyzer, AnalyzerIn, Asked, Beside, DumpIn, NewStudies, NewStudy, Studies, Study, StudyState};
use model::dump::query::Earnest;
use model::{
    Access, Class, Dump, DumpState, Execution, ExecutionId, Input, Limits, NewExecution, Origin, OriginKind, Outcome,
    Sandbox, Shape, TenantId,
};
use std::sync::Arc;

/// The program that an analyzer's study is.
const COMMAND: &str = "thoth_analyze";
/// What a study may write.
const LOG_BYTES: u64 = 4 << 20;

statements! {
    GET = "SELECT digest, execution, state FROM study WHERE tenant = $1 AND dump = $2 AND analyzer = $3 AND version = $4";
    PUT = "INSERT INTO study (tenant, dump, analyzer, version, digest, execution, state) \
           VALUES ($1, $2, $3, $4, $5, $6, 'running') \
           ON CONFLICT (tenant, dump, analyzer, version) DO UPDATE SET \
           digest = excluded.digest, execution = excluded.execution, state = 'running', ended_at = NULL";
    END = "UPDATE study SET state = $1, ended_at = $2 \
           WHERE tenant = $3 AND dump = $4 AND analyzer = $5 AND version = $6 AND execution = $7 RETURNING execution";
}

/// How a study is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    /// Whether one that is done is done again.
    pub(super) again: bool,
    /// Whether it is only tried.
    pub(super) earnest: Earnest,
}

/// Begins the study of a dump, unless there is one; returns it, and its execution if that is new.
pub(super) async fn begin(
    tx: &Tx<'_>,
    analyzer: &Analyzer,
    (new, manner): (NewStudy, Manner),
    (by, at): (&str, Timestamp),
) -> Result<(Study, Option<Arc<Execution>>), StoreError> {
    let tenant = analyzer.tenant;
    let told = |state, execution| (Study { dump: new.dump, state, execution }, None);
    let dump = dump::get(tx, new.dump).await?.filter(|dump| dump.tenant == tenant);
    let Some(dump) = dump.filter(|dump| dump.manifest.is_some() && dump.state != DumpState::Purged) else {
        return Ok(told(StudyState::Absent, None));
    };
    let key = [tenant.into(), dump.id.into(), analyzer.name.as_str().into(), analyzer.version.into()];
    if let Some(row) = tx.row(GET, &key).await? {
        let (digest, id, state) = (row.parsed(0)?, row.parsed::<ExecutionId>(1)?, row.text(2)?);
        let is_current = dump.digest == digest;
        // The same request a second time.
        if state == "running" && is_current && (id == new.id || is_alive(tx, id).await?) {
            return Ok(told(StudyState::Running, Some(id)));
        }
        if is_current && state == "done" && (!manner.again || id == new.id) {
            return Ok(told(StudyState::Done, Some(id)));
        }
    }
    if manner.earnest == Earnest::Dry {
        return Ok(told(StudyState::Begun, None));
    }
    let execution = execution(analyzer, &dump, new.id, (by, at));
    let shape = Shape::of(&execution.recipe, execution.origin.kind, None);
    let (execution, is_new) = ExecutionCreate::of(execution, &shape).run(tx).await?;
    // Of a request that comes again the execution may have failed meanwhile: its study stays as it ended.
    if is_new {
        let [tenant, id, name, version] = key;
        tx.execute(PUT, &[tenant, id, name, version, dump.digest.into(), new.id.into()]).await?;
    }
    let study = Study { dump: dump.id, state: StudyState::Begun, execution: Some(new.id) };
    Ok((study, is_new.then_some(execution)))
}

async fn is_alive(tx: &Tx<'_>, id: ExecutionId) -> Result<bool, StoreError> {
    Ok(execution::get(tx, id).await?.is_some_and(|execution| !execution.state.is_final()))
}

/// Returns the execution that a study is. It leaves no core: a dump that breaks what looks at it must not make another.
fn execution(analyzer: &Analyzer, dump: &Dump, id: ExecutionId, (by, at): (&str, Timestamp)) -> Execution {
    let Analyzer { name, version, limits, .. } = analyzer;
    let script = AnalyzerIn { name: name.clone(), version: *version, access: Access::ReadOnly };
    let beside = DumpIn { id: dump.id, access: Access::ReadWrite, analyzer: Some(script) };
    let new = NewExecution {
        id,
        lane: None,
        class: Class::Batch,
        image: None,
        command: vec![COMMAND.to_owned()],
        env: std::collections::BTreeMap::new(),
        input: Input::None,
        limits: Limits {
            memory_bytes: limits.memory_bytes,
            wall_ms: limits.wall_ms,
            log_bytes: LOG_BYTES,
            core_bytes: 0,
            ..Limits::default()
        },
        sandbox: Sandbox { dump: Some(beside), ..Sandbox::default() },
    };
    let origin = Origin { kind: OriginKind::Analyzer, id: Some(format!("{name}@{version}")) };
    queued(&new, dump.tenant, origin, by, at)
}

/// Returns what a node is told of the dump beside an execution; nothing, if it is not there any more.
pub(crate) async fn beside(tx: &Tx<'_>, of: &Execution) -> Result<Option<Box<Beside>>, StoreError> {
    let Some(DumpIn { id, analyzer, .. }) = &of.recipe.sandbox.dump else { return Ok(None) };
    let Some(dump) = dump::get(tx, *id).await?.filter(|dump| dump.tenant == of.tenant) else { return Ok(None) };
    let script = match analyzer {
        Some(AnalyzerIn { name, version, .. }) => script(tx, of.tenant, name, *version).await?,
        None => None,
    };
    let order = analysis::order_of(tx, &dump).await?;
    Ok(Some(Box::new(Beside { order, dump, script })))
}

/// Records how an execution with a dump beside it ended, and does what it asked for.
pub(crate) async fn finish(
    tx: &Tx<'_>,
    of: &Execution,
    asked: Option<&Asked>,
    at: Timestamp,
) -> Result<(), StoreError> {
    let Some(beside) = &of.recipe.sandbox.dump else { return Ok(()) };
    let asked = asked.filter(|_| matches!(of.outcome, Some(Outcome::Exited { .. })));
    let noted = asked.filter(|asked| beside.access == Access::ReadWrite && asked.change.check().is_ok());
    let found = match noted {
        Some(_) => dump::get(tx, beside.id).await?.filter(|dump| dump.tenant == of.tenant),
        None => None,
    };
    let dump = match found {
        Some(found) => Some(dump::locked(tx, found.id).await?),
        None => None,
    };
    // What others noted meanwhile may leave no room: then it has not done what it was there for.
    let fits = noted.zip(dump.as_ref()).is_none_or(|(asked, dump)| asked.change.apply(&dump.properties).is_ok());
    let fits = fits && !asked.is_some_and(|asked| asked.is_cut);
    let is_well = fits && matches!(of.outcome, Some(Outcome::Exited { code: 0 }));
    if of.origin.kind == OriginKind::Analyzer {
        let Some(AnalyzerIn { name, version, .. }) = &beside.analyzer else { return Ok(()) };
        let state = if is_well { "done" } else { "failed" };
        let values = [
            state.into(),
            at.into(),
            of.tenant.into(),
            beside.id.into(),
            name.as_str().into(),
            (*version).into(),
            of.id.into(),
        ];
        // Another study took its place, or the analyzer was removed: what it says does not count.
        if tx.write(END, &values).await?.is_empty() {
            return Ok(());
        }
    }
    let Some(asked) = asked else { return Ok(()) };
    let who = (of.by.as_str(), at);
    if let Some((noted, dump)) = noted.zip(dump) {
        match dump::noted(tx, &dump, &noted.change, who).await {
            // What would be too much for a dump is refused before anything of it is written.
            Err(error) if error.is_failure() => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    match (&beside.analyzer, asked.script) {
        (Some(analyzer), Some(script)) if is_well && analyzer.access == Access::ReadWrite => {
            edited(tx, (of.tenant, &analyzer.name), script, who).await
        }
        _ => Ok(()),
    }
}

/// Begins studies of some dumps by one analyzer.
struct StudiesBegin {
    name: String,
    new: NewStudies,
    tenant: TenantId,
    by: String,
    at: Timestamp,
}

impl Operation for StudiesBegin {
    type Answer = (Studies, Vec<Arc<Execution>>);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let mut analyzer = find(tx, self.tenant, &self.name).await?.ok_or_else(|| missing(&self.name))?;
        if let Some(version) = self.new.version {
            let no_such = || missing(&format!("{}@{version}", self.name));
            script(tx, self.tenant, &self.name, version).await?.ok_or_else(no_such)?;
            analyzer.version = version;
        }
        let manner = Manner { again: self.new.again, earnest: self.new.earnest };
        let (mut studies, mut begun) = (Vec::new(), Vec::new());
        for new in &self.new.studies {
            let (study, execution) = begin(tx, &analyzer, (*new, manner), (&self.by, self.at)).await?;
            studies.push(study);
            begun.extend(execution);
        }
        Ok((Studies { version: analyzer.version, studies }, begun))
    }
}

impl Store {
    /// Begins studies of some dumps by one analyzer; returns how each stands, and the executions that are new.
    pub async fn studies_begin(
        &self,
        name: &str,
        new: NewStudies,
        tenant: TenantId,
        (by, at): (&str, Timestamp),
    ) -> Result<(Studies, Vec<Arc<Execution>>), StoreError> {
        let earnest = new.earnest;
        let begin = StudiesBegin { name: name.to_owned(), new, tenant, by: by.to_owned(), at };
        match earnest {
            Earnest::Real => self.write(begin).await,
            Earnest::Dry => self.read(begin).await,
        }
    }
}
