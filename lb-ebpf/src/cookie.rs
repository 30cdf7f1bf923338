//! SYN cookies (RFC 4987, section 3.6): a SYN is answered with a number that the client has to acknowledge, worked out by the
//! kernel from addresses, ports and a secret, so that nothing is stored for a client that has not proven its address.
//!
//! The client is told a window of zero, and so sends nothing before its backend has answered. Its acknowledgement becomes the
//! SYN to the backend; what comes back, [`crate::splice`] sees to.

use lb_common::{
    abi::{Flow, Hop, Service, ServiceFlags},
    flow::{TcpFlags, Tick},
    net::{Be16, TCP},
    reason::{DropReason, Note},
    splice::{self, Rest, Segment, Splice},
    wire::{ETHERNET, Ipv4, Ipv6, TCP_SEQUENCE, Tcp},
};

use crate::{
    Exit, Sent, Stage,
    compose::{self, Compose},
    family::{Family, V4, V6},
    features,
    flow_table::{self, link_of},
    half_open, kernel, log,
    maps::{self, Headers},
    packet::{Frame, Window},
    parse::{self, Packet},
    pipeline, select, service, stats, vlan,
};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);

/// What of cookies differs between IPv4 and IPv6.
pub trait Cookie: Compose {
    /// Bytes of an IP header.
    const IP_HEADER: usize;
    /// The segment sizes that a cookie tells apart.
    const SEGMENT_SIZES: [u16; 4];
    /// The cookie for the SYN whose headers these are, its TCP header of so many bytes.
    fn make(headers: &Headers, tcp: u32) -> Option<u32>;
    /// Whether these are the headers of an acknowledgement of a cookie.
    fn check(headers: &Headers) -> bool;
}

impl Cookie for V4 {
    const IP_HEADER: usize = size_of::<Ipv4>();
    const SEGMENT_SIZES: [u16; 4] = splice::SEGMENT_SIZES_V4;

    #[inline(always)]
    fn make(headers: &Headers, tcp: u32) -> Option<u32> {
        kernel::cookie_v4(headers, tcp)
    }

    #[inline(always)]
    fn check(headers: &Headers) -> bool {
        kernel::is_cookie_v4(headers)
    }
}

impl Cookie for V6 {
    const IP_HEADER: usize = size_of::<Ipv6>();
    const SEGMENT_SIZES: [u16; 4] = splice::SEGMENT_SIZES_V6;

    #[inline(always)]
    fn make(headers: &Headers, tcp: u32) -> Option<u32> {
        kernel::cookie_v6(headers, tcp)
    }

    #[inline(always)]
    fn check(headers: &Headers) -> bool {
        kernel::is_cookie_v6(headers)
    }
}

/// Sends a SYN that may open no flow at once to [`Stage::Cookie`].
#[inline(always)]
pub fn divert_syn<F: Family>(packet: &Packet<F>, service: Service, now: Tick) -> Result<(), Exit> {
    if guards(packet, service)
        && (service.flags.any(ServiceFlags::SYN_COOKIES_ALWAYS) || !maps::may_open_without_cookie(now))
    {
        return Err(Exit::Divert(Stage::Cookie));
    }
    Ok(())
}

/// What becomes of a packet beyond the limit of new flows, in modes in which flows have to be stored.
#[inline(always)]
pub fn beyond_limit<F: Family>(packet: &Packet<F>, service: Service) -> Exit {
    if guards(packet, service) {
        Exit::Divert(Stage::Cookie)
    } else {
        Exit::Drop(DropReason::NewFlowLimit)
    }
}

#[inline(always)]
fn guards<F: Family>(packet: &Packet<F>, service: Service) -> bool {
    features::syn_cookies() && packet.key.protocol() == TCP && service.flags.any(ServiceFlags::ANY_SYN_COOKIES)
}

/// Sends the acknowledgement of a cookie to [`Stage::Cookie`]. Of others, gives the reason to refuse them for if nobody knows
/// what connection they are of. While no cookie has been sent for as long as one is good, none is looked for.
#[inline(always)]
pub fn divert_ack<F: Cookie>(
    frame: Frame,
    packet: &Packet<F>,
    service: Service,
    now: Tick,
) -> Result<DropReason, Exit> {
    if !guards(packet, service) || !acknowledges(packet.flags) || !maps::cookie_sent_lately(now) {
        return Ok(DropReason::NoFlow);
    }
    if proven::<F>(frame, packet).is_some() {
        return Err(Exit::Divert(Stage::Cookie));
    }
    Ok(DropReason::BadSynCookie)
}

