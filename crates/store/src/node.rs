//! Nodes: who may offer sandboxes, in which state, and what holds them back.
//!
//! A node belongs to the user who first let it in. Its session's row is there for as long as the session may hold
//! anything; whoever takes the row away gives back what it held, in the same transaction.

pub(crate) mod session;

use crate::error::StoreError;
use crate::execution::claim::Return;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{NewChange, Operation, Tx};
use crate::value::{Row, Value, to_json};
use jiff::{SignedDuration, Timestamp};
use model::node::{Hold, HoldKind};
use model::{Execution, NewNode, Node, NodeId, NodeQuery, NodeState, Noun, TenantId};

/// The last word of the log on a node.
const REMOVED: &str = "removed";
/// Nodes that one transaction forgets.
const MAX_FORGOTTEN: u64 = 256;

/// The columns of a node, in the order in which [`read`] takes them.
macro_rules! columns {
    () => {
        "id, tenant, name, state, hold, session, offer, created_by, created_at, joined_at"
    };
}

statements! {
    GET = concat!("SELECT ", columns!(), " FROM node WHERE id = $1");
    NAMED = concat!("SELECT ", columns!(), " FROM node WHERE tenant = $1 AND name = $2 AND state <> 'gone'");
    /// The last of those that have left under this name.
    NAMED_GONE = concat!(
        "SELECT ", columns!(), " FROM node WHERE tenant = $1 AND name = $2 AND state = 'gone' ORDER BY id DESC LIMIT 1"
    );
    LIST = concat!(
        "SELECT ", columns!(), " FROM node WHERE id < $1 AND state <> 'gone' AND (tenant = $2 OR $2 = '') \
         ORDER BY id DESC LIMIT $3"
    );
    LIST_STATE = concat!(
        "SELECT ", columns!(), " FROM node WHERE id < $1 AND state = $2 AND (tenant = $3 OR $3 = '') \
         ORDER BY id DESC LIMIT $4"
    );
    LIVING = concat!("SELECT ", columns!(), " FROM node WHERE session IS NOT NULL ORDER BY id LIMIT 20000");
    EXPECTED = concat!("SELECT ", columns!(), " FROM node WHERE state <> 'gone' ORDER BY id LIMIT 20000");
    INSERT = "INSERT INTO node (id, tenant, name, state, session, offer, created_by, created_at, joined_at) \
              VALUES ($1, $2, $3, 'joining', $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
    REJOIN = concat!(
        "UPDATE node SET state = 'joining', name = $1, session = $2, offer = $3, hold = $4, joined_at = $5 \
         WHERE id = $6 AND state IN ($7, $8) AND coalesce(hold, '') = $9 RETURNING ", columns!()
    );
    MOVE = concat!(
        "UPDATE node SET state = $1 WHERE id = $2 AND state IN ($3, $4, $5, $6) RETURNING ", columns!()
    );
    /// The session goes as the node does.
    PART = concat!(
        "UPDATE node SET state = $1, session = NULL WHERE id = $2 AND state IN ($3, $4, $5, $6) RETURNING ", columns!()
    );
    HOLD = concat!("UPDATE node SET hold = $1 WHERE id = $2 RETURNING ", columns!());
    HOLD_FREE = concat!("UPDATE node SET hold = $1 WHERE id = $2 AND hold IS NULL RETURNING ", columns!());
    FORGET = concat!("DELETE FROM node WHERE id = $1 AND state = 'gone' RETURNING ", columns!());
    /// What a user said of a node stays until it is heard of again.
    FORGET_OLD = concat!(
        "DELETE FROM node WHERE state = 'gone' AND id IN (SELECT id FROM node WHERE state = 'gone' AND hold IS NULL \
         AND coalesce(joined_at, created_at) < $1 ORDER BY id LIMIT $2) RETURNING ", columns!()
    );
    OPEN = "INSERT INTO session (id, node, expires_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    SHUT = "DELETE FROM session WHERE id = $1";
    BUSY = "SELECT count(*) FROM execution WHERE session = $1";
    EXPIRES = "SELECT expires_at FROM session WHERE id = $1";
}

