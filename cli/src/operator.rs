//! Who the operator is, and the connection to the controller.

pub mod origin;
mod probe;

use std::{
    env, fs,
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use proto::{
    client,
    v1::{HostStatus, ListHostsRequest, operators_client::OperatorsClient},
};
use serde::Deserialize;
use tonic::{Code, Response, Status, transport::Channel};

use crate::exit::Failure;

/// How long the controller may take to answer one question.
const PATIENCE: Duration = Duration::from_secs(60);

/// The operator file: where the controllers are, and what proves who the operator is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorFile {
    /// `host:port`, tried in order.
    controllers: Vec<String>,
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
}

/// A controller that this operator talks to.
pub struct Controller {
    client: OperatorsClient<Channel>,
    operator: OperatorFile,
    path: PathBuf,
}

/// Runs a command that needs a controller.
pub fn online<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(work)
}

impl Controller {
    /// Connects with the operator file that was named, or the one in its usual place.
    ///
    /// # Errors
    /// An operator file that is missing or wrong; no controller that answers.
    pub async fn connect(named: Option<&Path>) -> Result<Self> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => usual_file()?,
        };
        let operator = read(&path)?;
        let channel = client::channel(
            &operator.controllers,
            &operator.ca_pem,
            &operator.certificate_pem,
            &operator.key_pem,
        )
        .await
        .map_err(|error| {
            Failure::unreachable(format!(
                "{error}; is the controller running, and does {} name the right addresses and CA?",
                path.display()
            ))
        })?;
        Ok(Self {
            client: client::operators(channel),
            operator,
            path,
        })
    }

    /// The addresses of the controllers, as the operator file has them.
    pub fn addresses(&self) -> &[String] {
        &self.operator.controllers
    }

    /// A client for [`Controller::ask`].
    pub fn client(&self) -> OperatorsClient<Channel> {
        self.client.clone()
    }

    /// Waits for an answer. `doing` completes "while ...".
    ///
    /// # Errors
    /// What [`Controller::failure`] makes of a refusal; a controller that takes too long.
    pub async fn ask<T>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.failure(doing, &status).await),
            Err(_) => Err(Failure::unreachable(format!(
                "no answer from {} in {} seconds while {doing}",
                self.addresses().join(", "),
                PATIENCE.as_secs()
            ))
            .into()),
        }
    }

    /// All hosts, by name.
    ///
    /// # Errors
    /// As [`Controller::ask`].
    pub async fn hosts(&self) -> Result<Vec<HostStatus>> {
        let answer = self
            .ask(
                "listing hosts",
                self.client().list_hosts(ListHostsRequest {}),
            )
            .await?;
        let mut hosts = answer.hosts;
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(hosts)
    }

    /// Puts a refusal into words and a class.
    pub async fn failure(&self, doing: &str, status: &Status) -> anyhow::Error {
        let file = self.path.display();
        let said = status.message();
        match status.code() {
            // The connection broke. When that was over the certificate, tonic does not tell.
            Code::Unavailable | Code::Cancelled | Code::Unknown => {
                match probe::refusal(&self.operator).await {
                    Some(why) => Failure::refused(format!(
                        "the controller refuses the certificate in {file}: {why}; ask an \
                         administrator for a new operator file"
                    )),
                    None => Failure::unreachable(format!(
                        "lost the controller ({}) while {doing}: {said}",
                        self.addresses().join(", ")
                    )),
                }
                .into()
            }
            Code::DeadlineExceeded => Failure::unreachable(format!(
                "the controller ({}) took too long while {doing}: {said}",
                self.addresses().join(", ")
            ))
            .into(),
            Code::PermissionDenied | Code::Unauthenticated => Failure::refused(format!(
                "permission denied while {doing}: {said}; {file} must hold an operator's \
                 certificate that may do this"
            ))
            .into(),
            Code::InvalidArgument => Failure::usage(said).into(),
            Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted => Failure::refused(said).into(),
            code => anyhow::anyhow!("{doing}: {said} ({code:?})"),
        }
    }
}

fn usual_file() -> Result<PathBuf> {
    let config = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::home_dir().map(|home| home.join(".config")));
    let file = config.map(|config| config.join("bulkhead/operator.toml"));
    match file {
        Some(file) if file.exists() => Ok(file),
        file => Err(Failure::usage(format!(
            "no operator file: name one with --operator or BULKHEAD_OPERATOR{}; `bulkhead-controller \
             init` writes the first one into its data directory",
            file.map(|file| format!(", or put it at {}", file.display())).unwrap_or_default()
        ))
        .into()),
    }
}

fn read(path: &Path) -> Result<OperatorFile> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::PermissionDenied => "; it belongs to another user",
            ErrorKind::InvalidData => "; it is no operator file",
            _ => "",
        };
        Failure::usage(format!("reading the operator file {name}: {error}{advice}"))
    })?;
    // The text of a parse error may show the line, and a line of this file may be a key.
    let operator: OperatorFile = toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .map_or(0, |span| text[..span.start].matches('\n').count())
            + 1;
        Failure::usage(format!(
            "the operator file {name}, line {line}: {}",
            error.message()
        ))
    })?;
    if operator.controllers.is_empty() {
        return Err(Failure::usage(format!(
            "the operator file {name} names no controller; add `controllers = [\"HOST:{}\"]`",
            proto::DEFAULT_PORT
        ))
        .into());
    }
    warn_if_readable_by_others(path);
    Ok(operator)
}

fn warn_if_readable_by_others(path: &Path) {
    let exposed =
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
    if exposed {
        eprintln!(
            "bulkhead: {0} holds a private key and is open to other users: chmod 600 {0}",
            path.display()
        );
    }
}
