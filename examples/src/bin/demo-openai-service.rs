//! `demo-openai-service`: a small OpenAI-shaped service on loopback. It answers with canned words: it is no model.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use clap::Parser;
use countersign_examples::openai_service;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A small OpenAI-shaped service on 127.0.0.1, to put behind an agent. It answers with canned words: it is no model.
#[derive(Parser)]
#[command(version, after_help = "Example:\n  demo-openai-service --port 8000\n  curl http://127.0.0.1:8000/v1/models")]
struct Arguments {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse().port).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "talk of a program for people goes to stderr")]
            {
                eprintln!("demo-openai-service: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(port: u16) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    #[expect(clippy::print_stdout, reason = "whoever chose port 0 reads the address here")]
    {
        println!("http://{}", listener.local_addr()?);
    }
    tokio::select! {
        failed = openai_service::serve(listener) => failed,
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}
