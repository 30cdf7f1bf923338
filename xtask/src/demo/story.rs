//! The five things that the demo shows, in order.

use std::{mem, time::Duration};

use anyhow::Result;
use serde_json::Value;

use super::{
    balancer::{Balancer, HEALTH_FALL, HEALTH_INTERVAL},
    lab::{Lab, SERVERS},
    sample::{self, Sample},
    screen::{Screen, thousands},
    servers::Servers,
    traffic::{Counts, Traffic, median},
};
use crate::interrupt;

/// The service with all servers at once.
const ACTIVE_ACTIVE: &str = "10.80.1.100:80";
/// The service with s1 active and s2 passive.
const ACTIVE_PASSIVE: &str = "10.80.1.100:81";
const PAIR: [&str; 2] = ["s1", "s2"];

/// Connections of the first phase.
const CONNECTIONS: u64 = 4_000;
/// Connections per second.
const RATE: u32 = 1_000;
/// Time between two drawings of the live table.
const FRAME: Duration = Duration::from_millis(100);
/// From a server's death to the first answer of the passive one: the checks that it takes, and one tenth of a second.
const FAIL_OVER_TARGET: Duration = HEALTH_INTERVAL
    .saturating_mul(HEALTH_FALL)
    .saturating_add(Duration::from_millis(100));

/// One phase, as the plot wants it. Times are those of [`sample::now`].
#[derive(Debug)]
pub(super) struct Phase {
    /// A few words.
    pub(super) title: &'static str,
    /// Every request.
    pub(super) samples: Vec<Sample>,
    /// What was done meanwhile.
    pub(super) marks: Vec<Mark>,
}

/// A moment worth a line in the plot.
#[derive(Debug)]
pub(super) struct Mark {
    /// When.
    pub(super) at: Duration,
    /// What.
    pub(super) label: &'static str,
}

/// The demo as it goes along.
#[derive(Debug)]
pub(super) struct Story<'a> {
    lab: &'a Lab,
    servers: Servers<'a>,
    balancer: Balancer<'a>,
    screen: Screen,
    phases: Vec<Phase>,
    marks: Vec<Mark>,
    broken: Vec<String>,
}

