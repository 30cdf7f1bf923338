//! A command line, one word a line.
#![no_main]

use lb_userspace::cli;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    let words = std::iter::once("lb").chain(line.split('\n'));
    // Refused or not; what matters is that it does not panic.
    cli::understands(words.map(Into::into));
});
