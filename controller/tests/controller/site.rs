//! A controller on loopback, operators and agents that speak to it.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use bulkhead_controller::{
    app::{App, ServeOptions},
    ca::CertificateAuthority,
    init::{InitOptions, init},
};
use proto::{
    client,
    convert::address_to_bytes,
    spiffe::SpiffeId,
    token::EnrolmentToken,
    v1::{self, operators_client::OperatorsClient},
};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};

use crate::agent::Host;

/// More than anything here takes; what takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A certificate chain and its key, PEM.
#[derive(Clone)]
pub struct Credentials {
    pub chain_pem: String,
    pub key_pem: String,
}

pub struct Site {
    _dir: TempDir,
    pub options: ServeOptions,
    pub ca_pem: String,
    /// What SIGHUP does to the program.
    pub reload: Arc<Notify>,
    operator: Credentials,
    running: Option<(String, CancellationToken, JoinHandle<anyhow::Result<()>>)>,
}

impl Site {
    /// A new controller that runs.
    pub async fn new() -> Self {
        let mut site = Self::stopped().await;
        site.start().await;
        site
    }

    /// A new controller that does not run yet.
    pub async fn stopped() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let options = InitOptions {
            data_dir: data_dir.clone(),
            addresses: vec!["127.0.0.1:7443".into()],
            operator: "ann".into(),
        };
        let operator_file = std::fs::read_to_string(init(&options).await.unwrap()).unwrap();
        let file: toml::Table = operator_file.parse().unwrap();
        let field = |name: &str| file[name].as_str().unwrap().to_owned();
        Self {
            ca_pem: field("ca_pem"),
            operator: Credentials {
                chain_pem: field("certificate_pem"),
                key_pem: field("key_pem"),
            },
            options: ServeOptions {
                data_dir,
                listen: "127.0.0.1:0".parse().unwrap(),
                store: None,
                keep_denials: 1_000_000,
                grace: Duration::ZERO,
            },
            reload: Arc::default(),
            running: None,
            _dir: dir,
        }
    }

    pub async fn start(&mut self) {
        let app = App::start(self.options.clone(), Arc::clone(&self.reload))
            .await
            .unwrap();
        let (address, stop) = (app.address().to_string(), app.stop());
        self.running = Some((address, stop, tokio::spawn(app.run())));
    }

    pub async fn stop(&mut self) {
        let (_, stop, task) = self.running.take().unwrap();
        stop.cancel();
        timeout(PATIENCE, task)
            .await
            .expect("it stops")
            .unwrap()
            .unwrap();
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    pub fn address(&self) -> String {
        self.running.as_ref().unwrap().0.clone()
    }

    /// The CA of this site, as somebody has it who can read the data directory.
    pub fn ca(&self) -> CertificateAuthority {
        CertificateAuthority::load(&self.options.data_dir).unwrap()
    }

    pub async fn channel(&self, who: &Credentials) -> Result<Channel, client::ChannelError> {
        client::channel(
            &[self.address()],
            &self.ca_pem,
            &who.chain_pem,
            &who.key_pem,
        )
        .await
    }

    pub async fn anonymous(&self) -> Channel {
        client::channel_without_certificate(&[self.address()], &self.ca_pem)
            .await
            .unwrap()
    }

    pub async fn operator(&self) -> OperatorsClient<Channel> {
        client::operators(self.channel(&self.operator).await.unwrap())
    }

    pub fn operator_credentials(&self) -> Credentials {
        self.operator.clone()
    }

    pub async fn token(&self, request: v1::CreateTokenRequest) -> EnrolmentToken {
        let answer = self
            .operator()
            .await
            .create_token(request)
            .await
            .unwrap()
            .into_inner();
        answer.token.parse().unwrap()
    }

    /// Tries to enrol a host.
    pub async fn try_enrol(&self, token: &EnrolmentToken, name: &str) -> Result<Host, Status> {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let request = v1::EnrollRequest {
            token_secret: token.secret_hex(),
            host_name: name.into(),
            csr_pem: csr.pem().unwrap(),
        };
        let answer = client::agents(self.anonymous().await)
            .enroll(request)
            .await?
            .into_inner();
        assert_eq!(answer.ca_pem, self.ca_pem);
        Ok(Host {
            name: answer.host_name,
            credentials: Credentials {
                chain_pem: answer.certificate_chain_pem,
                key_pem: key.serialize_pem(),
            },
        })
    }

    /// Enrols a host with one label, which may claim addresses in 10.0.0.0/8.
    pub async fn enrol(&self, name: &str, tier: &str) -> Host {
        let token = self.token(token_for(tier)).await;
        self.try_enrol(&token, name).await.unwrap()
    }

    pub async fn hosts(&self) -> Vec<v1::HostStatus> {
        let answer = self
            .operator()
            .await
            .list_hosts(v1::ListHostsRequest {})
            .await
            .unwrap();
        answer.into_inner().hosts
    }

    pub async fn host(&self, name: &str) -> v1::HostStatus {
        self.hosts()
            .await
            .into_iter()
            .find(|host| host.name == name)
            .unwrap()
    }

    /// Asks for a host's status until it is as it should be.
    pub async fn host_when(
        &self,
        name: &str,
        is: impl Fn(&v1::HostStatus) -> bool,
    ) -> v1::HostStatus {
        let mut last = self.host(name).await;
        let poll = async {
            while !is(&last) {
                tokio::time::sleep(Duration::from_millis(10)).await;
                last = self.host(name).await;
            }
        };
        let outcome = timeout(PATIENCE, poll).await;
        assert!(outcome.is_ok(), "{last:?}");
        last
    }

    pub async fn status(&self) -> v1::StatusResponse {
        self.operator()
            .await
            .status(v1::StatusRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    pub async fn apply(&self, policy: &str) -> v1::ApplyPolicyResponse {
        self.apply_files(&[("policy.yaml", policy)], false).await
    }

    pub async fn apply_files(
        &self,
        files: &[(&str, &str)],
        dry_run: bool,
    ) -> v1::ApplyPolicyResponse {
        let files = files
            .iter()
            .map(|(path, content)| v1::PolicyFile {
                path: (*path).into(),
                content: (*content).into(),
            })
            .collect();
        let request = v1::ApplyPolicyRequest {
            files,
            dry_run,
            // A set without a policy is as good as another for what these tests look at.
            allow_empty: true,
            ..v1::ApplyPolicyRequest::default()
        };
        self.operator()
            .await
            .apply_policy(request)
            .await
            .unwrap()
            .into_inner()
    }
}

pub fn token_for(tier: &str) -> v1::CreateTokenRequest {
    let subnet: ipnet::IpNet = "10.0.0.0/8".parse().unwrap();
    v1::CreateTokenRequest {
        labels: HashMap::from([("tier".into(), tier.into())]),
        address_subnets: vec![subnet.into()],
        ..v1::CreateTokenRequest::default()
    }
}

/// The SPIFFE id in the first certificate of a chain.
pub fn spiffe_id(chain_pem: &str) -> SpiffeId {
    let (_, pem) = x509_parser::pem::parse_x509_pem(chain_pem.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => Some(uri.parse().unwrap()),
            _ => None,
        })
        .unwrap()
}

pub fn claim(addresses: &[&str]) -> v1::AddressClaim {
    let bytes = |address: &&str| address_to_bytes(address.parse::<IpAddr>().unwrap());
    v1::AddressClaim {
        addresses: addresses.iter().map(bytes).collect(),
    }
}

pub fn addresses(bytes: &[Vec<u8>]) -> Vec<String> {
    bytes
        .iter()
        .map(|bytes| {
            proto::convert::address_from_bytes(bytes)
                .unwrap()
                .to_string()
        })
        .collect()
}

/// web may reach db on one port; nobody else may.
pub const POLICY: &str = "\
apiVersion: bulkhead/v1
kind: Segment
name: web
match: {tier: web}
---
apiVersion: bulkhead/v1
kind: Segment
name: db
match: {tier: db}
---
apiVersion: bulkhead/v1
kind: Policy
name: db-ingress
appliesTo: db
ingress:
  - from: [web]
    allow: [tcp/5432]
";
