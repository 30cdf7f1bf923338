//! The wire format: one JSON value a line. Lines are bounded, so that neither side can make the other use memory without end.

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Longest request, newline included, in bytes.
pub const MAX_REQUEST: usize = 1 << 20;

/// Longest reply, newline included, in bytes: some 200,000 flows.
pub const MAX_REPLY: usize = 64 << 20;

/// A line could not be made or understood.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not the JSON that was expected.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Longer than the bound.
    #[error("the message is longer than {limit} bytes")]
    TooLong {
        /// The bound, in bytes.
        limit: usize,
    },
    /// The other side closed the connection within a message.
    #[error("the connection was closed in the middle of a message")]
    Truncated,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A value as one line, newline included.
///
/// # Errors
/// [`CodecError::TooLong`] beyond `limit` bytes; [`CodecError::Json`] if the value has no JSON form.
pub fn encode<T: Serialize>(value: &T, limit: usize) -> Result<Vec<u8>, CodecError> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    if line.len() > limit {
        return Err(CodecError::TooLong { limit });
    }
    Ok(line)
}

/// The value in one line, with or without its newline.
///
/// # Errors
/// [`CodecError::Json`] says what is wrong and in which column.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, CodecError> {
    Ok(serde_json::from_slice(line)?)
}

/// The next line, without its newline; `None` when the other side has closed the connection between lines.
///
/// # Errors
/// [`CodecError::TooLong`] as soon as `limit` bytes have come without a newline: the rest of the line is not read, so that the
/// connection can only be closed. [`CodecError::Truncated`] and [`CodecError::Io`] as their names say.
pub async fn read_line<R>(reader: &mut R, limit: usize) -> Result<Option<Vec<u8>>, CodecError>
where
    R: AsyncBufRead + Unpin,
{
    let mut line = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX);
    let read = reader.take(bound).read_until(b'\n', &mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Some(line));
    }
    if read >= limit {
        return Err(CodecError::TooLong { limit });
    }
    Err(CodecError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{FlowFilter, Request},
        datapath::FlowPlace,
    };

    #[test]
    fn a_request_survives_the_wire() {
        let request = Request::Flows {
            limit: 7,
            filter: FlowFilter {
                service: Some("web \"quoted\"\nnewline".into()),
                client: Some("10.0.0.0/8".parse().unwrap()),
                ..FlowFilter::default()
            },
            from: FlowPlace::default(),
        };
        let line = encode(&request, MAX_REQUEST).unwrap();
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1, "one line");
        assert_eq!(decode::<Request>(&line).unwrap(), request);
    }

    #[test]
    fn a_message_beyond_the_limit_is_refused() {
        let error = encode(&"x".repeat(100), 50).unwrap_err();
        assert!(matches!(error, CodecError::TooLong { limit: 50 }), "{error}");
    }

    #[tokio::test]
    async fn lines_are_bounded_and_must_be_whole() {
        let mut input: &[u8] = b"one\ntwo";
        assert_eq!(read_line(&mut input, 16).await.unwrap().unwrap(), b"one");
        assert!(matches!(read_line(&mut input, 16).await, Err(CodecError::Truncated)));
        let mut long: &[u8] = b"0123456789\n";
        assert!(matches!(
            read_line(&mut long, 10).await,
            Err(CodecError::TooLong { .. })
        ));
        let mut fits: &[u8] = b"012345678\n";
        assert_eq!(read_line(&mut fits, 10).await.unwrap().unwrap(), b"012345678");
        assert_eq!(read_line(&mut fits, 10).await.unwrap(), None);
    }
}
