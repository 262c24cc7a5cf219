//! The stacks that some dumps are signed by: those of the dumps that a specification means, each with how many of these
//! have it. Rules are asked about them, to see what would move among just these dumps.

use super::condition::{Text, demands};
use super::query::{Plan, Selected};
use crate::error::StoreError;
use crate::signature::rules::read_stack;
use crate::statement::Engine;
use crate::store::Store;
use crate::transaction::{Operation, Tx};
use jiff::Timestamp;
use model::dump::spec::Specification;
use model::signature::SignedStack;
use model::{SignatureId, TenantId};

/// Dumps that are few enough to be looked for anew for each page: of more, those of the stacks of the page are gone through,
/// so that all pages together look at each dump once.
const FEW: u64 = if cfg!(debug_assertions) { 20 } else { 5_000 };

/// A question for a page of stacks.
#[derive(Clone, Debug)]
pub struct StacksAsked {
    /// Of which dumps; with a limit, of the newest of them.
    pub of: Specification,
    /// Whose.
    pub tenant: TenantId,
    /// Only of this signature's.
    pub signature: Option<SignatureId>,
    /// Behind which number the page begins.
    pub after: Option<i64>,
    /// How many stacks at most.
    pub limit: u32,
    /// When it is asked: ages count from here.
    pub now: Timestamp,
}

struct StacksFind(StacksAsked);

impl StacksFind {
    /// Appends the dumps that are meant, as `d`, and begins what else is demanded of them; returns the sign that keeps
    /// SQLite from another way to them.
    async fn write_dumps(&self, tx: &Tx<'_>, text: &mut Text, selected: &str) -> Result<&'static str, StoreError> {
        let StacksAsked { of, tenant, now, .. } = &self.0;
        let demands = demands(tx, of, (*tenant, *now)).await?;
        let is_sqlite = text.engine == Engine::Sqlite;
        let plus = |is_led| if is_sqlite && is_led { "+" } else { "" };
        let Some(limit) = of.limit else {
            let plan = Plan::all(tx, *tenant, demands.clone(), FEW).await?;
            // With nothing else to go by, the index of the stacks has them in their order.
            let plan = if plan.is_gathered { plan } else { Plan::led(*tenant, Vec::new(), demands) };
            let plus = plus(!plan.driver.is_empty());
            plan.write(text, Selected::Of(selected));
            return Ok(plus);
        };
        let plan = Plan::page(tx, *tenant, demands, limit).await?;
        let order = plus(plan.is_gathered);
        text.push("SELECT ").push(selected).push(" FROM (");
        plan.write(text, Selected::Of("d.id, d.signed"));
        text.push(&format!(" ORDER BY {order}d.time DESC, {order}d.id DESC LIMIT ")).bind(limit);
        text.push(") AS d WHERE true");
        Ok("")
    }
}

impl Operation for StacksFind {
    type Answer = (Vec<SignedStack>, u64);
    const ASKS: bool = true;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let head = crate::change::bounds(tx).await?.head;
        let StacksAsked { tenant, signature, after, limit, .. } = &self.0;
        let mut text = Text::new(tx);
        text.push("SELECT g.number, k.stack, g.id, g.rules, g.signature, m.dumps, m.example FROM (");
        let selected = "d.signed AS number, count(*) AS dumps, min(d.id) AS example";
        let plus = self.write_dumps(tx, &mut text, selected).await?;
        text.push(&format!(" AND {plus}d.signed > ")).bind(after.unwrap_or(i64::MIN));
        if let Some(signature) = signature {
            text.push(&format!(" AND {plus}d.signed IN (SELECT o.number FROM signing AS o WHERE o.tenant = "));
            text.bind(*tenant).push(" AND o.signature = ").bind(*signature).push(")");
        }
        text.push(&format!(" GROUP BY {plus}d.signed ORDER BY {plus}d.signed LIMIT ")).bind(*limit);
        text.push(") AS m JOIN signing AS g ON g.tenant = ").bind(*tenant).push(" AND g.number = m.number");
        text.push(" JOIN signed_stack AS k ON k.tenant = g.tenant AND k.number = g.number ORDER BY g.number");
        let rows = tx.ask(&text.sql, &text.values).await?;
        Ok((rows.iter().map(read_stack).collect::<Result<_, _>>()?, head))
    }
}

impl Store {
    /// Finds a page of the stacks that some dumps are signed by, with the log's head at that moment.
    pub async fn signed_stacks_find(&self, asked: StacksAsked) -> Result<(Vec<SignedStack>, u64), StoreError> {
        self.read(StacksFind(asked)).await
    }
}
