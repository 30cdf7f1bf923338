//! A configuration file: whatever it holds, it is accepted or explained.
#![no_main]

use lb_userspace::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match config::parse("fuzz.toml", text) {
        Ok(accepted) => {
            assert!(config::validate(&accepted).is_ok(), "accepted, but against the rules");
            let json = serde_json::to_string(&accepted).expect("a configuration is JSON for the control socket");
            assert_eq!(
                serde_json::from_str::<lb_userspace::model::Config>(&json).ok(),
                Some(accepted)
            );
        }
        Err(errors) => assert!(!errors.to_string().is_empty(), "refused without a word"),
    }
});