const fn acknowledges(flags: TcpFlags) -> bool {
    flags.0 & (TcpFlags::ACK | TcpFlags::SYN | TcpFlags::RST) == TcpFlags::ACK
}

/// What a client's acknowledgement says of its connection.
struct Proven {
    /// The sequence number of the client's SYN.
    syn: u32,
    /// The cookie.
    cookie: u32,
}

/// What the packet says, if it acknowledges a cookie. Clients that found the window closed ask for more by a segment whose
/// number is one less than that of the acknowledgement (RFC 9293, section 3.8.6.1), which may have been lost.
#[inline(always)]
fn proven<F: Cookie>(frame: Frame, packet: &Packet<F>) -> Option<Proven> {
    let headers = headers::<F>(frame, packet, size_of::<Tcp>() as u32)?;
    let seq = headers.seq();
    for step in 0..2 {
        let proven = Proven {
            syn: seq.wrapping_add(step).wrapping_sub(1),
            cookie: headers.ack().wrapping_sub(1),
        };
        headers.set_seq(splice::spread(proven.syn).wrapping_add(1));
        if F::check(headers) {
            return Some(proven);
        }
    }
    None
}

/// Copies the headers to where the kernel's helpers look at them.
#[inline(always)]
fn headers<F: Cookie>(frame: Frame, packet: &Packet<F>, tcp: u32) -> Option<&'static mut Headers> {
    let headers = maps::headers()?;
    kernel::copy(frame, ETHERNET, &mut headers.ip, F::IP_HEADER as u32)?;
    kernel::copy_tcp(frame, packet.l4, &mut headers.tcp, tcp)?;
    Some(headers)
}

/// The largest segment that the client takes, by the steps that cookies know. The kernel's helper does not tell it, but says yes
/// to the cookies of all sizes, which are consecutive numbers: how many less than this one are good is the size's index.
#[inline(always)]
fn segment_size<F: Cookie>(headers: &mut Headers, proven: &Proven) -> u16 {
    let [smallest, sizes @ ..] = F::SEGMENT_SIZES;
    headers.set_seq(splice::spread(proven.syn).wrapping_add(1));
    for (less, size) in [3, 2, 1].into_iter().zip(sizes.into_iter().rev()) {
        headers.set_ack(proven.cookie.wrapping_add(1).wrapping_sub(less));
        if F::check(headers) {
            return size;
        }
    }
    smallest
}

/// [`Stage::Cookie`]: a SYN, or a client's packet that may become one to its backend.
#[inline(always)]
pub fn receive<F: Cookie>(frame: Frame) -> Result<Sent, Exit> {
    let (packet, _) = parse::any_packet::<F>(frame)?;
    let frame = kernel::anew(frame);
    let now = kernel::now();
    if packet.flags.opens() {
        return answer::<F>(frame, &packet, now);
    }
    admit::<F>(frame, &packet, now)
}

/// Answers a SYN.
#[inline(always)]
fn answer<F: Cookie>(frame: Frame, packet: &Packet<F>, now: Tick) -> Result<Sent, Exit> {
    let start: Window<{ size_of::<Tcp>() }> = frame.window(packet.l4).ok_or(INTERNAL)?;
    let [offset, _flags] = start.read::<u16, 12>().to_ne_bytes();
    let length = u32::from(offset >> 4) * 4;
    let headers = headers::<F>(frame, packet, length).ok_or(INTERNAL)?;
    let syn = headers.seq();
    headers.set_seq(splice::spread(syn));
    let cookie = F::make(headers, length).ok_or(INTERNAL)?;
    maps::note_cookie(now);
    let segment = Segment {
        seq: cookie,
        ack: syn.wrapping_add(1),
        flags: TcpFlags::SYN | TcpFlags::ACK,
        window: Be16::new(0),
        rest: Rest::SegmentSize(splice::segment_size(features::smallest_mtu(), F::IP_HEADER as u32)),
    };
    let (client, vip) = ends(packet);
    let hop = Hop::from(&link_of(frame)?);
    compose::segment::<F>(frame, vip, client, &segment, hop).ok_or(INTERNAL)?;
    stats::count_reason(Note::SynCookieSent.counter());
    vlan::send(frame, hop)
}

type End<F> = (<F as Family>::Addr, Be16);

