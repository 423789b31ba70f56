//! How many requests a caller may make in a time, and how many at once.
//!
//! A [`quota::Quota`] is a rate and a burst, and the arithmetic of both (the generic cell rate algorithm, ITU-T I.371). What was
//! used of it is counted by one agent in a [`rate::RateTable`], or by several together in a [`store`]. A
//! [`concurrency::Concurrency`] counts what is under way. Nothing here reads a clock: time is an argument, in nanoseconds since
//! whenever the caller likes.

pub mod quota;

pub mod counted;

pub mod rate;

pub mod concurrency;

pub mod fields;

pub mod store;

mod sharded;
