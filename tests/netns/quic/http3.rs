//! An HTTP/3 server and a client. Their sockets are in a host's namespace, their tasks on the runtime of the test.

use std::{
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, Bytes};
use futures_util::future;
use h3::client::SendRequest;
use http::{Request, Response, StatusCode};
use lb_tests::{lab::Host, patience};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use ring::digest::{self, Digest, SHA256};
use rustls::{RootCertStore, crypto::ring::default_provider, pki_types::PrivateKeyDer};
use tokio::{runtime::Handle, task::JoinHandle, time::timeout};

/// What the certificate is for.
const NAME: &str = "vip.test";
/// How long a step may take that makes the connection, or a request.
const LIMIT: Duration = Duration::from_secs(30);
/// So much is sent at once.
const CHUNK: usize = 64 << 10;

/// What servers and clients agree on: a certificate for all servers, made for this test.
pub(crate) struct Agreement {
    server: ServerConfig,
    client: ClientConfig,
}

impl Agreement {
    pub(crate) fn new() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let provider = Arc::new(default_provider());
        let tls13 = &[&rustls::version::TLS13];

        let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(tls13)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        server.alpn_protocols = vec![b"h3".to_vec()];

        let mut roots = RootCertStore::empty();
        roots.add(certificate)?;
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(tls13)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h3".to_vec()];

        Ok(Self {
            server: ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?)),
            client: ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?)),
        })
    }
}

/// An HTTP/3 server on all addresses of a host.
///
/// | path | answer |
/// |---|---|
/// | `/bytes/N` | N bytes of [`content`] |
/// | all others | `NAME CLIENT-ADDRESS CLIENT-PORT` |
pub(crate) struct Server {
    endpoint: Endpoint,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(runtime: &Handle, host: &Host, port: u16, agreement: &Agreement) -> Result<Self> {
        let _inside = runtime.enter();
        let socket = host.ns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))?;
        let endpoint = endpoint(socket, Some(agreement.server.clone()))?;
        let task = runtime.spawn(accept(endpoint.clone(), host.name.clone()));
        Ok(Self { endpoint, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.endpoint.close(0u32.into(), b"");
        self.task.abort();
    }
}

fn endpoint(socket: UdpSocket, server: Option<ServerConfig>) -> std::io::Result<Endpoint> {
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))
}

async fn accept(endpoint: Endpoint, name: String) {
    while let Some(incoming) = endpoint.accept().await {
        let name = name.clone();
        // A client that goes away ends its connection with an error, which is no failure.
        tokio::spawn(async move { drop(answer(incoming, &name).await) });
    }
}

async fn answer(incoming: Incoming, name: &str) -> Result<()> {
    let connection = incoming.await?;
    let mut requests = h3::server::Connection::new(h3_quinn::Connection::new(connection.clone())).await?;
    while let Some(request) = requests.accept().await? {
        let (request, mut stream) = request.resolve_request().await?;
        // To its end: a stream that is dropped before that tells the client to stop sending, and its request then fails.
        while stream.recv_data().await?.is_some() {}
        stream.send_response(Response::new(())).await?;
        if let Some(length) = request.uri().path().strip_prefix("/bytes/") {
            let mut left = content(length.parse()?);
            while left.has_remaining() {
                stream
                    .send_data(left.copy_to_bytes(left.remaining().min(CHUNK)))
                    .await?;
            }
        } else {
            let peer = connection.remote_address();
            let text = format!("{name} {} {}", peer.ip().to_canonical(), peer.port());
            stream.send_data(Bytes::from(text)).await?;
        }
        stream.finish().await?;
    }
    Ok(())
}

/// So many bytes, the same at every call: each chunk is numbered, so that what comes at a wrong place changes the hash.
pub(crate) fn content(length: usize) -> Bytes {
    let noise: Vec<u8> = (0..CHUNK / 32 - 1)
        .flat_map(|n| digest::digest(&SHA256, &n.to_be_bytes()).as_ref().to_vec())
        .collect();
    let chunk = |number: usize| [&[0; 24], number.to_be_bytes().as_slice(), &noise].concat();
    let mut all: Vec<u8> = (0..length.div_ceil(CHUNK)).flat_map(chunk).collect();
    all.truncate(length);
    all.into()
}

/// A connection, from a port of its own: one flow.
pub(crate) struct Client {
    endpoint: Endpoint,
    requests: SendRequest<h3_quinn::OpenStreams, Bytes>,
    driver: JoinHandle<()>,
}

impl Client {
    pub(crate) async fn connect(host: &Host, vip: SocketAddr, agreement: &Agreement) -> Result<Self> {
        let endpoint = endpoint(socket(host, vip)?, None)?;
        let connecting = endpoint.connect_with(agreement.client.clone(), vip, NAME)?;
        let connection = timeout(patience(LIMIT), connecting).await.context("no connection")??;
        let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
        let driver = tokio::spawn(async move { drop(future::poll_fn(|task| driver.poll_close(task)).await) });
        Ok(Self {
            endpoint,
            requests,
            driver,
        })
    }

    /// Goes on with the same connection from another port.
    pub(crate) fn move_to_another_port(&self, host: &Host, vip: SocketAddr) -> Result<()> {
        Ok(self.endpoint.rebind(socket(host, vip)?)?)
    }

    /// The answer to a request, a few words.
    pub(crate) async fn ask(&mut self) -> Result<String> {
        let mut text = Vec::new();
        self.get("/", |part| text.extend_from_slice(part)).await?;
        Ok(String::from_utf8(text)?)
    }

    /// How many bytes came of so many, and their hash.
    pub(crate) async fn download(&mut self, length: usize) -> Result<(usize, Digest)> {
        let mut hash = digest::Context::new(&SHA256);
        let mut came = 0;
        let path = format!("/bytes/{length}");
        self.get(&path, |part| {
            hash.update(part);
            came += part.len();
        })
        .await?;
        Ok((came, hash.finish()))
    }

    async fn get(&mut self, path: &str, mut part: impl FnMut(&[u8])) -> Result<()> {
        let whole = async {
            let request = Request::get(format!("https://{NAME}{path}")).body(())?;
            let mut stream = self.requests.send_request(request).await?;
            stream.finish().await?;
            let response = stream.recv_response().await?;
            ensure!(response.status() == StatusCode::OK, "{response:?}");
            while let Some(mut data) = stream.recv_data().await? {
                while data.has_remaining() {
                    part(data.chunk());
                    data.advance(data.chunk().len());
                }
            }
            Ok(())
        };
        timeout(patience(LIMIT), whole).await.context("no answer")?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.endpoint.close(0u32.into(), b"");
        self.driver.abort();
    }
}

fn socket(host: &Host, like: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = if like.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    host.ns.run(|| UdpSocket::bind(any))
}
