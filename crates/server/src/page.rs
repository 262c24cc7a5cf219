//! Pages of lists: how many entries one has, where it begins, and where the next one does.
//!
//! A list hands out as many entries as a page takes; only behind a full page there may be another. Whose entries they are,
//! and who may see them, is the list's business.

use crate::error::Answer;
use axum::Json;
use model::page::{after_invalid, page_limit};
use model::{ApiError, Page, PageQuery};
use std::str::FromStr;

/// How many entries a page has at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries(u32);

impl Entries {
    /// Takes what was asked for, refusing what is out of bounds.
    pub(crate) fn asked(limit: Option<u32>) -> Answer<Self> {
        Ok(Self(page_limit(limit)?))
    }

    /// Allows no more than so many.
    pub(crate) fn at_most(self, most: u32) -> Self {
        Self(self.0.min(most))
    }

    /// Returns the number.
    pub(crate) fn limit(self) -> u32 {
        self.0
    }

    /// Makes the page of what was found, with the log's head at that moment; the last entry says where the next begins.
    pub(crate) fn page<T>(self, (items, as_of): (Vec<T>, u64), next: impl FnOnce(&T) -> String) -> Json<Page<T>> {
        // A limit is never 0.
        let next = items.get(self.0 as usize - 1).map(next);
        Json(Page { items, next, as_of })
    }
}

/// Returns the id at which a page begins.
pub(crate) fn after<T>(asked: &PageQuery) -> Answer<Option<T>>
where
    T: FromStr<Err: std::fmt::Display>,
{
    let refuse = |why: T::Err| {
        let error = after_invalid();
        ApiError { message: format!("{}: {why}", error.message), ..error }
    };
    Ok(asked.after.as_deref().map(|text| text.parse().map_err(refuse)).transpose()?)
}
