//! `lb backend-setup`: runs on a backend, without a daemon.

use std::{net::IpAddr, path::Path};

use clap::Args;
use serde::Serialize;

use super::{RUN_DIR, Session, human, view::Tone};
use crate::{
    api::{ApiError, ErrorKind},
    backend_setup::{self, Host, Outcome, SetupError, Site, Standing, Verb, Wish, carry_out},
    datapath::decap::Unwrapping,
    model::{ForwardingMode, Tunnel},
};

/// Options of `lb backend-setup`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Run it on each backend, once for each VIP. Without --apply and --remove it only
shows what is needed and what is missing. docs/modes.md explains the modes.

Examples:
  lb backend-setup --mode l2-dsr --vip 192.0.2.10
  lb backend-setup --mode ipip --vip 192.0.2.10 --interface eth0 --apply
  lb backend-setup --mode ipip --vip 192.0.2.10 --interface eth0 --remove")]
pub struct BackendSetupArgs {
    /// Mode of the service: full-nat, nat, l2-dsr, ipip or gue
    #[arg(long, value_enum, hide_possible_values = true)]
    mode: ForwardingMode,

    /// Virtual address
    #[arg(long, value_name = "ADDRESS")]
    vip: IpAddr,

    /// Interface of incoming packets [default: the default route's]
    #[arg(long, value_name = "IFACE")]
    interface: Option<String>,

    /// Do it; what is there already stays
    #[arg(long, conflicts_with = "remove")]
    apply: bool,

    /// Take it back
    #[arg(long)]
    remove: bool,

    /// Own address that tunnels end at [default: all of them]
    #[arg(long = "tunnel-address", value_name = "ADDRESS")]
    tunnel_addresses: Vec<IpAddr>,

    /// UDP port of mode gue
    #[arg(long, value_name = "PORT", default_value_t = Tunnel::PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// Largest packet from lb to here [default: the interface's MTU]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1280..=65535))]
    path_mtu: Option<u32>,

    /// lb's address, in mode nat
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<IpAddr>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    mode: ForwardingMode,
    vip: IpAddr,
    interface: String,
    /// Whether nothing is missing.
    ready: bool,
    steps: Vec<Outcome>,
    notes: Vec<String>,
    /// What the program that unwraps does.
    unwrapping: Option<Unwrapping>,
}

impl BackendSetupArgs {
    pub(super) fn run(&self, session: &Session) -> Result<String, ApiError> {
        let report = self.carry_out(session).map_err(|error| refusal(&error))?;
        session.view.show(&report, |view| {
            let title = format!(
                "Backend of mode {} for {} on {}",
                report.mode, report.vip, report.interface
            );
            let mut text = view.paragraph(Tone::Title, 0, &title);
            for step in &report.steps {
                let (word, tone) = word(step.standing);
                text.push_str(&view.paragraph(tone, 0, &format!("{word}: {}", step.title)));
                text.push_str(&view.paragraph(Tone::Dim, 2, &step.why));
                for command in &step.commands {
                    text.push_str(&view.paragraph(Tone::Plain, 4, command));
                }
            }
            if let Some(unwrapping) = &report.unwrapping {
                let mut words = format!(
                    "Unwrapped {} so far; {} were for no VIP of this host.",
                    human::plural(usize::try_from(unwrapping.unwrapped).unwrap_or(usize::MAX), "packet"),
                    human::count(unwrapping.not_for_vip)
                );
                if unwrapping.congested > 0 {
                    let dropped = human::count(unwrapping.congested);
                    words.push_str(&format!(
                        " Dropped {dropped} with marks of congestion that their senders do not know."
                    ));
                }
                text.push_str(&view.paragraph(Tone::Plain, 0, &words));
            }
            for note in &report.notes {
                text.push_str(&view.paragraph(Tone::Dim, 0, note));
            }
            if report.steps.iter().any(|step| step.standing == Standing::Missing) {
                text.push_str(&view.paragraph(Tone::Warn, 0, "Nothing was changed: --apply does what is missing."));
            }
            text
        })
    }

    fn carry_out(&self, session: &Session) -> Result<Report, SetupError> {
        let host = Host::look(self.interface.as_deref())?;
        let wish = Wish {
            mode: self.mode,
            vip: self.vip,
            tunnel_addresses: self.tunnel_addresses.clone(),
            port: self.port,
            path_mtu: self.path_mtu,
            gateway: self.gateway,
        };
        let plan = backend_setup::plan(&wish, &host)?;
        let site = Site {
            bpffs: &session.client.bpffs,
            state_dir: Path::new(RUN_DIR),
            instance: &session.client.instance,
        };
        let verb = match (self.apply, self.remove) {
            (true, _) => Verb::Apply,
            (_, true) => Verb::Remove,
            _ => Verb::Show,
        };
        let steps = carry_out(&plan, verb, &site)?;
        Ok(Report {
            mode: self.mode,
            vip: self.vip,
            ready: !steps
                .iter()
                .any(|s| matches!(s.standing, Standing::Missing | Standing::Removed)),
            unwrapping: backend_setup::unwrapping(&plan, &site)?,
            interface: plan.interface,
            steps,
            notes: if self.remove { Vec::new() } else { plan.notes },
        })
    }
}

const fn word(standing: Standing) -> (&'static str, Tone) {
    match standing {
        Standing::Done => ("done", Tone::Good),
        Standing::Missing => ("MISSING", Tone::Warn),
        Standing::Applied => ("applied", Tone::Good),
        Standing::Removed => ("removed", Tone::Good),
    }
}

fn refusal(error: &SetupError) -> ApiError {
    let kind = match error {
        SetupError::NoInterface(_) => ErrorKind::NotFound,
        SetupError::NoTunnelAddress(_) => ErrorKind::Invalid,
        SetupError::Decap(error) => error.kind(),
        SetupError::Command { .. } | SetupError::Setting { .. } | SetupError::Memory { .. } => ErrorKind::System,
    };
    ApiError {
        kind,
        message: error.to_string(),
    }
}
