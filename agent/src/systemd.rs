//! What systemd is told, and the sockets that it hands over (sd_notify(3), sd_listen_fds(3)). Without systemd all of it does
//! nothing.

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

/// The socket with this `FileDescriptorName=`.
pub(crate) fn listener(name: &str) -> io::Result<Listener> {
    let absent = || io::Error::new(io::ErrorKind::NotFound, format!("systemd handed over no socket named {name:?}"));
    let index = sd_notify::listen_fds_with_names()?.position(|(_, known)| known == name).ok_or_else(absent)?;
    let mut handed_over = listenfd::ListenFd::from_env();
    if let Ok(Some(listener)) = handed_over.take_tcp_listener(index) {
        listener.set_nonblocking(true)?;
        return Ok(Listener::Tcp(listener));
    }
    let listener = handed_over.take_unix_listener(index)?.ok_or_else(absent)?;
    listener.set_nonblocking(true)?;
    Ok(Listener::Unix(listener))
}
