//! Probes of real sockets on loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
};

use super::*;
use crate::model::{HealthCheck, HttpProbe};

async fn listener(ip: impl Into<IpAddr>) -> TcpListener {
    TcpListener::bind(SocketAddr::new(ip.into(), 0)).await.unwrap()
}

/// A port on which nobody listens.
async fn closed_port() -> SocketAddr {
    listener(Ipv4Addr::LOCALHOST).await.local_addr().unwrap()
}

fn target(address: SocketAddr, probe: Probe) -> HealthTarget {
    HealthTarget {
        address,
        check: HealthCheck {
            probe,
            timeout: Duration::from_secs(5),
            ..HealthCheck::default()
        },
    }
}

fn http(body: Option<&str>) -> Probe {
    Probe::Http(HttpProbe {
        path: "/healthz?deep=1".into(),
        host: Some("www.example.org".into()),
        status: 200..=399,
        body: body.map(str::to_owned),
    })
}

async fn ask(address: SocketAddr, probe: Probe) -> (bool, String) {
    let result = check(&NetworkProber, &target(address, probe)).await;
    (result.healthy, result.words)
}

/// Answers every connection with these bytes, and hands over the requests.
async fn answering(answer: impl Into<Vec<u8>>) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let answer = answer.into();
    let listener = listener(Ipv4Addr::LOCALHOST).await;
    let address = listener.local_addr().unwrap();
    let (requests, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let request = read_request(&mut stream).await;
            let _ = stream.write_all(&answer).await;
            let _ = requests.send(request);
        }
    });
    (address, received)
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.is_ok_and(|n| n > 0) {
        request.push(byte[0]);
    }
    String::from_utf8(request).unwrap()
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn tcp_connects_over_both_families() {
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let listener = listener(ip).await;
        let result = check(&NetworkProber, &target(listener.local_addr().unwrap(), Probe::Tcp)).await;
        assert_eq!((result.healthy, result.words.as_str()), (true, "connected"));
        assert!(result.latency > Duration::ZERO);
    }
}

/// The kernel holds back an ACK for some 40 ms. A busy machine may miss that once, but not every time.
#[tokio::test]
async fn tcp_probes_do_not_bother_the_application() {
    const PROBES: usize = 8;
    let listener = listener(Ipv4Addr::LOCALHOST).await;
    let address = listener.local_addr().unwrap();
    for _ in 0..PROBES {
        assert!(ask(address, Probe::Tcp).await.0);
    }
    let client = TcpStream::connect(address).await.unwrap();
    let mut seen = 0;
    while listener.accept().await.unwrap().1 != client.local_addr().unwrap() {
        seen += 1;
    }
    assert!(seen < PROBES, "the application saw all {PROBES} probes");
}

#[tokio::test]
async fn refused() {
    let address = closed_port().await;
    assert_eq!(ask(address, Probe::Tcp).await, (false, "connection refused".into()));
    assert_eq!(ask(address, http(None)).await, (false, "connection refused".into()));
}

#[tokio::test]
async fn a_listener_that_accepts_no_more_times_out() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // More than the backlog holds: from then on the kernel lets SYNs go unanswered.
    let _waiting: Vec<_> = (0..4).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut target = target(address, Probe::Tcp);
    target.check.timeout = Duration::from_millis(200);
    let result = check(&NetworkProber, &target).await;
    assert_eq!((result.healthy, result.words.as_str()), (false, "timeout after 200 ms"));
    assert!(result.latency >= Duration::from_millis(200));
}

#[tokio::test]
async fn http_asks_politely_and_is_content() {
    let (address, mut requests) = answering(answer("200 OK", "ok")).await;
    assert_eq!(ask(address, http(None)).await, (true, "HTTP 200".into()));
    let request = requests.recv().await.unwrap().to_lowercase();
    assert!(request.starts_with("get /healthz?deep=1 http/1.1\r\n"), "{request}");
    for header in ["host: www.example.org\r\n", "connection: close\r\n", "user-agent: lb/"] {
        assert!(request.contains(header), "{request}");
    }
}

