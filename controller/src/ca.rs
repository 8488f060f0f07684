//! The controller's own certificate authority.
//!
//! Everybody's key is ECDSA on P-256 unless they brought another; everybody's name is the SPIFFE
//! id in the certificate. Only the controller's certificate is good for a server, so no host can
//! pass for it.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use proto::{
    SERVER_NAME, Sha256Digest, hex, sha256,
    spiffe::{HostId, SpiffeId},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber,
};
use x509_parser::{extensions::GeneralName, pem::parse_x509_pem};

use crate::files::write_private;

/// The CA's certificate, in the data directory.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The CA's key, in the data directory.
pub const CA_KEY: &str = "ca.key";
/// The controller's certificate and the CA's behind it, in the data directory.
pub const CONTROLLER_CERTIFICATE: &str = "controller.pem";
/// The controller's key, in the data directory.
pub const CONTROLLER_KEY: &str = "controller.key";

const DAY: Duration = Duration::from_secs(86_400);
/// How long the CA's certificate is good.
pub const CA_LIFE: Duration = Duration::from_secs(3_653 * 86_400);
/// How long the controller's certificate is good; `serve` makes a new one in its second half.
pub const CONTROLLER_LIFE: Duration = Duration::from_secs(730 * 86_400);
/// How long an operator's certificate is good.
pub const OPERATOR_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// How long a host's certificate is good; agents renew at half of it.
pub const HOST_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// When a certificate is good.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// The first moment.
    pub from: SystemTime,
    /// The last moment.
    pub until: SystemTime,
}

impl Validity {
    /// From a day ago, for clocks that are behind, until this long from now.
    #[must_use]
    pub fn of(life: Duration) -> Self {
        let now = SystemTime::now();
        Self {
            from: now - DAY,
            until: now + life,
        }
    }
}

/// A certificate with the CA's behind it, and its key; both PEM.
#[derive(Debug)]
pub struct Issued {
    /// Leaf first.
    pub chain_pem: String,
    /// PKCS #8.
    pub key_pem: String,
}

