//! Images: asked for together with the execution that makes them, found by id, name or digest, removed.
//!
//! A name stands for the newest image of that name that is ready. What has been removed keeps its row, so that whatever
//! runs in it or waits for it still finds its manifest.

pub(crate) mod garbage;

use crate::content;
use crate::error::StoreError;
use crate::execution::{ExecutionCreate, queued};
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{NewChange, Operation, Tx};
use crate::value::{Row, Value, to_json};
use jiff::Timestamp;
use model::image::{is_named_here, is_sha256};
use model::{
    ApiError, Class, ErrorKind, Execution, Image, ImageId, ImageQuery, ImageSource, ImageState, Input, Limits,
    Manifest, NewExecution, NewImage, Noun, Origin, OriginKind, Outcome, Reference, Sandbox, Shape, TenantId,
};
use std::sync::Arc;

/// Why an image is gone whose place a newer one has taken that is the same.
const REPLACED: &str = "the same image was made again";
/// The last word of the log on an image.
const REMOVED: &str = "removed";
/// Images that one transaction forgets.
const MAX_FORGOTTEN: u64 = 256;

/// The columns of an image, in the order in which [`read`] takes them.
macro_rules! columns {
    () => {
        "id, tenant, name, state, source, execution, manifest, cause, created_by, created_at, ended_at, plain_http"
    };
}

statements! {
    INSERT = "INSERT INTO image (id, tenant, name, state, source, plain_http, execution, created_by, created_at) \
              VALUES ($1, $2, $3, 'importing', $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING";
    GET = concat!("SELECT ", columns!(), " FROM image WHERE id = $1");
    NAMED = concat!(
        "SELECT ", columns!(), " FROM image WHERE tenant = $1 AND name = $2 AND state = $3 ORDER BY id DESC LIMIT 1"
    );
    DIGESTED = concat!(
        "SELECT ", columns!(), " FROM image WHERE tenant = $1 AND digest = $2 AND state = $3 ORDER BY id DESC LIMIT 1"
    );
    LIST = concat!(
        "SELECT ", columns!(), " FROM image WHERE tenant = $1 AND id < $2 AND state <> 'gone' ORDER BY id DESC LIMIT $3"
    );
    LIST_STATE = concat!(
        "SELECT ", columns!(), " FROM image WHERE tenant = $1 AND id < $2 AND state = $3 ORDER BY id DESC LIMIT $4"
    );
    LIST_NAME = concat!(
        "SELECT ", columns!(), " FROM image WHERE tenant = $1 AND id < $2 AND name = $3 AND state <> 'gone' \
         ORDER BY id DESC LIMIT $4"
    );
    LIST_NAME_STATE = concat!(
        "SELECT ", columns!(), " FROM image WHERE tenant = $1 AND id < $2 AND name = $3 AND state = $4 \
         ORDER BY id DESC LIMIT $5"
    );
    READY = concat!(
        "UPDATE image SET state = 'ready', manifest = $1, digest = $2, ended_at = $3 \
         WHERE id = $4 AND state = 'importing' RETURNING ", columns!()
    );
    FAIL = concat!(
        "UPDATE image SET state = 'failed', cause = $1, ended_at = $2 WHERE id = $3 AND state = 'importing' RETURNING ",
        columns!()
    );
    /// What something still waits for, or runs in, keeps its row.
    FORGET_OLD = concat!(
        "DELETE FROM image WHERE id IN (SELECT id FROM image \
         WHERE state IN ('failed', 'gone') AND coalesce(ended_at, created_at) < $1 \
         AND NOT EXISTS (SELECT 1 FROM execution WHERE execution.tenant = image.tenant \
             AND execution.image_id = image.id AND execution.ended_at IS NULL) \
         ORDER BY id LIMIT $2) RETURNING ", columns!()
    );
    REPLACE = concat!(
        "UPDATE image SET state = 'gone', cause = $1 WHERE tenant = $2 AND name = $3 AND digest = $4 AND id < $5 \
         AND state = 'ready' AND manifest = $6 RETURNING ", columns!()
    );
    /// What took the place of one that was replaced, as long as that has its manifest.
    SUCCESSOR = concat!(
        "SELECT ", columns!(), " FROM image WHERE tenant = $1 AND state = 'ready' AND digest = $2 AND manifest = $3 \
         ORDER BY id DESC LIMIT 1"
    );
    REMOVE = concat!(
        "UPDATE image SET state = 'gone' WHERE id = $1 AND state IN ('ready', 'failed') RETURNING ", columns!()
    );
}