#[tokio::test]
async fn http_without_host_names_the_address() {
    let (address, mut requests) = answering(answer("204 No Content", "")).await;
    let Probe::Http(probe) = http(None) else { unreachable!() };
    let probe = Probe::Http(HttpProbe { host: None, ..probe });
    assert_eq!(ask(address, probe).await, (true, "HTTP 204".into()));
    assert!(
        requests
            .recv()
            .await
            .unwrap()
            .to_lowercase()
            .contains(&format!("host: {address}\r\n"))
    );
}

#[tokio::test]
async fn http_status_out_of_range() {
    let (address, _requests) = answering(answer("503 Service Unavailable", "ok")).await;
    assert_eq!(ask(address, http(Some("ok"))).await, (false, "HTTP 503".into()));
}

#[tokio::test]
async fn http_body() {
    let (address, _requests) = answering(answer("200 OK", "all is ok here")).await;
    assert_eq!(ask(address, http(Some("is ok"))).await, (true, "HTTP 200".into()));
    assert_eq!(
        ask(address, http(Some("fine"))).await,
        (false, "body does not contain \"fine\"".into())
    );
}

#[tokio::test]
async fn http_body_is_searched_up_to_64_kib() {
    let body = |before: usize| {
        answer(
            "200 OK",
            &format!("{}needle{}", "x".repeat(before), "y".repeat(100_000)),
        )
    };
    let (address, _requests) = answering(body(64 * 1024 - 6)).await;
    assert!(ask(address, http(Some("needle"))).await.0);
    let (address, _requests) = answering(body(64 * 1024 - 5)).await;
    assert_eq!(
        ask(address, http(Some("needle"))).await,
        (false, "body does not contain \"needle\"".into())
    );
}

#[tokio::test]
async fn http_body_that_comes_in_pieces() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nnee\r\n3\r\ndle\r\n0\r\n\r\n";
    let (address, _requests) = answering(chunked).await;
    assert!(ask(address, http(Some("needle"))).await.0);
}

#[tokio::test]
async fn http_answers_that_are_none() {
    let (address, _requests) = answering("SSH-2.0-OpenSSH_9.6\r\n\r\n").await;
    assert_eq!(
        ask(address, http(None)).await,
        (false, "the answer is not HTTP/1.1".into())
    );
    let closed = "connection closed before the answer was complete";
    let (address, _requests) = answering("").await;
    assert_eq!(ask(address, http(None)).await, (false, closed.into()));
    let (address, _requests) = answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    assert_eq!(ask(address, http(Some("whole"))).await, (false, closed.into()));
}

#[tokio::test]
async fn http_without_answer_times_out_and_hangs_up() {
    let listener = listener(Ipv4Addr::LOCALHOST).await;
    let mut target = target(listener.local_addr().unwrap(), http(None));
    target.check.timeout = Duration::from_millis(200);
    let (result, accepted) = tokio::join!(check(&NetworkProber, &target), listener.accept());
    assert_eq!((result.healthy, result.words.as_str()), (false, "timeout after 200 ms"));
    let mut stream = accepted.unwrap().0;
    read_request(&mut stream).await;
    // The probe's end is gone by now, not only when something collects it.
    let end = timeout(Duration::from_secs(5), stream.read(&mut [0; 16]))
        .await
        .unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn messages_are_for_people() {
    assert_eq!(spaced(Duration::from_secs(2)), "2 s");
    assert_eq!(spaced(Duration::from_millis(1500)), "1.5 s");
    assert_eq!(spaced(Duration::from_millis(250)), "250 ms");
    let said = |errno| words(&io::Error::from_raw_os_error(errno));
    assert_eq!(said(libc::EHOSTUNREACH), "no route to host");
    assert_eq!(said(libc::ENETUNREACH), "network unreachable");
    assert_eq!(said(libc::ECONNREFUSED), "connection refused");
    assert_eq!(said(libc::EMFILE), "too many open files");
}
