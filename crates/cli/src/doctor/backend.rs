//! The database and the place for blobs, as the doctor sees them. The looking itself belongs to `store`.

use super::finding::{Finding, Level};
use server::config::Config;
use server::{blob_config, store_config};
use store::blob::{BlobConfig, Blobs, Capabilities};
use store::{Place, Schema, StoreError, chain};

/// Looks at the database: whether it answers, its version, its schema. Nothing is changed.
pub(super) async fn database(config: &Config) -> Finding {
    let place = store_config(config).place;
    judge_schema(Schema::look(&place).await, &place)
}

fn judge_schema(looked: Result<Schema, StoreError>, place: &Place) -> Finding {
    let finding = |level, found: String, meaning: &str| Finding::new("database", level, found, meaning);
    match looked {
        Ok(Schema { engine, found: 0, .. }) => {
            finding(Level::Ok, format!("{engine}, nothing in it yet"), "the first start will make what it needs")
        }
        Ok(Schema { engine, found, known }) if found > known => {
            let found = format!("{engine}, schema {found}, and this program knows {known}");
            finding(Level::Failed, found, "a newer quarry wrote it; this one will not touch it")
                .mend("use that version, or a newer one")
        }
        Ok(Schema { engine, found, known }) if found < known => {
            finding(Level::Note, format!("{engine}, schema {found} of {known}"), "the next start brings it up to date")
        }
        Ok(Schema { engine, found, .. }) => finding(Level::Ok, format!("{engine}, schema {found}"), "up to date"),
        Err(error) => {
            let mend = match place {
                Place::Folder(folder) => {
                    format!("look at the rights of `{}` and whether its disk is full", folder.display())
                }
                Place::Postgres { .. } => "is it running, and are address, user and password right? (--db)".to_owned(),
            };
            finding(Level::Failed, error.chain(), "no server can start on it").mend(mend)
        }
    }
}

/// Looks at the place for blobs: whether it answers, and what it can do. Throw-away objects are written and removed.
pub(super) async fn bucket(config: &Config) -> Finding {
    let place = blob_config(config);
    let finding = |level, found: String, meaning: &str| Finding::new("blobs", level, found, meaning);
    if let BlobConfig::Local { folder } = &place
        && !folder.exists()
    {
        return finding(Level::Ok, format!("`{}` is not there yet", folder.display()), "the first start will make it");
    }
    let looked = match Blobs::open(place) {
        Ok(blobs) => blobs.probe().await,
        Err(error) => Err(error),
    };
    match looked {
        Ok(able) => judge_capabilities(&able),
        Err(error) => finding(Level::Failed, chain(&error), "no blob can be stored or fetched")
            .mend("does the bucket exist, and are endpoint, region and key right? (blob.* in `quarry config show`)"),
    }
}

fn judge_capabilities(able: &Capabilities) -> Finding {
    let needed = [("multipart uploads", &able.multipart), ("range reads", &able.range_reads), ("copies", &able.copy)];
    let lacks = needed.iter().filter(|(_, able)| !able.works).map(|(name, _)| *name).collect::<Vec<_>>();
    let found = format!("{}, a write takes {:.1} ms", able.place, able.write_us as f64 / 1e3);
    if !lacks.is_empty() {
        let found = format!("{found}; it lacks {}", lacks.join(", "));
        return Finding::new("blobs", Level::Warning, found, "large blobs will be slow or fail")
            .mend("use another store");
    }
    let meaning = match able.conditional_put.works {
        true => "it can do all that blobs need",
        false => "it can do all that blobs need; it ignores conditions on writes, which Quarry never relies on",
    };
    Finding::new("blobs", Level::Ok, found, meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_judged_by_its_age() {
        let check = |found, level| {
            let schema = Schema { engine: "PostgreSQL 15".to_owned(), found, known: 3 };
            let place = Place::Folder("x".into());
            assert_eq!(judge_schema(Ok(schema), &place).level, level, "{found}");
        };
        check(0, Level::Ok);
        check(2, Level::Note);
        check(3, Level::Ok);
        check(4, Level::Failed);
    }
}
