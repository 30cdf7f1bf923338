//! Settings of the kernel that `lb` reads. It never writes one.

use std::{fs, io, ops::RangeInclusive, path::Path};

/// Ports that the kernel gives to local sockets that do not ask for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPorts {
    /// `net.ipv4.ip_local_port_range`; it holds for IPv6 too.
    pub ephemeral: RangeInclusive<u16>,
    /// `net.ipv4.ip_local_reserved_ports`: never given out, though in the range.
    pub reserved: Vec<RangeInclusive<u16>>,
}

impl HostPorts {
    /// Reads the settings of the calling thread's network namespace.
    ///
    /// # Errors
    /// When `/proc/sys` is not mounted or holds something else than ports.
    pub fn read() -> io::Result<Self> {
        Self::read_under(Path::new("/proc/sys/net/ipv4"))
    }

    fn read_under(directory: &Path) -> io::Result<Self> {
        let range = fs::read_to_string(directory.join("ip_local_port_range"))?;
        let reserved = fs::read_to_string(directory.join("ip_local_reserved_ports"))?;
        Ok(Self {
            ephemeral: parse_port_range(&range).ok_or_else(|| invalid("ip_local_port_range", &range))?,
            reserved: parse_port_list(&reserved).ok_or_else(|| invalid("ip_local_reserved_ports", &reserved))?,
        })
    }

    /// The first port of a range that the kernel might give to a local socket as well; `None`: they are disjoint.
    #[must_use]
    pub fn first_collision(&self, ports: &RangeInclusive<u16>) -> Option<u16> {
        ports
            .clone()
            .find(|p| self.ephemeral.contains(p) && !self.reserved.iter().any(|r| r.contains(p)))
    }
}

fn invalid(name: &str, text: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("net.ipv4.{name} is `{}`, which are not ports", text.trim()),
    )
}

/// `32768 60999`, with a tab between.
fn parse_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace();
    let first = words.next()?.parse().ok()?;
    let last = words.next()?.parse().ok()?;
    words.next().is_none().then_some(first..=last)
}

/// Ports and ranges as the kernel lists them: `8080,9148-9150`, or nothing.
#[must_use]
pub fn parse_port_list(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    text.trim()
        .split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_hosts_settings() {
        let ports = HostPorts::read().unwrap();
        assert!(ports.ephemeral.start() < ports.ephemeral.end(), "{ports:?}");
    }

    #[test]
    fn understands_what_the_kernel_writes() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse_port_range("32768\n"), None);
        assert_eq!(parse_port_list("\n"), Some(vec![]));
        assert_eq!(
            parse_port_list("8080,9148-9150\n"),
            Some(vec![8080..=8080, 9148..=9150])
        );
        assert_eq!(parse_port_list("http"), None);
    }

    #[test]
    fn reserved_ports_do_not_collide() {
        let ports = HostPorts {
            ephemeral: 32768..=60999,
            reserved: vec![32768..=33000],
        };
        assert_eq!(ports.first_collision(&(2048..=32767)), None);
        assert_eq!(ports.first_collision(&(2048..=33000)), None);
        assert_eq!(ports.first_collision(&(2048..=33002)), Some(33001));
        assert_eq!(ports.first_collision(&(61000..=65535)), None);
    }
}
