//! The script of the store against the arithmetic of one agent, on a real server.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a broken fixture is a failed test"
)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use countersign_limits::counted::Counted;
use countersign_limits::quota::Quota;
use countersign_limits::store::{Ask, Password, Session, StoreError};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

/// A `redis-server` on a Unix socket in a folder of its own.
struct Server {
    process: Child,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(folder.path().join("store.sock"))
            .arg("--dir")
            .arg(folder.path())
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server cannot be started; tests/parts/install installs it");
        Self { process, folder }
    }

    async fn connect(&self) -> UnixStream {
        let path = self.folder.path().join("store.sock");
        for _ in 0..500 {
            if let Ok(stream) = UnixStream::connect(&path).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server does not listen on {}", path.display());
    }

    async fn session(&self, password: Option<&Password>) -> Result<Session, StoreError> {
        let (session, carrying) = Session::open(self.connect().await, password).await?;
        tokio::spawn(carrying);
        Ok(session)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn ask<'limit>(name: &'limit str, counted: &'limit Counted, quota: &'limit Quota, enforced: bool) -> Ask<'limit> {
    Ask { name, counted, quota, enforced }
}

#[tokio::test]
async fn agents_together_get_the_burst_and_no_more() {
    let server = Server::start(&[]);
    let sessions = [server.session(None).await.unwrap(), server.session(None).await.unwrap()];
    let (quota, team) = (Quota::parse("20/1h", Some(5)).unwrap(), Counted::new("team", b"research"));
    let asks = [ask("team", &team, &quota, true)];
    for (index, remaining) in (0..5).rev().enumerate() {
        let [answer] = sessions[index % 2].take(&asks).await.unwrap()[..] else { panic!("one limit, one answer") };
        assert!(answer.fits);
        assert_eq!(answer.standing.remaining, remaining);
    }
    for session in &sessions {
        let answer = session.take(&asks).await.unwrap()[0];
        assert!(!answer.fits);
        assert_eq!(answer.standing.remaining, 0);
        let next = answer.standing.next;
        assert!((Duration::from_secs(170)..=Duration::from_secs(180)).contains(&next), "{next:?}");
    }
    let other = Counted::new("team", b"sales");
    assert!(sessions[0].take(&[ask("team", &other, &quota, true)]).await.unwrap()[0].fits);
}

#[tokio::test]
async fn what_flows_back_can_be_used_again() {
    let server = Server::start(&[]);
    let session = server.session(None).await.unwrap();
    let (quota, key) = (Quota::parse("10/1s", Some(1)).unwrap(), Counted::new("key", b"a"));
    let asks = [ask("key", &key, &quota, true)];
    assert!(session.take(&asks).await.unwrap()[0].fits);
    let refused = session.take(&asks).await.unwrap()[0];
    assert!(!refused.fits && refused.standing.next <= Duration::from_millis(100), "{refused:?}");
    tokio::time::sleep(refused.standing.next).await;
    assert!(session.take(&asks).await.unwrap()[0].fits);
}

#[tokio::test]
async fn one_limit_that_refuses_leaves_the_others_as_they_are() {
    let server = Server::start(&[]);
    let session = server.session(None).await.unwrap();
    let (small, large) = (Quota::parse("1/1h", None).unwrap(), Quota::parse("10/1h", None).unwrap());
    let counted = Counted::new("all", b"");
    let both = [ask("large", &counted, &large, true), ask("small", &counted, &small, true)];
    assert!(session.take(&both).await.unwrap().iter().all(|answer| answer.fits));
    for _ in 0..3 {
        let answers = session.take(&both).await.unwrap();
        assert_eq!(answers.iter().map(|answer| answer.fits).collect::<Vec<_>>(), [true, false]);
        assert_eq!(answers[0].standing.remaining, 9);
    }
    let watched = [ask("large", &counted, &large, true), ask("small", &counted, &small, false)];
    let answers = session.take(&watched).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.fits).collect::<Vec<_>>(), [true, false]);
    assert_eq!(answers[0].standing.remaining, 8);
    assert_eq!(session.look(&both).await.unwrap()[0].standing.remaining, 8);
    assert_eq!(session.look(&both).await.unwrap()[0].standing.remaining, 8, "looking uses nothing");
}

