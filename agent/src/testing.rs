//! A controller for tests: the real protocol over real TLS, answers given by the test.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{net::SocketAddr, sync::Mutex, time::Duration};

use proto::{
    SERVER_NAME,
    token::EnrolmentToken,
    v1::{
        AgentMessage, ControllerMessage, EnrollRequest, EnrollResponse, RenewRequest,
        RenewResponse, agent_message,
        agents_server::{Agents, AgentsServer},
        controller_message,
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

use crate::state::identity::{HostIdentity, KeyRequest};

/// Longer than anything takes here; a test that waits this long has failed.
pub const LONG: Duration = Duration::from_secs(20);

/// Issues certificates.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    pub sha256: [u8; 32],
}

/// The running controller.
pub struct TestController {
    pub ca: Ca,
    pub address: SocketAddr,
    /// Each stream that an agent opens.
    pub streams: mpsc::Receiver<TestStream>,
    /// What was asked of `Enroll`.
    pub enrolments: mpsc::UnboundedReceiver<EnrollRequest>,
}

/// The controller's end of a stream.
pub struct TestStream {
    pub from_agent: Streaming<AgentMessage>,
    pub to_agent: mpsc::Sender<Result<ControllerMessage, Status>>,
}

struct Service {
    streams: mpsc::Sender<TestStream>,
    enrolments: mpsc::UnboundedSender<EnrollRequest>,
    /// The next answers to `Enroll` and `Renew`; none left: refused.
    certificates: Mutex<Vec<Ca>>,
}

impl Ca {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (pem, sha256) = (certificate.pem(), proto::sha256(certificate.der()));
        Self {
            issuer: Issuer::new(params, key),
            pem,
            sha256,
        }
    }

    fn duplicate(&self) -> Self {
        let key = KeyPair::from_pem(&self.issuer.key().serialize_pem()).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&self.pem, key).unwrap();
        Self {
            issuer,
            pem: self.pem.clone(),
            sha256: self.sha256,
        }
    }

    /// A host's identity, as enrolment would give it.
    pub fn host(&self) -> HostIdentity {
        let request = KeyRequest::generate().unwrap();
        HostIdentity {
            host_name: "web-1".into(),
            ca_pem: self.pem.clone(),
            certificate_chain_pem: self.sign(&request.csr_pem),
            key_pem: request.key_pem,
        }
    }

    fn sign(&self, csr_pem: &str) -> String {
        let csr = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        csr.signed_by(&self.issuer).unwrap().pem()
    }

    fn server(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity::from_pem(leaf + &self.pem, key.serialize_pem())
    }
}

impl TestController {
    /// Starts one that lets `enrolments` hosts enrol or renew.
    pub async fn start(enrolments: usize) -> Self {
        let ca = Ca::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (streams_sender, streams) = mpsc::channel(4);
        let (enrolments_sender, enrolments_receiver) = mpsc::unbounded_channel();
        let service = Service {
            streams: streams_sender,
            enrolments: enrolments_sender,
            certificates: Mutex::new((0..enrolments).map(|_| ca.duplicate()).collect()),
        };
        let tls = ServerTlsConfig::new()
            .identity(ca.server())
            .client_ca_root(Certificate::from_pem(&ca.pem))
            .client_auth_optional(true);
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(AgentsServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self {
            ca,
            address,
            streams,
            enrolments: enrolments_receiver,
        }
    }

    /// A token that this controller made.
    pub fn token(&self) -> EnrolmentToken {
        EnrolmentToken {
            secret: [0x5e; 32],
            ca_sha256: self.ca.sha256,
        }
    }

    /// The next stream that an agent opens.
    pub async fn stream(&mut self) -> TestStream {
        timeout(LONG, self.streams.recv()).await.unwrap().unwrap()
    }
}

impl TestStream {
    /// The next message that is no heartbeat; none when the agent has closed the stream.
    pub async fn next(&mut self) -> Option<agent_message::Message> {
        loop {
            let message = timeout(LONG, self.from_agent.message())
                .await
                .unwrap()
                .ok()??;
            match message.message.unwrap() {
                agent_message::Message::Heartbeat(_) => {}
                message => return Some(message),
            }
        }
    }

    pub async fn send(&self, message: controller_message::Message) {
        let message = ControllerMessage {
            message: Some(message),
        };
        self.to_agent.send(Ok(message)).await.unwrap();
    }
}

#[tonic::async_trait]
impl Agents for Service {
    type ControlStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let request = request.into_inner();
        let ca = self.certificates.lock().unwrap().pop();
        let ca = ca.ok_or_else(|| Status::permission_denied("the token is used; make another"))?;
        let response = EnrollResponse {
            host_name: format!("{}-by-token", request.host_name),
            certificate_chain_pem: ca.sign(&request.csr_pem),
            ca_pem: Ca::new().pem,
        };
        self.enrolments.send(request).unwrap();
        Ok(Response::new(response))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        assert_eq!(
            request.peer_certs().unwrap().len(),
            1,
            "the host shows its certificate"
        );
        let ca = self.certificates.lock().unwrap().pop();
        let ca = ca.ok_or_else(|| Status::permission_denied("no more"))?;
        let certificate_chain_pem = ca.sign(&request.into_inner().csr_pem);
        Ok(Response::new(RenewResponse {
            certificate_chain_pem,
        }))
    }

    async fn control(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        assert_eq!(
            request.peer_certs().unwrap().len(),
            1,
            "the host shows its certificate"
        );
        let (to_agent, messages) = mpsc::channel(16);
        let stream = TestStream {
            from_agent: request.into_inner(),
            to_agent,
        };
        self.streams
            .send(stream)
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}
