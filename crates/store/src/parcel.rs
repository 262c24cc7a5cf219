//! Parcels and the frames in them: which a tenant has, where they stand, and what no dump needs any more.
//!
//! Invariants:
//! - A frame's row names a parcel that is there: both are made, and both go, in one transaction.
//! - A parcel goes only while no dump names it, and not before it has been loose for a while: whoever uploads a dump sends
//!   its parcels first and names them last. Naming one and removing it meet at the parcel's row, so one of them fails.

use crate::content::{BlobCreate, loose};
use crate::error::StoreError;
use crate::image::garbage::ImageGc;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Session, Tx};
use crate::value::{Row, Value};
use jiff::{SignedDuration, Timestamp};
use model::parcel::{Frame, FramePlace, Index, Parcel};
use model::{ApiError, Blob, Digest, ErrorKind, Purpose, TenantId};
use std::collections::{BTreeSet, HashSet};
use std::fmt::Write;

statements! {
    FIND_SQLITE = "SELECT f.digest, p.digest, f.place, f.packed, f.raw, f.parcel, p.loose_at FROM json_each($1) AS j \
                   CROSS JOIN frame AS f ON f.tenant = $2 AND f.digest = unhex(j.value) \
                   CROSS JOIN parcel AS p ON p.tenant = f.tenant AND p.number = f.parcel";
    FIND_POSTGRES = "SELECT f.digest, p.digest, f.place, f.packed, f.raw, f.parcel, p.loose_at \
                     FROM json_array_elements_text(cast(cast($1 AS text) AS json)) AS j(value) \
                     JOIN frame AS f ON f.tenant = $2 AND f.digest = decode(j.value, 'hex') \
                     JOIN parcel AS p ON p.tenant = f.tenant AND p.number = f.parcel";
    INSERT_FRAMES_SQLITE = "INSERT INTO frame (tenant, parcel, digest, place, packed, raw) \
                            SELECT $1, $2, unhex(j.value ->> 0), j.value ->> 1, j.value ->> 2, j.value ->> 3 \
                            FROM json_each($3) AS j WHERE true ON CONFLICT DO NOTHING";
    INSERT_FRAMES_POSTGRES = "INSERT INTO frame (tenant, parcel, digest, place, packed, raw) \
                              SELECT cast($1 AS text), cast($2 AS bigint), decode(j.value ->> 0, 'hex'), \
                              cast(j.value ->> 1 AS bigint), cast(j.value ->> 2 AS bigint), \
                              cast(j.value ->> 3 AS bigint) \
                              FROM json_array_elements(cast(cast($3 AS text) AS json)) AS j(value) \
                              ON CONFLICT DO NOTHING";
    INSERT = "INSERT INTO parcel (tenant, number, digest, size, created_at, loose_at) \
              VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    GET = "SELECT digest, created_at, size FROM parcel WHERE tenant = $1 AND number = $2";
    TOUCH = "UPDATE parcel SET loose_at = $1 WHERE tenant = $2 AND number = $3 AND loose_at IS NOT NULL";
    HOLD = "UPDATE parcel SET loose_at = NULL WHERE tenant = $1 AND number = $2 RETURNING number";
    LOCK_POSTGRES = "SELECT number FROM parcel WHERE tenant = $1 AND number = $2 FOR UPDATE";
    LET_GO = "UPDATE parcel SET loose_at = $1 WHERE tenant = $2 AND number = $3 AND NOT EXISTS \
              (SELECT 1 FROM dump_parcel AS d WHERE d.tenant = parcel.tenant AND d.parcel = parcel.number)";
    NAME = "INSERT INTO dump_parcel (dump, parcel, tenant) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    NAMED = "SELECT parcel FROM dump_parcel WHERE dump = $1";
    UNNAME = "DELETE FROM dump_parcel WHERE dump = $1";
    LOOSE = "SELECT tenant, number FROM parcel WHERE loose_at < $1 ORDER BY loose_at LIMIT $2";
    /// What a dump names is not loose.
    MEND = "UPDATE parcel SET loose_at = NULL WHERE tenant = $1 AND number = $2 AND EXISTS \
            (SELECT 1 FROM dump_parcel AS d WHERE d.tenant = parcel.tenant AND d.parcel = parcel.number)";
    REMOVE = "DELETE FROM parcel WHERE tenant = $1 AND number = $2 AND loose_at < $3 RETURNING digest, size";
    REMOVE_FRAMES = "DELETE FROM frame WHERE tenant = $1 AND parcel = $2";
}

/// How long ago a parcel may have become loose that needs no note of being asked for.
const FRESH: SignedDuration = SignedDuration::from_mins(10);

/// Returns the number that stands for a digest in rows: 63 bits of it. Whoever made two parcels of one number would only
/// see the second refused.
pub(crate) fn number(digest: &[u8; 32]) -> i64 {
    let first = digest.first_chunk().expect("a digest is longer");
    i64::from_le_bytes(*first) & i64::MAX
}

