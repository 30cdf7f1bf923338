//! What a backend needs, step by step. Pure.

use std::{fmt, net::IpAddr};

use super::{Host, SetupError, whole};
use crate::model::ForwardingMode;

/// Routing table, and priorities of the rules that lead there: replies of the VIP alone.
const TABLE: &str = "108";
const SPECIFIC: &str = "107";
/// Bytes of IP and TCP header.
const HEADERS_V4: u32 = 40;
const HEADERS_V6: u32 = 60;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Forwarding mode of the service.
    pub mode: ForwardingMode,
    /// Its VIP.
    pub vip: IpAddr,
    /// Addresses at which tunnels end; empty: the host's own.
    pub tunnel_addresses: Vec<IpAddr>,
    /// UDP port of mode `gue`.
    pub port: u16,
    /// Largest IP packet on the way from `lb`, in bytes; `None`: that of the interface.
    pub path_mtu: Option<u32>,
    /// `lb`'s address, in mode `nat`.
    pub gateway: Option<IpAddr>,
}

/// What is to be done on a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The VIP.
    pub vip: IpAddr,
    /// The interface that packets come in by.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// In order.
    pub steps: Vec<Step>,
    /// What is worth knowing beside them.
    pub notes: Vec<String>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it does.
    pub title: String,
    /// What goes wrong without it.
    pub why: String,
    /// How.
    pub actions: Vec<Action>,
}

/// One change of the backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A kernel setting.
    Sysctl {
        /// Its name.
        key: String,
        /// Its value.
        value: u8,
    },
    /// `ip`, with arguments.
    Ip {
        /// What brings it about.
        apply: Vec<String>,
        /// What takes it back.
        undo: Vec<String>,
        /// What shows it.
        show: Vec<String>,
        /// What is then to be seen.
        shown: String,
    },
    /// The program that unwraps.
    Unwrap {
        /// Own addresses.
        hosts: Vec<IpAddr>,
        /// VIP.
        vip: IpAddr,
        /// UDP port of mode `gue`.
        port: u16,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl { key, value } => write!(f, "sysctl -w {key}={value}"),
            Self::Ip { apply, .. } => write!(f, "ip {}", apply.join(" ")),
            Self::Unwrap { .. } => f.write_str("lb's XDP program `decap`: lb backend-setup --apply"),
        }
    }
}

/// Works out what a backend needs.
///
/// # Errors
/// When the host has no address that a tunnel could end at.
pub fn plan(wish: &Wish, host: &Host) -> Result<Plan, SetupError> {
    let mut plan = Plan {
        vip: wish.vip,
        interface: host.interface.clone(),
        ifindex: host.ifindex,
        steps: Vec::new(),
        notes: Vec::new(),
    };
    match wish.mode {
        ForwardingMode::FullNat => plan.notes.push(
            "Mode full-nat needs nothing on the backend: it sees connections from lb's own address and answers them there."
                .to_owned(),
        ),
        ForwardingMode::Nat => nat(wish, &mut plan),
        ForwardingMode::L2Dsr => direct(wish, host, &mut plan),
        ForwardingMode::Ipip | ForwardingMode::Gue => {
            direct(wish, host, &mut plan);
            tunnel(wish, host, &mut plan)?;
        }
    }
    Ok(plan)
}

fn nat(wish: &Wish, plan: &mut Plan) {
    let Some(gateway) = wish.gateway else {
        plan.notes.push(
            "Mode nat needs lb as the gateway towards clients: without that, replies reach them from an address that they \
             did not ask. Give lb's address on the backends' side with --gateway."
                .to_owned(),
        );
        return;
    };
    plan.steps.push(Step {
        title: format!("Send replies through lb, by {gateway}"),
        why: "lb changes the source of replies back to the VIP, so they must pass through it".to_owned(),
        actions: vec![ip(
            wish,
            &format!("route replace default via {gateway} dev {}", plan.interface),
            &format!("route del default via {gateway} dev {}", plan.interface),
            "route show default",
            &format!("via {gateway} "),
        )],
    });
}

