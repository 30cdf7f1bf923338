//! A run: workers, each with a connection at a time, and one who watches over them.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hyper::{Request, body::Bytes};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    super::{
        meter::{Meter, Reading},
        report::{Outcome, StoppedBy},
        stop::Stop,
    },
    connect::Connector,
    failure::{Failure, FailureKind},
    gate::{Gate, Ticket},
    http::{self, AskError, Connection},
    results::{self, Run},
    schedule::Timing,
    settings::{Http, Kind, Settings},
    tally::{Answer, Tally},
    tcp,
};

/// A connection that failed rests so long, lest a dead address be asked as fast as this host can.
const REST: Duration = Duration::from_millis(10);
/// Between two readings of a run that its count ends.
const COUNTED: Duration = Duration::from_millis(250);
/// How soon Ctrl-C and the end of the time are noticed.
const LOOK: Duration = Duration::from_millis(20);

/// Why a run could not take place.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Threads, or what they wait with.
    #[error("cannot start the threads that send: {0}")]
    Threads(#[source] io::Error),
    /// Path, host or method.
    #[error("these make no HTTP request: {0}; check --path, --host and --method")]
    Request(#[source] hyper::http::Error),
    /// A mistake in this program.
    #[error("internal error: {0}")]
    Internal(String),
}

/// What all workers share.
struct Shared {
    settings: Settings,
    start: Instant,
    gate: Arc<Gate>,
    tallies: Vec<Mutex<Tally>>,
    work: Work,
}

/// What is sent, made ready once.
enum Work {
    Tcp(super::Tcp, Vec<u8>),
    Http(Http, Box<Request<http_body_util::Empty<Bytes>>>),
}

/// Sends until the time is up, the count is reached or the operator has had enough; tells `watch` how it goes.
///
/// # Errors
/// When it cannot begin. What fails later is counted.
pub fn run(settings: Settings, stop: &Stop, watch: impl FnMut(&Reading)) -> Result<Outcome, RunError> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.threads)
        .enable_all()
        .build()
        .map_err(RunError::Threads)?;
    let shared = Arc::new(Shared::new(settings)?);
    let busy = cpu_time();
    let (stopped_by, elapsed, meter) = runtime.block_on(conduct(&shared, stop, watch))?;
    let busy = cpu_time().saturating_sub(busy);
    let mut total = Tally::new().map_err(internal)?;
    for tally in &shared.tallies {
        total.add(&lock(tally)).map_err(internal)?;
    }
    let due = shared.gate.due_by(elapsed);
    Ok(results::outcome(
        &shared.settings,
        total,
        meter,
        &Run {
            stopped_by,
            elapsed,
            due,
            busy,
        },
    ))
}

impl Shared {
    fn new(settings: Settings) -> Result<Self, RunError> {
        let work = match &settings.kind {
            Kind::Tcp(tcp) => Work::Tcp(*tcp, vec![b'x'; tcp.send]),
            Kind::Http(http) => {
                let request = http::request(http).map_err(RunError::Request)?;
                Work::Http(http.clone(), Box::new(request))
            }
        };
        let tallies: Result<_, _> = (0..settings.threads.max(1))
            .map(|_| Tally::new().map(Mutex::new))
            .collect();
        Ok(Self {
            start: Instant::now(),
            gate: Gate::new(settings.count, settings.rate),
            tallies: tallies.map_err(internal)?,
            work,
            settings,
        })
    }

    /// Counters for progress and series.
    fn totals(&self) -> [u64; 2] {
        self.tallies
            .iter()
            .map(|tally| lock(tally))
            .fold([0; 2], |[good, bad], tally| {
                [good + tally.succeeded, bad + tally.failed()]
            })
    }
}

