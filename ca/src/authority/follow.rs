//! A running CA takes up an intermediate that was renewed beside it. What cannot be used changes nothing: the one before goes
//! on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{Authority, AuthorityError, Signing, is_encrypted, read_certificate};
use crate::certs::digest::hexadecimal;
use crate::certs::digest::sha256;
use crate::certs::store;
use crate::certs::time::{Clock, Timestamp};
use crate::config::{Files, Passphrase, PassphraseError, PassphraseSource};
use crate::record::chain_of;

/// How often the certificate's file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long to wait after one that could not be used.
const RETRY: Duration = Duration::from_secs(60);

/// Why a new intermediate is not used.
#[derive(Debug, thiserror::Error)]
enum NotTakenUp {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("its key is encrypted, and the passphrase was typed at a terminal; start the CA again")]
    Terminal,
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    #[error("reading its key broke down")]
    Task(#[from] tokio::task::JoinError),
}

/// Looks for a new intermediate for as long as anybody signs.
pub(crate) async fn follow(
    files: Files,
    passphrase: Option<PassphraseSource>,
    clock: Clock,
    signing: watch::Sender<Arc<Signing>>,
) {
    while !signing.is_closed() {
        tokio::time::sleep(LOOK_EVERY).await;
        // It is always a whole file. If it is gone, there is nothing new.
        let Ok(found) = read_certificate(&files.intermediate) else { continue };
        let current = signing.borrow().authority.clone();
        if found == *current.intermediate() {
            continue;
        }
        match take_up(current, found, files.clone(), passphrase.clone(), clock.now()).await {
            Ok(new) => {
                let (sha256, end) =
                    (hexadecimal(&sha256(new.authority.intermediate())), new.authority.validity().not_after);
                tracing::info!(sha256, not_after = %end, "renewed intermediate taken up");
                signing.send_replace(Arc::new(new));
            }
            Err(error) => {
                tracing::error!(error = chain_of(&error), "new intermediate not taken up, the one before goes on");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn take_up(
    current: Authority,
    found: CertificateDer<'static>,
    files: Files,
    source: Option<PassphraseSource>,
    now: Timestamp,
) -> Result<Signing, NotTakenUp> {
    // The root stays: one that it has not signed is refused here.
    let authority = Authority::new(current.trust_domain, current.root, found)?;
    // Deriving a key from a passphrase takes a core for a while.
    tokio::task::spawn_blocking(move || {
        let passphrase = passphrase(&files, source)?;
        let signer = authority.signer(&files, passphrase.as_ref(), now)?;
        Ok(Signing { authority, signer })
    })
    .await?
}

fn passphrase(files: &Files, source: Option<PassphraseSource>) -> Result<Option<Passphrase>, NotTakenUp> {
    if !is_encrypted(&store::read_secret(&files.intermediate_key).map_err(AuthorityError::Store)?) {
        return Ok(None);
    }
    match source.or_else(PassphraseSource::find) {
        None | Some(PassphraseSource::Terminal) => Err(NotTakenUp::Terminal),
        Some(source) => Ok(Some(source.read()?)),
    }
}
