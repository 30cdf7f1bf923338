//! TCP segments without options, as the generator and the responder send them, and the checksums of anything.

use aya_ebpf::bindings::xdp_action;
use lb_common::{
    net::{Be16, TCP},
    traffic::{MIN_FRAME, stamp::sum},
    wire::{Ports, Tcp, halves},
};

use crate::{
    family::{Family, pseudo, total},
    features, kernel,
    packet::{Frame, Window},
    word,
};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

const HEADER: usize = size_of::<Tcp>();
/// The header's length as its field has it, without options.
pub const PLAIN: u8 = 0x50;
/// Bytes behind the IP header that are summed at most.
const SUMMED: u32 = 1480;

/// The header of a TCP segment, whose options are not looked at.
#[inline(always)]
pub fn tcp<F: Family>(frame: Frame, length: u32) -> Option<Tcp> {
    if length < HEADER as u32 {
        return None;
    }
    let header: Window<HEADER> = frame.window(F::L4)?;
    let ports: Ports = header.read::<_, 0>();
    let [seq, ack] = header.words::<2, 4>();
    let [data_offset, flags] = header.read::<u16, 12>().to_ne_bytes();
    Some(Tcp {
        ports,
        seq: halves(u32::from_be(seq)),
        ack: halves(u32::from_be(ack)),
        data_offset,
        flags,
        window: header.read::<_, 14>(),
        checksum: header.read::<_, 16>(),
        urgent: Be16::new(0),
    })
}

/// Sends a frame back by the interface that it came in on.
#[inline(always)]
pub fn back(frame: Frame) -> u32 {
    if features::redirect_back() != 0 {
        kernel::redirect(frame.ifindex())
    } else {
        xdp_action::XDP_TX
    }
}

/// Turns a segment into an answer to it: back to its sender, without options and data.
#[inline(always)]
pub fn answer<F: Family>(frame: Frame, seq: u32, ack: u32, flags: u8, window: u16) -> Option<()> {
    let length = F::L4 + HEADER;
    let length = if length < MIN_FRAME { MIN_FRAME } else { length };
    if frame.length() > length {
        frame.truncate(length)?;
    }
    F::turn_round(frame)?;
    F::set_length(frame, HEADER as u16)?;
    let header: Window<HEADER> = frame.window(F::L4)?;
    let ports: Ports = header.read::<_, 0>();
    header.write::<_, 0>(Ports {
        src: ports.dst,
        dst: ports.src,
    });
    header.set_words::<2, 4>([seq.to_be(), ack.to_be()]);
    header.write::<u16, 12>(u16::from_ne_bytes([PLAIN, flags]));
    header.write::<_, 14>(Be16::new(window));
    header.set_words::<1, 16>([0]);
    let words = total(header.words::<5, 0>()) + pseudo::<F>(frame, TCP, HEADER as u32)?;
    header.write::<u16, 16>(!sum(words));
    Some(())
}

/// Whether the TCP or UDP checksum is right; `None` if there is too much to sum up.
#[inline(always)]
pub fn intact<F: Family>(frame: Frame, protocol: u8, length: u32) -> Option<bool> {
    if length > SUMMED {
        return None;
    }
    let sum_of_data = data_sum(frame, F::L4 as u32, length);
    let words = sum_of_data + pseudo::<F>(frame, protocol, length)?;
    Some(sum(words) == 0xffff)
}

/// The sum of `length` bytes from an even offset on. Not a function of its own: the compiler would hand it the frame's
/// bounds as numbers, which the verifier does not take for bounds.
#[inline(always)]
fn data_sum(frame: Frame, offset: u32, length: u32) -> u64 {
    let mut words = 0u64;
    let start = frame.context().data() + offset as usize;
    let end = frame.context().data_end();
    for i in 0..SUMMED / 4 {
        let done = 4 * i;
        if done + 4 > length {
            break;
        }
        let at = start + done as usize;
        if at + 4 > end {
            break;
        }
        words += load(at);
    }
    let rest = length & 3;
    let at = start + (length & 0x7fc) as usize;
    if rest >= 2 && at + 2 <= end {
        words += half(at);
    }
    let last = at + (rest & 2) as usize;
    if rest & 1 != 0 && last < end {
        words += byte(last);
    }
    words
}

#[inline(always)]
#[expect(
    unsafe_code,
    reason = "packet memory behind a bounds check that the verifier repeats"
)]
fn load(at: usize) -> u64 {
    // SAFETY: the caller compared with the end of the frame.
    unsafe { word::load_word::<0, 0>(at as *const u8).into() }
}

#[inline(always)]
#[expect(unsafe_code, reason = "as above")]
fn half(at: usize) -> u64 {
    // SAFETY: as above; headers and words before it have even lengths.
    unsafe { (at as *const u16).read().into() }
}

#[inline(always)]
#[expect(unsafe_code, reason = "as above")]
fn byte(at: usize) -> u64 {
    // SAFETY: as above; the first byte of a word is its low one here.
    unsafe { (at as *const u8).read().into() }
}
