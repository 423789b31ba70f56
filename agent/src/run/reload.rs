//! A changed config: read, kept until what it takes credentials from has answered, and taken up or refused as a whole.

use std::rc::Rc;

use super::{Agent, RunError, files_of, load};
use crate::assemble::{AssembleError, Opening, Taken};
use crate::config::{Secrets, checked, lists};
use crate::given::sources::SourceState;
use crate::identity::files::{self, FromFiles};
use crate::in_words::in_one_line;
use crate::watcher::FileWatcher;

impl Agent {
    /// Takes up a changed config or changed files, or says what is wrong with them and goes on with what was.
    pub(super) fn reload(&self, files: &mut FileWatcher) {
        let is_taken_up = match self.read_anew(files) {
            Ok(coming) => {
                self.coming.replace(Some(Rc::new(coming)));
                self.finish_reload()
            }
            Err(error) => {
                self.coming.take();
                self.refuse_config(&error);
                false
            }
        };
        if !is_taken_up {
            self.follow_lists();
        }
    }

    /// Takes up the config that is coming, unless it still waits. Whether it is in use now.
    pub(super) fn finish_reload(&self) -> bool {
        let Some(coming) = self.coming.take() else { return false };
        let before = self.taken();
        match self.try_coming(&coming) {
            Ok(true) => {
                self.config_error.take();
                tracing::info!("config taken up");
                self.teller.config_taken_up(&self.path, &before.config, &self.taken().config);
                self.teller.certificates(&self.taken(), &self.credentials());
                return true;
            }
            Ok(false) => drop(self.coming.replace(Some(coming))),
            Err(error) => self.refuse_config(&error),
        }
        false
    }

    /// The config in use goes on with what its files say now: whatever is wrong with a newer config, a key that was revoked opens
    /// nothing, and a certificate that was renewed is shown.
    fn follow_lists(&self) {
        let taken = self.taken();
        let mut unusable = Vec::new();
        let config = lists::read_again(&taken.config, &mut unusable);
        let files = files::load_again(&taken.config, &taken.files, &mut unusable);
        for error in unusable {
            tracing::error!(error, "a file cannot be used, what it said before stays in use");
        }
        let is_same =
            (&config.accepted, &config.trust_domains) == (&taken.config.accepted, &taken.config.trust_domains);
        if is_same && files.is_same(&taken.files) {
            return;
        }
        let trust_domains = taken.config.trust_domains.clone();
        let without_new_trust = checked::Agent { trust_domains, ..config.clone() };
        if let Err(error) = self.follow(&taken, config, files) {
            tracing::error!(error = in_one_line(&error), "changed files cannot be taken up together");
            // What cannot be had is new trust; keys and passwords do not wait for it.
            if let Err(error) = self.follow(&taken, without_new_trust, taken.files.clone()) {
                tracing::error!(error = in_one_line(&error), "changed files cannot be taken up");
            }
        }
    }

    fn follow(&self, taken: &Taken, config: checked::Agent, files: FromFiles) -> Result<(), AssembleError> {
        let sources = taken.sources.follow(&config, &self.clock, &self.news);
        let again = Rc::new(Taken { config, files, sources });
        self.take_up(&again, Opening::RouteByRoute)?;
        self.teller.keys_changed(&taken.config, &again.config);
        self.teller.certificates(&again, &self.credentials());
        Ok(())
    }

    fn try_coming(&self, coming: &Rc<Taken>) -> Result<bool, RunError> {
        if !coming.is_settled(&self.credentials())? {
            return Ok(false);
        }
        match coming.sources.newly_failed(&self.taken().sources) {
            Some(SourceState { name, error }) => {
                Err(RunError::Source { name, detail: error.unwrap_or_else(|| "it does not answer".to_owned()) })
            }
            None => {
                self.say_what_needs_a_restart(&coming.config);
                self.take_up(coming, Opening::AllOrNothing)?;
                Ok(true)
            }
        }
    }

    /// Waits until there is more to know of the config that is coming; for ever where none is.
    pub(super) async fn coming_is_settled(&self) {
        let coming = self.coming.borrow().clone();
        match coming {
            Some(coming) => coming.sources.settled().await,
            None => std::future::pending().await,
        }
    }

    fn refuse_config(&self, error: &RunError) {
        let text = in_one_line(error);
        self.teller.config_refused(&self.path, text.clone());
        tracing::error!(error = text, "config refused, the one before stays in use");
        self.config_error.replace(Some(text));
    }

    fn read_anew(&self, files: &mut FileWatcher) -> Result<Taken, RunError> {
        let mut watched = self.files();
        // What is watched is fingerprinted before it is read, so that a change in between is seen as one.
        files.watch(watched.iter().cloned());
        let config = load(&self.path, Secrets::Read)?;
        let named = files_of(&config, &self.path);
        let read = files::load(&config).map_err(AssembleError::from);
        // The files of a refused config are watched too: mending one of them mends the config.
        if named.iter().any(|file| !watched.contains(file)) {
            watched.extend(named);
            watched.sort();
            watched.dedup();
            files.watch(watched);
        }
        let files = read?;
        Ok(Taken { sources: self.taken().sources.follow(&config, &self.clock, &self.news), config, files })
    }
}