impl<'a> Story<'a> {
    /// Begins with everything running.
    pub(super) fn new(lab: &'a Lab, servers: Servers<'a>, balancer: Balancer<'a>) -> Self {
        let (phases, marks, broken) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            lab,
            servers,
            balancer,
            screen: Screen::new(),
            phases,
            marks,
            broken,
        }
    }

    /// All five phases.
    ///
    /// # Errors
    /// When something does not run at all, or at Ctrl-C. What runs otherwise than promised is collected.
    pub(super) fn tell(&mut self) -> Result<()> {
        self.even()?;
        self.weight()?;
        self.fail_over()?;
        self.fail_back()?;
        self.daemon_killed()
    }

    /// What has been seen.
    pub(super) fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// `lb`.
    pub(super) fn balancer(&self) -> &Balancer<'a> {
        &self.balancer
    }

    /// The servers.
    pub(super) fn servers(&self) -> &Servers<'a> {
        &self.servers
    }

    /// Promises that were not kept, in words.
    pub(super) fn into_broken_promises(self) -> Vec<String> {
        self.broken
    }

    /// `lb detach`, which leaves nothing behind.
    ///
    /// # Errors
    /// When the command fails.
    pub(super) fn detach(&mut self) -> Result<()> {
        self.screen.heading("lb detach");
        let pins = self.balancer.detach()?;
        self.promise(pins.is_empty(), format!("{} pins left behind", pins.len()));
        Ok(())
    }

    fn even(&mut self) -> Result<()> {
        self.screen.heading(&format!(
            "1  {} connections over four equal servers",
            thousands(CONNECTIONS)
        ));
        let mut traffic = Traffic::start(self.lab, ACTIVE_ACTIVE, RATE, Some(CONNECTIONS))?;
        while !traffic.has_ended()? {
            self.watch(&traffic, FRAME, Duration::ZERO, &SERVERS)?;
        }
        let samples = traffic.finish()?;
        let counts = Counts::of(&samples);
        self.screen.settle(&counts, &SERVERS);
        let complete = counts.failed == 0 && counts.total_served() == CONNECTIONS;
        let spread = counts.spread(&SERVERS);
        self.promise(
            complete,
            format!(
                "{} requests failed; half of the others took less than {}",
                counts.failed,
                milliseconds(median(&samples))
            ),
        );
        self.promise(
            spread <= 1,
            format!(
                "most and least busy server differ by {spread} {}",
                plural(spread, "connection")
            ),
        );
        self.end("Even shares", samples);
        Ok(())
    }

    fn weight(&mut self) -> Result<()> {
        self.screen
            .heading("2  Under load: s1 gets weight 3, the others keep 1");
        let traffic = Traffic::start(self.lab, ACTIVE_ACTIVE, RATE, None)?;
        self.watch(&traffic, Duration::from_millis(1500), Duration::ZERO, &SERVERS)?;
        let before = sample::now()?;
        self.balancer
            .command(&["backend", "set", "web", "s1", "--weight", "3"])?;
        let after = self.mark("weight of s1\nset to 3")?;
        self.screen.say(&format!(
            "lb backend set web s1 --weight 3   ({})",
            milliseconds(after - before)
        ));
        self.watch(&traffic, Duration::from_secs(3), after, &SERVERS)?;
        let samples = traffic.finish()?;
        let (old, new) = (
            Counts::of(samples.iter().filter(|s| s.at < before)),
            Counts::of(samples.iter().filter(|s| s.at >= after)),
        );
        self.screen.settle(&new, &SERVERS);
        self.promise(
            old.spread(&SERVERS) <= 1,
            format!("before: equal shares of {} connections", thousands(old.total_served())),
        );
        self.promise(
            is_share(&new, "s1", 3, 6) && is_share(&new, "s2", 1, 6),
            "after: s1 has 3 of 6 parts, from the next connection on".to_owned(),
        );
        let failed = Counts::of(&samples).failed;
        self.promise(failed == 0, format!("{failed} requests failed"));
        self.end("Weight changed", samples);
        self.balancer
            .command(&["backend", "set", "web", "s1", "--weight", "1"])?;
        Ok(())
    }

    fn fail_over(&mut self) -> Result<()> {
        self.screen
            .heading("3  Active-passive, under load: the active server s1 is killed");
        let traffic = Traffic::start(self.lab, ACTIVE_PASSIVE, RATE, None)?;
        self.watch(&traffic, Duration::from_millis(1500), Duration::ZERO, &PAIR)?;
        let death = self.mark("s1 killed")?;
        self.servers.kill("s1")?;
        self.screen.say("kill -9 (nginx of s1)");
        self.watch(&traffic, Duration::from_millis(2500), death, &PAIR)?;
        let samples = traffic.finish()?;
        let counts = Counts::of(samples.iter().filter(|s| s.end() >= death));
        self.screen.settle(&counts, &PAIR);
        let replaced = first_answer(&samples, "s2", death);
        match replaced {
            Some(at) => {
                let gap = at - death;
                self.note_at(at, "s2 serves");
                self.promise(
                    gap <= FAIL_OVER_TARGET,
                    format!(
                        "s2 served {} after the death of s1 (target: {} at most)",
                        milliseconds(gap),
                        milliseconds(FAIL_OVER_TARGET)
                    ),
                );
                let late = Counts::of(samples.iter().filter(|s| s.at > at)).failed;
                self.promise(late == 0, format!("{late} requests failed after that"));
            }
            None => self.promise(false, "s2 never served".to_owned()),
        }
        self.screen.say(&format!(
            "{} requests failed in between; {} of them were served when tried once more at once",
            thousands(counts.failed),
            thousands(counts.saved)
        ));
        self.end("Active server killed", samples);
        Ok(())
    }

    fn fail_back(&mut self) -> Result<()> {
        self.screen.heading("4  Under load: s1 comes back");
        let traffic = Traffic::start(self.lab, ACTIVE_PASSIVE, RATE, None)?;
        self.watch(&traffic, Duration::from_secs(1), Duration::ZERO, &PAIR)?;
        let start = self.mark("s1 started")?;
        self.servers.start("s1")?;
        self.screen.say("nginx of s1 started");
        for _ in 0..50 {
            self.watch(&traffic, FRAME, start, &PAIR)?;
            if traffic.with(|samples| first_answer(samples, "s1", start)).is_some() {
                break;
            }
        }
        self.watch(&traffic, Duration::from_millis(1500), start, &PAIR)?;
        let samples = traffic.finish()?;
        let counts = Counts::of(samples.iter().filter(|s| s.at >= start));
        self.screen.settle(&counts, &PAIR);
        let back = first_answer(&samples, "s1", start);
        let text = back.map_or("s1 never served again".to_owned(), |at| {
            format!("s1 served again after {}", milliseconds(at - start))
        });
        self.promise(back.is_some(), text);
        let failed = Counts::of(&samples).failed;
        self.promise(failed == 0, format!("{failed} requests failed"));
        self.end("It comes back", samples);
        Ok(())
    }

    fn daemon_killed(&mut self) -> Result<()> {
        self.screen
            .heading("5  Under load: the lb daemon is killed and started again");
        let traffic = Traffic::start(self.lab, ACTIVE_ACTIVE, RATE, None)?;
        self.watch(&traffic, Duration::from_secs(1), Duration::ZERO, &SERVERS)?;
        let death = self.mark("daemon\nkill -9")?;
        self.balancer.kill()?;
        self.screen.say("kill -9 (lb run)");
        self.watch(&traffic, Duration::from_secs(2), death, &SERVERS)?;
        let restart = self.mark("daemon\nstarted")?;
        let status = self.balancer.start()?;
        self.watch(&traffic, Duration::from_secs(1), death, &SERVERS)?;
        let samples = traffic.finish()?;
        self.screen
            .settle(&Counts::of(samples.iter().filter(|s| s.at >= death)), &SERVERS);
        let without = Counts::of(samples.iter().filter(|s| s.at >= death && s.at < restart)).total_served();
        self.promise(
            without > 0,
            format!("{} requests served while no daemon ran", thousands(without)),
        );
        let adopted = status.get("adopted").and_then(Value::as_bool) == Some(true);
        self.promise(adopted, "the new daemon adopted the running packet path".to_owned());
        let failed = Counts::of(&samples).failed;
        self.promise(
            failed == 0,
            format!("{failed} of {} requests failed", thousands(samples.len().try_into()?)),
        );
        self.end("Daemon killed", samples);
        Ok(())
    }

    /// Shows the requests since `from` for a while.
    fn watch(&mut self, traffic: &Traffic, time: Duration, from: Duration, servers: &[&str]) -> Result<()> {
        let end = sample::now()? + time;
        while sample::now()? < end {
            interrupt::pause(FRAME.min(end.saturating_sub(sample::now()?)))?;
            let counts = traffic.with(|samples| Counts::of(samples.iter().filter(|sample| sample.at >= from)));
            self.screen.draw(&counts, servers);
        }
        Ok(())
    }

    /// Marks this moment.
    fn mark(&mut self, label: &'static str) -> Result<Duration> {
        let at = sample::now()?;
        self.note_at(at, label);
        Ok(at)
    }

    fn note_at(&mut self, at: Duration, label: &'static str) {
        self.marks.push(Mark { at, label });
    }

    fn promise(&mut self, kept: bool, text: String) {
        self.screen.verdict(kept, &text);
        if !kept {
            self.broken.push(text);
        }
    }

    fn end(&mut self, title: &'static str, samples: Vec<Sample>) {
        let marks = mem::take(&mut self.marks);
        self.phases.push(Phase { title, samples, marks });
    }
}

