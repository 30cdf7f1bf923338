//! Steps that several scenarios share.

use std::{fs, io::ErrorKind, net::SocketAddr, process::Stdio, time::Duration};

use lb_tests::{
    Lab, Nginx,
    client::{self, Shares},
    eventually,
};

/// So many connections to every server of the lab.
pub(crate) fn even(lab: &Lab, each: u32) -> Shares {
    lab.servers.iter().map(|server| (server.name.clone(), each)).collect()
}

/// Connections by the server's name.
pub(crate) fn shares_of(shares: &[(&str, u32)]) -> Shares {
    shares.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
}

/// Makes a file of random bytes at a server, fetches it through `vip` with curl and compares SHA-256 sums.
#[track_caller]
pub(crate) fn fetch_file(lab: &Lab, nginx: &Nginx, vip: SocketAddr, mebibytes: u32) {
    let path = nginx.files.join("random");
    let made = lab.client.ns.sh(&format!(
        "head -c {mebibytes}M /dev/urandom | tee {} | sha256sum",
        path.display()
    ));
    let fetched = lab
        .client
        .ns
        .command("sh")
        .args([
            "-c",
            "curl --silent --show-error --fail --max-time 120 \"$0\" | sha256sum",
        ])
        .arg(format!("http://{vip}/files/random"))
        .stderr(Stdio::inherit())
        .output()
        .expect("curl is installed");
    fs::remove_file(&path).expect("the file is removed");
    assert_eq!(String::from_utf8_lossy(&fetched.stdout), made);
}

/// Connects again and again from the same source port, after both kinds of end: in order, and by RST. None stalls.
#[track_caller]
pub(crate) fn reuses_port(vip: SocketAddr) {
    client::at_once(|| reuse_port(vip));
}

fn reuse_port(vip: SocketAddr) {
    for i in 0..40 {
        // Until the last ACK of the connection before is in, the client's own kernel holds the port.
        let stream = eventually(
            "the port to be free",
            Duration::from_secs(10),
            || match client::open_from(20_000, vip) {
                Ok(stream) => Ok(stream),
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Err(error.to_string()),
                Err(error) => panic!("connection {i}: {error}"),
            },
        );
        if i % 2 == 0 {
            client::seen(&client::request(&stream, "/").unwrap_or_else(|e| panic!("request {i}: {e}"))).unwrap();
        } else {
            client::reset_on_close(&stream).unwrap();
        }
    }
}
