//! What three guests show, in order.

use std::{collections::BTreeMap, time::Instant};

use anyhow::Result;

use super::{
    balancer::{self, Status},
    driver::DriverCounters,
    lab::{self, FILE_SIZE, Lab},
    promise::Promises,
    service::{Arms, Family, NETWORKS, SERVERS, Service},
    traffic::{self, CLIENTS, Load, even},
};

/// Requests to each service that find out the shares.
const REQUESTS: u64 = 40;
/// Requests of a load that are waited for between two events.
const LOAD: u64 = 100;

/// The server that is killed.
const VICTIM: &str = "s2";

/// HTTP over IPv4 with one arm: what is forwarded by `XDP_TX`.
const ONE_ARM: Service = Service {
    protocol: "tcp",
    family: Family::V4,
    arms: Arms::One,
};
/// HTTP over IPv4 with two arms: what is redirected.
const TWO_ARMS: Service = Service {
    protocol: "tcp",
    family: Family::V4,
    arms: Arms::Two,
};

/// The story as it goes along.
#[derive(Debug)]
pub(super) struct Story<'a> {
    lab: &'a mut Lab,
    promises: &'a mut Promises,
}

impl<'a> Story<'a> {
    /// Begins with all guests running, and no balancer.
    pub(super) fn new(lab: &'a mut Lab, promises: &'a mut Promises) -> Self {
        Self { lab, promises }
    }

    /// All of it.
    ///
    /// # Errors
    /// When something does not run at all, or at Ctrl-C. What runs otherwise than promised is counted.
    pub(super) fn tell(&mut self) -> Result<()> {
        self.part("start", Self::start)?;
        self.part("shares", Self::shares)?;
        self.part("actions", Self::actions)?;
        self.part("transfers", Self::transfers)?;
        self.part("daemon killed", Self::daemon_killed)?;
        self.part("server killed", Self::server_killed)
    }

    fn part(&mut self, name: &str, part: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        let done = part(self);
        self.promises.end_part(name, begin, done)
    }

    fn start(&mut self) -> Result<()> {
        balancer::start(&mut self.lab.balancer)?;
        let status = self.all_in_rotation()?;
        let interfaces = status.interfaces().join(", ");
        self.promise(
            interfaces == "eth0 native, eth1 native",
            &format!("`lb status` says: {interfaces}"),
        );
        Ok(())
    }

    fn shares(&mut self) -> Result<()> {
        for service in Service::all() {
            let counts = traffic::request(&mut self.lab.client, service, REQUESTS)?;
            self.promise(
                counts == even(REQUESTS),
                &format!("equal shares of {REQUESTS} requests to {service}: {counts}"),
            );
        }
        Ok(())
    }

    /// What `lb` counted is what the driver counted.
    fn actions(&mut self) -> Result<()> {
        let status = Status::wait(&mut self.lab.balancer, "counters", |_| true)?;
        let [eth0, eth1] = NETWORKS.map(|number| self.driver_counters(number));
        let (eth0, eth1) = (eth0?, eth1?);
        let mut opened = 0;
        let mut packets = BTreeMap::from([("one arm", 0), ("two arms, in", 0), ("two arms, out", 0)]);
        for service in Service::all() {
            let sum = |counter| status.counters(&service.name(), counter).values().sum::<u64>();
            opened += sum("new_flows");
            let counted = match service.arms {
                Arms::One => vec![("one arm", sum("packets_in") + sum("packets_out"))],
                Arms::Two => vec![
                    ("two arms, in", sum("packets_in")),
                    ("two arms, out", sum("packets_out")),
                ],
            };
            for (way, number) in counted {
                *packets.entry(way).or_default() += number;
            }
        }
        let made = REQUESTS * Service::all().len() as u64;
        self.promise(
            opened == made,
            &format!("lb counts {opened} new flows for {made} requests"),
        );
        for (way, driver, what) in [
            ("one arm", eth0.transmitted, "eth0 sent by XDP_TX"),
            ("two arms, in", eth0.redirected, "eth0 redirected"),
            ("two arms, out", eth1.redirected, "eth1 redirected"),
        ] {
            let counted = packets.get(way).copied().unwrap_or(0);
            self.promise(
                driver > 0 && driver == counted,
                &format!("{way}: lb counts {counted} packets, the driver says that {what} {driver}"),
            );
        }
        self.promise(eth1.transmitted == 0, "nothing left eth1 by XDP_TX");
        let lost = eth0.dropped + eth1.dropped;
        self.promise(
            lost == 0 && status.drops().is_empty(),
            &format!("{lost} packets dropped by the driver; by lb: {:?}", status.drops()),
        );
        Ok(())
    }

    /// What the virtio-net driver counted on an interface.
    fn driver_counters(&mut self, number: u8) -> Result<DriverCounters> {
        DriverCounters::read(&mut self.lab.balancer, number)
    }

