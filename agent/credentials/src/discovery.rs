//! What an issuer says about itself: where its keys are and where to ask about tokens (OpenID Connect Discovery 1.0, RFC 8414).

use serde_json::{Map, Value};

use crate::json::{self, JsonError};
use crate::text;
use crate::url::{HttpUrl, Scheme, UrlError};

/// Largest document in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// Whether an issuer can be asked without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// With TLS, or without it on this machine, where nobody is in between. Only for an issuer whose operator said so.
    HttpOnLoopback,
    /// With TLS.
    HttpsOnly,
}

/// What an issuer says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// The issuer, exactly as the settings name it.
    pub issuer: String,
    /// Where its keys are.
    pub jwks_uri: Option<HttpUrl>,
    /// Where tokens are given out, and asked about.
    pub endpoints: Endpoints,
    /// The same for callers that show a certificate (RFC 8705 §5). What is absent here is as in `endpoints`.
    pub mtls_endpoints: Endpoints,
}

/// Where to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// About tokens.
    pub introspection: Option<HttpUrl>,
    /// For tokens.
    pub token: Option<HttpUrl>,
}

/// Why a document does not describe the issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// Too large.
    #[error("the metadata of the issuer has {bytes} bytes; the most is {DOCUMENT_BYTES_MAX}")]
    Bytes {
        /// How many it has.
        bytes: usize,
    },
    /// Another issuer's (RFC 8414 §3.3).
    #[error("the metadata is of {found:?}, not of {expected:?}")]
    Issuer {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// Not the JSON that is expected.
    #[error("the metadata of the issuer cannot be read")]
    Json(#[from] JsonError),
    /// A member of another type.
    #[error("{name} in the metadata of the issuer is missing or of another type")]
    Member {
        /// Which.
        name: &'static str,
    },
    /// A URL without TLS.
    #[error("{name} in the metadata of the issuer is {url}, and not https")]
    Plain {
        /// Which.
        name: &'static str,
        /// What it is.
        url: String,
    },
    /// No URL.
    #[error("{name} in the metadata of the issuer is no URL that is accepted")]
    Url {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        #[source]
        source: UrlError,
    },
}

impl Discovery {
    /// Reads the metadata of an issuer.
    ///
    /// # Errors
    /// It is too large, no JSON, of another issuer, or has URLs that are none or without TLS.
    pub fn parse(json: &[u8], issuer: &str, transport: Transport) -> Result<Self, DiscoveryError> {
        if json.len() > DOCUMENT_BYTES_MAX {
            return Err(DiscoveryError::Bytes { bytes: json.len() });
        }
        let members = json::object(json)?;
        let found = members.get("issuer").and_then(Value::as_str).ok_or(DiscoveryError::Member { name: "issuer" })?;
        if found != issuer {
            return Err(DiscoveryError::Issuer { found: text::shown(found), expected: issuer.to_owned() });
        }
        let mtls_endpoints = match members.get("mtls_endpoint_aliases") {
            Some(Value::Object(aliases)) => endpoints(aliases, transport)?,
            Some(_) => return Err(DiscoveryError::Member { name: "mtls_endpoint_aliases" }),
            None => Endpoints::default(),
        };
        Ok(Self {
            issuer: issuer.to_owned(),
            jwks_uri: url(&members, "jwks_uri", transport)?,
            endpoints: endpoints(&members, transport)?,
            mtls_endpoints,
        })
    }
}

/// Where the metadata of an issuer may be, in the order in which to ask: OpenID Connect Discovery §4 appends to the path of the issuer,
/// RFC 8414 §3.1 puts in front of it.
///
/// # Errors
/// The issuer is no URL that is accepted, has a query, or is without TLS.
pub fn locations(issuer: &str, transport: Transport) -> Result<[HttpUrl; 2], DiscoveryError> {
    let refused = |source| DiscoveryError::Url { name: "issuer", source };
    let url = with_tls("issuer", HttpUrl::parse(issuer).map_err(refused)?, transport)?;
    if url.query().is_some() {
        return Err(DiscoveryError::Member { name: "issuer" });
    }
    let path = url.path().trim_end_matches('/');
    let root = format!("{}://{}:{}", url.scheme(), url.host(), url.port());
    let appended = format!("{root}{path}/.well-known/openid-configuration");
    let inserted = format!("{root}/.well-known/oauth-authorization-server{path}");
    Ok([HttpUrl::parse(&appended).map_err(refused)?, HttpUrl::parse(&inserted).map_err(refused)?])
}

fn endpoints(members: &Map<String, Value>, transport: Transport) -> Result<Endpoints, DiscoveryError> {
    Ok(Endpoints {
        introspection: url(members, "introspection_endpoint", transport)?,
        token: url(members, "token_endpoint", transport)?,
    })
}

fn url(
    members: &Map<String, Value>,
    name: &'static str,
    transport: Transport,
) -> Result<Option<HttpUrl>, DiscoveryError> {
    let Some(value) = members.get(name) else { return Ok(None) };
    let text = value.as_str().ok_or(DiscoveryError::Member { name })?;
    let url = HttpUrl::parse(text).map_err(|source| DiscoveryError::Url { name, source })?;
    with_tls(name, url, transport).map(Some)
}

fn with_tls(name: &'static str, url: HttpUrl, transport: Transport) -> Result<HttpUrl, DiscoveryError> {
    match (url.scheme(), transport) {
        (Scheme::Https, _) => Ok(url),
        (Scheme::Http, Transport::HttpOnLoopback) if url.host().is_loopback() => Ok(url),
        (Scheme::Http, _) => Err(DiscoveryError::Plain { name, url: text::shown(&url.to_string()) }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://issuer.example/realm";

    fn parse(document: &Value, transport: Transport) -> Result<Discovery, DiscoveryError> {
        Discovery::parse(document.to_string().as_bytes(), ISSUER, transport)
    }

    fn at(url: &str) -> Option<HttpUrl> {
        Some(HttpUrl::parse(url).unwrap())
    }

    #[test]
    fn an_issuer_says_where_its_keys_are() {
        let document = json!({"issuer": ISSUER, "jwks_uri": "https://keys.example/jwks", "token_endpoint": "https://issuer.example/token",
            "introspection_endpoint": "https://issuer.example/introspect", "scopes_supported": ["a"],
            "mtls_endpoint_aliases": {"token_endpoint": "https://mtls.issuer.example/token"}});
        let discovery = parse(&document, Transport::HttpsOnly).unwrap();
        assert_eq!(discovery.issuer, ISSUER);
        assert_eq!(discovery.jwks_uri, at("https://keys.example/jwks"));
        assert_eq!(discovery.endpoints.token, at("https://issuer.example/token"));
        assert_eq!(discovery.endpoints.introspection, at("https://issuer.example/introspect"));
        assert_eq!(discovery.mtls_endpoints.token, at("https://mtls.issuer.example/token"));
        assert_eq!(discovery.mtls_endpoints.introspection, None);
        let least = parse(&json!({"issuer": ISSUER}), Transport::HttpsOnly).unwrap();
        assert_eq!((least.jwks_uri, least.endpoints), (None, Endpoints::default()));
    }

    #[test]
    fn the_issuer_must_be_the_one_that_was_asked() {
        for found in ["https://issuer.example/realm/", "https://issuer.example", "HTTPS://issuer.example/realm", ""] {
            let expected = DiscoveryError::Issuer { found: found.to_owned(), expected: ISSUER.to_owned() };
            assert_eq!(parse(&json!({"issuer": found}), Transport::HttpsOnly), Err(expected));
        }
        for strange in [json!({}), json!({"issuer": [ISSUER]})] {
            assert_eq!(parse(&strange, Transport::HttpsOnly), Err(DiscoveryError::Member { name: "issuer" }));
        }
    }

    #[test]
    fn without_tls_only_this_machine_is_asked_and_only_if_that_was_said() {
        let check = |url: &str, transport, accepted: bool| {
            for name in ["jwks_uri", "token_endpoint", "introspection_endpoint"] {
                let document = json!({"issuer": ISSUER, name: url});
                assert_eq!(parse(&document, transport).is_ok(), accepted, "{name} {url}");
                let document = json!({"issuer": ISSUER, "mtls_endpoint_aliases": {name: url}});
                assert_eq!(parse(&document, transport).is_ok(), accepted || name == "jwks_uri", "alias {name} {url}");
            }
        };
        check("https://keys.example/", Transport::HttpsOnly, true);
        check("http://127.0.0.1:8080/", Transport::HttpsOnly, false);
        check("http://127.0.0.1:8080/", Transport::HttpOnLoopback, true);
        check("http://localhost/", Transport::HttpOnLoopback, true);
        check("http://keys.example/", Transport::HttpOnLoopback, false);
        check("https://keys.example/", Transport::HttpOnLoopback, true);
        check("https://user@keys.example/", Transport::HttpsOnly, false);
        check("file:///etc/passwd", Transport::HttpOnLoopback, false);
        let plain = parse(&json!({"issuer": ISSUER, "jwks_uri": "http://a/b"}), Transport::HttpsOnly).unwrap_err();
        assert_eq!(plain.to_string(), "jwks_uri in the metadata of the issuer is http://a/b, and not https");
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let member = |name| Err(DiscoveryError::Member { name });
        assert_eq!(parse(&json!({"issuer": ISSUER, "jwks_uri": 1}), Transport::HttpsOnly), member("jwks_uri"));
        let strange = json!({"issuer": ISSUER, "mtls_endpoint_aliases": []});
        assert_eq!(parse(&strange, Transport::HttpsOnly), member("mtls_endpoint_aliases"));
        let twice = format!(r#"{{"issuer":"{ISSUER}","jwks_uri":"https://a/","jwks_uri":"https://b/"}}"#);
        let parsed = Discovery::parse(twice.as_bytes(), ISSUER, Transport::HttpsOnly);
        assert_eq!(parsed, Err(DiscoveryError::Json(JsonError::Duplicate)));
        let mut large = json!({"issuer": ISSUER}).to_string();
        large.push_str(&" ".repeat(DOCUMENT_BYTES_MAX - large.len()));
        assert_eq!(large.len(), 65_536);
        assert!(Discovery::parse(large.as_bytes(), ISSUER, Transport::HttpsOnly).is_ok());
        large.push(' ');
        let parsed = Discovery::parse(large.as_bytes(), ISSUER, Transport::HttpsOnly);
        assert_eq!(parsed, Err(DiscoveryError::Bytes { bytes: DOCUMENT_BYTES_MAX + 1 }));
    }

    #[test]
    fn both_places_of_the_metadata_are_known() {
        let check = |issuer: &str, expected: [&str; 2]| {
            let found = locations(issuer, Transport::HttpsOnly).unwrap().map(|url| url.to_string());
            assert_eq!(found, expected);
        };
        check(
            "https://issuer.example",
            [
                "https://issuer.example/.well-known/openid-configuration",
                "https://issuer.example/.well-known/oauth-authorization-server",
            ],
        );
        check(
            "https://issuer.example:8443/realm/",
            [
                "https://issuer.example:8443/realm/.well-known/openid-configuration",
                "https://issuer.example:8443/.well-known/oauth-authorization-server/realm",
            ],
        );
        assert!(locations("http://issuer.example", Transport::HttpsOnly).is_err());
        assert!(locations("http://127.0.0.1:1", Transport::HttpOnLoopback).is_ok());
        assert_eq!(locations("https://a/?b", Transport::HttpsOnly), Err(DiscoveryError::Member { name: "issuer" }));
    }
}
