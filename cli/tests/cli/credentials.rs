//! Certificates and the operator files that hold them.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd,
};

/// A CA of the tests.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
pub struct Credentials {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn controller(&self) -> Credentials {
        self.issue(CertificateParams::new([proto::SERVER_NAME.to_owned()]).unwrap())
    }

    pub fn operator(&self) -> Credentials {
        self.issue(operator())
    }

    pub fn expired_operator(&self) -> Credentials {
        let mut params = operator();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 2);
        self.issue(params)
    }

    fn issue(&self, params: CertificateParams) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Credentials {
            certificate,
            key: key.serialize_pem(),
        }
    }
}

fn operator() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    let uri = "spiffe://bulkhead/operator/ann".try_into().unwrap();
    params.subject_alt_names = vec![SanType::URI(uri)];
    params
}

/// Writes an operator file.
pub fn operator_file(path: &Path, address: &str, ca: &Authority, credentials: &Credentials) {
    let ca = ca.pem();
    let Credentials { certificate, key } = credentials;
    let text = format!(
        "controllers = [\"{address}\"]\nca_pem = '''\n{ca}'''\ncertificate_pem = '''\n{certificate}'''\nkey_pem = '''\n{key}'''\n"
    );
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
