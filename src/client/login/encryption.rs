//! TLS in a client's login.

use super::{Login, Refusal};
use crate::auth::CertificateNames;
use crate::client::worker::LAST_WORD_LIMIT;
use crate::net::tls::{self, Certificate, Offer};

impl Login {
    /// How TLS would be spoken with this client.
    pub(super) fn tls_offer(&self) -> Option<Offer> {
        let tls = self.worker.bouncer.tls();
        tls.clients.offer(self.channel.stream.is_unix())
    }

    /// Whether the connection is what `client_tls_sslmode` asks of one.
    pub(super) fn is_protected_enough(&self) -> bool {
        let stream = &self.channel.stream;
        let tls = self.worker.bouncer.tls();
        stream.cipher().is_some() || tls.clients.admits_plain(stream.is_unix())
    }

    /// Whether this may be direct TLS, without a request before it.
    pub(super) fn may_begin_with_tls(&self, asked: bool) -> bool {
        !asked && self.channel.stream.cipher().is_none() && self.tls_offer().is_some()
    }

    pub(super) async fn begin_with_tls(&mut self) -> Result<(), Refusal> {
        let Some(offer) = self.tls_offer() else {
            return Err(Refusal::Silent);
        };
        let received = self.channel.take(self.channel.carried());
        self.begin_tls(offer, &received).await?;
        // Without its name it may be a request for another protocol's server
        // that somebody has led here.
        if self.channel.stream.alpn() != Some(tls::ALPN) {
            tracing::warn!("C: {} direct TLS without ALPN", self.address);
            return Err(Refusal::Silent);
        }
        Ok(())
    }

    pub(super) async fn begin_tls(&mut self, offer: Offer, received: &[u8]) -> Result<(), Refusal> {
        let stream = &mut self.channel.stream;
        let Err(error) = Box::pin(stream.accept_tls(offer, received)).await else {
            return Ok(());
        };
        tracing::warn!("C: {} TLS handshake error: {error}", self.address);
        // It is to read the alert that says why.
        let told = tokio::time::timeout(LAST_WORD_LIMIT, async {
            stream.shutdown().await?;
            stream.skip_to_end().await
        });
        if !matches!(told.await, Ok(Ok(()))) {
            tracing::debug!("client did not close its end after a failed handshake");
        }
        Err(Refusal::Silent)
    }

    /// The connection's protection, as the log shows it.
    pub(super) fn cipher(&self) -> String {
        let cipher = self.channel.stream.cipher();
        cipher.map_or_else(|| "no".to_owned(), |cipher| cipher.to_string())
    }

    /// What the client may bind its login to.
    pub(super) fn end_point(&self) -> Option<Box<[u8]>> {
        let is_wanted = self.worker.bouncer.config().pgweir.channel_binding;
        self.channel.stream.end_point().filter(|_| is_wanted)
    }

    /// The client uses TLS.
    pub(in crate::client) fn is_encrypted(&self) -> bool {
        self.channel.stream.cipher().is_some()
    }

    /// The names in the client's certificate, which has been verified.
    pub(in crate::client) fn certificate(&self) -> Option<CertificateNames> {
        let der = self.channel.stream.peer_certificate()?;
        let certificate = Certificate::read(der)?;
        Some(CertificateNames {
            common_name: certificate.common_name().map(String::from),
            dns_names: certificate
                .dns_names()
                .into_iter()
                .map(String::from)
                .collect(),
        })
    }
}
