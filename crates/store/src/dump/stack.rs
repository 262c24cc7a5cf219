//! The stacks of dumps: each stack and each call once in a tenant, so that a look for a call goes through the few calls
//! that there are, and from there through the few stacks, to the dumps.

use crate::error::StoreError;
use crate::parcel::number;
use crate::statement::statements;
use crate::transaction::Tx;
use crate::value::to_json;
use model::TenantId;

statements! {
    INSERT = "INSERT INTO stack (tenant, number, calls) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    INSERT_CALL = "INSERT INTO call (tenant, number, text) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    INSERT_PLACE = "INSERT INTO stack_call (tenant, call, stack, position) VALUES ($1, $2, $3, $4) \
                    ON CONFLICT DO NOTHING";
}

/// Keeps a stack, and returns its number; an empty one has none.
pub(crate) async fn write(tx: &Tx<'_>, tenant: TenantId, calls: &[String]) -> Result<Option<i64>, StoreError> {
    if calls.is_empty() {
        return Ok(None);
    }
    let text = to_json(&calls);
    let stack = number(blake3::hash(text.as_bytes()).as_bytes());
    if tx.execute(INSERT, &[tenant.into(), stack.into(), text.into()]).await? == 0 {
        return Ok(Some(stack));
    }
    for (call, position) in calls.iter().zip(0_i64..) {
        let number = number(blake3::hash(call.as_bytes()).as_bytes());
        tx.execute(INSERT_CALL, &[tenant.into(), number.into(), call.into()]).await?;
        tx.execute(INSERT_PLACE, &[tenant.into(), number.into(), stack.into(), position.into()]).await?;
    }
    Ok(Some(stack))
}