/// Issues certificates.
#[derive(Debug)]
pub struct CertificateAuthority {
    certificate_pem: String,
    certificate_sha256: Sha256Digest,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// A new CA, in memory only.
    ///
    /// # Errors
    /// When the system has no randomness or the crypto library fails.
    pub fn create() -> Result<Self> {
        let key = KeyPair::generate().context("making the CA's key")?;
        // A name of its own, so that a stranger's certificate is one of an unknown CA and not one
        // with a wrong signature of ours.
        let name = format!("Bulkhead CA {}", hex::encode(&rand::random::<[u8; 4]>()));
        let mut params = params(Validity::of(CA_LIFE), &name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .context("signing the CA's certificate")?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            certificate_sha256: sha256(certificate.der()),
            issuer: Issuer::new(params, key),
        })
    }

    /// The CA in a data directory.
    ///
    /// # Errors
    /// When there is none, or its files are damaged or do not belong together.
    pub fn load(dir: &Path) -> Result<Self> {
        let certificate_pem = read(dir, CA_CERTIFICATE)?;
        let key = KeyPair::from_pem(&read(dir, CA_KEY)?)
            .with_context(|| format!("{} holds no key", dir.join(CA_KEY).display()))?;
        let damaged = || {
            format!(
                "{} holds no certificate",
                dir.join(CA_CERTIFICATE).display()
            )
        };
        let (_, pem) = parse_x509_pem(certificate_pem.as_bytes()).with_context(damaged)?;
        let certificate = pem.parse_x509().with_context(damaged)?;
        ensure!(
            certificate.public_key().subject_public_key.data == key.public_key_raw(),
            "{CA_KEY} is not the key of {CA_CERTIFICATE} in {}: bring both back from one backup",
            dir.display()
        );
        let certificate_sha256 = sha256(&pem.contents);
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).with_context(damaged)?;
        Ok(Self {
            certificate_pem,
            certificate_sha256,
            issuer,
        })
    }

    /// Writes the CA to a data directory, the certificate last.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        write_private(&dir.join(CA_KEY), &self.issuer.key().serialize_pem())?;
        write_private(&dir.join(CA_CERTIFICATE), &self.certificate_pem)
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The SHA-256 of the CA's certificate, as tokens carry it.
    #[must_use]
    pub fn certificate_sha256(&self) -> Sha256Digest {
        self.certificate_sha256
    }

    /// A certificate for somebody, with a new key. `names` are DNS names and addresses beside the
    /// SPIFFE id; for a controller, [`SERVER_NAME`] is always one.
    ///
    /// # Errors
    /// When a name is not one.
    pub fn issue(&self, id: &SpiffeId, names: &[String], validity: Validity) -> Result<Issued> {
        let key = KeyPair::generate().context("making a key")?;
        let chain_pem = self.sign(id, names, &key, validity)?;
        Ok(Issued {
            chain_pem,
            key_pem: key.serialize_pem(),
        })
    }

    /// A certificate (chain, PEM) for a host, with the key of its signing request. Whatever else
    /// the request asks for is ignored.
    ///
    /// # Errors
    /// When the request is not one, or is not signed with its own key.
    pub fn issue_for_request(
        &self,
        id: HostId,
        csr_pem: &str,
        validity: Validity,
    ) -> Result<String> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .context("reading the certificate signing request")?;
        self.sign(&SpiffeId::Host(id), &[], &request.public_key, validity)
    }

    fn sign(
        &self,
        id: &SpiffeId,
        names: &[String],
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<String> {
        let mut params = params(validity, &id.to_string());
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        let usage = if *id == SpiffeId::Controller {
            params
                .subject_alt_names
                .push(SanType::DnsName(SERVER_NAME.try_into()?));
            ExtendedKeyUsagePurpose::ServerAuth
        } else {
            ExtendedKeyUsagePurpose::ClientAuth
        };
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    name.as_str()
                        .try_into()
                        .with_context(|| format!("`{name}` as a DNS name"))?,
                ),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(key, &self.issuer)
            .with_context(|| format!("signing the certificate of {id}"))?;
        Ok(format!("{}{}", certificate.pem(), self.certificate_pem))
    }

    /// The controller's certificate and key from a data directory; new ones, with the same names,
    /// when the certificate is in the second half of its life.
    ///
    /// # Errors
    /// When the files are damaged, or new ones cannot be written.
    pub fn controller_certificate(&self, dir: &Path) -> Result<Issued> {
        let chain_pem = read(dir, CONTROLLER_CERTIFICATE)?;
        let damaged = || {
            format!(
                "{} holds no certificate",
                dir.join(CONTROLLER_CERTIFICATE).display()
            )
        };
        let (_, pem) = parse_x509_pem(chain_pem.as_bytes()).with_context(damaged)?;
        let certificate = pem.parse_x509().with_context(damaged)?;
        let left = certificate
            .validity()
            .time_to_expiration()
            .map(|left| left.unsigned_abs());
        if left.is_some_and(|left| left > CONTROLLER_LIFE / 2) {
            return Ok(Issued {
                chain_pem,
                key_pem: read(dir, CONTROLLER_KEY)?,
            });
        }
        let names = names_of(&chain_pem)?;
        tracing::info!("the controller's certificate is near its end: making a new one");
        self.renew_controller_certificate(dir, &names)
    }

    /// Issues the controller's certificate and writes it to a data directory.
    ///
    /// # Errors
    /// When a name is not one, or a file cannot be written.
    pub fn renew_controller_certificate(&self, dir: &Path, names: &[String]) -> Result<Issued> {
        let issued = self.issue(&SpiffeId::Controller, names, Validity::of(CONTROLLER_LIFE))?;
        write_private(&dir.join(CONTROLLER_KEY), &issued.key_pem)?;
        write_private(&dir.join(CONTROLLER_CERTIFICATE), &issued.chain_pem)?;
        Ok(issued)
    }
}

