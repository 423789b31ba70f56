//! Issuers of tokens: what is expected of their tokens, and where their keys are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::digest::sha256;
use countersign_certs::settings::diagnostic::Finding;
use countersign_certs::{pem, store};
use countersign_credentials::algorithm::Algorithm;
use countersign_credentials::discovery::{Transport, locations};
use countersign_credentials::introspection::IntrospectionSettings;
use countersign_credentials::jwk::KeySet;
use countersign_credentials::jwt::issuer::LEEWAY_MAX;
use countersign_credentials::jwt::{self, IssuerError, IssuerSettings, TokenTypes};
use countersign_credentials::reach::AddressRule;
use countersign_credentials::url::{Host, HttpUrl, Scheme};
use toml::Spanned;

use super::super::checked::{ClaimType, Introspection, Issuer, KeySource, WebServer};
use super::super::{Secrets, file, secret};
use super::scalars::{absolute, name, seconds};
use crate::in_words::in_one_line;

/// Who vouches for whoever shows an API key or a password, as conditions name it.
pub(super) const RESERVED_ISSUERS: [&str; 2] = ["api_key", "basic"];

/// Most issuers of one config.
const ISSUERS_MAX: usize = 64;

/// Most claims of one issuer that roles and conditions may look at.
const CLAIMS_MAX: usize = 64;

/// Bounds of times.
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Where distributions keep the roots that their users believe.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

pub(super) fn issuers(
    written: &[file::Issuer],
    secrets: Secrets,
    files: &mut Vec<PathBuf>,
) -> Result<Vec<Arc<Issuer>>, Finding> {
    let mut issuers: Vec<Arc<Issuer>> = Vec::new();
    for issuer in written {
        let place = issuer.name.span();
        if issuers.len() == ISSUERS_MAX {
            return Err(Finding::new(place, format!("{} issuers; the limit is {ISSUERS_MAX}", written.len())));
        }
        let checked = one(issuer, secrets, files)?;
        if RESERVED_ISSUERS.contains(&&*checked.name) {
            let message = format!(
                "an issuer cannot be called {:?}: users of that name are those of API keys or passwords",
                checked.name
            );
            return Err(Finding::new(place, message));
        }
        if issuers.iter().any(|other| other.name == checked.name) {
            return Err(Finding::new(place, format!("two issuers are called {:?}", checked.name)));
        }
        let url = &checked.tokens.settings().issuer;
        if issuers.iter().any(|other| other.tokens.settings().issuer == *url) {
            return Err(Finding::new(issuer.issuer.span(), format!("{url:?} is an issuer already")));
        }
        let asks = |issuer: &&Arc<Issuer>| issuer.introspection.is_some();
        if let Some(other) = issuers.iter().find(asks).filter(|_| checked.introspection.is_some()) {
            let message =
                format!("an opaque token does not tell whose it is, and {:?} is asked about them already", other.name);
            return Err(Finding::new(place, message));
        }
        issuers.push(Arc::new(checked));
    }
    Ok(issuers)
}

