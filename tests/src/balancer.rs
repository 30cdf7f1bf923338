//! The program under test: the daemon of a lab, and its command line.

use std::{
    env, fs,
    fs::OpenOptions,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use lb_userspace::api::{BackendReport, HealthState, ServiceReport, Status};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{config::Config, lab::Lab, poll::eventually};

/// For everything that the daemon does by itself: generous, as the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where the program is: `LB_BIN`, or next to the test executables.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn program() -> PathBuf {
    if let Some(path) = env::var_os("LB_BIN") {
        return path.into();
    }
    let test = env::current_exe().expect("the path of this test");
    let path = test.ancestors().nth(2).expect("a target directory").join("lb");
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build -p lb-userspace` first, or set LB_BIN",
        path.display()
    );
    path
}

/// What a run of the program came to.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started, or a signal ended it.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().expect("the command starts");
        Self {
            code: output
                .status
                .code()
                .unwrap_or_else(|| panic!("{command:?} ended with {}", output.status)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Itself, once it is known to be a success.
    ///
    /// # Panics
    /// When it is a failure.
    #[track_caller]
    #[must_use]
    pub fn success(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }
}

impl Lab {
    /// Writes the configuration file and returns its path.
    #[must_use]
    pub fn write(&self, toml: &str) -> PathBuf {
        let path = self.path("lb.toml");
        fs::write(&path, toml).expect("the configuration is written");
        path
    }

    /// `lb` with these arguments, on the load balancer's host.
    #[must_use]
    pub fn lb_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.lb.ns.command(program());
        command.args(arguments).env_remove("COLUMNS");
        command
    }

    /// Runs an `lb` verb against this lab's daemon.
    #[must_use]
    pub fn lb(&self, arguments: &[&str]) -> Outcome {
        let socket = self.socket();
        let socket = socket.to_str().expect("a path in UTF-8");
        let mut all = vec!["--instance", &self.instance, "--socket", socket];
        all.extend(arguments);
        Outcome::of(&mut self.lb_command(&all))
    }

    /// Runs `lb run` with this text as its configuration, which is expected to fail soon.
    ///
    /// # Panics
    /// When it is still running after ten seconds.
    #[must_use]
    pub fn run_refused(&self, toml: &str) -> Outcome {
        let config = self.write(toml);
        let mut command = self.lb.ns.command("timeout");
        command
            .args(["--kill-after=1", "10"])
            .arg(program())
            .args(["run", "--config"])
            .arg(config);
        let outcome = Outcome::of(&mut command);
        assert_ne!(outcome.code, 124, "lb run did not refuse: {outcome:?}");
        outcome
    }
}

/// A running daemon, killed on drop.
#[derive(Debug)]
pub struct Balancer<'lab> {
    lab: &'lab Lab,
    arguments: Vec<String>,
    child: Child,
}

impl<'lab> Balancer<'lab> {
    /// Starts the daemon and waits until it answers.
    #[must_use]
    pub fn start(lab: &'lab Lab, config: &Config) -> Self {
        Self::start_with(lab, config, &[])
    }

    /// As [`Self::start`], with further arguments of `lb run`.
    #[must_use]
    pub fn start_with(lab: &'lab Lab, config: &Config, further: &[&str]) -> Self {
        let path = lab.write(&config.toml());
        let mut arguments = vec!["run".to_owned(), "--config".to_owned(), path.display().to_string()];
        arguments.extend(further.iter().map(|&a| a.to_owned()));
        let child = spawn(lab, &arguments);
        let mut balancer = Self { lab, arguments, child };
        balancer.wait_answering();
        balancer
    }

    /// Starts it again, with the same arguments and the configuration file as it is now.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.lab, &self.arguments);
        self.wait_answering();
    }

    fn wait_answering(&mut self) {
        let pid = self.pid();
        let (lab, child) = (self.lab, &mut self.child);
        eventually("the daemon to answer", PATIENCE, || {
            if let Some(status) = child.try_wait().expect("the daemon's state") {
                panic!("lb run ended with {status}; its log follows");
            }
            let outcome = lab.lb(&["--json", "status"]);
            match serde_json::from_str::<Status>(&outcome.stdout) {
                Ok(status) if status.pid == pid => Ok(()),
                _ => Err(format!("{outcome:?}")),
            }
        });
    }

    /// Process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without a chance to clean up.
    pub fn kill(&mut self) {
        let _already_dead = self.child.kill();
        self.child.wait().expect("the daemon ends");
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    /// When it does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGTERM).expect("SIGTERM is sent");
        self.wait_end()
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait_end(&mut self) -> ExitStatus {
        eventually("the daemon to end", PATIENCE, || {
            self.child
                .try_wait()
                .expect("the daemon's state")
                .ok_or_else(|| "it runs".to_owned())
        })
    }

    /// Takes everything down with `lb detach`, and waits until the daemon has ended.
    ///
    /// # Panics
    /// When it fails.
    pub fn detach(mut self) {
        let _done = self.lab.lb(&["detach"]).success();
        assert!(self.wait_end().success(), "the daemon ended with a failure");
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.lab.path("lb.log")).unwrap_or_default()
    }

    /// `lb status`.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn status(&self) -> Status {
        let outcome = self.lab.lb(&["--json", "status"]).success();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e} in {}", outcome.stdout))
    }

    /// One service of `lb status`.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn service(&self, name: &str) -> ServiceReport {
        find(self.status(), name).unwrap_or_else(|| panic!("no service {name}"))
    }

    /// One backend of `lb status`.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn backend(&self, service: &str, name: &str) -> BackendReport {
        let mut backends = self.service(service).backends.into_iter();
        backends
            .find(|b| b.name == name)
            .unwrap_or_else(|| panic!("no backend {name}"))
    }

    /// How often a reason was counted.
    ///
    /// # Panics
    /// When it is not listed.
    #[must_use]
    pub fn reason(&self, name: &str) -> u64 {
        let reasons = self.status().reasons;
        reasons
            .iter()
            .find(|r| r.name == name)
            .unwrap_or_else(|| panic!("no reason {name} in {reasons:?}"))
            .packets
    }

    /// Waits until a backend takes new flows.
    pub fn wait_in(&self, service: &str, name: &str) -> BackendReport {
        self.wait_backend(service, name, "in rotation", |b| b.in_rotation)
    }

    /// Waits until a backend takes none.
    pub fn wait_out(&self, service: &str, name: &str) -> BackendReport {
        self.wait_backend(service, name, "out of rotation", |b| !b.in_rotation)
    }

    /// Waits until a backend is as wanted.
    pub fn wait_backend(
        &self,
        service: &str,
        name: &str,
        what: &str,
        wanted: impl Fn(&BackendReport) -> bool,
    ) -> BackendReport {
        eventually(&format!("{name} to be {what}"), PATIENCE, || {
            let backend = self.backend(service, name);
            if wanted(&backend) {
                Ok(backend)
            } else {
                Err(format!("{backend:#?}"))
            }
        })
    }

    /// Waits until the status is as wanted.
    pub fn wait_status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        eventually(what, PATIENCE, || {
            let status = self.status();
            if wanted(&status) {
                Ok(status)
            } else {
                Err(format!("{status:#?}"))
            }
        })
    }

    /// Waits until every backend either takes new flows or is not meant to.
    pub fn wait_ready(&self) {
        let settled = |b: &BackendReport| {
            let waits = b
                .why_not
                .as_deref()
                .is_some_and(|why| why.starts_with("standby") || why.starts_with("weight 0"));
            matches!(b.health.state, HealthState::Up | HealthState::Unchecked) && (b.in_rotation || waits)
        };
        self.wait_status("all backends to be ready", |s| {
            s.services.iter().flat_map(|s| &s.backends).all(settled)
        });
    }
}

impl Drop for Balancer<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let outcome = Command::new("timeout")
                .arg("5")
                .arg(program())
                .arg("--socket")
                .arg(self.lab.socket())
                .arg("status")
                .output();
            let shown = outcome.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
            eprintln!(
                "---- status of {} ----\n{}",
                self.lab.instance,
                shown.unwrap_or_default()
            );
        }
        self.kill();
    }
}

fn find(status: Status, service: &str) -> Option<ServiceReport> {
    status.services.into_iter().find(|s| s.name == service)
}

/// Starts the daemon with its messages appended to the lab's log.
fn spawn(lab: &Lab, arguments: &[String]) -> Child {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(lab.path("lb.log"))
        .expect("a log file");
    let mut command = lab.lb.ns.command(program());
    command
        .args(arguments)
        .stdout(log.try_clone().expect("a handle"))
        .stderr(log);
    command.spawn().expect("nsenter starts")
}
