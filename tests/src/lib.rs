//! The harness of the end-to-end tests. Agent and CA are black boxes here: their command lines, their files, their ports.
//!
//! A test makes a [`mesh::Mesh`] (or a single [`agent::TestAgent`], a [`ca::TestCa`]), puts a real part or an
//! [`backend::EchoBackend`] behind it, calls it with [`http::Client`] or as a [`hostile::HostilePeer`], and waits with
//! [`wait`] for what was promised. Everything that a test starts is ended when it is dropped, also by a panic; every wait has
//! a bound; nothing waits for a fixed time and hopes.
//!
//! What cannot run fails, with the reason and the command that mends it.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "this crate is only used by tests: a broken fixture is a failed test, and its logs are to be seen"
)]

pub mod mesh;

pub mod agent;
pub mod ca;
pub mod clock;
pub mod disk;
pub mod gateway;
pub mod host;
pub mod issuer;

pub mod backend;
pub mod hostile;
pub mod http;
pub mod load;
pub mod part;
pub mod pki;
pub mod raw_http2;
pub mod store;
pub mod stream;

pub mod process;
pub mod tools;
pub mod wait;
