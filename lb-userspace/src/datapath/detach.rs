//! Detaching a pinned link at once (`BPF_LINK_DETACH`, Linux 5.9), which aya does not offer.
//!
//! Removing the pin detaches as well, but some milliseconds later: whoever attaches right afterwards finds the
//! interface busy.
#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// The members of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
#[derive(Default)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The member that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkAttr {
    link_fd: u32,
}

/// Detaches the link that is pinned at a path. The pin stays.
///
/// # Errors
/// What the kernel says, such as that nothing is pinned there or that it is not a link.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let link = open(pin)?;
    let mut attr = LinkAttr {
        link_fd: link.as_raw_fd().cast_unsigned(),
    };
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr {
        pathname: path.as_ptr() as u64,
        ..ObjectAttr::default()
    };
    let fd = bpf(BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel has just handed out this descriptor, to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<A>(command: libc::c_long, attr: &mut A) -> io::Result<i32> {
    // SAFETY: the kernel reads as many bytes as it is told, and both commands write to none; a path lives until the
    // call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    i32::try_from(result)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)
}
