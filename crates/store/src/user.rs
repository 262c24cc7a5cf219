//! Users of a tenant.

use crate::error::StoreError;
use crate::statement::statements;
use crate::transaction::{NewChange, Operation, Tx};
use crate::value::{Row, Value, to_json};
use jiff::Timestamp;
use model::{NewUser, Noun, Role, TenantId, User, UserChange, UserId, UserState};

statements! {
    INSERT = "INSERT INTO \"user\" (id, tenant, name, role, state, created_at) VALUES ($1, $2, $3, $4, $5, $6) \
              ON CONFLICT DO NOTHING";
    GET = "SELECT id, tenant, name, role, state, created_at FROM \"user\" WHERE id = $1";
    NAMED = "SELECT id, tenant, name, role, state, created_at FROM \"user\" WHERE tenant = $1 AND name = $2";
    LIST = "SELECT id, tenant, name, role, state, created_at FROM \"user\" WHERE tenant = $1 AND id > $2 \
            ORDER BY id LIMIT $3";
    ROLE = "UPDATE \"user\" SET role = $1 WHERE id = $2 RETURNING id, tenant, name, role, state, created_at";
    MOVE = "UPDATE \"user\" SET state = $1 WHERE id = $2 AND state IN ($3, $4) \
            RETURNING id, tenant, name, role, state, created_at";
    /// Of two admins who go at once the second must see that the first has gone.
    HOLD = "UPDATE tenant SET name = name WHERE id = $1";
    LAST_ADMIN = "SELECT id FROM \"user\" WHERE tenant = $1 AND role = 'admin' AND state = 'active' LIMIT 2";
}

pub(crate) fn read(row: &Row) -> Result<User, StoreError> {
    Ok(User {
        id: row.parsed(0)?,
        tenant: row.parsed(1)?,
        name: row.text(2)?.to_owned(),
        role: row.word(3)?,
        state: row.word(4)?,
        created_at: row.time(5)?,
    })
}

fn note(tx: &Tx<'_>, user: &User, at: Timestamp, by: &str) {
    tx.change(NewChange {
        at,
        tenant: user.tenant,
        noun: Noun::User,
        id: user.id.to_string(),
        state: user.state.as_str(),
        by: by.to_owned(),
        body: to_json(user),
    });
}

/// Inserts a user; tells whether they are new.
pub(crate) async fn user_insert(tx: &Tx<'_>, user: &User, by: &str) -> Result<bool, StoreError> {
    let values = [
        user.id.into(),
        user.tenant.into(),
        Value::from(&user.name),
        user.role.as_str().into(),
        user.state.as_str().into(),
        user.created_at.into(),
    ];
    if tx.execute(INSERT, &values).await? == 0 {
        return Ok(false);
    }
    note(tx, user, user.created_at, by);
    Ok(true)
}

/// Makes a user, unless they were made before.
pub(crate) struct UserCreate {
    pub(crate) new: NewUser,
    pub(crate) tenant: TenantId,
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

impl Operation for UserCreate {
    type Answer = (User, bool);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let user = User {
            id: self.new.id,
            tenant: self.tenant,
            name: self.new.name.clone(),
            role: self.new.role,
            state: UserState::Active,
            created_at: self.at,
        };
        if user_insert(tx, &user, &self.by).await? {
            return Ok((user, true));
        }
        match tx.row(GET, &[user.id.into()]).await?.as_ref().map(read).transpose()? {
            Some(there) if there.tenant == user.tenant && there.name == user.name && there.role == user.role => {
                Ok((there, false))
            }
            _ => Err(StoreError::Exists { noun: "user", id: user.name }),
        }
    }
}

/// Which user to read.
#[derive(Clone, Debug)]
pub enum UserKey {
    /// The one with this id.
    Id(UserId),
    /// The one with this name.
    Name(String),
}

/// Reads one user of a tenant.
pub(crate) struct UserGet {
    pub(crate) key: UserKey,
    pub(crate) tenant: TenantId,
}

impl Operation for UserGet {
    type Answer = User;

    async fn run(&self, tx: &Tx<'_>) -> Result<User, StoreError> {
        let (row, id) = match &self.key {
            UserKey::Id(id) => (tx.row(GET, &[(*id).into()]).await?, id.to_string()),
            // PostgreSQL takes no NUL in a text, and no name holds one.
            UserKey::Name(name) if name.contains('\0') => (None, name.clone()),
            UserKey::Name(name) => (tx.row(NAMED, &[self.tenant.into(), name.into()]).await?, name.clone()),
        };
        let found = row.as_ref().map(read).transpose()?;
        found.filter(|user| user.tenant == self.tenant).ok_or(StoreError::NotFound { noun: "user", id })
    }
}

/// Lists a tenant's users, oldest first.
pub(crate) struct UserList {
    pub(crate) tenant: TenantId,
    pub(crate) after: Option<UserId>,
    pub(crate) limit: u32,
}

impl Operation for UserList {
    type Answer = (Vec<User>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let head = crate::change::bounds(tx).await?.head;
        let after = self.after.map_or_else(|| Value::from(""), Into::into);
        let rows = tx.rows(LIST, &[self.tenant.into(), after, self.limit.into()]).await?;
        Ok((rows.iter().map(read).collect::<Result<_, _>>()?, head))
    }
}

/// Changes a user's role or state; a tenant keeps at least one admin who may come in.
pub(crate) struct UserUpdate {
    pub(crate) id: UserId,
    pub(crate) tenant: TenantId,
    pub(crate) change: UserChange,
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

impl Operation for UserUpdate {
    type Answer = User;

    async fn run(&self, tx: &Tx<'_>) -> Result<User, StoreError> {
        let get = UserGet { key: UserKey::Id(self.id), tenant: self.tenant };
        let before = get.run(tx).await?;
        let mut user = before.clone();
        let is_admin = |user: &User| user.role == Role::Admin && user.state == UserState::Active;
        if is_admin(&before) {
            tx.execute(HOLD, &[self.tenant.into()]).await?;
        }
        if let Some(role) = self.change.role.filter(|role| *role != before.role) {
            let rows = tx.write(ROLE, &[role.as_str().into(), self.id.into()]).await?;
            user = rows.first().map_or(Ok(user), read)?;
        }
        if let Some(state) = self.change.state.filter(|state| *state != before.state) {
            let [from] = state.reachable_from() else { unreachable!("a user's states lead to each other") };
            let values = [state.as_str().into(), self.id.into(), from.as_str().into(), from.as_str().into()];
            let rows = tx.write(MOVE, &values).await?;
            user = rows.first().map_or(Ok(user), read)?;
        }
        if user == before {
            return Ok(user);
        }
        if is_admin(&before) && tx.row(LAST_ADMIN, &[self.tenant.into()]).await?.is_none() {
            return Err(StoreError::LastAdmin { id: self.id.to_string() });
        }
        note(tx, &user, self.at, &self.by);
        Ok(user)
    }
}
