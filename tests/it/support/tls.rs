//! TLS before a scripted upstream, with certificates that the test makes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::LazyConfigAcceptor;

/// Whom the certificates of a test are issued by.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Issued {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pub(crate) pem: String,
}

/// A TLS server whose plain side is a scripted upstream. Ends when dropped.
pub(crate) struct Front {
    pub(crate) place: SocketAddr,
    seen: Arc<Mutex<Vec<Hello>>>,
    _serving: JoinSet<()>,
}

/// What a client asked for in its handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) name: Option<String>,
    pub(crate) protocols: Vec<String>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(1);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // By their names issuers are found.
        let name = format!("authority {}", MADE.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `name`, valid between the beginnings of two years.
    pub(crate) fn issue(&self, name: &str, from: i32, to: i32) -> Issued {
        let key = KeyPair::generate().unwrap();
        let made = params(name, from, to).signed_by(&key, &self.0).unwrap();
        Issued::new(made.pem(), made.der().clone(), &key)
    }
}

impl Issued {
    /// One that vouches for itself.
    pub(crate) fn by_itself(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let made = params(name, 2000, 2200).self_signed(&key).unwrap();
        Self::new(made.pem(), made.der().clone(), &key)
    }

    fn new(pem: String, der: CertificateDer<'static>, key: &KeyPair) -> Self {
        Self {
            chain: vec![der],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            pem,
        }
    }
}

fn params(name: &str, from: i32, to: i32) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

impl Front {
    /// On loopback, before `plain`, with every version of TLS.
    pub(crate) async fn start(issued: &Issued, plain: SocketAddr) -> Self {
        Self::speaking(issued, plain, rustls::ALL_VERSIONS).await
    }

    /// The same with these versions alone.
    pub(crate) async fn speaking(
        issued: &Issued,
        plain: SocketAddr,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        Self::with(issued, plain, versions, &["h2", "http/1.1"]).await
    }

    /// The same with these protocols alone; none: it does not choose any.
    pub(crate) async fn offering(issued: &Issued, plain: SocketAddr, protocols: &[&str]) -> Self {
        Self::with(issued, plain, rustls::ALL_VERSIONS, protocols).await
    }

    async fn with(
        issued: &Issued,
        plain: SocketAddr,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&str],
    ) -> Self {
        let provider = Arc::new(ring::default_provider());
        let mut settings = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(issued.chain.clone(), issued.key.clone_key())
            .unwrap();
        settings.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let settings = Arc::new(settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, settings, plain, Arc::clone(&seen)));
        Self {
            place,
            seen,
            _serving: serving,
        }
    }

    /// What clients asked for so far.
    pub(crate) fn seen(&self) -> Vec<Hello> {
        self.seen.lock().unwrap().clone()
    }
}

async fn accept(
    listener: TcpListener,
    settings: Arc<ServerConfig>,
    plain: SocketAddr,
    seen: Arc<Mutex<Vec<Hello>>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (io, _) = listener.accept().await.unwrap();
        connections.spawn(serve(io, Arc::clone(&settings), plain, Arc::clone(&seen)));
    }
}

async fn serve(
    io: TcpStream,
    settings: Arc<ServerConfig>,
    plain: SocketAddr,
    seen: Arc<Mutex<Vec<Hello>>>,
) {
    let Ok(begun) = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await else {
        return;
    };
    let hello = begun.client_hello();
    let protocols = hello.alpn().into_iter().flatten();
    let hello = Hello {
        name: hello.server_name().map(str::to_owned),
        protocols: protocols
            .map(|protocol| String::from_utf8_lossy(protocol).into_owned())
            .collect(),
    };
    seen.lock().unwrap().push(hello);
    let Ok(mut tls) = begun.into_stream(settings).await else {
        return;
    };
    let Ok(mut upstream) = TcpStream::connect(plain).await else {
        return;
    };
    // How it ends is what the other side sees of it.
    drop(copy_bidirectional(&mut tls, &mut upstream).await);
}
