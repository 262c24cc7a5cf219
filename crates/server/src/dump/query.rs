//! Routes that mean many dumps by a specification: found, counted, changed and purged in one step, and looked into again.

use crate::app::App;
use crate::body::{Asked, Body, TenantQuery};
use crate::caller::Caller;
use crate::error::Answer;
use crate::page::Entries;
use axum::Json;
use axum::extract::State;
use model::dump::query::{
    DumpCursor, DumpQuery, DumpReport, DumpsAnalyse, DumpsChange, DumpsChanged, DumpsPurge, Earnest, ReportQuery,
    Selection, check_meant,
};
use model::{ApiError, Dump, Page, Scope};
use store::{DumpsAsked, DumpsOrder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Returns the routes.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(find))
        .routes(routes!(count))
        .routes(routes!(change))
        .routes(routes!(purge))
        .routes(routes!(analyse))
}

/// Finds the dumps that a specification means, in the order of their times.
#[utoipa::path(
    post, path = "/v1/dumps/query", tag = "dump", operation_id = "dump_query", params(TenantQuery), request_body = DumpQuery,
    responses(
        (status = 200, description = "A page of them.", body = Page<Dump>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn find(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(query): Body<DumpQuery>,
) -> Answer<Json<Page<Dump>>> {
    caller.must(Scope::DumpRead)?;
    let of = query.of.parse()?;
    let entries = Entries::asked(query.limit)?;
    let after = query.after.as_deref().map(str::parse).transpose()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let limit = entries.limit();
    let is_enough = of.limit.is_some_and(|most| most <= limit);
    let asked = DumpsAsked { of, tenant, order: query.order, after, limit, now: app.clock.now() };
    let Json(page) = entries.page(app.store.dumps_find(asked).await?, |last| DumpCursor::behind(last).to_string());
    Ok(Json(Page { next: page.next.filter(|_| !is_enough), ..page }))
}

/// Counts the dumps that a specification means by the values of a field.
#[utoipa::path(
    post, path = "/v1/dumps/report", tag = "dump", operation_id = "dump_report", params(TenantQuery),
    request_body = ReportQuery,
    responses(
        (status = 200, description = "How often each value occurs.", body = DumpReport),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn count(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(query): Body<ReportQuery>,
) -> Answer<Json<DumpReport>> {
    caller.must(Scope::DumpRead)?;
    let (of, field) = (query.of.parse()?, query.field()?);
    if of.limit.is_some() {
        let error = ApiError::invalid("specification_invalid", "a report counts all that are meant".to_owned());
        return Err(error.with_hint("leave `limit=` out").into());
    }
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(app.store.dumps_count(of, field, tenant, app.clock.now()).await?))
}

/// Notes something on all dumps that a specification means, or on none; or only tells on which.
#[utoipa::path(
    post, path = "/v1/dumps/change", tag = "dump", operation_id = "dumps_change", params(TenantQuery),
    request_body = DumpsChange,
    responses(
        (status = 200, description = "What came of it.", body = DumpsChanged),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn change(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(order): Body<DumpsChange>,
) -> Answer<Json<DumpsChanged>> {
    carry_out(&app, &caller, &asked, (&order.of, DumpsOrder::Note(order.change), order.earnest)).await.map(Json)
}

/// Drops the content of all dumps that a specification means, and keeps what is known of them; or only tells of which.
#[utoipa::path(
    post, path = "/v1/dumps/purge", tag = "dump", operation_id = "dumps_purge", params(TenantQuery),
    request_body = DumpsPurge,
    responses(
        (status = 200, description = "What came of it.", body = DumpsChanged),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn purge(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(order): Body<DumpsPurge>,
) -> Answer<Json<DumpsChanged>> {
    let changed = carry_out(&app, &caller, &asked, (&order.of, DumpsOrder::Purge, order.earnest)).await?;
    if order.earnest == Earnest::Real {
        crate::image::remove_contents(&app).await;
    }
    Ok(Json(changed))
}

/// Has all dumps that a specification means looked into again, by the symbols and rules that there are now; or only tells
/// which. What is known of them stays until then.
#[utoipa::path(
    post, path = "/v1/dumps/analyse", tag = "dump", operation_id = "dumps_analyse", params(TenantQuery),
    request_body = DumpsAnalyse,
    responses(
        (status = 200, description = "What came of it.", body = DumpsChanged),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn analyse(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(order): Body<DumpsAnalyse>,
) -> Answer<Json<DumpsChanged>> {
    let changed = carry_out(&app, &caller, &asked, (&order.of, DumpsOrder::Analyse, order.earnest)).await?;
    if order.earnest == Earnest::Real {
        app.arrivals.notify_one();
    }
    Ok(Json(changed))
}

/// Carries out an order to all dumps that are meant, or only tells what would come of it.
async fn carry_out(
    app: &App,
    caller: &Caller,
    asked: &TenantQuery,
    (of, order, earnest): (&Selection, DumpsOrder, Earnest),
) -> Answer<DumpsChanged> {
    caller.must(Scope::DumpWrite)?;
    let tenant = caller.tenant(app, asked.tenant.as_deref()).await?;
    if let DumpsOrder::Note(change) = &order {
        change.check()?;
    }
    check_meant(of)?;
    Ok(app.store.dumps_change(of.parse()?, (order, earnest), tenant, (&caller.user, app.clock.now())).await?)
}
