//! Evidence of a new host: the secret of a join token.
//!
//! Looking does not spend the token. It is spent in the same transaction in which the intent to sign is recorded, so that
//! a refused signing request does not burn it, and of many concurrent tries exactly one gets through.

use std::net::SocketAddr;

use super::NotAuthenticated;
use crate::certs::time::Timestamp;
use crate::certs::token::JoinSecret;
use crate::registry::{Registry, TokenName, TokenState};

/// The right to spend one token. Made only here, consumed by the journal.
#[derive(Debug, Clone)]
pub(crate) struct TokenClaim {
    secret_hash: String,
    address: SocketAddr,
    name: TokenName,
}

impl TokenClaim {
    /// SHA-256 of the secret in hexadecimal, by which the store knows the token.
    pub(crate) fn secret_hash(&self) -> &str {
        &self.secret_hash
    }

    /// Which token it is.
    pub(crate) fn name(&self) -> &TokenName {
        &self.name
    }

    /// Who spends it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The host's name and the right to spend the token.
pub(super) async fn check(
    secret: &JoinSecret,
    address: SocketAddr,
    registry: &Registry,
    now: Timestamp,
) -> Result<(String, TokenClaim), NotAuthenticated> {
    let secret_hash = crate::certs::digest::hexadecimal(&secret.hash());
    let token = registry.token(&secret_hash).await?.ok_or(NotAuthenticated::TokenUnknown)?;
    let name = token.name();
    match token.state(now) {
        TokenState::Expired { at } => Err(NotAuthenticated::TokenExpired { expired: at, now, name }),
        TokenState::Revoked { at } => Err(NotAuthenticated::TokenRevoked { at, name }),
        TokenState::Spent { at } => Err(NotAuthenticated::TokenSpent { at, name }),
        TokenState::Unused => Ok((token.host, TokenClaim { secret_hash, address, name })),
    }
}
