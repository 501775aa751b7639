//! Which page of a list a request asks for, and the cursor of the next one.

use workspace_status_http::{Parameters, Problem, encode_cursor};

/// The parameters that every list has.
pub(super) const LIMIT: &str = "limit";
pub(super) const CURSOR: &str = "cursor";

/// How many a page of a list has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Where the request does not say.
    pub(super) usual: usize,
    /// At most.
    pub(super) most: usize,
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct Paging {
    /// What the pages are of: a cursor of another list is refused.
    pages: String,
    pub(super) limit: usize,
    /// The position at which the page before ended.
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

    /// The cursor of the page that follows a position.
    pub(super) fn cursor(&self, position: &str) -> String {
        encode_cursor(&self.pages, position)
    }
}
