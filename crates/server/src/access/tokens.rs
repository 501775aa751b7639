//! The tokens file: the callers, identified by the hash of a token or by the name in a client certificate.
//!
//! ```toml
//! ci = { hash = "sha256:…", role = "producer", prefix = "acme-" }
//! # Without a hash: a client certificate with this common name.
//! "node 1" = { role = "viewer" }
//! ```
//!
//! Errors repeat only keys of the file: a token or a hash may be in the wrong place.

use super::{
    caller::{ANONYMOUS, Caller},
    role::Role,
    token::{InvalidHash, TokenHash},
};
use std::collections::HashMap;
use toml::de::{DeTable, DeValue};

/// Longest name of a caller: every line of the audit log contains it.
const MAX_NAME_BYTES: usize = 128;
/// Longest id of a workspace, and so the longest prefix.
const MAX_PREFIX_BYTES: usize = 255;

/// The callers in a file.
#[derive(Default)]
pub(crate) struct Tokens {
    by_hash: HashMap<[u8; 4], Vec<(TokenHash, Caller)>>,
    by_name: HashMap<String, Caller>,
}

/// Why a tokens file is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(crate) struct TokensError {
    line: usize,
    reason: Reason,
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("not UTF-8")]
    Encoding,
    #[error("{0}")]
    Syntax(String),
    #[error("not of the form NAME = {{ hash = \"sha256:…\", role = \"viewer\" }}")]
    Form,
    #[error("{0}")]
    Name(InvalidName),
    #[error("unknown key; an entry has hash, role and prefix")]
    UnknownKey,
    #[error("the entry has no role")]
    NoRole,
    #[error("the role is not one of viewer, reader, producer, operator, admin")]
    Role,
    #[error("the hash is {0}")]
    Hash(InvalidHash),
    #[error("the hash is that of another entry")]
    SameHash,
    #[error("{0}")]
    Prefix(InvalidPrefix),
}

/// The text is not a caller's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name has 1 to {} bytes, no control characters, and is not {:?}",
    MAX_NAME_BYTES,
    ANONYMOUS
)]
pub(crate) struct InvalidName;

/// The text cannot be the prefix of a workspace id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a prefix has 1 to {} bytes of A-Z a-z 0-9 . _ : -", MAX_PREFIX_BYTES)]
pub(crate) struct InvalidPrefix;

impl Tokens {
    /// Parses a file's content.
    ///
    /// # Errors
    /// [`TokensError`] names the line.
    pub(crate) fn read(content: &[u8]) -> Result<Self, TokensError> {
        let text = str::from_utf8(content).map_err(|error| TokensError {
            line: line_of(content, error.valid_up_to()),
            reason: Reason::Encoding,
        })?;
        let at = |position: usize, reason| TokensError {
            line: line_of(content, position),
            reason,
        };
        let table = DeTable::parse(text).map_err(|error| {
            let message = error.message().trim().replace('\n', ", ");
            at(
                error.span().map_or(0, |span| span.start),
                Reason::Syntax(message),
            )
        })?;
        let mut tokens = Self::default();
        for (name, value) in table.get_ref() {
            tokens
                .add(name.get_ref(), value.get_ref())
                .map_err(|reason| at(name.span().start, reason))?;
        }
        Ok(tokens)
    }

    /// Number of callers.
    pub(crate) fn count(&self) -> usize {
        self.by_name.len()
    }

    /// The caller that a token belongs to.
    pub(crate) fn of_token(&self, token: &[u8]) -> Option<&Caller> {
        let hash = TokenHash::of_token(token)?;
        let bucket = self.by_hash.get(&hash.bucket())?;
        let (_, caller) = bucket.iter().find(|(known, _)| known.is(&hash))?;
        Some(caller)
    }

    /// The caller of the name in a client certificate.
    pub(crate) fn of_name(&self, name: &str) -> Option<&Caller> {
        self.by_name.get(name)
    }

    fn add(&mut self, name: &str, value: &DeValue<'_>) -> Result<(), Reason> {
        check_name(name).map_err(Reason::Name)?;
        let DeValue::Table(entry) = value else {
            return Err(Reason::Form);
        };
        let (mut hash, mut role, mut prefix) = (None, None, None);
        for (key, value) in entry {
            let DeValue::String(text) = value.get_ref() else {
                return Err(Reason::Form);
            };
            match &**key.get_ref() {
                "hash" => hash = Some(TokenHash::read(text).map_err(Reason::Hash)?),
                "role" => role = Some(text.parse::<Role>().map_err(|_| Reason::Role)?),
                "prefix" => prefix = Some(check_prefix(text).map_err(Reason::Prefix)?),
                _ => return Err(Reason::UnknownKey),
            }
        }
        let caller = Caller::new(name, role.ok_or(Reason::NoRole)?, prefix);
        if let Some(hash) = hash {
            let bucket = self.by_hash.entry(hash.bucket()).or_default();
            if bucket.iter().any(|(known, _)| known.is(&hash)) {
                return Err(Reason::SameHash);
            }
            bucket.push((hash, caller.clone()));
        }
        self.by_name.insert(name.to_owned(), caller);
        Ok(())
    }
}

/// The line of the file for a caller with a token.
pub(crate) fn line(name: &str, hash: &TokenHash, role: Role, prefix: Option<&str>) -> String {
    let prefix = prefix
        .map(|prefix| format!(", prefix = \"{prefix}\""))
        .unwrap_or_default();
    format!(
        "{} = {{ hash = \"{}\", role = \"{role}\"{prefix} }}",
        key(name),
        hash.text()
    )
}