pub(crate) fn read(row: &Row) -> Result<Image, StoreError> {
    Ok(Image {
        id: row.parsed(0)?,
        tenant: row.parsed(1)?,
        name: row.text(2)?.to_owned(),
        state: row.word(3)?,
        source: row.json(4)?,
        execution: row.parsed(5)?,
        manifest: row.maybe_json(6)?,
        cause: row.maybe_text(7)?.map(str::to_owned),
        by: row.text(8)?.to_owned(),
        created_at: row.time(9)?,
        ended_at: row.maybe_time(10)?,
    })
}

fn note(tx: &Tx<'_>, image: &Image, at: Timestamp, by: &str) {
    note_as(tx, image, image.state.as_str(), at, by);
}

fn note_as(tx: &Tx<'_>, image: &Image, state: &'static str, at: Timestamp, by: &str) {
    tx.change(NewChange {
        at,
        tenant: image.tenant,
        noun: Noun::Image,
        id: image.id.to_string(),
        state,
        by: by.to_owned(),
        body: to_json(image),
    });
}

/// How an image is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageKey {
    /// By its id.
    Id(ImageId),
    /// By its name, or the digest of its manifest.
    Name(String),
}

impl From<&str> for ImageKey {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }
}

/// Returns an image's row, whoever has it, and whether its registry is spoken to without TLS.
pub(crate) async fn get(tx: &Tx<'_>, id: ImageId) -> Result<Option<(Image, bool)>, StoreError> {
    let row = tx.row(GET, &[id.into()]).await?;
    row.map(|row| Ok((read(&row)?, row.int(11)? != 0))).transpose()
}

/// Finds the image that a key names.
struct ImageFind {
    key: ImageKey,
    tenant: Option<TenantId>,
    /// Whose names are meant.
    namespace: TenantId,
    states: &'static [ImageState],
}

impl Operation for ImageFind {
    type Answer = Image;

    async fn run(&self, tx: &Tx<'_>) -> Result<Image, StoreError> {
        let (id, text) = match &self.key {
            ImageKey::Id(id) => (get(tx, *id).await?.map(|(image, _)| image), id.to_string()),
            ImageKey::Name(name) => (None, name.clone()),
        };
        if let Some(image) = id.filter(|image| self.tenant.is_none_or(|tenant| tenant == image.tenant)) {
            return Ok(image);
        }
        let sql = if is_sha256(&text) { DIGESTED } else { NAMED };
        for state in self.states {
            let found = tx.row(sql, &[self.namespace.into(), text.as_str().into(), state.as_str().into()]).await?;
            if let Some(row) = found {
                return read(&row);
            }
        }
        Err(StoreError::NotFound { noun: "image", id: text })
    }
}

/// Asks for an image, together with the execution that makes it.
struct ImageCreate {
    new: NewImage,
    tenant: TenantId,
    by: String,
    at: Timestamp,
}

impl ImageCreate {
    fn image(&self) -> Image {
        Image {
            id: self.new.id,
            tenant: self.tenant,
            name: self.new.name().to_owned(),
            state: ImageState::Importing,
            source: self.new.source.clone(),
            execution: self.new.execution,
            manifest: None,
            cause: None,
            by: self.by.clone(),
            created_at: self.at,
            ended_at: None,
        }
    }

    fn execution(&self) -> Execution {
        let word = match self.new.source {
            ImageSource::Registry { .. } => "pull",
            ImageSource::Archive { .. } => "import",
        };
        let new = NewExecution {
            id: self.new.execution,
            lane: None,
            class: Class::Human,
            image: None,
            command: vec!["image".to_owned(), word.to_owned(), self.new.name().to_owned()],
            env: std::collections::BTreeMap::new(),
            input: Input::None,
            limits: Limits::default(),
            sandbox: Sandbox::default(),
        };
        let origin = Origin { kind: OriginKind::Image, id: Some(self.new.id.to_string()) };
        queued(&new, self.tenant, origin, &self.by, self.at)
    }
}

