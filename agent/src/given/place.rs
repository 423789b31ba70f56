//! Where a credential stands in a request, and how it is written there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::web::encode;

/// Longest credential in bytes, as it is written into a request. Tokens of large directories have about 8 KiB.
const WRITTEN_BYTES_MAX: usize = 16 * 1024;

/// Where a credential stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Header(HeaderName),
    Query(Box<str>),
}

/// How it is written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    /// As `Authorization: Basic` (RFC 7617), with this user's name before it.
    Basic { user: String },
    /// As it is, as the value of a header.
    Header(HeaderName),
    /// Percent-encoded, as a parameter of the query.
    Query(Box<str>),
}

/// A credential as it stands in a request. It is wiped from memory when the last request that has it is gone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Written {
    /// Marked sensitive: it prints as `Sensitive` and is never indexed by HPACK.
    Header(HeaderValue),
    /// `name=value`.
    Query(Zeroizing<String>),
}

/// Why a credential cannot be written into a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwritable {
    #[error("no header can have this value")]
    Character,
    #[error("it has {bytes} bytes as it is written into a request; the most is {WRITTEN_BYTES_MAX}")]
    TooLong { bytes: usize },
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(name) => write!(formatter, "the header {name}"),
            Self::Query(name) => write!(formatter, "the parameter {name:?}"),
        }
    }
}

impl Form {
    /// Where it stands.
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Basic { .. } => Place::Header(AUTHORIZATION),
            Self::Header(name) => Place::Header(name.clone()),
            Self::Query(name) => Place::Query(name.clone()),
        }
    }

    /// Writes a credential.
    pub(crate) fn write(&self, secret: &str) -> Result<Written, Unwritable> {
        match self {
            Self::Basic { user } => {
                let pair = Zeroizing::new([user.as_bytes(), b":", secret.as_bytes()].concat());
                let encoded = Zeroizing::new(STANDARD.encode(&*pair));
                header(["Basic ", &encoded])
            }
            Self::Header(_) => header([secret]),
            Self::Query(name) => {
                let mut pair = Zeroizing::new(Vec::with_capacity(name.len() + 1 + 3 * secret.len()));
                encode(name, &mut pair);
                pair.push(b'=');
                encode(secret, &mut pair);
                check_length(pair.len())?;
                // What was encoded is ASCII.
                let text = std::str::from_utf8(&pair).map_err(|_never| Unwritable::Character)?;
                Ok(Written::Query(Zeroizing::new(text.to_owned())))
            }
        }
    }
}

/// A header value that is wiped when it is dropped.
pub(crate) fn header<const N: usize>(parts: [&str; N]) -> Result<Written, Unwritable> {
    let bytes = Zeroizing::new(parts.concat().into_bytes());
    check_length(bytes.len())?;
    let value = HeaderValue::from_maybe_shared(Bytes::from_owner(bytes));
    let mut value = value.map_err(|_not_a_value| Unwritable::Character)?;
    value.set_sensitive(true);
    Ok(Written::Header(value))
}

fn check_length(bytes: usize) -> Result<(), Unwritable> {
    if bytes > WRITTEN_BYTES_MAX { Err(Unwritable::TooLong { bytes }) } else { Ok(()) }
}

impl std::fmt::Debug for Written {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(form: &Form, secret: &str, expected: &str) {
        let text = match form.write(secret).unwrap() {
            Written::Header(value) => {
                assert!(value.is_sensitive());
                value.to_str().unwrap().to_owned()
            }
            Written::Query(pair) => pair.to_string(),
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn a_credential_is_written_as_its_place_demands() {
        check(&Form::Header(AUTHORIZATION), "Bearer a b", "Bearer a b");
        check(&Form::Query("key".into()), "a b&c=d%+", "key=a%20b%26c%3Dd%25%2B");
        check(&Form::Basic { user: "Aladdin".to_owned() }, "open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        check(&Form::Basic { user: "u".to_owned() }, "a:b", "Basic dTphOmI=");
    }

    #[test]
    fn what_cannot_be_written_is_an_error_that_does_not_repeat_it() {
        let long = "x".repeat(WRITTEN_BYTES_MAX + 1);
        assert_eq!(Form::Header(AUTHORIZATION).write("a\nb"), Err(Unwritable::Character));
        for form in [Form::Header(AUTHORIZATION), Form::Query("key".into()), Form::Basic { user: "u".to_owned() }] {
            assert!(matches!(form.write(&long), Err(Unwritable::TooLong { .. })), "{form:?}");
        }
        assert_eq!(format!("{:?}", Form::Query("key".into()).write("hunter2")), "Ok(Written)");
    }
}
