//! The configuration: read once, checked as a whole, and refused with file, line and column if anything is wrong.
//!
//! Only this module reads the environment and the config file. [`mod@file`] is the text as written, [`checked`] what the rest
//! of the program uses; nobody else sees the first.

mod checked;
mod file;
mod passphrase;
mod template;

use std::path::Path;

use crate::certs::settings::diagnostic::{Diagnostic, SecretLines};
use crate::certs::store::{self, StoreError};

pub(crate) use crate::certs::settings::duration::{parse as parse_duration, print as print_duration};
pub(crate) use checked::{DEFAULT_LISTEN, Files, Limits, Settings, TTL_MIN};
pub(crate) use passphrase::{Passphrase, PassphraseError, PassphraseSource};
pub(crate) use template::{Template, write as write_template};

/// A passphrase may stand where its source belongs.
const SECRETS: SecretLines = SecretLines {
    key: "passphrase",
    reminders: &[],
    hint: "passphrase says where the passphrase is, never what it is: \"credential:ca_passphrase\" (systemd) or \
           \"file:/etc/countersign/passphrase\"",
};

/// Name of the config file in the CA's folder.
pub(crate) const CONFIG_FILE: &str = "ca.toml";

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// Something in the text is wrong.
    #[error("{0}")]
    Invalid(Box<Diagnostic>),
    /// The file is not UTF-8.
    #[error("{path} is not UTF-8 text")]
    NotText { path: String },
    /// The file cannot be read.
    #[error("the config file cannot be read")]
    Unreadable(#[from] StoreError),
}

/// Reads and checks the config file. Relative paths in it are relative to its own folder.
pub(crate) fn load(path: &Path) -> Result<Settings, ConfigError> {
    let bytes = store::read(path)?;
    let text =
        std::str::from_utf8(&bytes).map_err(|_not_utf8| ConfigError::NotText { path: path.display().to_string() })?;
    parse(path, text).map_err(|diagnostic| ConfigError::Invalid(Box::new(diagnostic)))
}

fn parse(path: &Path, text: &str) -> Result<Settings, Diagnostic> {
    let name = path.display().to_string();
    let written = toml::from_str(text).map_err(|error| Diagnostic::of_toml(&name, text, &error, &SECRETS))?;
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    checked::check(written, folder).map_err(|finding| Diagnostic::new(&name, text, finding, &SECRETS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(Path::new("ca.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn the_shortest_config_has_every_default() {
        let settings = parse(Path::new("/d/ca.toml"), "trust_domain = \"prod.example\"\nname = \"ca.prod.example\"\n");
        let settings = settings.unwrap();
        assert_eq!(settings.advertise, "ca.prod.example:8443");
        assert_eq!(settings.files.store, Path::new("/d/ca.sqlite"));
        assert_eq!(print_duration(settings.issuance.workload_ttl), "1h");
    }

    #[test]
    fn watchers_always_have_connections() {
        let base = "trust_domain = \"prod.example\"\nname = \"ca.prod.example\"\n[limits]\n";
        let limits = |more: &str| parse(Path::new("ca.toml"), &format!("{base}{more}")).unwrap().limits;
        assert_eq!(limits("watchers = 5000\n").connections, 10_000);
        assert_eq!(limits("watchers = 5\n").connections, 2048);
        assert_eq!(limits("watchers = 5000\nconnections = 6000\n").connections, 6000);
    }

    #[test]
    fn unknown_keys_are_refused_where_they_stand_with_the_likely_one() {
        let shown = refused("trust_domain = \"prod.example\"\nlisten_ = \"0.0.0.0:1\"\n");
        assert!(shown.starts_with("ca.toml:2:1: unknown key \"listen_\""), "{shown}");
        assert!(shown.contains("listen_ = \"0.0.0.0:1\"\n") && shown.contains("^^^^^^^"), "{shown}");
        assert!(shown.contains("hint: did you mean \"listen\"?"), "{shown}");
        let nested = refused("trust_domain = \"prod.example\"\n[limits]\nconections = 5\n");
        assert!(nested.starts_with("ca.toml:3:1: unknown key \"conections\""), "{nested}");
    }

    #[test]
    fn wrong_types_and_values_are_refused_where_they_stand() {
        let base = "trust_domain = \"prod.example\"\nname = \"ca.prod.example\"\n";
        for (line, column) in [
            ("listen = 5", 10),
            ("listen = \"here\"", 10),
            ("advertise = \"nobody\"", 13),
            ("passphrase = \"hunter2\"", 14),
            ("log_level = \"loud\"", 13),
            ("[issuance]\nworkload_ttl = \"1 fortnight\"", 16),
            ("[issuance]\nworkload_ttl = 3600", 16),
            ("[issuance]\nworkload_ttl = \"25h\"", 16),
            ("[issuance]\nworkload_ttl = \"5s\"", 16),
            ("[issuance]\nhost_ttl = \"400d\"", 12),
            ("[limits]\nconnections = 0", 15),
            ("[limits]\nbody_bytes = -1", 14),
        ] {
            let shown = refused(&format!("{base}{line}\n"));
            let row = 2 + line.lines().count();
            assert!(shown.starts_with(&format!("ca.toml:{row}:{column}: ")), "{line}: {shown}");
            assert!(shown.contains("hint: "), "{line}: {shown}");
        }
        assert!(refused("trust_domain = \"a/b\"").starts_with("ca.toml:1:16: "));
        assert!(refused("name = \"x\"\n").starts_with("ca.toml:1:1: missing key \"trust_domain\""));
        assert!(refused("trust_domain = \n").starts_with("ca.toml:1:16: "));
    }

    #[test]
    fn a_passphrase_in_place_of_its_source_is_not_repeated() {
        for line in [
            "passphrase = \"hunter2secret\"",
            "passphrase = hunter2secret",
            "pasphrase = \"hunter2secret\"",
            "PASSWORD = \"hunter2secret\"",
            "passphrase = 424242",
            "passphrase = \"hunter2 (unclosed",
            "passphrase = \"\"\"\nhunter2secret\n\"",
            "passphrase = [\n\"hunter2secret\n\"",
            "passphrase = [\"hunter2secret\"]",
            "passphrase.is = \"hunter2secret\"",
            "log_level = \"hunter2\" # the passphrase",
            "[limits]\nbody_bytes = \"hunter2passphrase\"",
        ] {
            let shown = refused(&format!("trust_domain = \"prod.example\"\nname = \"ca.example\"\n{line}\n"));
            assert!(shown.contains("(the line is not shown)"), "{line}: {shown}");
            assert!(!shown.contains("hunter2") && !shown.contains("424242"), "{line}: {shown}");
        }
    }

    #[test]
    fn a_config_that_names_the_source_of_a_passphrase_is_still_shown_where_it_is_wrong() {
        let shown = refused("trust_domain = \"a/b\"\npassphrase = \"credential:x\"\n");
        assert!(shown.contains("trust_domain = \"a/b\"\n"), "{shown}");
    }
}
