//! Takes back what an answer repeats: a service that sends its callers elsewhere ("the same with a slash at its end") often repeats the
//! whole query, and with it the credential that it was given there.

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memmem;
use zeroize::Zeroizing;

use super::query::{decoded, without};

/// A shorter secret is looked for together with its name: by itself it would be found everywhere.
const TELLING_BYTES_MIN: usize = 6;

/// How often a text may be encoded anew in one that leads somewhere by way of somewhere else.
const ENCODED_TIMES_MAX: usize = 3;

/// Takes secrets out of the head of an answer. Each is a `name=value` of the query as it was sent; `names` are those names.
pub(super) fn hide<'given>(
    headers: &mut HeaderMap,
    pairs: impl Iterator<Item = &'given str>,
    names: impl Iterator<Item = &'given str> + Clone,
) {
    let needles: Vec<Zeroizing<Vec<u8>>> = pairs.map(needle).collect();
    let reveals = |value: &HeaderValue| needles.iter().any(|needle| reveals(value.as_bytes(), needle));
    for name in [LOCATION, CONTENT_LOCATION] {
        let cleaned =
            headers.get(&name).filter(|value| reveals(value)).and_then(|url| without_query(url, names.clone()));
        if let Some(cleaned) = cleaned {
            headers.insert(name, cleaned);
        }
    }
    let revealing: Vec<HeaderName> =
        headers.iter().filter(|(_, value)| reveals(value)).map(|(name, _)| name.clone()).collect();
    for name in revealing {
        headers.remove(name);
    }
}

/// What is looked for, decoded as it will be looked for.
fn needle(pair: &str) -> Zeroizing<Vec<u8>> {
    let value = pair.split_once('=').map_or(pair, |(_, value)| value);
    let secret = Zeroizing::new(decoded(value.as_bytes()));
    let pair = if secret.len() < TELLING_BYTES_MIN { Zeroizing::new(decoded(pair.as_bytes())) } else { secret };
    Zeroizing::new(with_blanks(&pair))
}

fn reveals(value: &[u8], needle: &[u8]) -> bool {
    let mut text = Zeroizing::new(value.to_vec());
    for _ in 0..=ENCODED_TIMES_MAX {
        if memmem::find(&with_blanks(&text), needle).is_some() {
            return true;
        }
        let inner = Zeroizing::new(decoded(&text));
        if *inner == *text {
            return false;
        }
        text = inner;
    }
    false
}

/// Programs disagree whether a plus sign is a blank.
fn with_blanks(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect()
}

/// The URL without the parameters of these names.
fn without_query<'given>(url: &HeaderValue, names: impl Iterator<Item = &'given str> + Clone) -> Option<HeaderValue> {
    let (url, fragment) = split(url.to_str().ok()?, '#');
    let (place, query) = split(url, '?');
    let query = without(query.strip_prefix('?')?, names).ok()??;
    let mark = if query.is_empty() { "" } else { "?" };
    HeaderValue::try_from([place, mark, &query, fragment].concat()).ok()
}

/// The second part begins with the mark, or is empty.
fn split(text: &str, mark: char) -> (&str, &str) {
    text.split_at_checked(text.find(mark).unwrap_or(text.len())).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Location of an answer to a request that was given `key=ab%2Fcd%2Bef`.
    #[track_caller]
    fn check(location: &str, expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::try_from(location).unwrap());
        headers.insert("x-other", HeaderValue::from_static("kept"));
        hide(&mut headers, ["key=ab%2Fcd%2Bef"].into_iter(), ["key"].into_iter());
        assert_eq!(headers.get(LOCATION).map(|value| value.to_str().unwrap()), expected, "{location}");
        assert_eq!(headers.len(), 1 + usize::from(expected.is_some()));
    }

    #[test]
    fn a_repeated_query_goes_back_without_the_secret() {
        check("/v1/?key=ab%2Fcd%2Bef", Some("/v1/"));
        check("https://a/v1/?a=%20&key=ab%2Fcd%2Bef&b#c", Some("https://a/v1/?a=%20&b#c"));
        check("/v1/?KEY=ab/cd+ef", Some("/v1/"));
        check("/v1/?key=ab%2fcd+ef", Some("/v1/"));
    }

    #[test]
    fn what_repeats_the_secret_elsewhere_is_left_out() {
        check("/login?next=%2Fv1%3Fkey%3Dab%252Fcd%252Bef", None);
        check("/v1/ab%2Fcd%2Bef", None);
        check("/v1/?a=1;key=ab%2Fcd%2Bef", None);
        check("/v1/?other=ab/cd%2Bef", None);
    }

    #[test]
    fn everything_else_goes_back_as_it_was() {
        for location in ["/v1/?key=own", "/v1/?a=%2F+&&", "https://elsewhere/?key=abcdef", "/%zz?%"] {
            check(location, Some(location));
        }
    }

    #[test]
    fn a_secret_of_few_letters_is_found_by_its_name() {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_static("/a?key=a"));
        headers.insert("x-other", HeaderValue::from_static("a banana"));
        headers.insert("x-query", HeaderValue::from_static("key%3Da"));
        hide(&mut headers, ["key=a"].into_iter(), ["key"].into_iter());
        assert_eq!(headers.get(LOCATION).unwrap(), "/a");
        assert!(headers.contains_key("x-other") && !headers.contains_key("x-query"), "{headers:?}");
    }
}