/// Returns frames' names as a JSON list.
fn list(digests: &[Digest]) -> String {
    let mut text = String::with_capacity(digests.len() * 67 + 2);
    for digest in digests {
        let _ = write!(text, "{}\"{digest}\"", if text.is_empty() { '[' } else { ',' });
    }
    if text.is_empty() { "[]".to_owned() } else { text + "]" }
}

/// A frame that is there.
struct Standing {
    place: FramePlace,
    /// The number of its parcel.
    parcel: i64,
    /// Since when no dump names that.
    loose_at: Option<Timestamp>,
}

async fn find(tx: &Tx<'_>, tenant: TenantId, digests: &[Digest]) -> Result<Vec<Standing>, StoreError> {
    let sql = match tx.session() {
        Session::Sqlite(_) => FIND_SQLITE,
        Session::Postgres(_) => FIND_POSTGRES,
    };
    tx.rows(sql, &[list(digests).into(), tenant.into()]).await?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Standing, StoreError> {
    let broken = |column, why| StoreError::Broken { column, why };
    let short = |column| u32::try_from(row.int(column)?).map_err(|_| broken(column, "is too long for a frame"));
    let digest: [u8; 32] = row.bytes(0)?.try_into().map_err(|_| broken(0, "is no digest"))?;
    let place = FramePlace {
        digest: Digest::from_bytes(digest),
        parcel: row.parsed(1)?,
        offset: row.count(2)?,
        packed: short(3)?,
        raw: short(4)?,
    };
    Ok(Standing { place, parcel: row.int(5)?, loose_at: row.maybe_time(6)? })
}

/// Says where frames stand.
struct FrameFind {
    digests: Vec<Digest>,
    tenant: TenantId,
}

impl Operation for FrameFind {
    type Answer = Vec<Standing>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        find(tx, self.tenant, &self.digests).await
    }
}

/// Has parcels stay that somebody was told are there and is about to name; returns those that went meanwhile.
struct ParcelTouch {
    parcels: BTreeSet<i64>,
    tenant: TenantId,
    at: Timestamp,
}

impl Operation for ParcelTouch {
    type Answer = BTreeSet<i64>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let mut gone = BTreeSet::new();
        for parcel in &self.parcels {
            let touched = tx.execute(TOUCH, &[self.at.into(), self.tenant.into(), (*parcel).into()]).await?;
            // What was named meanwhile is loose no more, and there.
            if touched == 0 && tx.row(GET, &[self.tenant.into(), (*parcel).into()]).await?.is_none() {
                gone.insert(*parcel);
            }
        }
        Ok(gone)
    }
}

/// Keeps a parcel, whose blob is there, and the frames it brings.
struct ParcelCreate {
    blob: Blob,
    index: Index,
    tenant: TenantId,
    by: String,
}

impl Operation for ParcelCreate {
    type Answer = (Parcel, bool);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let (tenant, at) = (self.tenant, self.blob.created_at);
        let number = number(self.blob.digest.as_bytes());
        let (blob, is_new) = BlobCreate { blob: self.blob, tenant, by: self.by.clone() }.run(tx).await?;
        let values = [tenant.into(), number.into(), blob.digest.into(), blob.size.into(), at.into(), at.into()];
        if tx.execute(INSERT, &values).await? == 0 {
            let there = tx.row(GET, &[tenant.into(), number.into()]).await?.ok_or(StoreError::Again)?;
            if there.parsed::<Digest>(0)? != blob.digest {
                return Err(StoreError::Exists { noun: "parcel", id: blob.digest.to_string() });
            }
            // Whoever sends it again means to name it soon.
            tx.execute(TOUCH, &[at.into(), tenant.into(), number.into()]).await?;
        }
        let sql = match tx.session() {
            Session::Sqlite(_) => INSERT_FRAMES_SQLITE,
            Session::Postgres(_) => INSERT_FRAMES_POSTGRES,
        };
        let new_frames = tx.execute(sql, &[tenant.into(), number.into(), rows(&self.index).into()]).await?;
        let Blob { digest, size, created_at, .. } = blob;
        let parcel = Parcel { digest, size, frames: self.index.frames.len() as u64, new_frames, created_at };
        Ok((parcel, is_new))
    }
}

struct ParcelGet {
    digest: Digest,
    tenant: TenantId,
}

impl Operation for ParcelGet {
    type Answer = Blob;

    async fn run(&self, tx: &Tx<'_>) -> Result<Blob, StoreError> {
        let row = tx.row(GET, &[self.tenant.into(), number(self.digest.as_bytes()).into()]).await?;
        let missing = || StoreError::NotFound { noun: "parcel", id: self.digest.to_string() };
        let row = row.ok_or_else(missing)?;
        let (digest, created_at, size) = (row.parsed(0)?, row.time(1)?, row.count(2)?);
        if digest == self.digest {
            Ok(Blob { digest, size, created_at, purpose: Purpose::Kept })
        } else {
            Err(missing())
        }
    }
}

