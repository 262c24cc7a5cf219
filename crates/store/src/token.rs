//! Tokens: kept as hashes, looked up by id, refused when expired, revoked or their user is disabled.

use crate::error::StoreError;
use crate::statement::statements;
use crate::transaction::{NewChange, Operation, Tx};
use crate::user;
use crate::value::{Row, Value, to_json};
use jiff::Timestamp;
use model::{Noun, Tenant, TenantId, Token, TokenId, User, UserId};

macro_rules! columns {
    () => {
        "id, tenant, user_id, name, scopes, created_at, expires_at, used_at, revoked_at"
    };
}

statements! {
    INSERT = "INSERT INTO token (id, tenant, user_id, name, scopes, created_at, expires_at, hash) \
              VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
    GET = concat!("SELECT ", columns!(), " FROM token WHERE id = $1");
    LIST = concat!("SELECT ", columns!(), " FROM token WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3");
    LIST_USER = concat!(
        "SELECT ", columns!(), " FROM token WHERE tenant = $1 AND user_id = $2 AND id > $3 ORDER BY id LIMIT $4"
    );
    REVOKE = concat!("UPDATE token SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL RETURNING ", columns!());
    USE = "UPDATE token SET used_at = $1 WHERE id = $2 AND (used_at IS NULL OR used_at < $1)";
    BEARER = "SELECT token.id, token.tenant, token.user_id, token.name, token.scopes, token.created_at, \
                     token.expires_at, token.used_at, token.revoked_at, token.hash, \
                     \"user\".id, \"user\".tenant, \"user\".name, \"user\".role, \"user\".state, \"user\".created_at, \
                     tenant.id, tenant.name, tenant.created_at, tenant.runtime \
              FROM token JOIN \"user\" ON \"user\".id = token.user_id JOIN tenant ON tenant.id = token.tenant \
              WHERE token.id = $1";
}

/// A token with the hash of its secret.
#[derive(Clone, Debug)]
pub struct TokenRow {
    /// The token.
    pub token: Token,
    /// The BLAKE3 of its secret.
    pub hash: [u8; 32],
}

/// All that is to know about whoever shows a token.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// The token and the hash that its secret must have.
    pub row: TokenRow,
    /// Whose it is.
    pub user: User,
    /// Whose user that is.
    pub tenant: Tenant,
}

fn read(row: &Row) -> Result<Token, StoreError> {
    Ok(Token {
        id: row.parsed(0)?,
        tenant: row.parsed(1)?,
        user: row.parsed(2)?,
        name: row.text(3)?.to_owned(),
        scopes: row.json(4)?,
        created_at: row.time(5)?,
        expires_at: row.maybe_time(6)?,
        used_at: row.maybe_time(7)?,
        revoked_at: row.maybe_time(8)?,
    })
}

fn note(tx: &Tx<'_>, token: &Token, at: Timestamp, by: &str) {
    tx.change(NewChange {
        at,
        tenant: token.tenant,
        noun: Noun::Token,
        id: token.id.to_string(),
        state: if token.revoked_at.is_some() { "revoked" } else { "created" },
        by: by.to_owned(),
        body: to_json(token),
    });
}

/// Inserts a token; tells whether it is new.
pub(crate) async fn token_insert(tx: &Tx<'_>, row: &TokenRow, by: &str) -> Result<bool, StoreError> {
    let token = &row.token;
    let values = [
        token.id.into(),
        token.tenant.into(),
        token.user.into(),
        Value::from(&token.name),
        to_json(&token.scopes).into(),
        token.created_at.into(),
        token.expires_at.into(),
        row.hash.as_slice().into(),
    ];
    if tx.execute(INSERT, &values).await? == 0 {
        return Ok(false);
    }
    note(tx, token, token.created_at, by);
    Ok(true)
}

/// Makes a token. Unlike other things it is never made twice: its secret is known only to the first answer.
pub(crate) struct TokenCreate {
    pub(crate) row: TokenRow,
    pub(crate) by: String,
}

impl Operation for TokenCreate {
    type Answer = Token;

