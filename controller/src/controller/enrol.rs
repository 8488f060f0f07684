//! Tokens and certificates: how a host becomes known.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use policy::{HostName, Inventory, Labels, SourceFile};
use proto::{convert::address_to_bytes, hex, sha256, spiffe::HostId, token::EnrolmentToken, v1};

use super::{Caller, Controller};
use crate::{
    ca::{HOST_LIFE, Validity},
    error::{Error, Result},
    labels,
    model::{Host, Report, Token, unix_now},
};

/// How long a token is good unless the operator says otherwise, in seconds.
const DEFAULT_VALIDITY: u64 = 3_600;
/// How long a token can be good, in seconds.
const VALIDITY: std::ops::RangeInclusive<u64> = 60..=2_592_000;
/// What a host without a good token is told to do.
const ASK: &str = "ask the operator for a new one: `bulkhead token create`";

impl Controller {
    /// Makes a token, for an operator.
    ///
    /// # Errors
    /// When labels, name, subnets or validity are not ones, or the label schema has no such labels.
    pub async fn create_token(
        &self,
        operator: &Caller,
        request: v1::CreateTokenRequest,
    ) -> Result<v1::CreateTokenResponse> {
        let v1::CreateTokenRequest {
            labels,
            address_subnets,
            host_name,
            valid_seconds,
        } = request;
        let labels: Labels = labels.into_iter().collect();
        let host_name = Some(host_name)
            .filter(|name| !name.is_empty())
            .map(HostName);
        check_host(host_name.as_ref(), &labels)?;
        let address_subnets = address_subnets
            .into_iter()
            .map(IpNet::try_from)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| Error::Invalid(error.to_string()))?;
        let valid = if valid_seconds == 0 {
            DEFAULT_VALIDITY
        } else {
            valid_seconds
        };
        if !VALIDITY.contains(&valid) {
            return Err(Error::Invalid(format!(
                "a token cannot be good for {valid} seconds: choose {} to {}",
                VALIDITY.start(),
                VALIDITY.end()
            )));
        }
        let issued = EnrolmentToken {
            secret: rand::random(),
            ca_sha256: self.ca.certificate_sha256(),
        };
        let token = Token {
            secret_sha256: issued.secret_sha256(),
            labels,
            address_subnets,
            host_name,
            created_by: operator.name.clone(),
            expires_unix: unix_now() + valid,
            used_by: None,
        };
        let mut state = self.lock().await;
        let schema = state.policy.set.schema.as_ref();
        if let Some(objection) = labels::objection(schema, &token.labels) {
            return Err(Error::Invalid(objection));
        }
        self.store.add_token(&token).await?;
        let expires_unix = token.expires_unix;
        tracing::info!(operator = operator.name, labels = ?token.labels, "token created");
        state.tokens.insert(token.secret_sha256, token);
        Ok(v1::CreateTokenResponse {
            token: issued.to_string(),
            expires_unix,
            caller_address: Some(operator.source)
                .filter(|source| !source.is_loopback())
                .map_or_else(Vec::new, address_to_bytes),
        })
    }

    /// Takes a host in: its token buys a certificate, once.
    ///
    /// # Errors
    /// When the token is not good, the name is taken, its labels are outside the label schema, or the signing request is not one; the token
    /// is then not used up.
    pub async fn enrol(
        &self,
        source: IpAddr,
        request: v1::EnrollRequest,
    ) -> Result<v1::EnrollResponse> {
        let outcome = self.try_enrol(request).await;
        if let Err(error @ (Error::Refused(_) | Error::Taken(_))) = &outcome {
            self.security_event(format_args!("enrolment from {source} refused: {error}"));
        }
        outcome
    }

    async fn try_enrol(&self, request: v1::EnrollRequest) -> Result<v1::EnrollResponse> {
        let v1::EnrollRequest {
            token_secret,
            host_name,
            csr_pem,
        } = request;
        let unknown =
            || Error::Refused(format!("this token is not known to this controller: {ASK}"));
        let secret: [u8; 32] = hex::decode(&token_secret).ok_or_else(unknown)?;
        let key = sha256(&secret);

        let mut state = self.lock().await;
        let token = state.tokens.get(&key).ok_or_else(unknown)?;
        if let Some(host) = &token.used_by {
            return Err(Error::Refused(format!(
                "this token has been used, by the host {host}, and is good only once: {ASK}"
            )));
        }
        if token.expires_unix <= unix_now() {
            return Err(Error::Refused(format!("this token has expired: {ASK}")));
        }
        let name = token.host_name.clone().unwrap_or(HostName(host_name));
        check_host(Some(&name), &token.labels)?;
        // The token may be older than the schema.
        let set = &state.policy.set;
        if let Some(objection) = labels::objection(set.schema.as_ref(), &token.labels) {
            return Err(Error::Invalid(format!(
                "the labels of this token cannot be given any more: {objection}; {ASK}"
            )));
        }
        let predecessor = state.host_named(&name.0);
        if predecessor.is_some() && token.host_name.is_none() {
            return Err(Error::Taken(format!(
                "there is a host {name} already: give this one another name, or ask the operator \
                 for a token that replaces it: `bulkhead token create --host {name}`"
            )));
        }
        let id = HostId(rand::random());
        let certificate_chain_pem = self.certify(id, &csr_pem)?;
        let identity_labels = set.identity_labels(&token.labels);
        let mut identities = state.identities.clone();
        let host = Host {
            id,
            identity: identities.assign(&identity_labels),
            name: name.clone(),
            labels: token.labels.clone(),
            address_subnets: token.address_subnets.clone(),
            // Enrolling again is no way out of quarantine, neither here nor at the peers.
            addresses: predecessor
                .filter(|host| host.quarantine.is_some())
                .map(|host| host.addresses.clone())
                .unwrap_or_default(),
            quarantine: predecessor.and_then(|host| host.quarantine.clone()),
            report: Report::default(),
        };
        self.store.enrol(&host, &identity_labels, &key).await?;

        tracing::info!(host = %name, %id, identity = %host.identity, replaces = predecessor.is_some(), "enrolled");
        state.identities = identities;
        if let Some(token) = state.tokens.get_mut(&key) {
            token.used_by = Some(name.clone());
        }
        state.insert_host(host);
        self.stale.notify_one();
        Ok(v1::EnrollResponse {
            host_name: name.0,
            certificate_chain_pem,
            ca_pem: self.ca.certificate_pem().to_owned(),
        })
    }

    /// A new certificate for a host that has one.
    ///
    /// # Errors
    /// When the host has been replaced, or the signing request is not one.
    pub async fn renew(&self, id: HostId, request: &v1::RenewRequest) -> Result<v1::RenewResponse> {
        let state = self.lock().await;
        let host = state.host(id).ok_or_else(|| replaced(id))?;
        let certificate_chain_pem = self.certify(id, &request.csr_pem)?;
        tracing::info!(host = %host.name, "certificate renewed");
        Ok(v1::RenewResponse {
            certificate_chain_pem,
        })
    }

    fn certify(&self, id: HostId, csr_pem: &str) -> Result<String> {
        self.ca
            .issue_for_request(id, csr_pem, Validity::of(HOST_LIFE))
            .map_err(|error| Error::Invalid(format!("{error:#}")))
    }
}

/// What a host is told whose certificate is good and whose enrolment is not any more.
pub(super) fn replaced(id: HostId) -> Error {
    Error::Refused(format!(
        "the host with this certificate ({id}) is not enrolled any more, or has been enrolled \
         again since: enrol it with a new token (`bulkhead token create`)"
    ))
}

/// Whether a host can have this name and these labels: by the grammar of inventories.
fn check_host(name: Option<&HostName>, labels: &Labels) -> Result<()> {
    let host = BTreeMap::from([
        (
            "name",
            serde_json::json!(name.map_or("any", |name| name.0.as_str())),
        ),
        ("labels", serde_json::json!(labels)),
    ]);
    let content = serde_json::json!({ "hosts": [host] }).to_string();
    match Inventory::parse(&SourceFile {
        path: String::new(),
        content,
    }) {
        Ok(_) => Ok(()),
        Err(problems) => {
            let texts: Vec<_> = problems
                .0
                .into_iter()
                .map(|problem| match problem.help {
                    Some(help) => format!("{}: {help}", problem.message),
                    None => problem.message,
                })
                .collect();
            Err(Error::Invalid(texts.join("; ")))
        }
    }
}
