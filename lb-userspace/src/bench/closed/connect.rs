//! Sockets that leave by one interface, whatever the routing table says meanwhile.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::settings::Settings;

/// Opens connections as the settings say.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    to: SocketAddr,
    interface: String,
    source: Option<IpAddr>,
    reset_close: bool,
}

impl Connector {
    /// For the worker of this number; workers take the sources in turns.
    pub(super) fn new(settings: &Settings, worker: usize) -> Self {
        let sources = &settings.sources;
        Self {
            to: settings.target.to,
            interface: settings.target.interface.clone(),
            source: worker
                .checked_rem(sources.len())
                .and_then(|turn| sources.get(turn).copied()),
            reset_close: settings.reset_close,
        }
    }

    /// A connection of its own.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(
            Domain::for_address(self.to),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.bind_device(Some(self.interface.as_bytes()))?;
        socket.set_tcp_nodelay(true)?;
        if self.reset_close {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        if let Some(source) = self.source {
            // The port is chosen when the destination is known, so that each source has its own range.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        TcpSocket::from_std_stream(socket.into()).connect(self.to).await
    }
}