/// The VIP is on the backend, and nobody learns of it.
fn direct(wish: &Wish, host: &Host, plan: &mut Plan) {
    let vip = wish.vip;
    if vip.is_ipv4() {
        plan.steps.push(Step {
            title: "Keep silent about the VIP on the link".to_owned(),
            why: "with arp_ignore=1 the kernel answers ARP only for addresses of the interface that is asked, and with \
                  arp_announce=2 it does not name the VIP in requests of its own; otherwise neighbours would send packets \
                  for the VIP here instead of to lb"
                .to_owned(),
            actions: vec![
                sysctl("net.ipv4.conf.all.arp_ignore", 1),
                sysctl("net.ipv4.conf.all.arp_announce", 2),
            ],
        });
    } else {
        plan.notes.push(
            "IPv6 needs no counterpart of arp_ignore: the kernel answers neighbour discovery only for addresses of the \
             interface that is asked, which loopback never is."
                .to_owned(),
        );
    }
    let nodad = if vip.is_ipv4() { "" } else { " nodad" };
    plan.steps.push(Step {
        title: format!("Put {} on loopback", whole(vip)),
        why: "packets for the VIP arrive unchanged; the kernel takes only those for its own addresses".to_owned(),
        actions: vec![ip(
            wish,
            &format!("address add {} dev lo{nodad}", whole(vip)),
            &format!("address del {} dev lo", whole(vip)),
            "-oneline address show dev lo",
            &format!(" {} ", whole(vip)),
        )],
    });
    if vip.is_ipv4() {
        plan.steps.push(Step {
            title: format!("Take clients' packets by {}, whichever way replies go", host.interface),
            why: "the strict reverse-path filter drops packets whose source would be answered by another interface"
                .to_owned(),
            actions: vec![sysctl(&format!("net.ipv4.conf.{}.rp_filter", host.interface), 2)],
        });
    }
}

fn tunnel(wish: &Wish, host: &Host, plan: &mut Plan) -> Result<(), SetupError> {
    let mut hosts = wish.tunnel_addresses.clone();
    if hosts.is_empty() {
        hosts = host.addresses.iter().copied().filter(|ip| *ip != wish.vip).collect();
    }
    let same_family = |ip: &&IpAddr| ip.is_ipv4() == wish.vip.is_ipv4();
    let family = if wish.vip.is_ipv4() { "IPv4 or IPv6" } else { "IPv6" };
    let end = hosts.iter().find(same_family);
    // IPv6 is not carried in IPv4.
    let end = if wish.vip.is_ipv4() {
        end.or_else(|| hosts.first())
    } else {
        end
    };
    let end = *end.ok_or(SetupError::NoTunnelAddress(family))?;
    plan.steps.push(Step {
        title: format!("Unwrap what lb sends through the tunnel, on {}", host.interface),
        why: format!(
            "packets arrive wrapped in {}; what is for another host or another address than the VIP is left to the kernel",
            if wish.mode == ForwardingMode::Gue {
                format!("UDP to port {}", wish.port)
            } else {
                "IP".to_owned()
            }
        ),
        actions: vec![Action::Unwrap {
            hosts,
            vip: wish.vip,
            port: wish.port,
        }],
    });
    segment_size(wish, host, end, plan);
    plan.notes.push(alternative(wish));
    Ok(())
}

/// Clients are told to send segments that still fit when they are wrapped.
fn segment_size(wish: &Wish, host: &Host, end: IpAddr, plan: &mut Plan) {
    let (family, headers) = if wish.vip.is_ipv4() {
        (0, HEADERS_V4)
    } else {
        (1, HEADERS_V6)
    };
    let overhead = wish.mode.overhead(end);
    let segment = wish.path_mtu.unwrap_or(host.mtu).saturating_sub(overhead + headers);
    let Some(route) = host.default_routes.get(family).and_then(Option::as_ref) else {
        plan.notes.push(format!(
            "There is no default route to give a smaller segment size: packets grow by {overhead} bytes on the way from lb, so \
             clients' segments must not exceed {segment} bytes (`advmss {segment}` on the routes to them), or the network \
             between lb and this host must carry larger packets."
        ));
        return;
    };
    let vip = wish.vip;
    plan.steps.push(Step {
        title: format!("Ask clients for segments of {segment} bytes at most"),
        why: format!(
            "packets grow by {overhead} bytes on the way from lb; larger ones would be dropped there, and the client told by \
             ICMP, which not every network lets through"
        ),
        actions: vec![
            ip(
                wish,
                &format!("route replace default {route} advmss {segment} table {TABLE}"),
                &format!("route del default {route} table {TABLE}"),
                &format!("route show table {TABLE}"),
                &format!("advmss {segment}"),
            ),
            ip(
                wish,
                &format!("rule add from {vip} lookup main suppress_prefixlength 0 priority {SPECIFIC}"),
                &format!("rule del from {vip} lookup main priority {SPECIFIC}"),
                &format!("rule show from {vip} priority {SPECIFIC}"),
                "main",
            ),
            ip(
                wish,
                &format!("rule add from {vip} lookup {TABLE} priority {TABLE}"),
                &format!("rule del from {vip} lookup {TABLE} priority {TABLE}"),
                &format!("rule show from {vip} priority {TABLE}"),
                TABLE,
            ),
        ],
    });
}