    fn transfers(&mut self) -> Result<()> {
        let made = self.lab.backends.run("sha256sum </run/files/random")?;
        for service in Service::all().into_iter().filter(|service| service.protocol == "tcp") {
            let vip = service.vip();
            let got = self.lab.client.run(&format!(
                "curl --silent --show-error --max-time 100 http://{vip}/files/random | sha256sum"
            ))?;
            self.promise(
                got == made,
                &format!("{} MiB through {service} arrive unharmed", FILE_SIZE >> 20),
            );
        }
        Ok(())
    }

    fn daemon_killed(&mut self) -> Result<()> {
        let made = self.lab.backends.run("sha256sum </run/files/random")?;
        let vip = TWO_ARMS.vip();
        self.lab.client.run(&format!(
            "xtask vm-guest sip {vip} /files/random /run/release 2>/run/sip.err | sha256sum >/run/sip & sip=$!"
        ))?;
        let load = Load::start(&mut self.lab.client, ONE_ARM)?;
        load.wait_for(&mut self.lab.client, LOAD)?;
        balancer::kill(&mut self.lab.balancer)?;
        let death = load.mark(&mut self.lab.client)?;
        let without = load.wait_for(&mut self.lab.client, LOAD)?;
        let alone = load.between(&mut self.lab.client, death, without)?;
        self.promise(
            alone.total_failed() == 0 && alone.total_served() >= LOAD,
            &format!("{LOAD} requests and more are served while no daemon runs: {alone}"),
        );
        balancer::start(&mut self.lab.balancer)?;
        let status = self.all_in_rotation()?;
        self.promise(status.adopted(), "the new daemon adopted the running packet path");
        load.wait_for(&mut self.lab.client, LOAD)?;
        let counts = load.stop(&mut self.lab.client)?;
        self.promise(
            counts.total_failed() == 0,
            &format!("no request fails before, meanwhile and after: {counts}"),
        );
        let (running, _) = self.lab.client.ask("kill -0 $sip")?;
        let got = self
            .lab
            .client
            .run("touch /run/release; wait $sip; cat /run/sip.err /run/sip")?;
        self.promise(
            running == 0,
            "a transfer that began before the kill was under way when the new daemon was ready",
        );
        self.promise(got == made, &format!("and came to its end unharmed: {got}"));
        Ok(())
    }

    fn server_killed(&mut self) -> Result<()> {
        let name = ONE_ARM.name();
        let load = Load::start(&mut self.lab.client, ONE_ARM)?;
        load.wait_for(&mut self.lab.client, LOAD)?;
        let begin = load.mark(&mut self.lab.client)?;
        self.lab.backends.run(&lab::kill_server(VICTIM))?;
        Status::wait(&mut self.lab.balancer, "the dead server out of rotation", |status| {
            status.is_out(&name, VICTIM)
        })?;
        let found = load.mark(&mut self.lab.client)?;
        let lost = load.between(&mut self.lab.client, begin, found)?;
        // One in four goes to the dead server until it is found out.
        let most = (lost.total_served() + lost.total_failed()) / SERVERS.len() as u64 + CLIENTS;
        // An answer that was under way ends early: a broken one.
        let known = ["refused", "reset", "broken"];
        let in_time = lost.failed.keys().all(|how| known.contains(&how.as_str()));
        self.promise(
            in_time && lost.total_failed() <= most,
            &format!(
                "{VICTIM} killed; until lb found out, at most {most} requests fail, and at once ({}): {lost}",
                known.join(", ")
            ),
        );
        // What was under way when it was found out may fail yet.
        let settled = load.wait_for(&mut self.lab.client, 2 * CLIENTS)?;
        let end = load.wait_for(&mut self.lab.client, LOAD)?;
        let without = load.between(&mut self.lab.client, settled, end)?;
        self.promise(
            without.total_failed() == 0 && without.by(VICTIM) == 0,
            &format!("then the others serve, and no request fails: {without}"),
        );
        self.lab.backends.run(&lab::start_server(VICTIM))?;
        let begin = load.mark(&mut self.lab.client)?;
        self.all_in_rotation()?;
        let back = load.mark(&mut self.lab.client)?;
        let end = load.wait_for(&mut self.lab.client, LOAD)?;
        let since = load.between(&mut self.lab.client, begin, end)?;
        let with = load.between(&mut self.lab.client, back, end)?;
        self.promise(
            with.by(VICTIM) > 0 && since.total_failed() == 0,
            &format!("{VICTIM} started again; it serves, and no request fails: {with}"),
        );
        load.stop(&mut self.lab.client)?;
        let counts = traffic::request(&mut self.lab.client, ONE_ARM, REQUESTS)?;
        self.promise(counts == even(REQUESTS), &format!("shares are even again: {counts}"));
        Ok(())
    }

    fn all_in_rotation(&mut self) -> Result<Status> {
        Status::wait(&mut self.lab.balancer, "all backends in rotation", |status| {
            status.out_of_rotation().is_empty()
        })
    }

    fn promise(&mut self, kept: bool, text: &str) {
        self.promises.keep(kept, text);
    }
}
