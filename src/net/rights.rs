//! Descriptors on their way through a Unix socket (SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors taken with one read at most. The system never joins those of
/// two messages.
const MOST: usize = 16;

/// Sends bytes with a descriptor; answers how many.
///
/// # Errors
/// The socket's.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let parts = [IoSlice::new(bytes)];
    Ok(sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?)
}

/// Reads bytes, and adds the descriptors that came with them. 0 is the end.
///
/// # Errors
/// The socket's, and `InvalidData` if descriptors were lost.
pub fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut impl Extend<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "descriptors were lost",
        ));
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_bytes_and_works() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (mut near, far) = UnixStream::pair().expect("a pair");
        assert_eq!(send(ours.as_fd(), b"row", far.as_fd()).expect("room"), 3);
        drop(far);
        let (mut bytes, mut descriptors) = ([0; 100], Vec::new());
        let count = receive(theirs.as_fd(), &mut bytes, &mut descriptors).expect("it came");
        assert_eq!((&bytes[..count], descriptors.len()), (&b"row"[..], 1));
        let mut far = UnixStream::from(descriptors.remove(0));
        near.write_all(b"x").expect("room");
        let mut byte = [0];
        far.read_exact(&mut byte).expect("it came");
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn what_comes_before_and_after_is_told_apart() {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        let (_, far) = UnixStream::pair().expect("a pair");
        ours.write_all(b"a").expect("room");
        for byte in [b"b", b"c"] {
            send(ours.as_fd(), byte, far.as_fd()).expect("room");
        }
        ours.write_all(b"d").expect("room");
        drop(ours);
        let (mut all, mut descriptors) = (Vec::new(), Vec::new());
        loop {
            let mut bytes = [0; 100];
            match receive(theirs.as_fd(), &mut bytes, &mut descriptors).expect("it came") {
                0 => break,
                count => all.extend_from_slice(&bytes[..count]),
            }
        }
        assert_eq!((&all[..], descriptors.len()), (&b"abcd"[..], 2));
    }
}
