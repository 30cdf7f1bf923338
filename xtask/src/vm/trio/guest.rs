//! A guest that does what it is told: a shell on its serial console, and what the host types and reads there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::vm::machine::{Machine, Running, tail};

/// How long a guest may take to boot and to set itself up.
const BOOT: Duration = Duration::from_secs(180);
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How much of a line an error shows, in characters.
const WIDTH: usize = 200;

/// What a job ends with that wants to be told: it reads lines, runs each, and prints `<<CODE>>` after each, the first time
/// when it is ready. What the kernel has to say stays in its log, so that it does not come between.
pub(super) const LISTEN: &str = r#"
stty -echo
dmesg -n 1
printf '\n<<0>>\n'
while read -r line; do
    eval "$line" </dev/null 2>&1
    printf '\n<<%s>>\n' $?
done
"#;

/// A running guest whose job ends with [`LISTEN`].
#[derive(Debug)]
pub(super) struct Guest {
    name: &'static str,
    running: Running,
    lines: Vec<String>,
}

impl Guest {
    /// Boots it; [`Self::wait_ready`] waits for it.
    ///
    /// # Errors
    /// When qemu cannot be started.
    pub(super) fn start(name: &'static str, machine: &Machine) -> Result<Self> {
        let running = machine.start()?;
        Ok(Self {
            name,
            running,
            lines: Vec::new(),
        })
    }

    /// Waits until it listens.
    ///
    /// # Errors
    /// When its job fails before that, or the time is up.
    pub(super) fn wait_ready(&mut self) -> Result<()> {
        self.answer(BOOT).context("it did not come up").map(drop)
    }

    /// Runs a line in its shell and returns what it printed.
    ///
    /// # Errors
    /// When its exit code is not 0, the guest is off, or the time is up.
    pub(super) fn run(&mut self, line: &str) -> Result<String> {
        let (code, output) = self.ask(line)?;
        if code != 0 {
            bail!("{}: `{line}` failed with {code}: {output}", self.name);
        }
        Ok(output)
    }

    /// Runs a line in its shell and returns its exit code and what it printed.
    ///
    /// # Errors
    /// When the guest is off, or the time is up.
    pub(super) fn ask(&mut self, line: &str) -> Result<(i32, String)> {
        self.lines.push(format!("$ {line}"));
        self.running.type_line(line)?;
        self.answer(PATIENCE).with_context(|| format!("`{line}`"))
    }

    /// The machine that it is.
    pub(super) fn machine(&self) -> &Running {
        &self.running
    }

    /// The last lines of its console.
    pub(super) fn tail(&self) -> String {
        format!("{}{}", self.name, tail(&self.lines))
    }

    fn answer(&mut self, limit: Duration) -> Result<(i32, String)> {
        let end = Instant::now() + limit;
        let mut said = String::new();
        loop {
            let line = self.running.next_line().with_context(|| self.name)?;
            match line.as_deref().map(|line| (line, code(line))) {
                Some((_, Some(code))) => return Ok((code, said.trim().to_owned())),
                Some((line, None)) => {
                    said.push_str(line);
                    said.push('\n');
                    if !line.is_empty() {
                        self.lines.push(line.chars().take(WIDTH).collect());
                    }
                }
                None if Instant::now() > end => bail!("{}: no answer within {limit:?}", self.name),
                None => {}
            }
        }
    }
}

fn code(line: &str) -> Option<i32> {
    line.strip_prefix("<<")?.strip_suffix(">>")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_marker_ends_an_answer() {
        assert_eq!(code("<<0>>"), Some(0));
        assert_eq!(code("<<127>>"), Some(127));
        assert_eq!(code("x<<0>>"), None);
        assert_eq!(code("<<%s>>"), None);
    }
}
