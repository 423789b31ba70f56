//! The query of a request target: a parameter taken out in every spelling, or put in, and the rest byte for byte as it was.

use countersign_certs::spelling::is_same_parameter;

use crate::request::RequestError;

/// The query without the parameters that some server reads as one of these names; none if there is nothing to take out.
///
/// # Errors
/// Such a parameter stands beside a `;`. Some servers take that for a separator, and what is left would mean different things.
pub(super) fn without<'name>(
    query: &str,
    names: impl Iterator<Item = &'name str> + Clone,
) -> Result<Option<String>, RequestError> {
    let is_named = |text: &str| names.clone().any(|name| is_spelling_of(text, name));
    let mut found = false;
    let mut kept = Vec::new();
    for parameter in query.split('&') {
        if parameter.contains(';') && parameter.split(';').any(is_named) {
            return Err(RequestError::QuerySeparator);
        }
        if is_named(parameter) {
            found = true;
        } else {
            kept.push(parameter);
        }
    }
    Ok(found.then(|| kept.join("&")))
}

/// Whether a parameter has a name that some server reads as this one.
fn is_spelling_of(parameter: &str, name: &str) -> bool {
    is_same_parameter(&decoded(parameter.split('=').next().unwrap_or_default().as_bytes()), name.as_bytes())
}

/// A text without its percent-encoding, in which a plus sign stands for a blank; an escape that is none stays as it is, as most
/// servers leave it.
pub(super) fn decoded(text: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let escape = digit(after.first()).zip(digit(after.get(1))).filter(|_| *byte == b'%');
        match escape {
            Some((high, low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = after.get(2..).unwrap_or_default();
            }
            None => decoded.push(if *byte == b'+' { b' ' } else { *byte }),
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, expected: Option<&str>) {
        let left = without(query, ["api_key", "sig"].into_iter()).unwrap();
        assert_eq!(left.as_deref(), expected, "{query}");
    }

    #[test]
    fn every_spelling_of_a_name_is_taken_out() {
        for own in [
            "api_key=own",
            "api_key",
            "api%5Fkey=own",
            "%61pi_ke%79=own",
            "API_Key=own",
            "api-key=own",
            "api.key=own",
            "api+key=own",
            "+api_key=own",
            "%20api_key=own",
            "api_key[]=own",
            "api_key%5Ba%5D=own",
            "api_key%00x=own",
            "sig=own",
        ] {
            check(own, Some(""));
            check(&format!("a=1&{own}&b=%20"), Some("a=1&b=%20"));
            check(&format!("{own}&{own}&b"), Some("b"));
        }
    }

    #[test]
    fn other_parameters_go_on_byte_for_byte() {
        for other in ["", "a=api_key", "api_keys=1", "xapi_key=1", "apikey=1", "api_ke%7=1", "&&a==b&+%zz", "a=1;b=2"] {
            check(other, None);
        }
        check("&a=%2f&&api_key=1&", Some("&a=%2f&&"));
    }

    #[test]
    fn a_name_beside_a_semicolon_is_refused() {
        for query in ["a=1;api_key=2", "api_key=2;a=1", "b&a;api%5fkey", "a=;sig="] {
            assert_eq!(without(query, ["api_key", "sig"].into_iter()), Err(RequestError::QuerySeparator), "{query}");
        }
    }
}
