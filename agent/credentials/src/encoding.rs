//! base64url without padding, as JOSE uses it (RFC 7515 §2).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The bytes. Padding, characters of other alphabets, white space and bits that no byte needs are refused: each would let one value
/// have two texts.
pub(crate) fn from_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// The 32 bytes of a SHA-256 digest.
pub(crate) fn digest_from_base64url(text: &str) -> Option<[u8; 32]> {
    from_base64url(text)?.try_into().ok()
}

/// The text.
pub(crate) fn to_base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_text() {
        assert_eq!(from_base64url("_-8"), Some(vec![0xff, 0xef]));
        assert_eq!(to_base64url(&[0xff, 0xef]), "_-8");
        for text in ["_-8=", "/+8", "_-9", "_-8 ", " _-8", "_\n-8", "_", "_-8."] {
            assert_eq!(from_base64url(text), None, "{text:?}");
        }
        assert_eq!(digest_from_base64url(&"A".repeat(43)), Some([0; 32]));
        assert_eq!(digest_from_base64url(&"A".repeat(42)), None);
        assert_eq!(digest_from_base64url(&"A".repeat(44)), None);
    }
}
