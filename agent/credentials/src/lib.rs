//! What a caller shows of itself in an HTTP request beside its certificate: API keys, passwords and tokens.
//!
//! This crate opens no socket, reads no file, starts no task and reads no clock: time is an argument, and documents are bytes
//! that the caller has fetched. Every input has a bound, and what two programs could read differently is refused.

pub mod api_key;

pub mod password;

pub mod lockout;

pub mod algorithm;

pub mod jwk;

pub mod jwt;

pub mod confirmation;

pub mod dpop;

pub mod introspection;

pub mod url;

pub mod grant;

pub mod discovery;

pub mod reach;

pub mod json;

pub mod text;

mod encoding;

mod random;

#[cfg(test)]
mod testing;
