//! What the demo says. It goes on when nobody reads: its result is the exit code.

use std::error::Error;
use std::io::Write;

/// A heading.
pub(crate) fn heading(text: &str) {
    line("");
    line(&format!("== {text}"));
}

/// A command that is about to run, as one would type it.
pub(crate) fn command(text: &str) {
    line(&format!("$ {text}"));
}

/// What a command printed, or a file holds.
pub(crate) fn quote(text: &str) {
    text.lines().for_each(|quoted| line(format!("    {quoted}").trim_end()));
}

/// One line.
pub(crate) fn line(text: &str) {
    writeln!(std::io::stdout(), "{text}").ok();
}

/// Why the demo failed, with every cause.
pub(crate) fn failed(error: &dyn Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    writeln!(std::io::stderr(), "\ncountersign-demo: {text}").ok();
}
