//! nginx, as a real server.

use std::{
    fs,
    net::TcpStream,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use crate::{
    lab::{Host, Lab},
    poll::eventually,
};

/// An nginx on port 80 of a server, IPv4 and IPv6. `/` answers `NAME CLIENT-ADDRESS CLIENT-PORT`; files of its
/// directory are under `/files/`, where `PUT` makes new ones.
#[derive(Debug)]
pub struct Nginx {
    /// Directory of the files that it serves.
    pub files: PathBuf,
    child: Child,
}

impl Nginx {
    /// Starts it and waits until it accepts connections.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(lab: &Lab, host: &Host) -> Self {
        let prefix = lab.path(&format!("nginx-{}", host.name));
        let files = prefix.join("files");
        fs::create_dir_all(&files).expect("a directory for nginx");
        let configuration = prefix.join("nginx.conf");
        fs::write(&configuration, text(&host.name, &prefix.display().to_string())).expect("nginx.conf is written");
        let log = fs::File::create(prefix.join("stderr")).expect("a log");
        let child = host
            .ns
            .command("nginx")
            .arg("-p")
            .arg(&prefix)
            .arg("-e")
            .arg("stderr")
            .arg("-c")
            .arg(&configuration)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nginx is installed (apt-get install nginx-light)");
        let address = std::net::SocketAddr::from((host.v4, 80));
        let nginx = Self { files, child };
        eventually("nginx to listen", Duration::from_secs(10), || {
            host.ns
                .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).map(drop))
                .map_err(|e| format!("{e}: {}", fs::read_to_string(prefix.join("stderr")).unwrap_or_default()))
        });
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _status = self.child.wait();
    }
}

/// One process, so that ending it ends nginx.
fn text(name: &str, prefix: &str) -> String {
    format!(
        r#"
daemon off;
master_process off;
user root;
pid {prefix}/pid;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    default_type application/octet-stream;
    client_body_temp_path {prefix}/tmp; proxy_temp_path {prefix}/tmp; fastcgi_temp_path {prefix}/tmp;
    uwsgi_temp_path {prefix}/tmp; scgi_temp_path {prefix}/tmp;
    server {{
        listen 80 backlog=4096;
        listen [::]:80 ipv6only=on backlog=4096;
        location /files/ {{ root {prefix}; dav_methods PUT; client_max_body_size 64m; }}
        location / {{ return 200 "{name} $remote_addr $remote_port\n"; }}
    }}
}}
"#
    )
}

impl Lab {
    /// An nginx on every server.
    #[must_use]
    pub fn serve_nginx(&self) -> Vec<Nginx> {
        self.servers.iter().map(|host| Nginx::start(self, host)).collect()
    }
}
