//! Parsers of single values, shared by the file and the command line.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use humantime::DurationError;

use crate::model::{TunnelSource, Vip};

/// A single value that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}; expected {expected}")]
pub struct ValueError {
    /// What is wrong with the value, which it quotes.
    pub message: String,
    /// What would be right.
    pub expected: String,
}

impl ValueError {
    fn new(message: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            expected: expected.into(),
        }
    }
}

/// A duration with its unit, such as `500ms`, `2s` or `1h 30m`.
///
/// # Errors
/// [`ValueError`] when it is anything else, such as a number without a unit.
pub fn duration(text: &str) -> Result<Duration, ValueError> {
    const EXPECTED: &str = "a duration such as \"500ms\", \"2s\" or \"1h 30m\"";
    humantime::parse_duration(text).map_err(|error| {
        let message = match error {
            DurationError::NumberOverflow => format!("{} is too long", quoted(text)),
            DurationError::UnknownUnit { unit, .. } if unit.is_empty() => {
                format!("{} has no unit", quoted(text))
            }
            DurationError::UnknownUnit { unit, .. } => {
                format!("{} has no known unit: {}", quoted(text), quoted(unit))
            }
            DurationError::InvalidCharacter(_) | DurationError::NumberExpected(_) | DurationError::Empty => {
                format!("{} is not a duration", quoted(text))
            }
        };
        ValueError::new(message, EXPECTED)
    })
}

/// A duration as [`duration`] reads it.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// A range of ports, such as `2048-32767`, or a single port.
///
/// # Errors
/// [`ValueError`] when it is no such range, or when its end comes before its start.
pub fn port_range(text: &str) -> Result<RangeInclusive<u16>, ValueError> {
    number_range(text, "a range of ports such as \"2048-32767\"")
}

/// A range of HTTP status codes, such as `200-399`, or a single code.
///
/// # Errors
/// [`ValueError`] when it is no such range, when its end comes before its start, or when a code is not within 100 to
/// 599.
pub fn status_range(text: &str) -> Result<RangeInclusive<u16>, ValueError> {
    const EXPECTED: &str = "HTTP status codes such as \"200\" or \"200-399\"";
    let range = number_range(text, EXPECTED)?;
    if !(100..=599).contains(range.start()) || !(100..=599).contains(range.end()) {
        let message = format!("{} is not within 100 to 599", quoted(text));
        return Err(ValueError::new(message, EXPECTED));
    }
    Ok(range)
}

/// An IP address with a port, such as `192.0.2.10:80` or `[2001:db8::10]:80`.
///
/// # Errors
/// [`ValueError`] when the port is missing, the brackets of an IPv6 address are, or it is a host name.
pub fn endpoint(text: &str) -> Result<SocketAddr, ValueError> {
    const EXPECTED: &str = "ADDRESS:PORT such as \"192.0.2.10:80\" or \"[2001:db8::10]:80\"";
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Err(without_port(text, ip));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let message = if host.parse::<IpAddr>().is_ok() || (host.starts_with('[') && host.ends_with(']')) {
        format!("{} does not end in a port from 1 to 65535", quoted(text))
    } else if port.parse::<u16>().is_ok() && host.starts_with(|c: char| c.is_ascii_alphabetic()) && !host.contains(':')
    {
        format!("{} is a host name, and names are not resolved", quoted(text))
    } else {
        format!("{} is not an address with a port", quoted(text))
    };
    Err(ValueError::new(message, EXPECTED))
}

/// A virtual address with one port, a range of ports or all: `192.0.2.10:80`, `192.0.2.10:5000-5100`, `[2001:db8::10]:*`.
///
/// # Errors
/// [`ValueError`] when the ports are missing, one is 0, the brackets of an IPv6 address are missing, or it is a host name.
pub fn vip(text: &str) -> Result<Vip, ValueError> {
    const EXPECTED: &str =
        "ADDRESS:PORT such as \"192.0.2.10:80\" or \"[2001:db8::10]:80\", or FIRST-LAST or * in place of the port";
    let expected = |error: ValueError| ValueError::new(error.message, EXPECTED);
    let (ip, ports) = text.rsplit_once(':').unwrap_or((text, ""));
    let (first, more_ports) = match ports.split_once('-') {
        _ if ports == "*" => (0, 0),
        None => {
            let first = endpoint(text)?;
            return whole_port(first)
                .map(|first| Vip { first, more_ports: 0 })
                .map_err(expected);
        }
        Some(_) => {
            let range = port_range(ports).map_err(expected)?;
            if *range.start() == 0 {
                return Err(ValueError::new(format!("port 0 in {}", quoted(text)), EXPECTED));
            }
            (*range.start(), range.end() - range.start())
        }
    };
    // The port that stands in only lets the address be read as any other.
    let stand_in = format!("{ip}:1");
    let mut address = endpoint(&stand_in).map_err(|error| {
        let message = error.message.replace(&quoted(&stand_in), &quoted(text));
        ValueError::new(message, EXPECTED)
    })?;
    address.set_port(first);
    Ok(Vip {
        first: address,
        more_ports,
    })
}