pub(crate) fn read(row: &Row) -> Result<Node, StoreError> {
    Ok(Node {
        id: row.parsed(0)?,
        tenant: row.parsed(1)?,
        name: row.text(2)?.to_owned(),
        state: row.word(3)?,
        hold: row.maybe_json(4)?,
        session: row.maybe_parsed(5)?,
        offer: row.json(6)?,
        busy: None,
        by: row.text(7)?.to_owned(),
        created_at: row.time(8)?,
        joined_at: row.maybe_time(9)?,
        lease_until: None,
    })
}

pub(crate) fn note(tx: &Tx<'_>, node: &Node, at: Timestamp, by: &str) {
    note_as(tx, node, node.state.as_str(), at, by);
}

fn note_as(tx: &Tx<'_>, node: &Node, state: &'static str, at: Timestamp, by: &str) {
    tx.change(NewChange {
        at,
        tenant: node.tenant,
        noun: Noun::Node,
        id: node.id.to_string(),
        state,
        by: by.to_owned(),
        body: to_json(node),
    });
}

/// How a node is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKey {
    /// By its id.
    Id(NodeId),
    /// By its name, in its tenant.
    Name(String),
}

impl From<&str> for NodeKey {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }
}

pub(crate) async fn get(tx: &Tx<'_>, id: NodeId) -> Result<Option<Node>, StoreError> {
    tx.row(GET, &[id.into()]).await?.as_ref().map(read).transpose()
}

/// Returns the states from which a move into `to` is legal, filled up to four.
fn sources(to: NodeState) -> [Value; 4] {
    let from = to.reachable_from();
    let last = from.last().expect("every state can be reached");
    std::array::from_fn(|index| from.get(index).unwrap_or(last).as_str().into())
}

/// Moves a node, if its state allows it, and notes it.
pub(crate) async fn go(
    tx: &Tx<'_>,
    id: NodeId,
    to: NodeState,
    at: Timestamp,
    by: &str,
) -> Result<Option<Node>, StoreError> {
    let [a, b, c, d] = sources(to);
    let sql = if matches!(to, NodeState::Lost | NodeState::Gone) { PART } else { MOVE };
    let Some(row) = tx.write(sql, &[to.as_str().into(), id.into(), a, b, c, d]).await?.pop() else { return Ok(None) };
    let moved = read(&row)?;
    note(tx, &moved, at, by);
    Ok(Some(moved))
}

/// Puts a hold on a node, or lifts it, and notes it.
pub(crate) async fn hold(
    tx: &Tx<'_>,
    id: NodeId,
    hold: Option<&Hold>,
    (at, by): (Timestamp, &str),
) -> Result<Node, StoreError> {
    let row = tx.write(HOLD, &[hold.map(to_json).into(), id.into()]).await?.pop();
    let held = row.as_ref().map(read).transpose()?;
    let held = held.ok_or_else(|| StoreError::NotFound { noun: "node", id: id.to_string() })?;
    note(tx, &held, at, by);
    Ok(held)
}

/// Puts a hold on a node that has none, and notes it; returns the node if so.
pub(crate) async fn hold_free(
    tx: &Tx<'_>,
    id: NodeId,
    hold: &Hold,
    (at, by): (Timestamp, &str),
) -> Result<Option<Node>, StoreError> {
    let row = tx.write(HOLD_FREE, &[to_json(hold).into(), id.into()]).await?.pop();
    let held = row.as_ref().map(read).transpose()?;
    if let Some(held) = &held {
        note(tx, held, at, by);
    }
    Ok(held)
}

/// Ends a session and gives back what it held.
pub(crate) async fn shut(tx: &Tx<'_>, give_back: &Return<'_>) -> Result<Vec<Execution>, StoreError> {
    tx.execute(SHUT, &[give_back.session.into()]).await?;
    give_back.all(tx).await
}

/// Who is let in, and by whom.
struct NodeJoin {
    new: NewNode,
    tenant: TenantId,
    by: String,
    at: Timestamp,
    expires_at: Timestamp,
}

