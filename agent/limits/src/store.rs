//! What several agents use of quotas that they share: buckets in a Valkey or Redis server.
//!
//! All shared limits of a request are one question with one answer: a script of the server looks at all of them and uses one
//! request of each, or of none. It goes by the server's clock, so that agents whose clocks differ still agree. A bucket that is full
//! again is gone by itself. What a bucket is called holds the digest of whoever is counted, never a name.

mod answers;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, ProtocolVersion, RedisConnectionInfo, RedisError, Script,
    ServerErrorKind,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use self::answers::{Answering, Questions};
use crate::counted::Counted;
use crate::quota::{Quota, Standing};

/// Longest answer to a password in bytes.
const ANSWER_BYTES_MAX: usize = 512;

/// What the server runs for each question.
const SCRIPT: &str = include_str!("store.lua");

/// Why a store does not count.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It answers something else than our script would.
    #[error("the store answered {found} numbers for {asked} limits")]
    Answer {
        /// How many limits it was asked about.
        asked: usize,
        /// How many numbers came back.
        found: usize,
    },
    /// The connection is of no use any more.
    #[error("the connection to the store broke")]
    Broken(#[source] RedisError),
    /// It refuses what it is asked; the next question may go well.
    #[error("the store refused")]
    Refused(#[source] RedisError),
    /// It does not take the password.
    #[error("the store does not take the password: {0:?}")]
    Password(String),
    /// Sending the password failed.
    #[error("the connection to the store broke while it was given the password")]
    Unreachable(#[from] io::Error),
}

impl StoreError {
    /// Whether another question on the same connection may go well.
    pub fn leaves_connection_usable(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// By whom a store lets us in.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    /// A user of its access control list; none for the one that needs no name.
    pub user: Option<String>,
    /// The password.
    pub secret: Zeroizing<String>,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Password({:?})", self.user)
    }
}

/// One limit about which a store is asked.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'limit> {
    /// The name of the limit, the same in every agent that shares it.
    pub name: &'limit str,
    /// Who is counted.
    pub counted: &'limit Counted,
    /// The quota. Where agents differ in it for a while, each goes by its own.
    pub quota: &'limit Quota,
    /// Whether a request is refused if none is left; a limit that is only watched uses what is left of it.
    pub enforced: bool,
}

/// What a store says of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Whether a request was left.
    pub fits: bool,
    /// What is left now.
    pub standing: Standing,
}

/// A connection to a store. Questions of many requests are under way on it at once.
#[derive(Clone)]
pub struct Session {
    connection: MultiplexedConnection,
    questions: Questions,
    script: Arc<Script>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Session")
    }
}

impl Session {
    /// Begins on a stream that was just connected. What comes with it carries the bytes: it is to be run as a task, and ends with the
    /// connection. The caller bounds the time.
    ///
    /// # Errors
    /// The stream breaks, or the password is not taken.
    pub async fn open<S>(
        mut stream: S,
        password: Option<&Password>,
    ) -> Result<(Self, Pin<Box<dyn Future<Output = ()> + Send>>), StoreError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let Some(password) = password {
            show(&mut stream, password).await?;
        }
        let info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let questions = Questions::default();
        // The library asks nothing of its own: the password was shown, and RESP2 needs no word about itself.
        let stream = Answering::new(stream, questions.clone());
        let opened = MultiplexedConnection::new_with_config(&info, stream, config).await;
        let (connection, carrying) = opened.map_err(StoreError::Broken)?;
        Ok((Self { connection, questions, script: Arc::new(Script::new(SCRIPT)) }, Box::pin(carrying)))
    }

    /// Uses one request of each limit, or of none if one that is enforced has none left. The caller bounds the time.
    ///
    /// # Errors
    /// There is no answer, or one that makes no sense.
    pub async fn take(&self, asks: &[Ask<'_>]) -> Result<Vec<Answer>, StoreError> {
        self.ask(asks, true).await
    }

    /// What is left. Uses nothing.
    ///
    /// # Errors
    /// There is no answer, or one that makes no sense.
    pub async fn look(&self, asks: &[Ask<'_>]) -> Result<Vec<Answer>, StoreError> {
        self.ask(asks, false).await
    }

    async fn ask(&self, asks: &[Ask<'_>], takes: bool) -> Result<Vec<Answer>, StoreError> {
        let mut question = redis::cmd("EVALSHA");
        question.arg(self.script.get_hash()).arg(asks.len());
        for ask in asks {
            question.arg(format!("countersign:limit:{}:{}", ask.name, ask.counted.to_hexadecimal()));
        }
        question.arg(u8::from(takes));
        for ask in asks {
            let interval = ask.quota.interval_in_microseconds();
            let capacity = interval.saturating_mul(u64::from(ask.quota.burst()));
            question.arg(interval).arg(capacity).arg(u8::from(ask.enforced));
        }
        let told: Vec<u64> = match self.send(&question).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.send::<String>(redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT)).await.map_err(failed)?;
                self.send(&question).await.map_err(failed)?
            }
            told => told.map_err(failed)?,
        };
        if told.len() != asks.len() * 2 {
            return Err(StoreError::Answer { asked: asks.len(), found: told.len() });
        }
        let each = asks.iter().zip(told.chunks_exact(2)).filter_map(|(ask, told)| {
            let [fits, used] = told else { return None };
            let used = Duration::from_micros(*used);
            let standing = ask.quota.standing(u64::try_from(used.as_nanos()).unwrap_or(u64::MAX));
            Some(Answer { fits: *fits == 1, standing })
        });
        Ok(each.collect())
    }

    /// Sends what has one answer.
    async fn send<T: FromRedisValue>(&self, question: &Cmd) -> Result<T, RedisError> {
        self.questions.ask();
        question.query_async(&mut self.connection.clone()).await
    }
}

/// What the server itself says leaves the connection as it is.
fn failed(error: RedisError) -> StoreError {
    let by_server = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
    if by_server { StoreError::Refused(error) } else { StoreError::Broken(error) }
}

/// Shows a password (`AUTH`). Written out here, so that every copy of it is wiped.
async fn show<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, password: &Password) -> Result<(), StoreError> {
    let words = ["AUTH"].into_iter().chain(password.user.as_deref()).chain([password.secret.as_str()]);
    let room = words.clone().map(|word| word.len() + 32).sum::<usize>() + 32;
    let mut command = Zeroizing::new(Vec::with_capacity(room));
    command.extend_from_slice(format!("*{}\r\n", words.clone().count()).as_bytes());
    for word in words {
        command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        command.extend_from_slice(word.as_bytes());
        command.extend_from_slice(b"\r\n");
    }
    stream.write_all(&command).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") && answer.len() < ANSWER_BYTES_MAX {
        answer.push(stream.read_u8().await?);
    }
    match answer.as_slice() {
        b"+OK\r\n" => Ok(()),
        _ => Err(StoreError::Password(String::from_utf8_lossy(&answer).trim_end().to_owned())),
    }
}
