//! The fields of CRI's `PullImageRequest` that a credential is made of; all others are left alone. Holds no state.

use std::io::Read;

use flate2::read::GzDecoder;
use prost::Message;
use soci_core::registry::{Credential, decode_basic};

/// `runtime.v1.PullImageRequest`
#[derive(Clone, PartialEq, Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    auth: Option<AuthConfig>,
}

/// `runtime.v1.ImageSpec`
#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

/// `runtime.v1.AuthConfig`
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct AuthConfig {
    #[prost(string, tag = "1")]
    username: String,
    #[prost(string, tag = "2")]
    password: String,
    #[prost(string, tag = "3")]
    auth: String,
    #[prost(string, tag = "4")]
    server_address: String,
    #[prost(string, tag = "5")]
    identity_token: String,
    #[prost(string, tag = "6")]
    registry_token: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").finish_non_exhaustive()
    }
}

/// A credential that came with a pull.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// The image, as the request names it.
    pub(super) image: String,
    /// The address that the credential is for; empty if the request does not say so.
    pub(super) server: String,
    pub(super) credential: Credential,
}

/// The credential in a request: one gRPC message, at most `limit` bytes once it is inflated. `None` when it has none, or
/// cannot be read: then whoever it is for says so.
pub(super) fn credential(body: &[u8], encoding: Option<&str>, limit: usize) -> Option<Sent> {
    let (&compressed, rest) = body.split_first()?;
    let (length, message) = rest.split_first_chunk::<4>()?;
    let message = message.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let request = match (compressed, encoding) {
        (0, _) => PullImageRequest::decode(message),
        (1, Some("gzip")) => {
            let mut plain = Vec::new();
            GzDecoder::new(message).take(limit as u64).read_to_end(&mut plain).ok()?;
            PullImageRequest::decode(plain.as_slice())
        }
        _ => return None,
    };
    let PullImageRequest { image, auth } = request.ok()?;
    let (image, auth) = (image?.image, auth?);
    Some(Sent { image, server: auth.server_address.clone(), credential: chosen(auth)? })
}

/// What containerd shows to the registry of it.
fn chosen(auth: AuthConfig) -> Option<Credential> {
    if !auth.username.is_empty() {
        return Some(Credential::Basic { user: auth.username, password: auth.password });
    }
    if !auth.identity_token.is_empty() {
        return Some(Credential::IdentityToken(auth.identity_token));
    }
    if !auth.auth.is_empty() {
        return decode_basic(&auth.auth);
    }
    (!auth.registry_token.is_empty()).then_some(Credential::RegistryToken(auth.registry_token))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn framed(message: &[u8], compressed: u8) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[compressed], &length[..], message].concat()
    }

    fn request(auth: AuthConfig) -> Vec<u8> {
        let image = Some(ImageSpec { image: "r.test/a:1".to_owned() });
        PullImageRequest { image, auth: Some(auth) }.encode_to_vec()
    }

    fn basic(user: &str, password: &str) -> Credential {
        Credential::Basic { user: user.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn every_form_of_a_credential_is_read() {
        let empty = AuthConfig::default;
        for (auth, expected) in [
            (
                AuthConfig { username: "u".into(), password: "p".into(), auth: "eDp5".into(), ..empty() },
                basic("u", "p"),
            ),
            (AuthConfig { auth: "eDp5".into(), ..empty() }, basic("x", "y")),
            (
                AuthConfig { identity_token: "i".into(), auth: "eDp5".into(), ..empty() },
                Credential::IdentityToken("i".into()),
            ),
            (AuthConfig { registry_token: "r".into(), ..empty() }, Credential::RegistryToken("r".into())),
        ] {
            let auth = AuthConfig { server_address: "https://r.test".into(), ..auth };
            let sent = credential(&framed(&request(auth), 0), None, 1 << 20).unwrap();
            assert_eq!((sent.image.as_str(), sent.server.as_str()), ("r.test/a:1", "https://r.test"));
            assert_eq!(sent.credential, expected);
        }
        let auth = AuthConfig { username: "u".into(), password: "s3cret".into(), ..empty() };
        assert!(!format!("{auth:?}").contains("s3cret"));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&request(auth)).unwrap();
        let body = framed(&gzip.finish().unwrap(), 1);
        assert_eq!(credential(&body, Some("gzip"), 1 << 20).unwrap().credential, basic("u", "s3cret"));
        assert_eq!(credential(&body, Some("zstd"), 1 << 20), None);
    }

    #[test]
    fn without_a_credential_there_is_none() {
        assert_eq!(credential(&framed(&request(AuthConfig::default()), 0), None, 100), None);
        let bad = AuthConfig { auth: "no base64 of a pair".into(), ..AuthConfig::default() };
        assert_eq!(credential(&framed(&request(bad), 0), None, 100), None);
        for body in
            [&b""[..], b"\0", b"\0\0\0\0\x05ab", b"\0\xff\xff\xff\xff", b"\x01\0\0\0\0", b"\0\0\0\0\x01\x07"]
        {
            assert_eq!(credential(body, Some("gzip"), 100), None, "{body:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_request_is_survived(body: Vec<u8>, compressed in 0..2_u8) {
            let framed = framed(&body, compressed);
            let _ = credential(&framed, Some("gzip"), 1 << 16);
            let _ = credential(&body, None, 1 << 16);
        }
    }
}
