//! Values of options: parsed strictly, refused with what was expected.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use clap::{ValueEnum, builder::PossibleValue};

use crate::{
    config::value,
    model::{
        Backend, FlowTracking, ForwardingMode, HttpProbe, OnDown, Probe, Protocol, Protocols, Scheduler, SynCookies,
        Timeouts, Vip, XdpMode,
    },
    plan::maglev::is_prime,
};

/// Gives a model enum its names on the command line.
macro_rules! choices {
    ($type:ty: $($name:literal => $variant:ident, $help:literal;)+) => {
        impl ValueEnum for $type {
            fn value_variants<'a>() -> &'a [Self] {
                &[$(Self::$variant),+]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(match self {
                    $(Self::$variant => PossibleValue::new($name).help($help),)+
                })
            }
        }
    };
}

choices! { Protocol:
    "tcp" => Tcp, "TCP";
    "udp" => Udp, "UDP";
}

choices! { Protocols:
    "tcp" => Tcp, "TCP";
    "udp" => Udp, "UDP";
    "tcp+udp" => TcpUdp, "both";
}

choices! { ForwardingMode:
    "full-nat" => FullNat, "works everywhere; backends see lb's address";
    "nat" => Nat, "lb is the backends' gateway; they see the client's";
    "l2-dsr" => L2Dsr, "backends on the link have the VIP and answer themselves";
    "ipip" => Ipip, "wrapped in IP; backends have the VIP and answer themselves";
    "gue" => Gue, "wrapped in UDP; backends have the VIP and answer themselves";
}

choices! { Scheduler:
    "round-robin" => RoundRobin, "in turn, as weights say";
    "least-conn" => LeastConn, "fewest active flows for the weight";
    "source-hash" => SourceHash, "by the client's address";
    "maglev" => Maglev, "by addresses and ports";
}

choices! { FlowTracking:
    "all" => All, "every flow is stored";
    "moved" => Moved, "those whose slot got another backend lately";
}

choices! { SynCookies:
    "off" => Off, "no SYN is answered with a cookie";
    "under-flood" => UnderFlood, "those beyond limits.syn-cookies-above";
    "always" => Always, "every SYN";
}

choices! { OnDown:
    "reset" => Reset, "answer the client's next packet with a TCP RST";
    "move" => Move, "send the client's next packet to another backend";
    "keep" => Keep, "go on sending to the backend";
}

choices! { XdpMode:
    "auto" => Auto, "in the driver; generic, aloud, if it cannot";
    "native" => Native, "in the driver or not at all";
    "generic" => Generic, "in the kernel's generic path, which is slower";
}

/// `ADDRESS:PORT`.
pub(super) fn endpoint(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "expected ADDRESS:PORT, such as 10.0.0.1:80 or [2001:db8::1]:80".to_owned())?;
    if address.port() == 0 {
        return Err("port 0 cannot be balanced: expected a port from 1 to 65535".to_owned());
    }
    Ok(address)
}

/// `ADDRESS:PORT`, `ADDRESS:FIRST-LAST` or `ADDRESS:*`.
pub(super) fn vip(text: &str) -> Result<Vip, String> {
    value::vip(text).map_err(|e| e.to_string())
}

/// `ADDRESS:PORT`, or an address alone: then the port is the client's.
pub(super) fn backend_endpoint(text: &str) -> Result<SocketAddr, String> {
    value::backend_endpoint(text).map_err(|e| e.to_string())
}

/// An instance name: part of the paths of the socket and of the pins, and so without a way out of their directories.
pub(super) fn instance(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('.') || text.contains(['/', '\0']) {
        return Err("expected a name without `/`, not beginning with `.`".to_owned());
    }
    Ok(text.to_owned())
}

/// A duration longer than zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("expected a duration with its unit, such as 500ms, 2s or 1h".to_owned()),
    }
}

/// A duration, or `off`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    if matches!(text, "off" | "0") {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|_| "expected a duration such as 30s or 10m, or off".to_owned())
}

/// The size of a Maglev table.
pub(super) fn table_size(text: &str) -> Result<u32, String> {
    let size: Option<u32> = text.parse().ok();
    size.filter(|size| is_prime(*size))
        .ok_or_else(|| "expected a prime number, such as 65537 or 655373".to_owned())
}

/// Seconds between two pages of `lb status --watch`.
pub(super) fn pause(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| (0.1..=3600.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected seconds from 0.1 to 3600".to_owned())
}

/// `tcp`, `none` or `http:PATH`.
pub(super) fn probe(text: &str) -> Result<Probe, String> {
    match text {
        "tcp" => Ok(Probe::Tcp),
        "none" => Ok(Probe::None),
        _ => match text.strip_prefix("http:") {
            Some(path) if path.starts_with('/') => Ok(Probe::Http(HttpProbe::new(path.to_owned()))),
            _ => Err("expected tcp, none or http:PATH, such as http:/healthz".to_owned()),
        },
    }
}

/// `200` or `200-399`.
pub(super) fn status_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if (100..=last).contains(&first) && last <= 599 => Ok(first..=last),
        _ => Err("expected a status from 100 to 599 or a range, such as 200 or 200-399".to_owned()),
    }
}

/// A weight.
pub(super) fn weight(text: &str) -> Result<u16, String> {
    let max = Backend::MAX_WEIGHT;
    text.parse()
        .ok()
        .filter(|weight| *weight <= max)
        .ok_or_else(|| format!("expected a weight from 0 to {max}; 0 takes no new flows"))
}

