//! One virtual machine: qemu's command line, the serial console line by line, the end of it.

use std::{
    collections::VecDeque,
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    image::{NOTHING, RESULT},
    kernel::Kernel,
};
use crate::{interrupt, shell};

/// How many lines of the console an error shows.
const TAIL: usize = 40;
/// How long a guest may take to power off once its job is done.
const POWER_OFF: Duration = Duration::from_secs(10);
/// How often a running machine is looked after.
const TICK: Duration = Duration::from_millis(100);
/// How long the boot may take that finds out whether this machine's KVM works.
const KVM_TRIAL: Duration = Duration::from_secs(20);

/// The emulated processor. Without `erms` and `fsrm` the kernel copies in loops of words rather than by a string
/// instruction, of which the emulator runs, and counts, every iteration.
const EMULATED_CPU: &str = "max,-erms,-fsrm";

/// A network device of a guest: virtio-net, at the end of a cable.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    /// Hardware address, as in `52:54:00:00:00:01`.
    pub(crate) mac: String,
    /// The cable.
    pub(crate) cable: Cable,
    /// Further properties of the device, as qemu writes them: `vectors=4`, `guest_tso4=off`.
    pub(crate) properties: Vec<String>,
}

/// What a network device is connected to. A cable between two guests is a Unix socket.
#[derive(Debug, Clone)]
pub(crate) enum Cable {
    /// This end makes the socket; its machine starts first.
    Listen(PathBuf),
    /// This end finds it there.
    Connect(PathBuf),
    /// A hub with one more port for each of these.
    Hub(Vec<Cable>),
    /// A tap device of this machine with so many queues, in a network namespace of its own where nobody answers. It has the
    /// offloads of a real host, which a socket has not.
    Tap {
        /// Pairs of queues.
        queues: u32,
    },
}

/// A machine to be started.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    kernel: Kernel,
    image: PathBuf,
    job: String,
    memory: u32,
    cpus: u32,
    clock: Clock,
    append: Vec<String>,
    networks: Vec<Network>,
}

impl Machine {
    /// A machine with one CPU and 512 MiB that boots a kernel with an image and does one of its jobs.
    pub(crate) fn new(kernel: &Kernel, image: &Path, job: &str) -> Self {
        Self {
            kernel: kernel.clone(),
            image: image.to_owned(),
            job: job.to_owned(),
            memory: 512,
            cpus: 1,
            clock: Clock::Machine,
            append: Vec::new(),
            networks: Vec::new(),
        }
    }

    /// Memory in MiB.
    pub(crate) fn memory(mut self, mebibytes: u32) -> Self {
        self.memory = mebibytes;
        self
    }

    /// Number of CPUs.
    pub(crate) fn cpus(mut self, number: u32) -> Self {
        self.cpus = number;
        self
    }

    /// Lets the guest's clock be its count of instructions, a nanosecond each, so that a run repeats exactly. One CPU,
    /// never KVM.
    pub(crate) fn counting_instructions(mut self) -> Self {
        self.clock = Clock::Instructions;
        self
    }

    /// Where guests are emulated, lets the guest's clock be its count of instructions, too: a machine that has other things
    /// to do makes the guest take longer, but its programs do not see that, and none of their time limits passes early.
    /// Waiting takes no time at all.
    pub(crate) fn steady(mut self) -> Self {
        self.clock = Clock::Steady;
        self
    }

    /// A word more on the kernel's command line. Jobs find it in `/proc/cmdline`.
    pub(crate) fn append(mut self, word: &str) -> Self {
        self.append.push(word.to_owned());
        self
    }

    /// A network device more; the kernel calls them `eth0`, `eth1` and so on.
    pub(crate) fn network(mut self, network: Network) -> Self {
        self.networks.push(network);
        self
    }

    /// Boots, shows each line of the console to `seen`, and returns when the machine is off.
    ///
    /// # Errors
    /// When the guest ends or the time is up before the job has; the error holds the last lines of its console.
    pub(crate) fn run(&self, limit: Duration, seen: impl FnMut(&str)) -> Result<Outcome> {
        self.start()?.finish(limit, seen)
    }

    /// Boots and returns at once.
    ///
    /// # Errors
    /// When qemu cannot be started.
    pub(crate) fn start(&self) -> Result<Running> {
        Running::start(self, self.acceleration())
    }

    /// Boots with this terminal as the console, until the guest is off.
    ///
    /// # Errors
    /// When qemu cannot be started or fails.
    pub(crate) fn interact(&self) -> Result<()> {
        let mut qemu = self.command(self.acceleration());
        shell::run(qemu.args(["-serial", "mon:stdio"]))
    }

