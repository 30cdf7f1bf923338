//! Promises: each is printed and counted, kept or not.

use std::{fmt, time::Instant};

use anyhow::{Context as _, Result};

use crate::test::tally::Tally;

/// Those of one run.
#[derive(Debug)]
pub(super) struct Promises {
    title: String,
    begin: Instant,
    tally: Tally,
}

impl Promises {
    /// None yet.
    pub(super) fn new(title: String) -> Self {
        Self {
            title,
            begin: Instant::now(),
            tally: Tally::default(),
        }
    }

    /// Counts one.
    pub(super) fn keep(&mut self, kept: bool, text: &str) {
        if kept {
            self.tally.passed += 1;
            self.say(format_args!("ok    {text}"));
        } else {
            self.tally.fail(text);
            self.say(format_args!("FAIL  {text}"));
        }
    }

    /// Ends a part: says how long it took, and counts it as failed when it did not come to its end.
    ///
    /// # Errors
    /// As the part.
    pub(super) fn end_part<T>(&mut self, name: &str, begin: Instant, done: Result<T>) -> Result<T> {
        let done = done.with_context(|| format!("in the part `{name}`"));
        if let Err(error) = &done {
            self.keep(false, &format!("{error:#}"));
        }
        self.say(format_args!("{name} took {:.1} s", begin.elapsed().as_secs_f64()));
        done
    }

    /// Whether all were kept so far.
    pub(super) fn all_kept(&self) -> bool {
        self.tally.failed == 0
    }

    /// The result.
    pub(super) fn finish(mut self) -> (String, Tally) {
        self.tally.took = self.begin.elapsed();
        (self.title, self.tally)
    }

    fn say(&self, what: fmt::Arguments<'_>) {
        println!("{}: {what}", self.title);
    }
}