impl Operation for ImageCreate {
    type Answer = (Image, Option<Arc<Execution>>);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let image = self.image();
        let values = [
            image.id.into(),
            image.tenant.into(),
            image.name.as_str().into(),
            to_json(&image.source).into(),
            Value::Int(self.new.plain_http.into()),
            image.execution.into(),
            image.by.as_str().into(),
            image.created_at.into(),
        ];
        if tx.execute(INSERT, &values).await? == 0 {
            let (there, _) = get(tx, image.id).await?.ok_or(StoreError::Again)?;
            let same = |there: &Image| (there.tenant, &there.name, &there.source, there.execution) == same_key(&image);
            return if same(&there) {
                Ok((there, None))
            } else {
                Err(StoreError::Exists { noun: "image", id: image.id.to_string() })
            };
        }
        if let ImageSource::Archive { blob, .. } = &image.source {
            content::must_have(tx, image.tenant, *blob).await?;
        }
        let execution = self.execution();
        let shape = Shape::of(&execution.recipe, execution.origin.kind, None);
        let (execution, is_new) = ExecutionCreate::of(execution, &shape).run(tx).await?;
        if !is_new {
            return Err(StoreError::Exists { noun: "execution", id: image.execution.to_string() });
        }
        note(tx, &image, self.at, &self.by);
        Ok((image, Some(execution)))
    }
}

fn same_key(image: &Image) -> (TenantId, &String, &ImageSource, model::ExecutionId) {
    (image.tenant, &image.name, &image.source, image.execution)
}

/// Records what an execution that was to make an image came to: the image, or why there is none.
pub(crate) async fn finish(
    tx: &Tx<'_>,
    execution: &Execution,
    manifest: Option<&Manifest>,
    at: Timestamp,
    by: &str,
) -> Result<(), StoreError> {
    let Some(id) = execution.origin.id.as_ref().and_then(|id| id.parse::<ImageId>().ok()) else { return Ok(()) };
    let checked = match (&execution.outcome, manifest) {
        (Some(Outcome::Exited { code: 0 }), Some(manifest)) => check(tx, execution.tenant, manifest).await?,
        (Some(Outcome::Exited { code: 0 }), None) => Err("its execution ended without an image".to_owned()),
        (outcome, _) => Err(cause(outcome.as_ref())),
    };
    let moved = match checked {
        Ok(manifest) => {
            let digest = manifest.digest.as_str();
            tx.write(READY, &[to_json(manifest).into(), digest.into(), at.into(), id.into()]).await?
        }
        Err(cause) => tx.write(FAIL, &[cause.into(), at.into(), id.into()]).await?,
    };
    let Some(row) = moved.first() else { return Ok(()) };
    let image = read(row)?;
    note(tx, &image, at, by);
    if let Some(manifest) = image.manifest.as_ref().filter(|_| image.state == ImageState::Ready) {
        replace(tx, &image, manifest, (at, by)).await?;
    }
    Ok(())
}

/// Removes older images that this one is the same as, name and all: whoever pulls again and again has one.
async fn replace(tx: &Tx<'_>, new: &Image, manifest: &Manifest, (at, by): (Timestamp, &str)) -> Result<(), StoreError> {
    let values = [
        REPLACED.into(),
        new.tenant.into(),
        new.name.as_str().into(),
        manifest.digest.as_str().into(),
        new.id.into(),
        to_json(manifest).into(),
    ];
    for row in tx.write(REPLACE, &values).await? {
        note(tx, &read(&row)?, at, by);
    }
    Ok(())
}

/// Makes sure that a manifest can be kept, and that its tenant has all its layers: a node may say what it likes.
async fn check<'m>(
    tx: &Tx<'_>,
    tenant: TenantId,
    manifest: &'m Manifest,
) -> Result<Result<&'m Manifest, String>, StoreError> {
    if let Err(error) = manifest.check() {
        return Ok(Err(error.message));
    }
    for layer in &manifest.layers {
        let found = match (content::BlobGet { digest: layer.blob, tenant }).run(tx).await {
            Ok(blob) => Some(blob.size),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let (digest, blob, size) = (&layer.digest, layer.blob, layer.size);
        match found {
            Some(found) if found == size => {}
            Some(found) => {
                return Ok(Err(format!(
                    "its layer `{digest}` is said to have {size} bytes, and blob `{blob}` has {found}"
                )));
            }
            None => {
                return Ok(Err(format!("its layer `{digest}` is said to be blob `{blob}`, which the tenant has not")));
            }
        }
    }
    Ok(Ok(manifest))
}

