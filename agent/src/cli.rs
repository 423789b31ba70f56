//! What users type.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use countersign_audit::format::Format;
use countersign_certs::time::Timestamp;
use countersign_credentials::api_key::KeyId;

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
        #[arg(
            conflicts_with_all = ["inbound", "outbound", "peer", "subject", "method", "path"],
            required_unless_present_any = ["inbound", "outbound"]
        )]
        decision: Option<String>,
        /// The inbound that would be asked.
        #[arg(long)]
        inbound: Option<String>,
        /// The outbound that would be asked, if it has rules.
        #[arg(long, conflicts_with_all = ["inbound", "subject", "address"])]
        outbound: Option<String>,
        /// Which workload would ask: a SPIFFE ID, dns:NAME, email:ADDRESS or ip:ADDRESS. May be given more than once. Of an outbound
        /// the program of this host: local:loopback or local:uid=N,gid=N.
        #[arg(long)]
        peer: Vec<String>,
        /// For which user or service: user:ISSUER/NAME, client:ISSUER/ID, key:ID or basic:NAME.
        #[arg(long)]
        subject: Option<String>,
        /// What its credential would say: group:ISSUER/NAME, scope:ISSUER/NAME, claim:ISSUER/NAME=VALUE, team:NAME or
        /// grant:ROLE. May be given more than once.
        #[arg(long = "fact", value_name = "FACT", requires = "subject")]
        facts: Vec<String>,
        /// From where.
        #[arg(long)]
        address: Option<String>,
        /// A header of the request, NAME: VALUE. May be given more than once.
        #[arg(long = "header", value_name = "HEADER")]
        headers: Vec<String>,
        /// When, such as 2026-11-24T08:00:00Z; now without it.
        #[arg(long, value_name = "TIME")]
        at: Option<Timestamp>,
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
    /// Make, list and end API keys, also while the agent runs.
    #[command(
        subcommand,
        after_help = "Example: countersign-agent key create --owner alice@example.com --team research --role inference_client --expires 90d"
    )]
    Key(KeyCommand),
    /// Read a password from standard input and print its hash, for a line NAME:HASH of the file of passwords.
    #[command(after_help = "Example: printf '%s' \"$PASSWORD\" | countersign-agent password-hash")]
    PasswordHash,
    /// Have the running agent renew its identities now.
    #[command(after_help = "Example: countersign-agent renew --config /etc/countersign/agent.toml")]
    Renew {
        #[command(flatten)]
        config: ConfigFile,
        /// Only this identity.
        #[arg(long)]
        id: Option<String>,
    },
    /// Say which recorded decisions another config would change.
    #[command(
        after_help = "Example: countersign-agent replay --policy new/agent.toml --audit /var/log/countersign/audit/audit-0000000001.jsonl"
    )]
    Replay {
        /// The config that would be used.
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
        /// A file of audit lines. May be given more than once.
        #[arg(long, value_name = "FILE", required = true)]
        audit: Vec<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run until SIGTERM. SIGHUP has the config read again, which a changed file does by itself, and the audit file opened anew.
    #[command(after_help = "Example: countersign-agent run --config /etc/countersign/agent.toml")]
    Run {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Test a config against a table of decisions that are expected of it.
    #[command(after_help = "Example: countersign-agent test policy.test.toml")]
    Test {
        /// The table.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
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

/// What can be done to API keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key and print it. It is shown this once; only its SHA-256 is stored.
    #[command(
        after_help = "Example: countersign-agent key create --owner alice@example.com --team research --role inference_client --expires 90d"
    )]
    Create {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        new: NewKeyArguments,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Stop accepting a key until it is enabled again.
    #[command(after_help = "Example: countersign-agent key disable key_0123456789abcdef")]
    Disable {
        #[command(flatten)]
        config: ConfigFile,
        /// The ID of the key, as `key list` shows it.
        id: KeyId,
    },
    /// Accept a disabled key again.
    #[command(after_help = "Example: countersign-agent key enable key_0123456789abcdef")]
    Enable {
        #[command(flatten)]
        config: ConfigFile,
        /// The ID of the key.
        id: KeyId,
    },
    /// Show every key, without its secret, and when it was used last.
    #[command(after_help = "Example: countersign-agent key list --unused-for 30d")]
    List {
        #[command(flatten)]
        config: ConfigFile,
        /// Only keys that were not used for so long.
        #[arg(long, value_name = "DURATION")]
        unused_for: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// End a key for ever.
    #[command(after_help = "Example: countersign-agent key revoke key_0123456789abcdef")]
    Revoke {
        #[command(flatten)]
        config: ConfigFile,
        /// The ID of the key.
        id: KeyId,
    },
    /// Give a key a new secret and print it; the one before is accepted for a while.
    #[command(after_help = "Example: countersign-agent key rotate key_0123456789abcdef --overlap 24h")]
    Rotate {
        #[command(flatten)]
        config: ConfigFile,
        /// The ID of the key.
        id: KeyId,
        /// How long the secret before is still accepted; 0s ends it at once.
        #[arg(long, value_name = "DURATION", default_value = "24h")]
        overlap: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What a new key is for.
#[derive(Debug, clap::Args)]
pub(crate) struct NewKeyArguments {
    /// Who is to be asked about it.
    #[arg(long)]
    pub(crate) owner: String,
    /// The owner's team; `team:NAME` is a member of roles.
    #[arg(long)]
    pub(crate) team: Option<String>,
    /// A role that it grants. May be given more than once.
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<String>,
    /// An inbound that takes it; without this, every one that takes API keys. May be given more than once.
    #[arg(long = "route", value_name = "INBOUND")]
    pub(crate) routes: Vec<String>,
    /// A method that it is good for; without this, every one. May be given more than once.
    #[arg(long = "method", value_name = "METHOD")]
    pub(crate) methods: Vec<String>,
    /// A limit with only_named that holds for it, besides those that hold for everybody. May be given more than once.
    #[arg(long = "limit", value_name = "LIMIT")]
    pub(crate) limits: Vec<String>,
    /// After how long it ends by itself, such as 90d.
    #[arg(long, value_name = "DURATION")]
    pub(crate) expires: Option<String>,
    /// A remark.
    #[arg(long)]
    pub(crate) note: Option<String>,
}

/// The config file.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigFile {
    /// The config file.
    #[arg(id = "config", long = "config", value_name = "FILE", default_value = "/etc/countersign/agent.toml")]
    pub(crate) path: PathBuf,
}
