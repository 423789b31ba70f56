//! What the config files of both programs share: how a finding is shown with its place, and how durations are written.

pub mod diagnostic;

pub mod duration;
