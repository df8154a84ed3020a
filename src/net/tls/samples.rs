//! Certificates for tests, made by openssl: keys on P-256, valid from 2026 on for
//! a hundred years.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// A time at which they all hold, in seconds since 1970.
pub(super) const NOW: u64 = 1798443786;

/// The certificate in one of these texts.
pub(super) fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// Signs the others.
pub(super) const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBfzCCASWgAwIBAgIUJEo5tqk2joGc3yA0QowsGDRig6owCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJQXV0aG9yaXR5MCAXDTI2MTEyODA3NDMwNFoYDzIxMjYxMTA0
MDc0MzA0WjAUMRIwEAYDVQQDDAlBdXRob3JpdHkwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAT+yjN2+hJ9jo65in4YVhpgoyv+tlepdqsYaI285uw/P3haL2Of56d0
qofWl6EgNpzNnTspDzBZcD4cyyPiWU/Po1MwUTAdBgNVHQ4EFgQUxkugeYhZy3HM
WeeDpFLSNZ9KivswHwYDVR0jBBgwFoAUxkugeYhZy3HMWeeDpFLSNZ9KivswDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAp6L4E14KVQ3RGN/uD5ND
uFndaUUz8b3MJ5RVmlnVG4gCIBhD5qdzNuxZwB1TxUhCwN6U8iFU44PA9Gt8sjgJ
VOhC
-----END CERTIFICATE-----
";

/// Has the same name as [`AUTHORITY`], but another key.
pub(super) const OTHER_AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBgDCCASWgAwIBAgIUSCuuMmiFPpLV107ldViVSc1VeTYwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJQXV0aG9yaXR5MCAXDTI2MTEyODA3NDMwNVoYDzIxMjYxMTA0
MDc0MzA1WjAUMRIwEAYDVQQDDAlBdXRob3JpdHkwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQ5qBVvEZcpQKpqV0IDCB9/lrrvkzug9KWYWgyh7PxzvsKIj9ul1qbG
JGlHdcDKexo377255LwvfRzC73svXicCo1MwUTAdBgNVHQ4EFgQUH4+vmhy+LMbX
nBN2BszznjOO5NQwHwYDVR0jBBgwFoAUH4+vmhy+LMbXnBN2BszznjOO5NQwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEAxpMqmWcvv7p7Mg1jbQyy
08FqCxd9C9ypQqj5ASA1GYgCIQCzu1k1QAn0pXYLOpSPn18s0krLvtLqN4s90u4M
8glnAg==
-----END CERTIFICATE-----
";

/// CN=db.example, of version 1.
pub(super) const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBNTCB2wIUfMYTIMxybgTYdhDKh1KeSY3rguUwCgYIKoZIzj0EAwIwFDESMBAG
A1UEAwwJQXV0aG9yaXR5MCAXDTI2MTEyODA3NDMwNVoYDzIxMjYxMTA0MDc0MzA1
WjAkMQ0wCwYDVQQKDARUZXN0MRMwEQYDVQQDDApkYi5leGFtcGxlMFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAE8EMJ/3bZ68Rdv/OSuQoiZSh8lG3idUGNsqz6byi6
lu4ftsF9SNrb7IvBFwb6S5tyXlDkAJFKjxPclkUKa2whqDAKBggqhkjOPQQDAgNJ
ADBGAiEAu09pquVaVXTsDkRMlewbfD+R+N5iltH7pMs852c75RoCIQDb/R0sws1s
ZOkuJZ4eZk9zkOLTFHNZDYQXO8V/M0LOAg==
-----END CERTIFICATE-----
";

/// CN=common.example; one.example, two.example, 127.0.0.1.
pub(super) const VERSION_3: &str = "\
-----BEGIN CERTIFICATE-----
MIIBuDCCAV6gAwIBAgIUfMYTIMxybgTYdhDKh1KeSY3rguYwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJQXV0aG9yaXR5MCAXDTI2MTEyODA3NDMwNVoYDzIxMjYxMTA0
MDc0MzA1WjAoMQ0wCwYDVQQKDARUZXN0MRcwFQYDVQQDDA5jb21tb24uZXhhbXBs
ZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPBDCf922evEXb/zkrkKImUofJRt
4nVBjbKs+m8oupbuH7bBfUja2+yLwRcG+kubcl5Q5ACRSo8T3JZFCmtsIaijeDB2
MCkGA1UdEQQiMCCCC29uZS5leGFtcGxlggt0d28uZXhhbXBsZYcEfwAAATAJBgNV
HRMEAjAAMB0GA1UdDgQWBBSgVaWwXGSUrbiLAtlEnMmdYYNAwTAfBgNVHSMEGDAW
gBTGS6B5iFnLccxZ54OkUtI1n0qK+zAKBggqhkjOPQQDAgNIADBFAiAdoSal3EYA
oLTPAMhWE2lYT6E88AloD23XMvyJocMrWgIhAIqC6Xb0unnZ7WWsxcrbNYkLqW1N
7chkzGgau2x61ypk
-----END CERTIFICATE-----
";

/// The key of [`VERSION_1`] and [`VERSION_3`].
pub(super) const KEY: &str = "\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIBCBw5an8fJNTH3S4zXAvoTuoHsAoO6+vtPYTB7Sry0ioAoGCCqGSM49
AwEHoUQDQgAE8EMJ/3bZ68Rdv/OSuQoiZSh8lG3idUGNsqz6byi6lu4ftsF9SNrb
7IvBFwb6S5tyXlDkAJFKjxPclkUKa2whqA==
-----END EC PRIVATE KEY-----
";
