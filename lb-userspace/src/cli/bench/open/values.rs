//! Values of options.

use std::net::IpAddr;

use lb_common::traffic::PORTS;

use super::wrong;
use crate::{
    api::ApiError,
    datapath::traffic::{
        frame,
        setup::{Order, Sizes},
    },
    net::Mac,
};

/// Source addresses from one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SourceRange {
    pub(super) first: IpAddr,
    pub(super) addresses: u32,
}

impl SourceRange {
    pub(super) fn check(self, v6: bool, flows: u32) -> Result<(), ApiError> {
        if self.first.is_ipv6() != v6 {
            return Err(wrong(
                "--source and --to are of different families: give both IPv4 or both IPv6 addresses".to_owned(),
            ));
        }
        if self.first.is_multicast() || self.first.is_unspecified() || self.first.is_loopback() {
            return Err(wrong(format!("--source {} is not the address of a host", self.first)));
        }
        let room = u64::from(self.addresses) * u64::from(PORTS);
        if u64::from(flows) > room {
            let wanted = flows.div_ceil(PORTS);
            return Err(wrong(format!(
                "{flows} flows need {wanted} source addresses of {PORTS} ports each, and there are {}: give \
                 --source ADDRESS/LENGTH of a subnet whose answers are routed back to this host",
                self.addresses
            )));
        }
        Ok(())
    }
}

pub(super) fn source_range(text: &str) -> Result<SourceRange, String> {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let first: IpAddr = address.parse().map_err(|_| "expected an address, or ADDRESS/LENGTH")?;
    let bits: u32 = if first.is_ipv6() { 128 } else { 32 };
    let Some(length) = length else {
        return Ok(SourceRange { first, addresses: 1 });
    };
    let length: u32 = length.parse().map_err(|_| "expected a prefix length behind the /")?;
    if length > bits {
        return Err(format!("a prefix length is {bits} at most"));
    }
    // No more than the last 16 bits are counted through: 65,536 addresses have 4 thousand million flows.
    let size = 1u32 << (bits - length).min(16);
    let place = frame::last_bits(first) & (size - 1);
    Ok(SourceRange {
        first,
        addresses: size - place,
    })
}

pub(super) fn mac(text: &str) -> Result<Mac, String> {
    let expected = || "expected six bytes such as 02:00:00:00:00:01".to_owned();
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).map_err(|_| expected()))
        .collect::<Result<_, _>>()?;
    let bytes: [u8; 6] = bytes.try_into().map_err(|_| expected())?;
    if bytes.first().is_some_and(|first| first & 1 == 1) {
        return Err("a multicast or broadcast address reaches more than one host".to_owned());
    }
    Ok(Mac(bytes))
}

/// A number with k, M or G behind it.
pub(in super::super) fn amount(text: &str) -> Result<u64, String> {
    let expected = || "expected a number above zero, such as 500, 10k or 1.5M".to_owned();
    let (number, scale) = match text.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G']) {
        Some(number) if text.ends_with(['k', 'K']) => (number, 1e3),
        Some(number) if text.ends_with(['m', 'M']) => (number, 1e6),
        Some(number) => (number, 1e9),
        None => (text, 1.0),
    };
    let value = number.parse::<f64>().map_err(|_| expected())? * scale;
    if !(1.0..=1e15).contains(&value) {
        return Err(expected());
    }
    Ok(value.round() as u64)
}

pub(super) fn order(text: &str) -> Result<Order, String> {
    match text.split_once(':') {
        None if text == "in-turn" => Ok(Order::InTurn),
        None if text == "uniform" => Ok(Order::Uniform),
        None if text == "zipf" => Ok(Order::Zipf(1.0)),
        Some(("zipf", exponent)) => match exponent.parse::<f64>() {
            Ok(exponent) if (0.0..=10.0).contains(&exponent) => Ok(Order::Zipf(exponent)),
            _ => Err("zipf's exponent is a number from 0 to 10, such as 1.1".to_owned()),
        },
        _ => Err("expected in-turn, uniform or zipf:EXPONENT".to_owned()),
    }
}

pub(super) fn sizes(text: &str) -> Result<Sizes, String> {
    if text.eq_ignore_ascii_case("imix") {
        return Ok(Sizes::Imix);
    }
    match text.parse() {
        Ok(size @ 64..=1518) => Ok(Sizes::Fixed(size)),
        _ => Err("expected 64 to 1518 bytes, or imix".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        for (text, value) in [
            ("500", 500),
            ("10k", 10_000),
            ("1.5M", 1_500_000),
            ("2G", 2_000_000_000),
        ] {
            assert_eq!(amount(text), Ok(value));
        }
        for text in ["", "0", "-1", "k", "10x", "nan", "inf"] {
            assert!(amount(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_source_range_runs_from_its_address_to_the_subnets_end() {
        let range = |text| source_range(text).map(|r| (r.first.to_string(), r.addresses));
        assert_eq!(range("10.0.0.7"), Ok(("10.0.0.7".to_owned(), 1)));
        assert_eq!(range("10.0.0.7/24"), Ok(("10.0.0.7".to_owned(), 249)));
        assert_eq!(range("10.0.0.0/8"), Ok(("10.0.0.0".to_owned(), 65536)));
        assert_eq!(range("fd00::1/120"), Ok(("fd00::1".to_owned(), 255)));
        assert!(range("10.0.0.7/33").is_err());
        assert!(range("here").is_err());
    }

    #[test]
    fn more_flows_than_ports_need_more_addresses() {
        let one = source_range("10.0.0.7").unwrap();
        assert!(one.check(false, PORTS).is_ok());
        assert!(
            one.check(false, PORTS + 1)
                .unwrap_err()
                .message
                .contains("2 source addresses")
        );
        assert!(source_range("10.0.0.1/24").unwrap().check(false, 1_000_000).is_ok());
        assert!(one.check(true, 1).is_err());
    }

    #[test]
    fn orders_and_sizes() {
        assert_eq!(order("zipf:1.2"), Ok(Order::Zipf(1.2)));
        assert_eq!(order("uniform"), Ok(Order::Uniform));
        assert!(order("zipf:x").is_err());
        assert!(order("random").is_err());
        assert_eq!(sizes("IMIX"), Ok(Sizes::Imix));
        assert_eq!(sizes("1518"), Ok(Sizes::Fixed(1518)));
        assert!(sizes("63").is_err());
    }

    #[test]
    fn a_mac_address_is_one_hosts() {
        assert_eq!(mac("02:00:00:00:00:0a"), Ok(Mac([2, 0, 0, 0, 0, 10])));
        assert!(mac("ff:ff:ff:ff:ff:ff").is_err());
        assert!(mac("02:00").is_err());
    }
}
