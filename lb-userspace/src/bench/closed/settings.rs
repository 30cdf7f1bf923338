//! What to send, and until when.

use std::{net::IpAddr, time::Duration};

use hyper::{Method, header::HeaderName};

use super::super::{
    report::{Plan, Value},
    target::Target,
};

/// Everything that decides about the load.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to, and by which interface.
    pub target: Target,
    /// Addresses to send from, in turns; none leaves it to the kernel.
    pub sources: Vec<IpAddr>,
    /// Connections at a time.
    pub connections: usize,
    /// Threads that drive them.
    pub threads: usize,
    /// Starts per second; without it, each connection goes on as soon as it is done.
    pub rate: Option<f64>,
    /// The run ends after this time.
    pub duration: Duration,
    /// The run ends after so many.
    pub count: Option<u64>,
    /// Longest time from the start of one to its end.
    pub timeout: Duration,
    /// Close with RST, which leaves no TIME_WAIT behind.
    pub reset_close: bool,
    /// What is sent.
    pub kind: Kind,
}

/// What is sent.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A TCP connection.
    Tcp(Tcp),
    /// An HTTP request.
    Http(Http),
}

/// A TCP connection.
#[derive(Debug, Clone, Copy)]
pub struct Tcp {
    /// Bytes to send on it.
    pub send: usize,
    /// Bytes to wait for after that.
    pub expect: usize,
}

/// An HTTP request.
#[derive(Debug, Clone)]
pub struct Http {
    /// Usually `GET`.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The `Host` header.
    pub host: String,
    /// Many requests on a connection, or one on each.
    pub keep_alive: bool,
    /// By what in the answer to tell who gave it.
    pub spread: Option<Spread>,
}

/// What in an answer tells who gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spread {
    /// A header.
    Header(HeaderName),
    /// The first word of the body.
    Body,
}

impl Kind {
    /// What the plan calls the number of them, as the option that sets it.
    const fn limit(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "count",
            Self::Http(_) => "requests",
        }
    }

    /// What is timed.
    pub(super) const fn singular(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "connection",
            Self::Http(_) => "request",
        }
    }
}

impl Settings {
    /// What is going to happen.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let to = self.target.to;
        let what = match &self.kind {
            Kind::Tcp(_) => format!("TCP connections to {to}"),
            Kind::Http(http) => format!("HTTP {} requests to {to}", http.method),
        };
        let text = |text: String| Value::Text(text);
        let mut plan = Plan::new(what)
            .line("to", text(to.to_string()))
            .line("interface", text(self.target.interface.clone()));
        if let Some(gateway) = self.target.gateway {
            plan = plan.line("gateway", text(gateway.to_string()));
        }
        if !self.sources.is_empty() {
            let sources: Vec<_> = self.sources.iter().map(ToString::to_string).collect();
            plan = plan.line("source", text(sources.join(" ")));
        }
        plan = plan.line("connections", Value::Count(self.connections as u64));
        plan = match self.rate {
            Some(rate) => plan.line("rate", Value::Rate(rate)),
            None => plan.line("pace", text("each goes on when it is answered".to_owned())),
        };
        if let Some(count) = self.count {
            plan = plan.line(self.kind.limit(), Value::Count(count));
        }
        plan = plan
            .line("duration", Value::Time(self.duration))
            .line("timeout", Value::Time(self.timeout));
        self.kind
            .describe(plan)
            .line("close with reset", Value::Flag(self.reset_close))
    }
}

impl Kind {
    fn describe(&self, plan: Plan) -> Plan {
        match self {
            Self::Tcp(Tcp { send: 0, expect: 0 }) => plan,
            Self::Tcp(Tcp { send, expect }) => plan
                .line("send", Value::Bytes(*send as u64))
                .line("expect", Value::Bytes(*expect as u64)),
            Self::Http(http) => plan
                .line("path", Value::Text(http.path.clone()))
                .line("host", Value::Text(http.host.clone()))
                .line("keep alive", Value::Flag(http.keep_alive)),
        }
    }
}
