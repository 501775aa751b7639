//! Parses which page of a list is requested, and makes the cursor of the next page.

use workspace_status_http::{Parameters, Problem, encode_cursor};

/// The parameters of every list.
pub(super) const LIMIT: &str = "limit";
pub(super) const CURSOR: &str = "cursor";

/// Number of entries of a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// If the request does not set it.
    pub(super) usual: usize,
    /// Maximum.
    pub(super) most: usize,
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct Paging {
    /// Identifies the list: a cursor of another list is refused.
    pages: String,
    pub(super) limit: usize,
    /// The position at which the previous page ended.
    pub(super) after: Option<String>,
}

impl Paging {
    pub(super) fn read(
        parameters: &Parameters<'_>,
        pages: String,
        size: Size,
    ) -> Result<Self, Problem> {
        Ok(Self {
            limit: parameters.limit(size.usual, size.most)?,
            after: parameters.cursor(&pages)?,
            pages,
        })
    }

    /// The cursor of the page after a position.
    pub(super) fn cursor(&self, position: &str) -> String {
        encode_cursor(&self.pages, position)
    }
}
