//! Plain TCP: allowed as a whole, carried as bytes.

use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::onward::Onward;
use super::pump;
use crate::authorize::ConnectionPermit;
use crate::connection::Connection;
use crate::live::Told;
use crate::record::Transfer;
use crate::refusal::Refusal;

/// Carries a connection that was allowed until one side ends or it must end.
pub(crate) async fn serve<S>(
    stream: S,
    _permit: ConnectionPermit,
    connection: &Rc<Connection>,
    transfer: Rc<Transfer>,
) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection.request_began();
    let outcome = carry(stream, connection, &transfer).await;
    connection.request_ended();
    outcome
}

async fn carry<S>(stream: S, connection: &Rc<Connection>, transfer: &Transfer) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let touch = || connection.touch();
    let pumping = async {
        match connection.onward()? {
            Onward::Backend(pool) => {
                let (backend, _room) = pool.connect().await?;
                pump::both_ways(stream, backend, transfer, touch).await.map_err(Refusal::Transfer)
            }
            Onward::Hop(pool) => {
                let hop = pool.establish(&[]).await?;
                tokio::select! {
                    pumped = pump::both_ways(stream, hop.stream, transfer, touch) => pumped.map_err(Refusal::Transfer),
                    withdrawn = hop.member.signal().cut_asked() => Err(withdrawn.into()),
                }
            }
        }
    };
    let mut pumping = std::pin::pin!(pumping);
    let mut draining = false;
    loop {
        tokio::select! {
            pumped = pumping.as_mut() => return pumped,
            told = connection.signal().told(draining) => match told {
                // Bytes that are not looked at have no end that could be waited for; the drain time is all there is.
                Told::Drain => draining = true,
                Told::Rest => {}
                Told::Cut(withdrawn) => return Err(withdrawn.into()),
            },
        }
    }
}