/// How the kernel's own devices do the same.
fn alternative(wish: &Wish) -> String {
    let vip = whole(wish.vip);
    let (module, device) = if wish.vip.is_ipv4() {
        ("ipip", "tunl0")
    } else {
        ("ip6_tunnel", "ip6tnl0")
    };
    let fou = if wish.mode == ForwardingMode::Gue {
        format!("modprobe fou; ip fou add port {} gue; ", wish.port)
    } else {
        String::new()
    };
    format!(
        "Instead of lb's program, the kernel's own tunnel can unwrap, where it has these modules: {fou}modprobe {module}; ip \
         link set {device} up; ip address add {vip} dev {device}; sysctl -w net.ipv4.conf.{device}.rp_filter=2"
    )
}

fn sysctl(key: &str, value: u8) -> Action {
    Action::Sysctl {
        key: key.to_owned(),
        value,
    }
}

fn ip(wish: &Wish, apply: &str, undo: &str, show: &str, shown: &str) -> Action {
    let family = if wish.vip.is_ipv4() { "-4" } else { "-6" };
    let words = |line: &str| {
        std::iter::once(family)
            .chain(line.split(' '))
            .map(str::to_owned)
            .collect()
    };
    Action::Ip {
        apply: words(apply),
        undo: words(undo),
        show: words(show),
        shown: shown.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            interface: "eth0".into(),
            ifindex: 2,
            mtu: 1500,
            addresses: vec!["10.0.0.11".parse().unwrap(), "2001:db8::11".parse().unwrap()],
            default_routes: [
                Some("via 10.0.0.1 dev eth0".into()),
                Some("via fe80::1 dev eth0".into()),
            ],
        }
    }

    fn wish(mode: ForwardingMode, vip: &str) -> Wish {
        Wish {
            mode,
            vip: vip.parse().unwrap(),
            tunnel_addresses: Vec::new(),
            port: 6080,
            path_mtu: None,
            gateway: None,
        }
    }

    fn commands(wish: &Wish) -> Vec<String> {
        let plan = plan(wish, &host()).unwrap();
        let actions = plan.steps.iter().flat_map(|step| &step.actions);
        actions.map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_a_mode_needs() {
        assert_eq!(commands(&wish(ForwardingMode::FullNat, "192.0.2.10")), [""; 0]);
        assert_eq!(commands(&wish(ForwardingMode::Nat, "192.0.2.10")), [""; 0]);
        let nat = Wish {
            gateway: Some("10.0.0.2".parse().unwrap()),
            ..wish(ForwardingMode::Nat, "192.0.2.10")
        };
        assert_eq!(commands(&nat), ["ip -4 route replace default via 10.0.0.2 dev eth0"]);
        assert_eq!(
            commands(&wish(ForwardingMode::L2Dsr, "192.0.2.10")),
            [
                "sysctl -w net.ipv4.conf.all.arp_ignore=1",
                "sysctl -w net.ipv4.conf.all.arp_announce=2",
                "ip -4 address add 192.0.2.10/32 dev lo",
                "sysctl -w net.ipv4.conf.eth0.rp_filter=2",
            ]
        );
        assert_eq!(
            commands(&wish(ForwardingMode::L2Dsr, "2001:db8::100")),
            ["ip -6 address add 2001:db8::100/128 dev lo nodad"]
        );
    }

    #[test]
    fn segments_leave_room_for_the_tunnel() {
        let room = |mode, vip: &str| {
            let commands = commands(&wish(mode, vip));
            let route = commands.iter().find(|c| c.contains("advmss")).unwrap();
            let words: Vec<&str> = route.split(' ').collect();
            let at = words.iter().position(|w| *w == "advmss").unwrap();
            words[at + 1].parse::<u32>().unwrap()
        };
        assert_eq!(room(ForwardingMode::Ipip, "192.0.2.10"), 1500 - 20 - 40);
        assert_eq!(room(ForwardingMode::Gue, "192.0.2.10"), 1500 - 28 - 40);
        assert_eq!(room(ForwardingMode::Ipip, "2001:db8::100"), 1500 - 40 - 60);
        assert_eq!(room(ForwardingMode::Gue, "2001:db8::100"), 1500 - 48 - 60);
        let over_ipv6 = Wish {
            tunnel_addresses: vec!["2001:db8::11".parse().unwrap()],
            path_mtu: Some(9000),
            ..wish(ForwardingMode::Ipip, "192.0.2.10")
        };
        assert!(commands(&over_ipv6).iter().any(|c| c.contains("advmss 8920 ")));
    }

    #[test]
    fn an_ipv6_vip_needs_an_ipv6_tunnel() {
        let mut host = host();
        host.addresses.pop();
        assert!(plan(&wish(ForwardingMode::Ipip, "192.0.2.10"), &host).is_ok());
        let refused = plan(&wish(ForwardingMode::Ipip, "2001:db8::100"), &host).unwrap_err();
        assert!(matches!(refused, SetupError::NoTunnelAddress("IPv6")), "{refused}");
    }
}
