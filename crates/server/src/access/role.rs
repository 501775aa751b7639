//! Roles, and the rights that each of them has.

use std::{fmt, str::FromStr};

/// What a route needs from its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Status, lists, history, alerts and metrics.
    View,
    /// What events contain: entities and dead letters.
    Read,
    /// Appending events.
    Produce,
    /// Actions on workspaces.
    Operate,
}

/// What a caller lacks for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Any role.
    Role,
    /// A right.
    Right(Right),
    /// The workspace's id does not begin with the caller's prefix.
    Workspace,
    /// The route concerns all workspaces, and the caller is limited to a prefix.
    AllWorkspaces,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    None,
    Viewer,
    Reader,
    Producer,
    Operator,
    Admin,
}

/// The text is not the name of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one of viewer, reader, producer, operator, admin")]
pub(crate) struct UnknownRole;

impl Right {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Read => "read",
            Self::Produce => "produce",
            Self::Operate => "operate",
        }
    }

    /// The role with the fewest rights that has this one.
    pub(crate) const fn least_role(self) -> Role {
        match self {
            Self::View => Role::Viewer,
            Self::Read => Role::Reader,
            Self::Produce => Role::Producer,
            Self::Operate => Role::Operator,
        }
    }
}

impl Role {
    /// The roles that a token can have.
    pub(crate) const GRANTABLE: [Self; 5] = [
        Self::Viewer,
        Self::Reader,
        Self::Producer,
        Self::Operator,
        Self::Admin,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Viewer => "viewer",
            Self::Reader => "reader",
            Self::Producer => "producer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    pub(crate) const fn rights(self) -> &'static [Right] {
        match self {
            Self::None => &[],
            Self::Viewer => &[Right::View],
            Self::Reader => &[Right::View, Right::Read],
            Self::Producer => &[Right::Produce],
            Self::Operator => &[Right::View, Right::Read, Right::Operate],
            Self::Admin => &[Right::View, Right::Read, Right::Produce, Right::Operate],
        }
    }

    pub(crate) fn has(self, right: Right) -> bool {
        self.rights().contains(&right)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::GRANTABLE
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(UnknownRole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_role_of_a_right_has_it_and_no_other_grantable_role_has_fewer() {
        for right in [Right::View, Right::Read, Right::Produce, Right::Operate] {
            let least = right.least_role();
            assert!(least.has(right), "{right:?}");
            for role in Role::GRANTABLE.into_iter().filter(|role| role.has(right)) {
                assert!(role.rights().len() >= least.rights().len(), "{role}");
            }
        }
    }

    #[test]
    fn every_grantable_role_is_read_as_it_is_written() {
        for role in Role::GRANTABLE {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        for text in ["none", "Viewer", "", "root"] {
            assert_eq!(text.parse::<Role>(), Err(UnknownRole), "{text}");
        }
    }
}
