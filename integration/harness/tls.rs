//! Certificates, a PostgreSQL with TLS, and tunnels through which plain clients
//! speak TLS.

use super::DEADLINE;
use super::frontend::ssl_request;
use super::postgres::Postgres;
use super::process::{self, Folder};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A folder of keys and certificates, made by openssl: `NAME.key`, `NAME.crt`.
#[derive(Debug)]
pub(crate) struct Certificates(Folder);

impl Certificates {
    /// Those that all tests share: authorities `ca` and `other-ca`; of the
    /// first the servers' `localhost` and `renewed` (of version 3) and `old`
    /// (of version 1), `rsa` (signed with SHA-384 and RSA-PSS by itself) and
    /// `ed25519` (signed by itself), the clients' `alice`, `bob` and
    /// `scram_user`; of the second `stranger`, which says it is alice.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Certificates> = OnceLock::new();
        SHARED.get_or_init(|| {
            let made = Certificates(Folder::new("certificates"));
            made.authority("ca");
            made.authority("other-ca");
            made.leaf(
                "localhost",
                "localhost",
                "ca",
                "subjectAltName=DNS:localhost",
            );
            made.leaf("renewed", "localhost", "ca", "subjectAltName=DNS:localhost");
            made.leaf("old", "localhost", "ca", "");
            made.leaf("alice", "alice", "ca", "");
            made.leaf("bob", "bob", "ca", "");
            made.leaf("scram_user", "scram_user", "ca", "");
            made.leaf("stranger", "alice", "other-ca", "");
            made.own("rsa", "rsa:2048 -sha384 -sigopt rsa_padding_mode:pss");
            made.own("ed25519", "ed25519");
            made
        })
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// As [`path`](Self::path), for settings.
    pub(crate) fn name(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }

    fn openssl(&self, arguments: &str) {
        let mut command = process::server_command(Path::new("openssl"), "KILL");
        command
            .args(arguments.split(' '))
            .current_dir(self.0.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let ended = process::spawn(command).wait().expect("openssl ends");
        assert!(ended.success(), "openssl {arguments}");
    }

    fn key(&self, name: &str) {
        self.openssl(&format!(
            "ecparam -genkey -noout -name prime256v1 -out {name}.key"
        ));
    }

    fn authority(&self, name: &str) {
        self.key(name);
        self.openssl(&format!(
            "req -new -x509 -key {name}.key -days 100 -subj /CN={name} -out {name}.crt"
        ));
    }

    /// A server's, signed by itself.
    fn own(&self, name: &str, key: &str) {
        self.openssl(&format!(
            "req -new -x509 -nodes -newkey {key} -keyout {name}.key -days 100 \
             -subj /CN=localhost -out {name}.crt"
        ));
    }

    fn leaf(&self, name: &str, common_name: &str, authority: &str, extension: &str) {
        self.key(name);
        self.openssl(&format!(
            "req -new -key {name}.key -subj /CN={common_name} -out {name}.csr"
        ));
        let extensions = match extension {
            "" => String::new(),
            extension => {
                self.0.write(&format!("{name}.ext"), extension);
                format!(" -extfile {name}.ext")
            }
        };
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {authority}.crt -CAkey {authority}.key \
             -CAcreateserial -days 100{extensions} -out {name}.crt"
        ));
    }
}

/// A PostgreSQL with TLS that all tests share. Its certificate is `localhost`;
/// scram_user has to show one of `ca`, bob needs TLS, carol is asked for SCRAM
/// over TLS, all others may choose.
pub(crate) fn postgres() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| {
        let postgres = Postgres::dedicated();
        let certificates = Certificates::shared();
        let mut session = postgres.session("postgres");
        let rules = session.value("show hba_file");
        let old = std::fs::read_to_string(&rules).expect("the rules");
        let new = "hostssl all scram_user all cert\nhostssl all bob all trust\n\
                   hostssl all carol all scram-sha-256\n\
                   hostnossl all bob all reject\n";
        std::fs::write(&rules, format!("{new}{old}")).expect("our own folder");
        for (setting, file) in [
            ("ssl_cert_file", "localhost.crt"),
            ("ssl_key_file", "localhost.key"),
            ("ssl_ca_file", "ca.crt"),
        ] {
            let file = certificates.name(file);
            session.run(&format!("alter system set {setting} = '{file}'"));
        }
        session.run("alter system set ssl = on");
        session.run("select pg_reload_conf()");
        super::becomes("TLS is on", "on".to_owned(), || {
            postgres.session("postgres").value("show ssl")
        });
        postgres
    })
}