/// Returns frames as JSON, each a list of its name, its place and its lengths.
fn rows(index: &Index) -> String {
    let mut text = String::with_capacity(index.frames.len() * 96 + 2);
    for (place, Frame { digest, packed, raw }) in index.places() {
        let _ = write!(text, "{}[\"{digest}\",{place},{packed},{raw}]", if text.is_empty() { '[' } else { ',' });
    }
    if text.is_empty() { "[]".to_owned() } else { text + "]" }
}

/// Has a dump name the parcels that its frames are in, which must all be there, in place of those it named before.
pub(crate) async fn name(
    tx: &Tx<'_>,
    tenant: TenantId,
    dump: &Value,
    parcels: &BTreeSet<i64>,
    at: Timestamp,
) -> Result<(), StoreError> {
    let mut before = BTreeSet::new();
    for row in tx.rows(NAMED, std::slice::from_ref(dump)).await? {
        before.insert(row.int(0)?);
    }
    if !before.is_empty() {
        tx.execute(UNNAME, std::slice::from_ref(dump)).await?;
    }
    for parcel in parcels {
        if tx.write(HOLD, &[tenant.into(), (*parcel).into()]).await?.is_empty() {
            return Err(missing());
        }
        tx.execute(NAME, &[dump.clone(), (*parcel).into(), tenant.into()]).await?;
    }
    for parcel in before.difference(parcels) {
        // Another dump that is about to name it holds it, and is then seen by what follows.
        tx.hold(LOCK_POSTGRES, &[tenant.into(), (*parcel).into()]).await?;
        tx.execute(LET_GO, &[at.into(), tenant.into(), (*parcel).into()]).await?;
    }
    Ok(())
}

/// Tells whether parcels of a tenant are all there.
pub(crate) async fn are_there(tx: &Tx<'_>, tenant: TenantId, parcels: &BTreeSet<i64>) -> Result<bool, StoreError> {
    for parcel in parcels {
        if tx.row(GET, &[tenant.into(), (*parcel).into()]).await?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the refusal of a dump whose frames are not all there.
fn missing() -> StoreError {
    let error = ApiError::new(ErrorKind::Conflict, "frames_missing", "some frames of the dump are not here");
    StoreError::Refused(Box::new(error.with_hint("ask which ones, send them, and try again")))
}

/// Takes a blob from a tenant that dumps have no use for any more; if nobody has it any more, its content is to be removed.
/// What an execution still names goes with the last that does.
pub(crate) async fn drop_blob(
    tx: &Tx<'_>,
    digest: Digest,
    tenant: TenantId,
    (by, at): (&str, Timestamp),
) -> Result<(), StoreError> {
    if loose::let_pass(tx, tenant, digest).await? {
        return Ok(());
    }
    ImageGc { tenant, by: by.to_owned(), at }.drop_any(tx, digest).await.map(drop)
}

/// What a pass freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParcelsFreed {
    /// How many parcels.
    pub parcels: u64,
    /// How long they were.
    pub bytes: u64,
}

/// Removes parcels that no dump has named since some instant, up to a number of them.
struct ParcelGc {
    before: Timestamp,
    limit: u32,
    by: String,
    at: Timestamp,
}

impl Operation for ParcelGc {
    type Answer = ParcelsFreed;

    async fn run(&self, tx: &Tx<'_>) -> Result<ParcelsFreed, StoreError> {
        let mut freed = ParcelsFreed::default();
        for row in tx.rows(LOOSE, &[self.before.into(), self.limit.into()]).await? {
            let (tenant, number): (TenantId, i64) = (row.parsed(0)?, row.int(1)?);
            tx.hold(LOCK_POSTGRES, &[tenant.into(), number.into()]).await?;
            if tx.execute(MEND, &[tenant.into(), number.into()]).await? > 0 {
                continue;
            }
            let removed = tx.write(REMOVE, &[tenant.into(), number.into(), self.before.into()]).await?;
            let Some(removed) = removed.first() else { continue };
            tx.execute(REMOVE_FRAMES, &[tenant.into(), number.into()]).await?;
            drop_blob(tx, removed.parsed(0)?, tenant, (&self.by, self.at)).await?;
            freed.parcels += 1;
            freed.bytes += removed.count(1)?;
        }
        Ok(freed)
    }
}

/// Takes a parcel back whose content went while its row was made.
struct ParcelDrop {
    digest: Digest,
    tenant: TenantId,
    by: String,
    at: Timestamp,
}

impl Operation for ParcelDrop {
    type Answer = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let number = number(self.digest.as_bytes());
        let values = [self.tenant.into(), number.into(), Timestamp::MAX.into()];
        if !tx.write(REMOVE, &values).await?.is_empty() {
            tx.execute(REMOVE_FRAMES, &[self.tenant.into(), number.into()]).await?;
        }
        ImageGc { tenant: self.tenant, by: self.by.clone(), at: self.at }.drop_any(tx, self.digest).await.map(drop)
    }
}

