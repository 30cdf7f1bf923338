//! Four real HTTP servers: an nginx in each server's namespace, which answers with its own name.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::lab::{Lab, SERVERS};
use crate::interrupt;

/// The running servers, by name. They end with their namespaces.
#[derive(Debug)]
pub(super) struct Servers<'a> {
    lab: &'a Lab,
    running: Vec<(&'static str, Child)>,
}

impl<'a> Servers<'a> {
    /// Starts all of them.
    ///
    /// # Errors
    /// When nginx does not start.
    pub(super) fn start_all(lab: &'a Lab) -> Result<Self> {
        let mut servers = Self {
            lab,
            running: Vec::new(),
        };
        for name in SERVERS {
            servers.start(name)?;
        }
        Ok(servers)
    }

    /// Starts one.
    ///
    /// # Errors
    /// When nginx does not start.
    pub(super) fn start(&mut self, name: &'static str) -> Result<()> {
        interrupt::check()?;
        let prefix = self.lab.directory().join(name);
        fs::create_dir_all(&prefix).with_context(|| format!("cannot make {}", prefix.display()))?;
        let configuration = prefix.join("nginx.conf");
        fs::write(&configuration, nginx_configuration(name, &prefix))
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let log = File::create(prefix.join("output.log")).context("cannot make nginx's log")?;
        let mut nginx = self.lab.inside(name, "nginx");
        nginx
            .arg("-p")
            .arg(&prefix)
            .arg("-c")
            .arg(&configuration)
            .arg("-e")
            .arg(prefix.join("error.log"));
        // A process group of its own: Ctrl-C reaches the demo alone, and a kill reaches master and worker.
        nginx
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = nginx.spawn().context("cannot start nginx")?;
        self.running.push((name, child));
        Ok(())
    }

    /// Kills one as a power cut would: SIGKILL to all of its processes.
    ///
    /// # Errors
    /// When it does not run.
    pub(super) fn kill(&mut self, name: &str) -> Result<()> {
        let position = self.running.iter().position(|(running, _)| *running == name);
        let (_, mut child) = position
            .map(|at| self.running.remove(at))
            .with_context(|| format!("{name} is not running"))?;
        killpg(process_id(&child)?, Signal::SIGKILL).with_context(|| format!("cannot kill {name}"))?;
        child.wait().with_context(|| format!("cannot wait for {name}"))?;
        Ok(())
    }

    /// The process ID of a server's nginx.
    pub(super) fn process(&self, name: &str) -> Option<u32> {
        self.running
            .iter()
            .find(|(running, _)| *running == name)
            .map(|(_, child)| child.id())
    }
}

fn process_id(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

fn nginx_configuration(name: &str, prefix: &Path) -> String {
    let prefix = prefix.display();
    format!(
        "daemon off;
worker_processes 1;
user root;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {prefix}/client;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    server {{
        listen 80 backlog=1024;
        location / {{ return 200 \"{name}\\n\"; }}
    }}
}}
"
    )
}