fn one(written: &file::Issuer, secrets: Secrets, files: &mut Vec<PathBuf>) -> Result<Issuer, Finding> {
    let mut settings = IssuerSettings::new(
        written.issuer.get_ref(),
        written.audiences.get_ref().clone(),
        algorithms(written.algorithms.as_ref())?,
    );
    settings.types = types(written.types.as_ref())?;
    settings.leeway = seconds(written.leeway.as_ref(), Duration::ZERO..=LEEWAY_MAX)?.unwrap_or(settings.leeway);
    settings.age_max = seconds(written.age_max.as_ref(), SECOND..=WEEK)?;
    settings.lifetime_max = seconds(written.lifetime_max.as_ref(), SECOND..=WEEK)?;
    let tokens = jwt::Issuer::new(settings).map_err(|error| {
        let algorithms = written.algorithms.as_ref().map(Spanned::span);
        let span = match error {
            IssuerError::Audiences { .. } => written.audiences.span(),
            IssuerError::Algorithms | IssuerError::Mixed { .. } => algorithms.unwrap_or_else(|| written.issuer.span()),
            IssuerError::Leeway(_) | IssuerError::Name(_) | IssuerError::Zero => written.issuer.span(),
        };
        Finding::new(span, format!("this issuer cannot be used: {error}"))
    })?;
    if let Some((name, _)) = written.claims.iter().nth(CLAIMS_MAX) {
        return Err(Finding::new(name.span(), format!("more than {CLAIMS_MAX} claims")));
    }
    let groups_claim = written.groups_claim.as_ref().map_or("groups", |claim| claim.get_ref().as_str());
    // Keys are announced long before they are used; a new one that was not is fetched when it is met.
    let refresh = seconds(written.refresh.as_ref(), SECOND..=24 * HOUR)?.unwrap_or(HOUR / 6);
    let stale_max = seconds(written.stale_max.as_ref(), SECOND..=WEEK)?.unwrap_or_else(|| (6 * HOUR).max(refresh));
    if stale_max < refresh {
        let place = written.stale_max.as_ref().or(written.refresh.as_ref()).map(Spanned::span).unwrap_or_default();
        let hint = "make stale_max longer than refresh";
        return Err(Finding::with_hint(place, "keys would be too old before they are fetched again", hint));
    }
    Ok(Issuer {
        name: name(&written.name)?,
        keys: keys(written, &tokens, secrets, files)?,
        tokens,
        refresh,
        stale_max,
        groups_claim: groups_claim.into(),
        introspection: written
            .introspection
            .as_ref()
            .map(|table| introspection(table, written, secrets, files))
            .transpose()?,
        claims: written.claims.iter().map(claim).collect::<Result<_, _>>()?,
    })
}

fn introspection(
    table: &Spanned<file::Introspection>,
    issuer: &file::Issuer,
    secrets: Secrets,
    files: &mut Vec<PathBuf>,
) -> Result<Introspection, Finding> {
    if let Some(file) = &issuer.jwks_file {
        return Err(Finding::new(
            file.span(),
            "an issuer that is asked about tokens is asked for its keys too; leave jwks_file out",
        ));
    }
    let written = table.get_ref();
    if let Some(uri) = issuer.jwks_uri.as_ref().filter(|_| written.endpoint.is_none()) {
        let hint = "name the endpoint in [issuer.introspection], or leave jwks_uri out";
        let message =
            "the metadata of an issuer with jwks_uri is not read, so that nothing says where to ask about tokens";
        return Err(Finding::with_hint(uri.span(), message, hint));
    }
    let transport = if issuer.unsafe_http_on_loopback { Transport::HttpOnLoopback } else { Transport::HttpsOnly };
    let mut expected = IntrospectionSettings::new(issuer.issuer.get_ref(), issuer.audiences.get_ref().clone());
    expected.leeway = seconds(issuer.leeway.as_ref(), Duration::ZERO..=LEEWAY_MAX)?.unwrap_or(expected.leeway);
    expected.age_max = seconds(issuer.age_max.as_ref(), SECOND..=WEEK)?;
    expected.lifetime_max = seconds(issuer.lifetime_max.as_ref(), SECOND..=WEEK)?;
    expected.require_audience = !written.unsafe_any_audience;
    expected.lifetime_unnamed = seconds(written.lifetime_unnamed.as_ref(), SECOND..=WEEK)?;
    let secret = secret::resolve(written.client_secret.get_ref(), secrets)
        .map_err(|error| Finding::new(written.client_secret.span(), in_one_line(&error)))?;
    files.extend(secret.files);
    Ok(Introspection {
        endpoint: written.endpoint.as_ref().map(|text| url(text, transport)).transpose()?,
        client_id: written.client_id.clone(),
        client_secret: secret.value,
        // Long enough to spare the issuer, short enough for a token that was revoked.
        cache: seconds(written.cache.as_ref(), Duration::ZERO..=HOUR)?.unwrap_or(HOUR / 60),
        expected,
    })
}