    fn acceleration(&self) -> Acceleration {
        if self.clock == Clock::Instructions {
            Acceleration::None
        } else {
            *KVM.get_or_init(|| self.try_kvm())
        }
    }

    /// `/dev/kvm` may be there and yet not run this kernel, so a guest is booted with it.
    fn try_kvm(&self) -> Acceleration {
        let usable = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        let trial = || {
            let trial = Self::new(&self.kernel, &self.image, NOTHING).memory(self.memory);
            Running::start(&trial, Acceleration::Kvm)?.finish(KVM_TRIAL, |_| {})
        };
        if usable && trial().is_ok_and(|outcome| outcome.code == 0) {
            Acceleration::Kvm
        } else {
            eprintln!("vm: no KVM that boots this kernel here; guests are emulated, which is slow");
            Acceleration::None
        }
    }

    fn command(&self, acceleration: Acceleration) -> Command {
        // qemu is not to outlive a verb that is killed.
        let mut qemu = shell::command("setpriv");
        qemu.args(["--pdeathsig", "KILL"]);
        if self
            .networks
            .iter()
            .any(|network| matches!(network.cable, Cable::Tap { .. }))
        {
            // Becomes qemu without a fork, so the signal of death stays set.
            qemu.args(["unshare", "--net"]);
            if !shell::is_root() {
                qemu.arg("--map-root-user");
            }
        }
        qemu.arg("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        match acceleration {
            Acceleration::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]),
            Acceleration::None => qemu.args(["-accel", "tcg", "-cpu", EMULATED_CPU]),
        };
        let counts = self.clock.counts(acceleration);
        if counts {
            qemu.args(["-icount", "shift=0,sleep=off", "-rtc", "base=2025-01-01,clock=vm"])
                .args(["-seed", "1"]);
        }
        qemu.args(["-m", &format!("{}M", self.memory), "-smp", &self.cpus.to_string()])
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(&self.image)
            .args(["-append", &self.kernel_command_line(counts)]);
        for (number, network) in self.networks.iter().enumerate() {
            qemu.args(network.arguments(number));
        }
        qemu
    }

    fn kernel_command_line(&self, counts: bool) -> String {
        let mut words = vec![
            "console=ttyS0",
            "quiet",
            "panic=-1",
            "nokaslr",
            "tsc=reliable",
            "no_timer_check",
        ];
        if counts {
            // A grace period that waits for its turn takes a different number of instructions each time.
            words.push("rcupdate.rcu_expedited=1");
        }
        let job = format!("t={}", self.job);
        words.push(&job);
        words.extend(self.append.iter().map(String::as_str));
        words.join(" ")
    }

    /// What errors call it.
    fn name(&self) -> String {
        format!("the guest with Linux {} that does `{}`", self.kernel.release, self.job)
    }
}

impl Network {
    fn arguments(&self, number: usize) -> Vec<String> {
        let mut arguments = self.cable.arguments(&format!("net{number}"), number);
        let mut device = format!("virtio-net-pci,netdev=net{number},mac={}", self.mac);
        for property in &self.properties {
            device.push(',');
            device.push_str(property);
        }
        arguments.extend(["-device".to_owned(), device]);
        arguments
    }
}

impl Cable {
    /// The arguments that make a network backend of this name. Each device may have one hub, of its own number.
    fn arguments(&self, name: &str, hub: usize) -> Vec<String> {
        let socket = |server: &str, path: &Path| {
            format!(
                "stream,id={name},server={server},addr.type=unix,addr.path={}",
                path.display()
            )
        };
        let own = match self {
            Self::Listen(path) => socket("on", path),
            Self::Connect(path) => socket("off", path),
            Self::Hub(_) => format!("hubport,id={name},hubid={hub}"),
            Self::Tap { queues } => format!("tap,id={name},queues={queues},script=no,downscript=no"),
        };
        let mut arguments = vec!["-netdev".to_owned(), own];
        if let Self::Hub(cables) = self {
            for (port, cable) in cables.iter().enumerate() {
                let end = format!("{name}-{port}");
                arguments.extend(cable.arguments(&end, hub));
                let port = format!("hubport,id={end}-port,hubid={hub},netdev={end}");
                arguments.extend(["-netdev".to_owned(), port]);
            }
        }
        arguments
    }
}

/// What a guest's clock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// This machine's time.
    Machine,
    /// The guest's instructions where it is emulated, and this machine's time elsewhere.
    Steady,
    /// The guest's instructions, so the guest is emulated.
    Instructions,
}

