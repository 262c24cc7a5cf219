//! Routes of signatures: listed, explained, fixed, reopened, merged, split; and the rules that a tenant lays over ours.
//!
//! Likeness is computed here, when somebody looks, and stored nowhere: it is text that is compared, and what is alike
//! changes with every new signature. Rules are texts of the tenant's; whoever signs by them reads them, not the server.

use crate::app::App;
use crate::body::{Asked, Body, Named, TenantQuery};
use crate::caller::Caller;
use crate::error::{Answer, Failure};
use crate::page::Entries;
use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use model::page::after_invalid;
use model::signature::similarity::{Frequencies, Parameters, Profile, Representative, propose};
use model::signature::{
    MergeInto, Moved, NewRules, Proposed, RulesFile, Signature, SignatureChange, SignatureInfo, SignatureQuery,
    SignedAgain, SignedAmong, SignedQuery, SignedStack, SplitOff,
};
use model::{ApiError, Page, Scope, SignatureId, TenantId};
use serde::{Deserialize, Serialize};
use store::{Representing, SignatureKey, StacksAsked};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Stacks from which on it counts how many of them have a function.
const MIN_COUNTED: usize = 100;
/// Stacks of a page, of which one may have 16 KiB.
const MAX_STACKS_PAGE: u32 = 500;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, change))
        .routes(routes!(fix))
        .routes(routes!(reopen))
        .routes(routes!(merge))
        .routes(routes!(split))
        .routes(routes!(rules, rules_put, rules_remove))
        .routes(routes!(stacks, stacks_sign))
        .routes(routes!(stacks_among))
}

/// Where a page of signatures begins: when the last one before it was seen, and its id.
fn cursor(text: &str) -> Answer<(Timestamp, SignatureId)> {
    let (seen, id) = text.split_once('.').ok_or_else(after_invalid)?;
    let seen = seen.parse().ok().and_then(|seen| Timestamp::from_microsecond(seen).ok()).ok_or_else(after_invalid)?;
    Ok((seen, id.parse().map_err(|_| after_invalid())?))
}

/// Lists signatures, those that were seen last first.
#[utoipa::path(
    get, path = "/v1/signatures", tag = "signature", operation_id = "signature_list", params(SignatureQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Signature>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<SignatureQuery>,
) -> Answer<Json<Page<Signature>>> {
    caller.must(Scope::DumpRead)?;
    let entries = Entries::asked(asked.limit)?;
    let after = asked.after.as_deref().map(cursor).transpose()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let found = app.store.signature_list(tenant, asked.state, after, entries.limit()).await?;
    Ok(entries.page(found, |last| format!("{}.{}", last.last_seen.as_microsecond(), last.id)))
}

