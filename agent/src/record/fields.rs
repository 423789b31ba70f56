//! Values of headers and of the query that the operator wants recorded. Nothing that the config does not list is.

use http::HeaderMap;
use http::header::HeaderName;

use crate::authenticate::shown::KeyPlaces;
use crate::query;

/// Longest value that is recorded, in bytes; what is longer is cut.
const VALUE_BYTES_MAX: usize = 1024;

/// What is listed.
#[derive(Debug, Default)]
pub(crate) struct RecordedFields {
    pub(crate) headers: Vec<HeaderName>,
    pub(crate) query: Vec<String>,
}

impl RecordedFields {
    /// Whether nothing is.
    pub(crate) fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.query.is_empty()
    }

    /// Both keys of an audit line, as far as the request has what is listed. What has become a place of API keys since this agent began
    /// is left out.
    pub(crate) fn in_json(&self, headers: &HeaderMap, target: Option<&str>, keys: Option<&KeyPlaces>) -> String {
        let of_key = |name: &HeaderName| keys.is_some_and(|keys| keys.headers.contains(name));
        let query_of_key = keys.and_then(|keys| keys.query.as_deref());
        let of_header = |name: &HeaderName| {
            let values = headers.get_all(name).iter();
            let each =
                |value: &http::HeaderValue| format!("{name}: {}", cut(&String::from_utf8_lossy(value.as_bytes())));
            values.map(each).collect::<Vec<_>>()
        };
        let found: Vec<String> = self.headers.iter().filter(|name| !of_key(name)).flat_map(of_header).collect();
        let listed = |(name, _): &(String, String)| self.query.contains(name) && query_of_key != Some(name.as_str());
        let parameters = query::parameters(target.unwrap_or_default()).filter(listed);
        let parameters: Vec<String> = parameters.map(|(name, value)| format!("{name}={}", cut(&value))).collect();
        let list = |key: &str, texts: &[String]| {
            let json = serde_json::to_string(texts).unwrap_or_default();
            if texts.is_empty() { String::new() } else { format!(",\"{key}\":{json}") }
        };
        list("headers", &found) + &list("query", &parameters)
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(VALUE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_recorded() {
        let fields =
            RecordedFields { headers: vec![HeaderName::from_static("user-agent")], query: vec!["v".to_owned()] };
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", "a\"b".parse().unwrap());
        headers.insert("x-secret", "s".parse().unwrap());
        let json = fields.in_json(&headers, Some("v=1&key=s&%76=2"), None);
        assert_eq!(json, r#","headers":["user-agent: a\"b"],"query":["v=1","v=2"]"#);
        assert_eq!(fields.in_json(&HeaderMap::new(), None, None), "");
        let keys = KeyPlaces { headers: fields.headers.clone(), query: Some("v".into()) };
        assert_eq!(fields.in_json(&headers, Some("v=1"), Some(&keys)), "", "keys may stand there by now");
        let long = "\u{e4}".repeat(VALUE_BYTES_MAX);
        assert!(fields.in_json(&headers, Some(&format!("v={long}")), None).len() < 2 * VALUE_BYTES_MAX);
    }
}
