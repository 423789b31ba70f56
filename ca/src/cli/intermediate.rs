//! `intermediate renew`.

use serde_json::json;

use super::arguments::IntermediateCommand;
use super::{CommandError, Opened, Said};
use crate::authority::{needs_passphrase, renew};
use crate::certs::digest::hexadecimal;
use crate::certs::digest::sha256;
use crate::certs::time::Clock;
use crate::config::{Passphrase, PassphraseSource};

pub(super) async fn run(command: IntermediateCommand, clock: &Clock) -> Result<Said, CommandError> {
    let IntermediateCommand::Renew { config, root_key, passphrase_file, json } = command;
    let ca = Opened::open(&config.path, clock).await?;
    let files = &ca.settings.files;
    let root_key = root_key.as_deref().unwrap_or(&files.root_key);
    let passphrase = match needs_passphrase(files, root_key)? {
        true => passphrase(passphrase_file.map(PassphraseSource::File), &ca)?,
        false => None,
    };
    let new = renew(&ca.authority()?, files, root_key, passphrase.as_ref(), &ca.journal, clock.now()).await?;
    let (sha256, end) = (hexadecimal(&sha256(new.intermediate())), new.validity().not_after.to_string());
    let talk = format!(
        "the new intermediate is good until {end}; a running CA takes it up within seconds, and its log says so\n\
         certificates under the old one stay good until their own end\n\
         take the root's key away from this host again\n"
    );
    let data = if json.wanted {
        format!("{}\n", json!({ "intermediate_sha256": sha256, "intermediate_expires": end }))
    } else {
        format!("{sha256}\n")
    };
    Ok(Said { data: data.into(), talk })
}

fn passphrase(given: Option<PassphraseSource>, ca: &Opened) -> Result<Option<Passphrase>, CommandError> {
    let source = given.or_else(|| ca.settings.passphrase.clone()).or_else(PassphraseSource::find);
    Ok(source.map(|source| source.read()).transpose()?)
}
