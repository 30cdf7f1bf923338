//! Walking a hash map many entries at a time (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6), which aya does not offer.
//!
//! Besides being faster than one system call a key, a batch walk goes by buckets: entries that come or go meanwhile
//! neither restart it nor show an entry twice.
#![expect(unsafe_code, reason = "a system call that no library wraps")]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::Pod;

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Gives every entry of a hash map to `visit`.
///
/// # Errors
/// What the kernel says, such as that the descriptor is not a hash map's.
pub(super) fn for_each<K: Pod + Default, V: Pod>(
    map: BorrowedFd<'_>,
    empty: V,
    mut visit: impl FnMut(&K, &V),
) -> io::Result<()> {
    // A batch ends at the end of a bucket and must hold at least one whole bucket.
    let mut capacity = 4096;
    let mut cursor: Option<u32> = None;
    loop {
        let mut keys = vec![K::default(); capacity];
        let mut values = vec![empty; capacity];
        let mut next = 0u32;
        let (count, result) = lookup(map, cursor.as_ref(), &mut next, &mut keys, &mut values);
        let done = match result {
            Ok(()) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && capacity < 1 << 20 => {
                capacity *= 2;
                continue;
            }
            Err(e) => return Err(e),
        };
        for (key, value) in keys.iter().zip(&values).take(count) {
            visit(key, value);
        }
        if done {
            return Ok(());
        }
        cursor = Some(next);
    }
}

/// One system call: how many entries it gave, and what it said.
fn lookup<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    cursor: Option<&u32>,
    next: &mut u32,
    keys: &mut [K],
    values: &mut [V],
) -> (usize, io::Result<()>) {
    let mut attr = BatchAttr {
        in_batch: cursor.map_or(0, |c| std::ptr::from_ref(c) as u64),
        out_batch: std::ptr::from_mut(next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(keys.len().min(values.len())).unwrap_or(u32::MAX),
        map_fd: map.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    // SAFETY: the buffers hold `count` keys and values of the map's sizes (the callers check them when they open the
    // map), any bytes are valid for `Pod` types, and the cursors are the four bytes that hash maps use.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
            &raw mut attr,
            size_of::<BatchAttr>(),
        )
    };
    let result = if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    };
    (attr.count as usize, result)
}
