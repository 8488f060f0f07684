//! Enrolment: a one-time token buys the host its certificate.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use proto::{
    client::ChannelError,
    pin::{self, PinError},
    token::{EnrolmentToken, TokenError},
    v1::{EnrollRequest, EnrollResponse},
};
use tonic::{Code, Request, Status};

use crate::{
    error::with_causes,
    state::identity::{HostIdentity, KeyRequest, UnusableCertificate},
};

/// How long the controller may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a host could not be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There is nothing to enrol with.
    #[error(
        "this host has no certificate and no token to get one with; ask the operator for a token (`bulkhead token create`), write it to a file, and name the file in `token_file` of the configuration, in BULKHEAD_TOKEN_FILE or with `bulkhead-agent enroll --token-file`"
    )]
    NoToken,
    /// The file is not there or cannot be read.
    #[error("cannot read the token file {}; write the token from `bulkhead token create` to it", path.display())]
    ReadToken {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error("the token file {} cannot be used", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: TokenError,
    },
    /// Whoever answers is not the controller that made the token. Nothing was sent.
    #[error("the controller cannot be verified, and nothing was sent to it")]
    NotVerified(#[source] PinError),
    /// Nobody answers, or not in time. Worth another try.
    #[error("no controller can be reached; check `controllers` in the configuration and that one is running: {}", .0.join("; "))]
    Unreachable(Vec<String>),
    /// The controller does not take the token or the name.
    #[error("the controller refused to enrol this host: {0}")]
    Refused(String),
    /// The answer is of no use.
    #[error(transparent)]
    Unusable(#[from] UnusableCertificate),
    /// The cryptographic library fails.
    #[error("cannot make a key")]
    Key(#[source] rcgen::Error),
}

impl EnrolError {
    /// 69 where another try may help, 78 where the operator has to change something.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable(_) => 69,
            Self::Key(_) => 70,
            Self::NoToken
            | Self::ReadToken { .. }
            | Self::Token { .. }
            | Self::NotVerified(_)
            | Self::Refused(_)
            | Self::Unusable(_) => 78,
        }
    }
}

/// Reads the token.
///
/// # Errors
/// When no file is named, or it holds no token.
pub fn read_token(path: Option<&Path>) -> Result<EnrolmentToken, EnrolError> {
    let path = path.ok_or(EnrolError::NoToken)?;
    let text = fs::read_to_string(path).map_err(|source| EnrolError::ReadToken {
        path: path.to_owned(),
        source,
    })?;
    text.parse().map_err(|source| EnrolError::Token {
        path: path.to_owned(),
        source,
    })
}

/// Enrols with the first controller that answers. The token's secret is told to nobody but the
/// controller that made the token.
///
/// # Errors
/// When no controller answers, the one that does cannot be verified, or it refuses.
pub async fn enrol(
    controllers: &[SocketAddr],
    token: &EnrolmentToken,
    host_name: &str,
) -> Result<HostIdentity, EnrolError> {
    let mut unreachable = Vec::new();
    let mut not_verified = None;
    for controller in controllers {
        let address = controller.to_string();
        match pin::fetch_ca(&address, token.ca_sha256).await {
            Ok(ca_pem) => match exchange(&address, ca_pem, token, host_name).await {
                Err(EnrolError::Unreachable(reasons)) => unreachable.extend(reasons),
                outcome => return outcome,
            },
            Err(error) if is_transient(&error) => unreachable.push(with_causes(&error)),
            Err(error) => not_verified = not_verified.or(Some(error)),
        }
    }
    Err(match not_verified {
        Some(error) => EnrolError::NotVerified(error),
        None if unreachable.is_empty() => {
            EnrolError::Unreachable(vec!["no name of a controller has an address".to_owned()])
        }
        None => EnrolError::Unreachable(unreachable),
    })
}

/// Whether nobody was there, rather than somebody else.
fn is_transient(error: &PinError) -> bool {
    match error {
        PinError::Connect { .. } => true,
        PinError::OtherCa { .. } => false,
        // rustls says "invalid data" for what it does not believe; the rest is the network.
        PinError::Handshake { source, .. } => source.kind() != io::ErrorKind::InvalidData,
    }
}

async fn exchange(
    address: &str,
    ca_pem: String,
    token: &EnrolmentToken,
    host_name: &str,
) -> Result<HostIdentity, EnrolError> {
    let request = KeyRequest::generate().map_err(EnrolError::Key)?;
    let channel = proto::client::channel_without_certificate(&[address.to_owned()], &ca_pem).await;
    let channel = channel.map_err(|error| match error {
        ChannelError::Unreachable { failures, .. } => EnrolError::Unreachable(failures),
        ChannelError::NoAddress => EnrolError::Unreachable(vec![error.to_string()]),
    })?;
    let mut call = Request::new(EnrollRequest {
        token_secret: token.secret_hex(),
        host_name: host_name.to_owned(),
        csr_pem: request.csr_pem,
    });
    call.set_timeout(PATIENCE);
    let answer = proto::client::agents(channel).enroll(call).await;
    let EnrollResponse {
        host_name,
        certificate_chain_pem,
        ca_pem: _,
    } = answer
        .map_err(|status| refusal(address, &status))?
        .into_inner();
    // The CA is the one that the token vouches for, whatever the answer says.
    let identity = HostIdentity {
        host_name,
        ca_pem,
        certificate_chain_pem,
        key_pem: request.key_pem,
    };
    identity.validity()?;
    Ok(identity)
}

fn refusal(address: &str, status: &Status) -> EnrolError {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::Unknown
        | Code::ResourceExhausted
        | Code::Internal => {
            EnrolError::Unreachable(vec![format!("{address}: {}", status.message())])
        }
        _ => EnrolError::Refused(status.message().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::testing::TestController;

    #[tokio::test]
    async fn a_token_buys_a_certificate_once_and_under_the_name_that_the_controller_gives() {
        let mut controller = TestController::start(1).await;
        let token = controller.token();
        let identity = enrol(&[controller.address], &token, "web-1").await.unwrap();
        assert_eq!(identity.host_name, "web-1-by-token");
        // Not what the answer said: the CA that the token vouches for.
        assert_eq!(
            identity.ca_pem.replace('\r', ""),
            controller.ca.pem.replace('\r', "")
        );
        let request = controller.enrolments.recv().await.unwrap();
        assert_eq!(request.token_secret, token.secret_hex());

        let refused = enrol(&[controller.address], &token, "web-2")
            .await
            .unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the controller refused to enrol this host: the token is used; make another"
        );
        assert_eq!(refused.exit_code(), 78);
    }

    #[tokio::test]
    async fn a_controller_that_the_token_does_not_vouch_for_hears_nothing() {
        let mut impostor = TestController::start(1).await;
        let token = TestController::start(0).await.token();
        let error = enrol(&[impostor.address], &token, "web-1")
            .await
            .unwrap_err();
        assert!(
            matches!(error, EnrolError::NotVerified(PinError::OtherCa { .. })),
            "{error}"
        );
        assert!(with_causes(&error).contains("bulkhead token create"));
        assert_eq!(error.exit_code(), 78);
        assert!(impostor.enrolments.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_address_where_nobody_is_does_not_stop_enrolment_at_the_next() {
        let controller = TestController::start(1).await;
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [gone.local_addr().unwrap(), controller.address];
        drop(gone);
        let identity = enrol(&addresses, &controller.token(), "web-1")
            .await
            .unwrap();
        assert_eq!(identity.host_name, "web-1-by-token");
    }

    #[test]
    fn a_token_that_is_missing_or_no_token_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        assert!(
            read_token(None)
                .unwrap_err()
                .to_string()
                .contains("bulkhead token create")
        );
        let missing = read_token(Some(&path)).unwrap_err();
        assert!(
            missing.to_string().contains("bulkhead token create"),
            "{missing}"
        );
        fs::write(&path, "bulkhead1.secret").unwrap();
        let bad = read_token(Some(&path)).unwrap_err();
        assert_eq!(bad.exit_code(), 78);
        assert!(!with_causes(&bad).contains("secret\""), "{bad}");
    }

    #[tokio::test]
    async fn a_controller_that_does_not_answer_is_worth_another_try() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let token = EnrolmentToken {
            secret: [1; 32],
            ca_sha256: [2; 32],
        };
        let error = enrol(&[address], &token, "web-1").await.unwrap_err();
        assert!(matches!(error, EnrolError::Unreachable(_)), "{error}");
        assert_eq!(error.exit_code(), 69);
    }

    #[tokio::test]
    async fn a_server_that_speaks_no_tls_learns_no_secret() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut connection, b"220 hello\r\n")
                .await
                .unwrap();
            let mut heard = Vec::new();
            // A reset in place of an orderly end is fine: what was heard before it counts.
            let _ = connection.read_to_end(&mut heard).await;
            heard
        });
        let token = EnrolmentToken {
            secret: [0x5e; 32],
            ca_sha256: [2; 32],
        };
        let error = enrol(&[address], &token, "web-1").await.unwrap_err();
        assert!(matches!(error, EnrolError::NotVerified(_)), "{error}");
        assert_eq!(error.exit_code(), 78);
        let heard = server.await.unwrap();
        let secret = token.secret_hex();
        assert!(
            !heard
                .windows(secret.len())
                .any(|window| window == secret.as_bytes())
        );
    }
}
