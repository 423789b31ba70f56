//! Names that servers take for the same although they are written otherwise.

/// Whether two names differ in nothing but the case of letters and the marks between them: CGI (RFC 3875 §4.1.18) and what came after it
/// read such headers as one.
pub fn is_same_name(found: &[u8], name: &[u8]) -> bool {
    let same = |(one, other): (&u8, &u8)| {
        one.eq_ignore_ascii_case(other) || !(one.is_ascii_alphanumeric() || other.is_ascii_alphanumeric())
    };
    found.len() == name.len() && found.iter().zip(name).all(same)
}

/// The same of the decoded name of a parameter in a query, which may have blanks before it or be a list (PHP: `name[]`), or a zero byte
/// behind it.
pub fn is_same_parameter(found: &[u8], name: &[u8]) -> bool {
    let found = found.trim_ascii_start();
    let end = found.iter().position(|byte| *byte == b'[' || byte.is_ascii_control()).unwrap_or(found.len());
    is_same_name(found.get(..end).unwrap_or_default(), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_marks_make_no_other_name() {
        for found in ["x-api-key", "X-API-Key", "x_api_key", "x.api-key", "x api key"] {
            assert!(is_same_name(found.as_bytes(), b"x-api-key"), "{found}");
        }
        for found in ["x-api-keys", "xapikey", "x-api-kez", "xaapi-key", "x-api-ke-", ""] {
            assert!(!is_same_name(found.as_bytes(), b"x-api-key"), "{found}");
        }
    }

    #[test]
    fn what_stands_around_a_parameter_makes_no_other_name() {
        for found in ["model", " model", "\tModel", "model[]", "model[a]", "model\0x", "MODEL"] {
            assert!(is_same_parameter(found.as_bytes(), b"model"), "{found:?}");
        }
        for found in ["models", "amodel", "model x", "[model]", "mod\0el", ""] {
            assert!(!is_same_parameter(found.as_bytes(), b"model"), "{found:?}");
        }
    }
}
