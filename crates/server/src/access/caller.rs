//! Who sends a request, and what that caller may do.

use super::role::{Right, Role};
use std::{fmt, sync::Arc};

/// Name of a caller without a token and a certificate.
pub(crate) const ANONYMOUS: &str = "anonymous";

/// Who sends a request. Clones are cheap and share the same caller.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Caller(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    name: String,
    role: Role,
    prefix: Option<String>,
}

impl Caller {
    /// A caller; `prefix` limits it to workspaces whose ids begin with it.
    pub(crate) fn new(name: &str, role: Role, prefix: Option<&str>) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            role,
            prefix: prefix.map(str::to_owned),
        }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn role(&self) -> Role {
        self.0.role
    }

    pub(crate) fn has(&self, right: Right) -> bool {
        self.0.role.has(right)
    }

    /// Prefix of the ids of its workspaces; `None` where it may reach all.
    pub(crate) fn prefix(&self) -> Option<&str> {
        self.0.prefix.as_deref()
    }

    /// Whether a workspace is one of the caller's.
    pub(crate) fn may_reach(&self, id: &str) -> bool {
        self.prefix().is_none_or(|prefix| id.starts_with(prefix))
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
