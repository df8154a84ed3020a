//! Who a client is, in the words of a proxy that passes its connection on
//! (PROXY protocol, versions 1 and 2, `proxy-protocol.txt` of HAProxy).
//!
//! Such a proxy says first of all, before TLS, whose connection it is. It is
//! listened to only where `proxy_protocol_from` names it: there its words have
//! to come, and anywhere else they are what the client says, and no HTTP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How version 1 begins.
const TEXT: &[u8; 6] = b"PROXY ";

/// Longest line of version 1, with its end, in bytes (section 2.1).
pub(crate) const LINE_MAX: usize = 107;

/// How version 2 begins (section 2.2).
pub(crate) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What version 2 always has: signature, command, family, and the length of
/// the rest.
pub(crate) const FIXED: usize = 16;

/// Longest rest taken, in bytes. Addresses are 216 at most; what else a proxy
/// tells (TLVs, the client's certificate among them) is skipped.
pub(crate) const REST_MAX: usize = 4096;

/// What a proxy says of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes it takes.
    pub(crate) length: usize,
    /// The client. None where the connection is the proxy's own, a health
    /// check for instance, or where it does not know, or where it is no
    /// connection over IP.
    pub(crate) client: Option<SocketAddr>,
}

/// What came is no such header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads the header that these bytes begin with; none if it is not complete.
/// That is known within [`FIXED`] + [`REST_MAX`] bytes.
///
/// # Errors
/// They begin with something else.
pub(crate) fn header(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if begins(bytes, TEXT) {
        line(bytes)
    } else if begins(bytes, SIGNATURE) {
        binary(bytes)
    } else {
        Err(Malformed)
    }
}

/// Whether the bytes are the beginning of this word, or go on behind it.
fn begins(bytes: &[u8], word: &[u8]) -> bool {
    let known = bytes.len().min(word.len());
    bytes[..known] == word[..known]
}

/// Version 1: a line of text.
fn line(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let seen = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = seen.iter().position(|byte| !matches!(byte, b' '..=b'~')) else {
        return match seen.len() {
            LINE_MAX => Err(Malformed),
            _ => Ok(None),
        };
    };
    match &seen[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if seen.len() < LINE_MAX => return Ok(None),
        _ => return Err(Malformed),
    }
    let text = str::from_utf8(&seen[..end]).map_err(|_| Malformed)?;
    let mut words = text.split(' ').skip(1);
    let is_v4 = match words.next() {
        Some("TCP4") => true,
        Some("TCP6") => false,
        // What else it says is not for us.
        Some("UNKNOWN") => {
            return Ok(Some(Header {
                length: end + 2,
                client: None,
            }));
        }
        _ => return Err(Malformed),
    };
    let rest: Vec<&str> = words.collect();
    // Client and proxy: addresses, then ports.
    let [client, proxy, client_port, proxy_port] = rest[..] else {
        return Err(Malformed);
    };
    let address = |text: &str| {
        let address: IpAddr = text.parse().map_err(|_| Malformed)?;
        match address.is_ipv4() == is_v4 {
            true => Ok(address),
            false => Err(Malformed),
        }
    };
    address(proxy)?;
    port(proxy_port)?;
    Ok(Some(Header {
        length: end + 2,
        client: Some(SocketAddr::new(address(client)?, port(client_port)?)),
    }))
}

/// A port as it is written: no sign, no zeros before it.
fn port(text: &str) -> Result<u16, Malformed> {
    let port: u16 = text.parse().map_err(|_| Malformed)?;
    match port.to_string() == text {
        true => Ok(port),
        false => Err(Malformed),
    }
}

/// Version 2: fixed places.
fn binary(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(None);
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    // Version, then LOCAL or PROXY; what carries the connection, and how.
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed),
    };
    if family >> 4 > 3 || family & 0xf > 2 || length > REST_MAX {
        return Err(Malformed);
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(None);
    };
    let client = match family {
        _ if is_local => None,
        0x11 => Some(client(rest, Ipv4Addr::from)?),
        0x21 => Some(client(rest, Ipv6Addr::from)?),
        // Datagrams, Unix sockets, and what it does not know.
        _ => None,
    };
    Ok(Some(Header {
        length: FIXED + length,
        client,
    }))
}

/// The first of two addresses of this size, and the first of the two ports
/// behind them.
fn client<const SIZE: usize, T: Into<IpAddr>>(
    rest: &[u8],
    of: impl Fn([u8; SIZE]) -> T,
) -> Result<SocketAddr, Malformed> {
    let (address, rest) = rest.split_first_chunk().ok_or(Malformed)?;
    let ports = rest.get(SIZE..SIZE + 4).ok_or(Malformed)?;
    let port = u16::from_be_bytes([ports[0], ports[1]]);
    Ok(SocketAddr::new(of(*address).into(), port))
}

