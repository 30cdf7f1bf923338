//! Single values, as the configuration and the command line take them.
#![no_main]

use lb_userspace::config::value;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(duration) = value::duration(text) {
        let shown = value::format_duration(duration);
        assert_eq!(
            value::duration(&shown).ok(),
            Some(duration),
            "{text:?} is shown as {shown:?}"
        );
    }
    if let Ok(endpoint) = value::endpoint(text) {
        assert_eq!(value::endpoint(&endpoint.to_string()).ok(), Some(endpoint));
    }
    if let Ok(ports) = value::port_range(text) {
        assert!(ports.start() <= ports.end());
    }
    if let Ok(statuses) = value::status_range(text) {
        assert!(statuses.start() <= statuses.end());
    }
});
