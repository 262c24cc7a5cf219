//! A connection on which anything can be written, whether it is HTTP or not.

use crate::app::WAIT;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// A connection.
pub(crate) struct Raw {
    stream: TcpStream,
    held: Vec<u8>,
}

impl Raw {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = timeout(WAIT, TcpStream::connect(address)).await.expect("in time").expect("connects");
        Self { stream, held: Vec::new() }
    }

    /// Connects with room for few bytes that have not been read.
    pub(crate) async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let stream = timeout(WAIT, socket.connect(address)).await.expect("in time").expect("connects");
        Self { stream, held: Vec::new() }
    }

    /// Writes bytes as they are.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        timeout(WAIT, self.stream.write_all(bytes)).await.expect("in time").expect("is written");
    }

    /// Writes bytes, which the other side may refuse.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        timeout(WAIT, self.stream.write_all(bytes)).await.expect("in time")
    }

    /// Says that nothing more will be written.
    pub(crate) async fn shut(&mut self) {
        self.stream.shutdown().await.expect("the other side is there");
    }

    /// Reads until this has come, and returns all up to and with it.
    pub(crate) async fn until(&mut self, mark: &str) -> String {
        loop {
            let at = self.held.windows(mark.len()).position(|window| window == mark.as_bytes());
            if let Some(at) = at {
                let rest = self.held.split_off(at + mark.len());
                return String::from_utf8(std::mem::replace(&mut self.held, rest)).expect("text");
            }
            let mut piece = [0; 4096];
            let count = timeout(WAIT, self.stream.read(&mut piece)).await.expect("in time").expect("is read");
            let held = String::from_utf8_lossy(&self.held);
            assert!(count > 0, "closed before `{}` came: {held}", mark.escape_debug());
            self.held.extend_from_slice(&piece[..count]);
        }
    }

    /// Reads until the other side closes the connection, which it must do in time.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = std::mem::take(&mut self.held);
        match timeout(WAIT, self.stream.read_to_end(&mut bytes)).await.expect("the other side closes in time") {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{error}"),
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
