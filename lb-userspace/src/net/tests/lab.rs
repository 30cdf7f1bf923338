//! Two hosts joined by a cable: `lb` on one side, a peer on the other, each a network namespace.

use std::{
    fs::File,
    future::Future,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio::sync::mpsc;

use crate::net::{KernelNetwork, NetEvent};

static NEXT: AtomicU32 = AtomicU32::new(0);
const PREFIX: &str = "lbnet";
/// Far longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// `lb0` (10.0.0.2/24, 2001:db8::2/64) in one namespace, its peer `peer0` (10.0.0.1/24, 2001:db8::1/64) in the other.
pub(super) struct Lab {
    pub(super) near: String,
    pub(super) far: String,
}

impl Lab {
    pub(super) fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces: run it as root"
        );
        remove_leftovers();
        let unique = format!(
            "{PREFIX}-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let lab = Self {
            near: format!("{unique}-near"),
            far: format!("{unique}-far"),
        };
        for namespace in [&lab.near, &lab.far] {
            shell(&format!("ip netns add {namespace}"));
            inside(
                namespace,
                "ip link set lo up; sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0 \
                 net.ipv6.conf.default.dad_transmits=0",
            );
        }
        lab.near(&format!(
            "ip link add lb0 address 02:00:00:00:00:02 type veth peer name peer0 address 02:00:00:00:00:01 netns {}
             ip link set lb0 up; ip addr add 10.0.0.2/24 dev lb0; ip addr add 2001:db8::2/64 dev lb0 nodad",
            lab.far
        ));
        lab.far("ip link set peer0 up; ip addr add 10.0.0.1/24 dev peer0; ip addr add 2001:db8::1/64 dev peer0 nodad");
        // The kernel installs the routes of IPv6 addresses in the background.
        lab.near("until ip -6 route show table local | grep -q 2001:db8::2; do sleep 0.05; done");
        lab.far("until ip -6 route show table local | grep -q 2001:db8::1; do sleep 0.05; done");
        lab
    }

    /// Shortens the time after which a silent neighbour is given up, from three seconds to 0.15. A busy machine may
    /// then give up one that answers, so what is to be found has to be asked for again.
    pub(super) fn give_up_soon(&self) {
        self.near("sysctl -qw net.ipv4.neigh.lb0.retrans_time_ms=50 net.ipv6.neigh.lb0.retrans_time_ms=50");
    }

    /// Runs a shell script on `lb`'s side, and returns what it prints.
    pub(super) fn near(&self, script: &str) -> String {
        inside(&self.near, script)
    }

    /// Runs a shell script on the peer.
    pub(super) fn far(&self, script: &str) -> String {
        inside(&self.far, script)
    }

    /// Runs a future on `lb`'s side: on a thread that has entered the namespace.
    pub(super) fn run<F, Fut>(&self, test: F)
    where
        F: FnOnce(KernelNetwork, Events) -> Fut + Send,
        Fut: Future<Output = ()>,
    {
        let namespace = File::open(Path::new("/run/netns").join(&self.near)).unwrap();
        let body = move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (network, events) = KernelNetwork::start().await.unwrap();
                test(network, Events(events)).await;
            });
        };
        std::thread::scope(|scope| {
            if let Err(failure) = scope.spawn(body).join() {
                std::panic::resume_unwind(failure);
            }
        });
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// The events of a network.
pub(super) struct Events(mpsc::Receiver<NetEvent>);

impl Events {
    /// Waits for an event that fits, and skips those before it.
    pub(super) async fn wait_for(&mut self, what: &str, fits: impl Fn(&NetEvent) -> bool) -> NetEvent {
        let mut skipped = Vec::new();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let event = self.0.recv().await.unwrap();
                if fits(&event) {
                    return event;
                }
                skipped.push(event);
            }
        });
        match found.await {
            Ok(event) => event,
            Err(_elapsed) => panic!("no event `{what}`, but {skipped:#?}"),
        }
    }

    /// Discards events until none has come for a while.
    pub(super) async fn drain_until_quiet(&mut self) {
        while tokio::time::timeout(Duration::from_millis(200), self.0.recv())
            .await
            .is_ok()
        {}
    }

    /// Asks again after every event and now and then, until the answer fits.
    pub(super) async fn until<T, Fut>(
        &mut self,
        what: &str,
        mut ask: impl FnMut() -> Fut,
        fits: impl Fn(&T) -> bool,
    ) -> T
    where
        T: std::fmt::Debug,
        Fut: Future<Output = T>,
    {
        let mut last = ask().await;
        let waited = tokio::time::timeout(PATIENCE, async {
            while !fits(&last) {
                let event = tokio::time::timeout(Duration::from_millis(200), self.0.recv()).await;
                assert!(event != Ok(None), "the events ended");
                last = ask().await;
            }
        });
        assert!(waited.await.is_ok(), "never {what}; last {last:?}");
        last
    }
}

fn inside(namespace: &str, script: &str) -> String {
    // `ip netns exec` would mount a new /sys.
    shell(&format!("exec nsenter --net=/run/netns/{namespace} sh -ec '{script}'"))
}

fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{script}\n{out}{err}");
    out.into_owned()
}

/// Removes the namespaces of test runs that did not live to do it.
fn remove_leftovers() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        let owner = (parts.next() == Some(PREFIX)).then(|| parts.next()).flatten();
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = Command::new("ip")
                .args(["netns", "del", &name])
                .stderr(Stdio::null())
                .status();
        }
    }
}
