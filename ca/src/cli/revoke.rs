//! `revoke`.

use super::arguments::RevokeArguments;
use super::{CommandError, Opened, Said};
use crate::certs::time::Clock;
use crate::revoke;

pub(super) async fn run(arguments: RevokeArguments, clock: &Clock) -> Result<Said, CommandError> {
    let RevokeArguments { config, id, serial, lift } = arguments;
    let ca = Opened::open(&config.path, clock).await?;
    let said = match (id, serial) {
        (Some(id), _) if lift => {
            let said = format!("{id} may be used again\n");
            revoke::lift(&ca.journal, id).await?;
            said
        }
        (Some(id), _) => {
            let said = format!("{id} is revoked until it is lifted\n");
            revoke::identity(&ca.journal, ca.trust_domain(), id).await?;
            said
        }
        (None, Some(serial)) => {
            let said = format!("the certificate with serial {serial} is revoked\n");
            revoke::serial(&ca.journal, serial).await?;
            said
        }
        // clap demands one of both.
        (None, None) => String::new(),
    };
    Ok(Said::talk(said))
}
