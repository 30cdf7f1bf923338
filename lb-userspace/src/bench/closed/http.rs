//! HTTP/1.1 requests on connections that last as long as both sides like.

use std::{pin::Pin, str};

use futures_util::FutureExt;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    failure::{Failure, FailureKind},
    settings::{Http, Spread},
    tally::Answer,
};

/// Shown in the servers' access logs.
const USER_AGENT: &str = concat!("lb/", env!("CARGO_PKG_VERSION"), " (bench)");
/// Of a body, this much is searched for the first word.
const LONGEST_WORD: usize = 64;
/// What an answer is filed under that does not tell who gave it.
const NAMELESS: &str = "(not told)";

type Driver = Pin<Box<http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>>>;

/// A connection that requests are sent on. It is driven by the future that asks: when that is dropped, the socket closes.
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: Option<Driver>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum AskError {
    /// The server had ended the connection before it saw the request: ask on another one.
    Stale,
    /// Anything else.
    Failed(Failure),
}

impl From<hyper::Error> for AskError {
    fn from(error: hyper::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Failure> for AskError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The request that is sent again and again.
///
/// # Errors
/// When method, path and host do not make one.
pub(super) fn request(http: &Http) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    let mut request = Request::builder()
        .method(&http.method)
        .uri(&http.path)
        .header(header::HOST, &http.host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .body(Empty::new())?;
    if !http.keep_alive {
        let close = HeaderValue::from_static("close");
        request.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(request)
}

impl Connection {
    /// Speaks HTTP on an open stream; nothing is sent yet.
    ///
    /// # Errors
    /// As hyper says.
    pub(super) async fn new(stream: TcpStream) -> Result<Self, Failure> {
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self {
            sender,
            driver: Some(Box::pin(driver)),
        })
    }

    /// Whether it can carry another request, as far as this side knows.
    pub(super) fn is_alive(&mut self) -> bool {
        let ended = self
            .driver
            .as_mut()
            .is_none_or(|driver| driver.as_mut().now_or_never().is_some());
        if ended {
            self.driver = None;
        }
        !ended && !self.sender.is_closed()
    }

    /// One request and its whole answer.
    pub(super) async fn ask(
        &mut self,
        request: Request<Empty<Bytes>>,
        spread: Option<&Spread>,
    ) -> Result<Answer, AskError> {
        let Some(driver) = &mut self.driver else {
            return Err(AskError::Stale);
        };
        let exchange = exchange(&mut self.sender, request, spread);
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            // The connection may end as soon as it has handed over the answer, or the error that kept it from coming.
            _ = driver => {
                self.driver = None;
                exchange.await
            }
        }
    }
}

async fn exchange(
    sender: &mut SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
    spread: Option<&Spread>,
) -> Result<Answer, AskError> {
    sender.ready().await.map_err(|_closed| AskError::Stale)?;
    let response = match sender.send_request(request).await {
        Err(error) if error.is_canceled() => return Err(AskError::Stale),
        other => other?,
    };
    Ok(read(response, spread).await?)
}

async fn read(mut response: Response<Incoming>, spread: Option<&Spread>) -> Result<Answer, Failure> {
    let mut answer = Answer {
        status: Some(response.status().as_u16()),
        ..Answer::default()
    };
    if let Some(Spread::Header(name)) = spread {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        answer.from = Some(value.unwrap_or(NAMELESS).chars().take(LONGEST_WORD).collect());
    }
    let mut head = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        let frame = frame?;
        let Some(data) = frame.data_ref() else { continue };
        answer.bytes += data.len() as u64;
        if spread == Some(&Spread::Body) {
            head.extend(data.iter().take(LONGEST_WORD.saturating_sub(head.len())));
        }
    }
    if spread == Some(&Spread::Body) {
        answer.from = Some(first_word(&head));
    }
    Ok(answer)
}

fn first_word(head: &[u8]) -> String {
    let text = head.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    text.split_whitespace().next().unwrap_or(NAMELESS).to_owned()
}

impl AskError {
    /// On a connection that was fresh, a stale one is a failure like any other.
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Failed(failure) => failure,
            Self::Stale => Failure::new(FailureKind::Closed, "closed by the other side before it answered"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_of_a_body_names_its_server() {
        assert_eq!(first_word(b"s1 10.0.0.1 4711\n"), "s1");
        assert_eq!(first_word(b"\n  web-2"), "web-2");
        assert_eq!(first_word(b"web\xff-2"), "web");
        assert_eq!(first_word(b""), NAMELESS);
    }
}