impl Operation for NodeJoin {
    type Answer = (Node, bool, Vec<Execution>);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let new = &self.new;
        let exists = |what: String| {
            let hint = "choose another name or id; `quarry node ls` shows who has which";
            Err(StoreError::conflict("node_exists", what, hint))
        };
        let named = tx.row(NAMED, &[self.tenant.into(), new.name.as_str().into()]).await?;
        if named.as_ref().map(read).transpose()?.is_some_and(|other| other.id != new.id) {
            return exists(format!("another node is called `{}`", new.name));
        }
        let Some(there) = get(tx, new.id).await? else {
            self.open(tx).await?;
            return self.first(tx).await;
        };
        if there.tenant != self.tenant || there.by != self.by {
            return exists(format!("node `{}` belongs to somebody else", new.id));
        }
        if there.session == Some(new.session) {
            return Ok((there, false, Vec::new()));
        }
        let mut lost = Vec::new();
        if let Some(session) = there.session {
            lost = shut(tx, &Return { session, cost: 1, at: self.at, by: "quarry" }).await?;
            go(tx, new.id, NodeState::Lost, self.at, "quarry").await?;
        }
        self.open(tx).await?;
        // What a user said stays; a node that begins anew is young again.
        let before = there.hold.as_ref().map(to_json).unwrap_or_default();
        let hold = there.hold.filter(|hold| hold.kind != HoldKind::Age);
        let [first, last] = [NodeState::Lost, NodeState::Gone].map(|state| state.as_str().into());
        let values = [
            new.name.as_str().into(),
            new.session.into(),
            to_json(&new.offer).into(),
            hold.as_ref().map(to_json).into(),
            self.at.into(),
            new.id.into(),
            first,
            last,
            before.into(),
        ];
        let row = tx.write(REJOIN, &values).await?.pop().ok_or(StoreError::Again)?;
        let node = read(&row)?;
        note(tx, &node, self.at, &self.by);
        Ok((node, false, lost))
    }
}

impl NodeJoin {
    async fn open(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let values = [self.new.session.into(), self.new.id.into(), self.expires_at.into()];
        if tx.execute(OPEN, &values).await? == 1 {
            return Ok(());
        }
        Err(StoreError::Exists { noun: "session", id: self.new.session.to_string() })
    }

    async fn first(&self, tx: &Tx<'_>) -> Result<(Node, bool, Vec<Execution>), StoreError> {
        let new = &self.new;
        let node = Node {
            id: new.id,
            tenant: self.tenant,
            name: new.name.clone(),
            state: NodeState::Joining,
            hold: None,
            session: Some(new.session),
            offer: new.offer.clone(),
            busy: None,
            by: self.by.clone(),
            created_at: self.at,
            joined_at: Some(self.at),
            lease_until: None,
        };
        let values = [
            node.id.into(),
            node.tenant.into(),
            node.name.as_str().into(),
            node.session.into(),
            to_json(&node.offer).into(),
            node.by.as_str().into(),
            node.created_at.into(),
            node.joined_at.into(),
        ];
        if tx.execute(INSERT, &values).await? == 0 {
            // Its twin, or another of its name, came in between.
            return Err(StoreError::Again);
        }
        note(tx, &node, self.at, &self.by);
        Ok((node, true, Vec::new()))
    }
}

/// Finds a node.
struct NodeGet {
    key: NodeKey,
    tenant: Option<TenantId>,
    /// Whose names are meant.
    namespace: TenantId,
}

impl NodeGet {
    async fn find(&self, tx: &Tx<'_>) -> Result<Node, StoreError> {
        let (found, name) = match &self.key {
            NodeKey::Id(id) => (get(tx, *id).await?, id.to_string()),
            NodeKey::Name(name) => {
                let values = [self.namespace.into(), name.as_str().into()];
                let row = match tx.row(NAMED, &values).await? {
                    None => tx.row(NAMED_GONE, &values).await?,
                    row => row,
                };
                (row.as_ref().map(read).transpose()?, name.clone())
            }
        };
        let found = found.filter(|node| self.tenant.is_none_or(|tenant| tenant == node.tenant));
        found.ok_or(StoreError::NotFound { noun: "node", id: name })
    }
}

impl Operation for NodeGet {
    type Answer = Node;

    async fn run(&self, tx: &Tx<'_>) -> Result<Node, StoreError> {
        let node = self.find(tx).await?;
        detail(tx, node).await
    }
}

