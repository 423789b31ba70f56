//! What users type.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use countersign_audit::format::Format;

/// Terminates and originates mutual TLS for the AI services of one host.
#[derive(Debug, Parser)]
#[command(name = "countersign-agent", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask about the audit log: whether it was changed, what it says, who signs it.
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Check a config and say what is wrong with it, with line and column.
    #[command(after_help = "Example: countersign-agent check --config /etc/countersign/agent.toml")]
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Join a trust domain: spend a join token and store this host's identity.
    #[command(
        after_help = "Example: countersign-agent enroll --token-file /run/join-token --dir /var/lib/countersign-agent"
    )]
    Enroll {
        /// The join token that `countersign-ca token create` printed. Other users can see arguments; prefer --token-file.
        #[arg(long, required_unless_present = "token_file", conflicts_with = "token_file")]
        token: Option<String>,
        /// A file with the join token; `-` reads it from standard input.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// The state folder, the `state_dir` of the config.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Explain a decision: one that was made, or one that would be.
    #[command(
        after_help = "Examples:\n  countersign-agent explain --config agent.toml 5f0c2a9e11d07b44-0000000007\n  countersign-agent explain --config agent.toml --inbound llm --peer spiffe://prod.example/web/frontend --method POST --path /v1/chat/completions"
    )]
    Explain {
        #[command(flatten)]
        config: ConfigFile,
        /// The ID of a decision that the running agent has made.
        #[arg(conflicts_with_all = ["inbound", "peer", "method", "path"], required_unless_present = "inbound")]
        decision: Option<String>,
        /// The inbound that would be asked.
        #[arg(long, requires = "peer")]
        inbound: Option<String>,
        /// Who would ask: a SPIFFE ID, dns:NAME, email:ADDRESS or ip:ADDRESS. May be given more than once.
        #[arg(long)]
        peer: Vec<String>,
        /// The method that would be used.
        #[arg(long, default_value = "GET")]
        method: String,
        /// The path that would be asked for.
        #[arg(long, default_value = "/")]
        path: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Have the running agent renew its identities now.
    #[command(after_help = "Example: countersign-agent renew --config /etc/countersign/agent.toml")]
    Renew {
        #[command(flatten)]
        config: ConfigFile,
        /// Only this identity.
        #[arg(long)]
        id: Option<String>,
    },
    /// Run until SIGTERM. SIGHUP has the config read again; a changed file is noticed without it.
    #[command(after_help = "Example: countersign-agent run --config /etc/countersign/agent.toml")]
    Run {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Show what a running agent does.
    #[command(after_help = "Example: countersign-agent status --config /etc/countersign/agent.toml --json")]
    Status {
        #[command(flatten)]
        config: ConfigFile,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What can be asked about the audit log.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Print the public key that seals this host's segments, in PEM.
    #[command(
        after_help = "Example: countersign-agent audit key --config /etc/countersign/agent.toml > host-a.audit.pub"
    )]
    Key {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Print the JSON Schema of audit lines.
    #[command(after_help = "Example: countersign-agent audit schema > schema-1.json")]
    Schema {
        /// Print the catalogue as Markdown instead.
        #[arg(long)]
        page: bool,
    },
    /// Print every stored line, in another format if asked for.
    #[command(after_help = "Example: countersign-agent audit show --config /etc/countersign/agent.toml --format ocsf")]
    Show {
        #[command(flatten)]
        config: ConfigFile,
        /// The folder, if it is another than that of the config.
        folder: Option<PathBuf>,
        /// json, ocsf, ecs or cef.
        #[arg(long, default_value = "json")]
        format: Format,
    },
    /// Prove that a folder of segments is as it was written. Exits with 1, and names file and line, if it is not.
    #[command(after_help = "Example: countersign-agent audit verify /var/log/countersign/audit --key host-a.audit.pub")]
    Verify {
        /// The folder of segments.
        folder: PathBuf,
        /// A public key in PEM that may have signed; may be given more than once. Without it the key is believed that the first
        /// segment names.
        #[arg(long, value_name = "FILE")]
        key: Vec<PathBuf>,
        /// A chain value that was seen elsewhere, as in the newest line that a SIEM has: it must be there.
        #[arg(long, value_name = "CHAIN")]
        expect: Vec<String>,
        /// The agent was stopped in order: the last segment must be sealed too.
        #[arg(long)]
        closed: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// The config file.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigFile {
    /// The config file.
    #[arg(id = "config", long = "config", value_name = "FILE", default_value = "/etc/countersign/agent.toml")]
    pub(crate) path: PathBuf,
}
