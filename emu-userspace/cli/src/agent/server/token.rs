//! The token that clients of the HTTP server must send (RFC 6750).
use std::{
    fmt,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use axum::http::{HeaderMap, header};
use emu_model::input;
use nix::unistd::geteuid;
use subtle::ConstantTimeEq;

/// Shortest token: 16 characters of base64 are 96 bits.
const SHORTEST: usize = 16;
/// Longest token with a line's end.
const LONGEST: u64 = 4_096;
/// Access of anybody but the owner.
const ACCESS_OF_OTHERS: u32 = 0o077;

/// Why a token cannot be used. No error tells a part of the file.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("--token-file {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "--token-file {}: mode {mode:04o} lets other users read or change it; \
         expected 0600 or 0400 (chmod 600 {})",
        path.display(),
        path.display()
    )]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "--token-file {}: it belongs to user {owner}; expected root or the user of the agent",
        path.display()
    )]
    Owner { path: PathBuf, owner: u32 },
    #[error(
        "--token-file {}: expected one line of at least {SHORTEST} letters, digits or \
         -._~+/= (head -c 32 /dev/urandom | base64)",
        path.display()
    )]
    Content { path: PathBuf },
}

/// A token.
#[derive(Clone)]
pub struct Token(Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads a token from a file that only its owner can read.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let error = |source| TokenError::Read {
            path: path.to_owned(),
            source,
        };
        let file = input::open(path).map_err(error)?;
        // Of the open file, not of the path, which may change.
        let metadata = file.metadata().map_err(error)?;
        let (path, mode) = (path.to_owned(), metadata.mode() & 0o7777);
        if mode & ACCESS_OF_OTHERS != 0 {
            return Err(TokenError::Mode { path, mode });
        }
        let owner = metadata.uid();
        if owner != 0 && owner != geteuid().as_raw() {
            return Err(TokenError::Owner { path, owner });
        }
        let mut bytes = Vec::new();
        let read = file.take(LONGEST).read_to_end(&mut bytes);
        read.map_err(|source| TokenError::Read {
            path: path.clone(),
            source,
        })?;
        let token = bytes.trim_ascii_end();
        let is_fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
        if token.len() < SHORTEST || !token.iter().all(is_fine) {
            return Err(TokenError::Content { path });
        }
        Ok(Self(token.to_vec()))
    }

    /// Whether a request has this token. The time depends on the length of what was sent, not
    /// on its characters.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return false;
        };
        let Some((scheme, given)) = value.as_bytes().split_at_checked("Bearer ".len()) else {
            return false;
        };
        // The scheme's case does not matter (RFC 9110, section 11.1).
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(self.0.ct_eq(given))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use axum::http::HeaderValue;

    use super::*;

    fn file(content: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    const GOOD: &str = "0123456789abcdefXYZ+/-._~==";

    #[test]
    fn files_that_others_can_read_and_bad_tokens_are_refused() {
        for mode in [0o604, 0o640, 0o602, 0o620, 0o644, 0o610] {
            let file = file(GOOD, mode);
            let error = Token::read(file.path()).unwrap_err();
            assert!(matches!(error, TokenError::Mode { .. }), "{error}");
        }
        for content in [
            "",
            "short",
            "0123456789abcdef with a blank",
            "0123456789\nabcdefgh",
        ] {
            let file = file(content, 0o600);
            let error = Token::read(file.path()).unwrap_err();
            assert!(matches!(error, TokenError::Content { .. }), "{error}");
            assert!(content.is_empty() || !error.to_string().contains(content));
        }
        for path in ["/nonexistent", "/", "/dev/zero"] {
            let error = Token::read(Path::new(path)).unwrap_err();
            assert!(matches!(error, TokenError::Read { .. }), "{error}");
        }
        for (content, mode) in [(GOOD.to_owned(), 0o600), (format!("{GOOD}\n"), 0o400)] {
            let token = Token::read(file(&content, mode).path()).unwrap();
            assert_eq!(token.0, GOOD.as_bytes());
            assert!(!format!("{token:?}").contains(GOOD));
        }
    }

    #[test]
    fn only_the_same_token_is_right() {
        let token = Token::read(file(GOOD, 0o600).path()).unwrap();
        let is_right = |value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            token.is_in(&HeaderMap::from_iter([(header::AUTHORIZATION, value)]))
        };
        assert!(is_right(&format!("Bearer {GOOD}")) && is_right(&format!("bearer {GOOD}")));
        let others = ["", "Bearer", "Bearer ", "Basic x", "B\u{e9}arer x", GOOD];
        assert!(others.iter().all(|other| !is_right(other)));
        assert!(!is_right(&format!("Bearer {GOOD}=")));
        assert!(!is_right(&format!("Bearer {}", &GOOD[1..])));
        assert!(!is_right(&format!("Basic {GOOD}")));
        assert!(!token.is_in(&HeaderMap::new()));
    }
}
