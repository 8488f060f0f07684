//! Who calls: told from the certificate of the connection, and from nothing else.

use proto::spiffe::{HostId, SpiffeId};
use tonic::{Request, Status};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

/// The operator behind a call, put into the request by [`require_operator`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator(pub String);

/// The host behind a call.
///
/// # Errors
/// `UNAUTHENTICATED` without a certificate; `PERMISSION_DENIED` with somebody else's.
pub fn host<T>(request: &Request<T>) -> Result<HostId, Status> {
    match caller(request)? {
        SpiffeId::Host(id) => Ok(id),
        SpiffeId::Operator(name) => Err(Status::permission_denied(format!(
            "this is a call for hosts, and the certificate is that of the operator {name}"
        ))),
        SpiffeId::Controller => Err(controllers_do_not_call()),
    }
}

/// Lets a call pass only with an operator's certificate. It runs before the message is read.
///
/// # Errors
/// `UNAUTHENTICATED` without a certificate; `PERMISSION_DENIED` with somebody else's.
pub fn require_operator(mut request: Request<()>) -> Result<Request<()>, Status> {
    match caller(&request)? {
        SpiffeId::Operator(name) => {
            request.extensions_mut().insert(Operator(name));
            Ok(request)
        }
        SpiffeId::Host(id) => Err(Status::permission_denied(format!(
            "this is a call for operators, and the certificate is that of the host {id}"
        ))),
        SpiffeId::Controller => Err(controllers_do_not_call()),
    }
}

fn controllers_do_not_call() -> Status {
    Status::permission_denied("the certificate is that of a controller, which makes no calls")
}

fn caller<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    let certificates = request.peer_certs();
    // The handshake has verified the chain; the leaf comes first.
    let leaf = certificates
        .as_ref()
        .and_then(|chain| chain.first())
        .ok_or_else(|| {
            Status::unauthenticated(
                "this call needs a client certificate that this controller issued",
            )
        })?;
    spiffe_id(leaf).ok_or_else(|| {
        Status::unauthenticated("the client certificate names nobody whom this controller knows")
    })
}

/// The id in the only URI name of a certificate.
fn spiffe_id(der: &[u8]) -> Option<SpiffeId> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let uri = uris.next()?;
    if uris.next().is_some() {
        return None;
    }
    uri.parse().ok()
}