/// A name as a TOML key.
fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if name.bytes().all(is_bare) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Checks a caller's name.
pub(crate) fn check_name(name: &str) -> Result<&str, InvalidName> {
    let is_valid = !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.chars().any(char::is_control)
        && name != ANONYMOUS;
    if is_valid { Ok(name) } else { Err(InvalidName) }
}

/// Checks the prefix of the ids of a caller's workspaces.
pub(crate) fn check_prefix(prefix: &str) -> Result<&str, InvalidPrefix> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    let is_valid = (1..=MAX_PREFIX_BYTES).contains(&prefix.len()) && prefix.bytes().all(is_plain);
    if is_valid {
        Ok(prefix)
    } else {
        Err(InvalidPrefix)
    }
}

/// Number of the line, from 1, in which the byte at `position` is.
fn line_of(content: &[u8], position: usize) -> usize {
    let before = content.iter().take(position);
    before.filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::token;

    const HASH: &str = "sha256:47d50ebd4a10c2d16d7356168ad24cd79753ca7f2c6e575fab6ec92ab3942aa4";

    #[test]
    fn a_line_that_was_printed_is_read() {
        for (name, prefix) in [("ci", None), ("node 1 \"\\", Some("acme-")), ("ü.x", None)] {
            let token = token::generate().unwrap();
            let hash = TokenHash::of_token(token.expose().as_bytes()).unwrap();
            let line = line(name, &hash, Role::Reader, prefix);
            let tokens = Tokens::read(format!("# a comment\n{line}\n").as_bytes()).unwrap();
            let expected = Caller::new(name, Role::Reader, prefix);
            let found = tokens.of_token(token.expose().as_bytes());
            assert_eq!(found, Some(&expected), "{line}");
            assert_eq!(tokens.of_name(name), Some(&expected));
            let other = token::generate().unwrap();
            assert_eq!(tokens.of_token(other.expose().as_bytes()), None);
        }
    }

    #[test]
    fn an_entry_without_a_hash_is_for_a_certificate() {
        let tokens = Tokens::read(b"[node-1]\nrole = \"viewer\"\n").unwrap();
        let expected = Caller::new("node-1", Role::Viewer, None);
        assert_eq!(tokens.of_name("node-1"), Some(&expected));
        assert_eq!(tokens.count(), 1);
        assert_eq!(tokens.of_token(b""), None);
    }

    fn check(text: &str, expected: &str) {
        let shown = match Tokens::read(text.as_bytes()) {
            Ok(tokens) => format!("{} callers", tokens.count()),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_with_its_line() {
        const FORM: &str = "not of the form NAME = { hash = \"sha256:…\", role = \"viewer\" }";
        check("", "0 callers");
        check(
            &format!("a = {{ hash = \"{HASH}\", role = \"viewer\" }}\na = {{ role = \"viewer\" }}"),
            "line 2: duplicate key",
        );
        check(
            &format!(
                "a = {{ hash = \"{HASH}\", role = \"viewer\" }}\n\nb = {{ hash = \"{HASH}\", role = \"admin\" }}"
            ),
            "line 3: the hash is that of another entry",
        );
        check(
            "a = { role = \"root\" }",
            "line 1: the role is not one of viewer, reader, producer, operator, admin",
        );
        check(
            "\na = { role = \"none\" }",
            "line 2: the role is not one of viewer, reader, producer, operator, admin",
        );
        check(
            &format!("a = {{ hash = \"{HASH}\" }}"),
            "line 1: the entry has no role",
        );
        check(
            "a = { role = \"viewer\", hash = \"sha256:12\" }",
            "line 1: the hash is not `sha256:` and 64 hexadecimal digits",
        );
        check(
            "a = { role = \"viewer\", prefix = \"\" }",
            "line 1: a prefix has 1 to 255 bytes of A-Z a-z 0-9 . _ : -",
        );
        check(
            "a = { role = \"viewer\", prefx = \"a\" }",
            "line 1: unknown key; an entry has hash, role and prefix",
        );
        check(
            "anonymous = { role = \"viewer\" }",
            "line 1: a name has 1 to 128 bytes, no control characters, and is not \"anonymous\"",
        );
        check("a = 1", &format!("line 1: {FORM}"));
        check("a = { role = 1 }", &format!("line 1: {FORM}"));
    }

    #[test]
    fn no_error_repeats_a_token_or_a_hash() {
        let token = token::generate().unwrap();
        let token = token.expose();
        for text in [
            format!("a = \"{token}\""),
            format!("a = \"{HASH}"),
            format!("a = {{ role = \"{token}\" }}"),
            format!("a = {{ hash = \"{token}\", role = \"viewer\" }}"),
            format!("a = {{ role = \"viewer\", prefix = \"{token}/\" }}"),
            format!("a = {{ {token} = 1 }}"),
            format!("a = {{ \"{token}\" = \"x\" }}"),
            format!("a = {token}"),
            token.to_owned(),
            format!("a = [\"{HASH}\"]"),
            HASH.to_owned(),
        ] {
            let Err(error) = Tokens::read(text.as_bytes()) else {
                panic!("{text} is no file of tokens")
            };
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(
                    !shown.contains(token.get(4..20).unwrap()),
                    "{text}: {shown}"
                );
                assert!(
                    !shown.contains(HASH.get(10..30).unwrap()),
                    "{text}: {shown}"
                );
            }
        }
    }
}
