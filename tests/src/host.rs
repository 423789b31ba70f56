//! Hosts that can be cut off from each other: network namespaces joined by a bridge. Needs root.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::run;
use crate::tools::need_root;

/// A network with nothing on it yet. It is removed when the last user is gone.
pub struct TestNetwork {
    name: String,
    number: u32,
}

/// A host on a network, with an address and a cable of its own.
pub struct TestHost {
    name: String,
    address: Ipv4Addr,
    network: Arc<TestNetwork>,
    cable: String,
}

impl TestNetwork {
    /// A network in a namespace of its own: nothing of this machine's network is touched.
    ///
    /// # Panics
    /// This process is not root.
    pub fn new() -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        need_root("a test with network namespaces");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cst-{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        let network = Self { name, number };
        network.ip(&["link", "add", "switch", "type", "bridge"]);
        network.ip(&["link", "set", "switch", "up"]);
        Arc::new(network)
    }

    /// A host on it. `last` is the last byte of its address, 1 to 254.
    pub fn host(self: &Arc<Self>, last: u8) -> Arc<TestHost> {
        let name = format!("{}-{last}", self.name);
        ip(&["netns", "add", &name]);
        let cable = format!("cable{last}");
        let host = TestHost { name, address: Ipv4Addr::new(10, 77, 0, last), network: Arc::clone(self), cable };
        self.ip(&["link", "add", &host.cable, "type", "veth", "peer", "name", "eth0", "netns", &host.name]);
        self.ip(&["link", "set", &host.cable, "master", "switch", "up"]);
        host.ip(&["address", "add", &format!("{}/24", host.address), "dev", "eth0"]);
        host.ip(&["link", "set", "eth0", "up"]);
        host.ip(&["link", "set", "lo", "up"]);
        Arc::new(host)
    }

    /// Tells networks of one process apart in logs.
    pub fn number(&self) -> u32 {
        self.number
    }

    fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }
}

impl TestHost {
    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A program that will run on this host. It becomes the program itself: process ID and signals are its own.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Pulls the cable: packets are lost, nobody is told.
    pub fn cut_off(&self) {
        self.network.ip(&["link", "set", &self.cable, "down"]);
    }

    /// Puts the cable back.
    pub fn reconnect(&self) {
        self.network.ip(&["link", "set", &self.cable, "up"]);
    }

    fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments)).success();
}

impl Drop for TestHost {
    fn drop(&mut self) {
        // What is not there any more need not be removed.
        Command::new("ip").args(["netns", "del", &self.name]).status().ok();
    }
}

impl Drop for TestNetwork {
    fn drop(&mut self) {
        Command::new("ip").args(["netns", "del", &self.name]).status().ok();
    }
}
