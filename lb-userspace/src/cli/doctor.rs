//! `lb doctor`: what the host could do better for the packet path.

use clap::Args;

use super::{
    QUICK, Session, human,
    view::{Tone, View},
};
use crate::{
    api::{ApiError, ErrorKind, Reply, Request},
    doctor::{Facts, Finding, Weight, examine, gather::Roots},
};

/// Options of `lb doctor`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
It looks at the interfaces of the daemon, if one runs, and at those named:
queues, interrupts, rings, offloads, MTU and driver; and at the host: BPF JIT,
connection tracking, room for neighbours, open files, memory. It changes
nothing; each finding says what to do.

Examples:
  lb doctor
  lb doctor eth0 eth1             before a daemon runs
  lb doctor --json | jq '.[] | select(.weight == \"problem\")'")]
pub struct DoctorArgs {
    /// Further interfaces
    #[arg(value_name = "IFACE")]
    interfaces: Vec<String>,
}

impl DoctorArgs {
    pub(super) fn run(&self, session: &Session) -> Result<String, ApiError> {
        let status = match session.client.call(&Request::Status, QUICK) {
            Ok(Reply::Status { status }) => Some(status),
            Ok(_) => None,
            Err(error) if error.kind == ErrorKind::Unreachable => None,
            Err(error) => return Err(error),
        };
        let facts = Roots::default().facts(status.as_deref(), &self.interfaces);
        if let Some(absent) = self
            .interfaces
            .iter()
            .find(|name| facts.devices.iter().all(|d| d.name != **name))
        {
            return Err(ApiError {
                kind: ErrorKind::NotFound,
                message: format!("there is no interface {absent}: see ip link"),
            });
        }
        let findings = examine(&facts);
        session.view.show(&findings, |view| text(&facts, &findings, view))
    }
}

/// The page: the problems first.
pub(super) fn text(facts: &Facts, findings: &[Finding], view: &View) -> String {
    let mut shown = String::new();
    for finding in findings {
        let tone = match finding.weight {
            Weight::Problem => Tone::Bad,
            Weight::Hint => Tone::Warn,
        };
        shown.push_str(&view.paragraph(tone, 0, &format!("{}: {}", finding.about, finding.what)));
        for remedy in &finding.remedy {
            shown.push_str(&view.paragraph(Tone::Plain, 2, remedy));
        }
    }
    let looked = format!(
        "looked at the host and {}",
        human::plural(facts.devices.len(), "interface")
    );
    let daemon = if facts.daemon.is_some() { "" } else { "; no daemon runs" };
    let sum = match findings.iter().filter(|f| f.weight == Weight::Problem).count() {
        _ if findings.is_empty() => "nothing to mend".to_owned(),
        0 => human::plural(findings.len(), "hint"),
        problems => format!(
            "{} and {}",
            human::plural(problems, "problem"),
            human::plural(findings.len() - problems, "hint")
        ),
    };
    shown.push_str(&view.paragraph(Tone::Dim, 0, &format!("{sum}: {looked}{daemon}")));
    shown
}
