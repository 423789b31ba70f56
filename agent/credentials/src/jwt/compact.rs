//! The three parts of a signed token (RFC 7515 §7.1), read but not believed.

use serde_json::{Map, Value};

use crate::algorithm::Algorithm;
use crate::encoding::from_base64url;
use crate::json::{self, JsonError};

/// A signed object whose signature nobody has looked at.
pub(crate) struct Compact<'text> {
    /// What was signed: the first two parts and the dot between them.
    pub(crate) signed: &'text str,
    pub(crate) header: Header,
    pub(crate) claims: Map<String, Value>,
    pub(crate) signature: Vec<u8>,
}

/// What a header says.
pub(crate) struct Header {
    pub(crate) algorithm: Algorithm,
    /// The name of the key.
    pub(crate) key_id: Option<String>,
    /// The type, in lower case and without the `application/` that RFC 7515 §4.1.9 lets a writer leave out.
    pub(crate) media_type: Option<String>,
    /// The key itself, which only a DPoP proof has.
    pub(crate) key: Option<Map<String, Value>>,
}

/// Whose key verifies a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// The issuer's, found by its name.
    Issuer,
    /// The one in the header (RFC 9449 §4.2).
    Header,
}

/// Why a text is no signed object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// An algorithm that is unknown, or none.
    #[error("its algorithm {0:?} is none that is known here")]
    Algorithm(String),
    /// A part that is no base64url.
    #[error("its {part} is no base64url without padding")]
    Base64 {
        /// Which.
        part: &'static str,
    },
    /// An encrypted token (RFC 7516).
    #[error("it is encrypted, and only signed tokens are accepted")]
    Encrypted,
    /// A header with something that must not be followed, or is not understood.
    #[error("its header has {name:?}: {why}")]
    Header {
        /// Which member.
        name: &'static str,
        /// Why it is refused.
        why: &'static str,
    },
    /// A member of the header that is missing, of another type, or out of bounds.
    #[error("the {name:?} in its header is missing, or not what it has to be")]
    HeaderMember {
        /// Which.
        name: &'static str,
    },
    /// A part that is not the JSON that is expected.
    #[error("its {part} cannot be read")]
    Json {
        /// Which.
        part: &'static str,
        /// What is wrong.
        #[source]
        source: JsonError,
    },
    /// Another number of parts than three.
    #[error("it has {count} parts between dots; a signed token has 3")]
    Parts {
        /// How many it has, six at most.
        count: usize,
    },
    /// Too long.
    #[error("it has {bytes} bytes; the most is {bytes_max}")]
    TooLong {
        /// How many it has.
        bytes: usize,
        /// The most.
        bytes_max: usize,
    },
}

/// Members of a header that are refused, whatever they say.
const REFUSED: [(&str, &str); 8] = [
    ("b64", "payloads are base64url here (RFC 7797)"),
    ("crit", "extensions that must be understood are not"),
    ("enc", "only signed tokens are accepted"),
    ("jku", "keys are fetched from where the issuer's settings say"),
    ("x5c", "keys come from the issuer's set, not from the token"),
    ("x5u", "keys are fetched from where the issuer's settings say"),
    ("zip", "what unpacks to more than was sent is not unpacked"),
    // Last, since a DPoP proof may have it.
    ("jwk", "keys come from the issuer's set, not from the token"),
];

impl<'text> Compact<'text> {
    /// Reads a text.
    pub(crate) fn read(text: &'text str, bytes_max: usize, key: KeySource) -> Result<Self, CompactError> {
        if text.len() > bytes_max {
            return Err(CompactError::TooLong { bytes: text.len(), bytes_max });
        }
        let (signed, header, claims, signature) = split(text)?;
        let header = Header::read(&part(header, "header")?, key)?;
        Ok(Self {
            signed,
            header,
            claims: part(claims, "payload")?,
            signature: from_base64url(signature).ok_or(CompactError::Base64 { part: "signature" })?,
        })
    }
}

fn split(text: &str) -> Result<(&str, &str, &str, &str), CompactError> {
    match text.split('.').take(6).count() {
        3 => {}
        5 => return Err(CompactError::Encrypted),
        count => return Err(CompactError::Parts { count }),
    }
    let parts = text.rsplit_once('.').and_then(|(signed, signature)| {
        signed.split_once('.').map(|(header, claims)| (signed, header, claims, signature))
    });
    parts.ok_or(CompactError::Parts { count: 0 })
}

fn part(encoded: &str, part: &'static str) -> Result<Map<String, Value>, CompactError> {
    let bytes = from_base64url(encoded).ok_or(CompactError::Base64 { part })?;
    json::object(&bytes).map_err(|source| CompactError::Json { part, source })
}

impl Header {
    fn read(members: &Map<String, Value>, key: KeySource) -> Result<Self, CompactError> {
        let refused = REFUSED.iter().filter(|(name, _)| key == KeySource::Issuer || *name != "jwk");
        for (name, why) in refused {
            if members.contains_key(*name) {
                return Err(CompactError::Header { name, why });
            }
        }
        if text(members, "cty")?.is_some_and(|content| media_type(&content) == "jwt") {
            return Err(CompactError::Header { name: "cty", why: "a token inside a token is not looked for" });
        }
        let name = text(members, "alg")?.ok_or(CompactError::HeaderMember { name: "alg" })?;
        let algorithm = Algorithm::named(&name);
        let key_id = text(members, "kid")?;
        if key_id.as_ref().is_some_and(|id| !crate::text::is_name(id, crate::jwk::KEY_ID_BYTES_MAX)) {
            return Err(CompactError::HeaderMember { name: "kid" });
        }
        let key = match members.get("jwk") {
            Some(Value::Object(key)) => Some(key.clone()),
            Some(_) => return Err(CompactError::HeaderMember { name: "jwk" }),
            None => None,
        };
        Ok(Self {
            algorithm: algorithm.ok_or_else(|| CompactError::Algorithm(crate::text::shown(&name)))?,
            key_id,
            media_type: text(members, "typ")?.as_deref().map(media_type),
            key,
        })
    }
}

fn text(members: &Map<String, Value>, name: &'static str) -> Result<Option<String>, CompactError> {
    match members.get(name) {
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(CompactError::HeaderMember { name }),
        None => Ok(None),
    }
}

fn media_type(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    lower.strip_prefix("application/").map(str::to_owned).unwrap_or(lower)
}
