//! How an operator looks at a running agent: a local socket for `status`, `explain` and `renew`, and a port for metrics and
//! health checks.

pub(crate) mod metrics;

pub(crate) mod server;

pub(crate) mod client;

pub(crate) mod status;
