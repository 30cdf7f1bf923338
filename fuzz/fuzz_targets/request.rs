//! A line on the control socket.
#![no_main]

use lb_userspace::api::{
    Reply, Request,
    codec::{self, MAX_REPLY, MAX_REQUEST},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    if let Ok(request) = codec::decode::<Request>(line) {
        let again = codec::encode(&request, MAX_REQUEST).expect("what fitted fits again");
        let again: Request = codec::decode(&again).expect("what was written can be read");
        assert_eq!(format!("{again:?}"), format!("{request:?}"));
    }
    if let Ok(reply) = codec::decode::<Reply>(line) {
        let again = codec::encode(&reply, MAX_REPLY).expect("what fitted fits again");
        assert!(codec::decode::<Reply>(&again).is_ok());
    }
});
