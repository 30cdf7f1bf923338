//! What the loader decides: read-only globals, so that the verifier removes the code of what is off.
#![expect(unsafe_code, reason = "the loader finds them by their symbols")]

use aya_ebpf::Global;

macro_rules! features {
    ($($(#[doc = $doc:literal])+ $symbol:ident $name:ident: $type:ty = $default:literal;)+) => {
        $(
            #[unsafe(no_mangle)]
            static $symbol: Global<$type> = Global::new($default);

            $(#[doc = $doc])+
            #[inline(always)]
            pub fn $name() -> $type {
                $symbol.load()
            }
        )+
    };
}

features! {
    /// Whose turn it is: 0 the next flow's, 1 any flow's, 2 that of the next in the drawn order.
    ORDER_KIND order_kind: u8 = 0;
    /// Whether stamps have the time, and what comes is compared with the clock.
    LATENCY latency: u8 = 0;
    /// Whether packets wait until they are due.
    PACED paced: u8 = 0;
    /// Whether frames are of mixed sizes.
    MIXED mixed: u8 = 0;
    /// Whether the times of connection requests are kept.
    TIMED_SYNS timed_syns: u8 = 0;
    /// How many targets there are.
    TARGETS targets: u32 = 1;
    /// The number of the run; zero: that of the first packet that comes.
    RUN run: u16 = 0;
    /// The port that traffic goes to; zero: any.
    PORT port: u16 = 0;
    /// How many flows there are room for.
    FLOWS flows: u32 = 0;
    /// The last 32 bits of the first source address.
    SOURCE source: u32 = 0;
    /// Whether checksums are checked.
    CHECK check: u8 = 0;
    /// Whether datagrams are sent back.
    REFLECT reflect: u8 = 0;
    /// Whether connection requests are answered.
    RESPOND respond: u8 = 0;
    /// Whether frames go back by redirect instead of `XDP_TX`, which a veth holds if its peer has no XDP program.
    REDIRECT_BACK redirect_back: u8 = 0;
    /// Whether accepted connection requests are acknowledged.
    ACKNOWLEDGE acknowledge: u8 = 0;
}
