//! Maps by many entries at a time (`BPF_MAP_LOOKUP_BATCH` and `BPF_MAP_UPDATE_BATCH`, Linux 5.6), which aya does not offer.
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
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

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

/// Writes consecutive entries of an array map, from `first` on.
///
/// # Errors
/// What the kernel says. Entries before the one that failed are written.
pub(super) fn write<V: Pod>(map: BorrowedFd<'_>, first: u32, values: &[V]) -> io::Result<()> {
    let count = u32::try_from(values.len()).map_err(io::Error::other)?;
    let keys: Vec<u32> = (first..).take(values.len()).collect();
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map_fd: map.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    // SAFETY: the buffers hold `count` keys of an array map and values of its size (the callers check it when they open
    // the map), and the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_UPDATE_BATCH,
            &raw mut attr,
            size_of::<BatchAttr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Entries of a batch. It ends at the end of a bucket and must hold at least one whole bucket.
const BATCH: usize = 4096;

/// Gives the entries of a hash map to `visit`, from a place on, as long as `go_on` says so after each batch. Gives the place to
/// go on from; `None` at the end.
///
/// # Errors
/// What the kernel says, such as that the descriptor is not a hash map's.
pub(super) fn walk<K: Pod + Default, V: Pod>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    empty: V,
    mut visit: impl FnMut(&K, &V),
    mut go_on: impl FnMut() -> bool,
) -> io::Result<Option<u32>> {
    let (mut keys, mut values) = (vec![K::default(); BATCH], vec![empty; BATCH]);
    let mut cursor = from;
    loop {
        let mut next = 0u32;
        let (count, result) = lookup(map, cursor.as_ref(), &mut next, &mut keys, &mut values);
        let done = match result {
            Ok(()) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && keys.len() < 1 << 20 => {
                let larger = keys.len() * 2;
                keys.resize(larger, K::default());
                values.resize(larger, empty);
                continue;
            }
            Err(e) => return Err(e),
        };
        for (key, value) in keys.iter().zip(&values).take(count) {
            visit(key, value);
        }
        if done {
            return Ok(None);
        }
        cursor = Some(next);
        if !go_on() {
            return Ok(cursor);
        }
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