/// Adds what is found out only when asked.
async fn detail(tx: &Tx<'_>, mut node: Node) -> Result<Node, StoreError> {
    if let Some(session) = node.session {
        let busy = tx.row(BUSY, &[session.into()]).await?.map_or(Ok(0), |row| row.count(0))?;
        node.busy = Some(u32::try_from(busy).unwrap_or(u32::MAX));
        node.lease_until = tx.row(EXPIRES, &[session.into()]).await?.map(|row| row.time(0)).transpose()?;
    }
    Ok(node)
}

struct NodeList {
    tenant: Option<TenantId>,
    query: NodeQuery,
    limit: u32,
}

impl Operation for NodeList {
    type Answer = (Vec<Node>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        /// Sorts after every id.
        const END: &str = "nod_~";
        let head = crate::change::bounds(tx).await?.head;
        let after = self.query.after.map_or_else(|| Value::from(END), Into::into);
        let whose = self.tenant.map_or_else(|| Value::from(""), Into::into);
        let rows = match self.query.state {
            Some(state) => tx.rows(LIST_STATE, &[after, state.as_str().into(), whose, self.limit.into()]).await?,
            None => tx.rows(LIST, &[after, whose, self.limit.into()]).await?,
        };
        let mut nodes = Vec::with_capacity(rows.len());
        for row in rows {
            nodes.push(detail(tx, read(&row)?).await?);
        }
        Ok((nodes, head))
    }
}

/// Finds nodes for those who explain why nobody takes an execution.
enum NodesServing {
    /// Those that have a session.
    Living,
    /// Those that have not left: the lost ones may come back.
    Expected,
}

impl Operation for NodesServing {
    type Answer = Vec<Node>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Node>, StoreError> {
        let sql = match self {
            Self::Living => LIVING,
            Self::Expected => EXPECTED,
        };
        tx.rows(sql, &[]).await?.iter().map(read).collect()
    }
}

/// Forgets nodes that have left long ago, as far as one transaction goes.
struct NodesForget {
    before: Timestamp,
    now: Timestamp,
}

impl Operation for NodesForget {
    type Answer = u64;

    async fn run(&self, tx: &Tx<'_>) -> Result<u64, StoreError> {
        let rows = tx.write(FORGET_OLD, &[self.before.into(), MAX_FORGOTTEN.into()]).await?;
        for row in &rows {
            note_as(tx, &read(row)?, REMOVED, self.now, "quarry");
        }
        Ok(rows.len() as u64)
    }
}

/// What is to be done with a node.
enum Order {
    Hold(HoldKind, String),
    Lift,
    Drain,
    Remove,
}

struct NodeOrder {
    get: NodeGet,
    order: Order,
    by: String,
    at: Timestamp,
}

impl Operation for NodeOrder {
    type Answer = Node;

    async fn run(&self, tx: &Tx<'_>) -> Result<Node, StoreError> {
        let node = self.get.find(tx).await?;
        let moved = match &self.order {
            Order::Hold(kind, cause) => {
                let new = Hold { kind: *kind, cause: cause.clone(), by: self.by.clone(), at: self.at };
                let same = node.hold.as_ref().is_some_and(|old| old.kind == *kind && old.cause == *cause);
                if same { node } else { hold(tx, node.id, Some(&new), (self.at, &self.by)).await? }
            }
            Order::Lift if node.hold.is_none() => match node.state {
                NodeState::Draining | NodeState::Gone => return Err(self.no_way_back(&node)),
                NodeState::Joining | NodeState::Ready | NodeState::Lost => node,
            },
            Order::Lift => hold(tx, node.id, None, (self.at, &self.by)).await?,
            Order::Drain if node.state == NodeState::Draining => node,
            Order::Drain => self.go(tx, &node, NodeState::Draining).await?,
            Order::Remove if node.state == NodeState::Gone => self.forget(tx, &node).await?,
            Order::Remove if node.state != NodeState::Lost => return Err(self.refusal(&node, NodeState::Gone)),
            Order::Remove => self.go(tx, &node, NodeState::Gone).await?,
        };
        detail(tx, moved).await
    }
}

impl NodeOrder {
    async fn go(&self, tx: &Tx<'_>, node: &Node, to: NodeState) -> Result<Node, StoreError> {
        go(tx, node.id, to, self.at, &self.by).await?.ok_or_else(|| self.refusal(node, to))
    }

