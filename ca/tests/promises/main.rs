//! What the CA promises, asked of the real binary: over TLS as an agent does, and on the command line as an operator does.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "what does not hold here is a failed test, and a measurement is printed"
)]

mod enrollment;

mod issuance;

mod revocation;

mod journal;

mod listener;

mod commands;

mod keys;

mod support;
