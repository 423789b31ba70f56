//! Where credentials come from that are not in the config itself, as one config names them. What stays the same from one config to the
//! next goes on with what it knows.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::command::LiveCommand;
use super::place::{Form, Place};
use super::rotation::Rotation;
use super::{Given, Injected, Slot};
use crate::config::checked::{Agent, Inbound, Injection, SecretCommand};
use crate::config::secret::Template;

/// Every source of one config.
#[derive(Default)]
pub(crate) struct Sources {
    commands: Vec<Arc<LiveCommand>>,
    /// By the name of the inbound.
    rotations: Vec<(Arc<str>, Place, Arc<Rotation>)>,
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
    pub(crate) fn follow(&self, config: &Agent, news: &Arc<Notify>) -> Self {
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
        Self { commands: config.commands.iter().map(command).collect(), rotations: injections.map(rotation).collect() }
    }

    /// Whether each was asked once.
    pub(crate) fn is_settled(&self) -> bool {
        self.commands.iter().all(|command| command.is_settled())
    }

    /// Waits until each was asked once, for which each has a bound.
    pub(crate) async fn settled(&self) {
        for command in &self.commands {
            command.settled().await;
        }
    }

    /// A source that is new since `before`, and gives nothing.
    pub(crate) fn newly_failed(&self, before: &Self) -> Option<SourceState> {
        let is_known = |command: &Arc<LiveCommand>| before.commands.iter().any(|known| Arc::ptr_eq(known, command));
        let failed = self.commands.iter().find(|command| !is_known(command) && command.printed().is_none());
        failed.map(|command| command_state(command))
    }

    /// How each does.
    pub(crate) fn states(&self) -> Vec<SourceState> {
        self.commands.iter().map(|command| command_state(command)).collect()
    }

    /// What the backend of an inbound is given now.
    pub(crate) fn given(&self, inbound: &Inbound) -> Given {
        Given::new(inbound.inject.iter().map(|injection| self.injected(&inbound.name, injection)))
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

fn command_state(command: &LiveCommand) -> SourceState {
    SourceState {
        name: format!("secret_command {}", command.settings.name),
        error: command.error().map(|error| error.to_string()),
    }
}