    /// Forgets a node that has left.
    async fn forget(&self, tx: &Tx<'_>, node: &Node) -> Result<Node, StoreError> {
        let row = tx.write(FORGET, &[node.id.into()]).await?.pop();
        let forgotten = row.as_ref().map(read).transpose()?.ok_or_else(|| self.refusal(node, NodeState::Gone))?;
        note_as(tx, &forgotten, REMOVED, self.at, &self.by);
        Ok(forgotten)
    }

    fn no_way_back(&self, node: &Node) -> StoreError {
        let state = node.state.as_str();
        let what = format!("node `{}` is {state}, and nothing holds it back", node.name);
        StoreError::conflict(&format!("node_{state}"), what, "start it again, and it joins and takes work")
    }

    fn refusal(&self, node: &Node, wanted: NodeState) -> StoreError {
        let (id, state, wanted) = (node.id.to_string(), node.state.as_str(), wanted.as_str());
        StoreError::Conflict { noun: "node", id, state, wanted }
    }
}

impl Store {
    /// Lets a node in and opens its session; tells whether it is new, and what an older session of it gave back.
    pub async fn node_join(
        &self,
        new: NewNode,
        tenant: TenantId,
        by: &str,
        at: Timestamp,
        lease: SignedDuration,
    ) -> Result<(Node, bool, Vec<Execution>), StoreError> {
        let expires_at = at + lease;
        let (mut node, is_new, lost) = self.write(NodeJoin { new, tenant, by: by.to_owned(), at, expires_at }).await?;
        node.lease_until = Some(expires_at);
        Ok((node, is_new, lost))
    }

    /// Forgets nodes that joined last before an instant and have left since, as far as one pass goes; tells how many.
    pub async fn nodes_retain(&self, before: Timestamp, now: Timestamp) -> Result<u64, StoreError> {
        self.write(NodesForget { before, now }).await
    }

    /// Returns one node, by its id or by its name in a tenant: a living one, or the last that has left.
    pub async fn node_get(
        &self,
        key: NodeKey,
        tenant: Option<TenantId>,
        namespace: TenantId,
    ) -> Result<Node, StoreError> {
        self.read(NodeGet { key, tenant, namespace }).await
    }

    /// Lists nodes, newest first, with the log's head at that moment.
    pub async fn node_list(
        &self,
        tenant: Option<TenantId>,
        query: &NodeQuery,
        limit: u32,
    ) -> Result<(Vec<Node>, u64), StoreError> {
        self.read(NodeList { tenant, query: query.clone(), limit }).await
    }

    /// Returns every node that has a session.
    pub async fn nodes_living(&self) -> Result<Vec<Node>, StoreError> {
        self.read(NodesServing::Living).await
    }

    /// Returns every node that has not left, the lost ones too.
    pub async fn nodes_expected(&self) -> Result<Vec<Node>, StoreError> {
        self.read(NodesServing::Expected).await
    }

    /// Keeps a node from taking anything new.
    pub async fn node_hold(
        &self,
        node: &Node,
        (kind, cause): (HoldKind, String),
        by: &str,
        at: Timestamp,
    ) -> Result<Node, StoreError> {
        self.node_order(node, Order::Hold(kind, cause), by, at).await
    }

    /// Lifts what keeps a node from taking anything new.
    pub async fn node_lift(&self, node: &Node, by: &str, at: Timestamp) -> Result<Node, StoreError> {
        self.node_order(node, Order::Lift, by, at).await
    }

    /// Has a node finish what it holds and take nothing new.
    pub async fn node_drain(&self, node: &Node, by: &str, at: Timestamp) -> Result<Node, StoreError> {
        self.node_order(node, Order::Drain, by, at).await
    }

    /// Removes a node that is lost or has left.
    pub async fn node_remove(&self, node: &Node, by: &str, at: Timestamp) -> Result<Node, StoreError> {
        self.node_order(node, Order::Remove, by, at).await
    }

    async fn node_order(&self, node: &Node, order: Order, by: &str, at: Timestamp) -> Result<Node, StoreError> {
        let get = NodeGet { key: NodeKey::Id(node.id), tenant: None, namespace: node.tenant };
        self.write(NodeOrder { get, order, by: by.to_owned(), at }).await
    }
}