/// The address of a backend, with a port or without: then it is the one that the client asked for, and 0 here.
///
/// # Errors
/// [`ValueError`] when the port is 0, the brackets of an IPv6 address are missing, or it is a host name.
pub fn backend_endpoint(text: &str) -> Result<SocketAddr, ValueError> {
    let bracketed = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let alone = match bracketed {
        Some(v6) => v6.parse().ok().filter(IpAddr::is_ipv6),
        // Without brackets nobody can tell whether the last part of an IPv6 address is meant as a port.
        None => text.parse().ok().filter(IpAddr::is_ipv4),
    };
    match alone {
        Some(ip) => Ok(SocketAddr::new(ip, 0)),
        None => whole_port(endpoint(text)?),
    }
}

/// Port 0 is nobody's.
fn whole_port(address: SocketAddr) -> Result<SocketAddr, ValueError> {
    if address.port() == 0 {
        return Err(ValueError::new(
            format!("port 0 in {address}"),
            "a port from 1 to 65535",
        ));
    }
    Ok(address)
}

/// Without brackets nobody can tell whether the last part of an IPv6 address is meant as a port.
fn without_port(text: &str, ip: IpAddr) -> ValueError {
    if ip.is_ipv6() && !text.starts_with('[') {
        let message = format!("{} is an IPv6 address without brackets and port", quoted(text));
        return ValueError::new(message, "[ADDRESS]:PORT such as \"[2001:db8::10]:80\"");
    }
    let example = SocketAddr::new(ip, 80);
    ValueError::new(
        format!("{} has no port", quoted(text)),
        format!("ADDRESS:PORT such as \"{example}\""),
    )
}

/// An address, or a prefix such as `172.16.0.0/16`.
pub(super) fn tunnel_source(text: &str) -> Option<TunnelSource> {
    let Some((base, prefix)) = text.split_once('/') else {
        return Some(TunnelSource::address(text.parse().ok()?));
    };
    let base = base.parse().ok()?;
    let prefix = prefix.parse().ok().filter(|p| *p <= TunnelSource::bits(base))?;
    Some(TunnelSource { base, prefix })
}

/// The value in quotation marks, with what a terminal cannot show escaped, and cut when it is long.
pub(super) fn quoted(text: impl fmt::Display) -> String {
    const SHOWN: usize = 60;
    let text = text.to_string();
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

fn number_range(text: &str, expected: &str) -> Result<RangeInclusive<u16>, ValueError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>()) else {
        return Err(ValueError::new(format!("{} is not a range", quoted(text)), expected));
    };
    if first > last {
        let message = format!("{} ends before it starts", quoted(text));
        return Err(ValueError::new(message, format!("{expected}, lowest first")));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("1h 30m").unwrap(), Duration::from_mins(90));
        for bad in ["", "2", "s", "-2s", "2 parsecs", "1e3s", "99999999999999999999s", "2s;"] {
            let error = duration(bad).unwrap_err();
            assert!(error.to_string().contains("\"500ms\""), "{error}");
        }
    }

    #[test]
    fn durations_read_back_as_written() {
        for text in ["500ms", "2s", "1h 30m"] {
            assert_eq!(format_duration(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn ranges() {
        assert_eq!(port_range("2048-32767").unwrap(), 2048..=32767);
        assert_eq!(port_range("5000").unwrap(), 5000..=5000);
        assert_eq!(status_range("200-399").unwrap(), 200..=399);
        assert_eq!(status_range("204").unwrap(), 204..=204);
        for bad in ["", "-", "1-", "-5", "70000", "5-4", "a-b", "1-2-3"] {
            assert!(port_range(bad).is_err(), "{bad}");
        }
        for bad in ["99", "200-600", "2xx", "399-200"] {
            assert!(status_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoints() {
        assert_eq!(endpoint("192.0.2.10:80").unwrap().port(), 80);
        assert!(endpoint("[2001:db8::10]:80").unwrap().is_ipv6());
        let message = |text| endpoint(text).unwrap_err().to_string();
        assert!(message("192.0.2.10").contains("has no port; expected ADDRESS:PORT such as \"192.0.2.10:80\""));
        assert!(message("2001:db8::10").contains("such as \"[2001:db8::10]:80\""));
        assert!(message("[2001:db8::10]").contains("has no port"));
        assert!(message("192.0.2.10:99999").contains("does not end in a port"));
        assert!(message("web.example.org:80").contains("names are not resolved"));
        assert!(message("10.0.0.300:80").contains("is not an address with a port"));
        assert!(message("").contains("is not an address with a port"));
    }
}