#[tokio::test]
async fn a_bucket_from_before_the_clock_was_set_back_keeps_nobody_out() {
    let server = Server::start(&[]);
    let session = server.session(None).await.unwrap();
    let (quota, key) = (Quota::parse("10/1s", Some(2)).unwrap(), Counted::new("key", b"a"));
    let name = format!("countersign:limit:key:{}", key.to_hexadecimal());
    let far = "9000000000000000";
    let path = server.folder.path().join("store.sock");
    let set = Command::new("redis-cli").arg("-s").arg(&path).args(["SET", &name, far]).output().unwrap();
    assert_eq!(set.stdout, b"OK\n", "{set:?}");
    let asks = [ask("key", &key, &quota, true)];
    let refused = session.take(&asks).await.unwrap()[0];
    assert!(!refused.fits && refused.standing.next <= Duration::from_millis(100), "{refused:?}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(session.take(&asks).await.unwrap()[0].fits);
}

#[tokio::test]
async fn full_buckets_leave_nothing_behind() {
    let server = Server::start(&[]);
    let session = server.session(None).await.unwrap();
    let (quota, key) = (Quota::parse("10/1s", None).unwrap(), Counted::new("key", b"a"));
    session.take(&[ask("key", &key, &quota, true)]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    let path = server.folder.path().join("store.sock");
    let count = Command::new("redis-cli").arg("-s").arg(&path).args(["KEYS", "*"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&count.stdout).trim(), "");
}

#[tokio::test]
async fn a_password_is_shown_and_a_wrong_one_is_not_taken() {
    let server = Server::start(&["--requirepass", "s3cret", "--user", "agent", "on", ">other", "+@all", "~*"]);
    let password = |user: Option<&str>, secret: &str| Password {
        user: user.map(Into::into),
        secret: Zeroizing::new(secret.into()),
    };
    let (quota, key) = (Quota::parse("10/1h", None).unwrap(), Counted::new("key", b"a"));
    let asks = [ask("key", &key, &quota, true)];
    for right in [password(None, "s3cret"), password(Some("agent"), "other")] {
        let session = server.session(Some(&right)).await.unwrap();
        assert!(session.take(&asks).await.unwrap()[0].fits);
    }
    for wrong in [password(None, "other"), password(Some("agent"), "s3cret"), password(Some("nobody"), "other")] {
        let refused = server.session(Some(&wrong)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Password(_)), "{refused:?}");
        assert!(!format!("{wrong:?}{refused:?}").contains(wrong.secret.as_str()));
    }
    let refused = server.session(None).await.unwrap().take(&asks).await.unwrap_err();
    assert!(refused.leaves_connection_usable(), "{refused:?}");
}

#[tokio::test]
async fn questions_that_are_given_up_leave_the_connection_to_the_others() {
    let server = Server::start(&[]);
    let session = server.session(None).await.unwrap();
    let (quota, key) = (Quota::parse("1000/1h", None).unwrap(), Counted::new("key", b"a"));
    for turns in 0..50 {
        let asks = [ask("key", &key, &quota, true)];
        // Before it is sent, or before its answer is there.
        let given_up = async {
            for _ in 0..turns % 5 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { biased; _ = session.take(&asks) => {}, () = given_up => {} }
        let both = tokio::join!(session.look(&asks), session.look(&asks));
        assert!(both.0.unwrap()[0].fits && both.1.unwrap()[0].fits);
    }
}

#[tokio::test]
async fn a_server_that_went_away_is_no_answer() {
    let server = Server::start(&[]);
    let session = server.session(None).await.unwrap();
    drop(server);
    let (quota, key) = (Quota::parse("10/1h", None).unwrap(), Counted::new("key", b"a"));
    let broken = session.take(&[ask("key", &key, &quota, true)]).await.unwrap_err();
    assert!(!broken.leaves_connection_usable(), "{broken:?}");
}

/// Bytes until the other side goes away that a connection took of a store that answers the first question with `begun` and, from then
/// on, `endless`; and why the question has no answer.
async fn answered_by(begun: &'static str, endless: &'static [u8]) -> (usize, StoreError) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let store = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream.write_all(begun.as_bytes()).unwrap();
        let mut sent = begun.len();
        let chunk = endless.repeat(1024);
        while sent < 256 << 20 && stream.write_all(&chunk).is_ok() {
            sent += chunk.len();
        }
        sent
    });
    let (session, carrying) = Session::open(TcpStream::connect(address).await.unwrap(), None).await.unwrap();
    let carrying = tokio::spawn(carrying);
    // A store that has answered may be asked again: what comes unasked is found then.
    let error = loop {
        if let Err(error) = session.look(&[]).await {
            break error;
        }
    };
    carrying.await.unwrap();
    (store.join().unwrap(), error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_sends_without_end_is_cut_off() {
    let numbers: &[u8] = b":1\r\n:1\r\n";
    for (begun, endless) in [
        ("$99999999999\r\n", numbers),
        ("*99999999999\r\n", numbers),
        ("+", b"a".as_slice()),
        ("*0\r\n", numbers),
        ("*0\r\n", b"+OK\r\n"),
    ] {
        let (sent, error) = answered_by(begun, endless).await;
        assert!(!error.leaves_connection_usable(), "{begun:?}: {error:?}");
        // What the kernel holds for both sides of a connection.
        assert!(sent < 64 << 20, "{begun:?}: {sent} bytes were taken");
    }
}
