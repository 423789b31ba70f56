//! `countersign-demo`: a whole mesh on this machine, as an ordinary user, in a folder that is removed at the end.
//!
//! [`story`] is what happens. This file starts it, ends what it started, and turns the outcome into an exit code.

mod story;

mod layout;

mod ask;

mod program;

mod narrate;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use program::Daemons;
use story::{Story, StoryError};

/// Starts a CA, two agents and a service, lets one program in, and refuses another. Everything is on 127.0.0.1, in a
/// temporary folder. Ends with 0 only if one was let in and the other was refused.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  countersign-demo
  countersign-demo --backend http://127.0.0.1:11434 --model llama3.2 --keep"
)]
struct Arguments {
    /// A service of your own (Ollama, llama.cpp, vLLM) instead of the built-in one, which is no model.
    #[arg(long, value_name = "URL", requires = "model")]
    backend: Option<String>,

    /// The model to ask for.
    #[arg(long, value_name = "NAME", requires = "backend")]
    model: Option<String>,

    /// Keep everything running until Ctrl-C, and print how to call it.
    #[arg(long)]
    keep: bool,
}

/// As shells count a process that was ended by SIGINT.
const INTERRUPTED: u8 = 130;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(Ended::ByItself) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            narrate::failed(&error);
            ExitCode::FAILURE
        }
    }
}

/// How the demo came to its end.
enum Ended {
    ByItself,
    Interrupted,
}

/// Tells the story, and ends what it started however it went. The story owns the folder, so it must outlive the daemons.
async fn run(arguments: &Arguments) -> Result<Ended, StoryError> {
    let story = Story::new(arguments.backend.as_deref(), arguments.model.as_deref())?;
    let mut daemons = Daemons::default();
    let outcome = run_until_interrupted(&story, arguments.keep, &mut daemons).await;
    if outcome.is_err() {
        daemons.show_logs();
    }
    daemons.stop().await;
    outcome
}

async fn run_until_interrupted(story: &Story, keep: bool, daemons: &mut Daemons) -> Result<Ended, StoryError> {
    tokio::select! {
        told = story.tell(daemons) => told?,
        interrupted = interrupted() => return interrupted.map(|()| Ended::Interrupted),
    }
    if keep {
        story.how_to_call();
        interrupted().await?;
    }
    Ok(Ended::ByItself)
}

/// Waits for Ctrl-C, for a terminal that is closed, or for `kill`.
async fn interrupted() -> Result<(), StoryError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StoryError::Signal)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(StoryError::Signal)?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(StoryError::Signal)?,
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    narrate::line("");
    narrate::line("Interrupted: ending what was started.");
    Ok(())
}