fn read(dir: &Path, name: &str) -> Result<String> {
    let path = dir.join(name);
    fs::read_to_string(&path).with_context(|| {
        format!(
            "reading {}: run `bulkhead-controller init` first, or name the right data directory",
            path.display()
        )
    })
}

/// What every certificate has.
fn params(validity: Validity, common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = validity.from.into();
    params.not_after = validity.until.into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    // 20 octets at most, and positive: RFC 5280, 4.1.2.2.
    let mut serial: [u8; 16] = rand::random();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

/// The names of a controller's certificate (chain, PEM) that `init` was given: DNS names and addresses.
///
/// # Errors
/// When it is no certificate.
pub fn names_of(chain_pem: &str) -> Result<Vec<String>> {
    let (_, pem) =
        parse_x509_pem(chain_pem.as_bytes()).context("reading the certificate's names")?;
    let certificate = pem
        .parse_x509()
        .context("reading the certificate's names")?;
    Ok(certificate
        .subject_alternative_name()
        .context("reading the certificate's names")?
        .map_or(Vec::new(), |names| other_names(&names.value.general_names)))
}

fn other_names(names: &[GeneralName<'_>]) -> Vec<String> {
    names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) if *name != SERVER_NAME => Some((*name).to_owned()),
            GeneralName::IPAddress(octets) => proto::convert::address_from_bytes(octets)
                .ok()
                .map(|address| address.to_string()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn spiffe_ids(pem: &str) -> Vec<String> {
        let (_, pem) = parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        names
            .value
            .general_names
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_request_decides_only_the_key() {
        let ca = CertificateAuthority::create().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut wish = CertificateParams::new(["controller.bulkhead.internal".to_owned()]).unwrap();
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let csr = wish.serialize_request(&key).unwrap().pem().unwrap();
        let id = HostId([7; 16]);
        let chain = ca
            .issue_for_request(id, &csr, Validity::of(HOST_LIFE))
            .unwrap();

        assert_eq!(spiffe_ids(&chain), [format!("URI({})", SpiffeId::Host(id))]);
        let (_, pem) = parse_x509_pem(chain.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(
            certificate.public_key().subject_public_key.data,
            key.public_key_raw()
        );
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert!(!certificate.is_ca());
    }

    #[test]
    fn the_key_of_the_ca_is_for_its_owner_only_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::create().unwrap();
        ca.save(dir.path()).unwrap();
        let mode = fs::metadata(dir.path().join(CA_KEY))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let loaded = CertificateAuthority::load(dir.path()).unwrap();
        assert_eq!(loaded.certificate_sha256(), ca.certificate_sha256());
    }

    #[test]
    fn a_key_of_another_ca_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        CertificateAuthority::create()
            .unwrap()
            .save(dir.path())
            .unwrap();
        let other = KeyPair::generate().unwrap().serialize_pem();
        write_private(&dir.path().join(CA_KEY), &other).unwrap();
        let refused = CertificateAuthority::load(dir.path()).unwrap_err();
        assert!(
            refused.to_string().contains("is not the key of"),
            "{refused}"
        );
    }

    #[test]
    fn a_certificate_near_its_end_is_replaced_with_the_same_names() {
        let dir = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::create().unwrap();
        let names = ["ctl.example".to_owned(), "10.0.0.1".to_owned()];
        let old = ca
            .issue(&SpiffeId::Controller, &names, Validity::of(30 * DAY))
            .unwrap();
        write_private(&dir.path().join(CONTROLLER_CERTIFICATE), &old.chain_pem).unwrap();
        write_private(&dir.path().join(CONTROLLER_KEY), &old.key_pem).unwrap();

        let new = ca.controller_certificate(dir.path()).unwrap();
        assert_ne!(new.chain_pem, old.chain_pem);
        assert_eq!(spiffe_ids(&new.chain_pem), spiffe_ids(&old.chain_pem));
        let again = ca.controller_certificate(dir.path()).unwrap();
        assert_eq!(again.chain_pem, new.chain_pem);
    }
}
