//! `token create`, `token list`, `token revoke`.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use zeroize::Zeroizing;

use super::arguments::TokenCommand;
use super::{CommandError, Opened, Said, table};
use crate::certs::digest::hexadecimal;
use crate::certs::time::{Clock, Timestamp};
use crate::certs::token::{JoinSecret, JoinToken};
use crate::record::Event;
use crate::registry::{Token, TokenState, check_host, check_ttl, token_row};
use crate::store::Change;

/// How long a token may wait. It is a secret on its way; a week is for hosts that are delivered by hand.
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);

pub(super) async fn run(command: TokenCommand, clock: &Clock) -> Result<Said, CommandError> {
    match command {
        TokenCommand::Create { config, host, ttl, json } => create(&config.path, host, ttl, json.wanted, clock).await,
        TokenCommand::List { config, json } => list(&config.path, json.wanted, clock).await,
        TokenCommand::Revoke { config, token } => revoke(&config.path, token, clock).await,
    }
}

async fn create(
    config: &Path,
    host: String,
    ttl: Duration,
    as_json: bool,
    clock: &Clock,
) -> Result<Said, CommandError> {
    let ca = Opened::open(config, clock).await?;
    check_ttl(ttl, TTL)?;
    check_host(ca.trust_domain(), &host)?;
    let secret = JoinSecret::from_bytes(random()?);
    let name = hexadecimal(&random::<8>()?);
    let row = token_row(name.clone(), host.clone(), &secret, clock.now(), ttl);
    let expires = row.expires.to_string();
    let token = JoinToken {
        ca_address: ca.settings.advertise.clone(),
        trust_domain: ca.trust_domain().clone(),
        root_fingerprint: ca.authority()?.root_fingerprint(),
        secret,
    };
    let event = Event::TokenCreated { token: name.clone(), host: host.clone(), expires: expires.clone() };
    ca.journal.write(Change::AddToken(row), event).await?;
    let text: Zeroizing<String> = token.to_text();
    if as_json {
        return Ok(Said::json(&json!({ "token": *text, "name": name, "host": host, "expires": expires })));
    }
    Ok(Said::data(format!("{}\n", *text)))
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], CommandError> {
    let mut bytes = [0; BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_library| CommandError::Randomness)?;
    Ok(bytes)
}

async fn list(config: &Path, as_json: bool, clock: &Clock) -> Result<Said, CommandError> {
    let ca = Opened::open(config, clock).await?;
    let now = clock.now();
    let tokens: Vec<Token> = ca.store.tokens().await?.into_iter().map(Token::from).collect();
    if as_json {
        return Ok(Said::json(&tokens.iter().map(|token| to_json(token, now)).collect()));
    }
    let rows: Vec<_> = tokens.into_iter().map(|token| cells(token, now)).collect();
    Ok(Said::data(table::write(["TOKEN", "HOST", "STATE", "SINCE", "EXPIRES", "SPENT BY"], &rows)))
}

fn to_json(token: &Token, now: Timestamp) -> serde_json::Value {
    let (state, since) = described(token, now);
    json!({
        "name": token.token,
        "host": token.host,
        "state": state,
        "since": since.to_string(),
        "created": token.created.to_string(),
        "expires": token.expires.to_string(),
        "spent_by": token.spent_by,
    })
}

fn cells(token: Token, now: Timestamp) -> [String; 6] {
    let (state, since) = described(&token, now);
    let (since, expires) = (since.to_string(), token.expires.to_string());
    [token.token, token.host, state.to_owned(), since, expires, token.spent_by.unwrap_or_default()]
}

fn described(token: &Token, now: Timestamp) -> (&'static str, Timestamp) {
    match token.state(now) {
        TokenState::Expired { at } => ("expired", at),
        TokenState::Revoked { at } => ("revoked", at),
        TokenState::Spent { at } => ("spent", at),
        TokenState::Unused => ("unused", token.created),
    }
}

async fn revoke(config: &Path, token: String, clock: &Clock) -> Result<Said, CommandError> {
    let ca = Opened::open(config, clock).await?;
    let said = format!("token {token} can no longer be spent\n");
    let event = Event::TokenRevoked { token: token.clone() };
    ca.journal.write(Change::RevokeToken { token }, event).await?;
    Ok(Said::talk(said))
}