/// When this server answered first, of the requests that ended after `from`.
fn first_answer(samples: &[Sample], server: &str, from: Duration) -> Option<Duration> {
    let answers = samples.iter().filter(|sample| sample.server() == Some(server));
    answers.map(Sample::end).filter(|&end| end >= from).min()
}

/// Whether a server has `part` of `whole` parts of what was served, within one round of the schedule.
fn is_share(counts: &Counts, server: &str, part: u64, whole: u64) -> bool {
    let expected = counts.total_served() * part / whole;
    counts.by(server).abs_diff(expected) <= whole
}

fn milliseconds(time: Duration) -> String {
    if time < Duration::from_millis(10) {
        return format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    }
    format!("{} ms", thousands(time.as_millis().try_into().unwrap_or(u64::MAX)))
}

fn plural(number: u64, word: &str) -> String {
    if number == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::Outcome, *};

    fn served(server: &str, at: u64) -> Sample {
        let outcome = Outcome::Served(server.to_owned());
        Sample {
            at: Duration::from_millis(at),
            took: Duration::from_millis(5),
            outcome,
            retry: None,
        }
    }

    #[test]
    fn the_first_answer_is_the_one_that_ended_first() {
        let samples = [served("s1", 0), served("s2", 30), served("s2", 20), served("s1", 40)];
        let first = |server, from| first_answer(&samples, server, Duration::from_millis(from));
        assert_eq!(first("s2", 0), Some(Duration::from_millis(25)));
        assert_eq!(first("s1", 10), Some(Duration::from_millis(45)));
        assert_eq!(first("s3", 0), None);
    }

    #[test]
    fn a_share_may_be_off_by_one_round() {
        let mut counts = Counts::default();
        counts.served.insert("s1".into(), 1503);
        counts.served.insert("s2".into(), 1500);
        assert!(is_share(&counts, "s1", 1, 2));
        assert!(!is_share(&counts, "s1", 3, 6 + 1));
    }

    #[test]
    fn times_are_short() {
        assert_eq!(milliseconds(Duration::from_micros(340)), "0.3 ms");
        assert_eq!(milliseconds(Duration::from_millis(1100)), "1,100 ms");
    }
}