/// Reads a header off a connection. With it comes what was read behind it,
/// [`FIXED`] + [`REST_MAX`] bytes at most. None if nothing came at all.
///
/// # Errors
/// The socket's; `InvalidData` where something else came, or not all of it.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(Header, Vec<u8>)>> {
    let mut bytes = Vec::with_capacity(FIXED + REST_MAX);
    loop {
        let count = stream.read_buf(&mut bytes).await?;
        match header(&bytes) {
            Ok(Some(header)) => {
                let behind = bytes.split_off(header.length);
                return Ok(Some((header, behind)));
            }
            Ok(None) if count > 0 => {}
            Ok(None) if bytes.is_empty() => return Ok(None),
            Ok(None) | Err(Malformed) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header of version 2 with this command, family and rest.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("a short one");
        let fixed = [&[command, family][..], &length.to_be_bytes()].concat();
        [&SIGNATURE[..], &fixed, rest].concat()
    }

    fn told(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
        header(bytes)
    }

    fn client(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn a_line_names_the_client() {
        for (line, expected) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
                client("192.0.2.1:56324"),
            ),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n",
                client("255.255.255.255:65535"),
            ),
            (
                "PROXY TCP6 2001:db8::1 ::1 1 2\r\n",
                client("[2001:db8::1]:1"),
            ),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 whatever 1\r\n", None),
        ] {
            let length = line.len();
            let header = Header {
                length,
                client: expected,
            };
            assert_eq!(told(line.as_bytes()), Ok(Some(header)), "{line}");
            let more = format!("{line}GET / HTTP/1.1\r\n");
            assert_eq!(told(more.as_bytes()), Ok(Some(header)), "{line}");
        }
    }

    #[test]
    fn the_fixed_places_name_the_client() {
        let v4 = [&[192, 0, 2, 1, 198, 51, 100, 1][..], &[0xdc, 4, 1, 187]].concat();
        let mut v6 = vec![0; 36];
        v6[15] = 1;
        v6[33] = 7;
        let with_more = [&v4[..], &[4, 0, 2, 1, 1]].concat();
        for (command, family, rest, expected) in [
            (0x21, 0x11, &v4, client("192.0.2.1:56324")),
            (0x21, 0x11, &with_more, client("192.0.2.1:56324")),
            (0x21, 0x21, &v6, client("[::1]:7")),
            (0x20, 0x11, &v4, None),
            (0x20, 0x00, &Vec::new(), None),
            (0x21, 0x00, &v4, None),
            (0x21, 0x12, &v4, None),
            (0x21, 0x31, &vec![b'/'; 216], None),
        ] {
            let bytes = binary(command, family, rest);
            let length = bytes.len();
            let header = Header {
                length,
                client: expected,
            };
            assert_eq!(told(&bytes), Ok(Some(header)), "{bytes:x?}");
            for end in 0..length {
                assert_eq!(told(&bytes[..end]), Ok(None), "{end}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY \r\n",
            "PROXY UNKNOWN \0\r\n",
        ] {
            assert_eq!(told(line.as_bytes()), Err(Malformed), "{line:?}");
        }
        for bytes in [
            binary(0x11, 0x11, &[0; 12]),
            binary(0x22, 0x11, &[0; 12]),
            binary(0x21, 0x41, &[0; 12]),
            binary(0x21, 0x13, &[0; 12]),
            binary(0x21, 0x11, &[0; 11]),
            binary(0x21, 0x21, &[0; 35]),
            binary(0x20, 0x11, &[0; REST_MAX + 1]),
        ] {
            assert_eq!(told(&bytes), Err(Malformed), "{bytes:x?}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused_when_it_is_too_long() {
        let line = |length: usize| format!("{:x<length$}\r\n", "PROXY UNKNOWN ");
        let longest = line(LINE_MAX - 2);
        let length = LINE_MAX;
        assert_eq!(
            told(longest.as_bytes()),
            Ok(Some(Header {
                length,
                client: None
            }))
        );
        assert_eq!(told(line(LINE_MAX - 1).as_bytes()), Err(Malformed));
        let open = line(LINE_MAX);
        assert_eq!(told(&open.as_bytes()[..LINE_MAX - 1]), Ok(None));
        assert_eq!(told(&open.as_bytes()[..LINE_MAX]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn what_a_proxy_writes_is_what_is_read(
            address: IpAddr, port: u16, more in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let client = SocketAddr::new(address, port);
            let family = if address.is_ipv4() { "TCP4" } else { "TCP6" };
            let line = format!("PROXY {family} {address} {address} {port} 80\r\n");
            prop_assert!(line.len() <= LINE_MAX);
            let (octets, family) = match address {
                IpAddr::V4(it) => (it.octets().to_vec(), 0x11),
                IpAddr::V6(it) => (it.octets().to_vec(), 0x21),
            };
            let rest = [&octets[..], &octets, &port.to_be_bytes(), &[0, 80], &more].concat();
            for bytes in [line.into_bytes(), binary(0x21, family, &rest)] {
                let length = bytes.len();
                let expected = Header { length, client: Some(client) };
                prop_assert_eq!(told(&bytes), Ok(Some(expected)));
                for end in 0..length {
                    prop_assert_eq!(told(&bytes[..end]), Ok(None));
                }
                let with_more = [&bytes[..], &more].concat();
                prop_assert_eq!(told(&with_more), Ok(Some(expected)));
            }
        }

        #[test]
        fn any_bytes_are_decided_on_in_bounds(
            version: bool, bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let start = if version { &TEXT[..] } else { &SIGNATURE[..] };
            let bytes = [start, &bytes].concat();
            if let Ok(Some(header)) = told(&bytes) {
                prop_assert!(header.length <= bytes.len());
                prop_assert!(header.length <= FIXED + REST_MAX);
            }
        }
    }
}
