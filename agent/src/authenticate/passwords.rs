//! Names and passwords (RFC 7617), for tools that can do nothing else.
//!
//! Checking a password is dear on purpose. A bounded number is checked at once, on threads of their own, and whoever fails waits
//! longer each time. What was right is remembered, so that a caller pays once.

use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use countersign_credentials::lockout::{LockedUntil, Lockout, LockoutSettings, Place};
use countersign_credentials::password::{Basic, PasswordHash};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::CredentialRefusal;
use super::shown::Secret;
use super::subject::{Proof, Subject};
use crate::connection::Connection;
use crate::listener::Origin;
use crate::policy::subject::SubjectNames;
use crate::routes::Snapshot;

/// Passwords that are checked at once. Each takes tens of MiB and tens of milliseconds.
const CHECKS_AT_ONCE: usize = 2;

/// How long a check waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// What all workers share about passwords.
#[derive(Debug)]
pub(crate) struct PasswordChecks {
    turns: Arc<Semaphore>,
    lockout: Mutex<Lockout>,
    /// Makes what is remembered of a password worthless outside of this process.
    salt: [u8; 32],
}

impl PasswordChecks {
    /// Nothing was tried yet.
    pub(crate) fn new() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut salt = [0; 32];
        aws_lc_rs::rand::fill(&mut salt)?;
        let lockout = Mutex::new(Lockout::new(LockoutSettings::default()));
        Ok(Self { turns: Arc::new(Semaphore::new(CHECKS_AT_ONCE)), lockout, salt })
    }

    fn lockout(&self) -> MutexGuard<'_, Lockout> {
        self.lockout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered_as(&self, secret: &Secret) -> [u8; 32] {
        let mut digest = Context::new(&SHA256);
        digest.update(&self.salt);
        digest.update(secret.expose());
        digest.finish().as_ref().try_into().unwrap_or_default()
    }
}

/// Verifies a name and a password.
pub(super) async fn verify(
    secret: &Secret,
    connection: &Connection,
    snapshot: &Arc<Snapshot>,
) -> Result<Rc<Subject>, CredentialRefusal> {
    let worker = connection.worker();
    let remembered_as = worker.password_checks().remembered_as(secret);
    if let Some(subject) = worker.subjects().of_password(&remembered_as, snapshot) {
        return Ok(subject);
    }
    // A caller that begins with many requests at once is one who tries one password, and waits for one check.
    let turn = worker.subjects().turn(remembered_as);
    let _turn = turn.lock().await;
    match worker.subjects().of_password(&remembered_as, snapshot) {
        Some(subject) => Ok(subject),
        None => Box::pin(check(secret, remembered_as, connection, snapshot)).await,
    }
}

async fn check(
    secret: &Secret,
    remembered_as: [u8; 32],
    connection: &Connection,
    snapshot: &Snapshot,
) -> Result<Rc<Subject>, CredentialRefusal> {
    let worker = connection.worker();
    let checks = worker.password_checks();
    let text = std::str::from_utf8(secret.expose()).map_err(|_not_text| CredentialRefusal::NotText)?;
    let Basic { user, password } = Basic::parse(text)?;
    let (name, origin) = (user, connection.address().origin());
    let place = match origin {
        Origin::Network(network) => network.into(),
        Origin::Unknown => Place::unknown(),
        Origin::User(uid) => Place::user(uid),
    };
    let tell = |locked: &LockedUntil| worker.notables().locked_out(&name, origin, locked.until);
    let allowed = checks.lockout().check(worker.clock().now(), &name, place);
    allowed.inspect_err(tell)?;
    let turn = tokio::time::timeout(TURN, Arc::clone(&checks.turns).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else { return Err(CredentialRefusal::PasswordBusy) };
    // Counted as failed until it is known to be right, so that many tries at once are not one.
    let begun = checks.lockout().begin(worker.clock().now(), &name, place);
    begun.inspect_err(tell)?;
    let known = snapshot.accepted.passwords.as_ref();
    let hash = known.and_then(|known| known.hashes.get(name.as_str())).map(Arc::clone);
    let (is_known, checked) = match (hash, known) {
        (Some(hash), _) => (true, hash),
        // Whoever has no name here waits as long as whoever has, so that the time does not tell which names there are.
        (None, Some(known)) => (false, Arc::clone(&known.decoy)),
        (None, None) => return Err(CredentialRefusal::PasswordWrong),
    };
    let hash = Arc::clone(&checked);
    let is_right = in_turn(turn, move || hash.verify(&password)).await == Some(true);
    if !(is_right && is_known) {
        return Err(CredentialRefusal::PasswordWrong);
    }
    checks.lockout().succeeded(&name, place);
    let names = SubjectNames::Password { name: name.as_str().into() };
    let subject = Subject::new(names, Proof::Password { name: name.as_str().into(), hash: checked }, snapshot);
    worker.subjects().remember(remembered_as, &subject);
    Ok(subject)
}

/// Does slow work on a thread of its own. The turn is over when the work is, not when the caller goes away. None if it came to nothing.
async fn in_turn<T: Send + 'static>(
    turn: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let work = move || {
        let done = work();
        drop(turn);
        done
    };
    tokio::task::spawn_blocking(work).await.ok()
}

/// Whether a password that was right is still that of its user.
pub(super) fn still_right(name: &str, hash: &Arc<PasswordHash>, snapshot: &Snapshot) -> Result<(), CredentialRefusal> {
    let known = snapshot.accepted.passwords.as_ref().and_then(|known| known.hashes.get(name));
    if known.is_some_and(|known| known == hash) { Ok(()) } else { Err(CredentialRefusal::PasswordWrong) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_caller_that_goes_away_gives_its_turn_back_when_the_work_is_done_and_not_before() {
        let turns = Arc::new(Semaphore::new(CHECKS_AT_ONCE));
        let (begun, has_begun) = mpsc::channel();
        let mut gates = Vec::new();
        for _ in 0..CHECKS_AT_ONCE {
            let (open, gate) = mpsc::channel::<()>();
            let (turn, begun) = (Arc::clone(&turns).acquire_owned().await.unwrap(), begun.clone());
            let work = in_turn(turn, move || {
                begun.send(()).unwrap();
                gate.recv().ok();
            });
            let caller = tokio::spawn(work);
            while has_begun.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
            caller.abort();
            assert!(caller.await.unwrap_err().is_cancelled(), "the caller has gone away");
            gates.push(open);
        }
        assert_eq!(turns.available_permits(), 0, "the work goes on");
        let next = tokio::spawn(Arc::clone(&turns).acquire_owned());
        drop(gates.pop());
        let turn = next.await.unwrap().unwrap();
        assert_eq!(in_turn(turn, || 7).await, Some(7));
        drop(gates);
        let all = turns.acquire_many(u32::try_from(CHECKS_AT_ONCE).unwrap()).await;
        assert!(all.is_ok(), "every turn comes back");
    }
}
