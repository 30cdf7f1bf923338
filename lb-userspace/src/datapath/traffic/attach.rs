//! Attaching to an interface for the time that this process runs.

use std::io;

use aya::{
    Ebpf,
    programs::{
        ProgramError, Xdp,
        xdp::{XdpLinkId, XdpMode as AyaMode},
    },
};

use super::{DatapathError, chain, kernel};
use crate::datapath::loader;

/// A program of the object.
pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, DatapathError> {
    ebpf.program_mut(name)
        .ok_or_else(|| kernel(format!("program {name}"), "not in the object"))?
        .try_into()
        .map_err(|e| kernel(format!("program {name}"), chain(&e)))
}

/// Has the kernel take a program in.
pub(super) fn load(ebpf: &mut Ebpf, name: &str) -> Result<(), DatapathError> {
    loader::verify(program(ebpf, name)?).map_err(|e| kernel(format!("the kernel refused {name}"), chain(&e)))
}

/// An attachment, which ends with the object.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) native: bool,
    _id: XdpLinkId,
}

/// Attaches a loaded program: in the driver, or generically if the driver has no XDP. A program that is there already
/// stays, whosever it is.
pub(super) fn attach(ebpf: &mut Ebpf, name: &str, interface: &str, ifindex: u32) -> Result<Attached, DatapathError> {
    let program = program(ebpf, name)?;
    let mut refusal = None;
    for (native, mode) in [(true, AyaMode::Driver), (false, AyaMode::Skb)] {
        match program.attach_to_if_index(ifindex, mode) {
            Ok(id) => return Ok(Attached { native, _id: id }),
            Err(error) => match errno(&error) {
                Some(libc::EBUSY | libc::EEXIST) => {
                    return Err(DatapathError::InterfaceInUse {
                        interface: interface.to_owned(),
                    });
                }
                Some(libc::ENODEV) => return Err(DatapathError::NoInterface(interface.to_owned())),
                _ => {
                    refusal.get_or_insert_with(|| chain(&error));
                }
            },
        }
    }
    Err(kernel(
        format!("cannot attach to {interface}"),
        refusal.unwrap_or_default(),
    ))
}

fn errno(error: &ProgramError) -> Option<i32> {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = source {
        if let Some(number) = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        source = cause.source();
    }
    match error {
        ProgramError::SyscallError(call) => call.io_error.raw_os_error(),
        _ => None,
    }
}
