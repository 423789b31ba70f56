//! `[inbound.token]`: a token that the backend is given, and where it comes from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::settings::diagnostic::Finding;
use countersign_credentials::discovery::{Transport, locations};
use countersign_credentials::grant::Wanted;
use http::header::AUTHORIZATION;
use toml::Spanned;

use super::super::address::{BackendAddress, Protocol};
use super::super::checked::{BackendToken, ClientProof, GrantKind, Injection, SecretCommand, TokenEndpoint};
use super::super::{Secrets, file, secret};
use super::commands;
use super::domains::Identities;
use super::inject::header_name;
use super::issuers::{url, web_server};
use super::scalars::span_of_time;
use crate::given::place::Place;
use crate::in_words::in_one_line;
use crate::policy::credential::{CredentialKind, Demand};

/// Longest name of a client, scope, audience or resource in bytes, and most of each.
const TEXT_BYTES_MAX: usize = 2048;
const TEXTS_MAX: usize = 16;

/// What stands around the table.
pub(super) struct TokenContext<'config> {
    pub(super) inject: &'config [Injection],
    pub(super) backend: &'config BackendAddress,
    pub(super) demand: Demand,
    pub(super) identities: &'config Identities<'config>,
    pub(super) commands: &'config [Arc<SecretCommand>],
    pub(super) secrets: Secrets,
}

pub(super) fn token(
    written: &file::BackendToken,
    around: &TokenContext<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<BackendToken, Finding> {
    if around.backend.protocol == Protocol::Tcp {
        return Err(Finding::new(written.grant.span(), "a plain TCP backend has no headers to put a token into"));
    }
    let header = written.header.as_ref().map(header_name).transpose()?.unwrap_or(AUTHORIZATION);
    let place = Place::Header(header.clone());
    if around.inject.iter().any(|injection| injection.form.place() == place) {
        let span = written.header.as_ref().map_or_else(|| written.grant.span(), Spanned::span);
        return Err(Finding::new(span, format!("{place} is injected already")));
    }
    Ok(BackendToken {
        grant: grant(&written.grant, around.demand)?,
        endpoint: endpoint(written)?,
        server: web_server(written.bundle.as_ref(), &written.private_addresses, files)?,
        client_id: text(written.client_id.get_ref(), "client_id", &written.client_id)?,
        proof: proof(written, around, files)?,
        wanted: wanted(written)?,
        lifetime_unnamed: span_of_time(written.lifetime_unnamed.clone(), Duration::from_secs(5 * 60))?,
        header,
    })
}

fn grant(written: &Spanned<String>, demand: Demand) -> Result<GrantKind, Finding> {
    match written.get_ref().as_str() {
        "client_credentials" => Ok(GrantKind::ClientCredentials),
        "token_exchange" => {
            let others = [CredentialKind::ApiKey, CredentialKind::Basic, CredentialKind::Mtls];
            // Whoever meets the demand must have shown a token: with everything else it would not be met.
            if demand.missing(others.into_iter().collect()).is_some() {
                return Ok(GrantKind::TokenExchange);
            }
            let hint = "write require = [\"jwt\"] or require = [\"opaque_token\"] in the [[inbound]]";
            let message = "a caller without a token has nothing to exchange, and this inbound lets such callers in";
            Err(Finding::with_hint(written.span(), message, hint))
        }
        other => {
            let message = format!("unknown grant {other:?}; it is client_credentials or token_exchange");
            Err(Finding::new(written.span(), message))
        }
    }
}

fn endpoint(written: &file::BackendToken) -> Result<TokenEndpoint, Finding> {
    let transport = if written.unsafe_http_on_loopback { Transport::HttpOnLoopback } else { Transport::HttpsOnly };
    match (&written.endpoint, &written.issuer) {
        (Some(endpoint), None) => Ok(TokenEndpoint::Url(url(endpoint, transport)?)),
        (None, Some(issuer)) => {
            locations(issuer.get_ref(), transport).map_err(|error| Finding::new(issuer.span(), in_one_line(&error)))?;
            Ok(TokenEndpoint::Issuer { issuer: issuer.get_ref().clone(), transport })
        }
        (None, None) => {
            let hint = "write endpoint = \"https://...\", or issuer = \"https://...\" to take what its metadata say";
            Err(Finding::with_hint(written.grant.span(), "nothing says where the token is given out", hint))
        }
        (Some(_), Some(issuer)) => Err(Finding::new(issuer.span(), "either endpoint or issuer says where to ask")),
    }
}

fn proof(
    written: &file::BackendToken,
    around: &TokenContext<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<ClientProof, Finding> {
    match (&written.client_secret, &written.identity) {
        (Some(text), None) => {
            let resolved = secret::template(text.get_ref(), around.secrets)
                .map_err(|error| Finding::new(text.span(), in_one_line(&error)))?;
            let span = written.client_id.span();
            commands::check_named(&resolved.value, around.commands, "the client_secret", &span)?;
            files.extend(resolved.files);
            Ok(ClientProof::Secret(resolved.value))
        }
        (None, Some(identity)) => Ok(ClientProof::Identity(around.identities.check(identity)?)),
        (None, None) => {
            let hint =
                "write client_secret = \"${file:/PATH}\", or identity = \"spiffe://...\" to show its certificate";
            Err(Finding::with_hint(written.client_id.span(), "nothing proves who the client is", hint))
        }
        (Some(_), Some(identity)) => {
            Err(Finding::new(identity.span(), "a client proves itself by client_secret or by identity"))
        }
    }
}

fn wanted(written: &file::BackendToken) -> Result<Wanted, Finding> {
    let list = |texts: &[String], what| {
        if texts.len() > TEXTS_MAX {
            return Err(Finding::new(
                written.grant.span(),
                format!("{} of {what}; the most is {TEXTS_MAX}", texts.len()),
            ));
        }
        texts.iter().map(|one| text(one, what, &written.grant)).collect()
    };
    let scope = written.scope.as_ref().map(|scope| text(scope.get_ref(), "scope", scope)).transpose()?;
    Ok(Wanted {
        scope,
        audiences: list(&written.audience.0, "audience")?,
        resources: list(&written.resource.0, "resource")?,
    })
}

fn text(text: &str, what: &str, place: &Spanned<String>) -> Result<String, Finding> {
    let is_printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if (1..=TEXT_BYTES_MAX).contains(&text.len()) && is_printable {
        Ok(text.to_owned())
    } else {
        Err(Finding::new(place.span(), format!("{what} is 1 to {TEXT_BYTES_MAX} characters of printable ASCII")))
    }
}
