//! `lb backend-test`: asks the backends of a running daemon, from its host, whether they would answer for their VIP.

use std::{net::IpAddr, time::Duration};

use clap::Args;
use serde::Serialize;

use super::{
    QUICK, Session,
    grid::{Cell, Grid, Kind},
    service::{is_service, no_such_service, services},
    view::Tone,
};
use crate::{
    api::{ApiError, BackendReport, ErrorKind, ServiceReport},
    model::Protocol,
    net::{Answer, Carriage, KernelNetwork, Mac, Network as _, NextHop, NextHopError, Question},
};

/// How long a neighbour has to tell its MAC address.
const RESOLVE_WITHIN: u32 = 20;
const RESOLVE_STEP: Duration = Duration::from_millis(100);

/// Options of `lb backend-test`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Run it on lb's host, as root. To each backend of a mode whose backends answer
clients themselves it sends one SYN for the VIP, by the way of that mode, and
looks whether the VIP answers. It also asks the link who else claims the VIP.
Nothing is sent to anything but configured backends and their link.

Examples:
  lb backend-test                 every service
  lb backend-test web --port 80   a service on many ports
  lb backend-test --json          for scripts")]
pub struct BackendTestArgs {
    /// Only this service's backends
    service: Option<String>,

    /// Port to ask, for services on several ports
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

/// What was found at a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
enum Finding {
    /// The VIP answered.
    Works,
    /// The VIP answered that nothing listens.
    NothingListens,
    /// The backend is reached, and the VIP is not on it.
    VipMissing,
    /// The VIP is there, and nothing unwraps.
    NotUnwrapped,
    /// Nothing came back.
    NoAnswer,
    /// There was nothing to test, or no way to.
    NotTested {
        /// Why.
        why: String,
    },
}

/// One backend.
#[derive(Debug, Serialize)]
struct Row {
    service: String,
    backend: String,
    address: String,
    #[serde(flatten)]
    finding: Finding,
    /// Whether it answers ARP or neighbour discovery for the VIP, which draws clients' packets away from `lb`.
    claims_vip: bool,
}

/// Somebody else who claims a VIP.
#[derive(Debug, Serialize)]
struct Stranger {
    vip: IpAddr,
    mac: String,
    interface: String,
}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Report {
    backends: Vec<Row>,
    /// Hosts that are no backends and claim a VIP.
    strangers: Vec<Stranger>,
}

impl BackendTestArgs {
    pub(super) fn run(&self, session: &Session) -> Result<String, ApiError> {
        let mut found = services(session, QUICK)?;
        if let Some(wanted) = &self.service {
            found.retain(|service| is_service(service, wanted));
            if found.is_empty() {
                return Err(no_such_service(wanted));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| system(&e))?;
        let report = runtime.block_on(self.test(&found))?;
        let shown = session.view.show(&report, |view| {
            let columns = [
                ("SERVICE", Kind::Text),
                ("BACKEND", Kind::Text),
                ("ADDRESS", Kind::Text),
                ("RESULT", Kind::Text),
            ];
            let mut grid = Grid::new(2, columns).last_wraps();
            for row in &report.backends {
                let (words, tone) = words(row);
                grid.row([
                    row.service.as_str().into(),
                    row.backend.as_str().into(),
                    row.address.as_str().into(),
                    Cell::toned(words, tone),
                ]);
            }
            let mut text = grid.render(view);
            for stranger in &report.strangers {
                let words = format!(
                    "{} on {} claims the VIP {}, and is no backend: clients' packets may go there instead",
                    stranger.mac, stranger.interface, stranger.vip
                );
                text.push_str(&view.paragraph(Tone::Bad, 0, &words));
            }
            text
        })?;
        Ok(shown)
    }

    async fn test(&self, services: &[ServiceReport]) -> Result<Report, ApiError> {
        let (network, _events) = KernelNetwork::start().await.map_err(|e| system(&e))?;
        let mut report = Report::default();
        for service in services.iter().filter(|service| service.mode.direct_return()) {
            let mut claimants: Vec<(String, Vec<Mac>)> = Vec::new();
            let mut backend_macs = Vec::new();
            for backend in &service.backends {
                let tested = match next_hop(&network, backend.address.ip()).await {
                    Ok(hop) => {
                        let claims = claims(&network, service, &hop, &mut claimants).await?;
                        backend_macs.push(hop.remote_mac);
                        (
                            self.ask(&network, service, backend, &hop).await?,
                            claims && hop.gateway.is_none(),
                        )
                    }
                    Err(why) => (Finding::NotTested { why: why.to_string() }, false),
                };
                report.backends.push(Row {
                    service: service.name.clone(),
                    backend: backend.name.clone(),
                    address: backend.address.ip().to_string(),
                    finding: tested.0,
                    claims_vip: tested.1,
                });
            }
            for (interface, macs) in claimants {
                let strangers = macs.into_iter().filter(|mac| !backend_macs.contains(mac));
                report.strangers.extend(strangers.map(|mac| Stranger {
                    vip: service.vip.ip(),
                    mac: mac.to_string(),
                    interface: interface.clone(),
                }));
            }
        }
        Ok(report)
    }

    async fn ask(
        &self,
        network: &KernelNetwork,
        service: &ServiceReport,
        backend: &BackendReport,
        hop: &NextHop,
    ) -> Result<Finding, ApiError> {
        let not_tested = |why: &str| Ok(Finding::NotTested { why: why.to_owned() });
        if service.protocol == Protocol::Udp {
            return not_tested("only services over TCP can be asked without sending them data");
        }
        let port = self.port.unwrap_or_else(|| service.vip.port());
        if port == 0 {
            return not_tested("the service is on all ports: name one with --port");
        }
        let Some(from) = own_address(network, service.vip.ip(), hop).await? else {
            return not_tested("this host has no address of the VIP's IP version towards the backend");
        };
        let (source, backend) = (hop.source, backend.address.ip());
        let question = |carriage| Question {
            from,
            from_port: rand::random_range(49_152..=65_535),
            vip: service.vip.ip(),
            port,
            carriage,
        };
        let carriage = match (service.tunnel_port, service.mode.tunnels(), source) {
            (_, false, _) => Carriage::Bare,
            (_, true, None) => return not_tested("this host has no address towards the backend"),
            (Some(port), true, Some(source)) => Carriage::Gue { source, backend, port },
            (None, true, Some(source)) => Carriage::Ipip { source, backend },
        };
        let answer = network
            .test_path(question(carriage), hop)
            .await
            .map_err(|e| system(&e))?;
        Ok(match answer {
            Answer::Accepted => Finding::Works,
            Answer::Refused => Finding::NothingListens,
            Answer::NotUnwrapped => Finding::NotUnwrapped,
            // On the link, its VIP can be asked past the tunnel.
            Answer::Nothing if carriage != Carriage::Bare && hop.gateway.is_none() => {
                let bare = network
                    .test_path(question(Carriage::Bare), hop)
                    .await
                    .map_err(|e| system(&e))?;
                match bare {
                    Answer::Accepted | Answer::Refused => Finding::NotUnwrapped,
                    Answer::NotUnwrapped | Answer::Nothing => Finding::VipMissing,
                }
            }
            Answer::Nothing if carriage == Carriage::Bare => Finding::VipMissing,
            Answer::Nothing => Finding::NoAnswer,
        })
    }
}

/// Whether the next hop claims the VIP; each interface's link is asked once for a service.
async fn claims(
    network: &KernelNetwork,
    service: &ServiceReport,
    hop: &NextHop,
    claimants: &mut Vec<(String, Vec<Mac>)>,
) -> Result<bool, ApiError> {
    let known = claimants.iter().find(|(interface, _)| *interface == hop.interface_name);
    if let Some((_, macs)) = known {
        return Ok(macs.contains(&hop.remote_mac));
    }
    let vip = service.vip.ip();
    let macs = network
        .claimants(vip, &hop.interface_name)
        .await
        .map_err(|e| system(&e))?;
    let claims = macs.contains(&hop.remote_mac);
    claimants.push((hop.interface_name.clone(), macs));
    Ok(claims)
}

/// An address of this host that the backend can answer: the route's own, or the interface's of the other IP version.
async fn own_address(network: &KernelNetwork, vip: IpAddr, hop: &NextHop) -> Result<Option<IpAddr>, ApiError> {
    let fits = |ip: &IpAddr| ip.is_ipv4() == vip.is_ipv4() && *ip != vip;
    if let Some(source) = hop.source.filter(fits) {
        return Ok(Some(source));
    }
    let addresses = network.addresses().await.map_err(|e| system(&e))?;
    let link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let own = addresses
        .into_iter()
        .find(|a| a.index == hop.ifindex && !a.marked && fits(&a.address) && !link_local(a.address));
    Ok(own.map(|a| a.address))
}

/// The next hop, once its neighbour has answered.
async fn next_hop(network: &KernelNetwork, to: IpAddr) -> Result<NextHop, NextHopError> {
    let mut answer = network.next_hop(to).await;
    for _ in 0..RESOLVE_WITHIN {
        if !matches!(answer, Err(NextHopError::Resolving { .. })) {
            break;
        }
        tokio::time::sleep(RESOLVE_STEP).await;
        answer = network.next_hop(to).await;
    }
    answer
}

fn words(row: &Row) -> (String, Tone) {
    let (mut words, mut tone) = match &row.finding {
        Finding::Works => ("works".to_owned(), Tone::Good),
        Finding::NothingListens => ("the VIP answers, and nothing listens on the port".to_owned(), Tone::Bad),
        Finding::VipMissing => (
            "VIP MISSING: no answer; `lb backend-setup` there shows what is not as it should be".to_owned(),
            Tone::Bad,
        ),
        Finding::NotUnwrapped => (
            "NOT UNWRAPPED: nothing takes the tunnel's packets out; `lb backend-setup` there shows what is missing"
                .to_owned(),
            Tone::Bad,
        ),
        Finding::NoAnswer => (
            "NO ANSWER: the VIP is missing, nothing unwraps, or a router drops the answer".to_owned(),
            Tone::Bad,
        ),
        Finding::NotTested { why } => (format!("not tested: {why}"), Tone::Dim),
    };
    if row.claims_vip {
        words.push_str("; ARP LEAK: it answers for the VIP on the link");
        tone = Tone::Bad;
    }
    (words, tone)
}

fn system(error: &dyn std::error::Error) -> ApiError {
    ApiError {
        kind: ErrorKind::System,
        message: error.to_string(),
    }
}
