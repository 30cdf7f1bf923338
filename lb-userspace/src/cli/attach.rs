//! `lb attach`.

use clap::Args;

use super::Session;
use crate::{
    api::{ApiError, Request},
    model::{Interface, XdpMode},
};

/// Options of `lb attach`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  lb attach eth1
  lb attach eth1 --xdp native     an error if the driver has no native XDP")]
pub struct AttachArgs {
    /// Network interface
    #[arg(value_name = "IFACE")]
    interface: String,

    /// How XDP is attached: auto, native or generic
    #[arg(
        long,
        value_name = "MODE",
        value_enum,
        default_value = "auto",
        hide_possible_values = true
    )]
    xdp: XdpMode,
}

impl AttachArgs {
    pub(super) fn run(&self, session: &Session) -> Result<String, ApiError> {
        session.change(&self.request())
    }

    pub(super) fn request(&self) -> Request {
        Request::Attach {
            interface: Interface {
                name: self.interface.clone(),
                xdp: self.xdp,
            },
        }
    }
}
