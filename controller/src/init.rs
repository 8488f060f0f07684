//! `bulkhead-controller init`: the CA, the controller's certificate, the store, the first operator.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use proto::{
    DEFAULT_PORT,
    spiffe::{SpiffeId, is_operator_name},
};
use serde::Serialize;

use crate::{
    app::DEFAULT_STORE,
    ca::{CA_CERTIFICATE, CA_KEY, CertificateAuthority, OPERATOR_LIFE, Validity},
    files::{make_private_dir, write_private},
    own::Names,
    store::Store,
};

/// What `init` is told.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Made if it is not there.
    pub data_dir: PathBuf,
    /// `host:port`, where agents and operators find the controller; none is the local host, which no
    /// other machine reaches.
    pub addresses: Vec<String>,
    /// The first operator's name.
    pub operator: String,
}

/// An operator's file: all that the command line needs.
#[derive(Debug, Serialize)]
struct OperatorFile<'a> {
    controllers: &'a [String],
    ca_pem: &'a str,
    certificate_pem: &'a str,
    key_pem: &'a str,
}

/// Makes a controller in an empty data directory and returns the path of the operator's file.
///
/// # Errors
/// When the directory has a CA already (nothing is changed then), an address or name is not one,
/// or something cannot be written.
pub async fn init(options: &InitOptions) -> Result<PathBuf> {
    let InitOptions {
        data_dir,
        addresses,
        operator,
    } = options;
    let dir = data_dir.as_path();
    for name in [CA_CERTIFICATE, CA_KEY] {
        if dir.join(name).exists() {
            bail!(
                "{} has a CA already ({name}): hosts and operators trust it, so it is not \
                 replaced; choose another directory",
                dir.display()
            );
        }
    }
    ensure!(
        is_operator_name(operator),
        "`{operator}` cannot be an operator's name: use 1 to 63 of a-z, 0-9, `-`, `.` and `_`, \
         and begin with a letter or digit"
    );
    let names = addresses
        .iter()
        .map(|address| host_of(address))
        .collect::<Result<Vec<_>>>()?;
    let local = [format!("127.0.0.1:{DEFAULT_PORT}")];
    let controllers = if addresses.is_empty() {
        &local
    } else {
        addresses.as_slice()
    };

    make_private_dir(dir)?;
    let ca = CertificateAuthority::create()?;
    let issued = ca.issue(
        &SpiffeId::Operator(operator.clone()),
        &[],
        Validity::of(OPERATOR_LIFE),
    )?;
    let operator_file = dir.join(format!("operator-{operator}.toml"));
    let content = OperatorFile {
        controllers,
        ca_pem: ca.certificate_pem(),
        certificate_pem: &issued.chain_pem,
        key_pem: &issued.key_pem,
    };
    write_private(
        &operator_file,
        &toml::to_string_pretty(&content).context("writing TOML")?,
    )?;
    ca.renew_controller_certificate(dir, &names)?;
    Names::write(dir, controllers)?;
    create_store(&dir.join(DEFAULT_STORE)).await?;
    // Last: with it, the directory counts as made.
    ca.save(dir)?;
    Ok(operator_file)
}

/// What to do after `init`, in words.
#[must_use]
pub fn next_steps(options: &InitOptions, operator_file: &Path) -> String {
    let dir = options.data_dir.display();
    let file = operator_file.display();
    let mut text = String::new();
    if options.addresses.is_empty() {
        text.push_str(
            "Only this machine can reach this controller: no --address was given, so it is 127.0.0.1. For \
             other hosts,\nremove the directory and do it again with --address HOST:PORT, as they dial it.\n\n",
        );
    }
    text.push_str(&format!(
        "Next:\n  \
         systemctl enable --now bulkhead-controller        \
         # or in a terminal of its own: bulkhead-controller serve --data-dir {dir}\n  \
         export BULKHEAD_OPERATOR={file}\n  \
         bulkhead status\n\n\
         {file} lets whoever holds it do everything. Back up {dir}: it holds the key of the certificate authority.\n"
    ));
    text
}

async fn create_store(path: &Path) -> Result<()> {
    Store::create(path).await?.close().await;
    Ok(())
}

/// The host in `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> Result<String> {
    let refused =
        || format!("`{address}` is not an address: write HOST:PORT, such as 10.0.0.1:7443");
    let (host, port) = address.rsplit_once(':').with_context(refused)?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    port.parse::<u16>()
        .ok()
        .filter(|port| *port != 0)
        .with_context(refused)?;
    ensure!(
        !host.is_empty() && !host.contains(['[', ']', '/', ' ']),
        refused()
    );
    Ok(host.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn options(dir: &Path) -> InitOptions {
        InitOptions {
            data_dir: dir.join("data"),
            addresses: vec!["[fd00::1]:7443".into(), "ctl.example:7443".into()],
            operator: "ann".into(),
        }
    }

    #[tokio::test]
    async fn a_directory_with_a_ca_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        let operator_file = init(&options).await.unwrap();
        let mode = fs::metadata(&operator_file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let ca = fs::read(options.data_dir.join(CA_CERTIFICATE)).unwrap();

        let refused = init(&options).await.unwrap_err();
        assert!(
            refused.to_string().contains("has a CA already"),
            "{refused}"
        );
        assert_eq!(fs::read(options.data_dir.join(CA_CERTIFICATE)).unwrap(), ca);
    }

    #[tokio::test]
    async fn bad_addresses_and_names_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        for (address, operator) in [
            ("10.0.0.1", "ann"),
            (":7443", "ann"),
            ("h:0", "ann"),
            ("h:1", "Ann B"),
        ] {
            let options = InitOptions {
                addresses: vec![address.into()],
                operator: operator.into(),
                ..options(dir.path())
            };
            init(&options).await.unwrap_err();
            assert!(!options.data_dir.exists(), "{address} {operator}");
        }
    }
}