/// Says how an execution ended that made no image.
fn cause(outcome: Option<&Outcome>) -> String {
    match outcome {
        Some(Outcome::SetUpFailed { cause, .. }) => cause.clone(),
        Some(Outcome::Exited { code }) => format!("its execution ended with code {code}"),
        Some(Outcome::Signalled { signal }) => format!("its execution was ended by signal {signal}"),
        Some(Outcome::OutOfMemory) => "its execution needed more memory than it may".to_owned(),
        Some(Outcome::TimedOut) => "its execution needed more time than it may".to_owned(),
        Some(Outcome::Cancelled) => "its execution was cancelled".to_owned(),
        Some(Outcome::NodesLost { nodes }) => format!("{nodes} nodes were lost while they made it"),
        None => "its execution has no outcome".to_owned(),
    }
}

/// Lists a tenant's images, newest first.
struct ImageList {
    tenant: TenantId,
    query: ImageQuery,
    limit: u32,
}

impl Operation for ImageList {
    type Answer = (Vec<Image>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        /// Sorts after every id.
        const END: &str = "img_~";
        let head = crate::change::bounds(tx).await?.head;
        let after = self.query.after.map_or_else(|| Value::from(END), Into::into);
        let tenant = self.tenant.into();
        let rows = match (&self.query.name, self.query.state) {
            (Some(name), Some(state)) => {
                let values = [tenant, after, name.into(), state.as_str().into(), self.limit.into()];
                tx.rows(LIST_NAME_STATE, &values).await?
            }
            (Some(name), None) => tx.rows(LIST_NAME, &[tenant, after, name.into(), self.limit.into()]).await?,
            (None, Some(state)) => {
                tx.rows(LIST_STATE, &[tenant, after, state.as_str().into(), self.limit.into()]).await?
            }
            (None, None) => tx.rows(LIST, &[tenant, after, self.limit.into()]).await?,
        };
        Ok((rows.iter().map(read).collect::<Result<_, _>>()?, head))
    }
}

/// Finds the image that took the place of one that was replaced, for those who name that by its id.
struct ImageSuccessor {
    replaced: Image,
}

impl Operation for ImageSuccessor {
    type Answer = Option<Image>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Option<Image>, StoreError> {
        let Some(manifest) = &self.replaced.manifest else { return Ok(None) };
        let values = [self.replaced.tenant.into(), manifest.digest.as_str().into(), to_json(manifest).into()];
        let row = tx.row(SUCCESSOR, &values).await?;
        row.as_ref().map(read).transpose()
    }
}

/// Forgets images that came to nothing or are gone, as far as one transaction goes.
struct ImagesForget {
    before: Timestamp,
    now: Timestamp,
}

impl Operation for ImagesForget {
    type Answer = u64;

    async fn run(&self, tx: &Tx<'_>) -> Result<u64, StoreError> {
        let rows = tx.write(FORGET_OLD, &[self.before.into(), MAX_FORGOTTEN.into()]).await?;
        for row in &rows {
            note_as(tx, &read(row)?, REMOVED, self.now, "quarry");
        }
        Ok(rows.len() as u64)
    }
}

/// Removes an image. Its row stays for those who run in it.
struct ImageRemove {
    id: ImageId,
    tenant: Option<TenantId>,
    by: String,
    at: Timestamp,
}

impl Operation for ImageRemove {
    type Answer = Image;

    async fn run(&self, tx: &Tx<'_>) -> Result<Image, StoreError> {
        let found = get(tx, self.id).await?.map(|(image, _)| image);
        let found = found.filter(|image| self.tenant.is_none_or(|tenant| tenant == image.tenant));
        let found = found.ok_or_else(|| StoreError::NotFound { noun: "image", id: self.id.to_string() })?;
        if let Some(row) = tx.write(REMOVE, &[self.id.into()]).await?.pop() {
            let removed = read(&row)?;
            note(tx, &removed, self.at, &self.by);
            return Ok(removed);
        }
        match found.state {
            ImageState::Gone => Ok(found),
            _ => Err(StoreError::conflict(
                "image_importing",
                format!("image `{}` is being made", self.id),
                "cancel its execution first",
            )),
        }
    }
}

