//! Names and passwords as HTTP's Basic scheme carries them (RFC 7617), and the hashes by which they are checked.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::text;

pub mod hash;

pub use hash::{PasswordHash, PasswordHashError};

/// Longest user name in bytes.
pub const USER_BYTES_MAX: usize = 128;

/// Longest password in bytes.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// A password: wiped when dropped; no Debug, no Clone.
pub struct Password(Zeroizing<String>);

/// Who a caller claims to be, and the password that should prove it.
pub struct Basic {
    /// The claimed name. Nothing is proven yet.
    pub user: String,
    /// The password shown.
    pub password: Password,
}

/// Why a text is no credential of the Basic scheme. None of them shows what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BasicError {
    /// Not base64, or not as strictly as RFC 4648 §3.5 asks.
    #[error("the Basic credentials are no base64 with its padding (RFC 7617 §2)")]
    Base64,
    /// A control character, which RFC 7617 §2 forbids.
    #[error("the Basic credentials hold a control character (RFC 7617 §2)")]
    ControlCharacter,
    /// No colon between name and password.
    #[error("the Basic credentials have no colon between name and password (RFC 7617 §2)")]
    NoColon,
    /// A password that is empty or too long.
    #[error("a password has 1 to {PASSWORD_BYTES_MAX} bytes; this one has {bytes}")]
    Password {
        /// How many it has.
        bytes: usize,
    },
    /// Another scheme.
    #[error("the credentials are not of the Basic scheme")]
    Scheme,
    /// Longer than any name and password make it.
    #[error("the Basic credentials have {bytes} bytes; the most is {}", encoded_bytes_max())]
    TooLong {
        /// How many they have.
        bytes: usize,
    },
    /// A name that is empty or too long.
    #[error("a user name has 1 to {USER_BYTES_MAX} bytes; this one has {bytes}")]
    User {
        /// How many it has.
        bytes: usize,
    },
    /// Not UTF-8.
    #[error("the Basic credentials are no UTF-8 (RFC 7617 §2.1)")]
    Utf8,
}

impl Password {
    /// Takes a password as a person typed it.
    ///
    /// # Errors
    /// It is empty, too long, or has a control character: no caller could show it.
    pub fn new(text: Zeroizing<String>) -> Result<Self, BasicError> {
        if text.is_empty() || text.len() > PASSWORD_BYTES_MAX {
            return Err(BasicError::Password { bytes: text.len() });
        }
        if !text::is_note(&text, PASSWORD_BYTES_MAX) {
            return Err(BasicError::ControlCharacter);
        }
        Ok(Self(text))
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Basic {
    /// Reads the value of an `Authorization` header.
    ///
    /// # Errors
    /// Another scheme, not base64, not UTF-8, control characters, no colon, or parts that are empty or too long.
    pub fn parse(value: &str) -> Result<Self, BasicError> {
        let (scheme, encoded) = value.split_once(' ').ok_or(BasicError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(BasicError::Scheme);
        }
        // RFC 9110 §11.4 allows several spaces.
        let encoded = encoded.trim_start_matches(' ');
        if encoded.len() > encoded_bytes_max() {
            return Err(BasicError::TooLong { bytes: encoded.len() });
        }
        let decoded = Zeroizing::new(STANDARD.decode(encoded).map_err(|_strange| BasicError::Base64)?);
        let text = std::str::from_utf8(&decoded).map_err(|_strange| BasicError::Utf8)?;
        if text.chars().any(char::is_control) {
            return Err(BasicError::ControlCharacter);
        }
        // The first colon ends the name; the password may have more.
        let (user, password) = text.split_once(':').ok_or(BasicError::NoColon)?;
        if !text::is_name(user, USER_BYTES_MAX) {
            return Err(BasicError::User { bytes: user.len() });
        }
        Ok(Self { user: user.to_owned(), password: Password::new(Zeroizing::new(password.to_owned()))? })
    }
}

/// The base64 of the longest name, a colon and the longest password.
const fn encoded_bytes_max() -> usize {
    (USER_BYTES_MAX + 1 + PASSWORD_BYTES_MAX).div_ceil(3) * 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: impl AsRef<[u8]>) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[track_caller]
    fn check(value: &str, expected: Result<(&str, &str), BasicError>) {
        let parsed = Basic::parse(value);
        let parsed =
            parsed.as_ref().map(|basic| (basic.user.as_str(), basic.password.0.as_str())).map_err(|error| *error);
        assert_eq!(parsed, expected, "{value:?}");
    }

    #[test]
    fn name_and_password_are_read() {
        // The example of RFC 7617 §2.
        check("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", Ok(("Aladdin", "open sesame")));
        check("bAsIc   QWxhZGRpbjpvcGVuIHNlc2FtZQ==", Ok(("Aladdin", "open sesame")));
        check(&encoded("ada:a:b:"), Ok(("ada", "a:b:")));
        check(&encoded("zoë:£"), Ok(("zoë", "£")));
    }

    #[test]
    fn everything_else_is_refused() {
        check("", Err(BasicError::Scheme));
        check("Basic", Err(BasicError::Scheme));
        check("Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==", Err(BasicError::Scheme));
        check("Basic ", Err(BasicError::NoColon));
        check("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ", Err(BasicError::Base64));
        check("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=", Err(BasicError::Base64));
        check("Basic QWxhZGRpbjpvcGVuIHNlc2FtZR==", Err(BasicError::Base64));
        check("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ== ", Err(BasicError::Base64));
        check("Basic QWxhZGRp-jpvcGVuIHNlc2FtZQ==", Err(BasicError::Base64));
        check(&encoded("ada"), Err(BasicError::NoColon));
        check(&encoded(b"ada:\xff"), Err(BasicError::Utf8));
        for hostile in ["a\0da:x", "ada\n:x", "ada:x\r\n", "ada:\u{7f}", "ada:\u{85}"] {
            check(&encoded(hostile), Err(BasicError::ControlCharacter));
        }
    }

    #[test]
    fn names_and_passwords_have_bounds() {
        check(&encoded(":x"), Err(BasicError::User { bytes: 0 }));
        check(&encoded("ada:"), Err(BasicError::Password { bytes: 0 }));
        let (user, password) = ("u".repeat(128), "p".repeat(1024));
        check(&encoded(format!("{user}:{password}")), Ok((&user, &password)));
        check(&encoded(format!("{user}u:p")), Err(BasicError::User { bytes: 129 }));
        check(&encoded(format!("u:p{password}")), Err(BasicError::Password { bytes: 1025 }));
        check(&encoded(format!("{user}:{password}pppp")), Err(BasicError::TooLong { bytes: 1544 }));
    }

    #[test]
    fn a_typed_password_obeys_the_same_bounds() {
        let new = |text: &str| Password::new(Zeroizing::new(text.to_owned())).map(drop);
        assert_eq!(new("correct horse"), Ok(()));
        assert_eq!(new(""), Err(BasicError::Password { bytes: 0 }));
        assert_eq!(new("a\tb"), Err(BasicError::ControlCharacter));
        assert_eq!(new(&"p".repeat(1025)), Err(BasicError::Password { bytes: 1025 }));
    }
}
