//! `lb bench traffic tcp` and `http`: closed-loop load.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use clap::{Args, value_parser};
use hyper::{Method, Uri, header::HeaderName};

use super::{
    super::{values, view::View},
    DEFAULT_DURATION, MAX_DURATION, OutputArgs, run_duration,
};
use crate::{
    api::{ApiError, ErrorKind},
    bench::{
        closed::{self, Http, Kind, RunError, Settings, Spread, Tcp},
        target::{Target, TargetError},
    },
};

/// Options that both kinds have.
#[derive(Debug, Clone, Args)]
struct LoadArgs {
    /// Interface by which to send
    #[arg(long, value_name = "NAME")]
    interface: String,

    /// Address and port to send to
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = values::endpoint)]
    to: SocketAddr,

    /// Own addresses to send from, for more ports
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    source: Vec<IpAddr>,

    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u32).range(1..=65_536))]
    connections: u32,

    /// Starts per second [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<f64>,

    /// End after this time [default: 10s; counted: 24h]
    #[arg(long, value_name = "DURATION", value_parser = run_duration)]
    duration: Option<Duration>,

    /// What takes longer has failed
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = values::duration)]
    timeout: Duration,

    /// Close with RST: leaves no TIME_WAIT, frees the port
    #[arg(long)]
    reset_close: bool,

    /// Threads [default: one per processor]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=256))]
    threads: Option<u16>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Options of `lb bench traffic tcp`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Each connection is opened, used if --send-bytes or --expect-bytes say so, and
closed; then the next begins. Whoever closes first keeps the port for a minute
(TIME_WAIT), so that a host with 28,000 ports cannot open more than 470
connections a second for long. --reset-close closes with RST instead, which
frees the port at once, or give several --source addresses.

With --rate, starts are due at fixed times whether or not a connection is free,
and latency counts from then: waiting is not left out (coordinated omission).

Examples:
  lb bench traffic tcp --interface eth0 --to 192.0.2.10:80 --reset-close
  lb bench traffic tcp --interface eth0 --to 192.0.2.10:7 --count 10000 \\
      --send-bytes 64 --expect-bytes 64")]
pub struct TcpArgs {
    #[command(flatten)]
    load: LoadArgs,

    /// End after so many connections
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Bytes to send on each connection
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u32).range(..=16_777_216))]
    send_bytes: u32,

    /// Bytes to wait for on each, after sending
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u32).range(..=1_073_741_824))]
    expect_bytes: u32,
}

/// Options of `lb bench traffic http`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A load balancer in layer 4 decides once per connection: with requests that share
connections, it is the servers that are measured. --new-connections opens one
for each request.

With --rate, requests are due at fixed times whether or not a connection is
free, and latency counts from then: waiting is not left out (coordinated
omission). Service, beside it, is the time without waiting.

Examples:
  lb bench traffic http --interface eth0 --to 192.0.2.10:80 --rate 1000
  lb bench traffic http --interface eth0 --to 192.0.2.10:80 --new-connections \\
      --reset-close --spread-by header:server --plot http.svg")]
pub struct HttpArgs {
    #[command(flatten)]
    load: LoadArgs,

    /// End after so many requests
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    requests: Option<u64>,

    /// Path and query
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = path)]
    path: String,

    /// Host header [default: the address]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Method, without a body
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: Method,

    /// A connection for each request, instead of keep-alive
    #[arg(long)]
    new_connections: bool,

    /// Count answers by header:NAME, or by the body's first word
    #[arg(long, value_name = "header:NAME|body", value_parser = spread)]
    spread_by: Option<Spread>,
}

impl TcpArgs {
    pub(super) fn run(&self, view: &View) -> Result<(), ApiError> {
        let kind = Kind::Tcp(Tcp {
            send: size(self.send_bytes),
            expect: size(self.expect_bytes),
        });
        self.load.run(kind, self.count, view)
    }
}

impl HttpArgs {
    pub(super) fn run(&self, view: &View) -> Result<(), ApiError> {
        let host = self.host.clone().unwrap_or_else(|| self.load.to.to_string());
        let kind = Kind::Http(Http {
            method: self.method.clone(),
            path: self.path.clone(),
            host,
            keep_alive: !self.new_connections,
            spread: self.spread_by.clone(),
        });
        self.load.run(kind, self.requests, view)
    }
}

impl LoadArgs {
    fn run(&self, kind: Kind, count: Option<u64>, view: &View) -> Result<(), ApiError> {
        let settings = self.settings(kind, count, self.target()?);
        self.output.conduct(view, &settings.plan(), |stop, progress| {
            Ok(closed::run(settings.clone(), stop, |reading| progress.show(reading))?)
        })
    }

    fn target(&self) -> Result<Target, ApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(RunError::Threads)?;
        let found: Result<_, TargetError> = runtime.block_on(async {
            let target = Target::find(&self.interface, self.to).await?;
            target.check_sources(&self.source).await?;
            Ok(target)
        });
        Ok(found?)
    }

    fn settings(&self, kind: Kind, count: Option<u64>, target: Target) -> Settings {
        let until_count = count.map(|_| MAX_DURATION);
        let threads = self.threads.map(usize::from);
        Settings {
            target,
            sources: self.source.clone(),
            connections: size(self.connections),
            threads: threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)),
            rate: self.rate,
            duration: self.duration.or(until_count).unwrap_or(DEFAULT_DURATION),
            count,
            timeout: self.timeout,
            reset_close: self.reset_close,
            kind,
        }
    }
}

impl From<RunError> for ApiError {
    fn from(error: RunError) -> Self {
        let kind = match error {
            RunError::Request(_) => ErrorKind::Invalid,
            RunError::Threads(_) | RunError::Internal(_) => ErrorKind::System,
        };
        Self {
            kind,
            message: error.to_string(),
        }
    }
}

fn size(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.1..=1e6).contains(rate))
        .ok_or_else(|| "expected starts per second, from 0.1 to 1000000".to_owned())
}

fn path(text: &str) -> Result<String, String> {
    match text.parse::<Uri>() {
        Ok(_) if text.starts_with('/') => Ok(text.to_owned()),
        _ => Err("expected a path that begins with `/`, such as /index.html?lang=en".to_owned()),
    }
}

fn spread(text: &str) -> Result<Spread, String> {
    let header = || text.strip_prefix("header:")?.parse::<HeaderName>().ok();
    match text {
        "body" => Ok(Spread::Body),
        _ => header()
            .map(Spread::Header)
            .ok_or_else(|| "expected header:NAME, such as header:server, or body".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_strictly() {
        assert_eq!(spread("body"), Ok(Spread::Body));
        assert!(spread("header:X-Backend").is_ok());
        for bad in ["", "header:", "header:a b", "cookie:x"] {
            assert!(spread(bad).unwrap_err().contains("header:server"), "{bad}");
        }
        assert!(rate("1000").is_ok() && rate("0.5").is_ok());
        for bad in ["0", "-1", "NaN", "inf", "1e9", "x"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert!(path("/a?b=c").is_ok());
        for bad in ["", "a", "http://x/", "/a b"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
