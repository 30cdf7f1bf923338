//! `GET` over HTTP/1.1 is answered as expected.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;

use super::{Verdict, plain, tcp, words};
use crate::model::HttpProbe;

/// How much of a body is searched.
const SEARCHED: usize = 64 * 1024;
/// How much of the expected text a message quotes.
const QUOTED_CHARS: usize = 40;
/// Shown in the backends' access logs.
const USER_AGENT: &str = concat!("lb/", env!("CARGO_PKG_VERSION"), " (health check)");

/// Connects, asks, and looks at status and body. The connection is driven by this very future: when it is dropped,
/// the socket closes.
pub(super) async fn probe(address: SocketAddr, expected: &HttpProbe) -> Verdict {
    let socket = tcp::socket(address).map_err(|error| words(&error))?;
    let stream = socket.connect(address).await.map_err(|error| words(&error))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http_words(&error))?;
    let exchange = exchange(sender, address, expected);
    tokio::pin!(exchange, connection);
    tokio::select! {
        verdict = &mut exchange => verdict,
        // The connection may end as soon as it has handed over the answer, or the error that kept it from coming.
        _ = &mut connection => exchange.await,
    }
}

async fn exchange(mut sender: SendRequest<Empty<Bytes>>, address: SocketAddr, expected: &HttpProbe) -> Verdict {
    let request = request(address, expected)?;
    let response = sender.send_request(request).await.map_err(|error| http_words(&error))?;
    let status = response.status().as_u16();
    if !expected.status.contains(&status) {
        return Err(format!("HTTP {status}"));
    }
    match &expected.body {
        Some(text) if !body_contains(response, text).await? => Err(format!("body does not contain {}", quoted(text))),
        _ => Ok(format!("HTTP {status}")),
    }
}

fn request(address: SocketAddr, expected: &HttpProbe) -> Result<Request<Empty<Bytes>>, String> {
    let host = expected.host.clone().unwrap_or_else(|| match address.port() {
        80 => address.to_string().trim_end_matches(":80").to_owned(),
        _ => address.to_string(),
    });
    Request::get(expected.path.as_str())
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| format!("cannot ask: {error}"))
}

/// Reads until the text is found or enough has been read.
async fn body_contains(mut response: Response<Incoming>, text: &str) -> Result<bool, String> {
    if text.is_empty() {
        return Ok(true);
    }
    let mut read: Vec<u8> = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        let frame = frame.map_err(|error| http_words(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        let room = SEARCHED.saturating_sub(read.len());
        // The text may begin in an earlier frame, but not before what is new less its own length.
        let from = read.len().saturating_sub(text.len());
        read.extend(data.iter().take(room));
        let new = read.get(from..).unwrap_or_default();
        if new.windows(text.len()).any(|window| window == text.as_bytes()) {
            return Ok(true);
        }
        if read.len() >= SEARCHED {
            break;
        }
    }
    Ok(false)
}

fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_CHARS).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

fn http_words(error: &hyper::Error) -> String {
    if error.is_parse() {
        return "the answer is not HTTP/1.1".to_owned();
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return "connection closed before the answer was complete".to_owned();
    }
    match std::error::Error::source(error).and_then(|source| source.downcast_ref()) {
        Some(io_error) => words(io_error),
        None => plain(&error.to_string()),
    }
}
