//! One TCP connection: opened, used if there is something to say, closed.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    failure::{Failure, FailureKind},
    settings::Tcp,
    tally::Answer,
};

/// What one read takes at most, in bytes.
const CHUNK: usize = 16 * 1024;

/// Sends and expects what the settings say. The connection closes when it is dropped.
pub(super) async fn exchange(mut stream: TcpStream, tcp: Tcp, payload: &[u8]) -> Result<Answer, Failure> {
    if !payload.is_empty() {
        stream.write_all(payload).await?;
    }
    let mut buffer = [0; CHUNK];
    let mut missing = tcp.expect;
    while missing > 0 {
        let room = buffer.get_mut(..missing.min(CHUNK)).unwrap_or_default();
        let read = stream.read(room).await?;
        if read == 0 {
            let words = format!(
                "closed by the other side with {missing} of {} bytes missing",
                tcp.expect
            );
            return Err(Failure::new(FailureKind::Closed, words));
        }
        missing = missing.saturating_sub(read);
    }
    Ok(Answer {
        bytes: tcp.expect as u64,
        ..Answer::default()
    })
}
