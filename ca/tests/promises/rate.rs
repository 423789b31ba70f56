//! How many certificates per second one CA issues.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use countersign_certs::csr;
use countersign_certs::issuance::ISSUE_PATH;
use countersign_certs::key::{KeyAlgorithm, PrivateKey};
use serde_json::json;

use crate::support::{TestCa, id};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of ten seconds for each count of connections: cargo test --release -- --ignored --nocapture"]
async fn certificates_per_second() {
    let ca = TestCa::start_with(
        "[limits]\nrequests_per_second = 1000000\ncertificates_per_minute = 60000000\n\
                                   certificates_per_host = 1000000\nconnections_per_host = 128\n",
    );
    let host = Arc::new(ca.host("gpu-1").await);
    ca.grant("gpu-1", &id("/llm"));
    for connections in [1, 8, 32, 128] {
        let rate = measure(&host, connections, Duration::from_secs(10)).await;
        println!("{connections} connections: {rate} certificates per second");
    }
}

async fn measure(host: &Arc<crate::support::Host>, connections: usize, time: Duration) -> u64 {
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let message = Arc::new(json!({ "id": id("/llm"), "csr": csr::create_unnamed(&key).unwrap() }));
    let (count, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (count, over, message) = (Arc::clone(&count), Arc::clone(&over), Arc::clone(&message));
        let mut connection = host.connect().await.unwrap();
        tasks.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                connection.post(ISSUE_PATH, &message).await.unwrap().chain();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tokio::time::sleep(time).await;
    let issued = count.load(Ordering::Relaxed);
    over.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    issued / time.as_secs()
}
