//! Configurations of `lb`, written as TOML.

use std::{
    fmt::{Display, Write},
    path::{Path, PathBuf},
};

/// A health check that notices a death within about a second, and does not mistake a busy machine for one.
pub const TCP_HEALTH: &str = "type = \"tcp\"\ninterval = \"500ms\"\nfast-interval = \"100ms\"\ntimeout = \"400ms\"\nstart-jitter = \"0s\"\nrise = 2\nfall = 3";

/// As [`TCP_HEALTH`], over HTTP; lines such as `expect-body` can follow.
pub const HTTP_HEALTH: &str = "type = \"http\"\npath = \"/health\"\ninterval = \"500ms\"\nfast-interval = \"100ms\"\n\
     timeout = \"400ms\"\nstart-jitter = \"0s\"\nrise = 2\nfall = 3";

/// A whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    instance: String,
    socket: PathBuf,
    state_dir: PathBuf,
    interfaces: Vec<String>,
    top: String,
    tail: String,
    services: Vec<Service>,
    flows: u32,
    half_open: u32,
    limits: String,
}

impl Config {
    /// A configuration without services.
    #[must_use]
    pub fn new(instance: &str, socket: &Path, state_dir: &Path, interfaces: &[&str]) -> Self {
        Self {
            instance: instance.to_owned(),
            socket: socket.to_owned(),
            state_dir: state_dir.to_owned(),
            interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
            top: String::new(),
            tail: String::new(),
            services: Vec::new(),
            flows: 65_536,
            half_open: 65_536,
            limits: String::new(),
        }
    }

    /// Room for so many half-open flows of each family.
    #[must_use]
    pub const fn half_open(mut self, flows: u32) -> Self {
        self.half_open = flows;
        self
    }

    /// Room for so many entries of established flows of each family; a flow takes two.
    #[must_use]
    pub const fn flows(mut self, entries: u32) -> Self {
        self.flows = entries;
        self
    }

    /// A line of `[limits]`, such as `backends = 100`.
    #[must_use]
    pub fn limit(mut self, line: &str) -> Self {
        self.limits.push_str(line);
        self.limits.push('\n');
        self
    }

    /// Adds a service.
    #[must_use]
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// Other interfaces than the lab's.
    #[must_use]
    pub fn interfaces(mut self, names: &[&str]) -> Self {
        self.interfaces = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Lines for the top level of the file.
    #[must_use]
    pub fn top(mut self, lines: &str) -> Self {
        self.top.push_str(lines);
        self.top.push('\n');
        self
    }

    /// Lines for its end, such as further tables.
    #[must_use]
    pub fn tail(mut self, lines: &str) -> Self {
        self.tail.push_str(lines);
        self.tail.push('\n');
        self
    }

    /// The file's text.
    #[must_use]
    pub fn toml(&self) -> String {
        let mut text = format!(
            "instance = {:?}\nsocket = {:?}\nstate-dir = {:?}\n{}",
            self.instance, self.socket, self.state_dir, self.top
        );
        for name in &self.interfaces {
            write!(text, "[[interface]]\nname = {name:?}\n").expect("writing to a string");
        }
        // Small tables: several labs run at once.
        writeln!(text, "[limits]\n{}", self.limits).expect("writing to a string");
        for family in ["ipv4", "ipv6"] {
            writeln!(text, "flows-{family} = {}", self.flows).expect("writing to a string");
            writeln!(text, "half-open-{family} = {}", self.half_open).expect("writing to a string");
        }
        for service in &self.services {
            service.write(&mut text);
        }
        text.push_str(&self.tail);
        text
    }
}

/// A service of a configuration.
#[derive(Debug, Clone)]
pub struct Service {
    name: String,
    vip: String,
    protocol: &'static str,
    lines: String,
    health: String,
    backends: Vec<Backend>,
}

impl Service {
    /// A service without backends, checked over TCP.
    #[must_use]
    pub fn new(name: &str, vip: impl Display, protocol: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            vip: vip.to_string(),
            protocol,
            lines: String::new(),
            health: TCP_HEALTH.to_owned(),
            backends: Vec::new(),
        }
    }

    /// Another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// A line of its own, such as `mode = "nat"`.
    #[must_use]
    pub fn set(mut self, line: &str) -> Self {
        self.lines.push_str(line);
        self.lines.push('\n');
        self
    }

    /// The lines of `[service.health]`.
    #[must_use]
    pub fn health(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.health);
        self
    }

    /// Its backends, instead of those it had.
    #[must_use]
    pub fn backends(mut self, backends: Vec<Backend>) -> Self {
        self.backends = backends;
        self
    }

    /// Adds a line to one backend, such as `weight = 3`.
    #[must_use]
    pub fn backend(mut self, index: usize, line: &str) -> Self {
        let backend = self.backends.remove(index).set(line);
        self.backends.insert(index, backend);
        self
    }

    fn write(&self, text: &mut String) {
        write!(
            text,
            "[[service]]\nname = {:?}\nvip = \"{}\"\nprotocol = {:?}\n{}[service.health]\n{}\n",
            self.name, self.vip, self.protocol, self.lines, self.health
        )
        .expect("writing to a string");
        for backend in &self.backends {
            write!(
                text,
                "[[service.backend]]\nname = {:?}\naddress = \"{}\"\n{}",
                backend.name, backend.address, backend.lines
            )
            .expect("writing to a string");
        }
    }
}

/// A backend of a service.
#[derive(Debug, Clone)]
pub struct Backend {
    name: String,
    address: String,
    lines: String,
}

impl Backend {
    /// A backend of weight 1 in the first tier.
    #[must_use]
    pub fn new(name: &str, address: impl Display) -> Self {
        Self {
            name: name.to_owned(),
            address: address.to_string(),
            lines: String::new(),
        }
    }

    /// A further line.
    #[must_use]
    pub fn set(mut self, line: &str) -> Self {
        self.lines.push_str(line);
        self.lines.push('\n');
        self
    }
}
