//! What an X.509 certificate says, as far as it is asked here.
//!
//! Certificates of version 3 are verified by rustls, which does not show what
//! is in them. This reads names, for users and hosts, and those certificates
//! of version 1 that `openssl x509 -req` makes and rustls does not take.

use std::net::IpAddr;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const BOOLEAN: u8 = 0x01;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const T61_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]` in front of the certificate's version.
const VERSION: u8 = 0xa0;
/// `[0]` in front of the hash in the parameters of RSASSA-PSS.
const PSS_HASH: u8 = 0xa0;
/// `[3]` in front of its extensions.
const EXTENSIONS: u8 = 0xa3;
/// `dNSName` in a subject's other names.
const DNS_NAME: u8 = 0x82;
/// `iPAddress` there.
const IP_ADDRESS: u8 = 0x87;

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// The parts of a certificate. Nothing of it has been verified.
#[derive(Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// What the issuer signed.
    pub(super) signed: &'a [u8],
    /// Of version 1, which has no extensions.
    pub(super) is_version_1: bool,
    /// Content of the issuer's name.
    pub(super) issuer: &'a [u8],
    /// Seconds since 1970 from which and until which it holds.
    pub(super) validity: (i64, i64),
    /// Content of the subject's name.
    subject: &'a [u8],
    /// The key with its algorithm, as SubjectPublicKeyInfo.
    pub(super) key_info: &'a [u8],
    /// Content of the key's algorithm.
    pub(super) key_algorithm: &'a [u8],
    /// The key.
    pub(super) key: &'a [u8],
    extensions: Option<&'a [u8]>,
    /// Content of the signature's algorithm.
    pub(super) signature_algorithm: &'a [u8],
    /// The issuer's signature.
    pub(super) signature: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Reads a certificate in DER. None if it is malformed.
    pub fn read(der: &'a [u8]) -> Option<Certificate<'a>> {
        let mut outer = Der(der);
        let mut whole = Der(outer.expect(SEQUENCE)?);
        let (tag, content, signed) = whole.next()?;
        let signature_algorithm = whole.expect(SEQUENCE)?;
        let signature = whole.bits()?;
        if tag != SEQUENCE || !whole.is_empty() || !outer.is_empty() {
            return None;
        }
        let mut body = Der(content);
        let version = body.optional(VERSION);
        body.next()?; // The serial number.
        if body.expect(SEQUENCE)? != signature_algorithm {
            return None;
        }
        let issuer = body.expect(SEQUENCE)?;
        let mut validity = Der(body.expect(SEQUENCE)?);
        let validity = (validity.time()?, validity.time()?);
        let subject = body.expect(SEQUENCE)?;
        let (tag, content, key_info) = body.next()?;
        let mut key = Der(content);
        let key_algorithm = key.expect(SEQUENCE)?;
        let key = key.bits()?;
        if tag != SEQUENCE {
            return None;
        }
        let mut extensions = None;
        while let Some((tag, content, _)) = body.next() {
            if tag == EXTENSIONS {
                extensions = Some(Der(content).expect(SEQUENCE)?);
            }
        }
        Some(Certificate {
            signed,
            is_version_1: version.is_none() && extensions.is_none(),
            issuer,
            validity,
            subject,
            key_info,
            key_algorithm,
            key,
            extensions,
            signature_algorithm,
            signature,
        })
    }

    /// The subject's common name; the first, if there are several.
    pub fn common_name(&self) -> Option<&'a str> {
        let mut parts = Der(self.subject);
        while let Some(part) = parts.expect(SET) {
            let mut pairs = Der(part);
            while let Some(pair) = pairs.expect(SEQUENCE) {
                let mut pair = Der(pair);
                if pair.expect(OBJECT_ID)? == COMMON_NAME {
                    return pair.text();
                }
            }
        }
        None
    }

    /// The subject's DNS names.
    pub fn dns_names(&self) -> Vec<&'a str> {
        self.other_names(DNS_NAME, plain)
    }

    /// The subject's IP addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.other_names(IP_ADDRESS, |name| {
            let v4 = <[u8; 4]>::try_from(name).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(name).map(IpAddr::from))
                .ok()
        })
    }

    fn other_names<T>(&self, wanted: u8, read: impl Fn(&'a [u8]) -> Option<T>) -> Vec<T> {
        let mut found = Vec::new();
        let mut names = Der(self.extension(SUBJECT_ALT_NAME).unwrap_or_default());
        let mut names = Der(names.expect(SEQUENCE).unwrap_or_default());
        while let Some((tag, name, _)) = names.next() {
            if tag == wanted {
                found.extend(read(name));
            }
        }
        found
    }

    /// The algorithm of the issuer's signature, and that of its hash where the
    /// parameters tell (RSASSA-PSS).
    pub(super) fn signed_by(&self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let mut algorithm = Der(self.signature_algorithm);
        let id = algorithm.expect(OBJECT_ID)?;
        let mut parameters = Der(algorithm.optional(SEQUENCE).unwrap_or_default());
        let mut hash = Der(parameters.optional(PSS_HASH).unwrap_or_default());
        let mut hash = Der(hash.optional(SEQUENCE).unwrap_or_default());
        Some((id, hash.optional(OBJECT_ID)))
    }

    /// Content of the subject's name.
    pub(super) fn subject(&self) -> &'a [u8] {
        self.subject
    }

    /// Whether it holds at this time, in seconds since 1970.
    pub(super) fn is_valid_at(&self, now: i64) -> bool {
        (self.validity.0..=self.validity.1).contains(&now)
    }

    fn extension(&self, wanted: &[u8]) -> Option<&'a [u8]> {
        let mut extensions = Der(self.extensions?);
        while let Some(extension) = extensions.expect(SEQUENCE) {
            let mut extension = Der(extension);
            let id = extension.expect(OBJECT_ID)?;
            extension.optional(BOOLEAN); // Critical.
            if id == wanted {
                return extension.expect(OCTET_STRING);
            }
        }
        None
    }
}

/// A name without anything that ends it early somewhere else.
fn plain(name: &[u8]) -> Option<&str> {
    let name = str::from_utf8(name).ok()?;
    (!name.contains('\0') && !name.is_empty()).then_some(name)
}

/// Bytes in DER that are read from the front.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next value: its tag, its content, and all of it.
    fn next(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (len, head) = match first {
            0..=0x7f => (usize::from(first), 2),
            0x81..=0x83 => {
                let count = usize::from(first & 0x7f);
                let bytes = rest.get(..count)?;
                let len = bytes
                    .iter()
                    .fold(0, |len, &byte| len << 8 | usize::from(byte));
                (len, 2 + count)
            }
            _ => return None,
        };
        let whole = self.0.get(..head + len)?;
        self.0 = &self.0[head + len..];
        Some((tag, &whole[head..], whole))
    }

    /// The content of the next value, which has to have this tag.
    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let (tag, content, _) = self.next()?;
        (tag == wanted).then_some(content)
    }

    /// The content of the next value, if it has this tag.
    fn optional(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let found = self.0.first() == Some(&wanted);
        found.then(|| self.expect(wanted)).flatten()
    }

    /// A bit string of whole bytes.
    fn bits(&mut self) -> Option<&'a [u8]> {
        match self.expect(BIT_STRING)? {
            [0, bytes @ ..] => Some(bytes),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<&'a str> {
        let (tag, content, _) = self.next()?;
        let texts = [UTF8_STRING, PRINTABLE_STRING, T61_STRING, IA5_STRING];
        plain(content).filter(|_| texts.contains(&tag))
    }

    /// A time in seconds since 1970.
    fn time(&mut self) -> Option<i64> {
        let (tag, content, _) = self.next()?;
        let text = str::from_utf8(content).ok()?.strip_suffix('Z')?;
        let digits = |range| {
            text.get::<std::ops::Range<usize>>(range)?
                .parse::<i8>()
                .ok()
        };
        let (year, at) = match tag {
            UTC_TIME if text.len() == 12 => {
                let year = i16::from(digits(0..2)?);
                (if year < 50 { 2000 + year } else { 1900 + year }, 2)
            }
            GENERALIZED_TIME if text.len() == 14 => (text.get(0..4)?.parse().ok()?, 4),
            _ => return None,
        };
        let two = |nth: usize| digits(at + 2 * nth..at + 2 * nth + 2);
        let time = DateTime::new(year, two(0)?, two(1)?, two(2)?, two(3)?, two(4)?, 0).ok()?;
        let time = time.to_zoned(TimeZone::UTC).ok()?;
        Some(time.timestamp().as_second())
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{self, AUTHORITY, NOW, VERSION_1, VERSION_3};
    use super::*;

    #[test]
    fn names_are_read_from_both_versions() {
        let cases = [
            (VERSION_1, true, "db.example", vec![]),
            (
                VERSION_3,
                false,
                "common.example",
                vec!["one.example", "two.example"],
            ),
            (AUTHORITY, false, "Authority", vec![]),
        ];
        for (pem, is_version_1, common_name, dns_names) in cases {
            let der = samples::der(pem);
            let certificate = Certificate::read(&der).expect("a certificate");
            assert_eq!(certificate.is_version_1, is_version_1, "{common_name}");
            assert_eq!(certificate.common_name(), Some(common_name));
            assert_eq!(certificate.dns_names(), dns_names);
        }
    }

    #[test]
    fn a_certificate_holds_from_its_first_to_its_last_second() {
        let der = samples::der(VERSION_1);
        let certificate = Certificate::read(&der).expect("a certificate");
        let (first, last) = certificate.validity;
        assert_eq!(last - first, 36_500 * 24 * 60 * 60);
        let now = i64::try_from(NOW).expect("it is not that late");
        for (time, holds) in [
            (first - 1, false),
            (first, true),
            (now, true),
            (last, true),
            (last + 1, false),
        ] {
            assert_eq!(certificate.is_valid_at(time), holds, "{time}");
        }
    }

    #[test]
    fn times_are_read_in_both_notations() {
        let cases: [(&[u8], Option<i64>); 6] = [
            (b"\x17\x0d700101000001Z", Some(1)),
            (b"\x17\x0d491231235959Z", Some(2_524_607_999)),
            (b"\x18\x0f19700101000001Z", Some(1)),
            (b"\x18\x0f20500101000000Z", Some(2_524_608_000)),
            (b"\x17\x0d701301000001Z", None),
            (b"\x17\x0d70010100000+0", None),
        ];
        for (der, time) in cases {
            assert_eq!(Der(der).time(), time, "{der:?}");
        }
    }

    #[test]
    fn a_name_with_a_nul_in_it_is_none() {
        assert_eq!(plain(b"alice"), Some("alice"));
        assert_eq!(plain(b"alice\0.evil"), None);
        assert_eq!(plain(b""), None);
        assert_eq!(plain(&[0xff]), None);
    }

    #[test]
    fn what_is_cut_or_has_more_behind_it_is_no_certificate() {
        let der = samples::der(VERSION_3);
        for end in 0..der.len() {
            assert_eq!(Certificate::read(&der[..end]), None, "{end}");
        }
        let longer = [&der[..], b"\0"].concat();
        assert_eq!(Certificate::read(&longer), None);
    }
}
