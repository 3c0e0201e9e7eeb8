//! A TLS door in front of a plain server on the loopback interface, with certificates of its own.
//!
//! [`TlsFront`] owns the listener's runtime and the certificates; dropping it closes the door.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// A server with TLS.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    authority: String,
    client: (String, String),
    runtime: Option<Runtime>,
}

impl TlsFront {
    /// Passes what comes on to `backend`. `ask`: only clients with a certificate of our authority are let in.
    pub fn new(backend: SocketAddr, ask: bool) -> Self {
        let key = || KeyPair::generate().expect("a key");
        let mut root = CertificateParams::new(Vec::new()).expect("no names");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(root, key()).expect("an authority");
        let issue = |name: &str| {
            let key = key();
            let params = CertificateParams::new([name.to_owned()]).expect("a name");
            (params.signed_by(&key, &root).expect("a certificate"), key)
        };
        let (server, server_key) = issue("127.0.0.1");
        let (client, client_key) = issue("client.test");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("protocol versions");
        let config = if ask {
            let mut roots = RootCertStore::empty();
            roots.add(root.der().clone()).expect("our own certificate");
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            config.with_client_cert_verifier(verifier.expect("a verifier"))
        } else {
            config.with_no_client_auth()
        };
        let der = PrivateKeyDer::try_from(server_key.serialize_der()).expect("a key");
        let config = config.with_single_cert(vec![server.der().clone()], der).expect("a certificate");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("a bound socket");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listening socket");
            while let Ok((connection, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut inside = acceptor.accept(connection).await?;
                    let mut behind = TcpStream::connect(backend).await?;
                    tokio::io::copy_bidirectional(&mut inside, &mut behind).await
                });
            }
        });
        let client = (client.pem(), client_key.serialize_pem());
        Self { address, authority: root.pem(), client, runtime: Some(runtime) }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Writes `ca.pem`, `client.cert` and `client.key` into `dir`.
    pub fn write(&self, dir: &Path) {
        for (name, pem) in
            [("ca.pem", &self.authority), ("client.cert", &self.client.0), ("client.key", &self.client.1)]
        {
            std::fs::write(dir.join(name), pem).expect("a writable directory");
        }
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
