//! The server: one nginx process, which answers on all addresses of its namespace.
//!
//! It is the same one for all contenders, also for the one without a balancer. Several processes behind the balancers
//! would lend these a capacity that a single one does not have.

use std::{fs, path::Path};

use anyhow::Result;

use super::{bed::Bed, process::Process};

/// Starts it and waits until it serves.
pub(super) fn start(bed: &Bed) -> Result<Process> {
    let directory = bed.directory().join("nginx");
    fs::create_dir_all(&directory)?;
    let configuration = directory.join("nginx.conf");
    fs::write(&configuration, text(&directory))?;
    let mut command = bed.server().command("nginx");
    command
        .arg("-p")
        .arg(&directory)
        .args(["-e", "stderr", "-c"])
        .arg(&configuration);
    let mut process = Process::start("nginx", &mut command, &directory)?;
    process.wait_listening(bed.server(), std::net::Ipv4Addr::LOCALHOST)?;
    Ok(process)
}

/// The answer names the address that was asked and the one that asked, so that the way can be checked.
fn text(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"daemon off;
master_process off;
user root;
pid {directory}/pid;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 60s;
    lingering_close off;
    reset_timedout_connection on;
    client_body_temp_path {directory}/tmp; proxy_temp_path {directory}/tmp; fastcgi_temp_path {directory}/tmp;
    uwsgi_temp_path {directory}/tmp; scgi_temp_path {directory}/tmp;
    server {{
        listen 80 backlog=4096;
        location / {{ return 200 "$server_addr $remote_addr\n"; }}
    }}
}}
"#
    )
}
