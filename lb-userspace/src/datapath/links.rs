//! Attaching the packet path to interfaces, and adopting links that an earlier daemon pinned.

use std::{fs, io, path::Path};

use aya::{
    Ebpf,
    programs::{
        ProgramError,
        links::{FdLink, PinnedLink},
        xdp::{XdpLink, XdpMode as AyaMode},
    },
};
use nix::net::if_::if_nametoindex;

use super::{
    Attachment, DatapathError, advice, detach,
    loader::{ENTRY, chain, program},
    pins::{Pins, kernel},
};
use crate::model::XdpMode;

/// Attaches to an interface in the wanted mode, or puts the program into the link that is pinned for it.
pub(super) fn attach(ebpf: &mut Ebpf, pins: &Pins, name: &str, mode: XdpMode) -> Result<Attachment, DatapathError> {
    let ifindex = if_nametoindex(name).map_err(|_| DatapathError::NoInterface(name.to_owned()))?;
    let attachment = |native, note| Attachment {
        interface: name.to_owned(),
        ifindex,
        native,
        note,
    };
    for native in [true, false] {
        let wanted = match mode {
            XdpMode::Auto => true,
            XdpMode::Native => native,
            XdpMode::Generic => !native,
        };
        if adopt(ebpf, &pins.link(ifindex, native), wanted)? {
            let note = (!native && mode == XdpMode::Auto).then(|| "adopted in the generic path".to_owned());
            return Ok(attachment(native, note));
        }
    }
    if mode == XdpMode::Generic {
        attach_new(ebpf, pins, ifindex, false).map_err(|e| refusal(name, e))?;
        return Ok(attachment(false, None));
    }
    match attach_new(ebpf, pins, ifindex, true) {
        Ok(()) => Ok(attachment(true, None)),
        Err(error) if mode == XdpMode::Auto && error.no_native() => {
            attach_new(ebpf, pins, ifindex, false).map_err(|e| refusal(name, e))?;
            let reason = with_advice(name, ifindex, error);
            Ok(attachment(
                false,
                Some(format!("the driver refused native XDP: {reason}")),
            ))
        }
        Err(error) if error.no_native() => Err(DatapathError::NoNativeXdp {
            interface: name.to_owned(),
            reason: with_advice(name, ifindex, error),
        }),
        Err(error) => Err(refusal(name, error)),
    }
}

/// Detaches an interface's links, and removes their pins.
pub(super) fn detach(pins: &Pins, ifindex: u32) -> Result<(), DatapathError> {
    for native in [true, false] {
        remove(&pins.link(ifindex, native))?;
    }
    Ok(())
}

/// Puts the program into a pinned link, atomically; false when there is none, or it is dead or not wanted any more.
fn adopt(ebpf: &mut Ebpf, path: &Path, wanted: bool) -> Result<bool, DatapathError> {
    if !path.exists() {
        return Ok(false);
    }
    if wanted {
        let pinned =
            PinnedLink::from_pin(path).map_err(|e| kernel(format!("cannot open {}", path.display()), chain(&e)))?;
        let link = XdpLink::try_from(FdLink::from(pinned))
            .map_err(|e| kernel(format!("{} is not an XDP link", path.display()), chain(&e)))?;
        // The link of an interface that is gone refuses; the interface may be back under the same index.
        if program(ebpf, ENTRY)?.attach_to_link(link).is_ok() {
            return Ok(true);
        }
    }
    remove(path)?;
    Ok(false)
}

fn attach_new(ebpf: &mut Ebpf, pins: &Pins, ifindex: u32, native: bool) -> Result<(), AttachError> {
    let mode = if native { AyaMode::Driver } else { AyaMode::Skb };
    let program = program(ebpf, ENTRY).map_err(AttachError::other)?;
    let id = program
        .attach_to_if_index(ifindex, mode)
        .map_err(|e| AttachError::new(&e))?;
    let link = program.take_link(id).map_err(|e| AttachError::new(&e))?;
    // aya falls back to netlink where bpf_link_create says EINVAL; such an attachment ends with the process.
    let link = FdLink::try_from(link).map_err(AttachError::other)?;
    link.pin(pins.link(ifindex, native)).map_err(AttachError::other)?;
    Ok(())
}

/// Detaches all links of an instance. Their pins stay.
pub(super) fn detach_all(pins: &Pins) {
    for pin in fs::read_dir(pins.links()).into_iter().flatten().flatten() {
        // A link that refuses goes with its pin.
        let _ = detach::detach(&pin.path());
    }
}

fn remove(path: &Path) -> Result<(), DatapathError> {
    // Whether it was there, and a link, the removal says.
    let _ = detach::detach(path);
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(kernel(format!("cannot remove {}", path.display()), e)),
        _ => Ok(()),
    }
}

struct AttachError {
    text: String,
    errno: Option<i32>,
}

impl AttachError {
    fn new(error: &ProgramError) -> Self {
        let mut errno = None;
        let mut source: Option<&dyn std::error::Error> = Some(error);
        while let Some(cause) = source {
            errno = errno.or_else(|| cause.downcast_ref::<io::Error>()?.raw_os_error());
            source = cause.source();
        }
        if let ProgramError::SyscallError(call) = error {
            errno = errno.or_else(|| call.io_error.raw_os_error());
        }
        Self {
            text: chain(error),
            errno,
        }
    }

    fn other(error: impl std::fmt::Display) -> Self {
        Self {
            text: error.to_string(),
            errno: None,
        }
    }

    /// Whether another mode may help.
    fn no_native(&self) -> bool {
        !matches!(
            self.errno,
            Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::ENODEV)
        )
    }
}

/// The kernel's word, and what helps against it where that is known.
fn with_advice(name: &str, ifindex: u32, error: AttachError) -> String {
    match advice::advice(name, ifindex) {
        Some(advice) => format!("{}: {advice}", error.text),
        None => error.text,
    }
}

fn refusal(name: &str, error: AttachError) -> DatapathError {
    match error.errno {
        Some(libc::EBUSY | libc::EEXIST) => DatapathError::InterfaceBusy {
            interface: name.to_owned(),
        },
        Some(libc::ENODEV) => DatapathError::NoInterface(name.to_owned()),
        _ => kernel(format!("cannot attach to {name}"), error.text),
    }
}
