//! What users type.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use crate::certs::key::KeyAlgorithm;
use crate::certs::revocation::SerialNumber;
use crate::certs::san::DnsName;
use crate::certs::spiffe_id::{SpiffeId, TrustDomain};
use crate::config::{DEFAULT_LISTEN, parse_duration};

/// The certificate authority of a Countersign mesh.
#[derive(Debug, Parser)]
#[command(name = "countersign-ca", version, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// The commands. All but `init` and `serve` work beside a running CA and with it stopped.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say which host may have which identity.
    #[command(subcommand)]
    Entry(EntryCommand),
    /// Make a new CA: keys, certificates, config and store.
    #[command(after_help = "Example: countersign-ca init --trust-domain prod.example --dir /var/lib/countersign-ca \
                            --name ca.prod.example --passphrase-file /etc/countersign-ca/passphrase\n\nPrints the SHA-256 fingerprint of the root certificate.")]
    Init(InitArguments),
    /// Replace the certificate and the key that sign, under the same root.
    #[command(subcommand)]
    Intermediate(IntermediateCommand),
    /// Read the record of everything that this CA did, meant to do, and refused.
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Example: countersign-ca journal --config ca.toml --limit 20 --json\n\n`journal` alone is `journal list`."
    )]
    Journal {
        #[command(subcommand)]
        command: Option<JournalCommand>,
        #[command(flatten)]
        list: JournalListArguments,
    },
    /// End trust before its time: of an identity until it is lifted, or of one certificate for ever.
    #[command(
        after_help = "Examples:\n  countersign-ca revoke --config ca.toml --id spiffe://prod.example/web/frontend\n  \
                      countersign-ca revoke --config ca.toml --serial 01f3a9...\n  \
                      countersign-ca revoke --config ca.toml --lift --id spiffe://prod.example/web/frontend\n\n\
                      Revoking a host's own identity also revokes every certificate that the host was given."
    )]
    Revoke(RevokeArguments),
    /// Run the CA until SIGTERM.
    #[command(after_help = "Example: countersign-ca serve --config /var/lib/countersign-ca/ca.toml")]
    Serve {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Show what this CA is and holds.
    #[command(after_help = "Example: countersign-ca status --config ca.toml --json")]
    Status {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        json: Json,
    },
    /// Let new hosts join.
    #[command(subcommand)]
    Token(TokenCommand),
}

/// Where the config is.
#[derive(Debug, Args)]
pub(super) struct ConfigFile {
    /// The config file that `init` wrote.
    #[arg(long = "config", value_name = "FILE", default_value = "/var/lib/countersign-ca/ca.toml")]
    pub(super) path: PathBuf,
}

/// Whether a program reads the output.
#[derive(Debug, Args)]
pub(super) struct Json {
    /// Print JSON.
    #[arg(long = "json")]
    pub(super) wanted: bool,
}

/// How a CA is made.
#[derive(Debug, Args)]
pub(super) struct InitArguments {
    /// Every identity that the CA signs begins with spiffe://TRUST_DOMAIN/.
    #[arg(long, value_name = "TRUST_DOMAIN")]
    pub(super) trust_domain: TrustDomain,
    /// Folder of the new CA. It may exist, but not hold a CA.
    #[arg(long)]
    pub(super) dir: PathBuf,
    /// Where agents will be awaited.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = DEFAULT_LISTEN)]
    pub(super) listen: SocketAddr,
    /// DNS name by which hosts reach the CA; this host's own name, unless --listen names one address.
    #[arg(long, value_parser = |text: &str| DnsName::parse(text))]
    pub(super) name: Option<DnsName>,
    /// Kind of the root's and the intermediate's key.
    #[arg(long, value_name = "KIND", default_value = "p256", value_parser = key_algorithm())]
    pub(super) key_algorithm: KeyAlgorithm,
    /// File with the passphrase that encrypts the keys. Without it the systemd credential ca_passphrase is taken, or the
    /// terminal asked; where there is neither, nothing is made.
    #[arg(long, value_name = "FILE")]
    pub(super) passphrase_file: Option<PathBuf>,
    /// Leave the keys unencrypted.
    #[arg(long, conflicts_with = "passphrase_file")]
    pub(super) no_passphrase: bool,
    #[command(flatten)]
    pub(super) json: Json,
}

