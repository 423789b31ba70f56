//! A connection without a network: whatever one side writes, the other reads, until neither has anything to say.

use std::io::Cursor;
use std::sync::Arc;

use rustls::client::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::server::ServerConfig;
use rustls::{AlertDescription, ClientConnection, Error, ServerConnection};

/// The name that clients of other makes ask for; our own look at the SPIFFE ID instead.
pub(crate) const SERVER_NAME: &str = "server.prod.example";

/// Both ends after the handshake, and what each says went wrong.
pub(crate) struct Ended {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    pub(crate) client_error: Option<Error>,
    pub(crate) server_error: Option<Error>,
}

impl Ended {
    pub(crate) fn succeeded(&self) -> bool {
        self.client_error.is_none()
            && self.server_error.is_none()
            && !self.client.is_handshaking()
            && !self.server.is_handshaking()
    }

    /// The alert that the server was sent.
    pub(crate) fn alert_at_server(&self) -> Option<AlertDescription> {
        alert(self.server_error.as_ref())
    }

    /// The alert that the client was sent.
    pub(crate) fn alert_at_client(&self) -> Option<AlertDescription> {
        alert(self.client_error.as_ref())
    }
}

fn alert(error: Option<&Error>) -> Option<AlertDescription> {
    if let Some(Error::AlertReceived(description)) = error { Some(*description) } else { None }
}

pub(crate) fn connect(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Ended {
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let mut ended = Ended {
        client: ClientConnection::new(client, name).unwrap(),
        server: ServerConnection::new(server).unwrap(),
        client_error: None,
        server_error: None,
    };
    loop {
        let mut bytes = Vec::new();
        while ended.client.wants_write() {
            ended.client.write_tls(&mut bytes).unwrap();
        }
        let mut moved = bytes.len();
        let mut unread = Cursor::new(bytes);
        while ended.server_error.is_none() && ended.server.read_tls(&mut unread).unwrap() > 0 {
            ended.server_error = ended.server.process_new_packets().err();
        }
        let mut bytes = Vec::new();
        while ended.server.wants_write() {
            ended.server.write_tls(&mut bytes).unwrap();
        }
        moved += bytes.len();
        let mut unread = Cursor::new(bytes);
        while ended.client_error.is_none() && ended.client.read_tls(&mut unread).unwrap() > 0 {
            ended.client_error = ended.client.process_new_packets().err();
        }
        if moved == 0 {
            return ended;
        }
    }
}
