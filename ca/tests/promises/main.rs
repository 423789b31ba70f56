//! What the CA promises, asked of the real binary: over TLS as an agent does, and on the command line as an operator does.

mod enrollment;

mod issuance;

mod revocation;

mod journal;

mod listener;

mod commands;

mod keys;

mod rate;

mod support;