/// Shows a signature with its stack, why it is what it is, and those that may be of the same defect.
#[utoipa::path(
    get, path = "/v1/signatures/{id}", tag = "signature", operation_id = "signature_get",
    params(("id" = String, Path, description = "Which one.", pattern = "^[0-9a-f]{1,32}$"), TenantQuery),
    responses(
        (status = 200, description = "It.", body = SignatureInfo),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Named(key): Named<SignatureKey>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<SignatureInfo>> {
    caller.must(Scope::DumpRead)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let found = app.store.signature_get(key, tenant).await?;
    let others = app.store.signature_representatives(tenant).await?;
    let (id, proto) = (found.signature.id, found.proto);
    let proposed = tokio::task::spawn_blocking(move || proposals(id, &proto, &others)).await;
    let proposals = proposed.map_err(|error| Failure::from(ApiError::internal(error.to_string())))?;
    Ok(Json(SignatureInfo {
        signature: found.signature,
        stack: found.stack,
        explanation: found.explanation,
        dumps: found.dumps,
        parts: found.parts,
        proposals,
    }))
}

/// Returns the signatures that one may be the same as.
fn proposals(id: SignatureId, proto: &[String], others: &[Representing]) -> Vec<Proposed> {
    let profiles = others.iter().map(|other| (other.id, Profile::new(&other.proto)));
    let representatives: Vec<_> = profiles.map(|(signature, profile)| Representative { signature, profile }).collect();
    let mut frequencies = Frequencies::of(representatives.iter().map(|one| &one.profile));
    // Of a few stacks nobody can tell what is common: they count as if there were others that share nothing.
    (representatives.len()..MIN_COUNTED).for_each(|_| frequencies.add(&Profile::default()));
    let representatives: Vec<_> = representatives.into_iter().filter(|one| one.signature != id).collect();
    let found = propose(&representatives, &Profile::new(proto), &frequencies, &Parameters::default());
    let text = |id| others.iter().find(|other| other.id == id).map(|other| other.text.clone()).unwrap_or_default();
    found.into_iter().map(|proposal| Proposed { text: text(proposal.signature), proposal }).collect()
}

/// Notes something on a signature: its title.
#[utoipa::path(
    patch, path = "/v1/signatures/{id}", tag = "signature", operation_id = "signature_change",
    params(("id" = String, Path, description = "Which one.", pattern = "^[0-9a-f]{1,32}$"), TenantQuery),
    request_body = SignatureChange,
    responses(
        (status = 200, description = "It, as it is now.", body = Signature),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn change(
    State(app): State<App>,
    caller: Caller,
    Named(key): Named<SignatureKey>,
    Asked(asked): Asked<TenantQuery>,
    Body(change): Body<SignatureChange>,
) -> Answer<Json<Signature>> {
    caller.must(Scope::DumpWrite)?;
    change.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(app.store.signature_change(key, tenant, change, (&caller.user, app.clock.now())).await?))
}

/// Notes that a signature's defect is fixed: what is seen of it later reopens it.
#[utoipa::path(
    post, path = "/v1/signatures/{id}/fix", tag = "signature", operation_id = "signature_fix",
    params(("id" = String, Path, description = "Which one.", pattern = "^[0-9a-f]{1,32}$"), TenantQuery),
    responses(
        (status = 200, description = "It, as it is now.", body = Signature),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn fix(
    State(app): State<App>,
    caller: Caller,
    Named(key): Named<SignatureKey>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<Signature>> {
    caller.must(Scope::DumpWrite)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(app.store.signature_fix(key, tenant, (&caller.user, app.clock.now())).await?))
}

/// Notes that a signature's defect is there after all, or lets one that was merged stand by itself again.
#[utoipa::path(
    post, path = "/v1/signatures/{id}/reopen", tag = "signature", operation_id = "signature_reopen",
    params(("id" = String, Path, description = "Which one.", pattern = "^[0-9a-f]{1,32}$"), TenantQuery),
    responses(
        (status = 200, description = "It, as it is now.", body = Signature),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn reopen(
    State(app): State<App>,
    caller: Caller,
    Named(key): Named<SignatureKey>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<Signature>> {
    caller.must(Scope::DumpWrite)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let signature = app.store.signature_reopen(key, tenant, (&caller.user, app.clock.now())).await?;
    app.store.signature_settle().await?;
    Ok(Json(now(&app, tenant, signature).await?))
}

/// Makes one signature part of another, or says what that would move.
#[utoipa::path(
    post, path = "/v1/signatures/{id}/merge", tag = "signature", operation_id = "signature_merge",
    params(("id" = String, Path, description = "Which one.", pattern = "^[0-9a-f]{1,32}$"), TenantQuery),
    request_body = MergeInto,
    responses(
        (status = 200, description = "What moved.", body = Moved),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn merge(
    State(app): State<App>,
    caller: Caller,
    Named(key): Named<SignatureKey>,
    Asked(asked): Asked<TenantQuery>,
    Body(MergeInto { into, dry_run }): Body<MergeInto>,
) -> Answer<Json<Moved>> {
    caller.must(Scope::DumpWrite)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let who = (caller.user.as_str(), app.clock.now());
    let moved = app.store.signature_merge(key, (into, dry_run), tenant, who).await?;
    settled(&app, tenant, moved).await
}

/// Puts dumps, and all that have their stacks, under a signature of their own, or says what that would move.
#[utoipa::path(
    post, path = "/v1/signatures/{id}/split", tag = "signature", operation_id = "signature_split",
    params(("id" = String, Path, description = "Which one.", pattern = "^[0-9a-f]{1,32}$"), TenantQuery),
    request_body = SplitOff,
    responses(
        (status = 200, description = "What moved.", body = Moved),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn split(
    State(app): State<App>,
    caller: Caller,
    Named(key): Named<SignatureKey>,
    Asked(asked): Asked<TenantQuery>,
    Body(split): Body<SplitOff>,
) -> Answer<Json<Moved>> {
    caller.must(Scope::DumpWrite)?;
    split.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let who = (caller.user.as_str(), app.clock.now());
    let moved = app.store.signature_split(key, (split.dumps, split.dry_run), tenant, who).await?;
    settled(&app, tenant, moved).await
}

/// Moves the dumps of a decision, and tells how both signatures are then.
async fn settled(app: &App, tenant: TenantId, moved: Moved) -> Answer<Json<Moved>> {
    if moved.dry_run {
        return Ok(Json(moved));
    }
    app.store.signature_settle().await?;
    let (from, into) = (now(app, tenant, moved.from).await?, now(app, tenant, moved.into).await?);
    Ok(Json(Moved { from, into, ..moved }))
}

async fn now(app: &App, tenant: TenantId, signature: Signature) -> Answer<Signature> {
    Ok(app.store.signature_get(signature.id.into(), tenant).await?.signature)
}

/// The rules of a tenant, if it has any.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct RulesKept {
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<RulesFile>,
}

/// Shows the file of rules that the tenant lays over the house's.
#[utoipa::path(
    get, path = "/v1/signature-rules", tag = "signature", operation_id = "signature_rules", params(TenantQuery),
    responses(
        (status = 200, description = "It, if there is one.", body = RulesKept),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn rules(State(app): State<App>, caller: Caller, Asked(asked): Asked<TenantQuery>) -> Answer<Json<RulesKept>> {
    caller.must(Scope::DumpRead)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(RulesKept { file: app.store.signature_rules(tenant).await? }))
}

/// Keeps a file of rules, in place of an older one; what is signed from now on is signed by it.
#[utoipa::path(
    put, path = "/v1/signature-rules", tag = "signature", operation_id = "signature_rules_put", params(TenantQuery),
    request_body = NewRules,
    responses(
        (status = 200, description = "It.", body = RulesFile),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn rules_put(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(new): Body<NewRules>,
) -> Answer<Json<RulesFile>> {
    caller.must(Scope::DumpWrite)?;
    new.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let blob = app.store.blob_get(new.blob, tenant).await?;
    if blob.size > model::signature::MAX_RULES_FILE_BYTES {
        let message = format!("blob `{}` is too long for a file of rules", blob.digest);
        return Err(ApiError::invalid("signature_invalid", message).into());
    }
    Ok(Json(app.store.signature_rules_put(new, tenant, (&caller.user, app.clock.now())).await?))
}

/// Forgets the tenant's file of rules.
#[utoipa::path(
    delete, path = "/v1/signature-rules", tag = "signature", operation_id = "signature_rules_remove",
    params(TenantQuery),
    responses(
        (status = 200, description = "What was there.", body = RulesKept),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn rules_remove(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<RulesKept>> {
    caller.must(Scope::DumpWrite)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(RulesKept { file: app.store.signature_rules_remove(tenant).await? }))
}

/// Lists the stacks that dumps are signed by, for whoever asks other rules about them.
#[utoipa::path(
    get, path = "/v1/signature-stacks", tag = "signature", operation_id = "signature_stacks", params(SignedQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<SignedStack>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn stacks(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<SignedQuery>,
) -> Answer<Json<Page<SignedStack>>> {
    caller.must(Scope::DumpRead)?;
    let entries = Entries::asked(asked.limit)?.at_most(MAX_STACKS_PAGE);
    let after = asked.after.as_deref().map(stack_number).transpose()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let found = app.store.signed_stacks(tenant, asked.signature, after, entries.limit()).await?;
    Ok(entries.page(found, |last| last.number.to_string()))
}

/// Lists the stacks that some dumps are signed by, each with how many of these dumps have it.
#[utoipa::path(
    post, path = "/v1/signature-stacks/query", tag = "signature", operation_id = "signature_stacks_query",
    params(TenantQuery), request_body = SignedAmong,
    responses(
        (status = 200, description = "A page of them.", body = Page<SignedStack>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn stacks_among(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(query): Body<SignedAmong>,
) -> Answer<Json<Page<SignedStack>>> {
    caller.must(Scope::DumpRead)?;
    let of = query.of.parse()?;
    let entries = Entries::asked(query.limit)?.at_most(MAX_STACKS_PAGE);
    let after = query.after.as_deref().map(stack_number).transpose()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let (signature, limit, now) = (query.signature, entries.limit(), app.clock.now());
    let found = app.store.signed_stacks_find(StacksAsked { of, tenant, signature, after, limit, now }).await?;
    Ok(entries.page(found, |last| last.number.to_string()))
}

/// Where a page of stacks begins: the number of the last one before it.
fn stack_number(text: &str) -> Answer<i64> {
    // As many digits as a number may have; more would be another spelling of one.
    let number = (text.len() <= 19).then(|| text.parse::<u64>().ok()).flatten();
    Ok(number.and_then(|number| number.try_into().ok()).ok_or_else(after_invalid)?)
}

/// How many stacks got another text.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Renamed {
    /// How many.
    renamed: u64,
}

/// Records what other rules make of stacks; their dumps go where they belong then.
#[utoipa::path(
    post, path = "/v1/signature-stacks", tag = "signature", operation_id = "signature_stacks_sign",
    params(TenantQuery), request_body = SignedAgain,
    responses(
        (status = 200, description = "How many got another text.", body = Renamed),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn stacks_sign(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(signed): Body<SignedAgain>,
) -> Answer<Json<Renamed>> {
    caller.must(Scope::DumpWrite)?;
    signed.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let renamed = app.store.stacks_sign(signed.stacks, tenant, app.clock.now()).await?;
    app.store.signature_settle().await?;
    Ok(Json(Renamed { renamed }))
}
