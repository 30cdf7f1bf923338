//! `lb` in its guest: started, killed, and asked.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{guest::Guest, lab::CONFIGURATION};
use crate::interrupt;

/// How long `lb` may take until a state is reached, in an emulated machine that shares its processors.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is wanted of it in one line, which a console is quicker to show.
const ASK: &str = r"lb --json status >/run/status && sed 's/^ *//' /run/status | tr '\n' ' '";

/// Starts the daemon, and returns at once.
///
/// # Errors
/// When the guest is off.
pub(super) fn start(guest: &mut Guest) -> Result<()> {
    start_with(guest, CONFIGURATION)
}

/// The same with another configuration.
///
/// # Errors
/// When the guest is off.
pub(super) fn start_with(guest: &mut Guest, configuration: &str) -> Result<()> {
    let start = format!("lb run --config {configuration} >>/run/lb.log 2>&1 & lb=$!");
    guest.run(&start).map(drop)
}

/// `kill -9`.
///
/// # Errors
/// When it does not run.
pub(super) fn kill(guest: &mut Guest) -> Result<()> {
    guest.run("kill -9 $lb && { wait $lb; true; }").map(drop)
}

/// What `lb --json status` says.
#[derive(Debug)]
pub(super) struct Status(Value);

impl Status {
    /// Asks until what is said is as wanted.
    ///
    /// # Errors
    /// When the daemon ended, or after [`PATIENCE`].
    pub(super) fn wait(guest: &mut Guest, what: &str, wanted: impl Fn(&Self) -> bool) -> Result<Self> {
        let end = Instant::now() + PATIENCE;
        loop {
            guest.run("kill -0 $lb").context("lb has ended")?;
            let (code, said) = guest.ask(ASK)?;
            let status = (code == 0).then(|| serde_json::from_str(&said).map(Self));
            match status
                .transpose()
                .with_context(|| format!("lb printed no JSON: {said}"))?
            {
                Some(status) if wanted(&status) => return Ok(status),
                last if Instant::now() > end => {
                    let last = last.map_or(said, |status| status.out_of_rotation().join(", "));
                    bail!("{what}: not within {PATIENCE:?}; out of rotation: {last}");
                }
                _ => interrupt::pause(Duration::from_millis(300))?,
            }
        }
    }

    /// Whether the daemon found a packet path that was running.
    pub(super) fn adopted(&self) -> bool {
        self.0.get("adopted").and_then(Value::as_bool) == Some(true)
    }

    /// Interfaces, each with how the packet path is attached to it and what is to be said of that.
    pub(super) fn interfaces(&self) -> Vec<String> {
        let texts = |interface: &Value| {
            ["name", "xdp", "note"].map(|key| interface.get(key).and_then(Value::as_str).unwrap_or("").to_owned())
        };
        let interfaces = self.0.get("interfaces").and_then(Value::as_array);
        interfaces
            .into_iter()
            .flatten()
            .map(|interface| texts(interface).join(" ").trim().to_owned())
            .collect()
    }

    /// Backends that take no new flows, as `SERVICE/BACKEND: WHY`.
    pub(super) fn out_of_rotation(&self) -> Vec<String> {
        let out = |backend: &&(String, Value)| backend.1.get("in_rotation").and_then(Value::as_bool) != Some(true);
        let why = |backend: &(String, Value)| {
            let why = backend.1.get("why_not").and_then(Value::as_str).unwrap_or("?");
            format!("{}: {why}", backend.0)
        };
        self.backends().iter().filter(out).map(why).collect()
    }

    /// Whether a backend takes no new flows.
    pub(super) fn is_out(&self, service: &str, backend: &str) -> bool {
        let name = format!("{service}/{backend}: ");
        self.out_of_rotation().iter().any(|out| out.starts_with(&name))
    }

    /// A service's counter by backend: `new_flows`, `packets_in` and so on.
    pub(super) fn counters(&self, service: &str, counter: &str) -> BTreeMap<String, u64> {
        let prefix = format!("{service}/");
        let backends = self.backends();
        let of_service = backends
            .iter()
            .filter_map(|(name, backend)| Some((name.strip_prefix(&prefix)?, backend)));
        of_service
            .map(|(name, backend)| {
                let value = backend.pointer(&format!("/counters/{counter}")).and_then(Value::as_u64);
                (name.to_owned(), value.unwrap_or(0))
            })
            .collect()
    }

    /// Packets that were dropped or answered with RST, by reason.
    pub(super) fn drops(&self) -> BTreeMap<String, u64> {
        let reasons = self.0.get("reasons").and_then(Value::as_array).into_iter().flatten();
        reasons
            .filter(|reason| reason.get("outcome").and_then(Value::as_str) == Some("drop"))
            .filter_map(|reason| {
                let packets = reason.get("packets")?.as_u64().filter(|packets| *packets > 0)?;
                Some((reason.get("name")?.as_str()?.to_owned(), packets))
            })
            .collect()
    }

    fn backends(&self) -> Vec<(String, Value)> {
        let mut backends = Vec::new();
        for service in self.0.get("services").and_then(Value::as_array).into_iter().flatten() {
            let name = |value: &Value| value.get("name").and_then(Value::as_str).unwrap_or("?").to_owned();
            for backend in service.get("backends").and_then(Value::as_array).into_iter().flatten() {
                backends.push((format!("{}/{}", name(service), name(backend)), backend.clone()));
            }
        }
        backends
    }
}
