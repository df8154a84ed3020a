//! Socket options of the `tcp_*` settings.

use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// What is set on every TCP connection, towards clients and servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// `tcp_keepalive`.
    pub keepalive: bool,
    /// `tcp_keepidle`; zero is the system's value.
    pub keepalive_idle: Duration,
    /// `tcp_keepintvl`; zero is the system's value.
    pub keepalive_interval: Duration,
    /// `tcp_keepcnt`; 0 is the system's value.
    pub keepalive_count: u32,
    /// `tcp_user_timeout`; zero is the system's value.
    pub user_timeout: Duration,
    /// `tcp_socket_buffer` in bytes; 0 is the system's value.
    pub buffer: usize,
}

impl SocketOptions {
    /// Sets them, and TCP_NODELAY. A refused option is the system's business:
    /// the connection works without it.
    ///
    /// To be set before the socket is connected: a window that is made smaller
    /// later stalls the other side again and again.
    pub fn apply(&self, socket: &impl AsFd) {
        let options = SockRef::from(socket);
        let mut refused = options.set_tcp_nodelay(true).is_err();
        if self.keepalive {
            refused |= options.set_tcp_keepalive(&self.keepalive_times()).is_err();
        }
        if !self.user_timeout.is_zero() {
            refused |= options
                .set_tcp_user_timeout(Some(self.user_timeout))
                .is_err();
        }
        if refused {
            tracing::debug!("a socket option was refused");
        }
        self.apply_buffers(socket);
    }

    /// Sets the buffers alone, on a listening socket from which accepted ones
    /// inherit them: later is too late for them, and the other options are
    /// those of the moment a connection comes.
    pub fn apply_buffers(&self, socket: &impl AsFd) {
        if self.buffer > 0 {
            let socket = SockRef::from(socket);
            let sent = socket.set_send_buffer_size(self.buffer);
            if sent.is_err() || socket.set_recv_buffer_size(self.buffer).is_err() {
                tracing::debug!("the size of a socket's buffers was refused");
            }
        }
    }

    fn keepalive_times(&self) -> TcpKeepalive {
        let mut times = TcpKeepalive::new();
        if !self.keepalive_idle.is_zero() {
            times = times.with_time(self.keepalive_idle);
        }
        if !self.keepalive_interval.is_zero() {
            times = times.with_interval(self.keepalive_interval);
        }
        if self.keepalive_count > 0 {
            times = times.with_retries(self.keepalive_count);
        }
        times
    }
}
