//! TCP segments of the packet path's own, written over the frame at hand, which is made as long as they are.

use lb_common::{
    abi::Hop,
    net::{Addr4, Addr6, Address, Be16},
    reset,
    splice::{Rest, Segment},
    wire::{ETHERNET, Tcp},
};

use crate::{
    family::{Family, V4, V6},
    packet::{Frame, Window},
    parse::{HEAD_V4, HEAD_V6},
    reset::ipv6_header,
    rewrite,
};

/// A family whose IP header can be written anew.
pub trait Compose: Family {
    /// The IP header before a TCP segment of so many bytes.
    fn ip_header(frame: Frame, src: Self::Addr, dst: Self::Addr, segment: u16) -> Option<()>;
}

impl Compose for V4 {
    #[inline(always)]
    fn ip_header(frame: Frame, src: Addr4, dst: Addr4, segment: u16) -> Option<()> {
        let head: Window<HEAD_V4> = frame.window(0)?;
        head.write::<_, ETHERNET>(reset::ipv4_header(src, dst, segment));
        Some(())
    }
}

impl Compose for V6 {
    #[inline(always)]
    fn ip_header(frame: Frame, src: Addr6, dst: Addr6, segment: u16) -> Option<()> {
        let head: Window<HEAD_V6> = frame.window(0)?;
        head.write::<_, ETHERNET>(ipv6_header(src, dst, segment));
        Some(())
    }
}

/// Makes the frame a segment from `from` to `to` over a next hop; `None` where the driver has no room for it.
#[inline(always)]
pub fn segment<F: Compose>(
    frame: Frame,
    from: (F::Addr, Be16),
    to: (F::Addr, Be16),
    segment: &Segment,
    hop: Hop,
) -> Option<()>
where
    F::Addr: Address,
{
    let length = size_of::<Tcp>() + segment.rest.length();
    frame.truncate(F::HEAD + length)?;
    F::ip_header(frame, from.0, to.0, length as u16)?;
    rewrite::neighbour(frame, hop).ok()?;
    let header: Window<{ size_of::<Tcp>() }> = frame.window(F::HEAD)?;
    header.write::<_, 0>(segment.header(from, to));
    let rest = F::HEAD + size_of::<Tcp>();
    match segment.rest {
        Rest::SegmentSize(_) => {
            let option: Window<4> = frame.window(rest)?;
            option.set_words::<1, 0>([segment.rest.word()]);
        }
        Rest::Octet => {
            let octet: Window<1> = frame.window(rest)?;
            octet.write::<u8, 0>(0);
        }
    }
    Some(())
}
