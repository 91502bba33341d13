//! TLS to a server: whom to trust, the handshake, and what it means when that fails.
//!
//! Owns rustls' settings. They are made when the first connection needs them, never at the start,
//! and shared by all that trust the same. Invariant: every connection is a full handshake, so an
//! expired certificate is noticed at the next dial; the name checked, and sent as SNI, is the host
//! that is dialled.

use std::io::{self, ErrorKind};
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, InvalidMessage, RootCertStore,
};
use tokio_rustls::TlsConnector;

use super::stream::Stream;
use crate::words::outcome::{Failure, Kind};

/// The settings of all that trust the public roots.
static PUBLIC: OnceLock<Arc<ClientConfig>> = OnceLock::new();
/// The same for HTTP/2.
static PUBLIC_2: OnceLock<Arc<ClientConfig>> = OnceLock::new();
/// As ALPN names HTTP/2 (RFC 9113 3.2).
const HTTP_2: &[u8] = b"h2";

/// TLS to servers that the same roots vouch for.
#[derive(Debug)]
pub struct Tls {
    /// `None`: the public ones.
    roots: Option<Vec<CertificateDer<'static>>>,
    /// Whether HTTP/2 is asked for, and nothing else taken.
    http2: bool,
    own: OnceLock<Arc<ClientConfig>>,
}

impl Tls {
    /// TLS that trusts `roots`, or the public ones.
    pub fn trusting(roots: Option<Vec<CertificateDer<'static>>>) -> Self {
        Self {
            roots,
            http2: false,
            own: OnceLock::new(),
        }
    }

    /// The same for a connection that is to speak HTTP/2.
    pub fn for_http2(roots: Option<Vec<CertificateDer<'static>>>) -> Self {
        Self {
            http2: true,
            ..Self::trusting(roots)
        }
    }

    /// Speaks TLS over `stream`, as a client of `host`.
    pub(super) async fn shake(&self, host: &str, stream: Stream) -> Result<Stream, Failure> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| untrusted(format!("no certificate can be for {host:?}")))?;
        let shaken = TlsConnector::from(self.settings()?).connect(name, stream);
        let shaken = shaken.await.map_err(|error| self.failure(host, &error))?;
        if self.http2 && shaken.get_ref().1.alpn_protocol() != Some(HTTP_2) {
            return Err(self.not_spoken());
        }
        Ok(Stream::tls(shaken))
    }

    /// What a handshake that failed means.
    fn failure(&self, host: &str, error: &io::Error) -> Failure {
        let inner = error.get_ref();
        match inner.and_then(|inner| inner.downcast_ref::<Error>()) {
            // Servers that know ALPN, and none of what they are offered, say so (RFC 7301 3.2).
            Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                self.not_spoken()
            }
            tls => failure(host, tls, error),
        }
    }

    fn not_spoken(&self) -> Failure {
        let detail = if self.http2 {
            "the server does not offer HTTP/2 there: is that its gRPC port (`grpc_port`)?"
        } else {
            "the server does not offer HTTP/1.1 there"
        };
        odd(detail.to_owned())
    }

    fn settings(&self) -> Result<Arc<ClientConfig>, Failure> {
        let (cell, roots) = match &self.roots {
            None if self.http2 => (&PUBLIC_2, None),
            None => (&PUBLIC, None),
            Some(roots) => (&self.own, Some(roots)),
        };
        let protocol = if self.http2 { HTTP_2 } else { b"http/1.1" };
        if let Some(made) = cell.get() {
            return Ok(Arc::clone(made));
        }
        let made = settings(roots.map(Vec::as_slice), protocol)
            .map_err(|error| Failure::unsent(Kind::Tls, error.to_string()))?;
        Ok(Arc::clone(cell.get_or_init(|| Arc::new(made))))
    }
}

fn settings(
    roots: Option<&[CertificateDer<'static>]>,
    protocol: &[u8],
) -> Result<ClientConfig, Error> {
    let mut store = RootCertStore::empty();
    match roots {
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        // That each can be added was found when the configuration was read.
        Some(roots) => drop(store.add_parsable_certificates(roots.iter().cloned())),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut settings = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    settings.alpn_protocols = vec![protocol.to_vec()];
    settings.resumption = Resumption::disabled();
    Ok(settings)
}

/// What `error` means, whatever protocol was offered; `tls`: what it was for TLS.
fn failure(host: &str, tls: Option<&Error>, error: &io::Error) -> Failure {
    match tls {
        Some(Error::InvalidCertificate(why)) => untrusted(certificate(host, why)),
        Some(Error::NoCertificatesPresented) => untrusted("the server has none".to_owned()),
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            odd("what answers does not speak TLS: is the url to begin with http://?".to_owned())
        }
        Some(Error::AlertReceived(alert)) => odd(format!("the server refused it: {alert:?}")),
        Some(Error::PeerIncompatible(why)) => {
            odd(format!("the server speaks no TLS that we do: {why:?}"))
        }
        Some(other) => odd(other.to_string()),
        None if error.kind() == ErrorKind::UnexpectedEof => {
            odd("the server closed the connection in the handshake".to_owned())
        }
        None => odd(format!("in the handshake: {error}")),
    }
}

/// What is wrong with a certificate, for people.
fn certificate(host: &str, why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("it is not for {host}")
        }
        CertificateError::UnknownIssuer => "its issuer is unknown".to_owned(),
        CertificateError::BadSignature => "its signature is wrong".to_owned(),
        CertificateError::BadEncoding => "it cannot be read".to_owned(),
        CertificateError::Revoked => "it was revoked".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for servers".to_owned()
        }
        other => format!("{other}"),
    }
}

fn untrusted(detail: String) -> Failure {
    Failure::unsent(Kind::Certificate, detail)
}

fn odd(detail: String) -> Failure {
    Failure::unsent(Kind::Tls, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_made_once_for_all_that_trust_the_same() {
        let (one, other) = (Tls::trusting(None), Tls::trusting(None));
        let made = one.settings().unwrap();
        assert!(Arc::ptr_eq(&made, &one.settings().unwrap()));
        assert!(Arc::ptr_eq(&made, &other.settings().unwrap()));
        assert_eq!(made.alpn_protocols, [b"http/1.1"]);
        let second = Tls::for_http2(None);
        assert_eq!(second.settings().unwrap().alpn_protocols, [HTTP_2]);
        let own = Tls::trusting(Some(Vec::new()));
        assert!(!Arc::ptr_eq(&made, &own.settings().unwrap()));
        assert!(Arc::ptr_eq(
            &own.settings().unwrap(),
            &own.settings().unwrap()
        ));
    }
}
