//! A controller that says what the test wants, over real mutual TLS.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use proto::v1::{
    ApplyPolicyRequest, ApplyPolicyResponse, CreateTokenRequest, CreateTokenResponse,
    GetPolicyRequest, GetPolicyResponse, HostDenial, HostStatus, ListHostsRequest,
    ListHostsResponse, QuarantineRequest, QuarantineResponse, ReleaseRequest, ReleaseResponse,
    StatusRequest, StatusResponse, WatchDenialsRequest,
    operators_server::{Operators, OperatorsServer},
};
use tokio::runtime::Runtime;
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tonic::{
    Request, Response, Status,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

use crate::{
    credentials::{Authority, Credentials, operator_file},
    run::{Done, Files, bulkhead},
};

/// What the controller answers, and what it was asked.
#[derive(Default)]
pub struct Script {
    /// The answers to ListHosts one after the other; the last one stays.
    pub hosts: VecDeque<Vec<HostStatus>>,
    /// How often it was asked for the hosts.
    pub looks: u32,
    pub apply: ApplyPolicyResponse,
    /// Where the caller's connection seems to come from.
    pub caller_address: Vec<u8>,
    /// Who was connected when a quarantine was decided.
    pub connected: Vec<String>,
    pub denials: Vec<HostDenial>,
    /// Whether a stream of denials stays open after the last one.
    pub stay_open: bool,
    pub refuse: Option<Status>,
    pub token_requests: Vec<CreateTokenRequest>,
    pub apply_requests: Vec<ApplyPolicyRequest>,
    pub watch_requests: Vec<WatchDenialsRequest>,
    pub quarantine_requests: Vec<QuarantineRequest>,
}

/// A running controller and an operator's file for it.
pub struct Controller {
    script: Arc<Mutex<Script>>,
    pub authority: Authority,
    pub address: String,
    files: Files,
    /// The server lives as long as its threads.
    _runtime: Runtime,
}

impl Controller {
    pub fn start(script: Script) -> Self {
        let authority = Authority::new();
        let script = Arc::new(Mutex::new(script));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let Credentials { certificate, key } = authority.controller();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(authority.pem()))
            .client_auth_optional(true);
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = OperatorsServer::new(Scripted(script.clone()));
        runtime.spawn(async move {
            Server::builder()
                .tls_config(tls)
                .unwrap()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        let controller = Self {
            script,
            authority,
            address,
            files: Files::new(&[]),
            _runtime: runtime,
        };
        controller.give(&controller.authority.operator());
        controller
    }

    /// Puts other credentials into the operator file.
    pub fn give(&self, credentials: &Credentials) {
        operator_file(&self.file(), &self.address, &self.authority, credentials);
    }

    pub fn file(&self) -> std::path::PathBuf {
        self.files.path("operator.toml")
    }

    /// Runs the tool as this operator.
    pub fn run(&self, arguments: &[&str]) -> Done {
        let file = self.files.name("operator.toml");
        bulkhead(&[&["--operator", &file][..], arguments].concat())
    }

    pub fn script<T>(&self, look: impl FnOnce(&mut Script) -> T) -> T {
        look(&mut self.script.lock().unwrap())
    }
}

struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn answer<R, T>(
        &self,
        request: Request<R>,
        answer: impl FnOnce(&mut Script, R) -> T,
    ) -> Result<Response<T>, Status> {
        if request.peer_certs().is_none() {
            return Err(Status::unauthenticated("no certificate"));
        }
        let mut script = self.0.lock().unwrap();
        match script.refuse.clone() {
            Some(status) => Err(status),
            None => Ok(Response::new(answer(&mut script, request.into_inner()))),
        }
    }
}

#[tonic::async_trait]
impl Operators for Scripted {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        self.answer(request, |script, request| {
            script.token_requests.push(request);
            CreateTokenResponse {
                token: "bulkhead1.secret.hash".into(),
                expires_unix: 2_000_000_000,
                caller_address: script.caller_address.clone(),
            }
        })
    }

    async fn list_hosts(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        self.answer(request, |script, _| {
            script.looks += 1;
            let hosts = if script.hosts.len() > 1 {
                script.hosts.pop_front()
            } else {
                script.hosts.front().cloned()
            };
            ListHostsResponse {
                hosts: hosts.unwrap_or_default(),
            }
        })
    }

    async fn apply_policy(
        &self,
        request: Request<ApplyPolicyRequest>,
    ) -> Result<Response<ApplyPolicyResponse>, Status> {
        self.answer(request, |script, request| {
            script.apply_requests.push(request);
            script.apply.clone()
        })
    }

    async fn get_policy(
        &self,
        request: Request<GetPolicyRequest>,
    ) -> Result<Response<GetPolicyResponse>, Status> {
        self.answer(request, |_, _| GetPolicyResponse::default())
    }

    type WatchDenialsStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<HostDenial, Status>> + Send>>;

    async fn watch_denials(
        &self,
        request: Request<WatchDenialsRequest>,
    ) -> Result<Response<Self::WatchDenialsStream>, Status> {
        self.answer(request, |script, request| {
            script.watch_requests.push(request);
            let denials = tokio_stream::iter(script.denials.clone()).map(Ok);
            if script.stay_open {
                Box::pin(denials.chain(tokio_stream::pending())) as Self::WatchDenialsStream
            } else {
                Box::pin(denials)
            }
        })
    }

    async fn quarantine(
        &self,
        request: Request<QuarantineRequest>,
    ) -> Result<Response<QuarantineResponse>, Status> {
        self.answer(request, |script, request| {
            script.quarantine_requests.push(request);
            QuarantineResponse {
                changed: true,
                hosts_connected: script.connected.clone(),
            }
        })
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        self.answer(request, |_, _| ReleaseResponse::default())
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        self.answer(request, |_, _| StatusResponse {
            controller_version: "0.1.0".into(),
            revision: 7,
            hosts: 3,
            hosts_connected: 2,
            segments: 3,
            policies: 1,
            guardrails: 1,
            exceptions: 2,
            exceptions_ended: 1,
            ..StatusResponse::default()
        })
    }
}
