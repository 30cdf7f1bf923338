//! `demo-load`: the demo's client. It runs inside the client's network namespace, makes one HTTP request per connection
//! at a bounded rate, and writes a line for each. It ends when it has made them all, or when its input is closed.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::sample::{self, Outcome, Sample};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(3);
/// Connections at a time, at most.
const CONCURRENCY: usize = 24;
/// A client that fell behind does not make up for more than this.
const CATCH_UP: Duration = Duration::from_millis(50);
/// An answer that is longer than this is not one of our servers'.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// Arguments of `demo-load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address and port to ask.
    target: SocketAddr,
    /// Requests per second.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Requests in all; without it, until the input is closed.
    #[arg(long)]
    count: Option<u64>,
}

/// Runs the client.
///
/// # Errors
/// When its output is closed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let pace = Pace::new(args.rate, args.count);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CONCURRENCY)
            .map(|_| scope.spawn(|| client(args.target, &pace, &stop)))
            .collect();
        if args.count.is_none() {
            // The end of the input, or an error on it, both mean that the demo has gone on or is gone.
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            stop.store(true, Ordering::Relaxed);
        }
        clients
            .into_iter()
            .try_for_each(|client| client.join().unwrap_or(Ok(())))
    })
}

/// One client: a request whenever it is due.
fn client(target: SocketAddr, pace: &Pace, stop: &AtomicBool) -> Result<()> {
    while let Some(due) = pace.next(Instant::now()) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let sample = request(target)?;
        // One write per line, so that lines of several threads do not mix.
        io::stdout().lock().write_all(format!("{sample}\n").as_bytes())?;
    }
    Ok(())
}

fn request(target: SocketAddr) -> Result<Sample> {
    let at = sample::now()?;
    let outcome = fetch(target, PATIENCE);
    let took = sample::now()?.saturating_sub(at);
    let retry = matches!(outcome, Outcome::Refused | Outcome::Reset).then(|| fetch(target, PATIENCE));
    Ok(Sample {
        at,
        took,
        outcome,
        retry,
    })
}

/// One connection, one request, and the verdict. What takes longer than `patience` has failed.
pub(crate) fn fetch(target: SocketAddr, patience: Duration) -> Outcome {
    match exchange(target, patience) {
        Ok(answer) => judge(&answer),
        Err(error) => Outcome::of(&error),
    }
}

fn exchange(target: SocketAddr, patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: demo\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Only a whole answer with status 200 counts; its body is the server's name.
fn judge(answer: &[u8]) -> Outcome {
    served_by(answer).map_or(Outcome::Broken, Outcome::Served)
}

fn served_by(answer: &[u8]) -> Option<String> {
    let (head, body) = std::str::from_utf8(answer).ok()?.split_once("\r\n\r\n")?;
    let status = head.lines().next()?.split(' ').nth(1)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = status == "200" && length == Some(body.len());
    let name = body.trim();
    let named = !name.is_empty() && name.chars().all(char::is_alphanumeric);
    (whole && named).then(|| name.to_owned())
}

/// Gives out the times at which requests are due.
#[derive(Debug)]
struct Pace {
    interval: Duration,
    state: Mutex<(Instant, Option<u64>)>,
}

impl Pace {
    fn new(rate: u32, count: Option<u64>) -> Self {
        Self {
            interval: Duration::from_secs(1) / rate.max(1),
            state: Mutex::new((Instant::now(), count)),
        }
    }

    /// When the next request is due; `None` when there have been enough.
    fn next(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (due, left) = &mut *state;
        *left = match *left {
            Some(0) => return None,
            Some(left) => Some(left - 1),
            None => None,
        };
        let this = (*due).max(now.checked_sub(CATCH_UP).unwrap_or(now));
        *due = this + self.interval;
        Some(this)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_a_whole_200_is_served() {
        let rows: [(&[u8], Outcome); 6] = [
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ns1\n",
                Outcome::Served("s1".into()),
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ns1\n", Outcome::Broken),
            (b"HTTP/1.1 503 Busy\r\nContent-Length: 3\r\n\r\ns1\n", Outcome::Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Le", Outcome::Broken),
            (b"HTTP/1.1 200 OK\r\n\r\ns1\n", Outcome::Broken),
            (b"", Outcome::Broken),
        ];
        for (answer, verdict) in rows {
            assert_eq!(judge(answer), verdict, "{}", String::from_utf8_lossy(answer));
        }
    }

    #[test]
    fn a_closed_port_is_refused_and_tried_once_more() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let sample = request(free).unwrap();
        assert_eq!(
            (sample.outcome, sample.retry),
            (Outcome::Refused, Some(Outcome::Refused))
        );
    }

    #[test]
    fn the_pace_is_even_ends_and_does_not_rush_after_a_stall() {
        let pace = Pace::new(100, Some(4));
        let begin = Instant::now();
        let first = pace.next(begin).unwrap();
        assert_eq!(pace.next(begin).unwrap() - first, Duration::from_millis(10));
        let late = begin + Duration::from_secs(5);
        assert!(pace.next(late).unwrap() >= late - CATCH_UP);
        assert!(pace.next(late).is_some());
        assert_eq!(pace.next(late), None);
    }
}