    async fn run(&self, tx: &Tx<'_>) -> Result<Token, StoreError> {
        let token = &self.row.token;
        let get = user::UserGet { key: user::UserKey::Id(token.user), tenant: token.tenant };
        get.run(tx).await?;
        if token_insert(tx, &self.row, &self.by).await? {
            return Ok(token.clone());
        }
        Err(StoreError::Exists { noun: "token", id: token.id.to_string() })
    }
}

/// Reads what must be known of whoever shows a token.
pub(crate) struct BearerGet {
    pub(crate) id: TokenId,
}

impl Operation for BearerGet {
    type Answer = Option<Bearer>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Option<Bearer>, StoreError> {
        let Some(row) = tx.row(BEARER, &[self.id.into()]).await? else { return Ok(None) };
        let hash = row.bytes(9)?.try_into();
        let hash = hash.map_err(|_| StoreError::Broken { column: 9, why: "is no hash" })?;
        let user = User {
            id: row.parsed(10)?,
            tenant: row.parsed(11)?,
            name: row.text(12)?.to_owned(),
            role: row.word(13)?,
            state: row.word(14)?,
            created_at: row.time(15)?,
        };
        let runtime = row.maybe_text(19)?.map(str::to_owned);
        let tenant = Tenant { id: row.parsed(16)?, name: row.text(17)?.to_owned(), created_at: row.time(18)?, runtime };
        Ok(Some(Bearer { row: TokenRow { token: read(&row)?, hash }, user, tenant }))
    }
}

/// Reads one token of a tenant.
pub(crate) struct TokenGet {
    pub(crate) id: TokenId,
    pub(crate) tenant: TenantId,
    /// Whose it must be; nobody named means anybody of the tenant.
    pub(crate) user: Option<UserId>,
}

impl Operation for TokenGet {
    type Answer = Token;

    async fn run(&self, tx: &Tx<'_>) -> Result<Token, StoreError> {
        let found = tx.row(GET, &[self.id.into()]).await?.as_ref().map(read).transpose()?;
        found
            .filter(|token| token.tenant == self.tenant && self.user.is_none_or(|user| user == token.user))
            .ok_or_else(|| StoreError::NotFound { noun: "token", id: self.id.to_string() })
    }
}

/// Lists a tenant's tokens, or one user's, oldest first.
pub(crate) struct TokenList {
    pub(crate) tenant: TenantId,
    pub(crate) user: Option<UserId>,
    pub(crate) after: Option<TokenId>,
    pub(crate) limit: u32,
}

impl Operation for TokenList {
    type Answer = (Vec<Token>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let head = crate::change::bounds(tx).await?.head;
        let after = self.after.map_or_else(|| Value::from(""), Into::into);
        let rows = match self.user {
            None => tx.rows(LIST, &[self.tenant.into(), after, self.limit.into()]).await?,
            Some(user) => tx.rows(LIST_USER, &[self.tenant.into(), user.into(), after, self.limit.into()]).await?,
        };
        Ok((rows.iter().map(read).collect::<Result<_, _>>()?, head))
    }
}

/// Revokes a token; doing so twice is harmless.
pub(crate) struct TokenRevoke {
    pub(crate) get: TokenGet,
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

impl Operation for TokenRevoke {
    type Answer = Token;

    async fn run(&self, tx: &Tx<'_>) -> Result<Token, StoreError> {
        self.get.run(tx).await?;
        let Some(row) = tx.write(REVOKE, &[self.at.into(), self.get.id.into()]).await?.pop() else {
            // It was revoked before, maybe just now by another server.
            return self.get.run(tx).await;
        };
        let revoked = read(&row)?;
        note(tx, &revoked, self.at, &self.by);
        Ok(revoked)
    }
}

/// Notes that a token was used. It is no transition, so the log does not hear of it.
pub(crate) struct TokenUse {
    pub(crate) id: TokenId,
    pub(crate) at: Timestamp,
}

impl Operation for TokenUse {
    type Answer = ();
    const OVERLAPS: bool = true;

    async fn run(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        tx.execute(USE, &[self.at.into(), self.id.into()]).await.map(drop)
    }
}
