//! What every refusal has in common.

use lb_tests::{Lab, Outcome};

/// What a run of the daemon could change on its host.
pub(crate) fn traces(lab: &Lab) -> String {
    let pins = lab.pins();
    let pins = std::fs::read_dir(&pins).map(|entries| entries.flatten().map(|e| e.path()).collect::<Vec<_>>());
    lab.lb
        .ns
        .sh("ip -oneline address show scope global | awk '{print $2, $4}'
         ip -details link show | grep -o 'prog/xdp.*' || true
         ip neighbour show | grep -i permanent || true")
        + &format!("pins: {:?}\n", pins.unwrap_or_default())
}

/// Runs `lb run` with this configuration and asserts that it fails with this exit code, that its message holds all of
/// these words, and that the host is as it was.
#[track_caller]
pub(crate) fn refused(lab: &Lab, toml: &str, code: i32, words: &[&str]) -> Outcome {
    let before = traces(lab);
    let outcome = lab.run_refused(toml);
    assert_refusal(&outcome, code, words);
    assert_eq!(traces(lab), before, "something was touched");
    outcome
}

/// Asserts exit code and message.
#[track_caller]
pub(crate) fn assert_refusal(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.code, code, "{outcome:?}");
    for word in words {
        assert!(
            outcome.stderr.contains(word),
            "the message lacks {word:?}:\n{}",
            outcome.stderr
        );
    }
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}