fn claim((name, kind): (&Spanned<String>, &Spanned<String>)) -> Result<(Box<str>, ClaimType), Finding> {
    let kind = match kind.get_ref().as_str() {
        "boolean" => ClaimType::Boolean,
        "number" => ClaimType::Number,
        "text" => ClaimType::Text,
        "texts" => ClaimType::Texts,
        other => {
            let message = format!("unknown type {other:?}; a claim is a text, texts, a number or a boolean");
            return Err(Finding::new(kind.span(), message));
        }
    };
    Ok((name.get_ref().as_str().into(), kind))
}

/// Those with a public key that most issuers use, if the config does not say.
fn algorithms(written: Option<&Spanned<Vec<Spanned<String>>>>) -> Result<Vec<Algorithm>, Finding> {
    let Some(written) = written else { return Ok(vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa]) };
    let parsed = |text: &Spanned<String>| text.get_ref().parse().map_err(|error| Finding::new(text.span(), error));
    written.get_ref().iter().map(parsed).collect()
}

fn types(written: Option<&Spanned<String>>) -> Result<TokenTypes, Finding> {
    match written.map(|text| (text.get_ref().as_str(), text.span())) {
        None | Some(("access_token", _)) => Ok(TokenTypes::AccessToken),
        Some(("any_jwt", _)) => Ok(TokenTypes::AnyJwt),
        Some((other, span)) => {
            Err(Finding::new(span, format!("unknown types {other:?}; it is access_token or any_jwt")))
        }
    }
}

fn keys(
    written: &file::Issuer,
    tokens: &jwt::Issuer,
    secrets: Secrets,
    files: &mut Vec<PathBuf>,
) -> Result<KeySource, Finding> {
    if let Some(path) = &written.jwks_file {
        no_fetching(written)?;
        return key_file(path, tokens, secrets, files);
    }
    let transport = if written.unsafe_http_on_loopback { Transport::HttpOnLoopback } else { Transport::HttpsOnly };
    let algorithms = &tokens.settings().algorithms;
    if let Some(symmetric) = algorithms.iter().find(|algorithm| algorithm.is_symmetric()) {
        let hint = "name a file of mode 0600 with the secret as a JWK: jwks_file = \"/PATH\"";
        return Err(Finding::with_hint(
            written.issuer.span(),
            format!("{symmetric} needs a secret, which is not fetched"),
            hint,
        ));
    }
    let jwks_uri = written.jwks_uri.as_ref().map(|text| url(text, transport)).transpose()?;
    if jwks_uri.is_none() {
        url(&written.issuer, transport)?;
        locations(written.issuer.get_ref(), transport)
            .map_err(|error| Finding::new(written.issuer.span(), in_one_line(&error)))?;
    }
    let server = web_server(written.bundle.as_ref(), &written.private_addresses, files)?;
    for text in written.jwks_uri.as_ref().or(Some(&written.issuer)).into_iter().chain(endpoint(written)) {
        reachable(text, &server.reach)?;
    }
    Ok(KeySource::Fetched { server, jwks_uri, transport })
}

/// Keys in a file are not fetched, and what would say how says nothing.
fn no_fetching(written: &file::Issuer) -> Result<(), Finding> {
    let exceptions = written.private_addresses.first().map(Spanned::span);
    let [uri, refresh, stale_max] =
        [&written.jwks_uri, &written.refresh, &written.stale_max].map(|key| key.as_ref().map(Spanned::span));
    let bundle = written.bundle.as_ref().map(Spanned::span);
    match uri.or(refresh).or(stale_max).or(bundle).or(exceptions) {
        Some(span) => {
            Err(Finding::with_hint(span, "keys in a file are not fetched", "leave this key or jwks_file out"))
        }
        None => Ok(()),
    }
}