impl Store {
    /// Asks for an image; returns the execution that makes it if both are new.
    pub async fn image_create(
        &self,
        new: NewImage,
        tenant: TenantId,
        by: &str,
        at: Timestamp,
    ) -> Result<(Image, Option<Arc<Execution>>), StoreError> {
        self.write(ImageCreate { new, tenant, by: by.to_owned(), at }).await
    }

    /// Forgets images that were made, or failed, before an instant and are gone, and that nothing runs in or waits for, as far
    /// as one pass goes; tells how many.
    pub async fn images_retain(&self, before: Timestamp, now: Timestamp) -> Result<u64, StoreError> {
        self.write(ImagesForget { before, now }).await
    }

    /// Returns an image by its id, or the newest of a tenant by its name or digest, one that is ready before any other.
    pub async fn image_get(
        &self,
        key: ImageKey,
        tenant: Option<TenantId>,
        namespace: TenantId,
    ) -> Result<Image, StoreError> {
        const STATES: &[ImageState] = &[ImageState::Ready, ImageState::Importing, ImageState::Failed];
        self.read(ImageFind { key, tenant, namespace, states: STATES }).await
    }

    /// Returns the image that an execution of a tenant would run in, which must be ready.
    pub async fn image_resolve(&self, name: &str, tenant: TenantId) -> Result<Image, StoreError> {
        const STATES: &[ImageState] = &[ImageState::Ready, ImageState::Importing];
        let find = ImageFind { key: name.into(), tenant: Some(tenant), namespace: tenant, states: STATES };
        let refuse = |kind, code: &str, message: String, hint: String| {
            Err(StoreError::Refused(Box::new(ApiError::new(kind, code, message).with_hint(hint))))
        };
        let mut found = self.read(find).await;
        if let Ok(image) = &found
            && image.state == ImageState::Gone
            && image.cause.as_deref() == Some(REPLACED)
            && let Some(successor) = self.read(ImageSuccessor { replaced: image.clone() }).await?
        {
            found = Ok(successor);
        }
        match found {
            Err(StoreError::NotFound { .. }) => refuse(
                ErrorKind::NotFound,
                "image_not_found",
                format!("image `{name}` does not exist"),
                match name.parse::<Reference>() {
                    Ok(_) if !is_named_here(name) => format!("`quarry image pull {name}` fetches it from its registry"),
                    _ => "`quarry image ls` lists those that can be used".to_owned(),
                },
            ),
            Err(error) => Err(error),
            Ok(image) if image.state == ImageState::Ready => Ok(image),
            Ok(image) if image.state == ImageState::Importing => refuse(
                ErrorKind::Conflict,
                "image_importing",
                format!("image `{name}` is being made"),
                format!("`quarry execution wait {}` waits for it", image.execution),
            ),
            Ok(image) => refuse(
                ErrorKind::NotFound,
                "image_not_found",
                format!("image `{name}` is {}", image.state.as_str()),
                "`quarry image ls` lists those that can be used".to_owned(),
            ),
        }
    }

    /// Lists a tenant's images, newest first, with the log's head at that moment.
    pub async fn image_list(
        &self,
        tenant: TenantId,
        query: &ImageQuery,
        limit: u32,
    ) -> Result<(Vec<Image>, u64), StoreError> {
        self.read(ImageList { tenant, query: query.clone(), limit }).await
    }

    /// Removes an image; what runs in it or waits for it is not touched.
    pub async fn image_remove(
        &self,
        id: ImageId,
        tenant: Option<TenantId>,
        by: &str,
        at: Timestamp,
    ) -> Result<Image, StoreError> {
        self.write(ImageRemove { id, tenant, by: by.to_owned(), at }).await
    }

    /// Accepts an execution that runs in an image, as [`Store::execution_accept`] does.
    pub async fn execution_accept_in(
        &self,
        new: &NewExecution,
        image: &Image,
        (by, at): (&str, Timestamp),
        placed: impl FnOnce(),
    ) -> Result<(Arc<Execution>, bool), StoreError> {
        let mut execution = queued(new, image.tenant, Origin::default(), by, at);
        execution.recipe.image_id = Some(image.id);
        let shape = Shape::of(&execution.recipe, execution.origin.kind, image.manifest.as_ref());
        self.write_noting(ExecutionCreate::of(execution, &shape), placed).await
    }
}