/// How a tunnel speaks to the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// SSLRequest first.
    Request,
    /// The handshake at once, with this ALPN protocol.
    Direct(&'static str),
    /// The handshake at once, without ALPN.
    DirectWithoutAlpn,
}

/// Listens in clear, and carries each connection over TLS to one target, whose
/// certificate has to be `localhost` of `ca`.
#[derive(Debug)]
pub(crate) struct Tunnel {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Tunnel {
    pub(crate) fn start(target: SocketAddr, opening: Opening) -> Self {
        Self::listen(target, opening, None)
    }

    /// One that ends its clients' TLS too, with the certificate `renewed`:
    /// somebody between.
    pub(crate) fn intercepting(target: SocketAddr) -> Self {
        Self::listen(target, Opening::Request, Some(own_config()))
    }

    fn listen(target: SocketAddr, opening: Opening, own: Option<Arc<ServerConfig>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("a socket");
        let config = config(opening);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            while let Ok((client, _)) = listener.accept().await {
                client.set_nodelay(true).ok();
                let (config, own) = (config.clone(), own.clone());
                tokio::spawn(async move {
                    match own {
                        None => carry(client, target, opening, config).await,
                        Some(own) => {
                            if let Some(client) = end_tls(client, own).await {
                                carry(client, target, opening, config).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            _runtime: runtime,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn config(opening: Opening) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(Certificates::shared().path("ca.crt"));
    roots
        .add(authority.expect("a certificate"))
        .expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ciphers for them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    if let Opening::Direct(protocol) = opening {
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    }
    Arc::new(config)
}

/// How somebody between shows itself to clients.
fn own_config() -> Arc<ServerConfig> {
    let certificates = Certificates::shared();
    let chain = CertificateDer::from_pem_file(certificates.path("renewed.crt"));
    let key = PrivateKeyDer::from_pem_file(certificates.path("renewed.key"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ciphers for them")
        .with_no_client_auth()
        .with_single_cert(vec![chain.expect("a certificate")], key.expect("a key"));
    Arc::new(config.expect("a pair"))
}

/// Takes the request for TLS, and the handshake.
async fn end_tls(
    mut client: tokio::net::TcpStream,
    own: Arc<ServerConfig>,
) -> Option<impl AsyncRead + AsyncWrite + Unpin> {
    let mut request = [0; 8];
    client.read_exact(&mut request).await.ok()?;
    client.write_all(b"S").await.ok()?;
    let acceptor = tokio_rustls::TlsAcceptor::from(own);
    acceptor.accept(client).await.ok()
}

/// One connection; its end in clear is the end of the other.
async fn carry(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    target: SocketAddr,
    opening: Opening,
    config: Arc<ClientConfig>,
) {
    let Ok(mut server) = tokio::net::TcpStream::connect(target).await else {
        return;
    };
    if opening == Opening::Request {
        let mut answer = [0];
        server.write_all(&ssl_request()).await.ok();
        server.read_exact(&mut answer).await.ok();
        if answer != *b"S" {
            return;
        }
    }
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(config);
    let Ok(mut server) = connector.connect(name, server).await else {
        return;
    };
    tokio::io::copy_bidirectional(&mut client, &mut server)
        .await
        .ok();
}

/// Listens, answers the request for TLS with these bytes, and stays.
#[derive(Debug)]
pub(crate) struct Impostor {
    address: SocketAddr,
}

impl Impostor {
    pub(crate) fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream, answer));
            }
        });
        Self { address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn serve(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    use std::io::{Read, Write};
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut request = [0; 8];
    stream.read_exact(&mut request)?;
    if request[..] == ssl_request() {
        stream.write_all(answer)?;
    }
    // Until the other side has had enough.
    while stream.read(&mut request)? > 0 {}
    Ok(())
}