/// What can be done with registration entries.
#[derive(Debug, Subcommand)]
pub(super) enum EntryCommand {
    /// Let a host have an identity.
    #[command(
        after_help = "Example: countersign-ca entry add --config ca.toml --host host-b --id spiffe://prod.example/llm \
                            --dns llm.prod.example --ttl 30m"
    )]
    Add {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        entry: EntryKey,
        /// DNS name in the certificate; may be given more than once.
        #[arg(long, value_name = "NAME")]
        dns: Vec<String>,
        /// Lifetime of its certificates; `workload_ttl` of the config, if not given.
        #[arg(long, value_parser = parse_duration)]
        ttl: Option<Duration>,
    },
    /// Show who may have what.
    #[command(after_help = "Example: countersign-ca entry list --config ca.toml --host host-b --json")]
    List {
        #[command(flatten)]
        config: ConfigFile,
        /// Only this host's entries.
        #[arg(long)]
        host: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// End a host's right to an identity. Certificates that it has stay good until their end; see `revoke`.
    #[command(
        after_help = "Example: countersign-ca entry remove --config ca.toml --host host-b --id spiffe://prod.example/llm"
    )]
    Remove {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        entry: EntryKey,
    },
}

/// Which entry.
#[derive(Debug, Args)]
pub(super) struct EntryKey {
    /// Name of the host.
    #[arg(long)]
    pub(super) host: String,
    /// The identity.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub(super) id: SpiffeId,
}

/// What can be done with the intermediate.
#[derive(Debug, Subcommand)]
pub(super) enum IntermediateCommand {
    /// Make a new key and have the root sign its certificate, good for a year. A running CA takes both up by itself.
    #[command(
        after_help = "Example: countersign-ca intermediate renew --config ca.toml --root-key /media/safe/root.key\n\nPrints \
                      the SHA-256 fingerprint of the new certificate. Nothing else changes: agents trust the root."
    )]
    Renew {
        #[command(flatten)]
        config: ConfigFile,
        /// The root's key; root.key beside the config, if not given.
        #[arg(long, value_name = "FILE")]
        root_key: Option<PathBuf>,
        /// File with the passphrase of both keys. Without it the one that the config names is taken, or the systemd credential
        /// ca_passphrase, or the terminal asked.
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        #[command(flatten)]
        json: Json,
    },
}

/// What can be done with the journal.
#[derive(Debug, Subcommand)]
pub(super) enum JournalCommand {
    /// Show the last lines, the newest last; with --json one JSON object a line.
    #[command(after_help = "Example: countersign-ca journal list --config ca.toml --limit 20 --json")]
    List(JournalListArguments),
    /// Check that no line was changed, removed or put in.
    #[command(
        after_help = "Example: countersign-ca journal verify --config ca.toml\n\nPrints the number of lines and the \
                            last hash. Kept elsewhere, that hash also shows lines cut off at the end."
    )]
    Verify {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        json: Json,
    },
}

/// Which part of the journal.
#[derive(Debug, Args)]
pub(super) struct JournalListArguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    /// Most lines to show.
    #[arg(long, default_value_t = 1000)]
    pub(super) limit: u32,
    #[command(flatten)]
    pub(super) json: Json,
}

/// What to revoke.
#[derive(Debug, Args)]
pub(super) struct RevokeArguments {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    /// The identity: it ends at once, and is not renewed until the revocation is lifted.
    #[arg(long, value_name = "SPIFFE_ID", required_unless_present = "serial")]
    pub(super) id: Option<SpiffeId>,
    /// The serial number of one certificate, in hexadecimal.
    #[arg(long, value_name = "HEX", conflicts_with_all = ["id", "lift"])]
    pub(super) serial: Option<SerialNumber>,
    /// Let the identity be used again.
    #[arg(long)]
    pub(super) lift: bool,
}

/// What can be done with join tokens.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a join token and print it, on one line. It is a secret until it is spent.
    #[command(after_help = "Example: countersign-ca token create --config ca.toml --host host-b --ttl 10m")]
    Create {
        #[command(flatten)]
        config: ConfigFile,
        /// Name of the host that joins with it.
        #[arg(long)]
        host: String,
        /// How long it can be spent.
        #[arg(long, default_value = "10m", value_parser = parse_duration)]
        ttl: Duration,
        #[command(flatten)]
        json: Json,
    },
    /// Show the join tokens and what became of them.
    #[command(after_help = "Example: countersign-ca token list --config ca.toml --json")]
    List {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        json: Json,
    },
    /// Withdraw a join token that was not spent.
    #[command(after_help = "Example: countersign-ca token revoke --config ca.toml 5f0c2a9e11d07b44")]
    Revoke {
        #[command(flatten)]
        config: ConfigFile,
        /// Its name, as `token list` shows it.
        token: String,
    },
}

fn key_algorithm() -> impl TypedValueParser<Value = KeyAlgorithm> {
    PossibleValuesParser::new(["p256", "p384", "ed25519"]).map(|name| match name.as_str() {
        "ed25519" => KeyAlgorithm::Ed25519,
        "p384" => KeyAlgorithm::P384,
        _ => KeyAlgorithm::P256,
    })
}
