//! Where credentials come from that are not in the config itself, as one config names them. What stays the same from one config to the
//! next goes on with what it knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_certs::san::San;
use countersign_certs::svid::X509Svid;
use countersign_certs::time::Clock;
use countersign_certs::tls::TlsError;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::command::LiveCommand;
use super::grant::LiveGrant;
use super::place::{Form, Place};
use super::rotation::Rotation;
use super::token_exchange::LiveExchange;
use super::{Given, Injected, Slot, Token, TokenSource};
use crate::config::checked::{Agent, BackendToken, GrantKind, Inbound, Injection, SecretCommand, TokenFor};
use crate::config::secret::Template;

/// Every source of one config.
#[derive(Default)]
pub(crate) struct Sources {
    commands: Vec<Arc<LiveCommand>>,
    /// The names of those without which a backend is given nothing.
    needed: Vec<Arc<str>>,
    /// By the name of the inbound.
    rotations: Vec<(Arc<str>, Place, Arc<Rotation>)>,
    grants: Vec<Arc<LiveGrant>>,
    exchanges: Vec<Arc<LiveExchange>>,
}

/// How a source does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceState {
    pub(crate) name: String,
    /// Why the last try gave nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl Sources {
    /// The sources of a config. `news` is told whenever one has something new.
    pub(crate) fn follow(&self, config: &Agent, clock: &Clock, news: &Arc<Notify>) -> Self {
        let command = |settings: &Arc<SecretCommand>| match self.commands.iter().find(|live| live.settings == *settings)
        {
            Some(live) => Arc::clone(live),
            None => Arc::new(LiveCommand::start(settings, news)),
        };
        let injections = config.inbounds.iter().flat_map(|inbound| {
            inbound.inject.iter().map(|injection| (Arc::clone(&inbound.name), injection.form.place()))
        });
        let rotation = |(inbound, place): (Arc<str>, Place)| {
            let rotation = Rotation::after(self.rotation(&inbound, &place).map(|rotation| &**rotation));
            (inbound, place, Arc::new(rotation))
        };
        let values = config.inbounds.iter().flat_map(|inbound| inbound.inject.iter().map(|injection| &injection.value));
        Self {
            needed: values.flat_map(Template::commands).cloned().collect(),
            commands: config.commands.iter().map(command).collect(),
            rotations: injections.map(rotation).collect(),
            grants: config.inbounds.iter().filter_map(|inbound| self.grant(inbound, clock, news)).collect(),
            exchanges: config.inbounds.iter().filter_map(|inbound| self.exchange(inbound, clock)).collect(),
        }
    }

    fn grant(&self, inbound: &Inbound, clock: &Clock, news: &Arc<Notify>) -> Option<Arc<LiveGrant>> {
        let (whose, settings) = token_of(inbound, GrantKind::ClientCredentials)?;
        let same = self.grants.iter().find(|live| live.whose == whose && live.settings() == settings);
        Some(same.cloned().unwrap_or_else(|| Arc::new(LiveGrant::start(whose, settings, clock, news))))
    }

    fn exchange(&self, inbound: &Inbound, clock: &Clock) -> Option<Arc<LiveExchange>> {
        let (whose, settings) = token_of(inbound, GrantKind::TokenExchange)?;
        let same = self.exchanges.iter().find(|live| live.whose == whose && live.settings() == settings);
        Some(same.cloned().unwrap_or_else(|| Arc::new(LiveExchange::new(whose, settings, clock))))
    }

    /// Takes up certificates and secrets that prove who we are, as they are now.
    pub(crate) fn prove(&self, svids: &BTreeMap<San, Arc<X509Svid>>) -> Result<(), TlsError> {
        let printed = |name: &str| self.command(name)?.printed();
        self.grants.iter().try_for_each(|grant| grant.prove(svids, printed))?;
        self.exchanges.iter().try_for_each(|exchange| exchange.prove(svids, printed))
    }

    /// Whether each was asked once.
    pub(crate) fn is_settled(&self) -> bool {
        self.commands.iter().all(|command| command.is_settled()) && self.grants.iter().all(|grant| grant.is_settled())
    }

    /// Waits until each was asked once, for which each has a bound.
    pub(crate) async fn settled(&self) {
        for command in &self.commands {
            command.settled().await;
        }
        for grant in &self.grants {
            grant.settled().await;
        }
    }

    /// A source that is new since `before`, and gives nothing.
    pub(crate) fn newly_failed(&self, before: &Self) -> Option<SourceState> {
        let is_known = |command: &Arc<LiveCommand>| before.commands.iter().any(|known| Arc::ptr_eq(known, command));
        // A next credential may be one that there is not yet.
        let is_needed = |command: &Arc<LiveCommand>| self.needed.contains(&command.settings.name);
        let is_failing = |command: &&Arc<LiveCommand>| command.printed().is_none() && !is_known(command);
        let failed = self.commands.iter().find(|command| is_failing(command) && is_needed(command));
        let is_known = |grant: &Arc<LiveGrant>| before.grants.iter().any(|known| Arc::ptr_eq(known, grant));
        let refused = self.grants.iter().find(|grant| !is_known(grant) && grant.error().is_some());
        failed.map(|command| command_state(command)).or_else(|| refused.map(|grant| grant_state(grant)))
    }

    /// How each does.
    pub(crate) fn states(&self) -> Vec<SourceState> {
        let of_commands = self.commands.iter().map(|command| command_state(command));
        let of_grants = self.grants.iter().map(|grant| grant_state(grant));
        let of_exchanges = self.exchanges.iter().map(|live| state_of_token(&live.whose, live.error()));
        of_commands.chain(of_grants).chain(of_exchanges).collect()
    }

    /// What the backend of an inbound is given now.
    pub(crate) fn given(&self, inbound: &Inbound) -> Given {
        let injections = inbound.inject.iter().map(|injection| self.injected(&inbound.name, injection));
        Given::new(injections, inbound.token.as_ref().and_then(|token| self.token(inbound, token)))
    }

    fn token(&self, inbound: &Inbound, settings: &BackendToken) -> Option<Token> {
        let source = match settings.grant {
            GrantKind::ClientCredentials => {
                let live = self.grants.iter().find(|live| live.whose.inbound == inbound.name)?;
                TokenSource::Own { granted: live.granted(), live: Arc::clone(live) }
            }
            GrantKind::TokenExchange => {
                let live = self.exchanges.iter().find(|live| live.whose.inbound == inbound.name)?;
                TokenSource::Exchange(Arc::clone(live))
            }
        };
        Some(Token { header: settings.header.clone(), source })
    }

    fn injected(&self, inbound: &str, injection: &Injection) -> Injected {
        let place = injection.form.place();
        let rotation = self.rotation(inbound, &place).cloned().unwrap_or_default();
        let templates = std::iter::once(&injection.value).chain(&injection.next);
        let slots: Box<[Slot]> = templates.map(|template| self.slot(&injection.form, template)).collect();
        let in_slot = |slot: usize| slots.get(slot).and_then(|slot| slot.written.clone());
        rotation.holds([in_slot(0), in_slot(1)]);
        Injected { place, slots, rotation, refused_by: injection.refused_by.as_slice().into() }
    }

    fn slot(&self, form: &Form, template: &Template) -> Slot {
        let secret = template.fill(|name| self.command(name)?.printed());
        let written = secret.and_then(|secret| match form.write(&secret) {
            Ok(written) => Some(written),
            Err(error) => {
                tracing::error!(%error, "what a command has printed cannot be given to a backend");
                None
            }
        });
        Slot { written, commands: template.commands().filter_map(|name| self.command(name)).cloned().collect() }
    }

    fn rotation(&self, inbound: &str, place: &Place) -> Option<&Arc<Rotation>> {
        let found = self.rotations.iter().find(|(name, other, _)| **name == *inbound && other == place);
        found.map(|(_, _, rotation)| rotation)
    }

    fn command(&self, name: &str) -> Option<&Arc<LiveCommand>> {
        self.commands.iter().find(|command| *command.settings.name == *name)
    }
}

fn grant_state(grant: &LiveGrant) -> SourceState {
    state_of_token(&grant.whose, grant.error())
}

fn state_of_token(whose: &TokenFor, error: Option<Arc<str>>) -> SourceState {
    SourceState { name: format!("token of inbound {}", whose.inbound), error: error.map(|error| error.to_string()) }
}

fn token_of(inbound: &Inbound, grant: GrantKind) -> Option<(TokenFor, &Arc<BackendToken>)> {
    let settings = inbound.token.as_ref().filter(|token| token.grant == grant)?;
    Some((TokenFor { inbound: Arc::clone(&inbound.name), backend: inbound.backend.clone() }, settings))
}

fn command_state(command: &LiveCommand) -> SourceState {
    SourceState {
        name: format!("secret_command {}", command.settings.name),
        error: command.error().map(|error| error.to_string()),
    }
}