#[inline(always)]
fn ends<F: Family>(packet: &Packet<F>) -> (End<F>, End<F>) {
    let key = &packet.key;
    ((key.src, key.src_port), (key.dst, key.dst_port))
}

/// Opens the flow of a client that proved its address, and makes its packet the SYN to the backend; of a flow that waits for its
/// backend already, makes it the SYN once more.
#[inline(always)]
fn admit<F: Cookie>(frame: Frame, packet: &Packet<F>, now: Tick) -> Result<Sent, Exit> {
    const REFUSED: Exit = Exit::Reject(DropReason::BadSynCookie);
    if let Some(flow) = F::flows().get(&packet.key)
        && flow.splice == Splice::OPENING
        && !flow.expires.passed(now)
    {
        let proven = Proven {
            syn: flow.answer.wrapping_sub(1),
            cookie: flow.beyond,
        };
        if acknowledged(frame, packet)? != proven.cookie.wrapping_add(1) {
            // Of another connection by the same ports, which can be opened when this one is given up.
            return Err(Exit::Drop(DropReason::BadSynCookie));
        }
        return send_syn::<F>(frame, packet, &proven, flow);
    }
    let proven = proven::<F>(frame, packet).ok_or(REFUSED)?;
    let flow = open::<F>(frame, packet, &proven, now)?;
    stats::count_reason(Note::SynCookieAccepted.counter());
    send_syn::<F>(frame, packet, &proven, flow)
}

#[inline(always)]
fn acknowledged<F: Family>(frame: Frame, packet: &Packet<F>) -> Result<u32, Exit> {
    let numbers: Window<8> = frame.window(packet.l4 + TCP_SEQUENCE).ok_or(INTERNAL)?;
    let [_, ack] = numbers.words::<2, 0>();
    Ok(u32::from_be(ack))
}

/// The flow goes straight to the established ones: its client is real.
#[inline(always)]
fn open<F: Cookie>(
    frame: Frame,
    packet: &Packet<F>,
    proven: &Proven,
    now: Tick,
) -> Result<&'static Flow<F::Addr>, Exit> {
    let service = service::find::<F>(packet)?;
    let chosen = select::backend::<F>(service, packet, now)?;
    let backend = maps::backend(chosen).ok_or(INTERNAL)?;
    // The configuration sees to it.
    if backend.family != F::VERSION || !backend.mode.sees_replies() {
        return Err(INTERNAL);
    }
    pipeline::acceptable::<F>(frame, packet, chosen)?;
    let (_, backend) = flow_table::open::<F>(frame, packet, service, chosen, now)?;
    let new = F::new_flow().ok_or(INTERNAL)?;
    new.flow.splice = Splice::OPENING;
    new.flow.beyond = proven.cookie;
    new.flow.answer = proven.syn.wrapping_add(1);
    new.flow.extend(now, backend.timeouts.of(new.flow.phase));
    if !half_open::establish::<F>(&packet.key, backend, now, new)? {
        return Err(Exit::Reject(DropReason::TupleInUse));
    }
    log::opened::<F>(frame);
    Ok(&new.flow)
}

/// Makes the packet the SYN to the flow's backend, with the sequence number of the client's.
#[inline(always)]
fn send_syn<F: Cookie>(frame: Frame, packet: &Packet<F>, proven: &Proven, flow: &Flow<F::Addr>) -> Result<Sent, Exit> {
    let backend = maps::backend(flow.backend).ok_or(INTERNAL)?;
    let hop = pipeline::way::<F>(frame, packet.ttl, packet.length, flow, backend)?;
    let start: Window<{ size_of::<Tcp>() }> = frame.window(packet.l4).ok_or(INTERNAL)?;
    let window = start.read::<Be16, 14>();
    let headers = headers::<F>(frame, packet, size_of::<Tcp>() as u32).ok_or(INTERNAL)?;
    let segment = Segment {
        seq: proven.syn,
        ack: 0,
        flags: TcpFlags::SYN,
        window,
        rest: Rest::SegmentSize(segment_size::<F>(headers, proven)),
    };
    let rewrite = &flow.rewrite;
    let (from, to) = ((rewrite.src, rewrite.src_port), (rewrite.dst, rewrite.dst_port));
    compose::segment::<F>(frame, from, to, &segment, hop).ok_or(INTERNAL)?;
    pipeline::sent(frame, packet.length, flow, hop)
}