impl Clock {
    fn counts(self, acceleration: Acceleration) -> bool {
        match self {
            Self::Machine => false,
            Self::Steady => acceleration == Acceleration::None,
            Self::Instructions => true,
        }
    }
}

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acceleration {
    Kvm,
    None,
}

/// Found out once per run of a verb.
static KVM: OnceLock<Acceleration> = OnceLock::new();

/// What a machine came to whose job ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The console, without the line of the result.
    pub(crate) lines: Vec<String>,
    /// The job's exit code.
    pub(crate) code: i32,
    /// From power-on to power-off.
    pub(crate) took: Duration,
}

/// A machine that runs; it is killed on drop.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    job: String,
    child: Child,
    input: Option<ChildStdin>,
    console: Receiver<String>,
    begin: Instant,
}

impl Running {
    fn start(machine: &Machine, acceleration: Acceleration) -> Result<Self> {
        let mut command = machine.command(acceleration);
        let mut child = command
            .args(["-serial", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", shell::line(&command)))?;
        let (sender, console) = mpsc::channel();
        forward(child.stdout.take(), sender.clone());
        forward(child.stderr.take(), sender);
        Ok(Self {
            name: machine.name(),
            job: machine.job.clone(),
            input: child.stdin.take(),
            child,
            console,
            begin: Instant::now(),
        })
    }

    /// A program of this machine, in the network namespace that the guest's tap devices are in.
    pub(crate) fn beside(&self, program: &str) -> Command {
        let mut command = shell::command("nsenter");
        command.args(["--net", "--target", &self.child.id().to_string()]);
        if !shell::is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg(program);
        command
    }

    /// Types a line on the console. A terminal takes lines of up to 4095 bytes.
    ///
    /// # Errors
    /// When the machine is off.
    pub(crate) fn type_line(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("a machine has a console")?;
        let typed = input.write_all(format!("{line}\n").as_bytes());
        typed.with_context(|| format!("{} is off", self.name))
    }

    /// The console's next line, or `None` when none comes within a moment.
    ///
    /// # Errors
    /// When the machine is off and everything was read, and on Ctrl-C.
    pub(crate) fn next_line(&self) -> Result<Option<String>> {
        interrupt::check()?;
        match self.console.recv_timeout(TICK) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("{} is off", self.name),
        }
    }

    /// Shows each line of the console to `seen`, and returns when the machine is off.
    ///
    /// # Errors
    /// When the guest ends or the time is up before the job has, and on Ctrl-C.
    pub(crate) fn finish(mut self, limit: Duration, mut seen: impl FnMut(&str)) -> Result<Outcome> {
        let mut lines = Vec::new();
        let mut code = None;
        let mut end = self.begin + limit;
        loop {
            interrupt::check()?;
            match self.console.recv_timeout(TICK) {
                Ok(line) => match self.result(&line) {
                    Some(result) => {
                        code = Some(result);
                        end = Instant::now() + POWER_OFF;
                    }
                    None => {
                        seen(&line);
                        lines.push(line);
                    }
                },
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= end {
                if code.is_none() {
                    bail!("{} is not done after {limit:?}{}", self.name, tail(&lines));
                }
                break;
            }
        }
        let Some(code) = code else {
            let status = self.child.wait().context("cannot wait for qemu")?;
            bail!("{} ended before its job (qemu: {status}){}", self.name, tail(&lines));
        };
        Ok(Outcome {
            lines,
            code,
            took: self.begin.elapsed(),
        })
    }

    /// The job's exit code, when this line tells it.
    fn result(&self, line: &str) -> Option<i32> {
        let (job, code) = line.strip_prefix(RESULT)?.trim().split_once(' ')?;
        (job == self.job).then(|| code.parse().ok())?
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that is off already cannot be killed, and that is fine.
        let _already_off = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Sends what a machine prints, line by line, until it prints no more.
fn forward(output: Option<impl Read + Send + 'static>, lines: Sender<String>) {
    let Some(output) = output else { return };
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { return };
            // A serial terminal ends its lines with a carriage return, too; the firmware clears the screen.
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            if lines.send(line.to_owned()).is_err() {
                return;
            }
        }
    });
}

/// The last lines of a console.
pub(crate) fn tail(lines: &[String]) -> String {
    let last: VecDeque<_> = lines.iter().rev().take(TAIL).collect();
    if last.is_empty() {
        return ", without a word on its console".to_owned();
    }
    let mut text = format!("; the last {} lines of its console:", last.len());
    for line in last.into_iter().rev() {
        text.push_str("\n  | ");
        text.push_str(line);
    }
    text
}