fn key_file(
    path: &Spanned<PathBuf>,
    tokens: &jwt::Issuer,
    secrets: Secrets,
    files: &mut Vec<PathBuf>,
) -> Result<KeySource, Finding> {
    let algorithms = &tokens.settings().algorithms;
    let place = absolute(path)?;
    files.push(place.clone());
    let is_secret = algorithms.iter().any(|algorithm| algorithm.is_symmetric());
    if is_secret && secrets == Secrets::Named {
        return parse_keys(place, br#"{"keys":[]}"#, algorithms).map_err(|error| Finding::new(path.span(), error));
    }
    let read = read_keys(place, algorithms).map_err(|error| Finding::new(path.span(), error))?;
    if matches!(&read, KeySource::File { keys, .. } if keys.is_empty()) {
        return Err(Finding::new(path.span(), "it holds no key for an accepted algorithm"));
    }
    Ok(read)
}

/// The keys of a file; one with secrets must be hidden from others.
pub(in crate::config) fn read_keys(path: PathBuf, algorithms: &[Algorithm]) -> Result<KeySource, String> {
    let is_secret = algorithms.iter().any(|algorithm| algorithm.is_symmetric());
    let read = if is_secret { store::read_secret(&path) } else { store::read(&path) };
    let document = read.map_err(|error| in_one_line(&error))?;
    parse_keys(path, &document, algorithms)
}

fn parse_keys(path: PathBuf, document: &[u8], algorithms: &[Algorithm]) -> Result<KeySource, String> {
    let keys = KeySet::parse(document, algorithms).map_err(|error| in_one_line(&error))?;
    Ok(KeySource::File { path, keys: Arc::new(keys), digest: sha256(document) })
}

/// A URL that is asked by TLS, or on this machine where that was allowed.
pub(super) fn url(text: &Spanned<String>, transport: Transport) -> Result<HttpUrl, Finding> {
    let url = HttpUrl::parse(text.get_ref()).map_err(|error| Finding::new(text.span(), error))?;
    let plain = url.scheme() == Scheme::Http;
    if plain && !(transport == Transport::HttpOnLoopback && url.host().is_loopback()) {
        return Err(Finding::new(text.span(), "it is asked in clear text; write https://"));
    }
    Ok(url)
}

/// Where the issuer is asked about tokens, if the config says.
fn endpoint(written: &file::Issuer) -> Option<&Spanned<String>> {
    written.introspection.as_ref().and_then(|table| table.get_ref().endpoint.as_ref())
}

/// An address that would never be contacted is said at once. Where a name leads is seen when it is looked up.
fn reachable(text: &Spanned<String>, reach: &AddressRule) -> Result<(), Finding> {
    match HttpUrl::parse(text.get_ref()).as_ref().map(HttpUrl::host) {
        Ok(host @ Host::Address(address)) => reach.check(host, *address).map_err(|error| {
            let hint = format!("add private_addresses = [\"{address}\"] if it is meant");
            Finding::with_hint(text.span(), error, hint)
        }),
        Ok(Host::Name(_)) | Err(_) => Ok(()),
    }
}

/// Whom to believe, and what may be contacted.
pub(super) fn web_server(
    bundle: Option<&Spanned<PathBuf>>,
    exceptions: &[Spanned<String>],
    files: &mut Vec<PathBuf>,
) -> Result<WebServer, Finding> {
    let span = bundle.map(Spanned::span).unwrap_or_default();
    let at_bundle = |error: &dyn std::error::Error| Finding::new(span.clone(), in_one_line(error));
    let path = match bundle {
        Some(path) => absolute(path)?,
        None => {
            let found = SYSTEM_ROOTS.into_iter().map(Path::new).find(|path| path.exists());
            let hint = "install ca-certificates, or name a file of roots: bundle = \"/PATH\"";
            found
                .ok_or_else(|| Finding::with_hint(0..0, "this system has no roots to believe servers by", hint))?
                .to_owned()
        }
    };
    let text = store::read(&path).map_err(|error| at_bundle(&error))?;
    let roots = pem::certificates(&text).map_err(|error| at_bundle(&error))?;
    files.push(path);
    let first = exceptions.first().map(Spanned::span).unwrap_or_default();
    let reach = AddressRule::new(exceptions.iter().map(|text| text.get_ref().as_str()))
        .map_err(|error| Finding::new(first, error))?;
    Ok(WebServer { roots: roots.into(), reach: Arc::new(reach) })
}
