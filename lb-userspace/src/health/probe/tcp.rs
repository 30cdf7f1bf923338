//! A TCP connection can be opened.

use std::{io, net::SocketAddr};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use super::{Verdict, words};

/// Connects and hangs up.
///
/// With TCP_QUICKACK off, Linux holds back the ACK that would complete the handshake, and with a linger time of zero the
/// close sends a RST in its place. The backend's kernel has shown that it accepts connections, its application never
/// hears of this one and so has nothing to log, and no socket is left in TIME_WAIT. HAProxy's checks do the same.
pub(super) async fn probe(address: SocketAddr) -> Verdict {
    match connect_quietly(address).await {
        Ok(stream) => {
            drop(stream);
            Ok("connected".to_owned())
        }
        Err(error) => Err(words(&error)),
    }
}

async fn connect_quietly(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(address)?;
    SockRef::from(&socket).set_tcp_quickack(false)?;
    socket.connect(address).await
}

/// A socket that is gone when it is closed, also when a timeout closes it.
pub(super) fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv6() {
        TcpSocket::new_v6()
    } else {
        TcpSocket::new_v4()
    }?;
    socket.set_zero_linger()?;
    Ok(socket)
}
