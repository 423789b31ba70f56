//! What systemd is told, and the sockets that it hands over (sd_notify(3), sd_listen_fds(3)). Without systemd all of it does
//! nothing.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::listener::Listener;

/// The agent serves.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// One line for `systemctl status`.
pub(crate) fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// The agent drains; it may take this long.
pub(crate) fn stopping(within: Duration) {
    let microseconds = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(microseconds)]);
}

/// Still alive.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often systemd wants to hear that, if it does: half of what would make it restart us.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// The sockets that systemd has opened for this agent, by their `FileDescriptorName=`. systemd hands them over once: they stay
/// open for as long as the agent runs, whatever becomes of the routes that use them, and routes get duplicates.
#[derive(Debug, Default)]
pub(crate) struct HandedOver(BTreeMap<String, Listener>);

impl HandedOver {
    /// Takes all of them. Call it once, and before there is a second thread: it changes the environment.
    pub(crate) fn take() -> io::Result<Self> {
        let names: Vec<String> = sd_notify::listen_fds_with_names()?.map(|(_, name)| name).collect();
        if names.is_empty() {
            return Ok(Self::default());
        }
        let mut sockets = listenfd::ListenFd::from_env();
        let mut listeners = BTreeMap::new();
        for (index, name) in names.into_iter().enumerate() {
            // What is neither (a datagram socket, a pipe) cannot be listened on; a route that names it is told so.
            let Some(listener) = take_one(&mut sockets, index) else { continue };
            listener.set_nonblocking()?;
            listeners.entry(name).or_insert(listener);
        }
        Ok(Self(listeners))
    }

    /// A duplicate of the socket with this name.
    pub(crate) fn listener(&self, name: &str) -> io::Result<Listener> {
        let absent =
            || io::Error::new(io::ErrorKind::NotFound, format!("systemd handed over no stream socket named {name:?}"));
        self.0.get(name).ok_or_else(absent)?.duplicate()
    }
}

fn take_one(sockets: &mut listenfd::ListenFd, index: usize) -> Option<Listener> {
    if let Ok(Some(listener)) = sockets.take_tcp_listener(index) {
        return Some(Listener::Tcp(listener));
    }
    sockets.take_unix_listener(index).ok().flatten().map(Listener::Unix)
}