/// Starts the workers and looks after them until the end.
async fn conduct(
    shared: &Arc<Shared>,
    stop: &Stop,
    mut watch: impl FnMut(&Reading),
) -> Result<(StoppedBy, Duration, Meter), RunError> {
    let mut meter = Meter::new(&["succeeded", "failed"]);
    let length = shared.settings.duration;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A run that its count ends is seldom as long as it may be.
    let step = Meter::interval(length).min(if shared.settings.count.is_some() {
        COUNTED
    } else {
        length
    });
    let mut next_reading = step;
    shared.gate.keep_time(shared.start).map_err(RunError::Threads)?;
    let mut workers = JoinSet::new();
    for number in 0..shared.settings.connections {
        workers.spawn(worker(Arc::clone(shared), number));
    }
    let stopped_by = loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                // Workers end when there is nothing left to start.
                None => break StoppedBy::Count,
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(internal(error)),
            },
            _ = look.tick() => {
                let now = shared.start.elapsed();
                if stop.is_asked() {
                    break StoppedBy::Interrupt;
                }
                if now >= length {
                    break StoppedBy::Duration;
                }
                if now >= next_reading {
                    if let Some(reading) = meter.read(now, &shared.totals()) {
                        watch(&reading);
                    }
                    next_reading = now + step;
                }
            }
        }
    };
    let elapsed = shared.start.elapsed();
    shared.gate.close();
    workers.shutdown().await;
    // The last step is seldom a whole one; what is too short for a rate is left out.
    if elapsed + step / 2 >= next_reading {
        drop(meter.read(elapsed, &shared.totals()));
    }
    Ok((stopped_by, elapsed, meter))
}

/// One connection at a time, for as long as there is something to start.
async fn worker(shared: Arc<Shared>, number: usize) {
    let Some(tally) = number
        .checked_rem(shared.tallies.len())
        .and_then(|at| shared.tallies.get(at))
    else {
        return;
    };
    let mut client = Client {
        connector: Connector::new(&shared.settings, number),
        open: None,
        tally,
    };
    while let Some(Ticket { due }) = shared.gate.ticket().await {
        lock(tally).begun += 1;
        let begun = shared.start.elapsed();
        let result = timeout(shared.settings.timeout, client.exchange(&shared.work)).await;
        let timing = Timing::of(due, begun, shared.start.elapsed());
        match result.unwrap_or_else(|_| Err(too_long(shared.settings.timeout))) {
            Ok(answer) => lock(tally).succeed(timing, answer),
            Err(failure) => {
                lock(tally).fail(failure);
                if due.is_none() {
                    sleep(REST).await;
                }
            }
        }
    }
}

/// Who sends: what a worker keeps from one to the next.
struct Client<'a> {
    connector: Connector,
    open: Option<Connection>,
    tally: &'a Mutex<Tally>,
}

impl Client<'_> {
    async fn exchange(&mut self, work: &Work) -> Result<Answer, Failure> {
        match work {
            Work::Tcp(tcp, payload) => {
                let stream = self.connect().await?;
                tcp::exchange(stream, *tcp, payload).await
            }
            Work::Http(http, request) => self.ask(http, request).await,
        }
    }

    async fn connect(&self) -> Result<tokio::net::TcpStream, Failure> {
        let begun = Instant::now();
        let stream = self.connector.connect().await?;
        lock(self.tally).connected(begun.elapsed());
        Ok(stream)
    }

    /// On the connection that is open, if it still is, or else on a new one. The connection is in this future's hands while
    /// it asks: when the time is up, it closes with it.
    async fn ask(&mut self, http: &Http, request: &Request<http_body_util::Empty<Bytes>>) -> Result<Answer, Failure> {
        let spread = http.spread.as_ref();
        if let Some(mut open) = self.open.take().filter(|_| http.keep_alive)
            && open.is_alive()
        {
            match open.ask(request.clone(), spread).await {
                Ok(answer) => {
                    self.open = Some(open);
                    return Ok(answer);
                }
                // It was closed while it was idle, as servers do.
                Err(AskError::Stale) => {}
                Err(error) => return Err(error.into_failure()),
            }
        }
        let mut open = Connection::new(self.connect().await?).await?;
        let answer = open
            .ask(request.clone(), spread)
            .await
            .map_err(AskError::into_failure)?;
        self.open = Some(open).filter(|_| http.keep_alive);
        Ok(answer)
    }
}

fn too_long(limit: Duration) -> Failure {
    Failure::new(
        FailureKind::TimedOut,
        format!(
            "no answer within {}",
            crate::cli::human::precise(limit.as_secs_f64() * 1e9)
        ),
    )
}

/// Every connection is a file descriptor; the usual limit of 1024 is for programs that use select().
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // With a refusal, connections beyond the limit fail and are counted.
        let _limit_as_before = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// What this process has used of all processors.
fn cpu_time() -> Duration {
    getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| {
        let of = |time: nix::sys::time::TimeVal| {
            Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or(0))
                + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or(0))
        };
        of(usage.user_time()) + of(usage.system_time())
    })
}

fn internal(error: impl std::fmt::Display) -> RunError {
    RunError::Internal(error.to_string())
}

/// Counters stay right even if a thread that held them has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
