//! System calls that no safe library offers: the only unsafe code there is.
#![expect(unsafe_code, reason = "each use says why it is sound")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A descriptor that the process was started with, by its number.
///
/// # Errors
/// It is not open.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    std::fs::metadata(format!("/proc/self/fd/{number}"))?;
    // SAFETY: the descriptor is open, and the contract of whoever started this
    // process says that it was passed to it. It has not touched it before, as
    // the caller asks for each number once: nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What the kernel knows of a TCP connection (tcp(7), `TCP_INFO`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpState {
    /// Bytes that the other side's kernel has said it took (RFC 4898,
    /// `tcpEStatsAppHCThruOctetsAcked`), the one of the handshake among them.
    pub acknowledged: u64,
    /// Nothing comes or goes any more: a reset, or no answer for too long.
    pub is_closed: bool,
}

/// How a TCP connection is. It may have been reset.
///
/// # Errors
/// The socket is none of TCP, or the kernel is older than 4.1.
pub fn tcp_state(socket: impl AsFd) -> io::Result<TcpState> {
    /// `TCP_CLOSE` in the kernel's `tcp_states.h`.
    const CLOSED: u8 = 7;
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call, and the kernel writes
    // no more than the `length` bytes that `info` has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is made of integers, and all of them are set: to zero before
    // the call, or by it.
    let info = unsafe { info.assume_init() };
    let end = std::mem::offset_of!(libc::tcp_info, tcpi_bytes_acked) + size_of::<u64>();
    if (length as usize) < end {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(TcpState {
        acknowledged: info.tcpi_bytes_acked,
        is_closed: info.tcpi_state == CLOSED,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_count_once_the_other_side_took_them() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut near = TcpStream::connect(address).expect("it listens");
        let (mut far, _) = listener.accept().expect("it is there");
        let before = tcp_state(&near).expect("TCP");
        near.write_all(b"hello").expect("it is open");
        let mut five = [0; 5];
        far.read_exact(&mut five).expect("sent");
        far.write_all(b"x").expect("it is open");
        near.read_exact(&mut five[..1])
            .expect("the answer acknowledges");
        let after = tcp_state(&near).expect("TCP");
        assert_eq!(after.acknowledged, before.acknowledged + 5);
        assert!(!after.is_closed);
    }

    #[test]
    fn other_sockets_have_no_state_of_tcp() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        assert!(tcp_state(&one).is_err());
    }

    #[test]
    fn a_number_that_is_not_open_is_an_error() {
        assert!(inherited(RawFd::MAX).is_err());
    }
}
