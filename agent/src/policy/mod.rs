//! Who may do what. Pure: no network, no clock, no files; the same code decides on a live request, in `explain`, and when
//! live requests are looked at again after a change.

pub(crate) mod path;

pub(crate) mod network;

pub(crate) mod credential;

pub(crate) mod subject;

pub(crate) mod local;

pub(crate) mod member;

pub(crate) mod role;

pub(crate) mod condition;

pub(crate) mod rule;

pub(crate) mod decide;

pub(crate) mod explain;

#[cfg(test)]
mod testing;
