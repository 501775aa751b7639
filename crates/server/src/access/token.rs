//! Tokens: 32 random bytes after a prefix that secret scanners recognise, and the stored hash of a token.

use crate::secret::Secret;
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
};
use std::fmt::{self, Write};
use subtle::ConstantTimeEq;

/// Prefix of every token.
const TOKEN_PREFIX: &str = "wse_";
/// Prefix of every hash in the file.
const HASH_PREFIX: &str = "sha256:";
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// The hash of a token. A fast hash is enough: the 32 random bytes cannot be guessed.
#[derive(Clone, Copy)]
pub(crate) struct TokenHash([u8; 32]);

/// The text is not the hash of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not `sha256:` and 64 hexadecimal digits")]
pub(crate) struct InvalidHash;

/// The system returned no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub(crate) struct NoRandomness;

/// A new token.
pub(crate) fn generate() -> Result<Secret, NoRandomness> {
    let mut bytes = [0; TOKEN_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| NoRandomness)?;
    let mut text = String::from(TOKEN_PREFIX);
    write_hex(&bytes, &mut text);
    Ok(Secret::new(text))
}

impl TokenHash {
    /// The hash of a client's token; `None` where the input does not have the form of a token. This rejects tokens
    /// made up by people.
    pub(crate) fn of_token(token: &[u8]) -> Option<Self> {
        let digits = token.strip_prefix(TOKEN_PREFIX.as_bytes())?;
        if digits.len() != TOKEN_BYTES * 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let digest = digest::digest(&digest::SHA256, token);
        digest.as_ref().try_into().ok().map(Self)
    }

    /// Parses a hash in the form used in the file.
    pub(crate) fn read(text: &str) -> Result<Self, InvalidHash> {
        let digits = text.strip_prefix(HASH_PREFIX).ok_or(InvalidHash)?;
        let mut hash = [0; 32];
        let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
        if pairs.len() != hash.len() || !rest.is_empty() {
            return Err(InvalidHash);
        }
        for (byte, pair) in hash.iter_mut().zip(pairs) {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            let value = high.ok_or(InvalidHash)? * 16 + low.ok_or(InvalidHash)?;
            *byte = u8::try_from(value).map_err(|_| InvalidHash)?;
        }
        Ok(Self(hash))
    }

    /// The hash in the form used in the file.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from(HASH_PREFIX);
        write_hex(&self.0, &mut text);
        text
    }

    /// The bucket for lookups. Measuring the lookup time reveals part of a hash, not of its token.
    pub(crate) fn bucket(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }

    /// Constant-time comparison.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

fn write_hex(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash_and_no_two_are_the_same() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        let hash = TokenHash::of_token(one.expose().as_bytes()).unwrap();
        let kept = TokenHash::read(&hash.text()).unwrap();
        assert!(kept.is(&hash));
        assert_eq!(kept.bucket(), hash.bucket());
        let other = TokenHash::of_token(other.expose().as_bytes()).unwrap();
        assert!(!kept.is(&other));
    }

    #[test]
    fn a_hash_is_that_of_sha256sum() {
        let token = format!("wse_{}", "0".repeat(64));
        assert_eq!(
            TokenHash::of_token(token.as_bytes()).unwrap().text(),
            "sha256:47d50ebd4a10c2d16d7356168ad24cd79753ca7f2c6e575fab6ec92ab3942aa4"
        );
    }

    #[test]
    fn what_a_person_could_make_up_is_no_token() {
        for text in [
            "",
            "secret",
            "wse_",
            "wse_1234",
            &"0".repeat(64),
            &format!("wse_{}x", "0".repeat(63)),
            &format!("wse_{}", "0".repeat(65)),
        ] {
            assert!(TokenHash::of_token(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        let hash = "0".repeat(64);
        for text in [
            hash.as_str(),
            "sha256:",
            "sha256:00",
            &format!("sha256:{hash}0"),
            &format!("sha256:{}g", "0".repeat(63)),
            &format!("sha256:{}é", "0".repeat(62)),
            &format!("md5:{hash}"),
        ] {
            assert!(TokenHash::read(text).is_err(), "{text}");
        }
    }
}
