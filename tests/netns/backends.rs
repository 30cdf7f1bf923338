//! Backends that answer clients themselves: what `lb backend-setup` makes of a host, and what it takes back.

use std::net::IpAddr;

use lb_tests::{
    Host, Lab, Topology,
    balancer::{Outcome, program},
    lab::Family,
};
use serde_json::Value;

/// A backend that is set up, until this is dropped.
pub(crate) struct SetUp<'lab> {
    lab: &'lab Lab,
    host: &'lab Host,
    arguments: Vec<String>,
}

impl<'lab> SetUp<'lab> {
    /// Sets a server up for a mode.
    pub(crate) fn apply(lab: &'lab Lab, host: &'lab Host, mode: &str, vip: IpAddr) -> Self {
        let arguments = ["--mode", mode, "--vip", &vip.to_string(), "--interface", "eth0"];
        let set_up = Self {
            lab,
            host,
            arguments: arguments.map(str::to_owned).into(),
        };
        set_up.run(&["--apply"]);
        set_up
    }

    /// `lb backend-setup` there.
    pub(crate) fn run(&self, further: &[&str]) -> Value {
        let instance = format!("{}-{}", self.lab.instance, self.host.name);
        let mut command = self.host.ns.command(program());
        command.args(["--json", "--instance", &instance, "backend-setup"]);
        command.args(&self.arguments).args(further);
        Outcome::of(&mut command).success().json()
    }
}

impl Drop for SetUp<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.run(&["--remove"]);
        }
    }
}

/// Sets every server up.
pub(crate) fn set_up_all<'lab>(lab: &'lab Lab, mode: &str, family: Family) -> Vec<SetUp<'lab>> {
    let vip = lab.vip(family, 0).ip();
    let hosts = lab.servers.iter();
    hosts.map(|host| SetUp::apply(lab, host, mode, vip)).collect()
}

fn standings(report: &Value) -> Vec<&str> {
    let steps = report["steps"].as_array().unwrap().iter();
    steps.map(|step| step["standing"].as_str().unwrap()).collect()
}

/// All that the command may change.
fn everything(host: &Host) -> String {
    host.ns.sh(
        "cd /proc/sys/net/ipv4/conf; head all/arp_ignore all/arp_announce eth0/rp_filter
         ip -oneline address; ip link show dev eth0 | sed 's,xdp id [0-9]*,xdp,'; ip rule; ip -6 rule
         ip route show table all type unicast; ip -6 route show table all type unicast",
    )
}

#[test]
fn a_backend_is_set_up_once_and_taken_back_whole() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let host = &lab.servers[0];
    for family in Family::ALL {
        for mode in ["l2-dsr", "ipip", "gue", "full-nat"] {
            let before = everything(host);
            let vip = lab.vip(family, 0).ip();
            let set_up = SetUp::apply(&lab, host, mode, vip);
            let shown = set_up.run(&[]);
            assert_eq!(shown["ready"], true, "{shown:#}");
            let after = everything(host);
            let again = set_up.run(&["--apply"]);
            assert!(standings(&again).iter().all(|s| *s == "done"), "{again:#}");
            assert_eq!(everything(host), after, "{mode}");
            assert_eq!(after.contains(&format!("{vip}/")), mode != "full-nat", "{after}");
            let tunnel = ["ipip", "gue"].contains(&mode);
            assert_eq!(after.contains("advmss"), tunnel, "{after}");
            assert_eq!(shown["unwrapping"].is_object(), tunnel, "{shown:#}");
            assert_eq!(
                after.contains("xdp"),
                tunnel,
                "the program outlives the command: {after}"
            );
            let reachable = lab.client.ns.try_sh(&format!("ping -c 1 -W 1 {vip}")).status.success();
            assert!(!reachable, "{mode}: the backend speaks for the VIP");
            drop(set_up);
            assert_eq!(everything(host), before, "{mode}");
        }
    }
}

#[test]
fn vips_share_a_backend() {
    let lab = Lab::new(Topology::TwoArm, 1);
    let host = &lab.servers[0];
    let before = everything(host);
    let vips = ["192.0.2.10", "192.0.2.11"].map(|vip| vip.parse().unwrap());
    let [first, second] = vips.map(|vip| SetUp::apply(&lab, host, "ipip", vip));
    let found = second.run(&[]);
    assert_eq!(
        found["unwrapping"]["vips"],
        serde_json::json!(["192.0.2.10", "192.0.2.11"])
    );
    drop(first);
    let found = second.run(&[]);
    assert_eq!(
        (&found["ready"], &found["unwrapping"]["vips"]),
        (&true.into(), &serde_json::json!(["192.0.2.11"]))
    );
    drop(second);
    assert_eq!(everything(host), before);
}
