//! What Countersign knows about identity: SPIFFE IDs, X509-SVIDs, trust bundles, keys, signing requests, and the two
//! rustls verifiers that decide who is on the other side of a connection.
//!
//! This crate opens no socket, starts no task and reads no clock: time is an argument, or comes from the [`time::Clock`]
//! that a program hands in. All of the project's use of rustls is behind [`tls`] and [`verify`].

pub mod spiffe_id;

pub mod san;

pub mod time;

pub mod certificate;

pub mod svid;

pub mod bundle;

pub mod revocation;

pub mod verify;

pub mod tls;

pub mod key;

pub mod csr;

pub mod digest;
pub mod pem;

pub mod store;

pub mod issuance;

pub mod token;

pub mod settings;

pub mod allowance;
pub mod network;
pub mod spelling;