impl Store {
    /// Returns those of some frames that a tenant does not have, in their order. The others stay for a while: whoever asks
    /// means to name them.
    pub async fn frames_missing(
        &self,
        digests: Vec<Digest>,
        tenant: TenantId,
        at: Timestamp,
    ) -> Result<Vec<Digest>, StoreError> {
        let found = self.read(FrameFind { digests: digests.clone(), tenant }).await?;
        let is_old = |loose_at: Timestamp| at.duration_since(loose_at) > FRESH;
        let parcels: BTreeSet<_> =
            found.iter().filter(|frame| frame.loose_at.is_some_and(is_old)).map(|frame| frame.parcel).collect();
        let gone = match parcels.is_empty() {
            true => BTreeSet::new(),
            false => self.write(ParcelTouch { parcels, tenant, at }).await?,
        };
        let found = found.into_iter().filter(|frame| !gone.contains(&frame.parcel));
        let found: HashSet<_> = found.map(|frame| frame.place.digest).collect();
        Ok(digests.into_iter().filter(|digest| !found.contains(digest)).collect())
    }

    /// Says where frames stand; those that a tenant does not have are left out.
    pub async fn frame_places(&self, digests: Vec<Digest>, tenant: TenantId) -> Result<Vec<FramePlace>, StoreError> {
        let found = self.read(FrameFind { digests, tenant }).await?;
        Ok(found.into_iter().map(|frame| frame.place).collect())
    }

    /// Returns the numbers of the parcels that hold some frames; refuses if one of them is not there.
    pub async fn frame_parcels(&self, frames: &[Frame], tenant: TenantId) -> Result<BTreeSet<i64>, StoreError> {
        /// Frames that one look is about.
        const FRAMES: usize = 4_096;
        let (mut parcels, mut seen) = (BTreeSet::new(), HashSet::new());
        let once: Vec<_> = frames.iter().map(|frame| frame.digest).filter(|digest| seen.insert(*digest)).collect();
        for digests in once.chunks(FRAMES) {
            let found = self.read(FrameFind { digests: digests.to_vec(), tenant }).await?;
            if found.len() < digests.len() {
                return Err(missing());
            }
            parcels.extend(found.into_iter().map(|frame| frame.parcel));
        }
        Ok(parcels)
    }

    /// Keeps a parcel whose blob is there; tells whether the tenant had that blob.
    pub async fn parcel_create(
        &self,
        blob: Blob,
        index: Index,
        tenant: TenantId,
        by: &str,
    ) -> Result<(Parcel, bool), StoreError> {
        self.write(ParcelCreate { blob, index, tenant, by: by.to_owned() }).await
    }

    /// Returns a tenant's parcel as the blob that it is.
    pub async fn parcel_get(&self, digest: Digest, tenant: TenantId) -> Result<Blob, StoreError> {
        self.read(ParcelGet { digest, tenant }).await
    }

    /// Takes a parcel back whose content went while its row was made.
    pub async fn parcel_drop(
        &self,
        digest: Digest,
        tenant: TenantId,
        by: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(ParcelDrop { digest, tenant, by: by.to_owned(), at }).await
    }

    /// Removes at most `limit` parcels that no dump has named since `before`; their content is then to be removed.
    pub async fn parcel_gc(
        &self,
        before: Timestamp,
        limit: u32,
        by: &str,
        at: Timestamp,
    ) -> Result<ParcelsFreed, StoreError> {
        self.write(ParcelGc { before, limit, by: by.to_owned(), at }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_looked_up_one_by_one() {
        let mut connection = rusqlite::Connection::open_in_memory().expect("opens");
        crate::migration::on_sqlite(&mut connection, Timestamp::UNIX_EPOCH).expect("is made");
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {FIND_SQLITE}")).expect("is understood");
        let steps = statement.query_map(("[]", "ten_1"), |row| row.get(3)).expect("is explained");
        let steps: Vec<String> = steps.collect::<Result<_, _>>().expect("is read");
        // Begun from the other end, each list would go through all frames that its tenant has.
        assert!(steps[0].starts_with("SCAN j"), "{steps:#?}");
        assert!(steps[1].contains("SEARCH f USING PRIMARY KEY (tenant=? AND digest=?)"), "{steps:#?}");
        assert!(steps[2].contains("SEARCH p USING") && steps[2].contains("number=?"), "{steps:#?}");
    }
}
