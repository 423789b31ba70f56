//! Spends a permit: carries one request, one upgraded connection or one TCP connection to where it was allowed to go.

pub(crate) mod onward;

pub(crate) mod outgoing;

pub(crate) mod body;

pub(crate) mod answer;

pub(crate) mod upgrade;

pub(crate) mod tcp;

mod pump;

pub(crate) mod backend;

pub(crate) mod hop;

pub(crate) mod pool;