/// A tier.
pub(super) fn tier(text: &str) -> Result<u8, String> {
    text.parse()
        .map_err(|_| "expected a tier from 0 to 255; 0 serves first".to_owned())
}

/// Active flows at most; 0: any number.
pub(super) fn connections(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| "expected a number of connections; 0 sets no limit".to_owned())
}

/// `ADDRESS[:PORT][,weight=N][,backup][,tier=N][,max-connections=N][,name=X]`.
pub(super) fn backend(text: &str) -> Result<Backend, String> {
    let mut parts = text.split(',');
    let mut backend = Backend::new(backend_endpoint(parts.next().unwrap_or_default())?);
    let mut tier_set = false;
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "weight" => backend.weight = weight(value)?,
            "backup" | "tier" if tier_set => {
                return Err("backup and tier=N say the same: give one of them".to_owned());
            }
            "backup" if value.is_empty() => (backend.tier, tier_set) = (1, true),
            "tier" => (backend.tier, tier_set) = (tier(value)?, true),
            "max-connections" => backend.max_connections = Some(connections(value)?).filter(|n| *n > 0),
            "name" if !value.is_empty() => value.clone_into(&mut backend.name),
            _ => {
                return Err(format!(
                    "`{part}`: expected weight=N, backup, tier=N, max-connections=N or name=X after ADDRESS[:PORT]"
                ));
            }
        }
    }
    Ok(backend)
}

/// One idle timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeoutChange {
    which: TimeoutName,
    to: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimeoutName {
    TcpSyn,
    TcpEstablished,
    TcpFin,
    TcpClosing,
    Udp,
}

impl TimeoutChange {
    /// Makes the change.
    pub(super) const fn apply(self, timeouts: &mut Timeouts) {
        match self.which {
            TimeoutName::TcpSyn => timeouts.tcp_syn = self.to,
            TimeoutName::TcpEstablished => timeouts.tcp_established = self.to,
            TimeoutName::TcpFin => timeouts.tcp_fin = self.to,
            TimeoutName::TcpClosing => timeouts.tcp_closing = self.to,
            TimeoutName::Udp => timeouts.udp = self.to,
        }
    }
}

/// `NAME=DURATION`.
pub(super) fn timeout(text: &str) -> Result<TimeoutChange, String> {
    let expected = "expected NAME=DURATION, NAME one of tcp-syn, tcp-established, tcp-fin, tcp-closing, udp";
    let (name, value) = text.split_once('=').ok_or(expected)?;
    let which = match name {
        "tcp-syn" => TimeoutName::TcpSyn,
        "tcp-established" => TimeoutName::TcpEstablished,
        "tcp-fin" => TimeoutName::TcpFin,
        "tcp-closing" => TimeoutName::TcpClosing,
        "udp" => TimeoutName::Udp,
        _ => return Err(expected.to_owned()),
    };
    Ok(TimeoutChange {
        which,
        to: duration(value)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_need_an_address_and_a_port() {
        assert!(endpoint("10.0.0.1:80").is_ok());
        assert!(endpoint("[2001:db8::1]:443").is_ok());
        for bad in ["10.0.0.1", "2001:db8::1:443", "web:80", "10.0.0.1:99999", ":80"] {
            assert!(endpoint(bad).unwrap_err().contains("[2001:db8::1]:80"), "{bad}");
        }
        assert!(endpoint("10.0.0.1:0").unwrap_err().contains("port 0"));
    }

    #[test]
    fn a_backend_takes_its_options_in_any_order() {
        let made = backend("10.0.0.1:80,name=a,backup,weight=5").unwrap();
        assert_eq!((made.name.as_str(), made.weight, made.tier), ("a", 5, 1));
        let made = backend("[2001:db8::1]:80,tier=3").unwrap();
        assert_eq!((made.name.as_str(), made.weight, made.tier), ("[2001:db8::1]:80", 1, 3));
        for bad in [
            "10.0.0.1:80,backup,tier=2",
            "10.0.0.1:80,weight=257",
            "10.0.0.1:80,wieght=1",
            "10.0.0.1:80,",
            "10.0.0.1:80,name=",
        ] {
            assert!(backend(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit_and_a_length() {
        assert_eq!(duration("1h 30m").unwrap(), Duration::from_mins(90));
        assert!(duration("2").unwrap_err().contains("unit"));
        assert!(duration("0s").is_err());
        assert!(pause("0").is_err() && pause("NaN").is_err() && pause("0.5").is_ok());
    }

    #[test]
    fn probes_and_status_ranges() {
        assert!(matches!(probe("http:/healthz?deep=1").unwrap(), Probe::Http(http) if http.path == "/healthz?deep=1"));
        for bad in ["http", "http:", "http:healthz", "icmp"] {
            assert!(probe(bad).is_err(), "{bad}");
        }
        assert_eq!(status_range("204").unwrap(), 204..=204);
        assert_eq!(status_range("200-399").unwrap(), 200..=399);
        for bad in ["", "399-200", "99", "200-600", "2xx"] {
            assert!(status_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_timeout_changes_and_the_others_stay() {
        let mut timeouts = Timeouts::default();
        timeout("tcp-established=1h").unwrap().apply(&mut timeouts);
        let expected = Timeouts {
            tcp_established: Duration::from_hours(1),
            ..Timeouts::default()
        };
        assert_eq!(timeouts, expected);
        for bad in ["tcp=1h", "udp", "udp=5"] {
            assert!(timeout(bad).is_err(), "{bad}");
        }
    }
}
