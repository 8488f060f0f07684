//! The life of `bulkhead-controller serve`: every task of the process is started here.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use proto::{
    MAX_MESSAGE_BYTES,
    v1::{agents_server::AgentsServer, operators_server::OperatorsServer},
};
use rustix::fs::{FlockOperation, flock};
use sd_notify::NotifyState;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use crate::{
    auth,
    ca::{CertificateAuthority, names_of},
    controller::{Controller, Limits},
    grpc::Service,
    own::Names,
};

/// The store's file in the data directory.
pub const DEFAULT_STORE: &str = "bulkhead.db";
/// Denials that are kept unless the operator says how many.
pub const DEFAULT_KEEP_DENIALS: u64 = 1_000_000;
/// How long the addresses of a host that went away stay its own unless told otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// A connection that was silent this long is asked whether it still lives.
const PING_AFTER: Duration = Duration::from_secs(10);
/// How long the answer, or a TLS handshake, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often refused claims are judged again and reports are saved.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// How often the names of the controller are resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(60);
/// How long calls may take to end when the process stops.
const FAREWELL: Duration = Duration::from_secs(10);

/// What `serve` is told.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// What `init` made.
    pub data_dir: PathBuf,
    /// Where to listen for agents and operators; `[::]` falls back to `0.0.0.0` where the kernel
    /// has no IPv6.
    pub listen: SocketAddr,
    /// The store's file; none is [`DEFAULT_STORE`] in the data directory.
    pub store: Option<PathBuf>,
    /// Denials that are kept; the oldest beyond it are given up. At least 1.
    pub keep_denials: u64,
    /// How long the addresses of a host that went away stay its own, whoever claims them.
    pub grace: Duration,
}

/// A running controller.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    controller: Arc<Controller>,
    calls: TaskTracker,
    tasks: JoinSet<Result<()>>,
    stop: CancellationToken,
    /// Holds the data directory against a second controller.
    _lock: File,
}

impl App {
    /// Starts a controller; it serves when this returns. Notify `reload` to have the file of its addresses
    /// read again.
    ///
    /// # Errors
    /// When the data directory, the store or the address cannot be used; each says why.
    pub async fn start(options: ServeOptions, reload: Arc<Notify>) -> Result<Self> {
        let ServeOptions {
            data_dir,
            listen,
            store,
            keep_denials,
            grace,
        } = options;
        // An error means that it was done before, by a test in the same process.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca = CertificateAuthority::load(&data_dir)?;
        let lock = lock(&data_dir)?;
        let certificate = ca.controller_certificate(&data_dir)?;
        let certificate_names = names_of(&certificate.chain_pem)?;
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(
                certificate.chain_pem,
                certificate.key_pem,
            ))
            .client_ca_root(Certificate::from_pem(ca.certificate_pem()))
            // Only an enrolment comes without a certificate; each call looks for itself.
            .client_auth_optional(true)
            .timeout(PATIENCE);

        let store = store.unwrap_or_else(|| data_dir.join(DEFAULT_STORE));
        let store = crate::store::Store::open(&store).await?;
        let limits = Limits {
            denials: keep_denials.max(1),
            grace,
        };
        let listener = bind(listen).with_context(|| format!("listening on {listen}"))?;
        let address = listener.local_addr()?;
        let whereabouts = Whereabouts {
            names: Names::read(&data_dir, &certificate_names, address.port())?,
            dir: data_dir.clone(),
            certificate_names,
            port: address.port(),
        };
        let controller = Arc::new(Controller::load(store, ca, limits).await?);
        controller.listens_on(address.port()).await;
        // The first agents are told too, unless a resolver is slow.
        if let Ok(Some(addresses)) = timeout(PATIENCE, whereabouts.names.resolve()).await {
            controller.announce(addresses);
        }

        let stop = CancellationToken::new();
        let calls = TaskTracker::new();
        let service = Service {
            controller: Arc::clone(&controller),
            tasks: calls.clone(),
            stop: stop.clone(),
        };
        let agents =
            AgentsServer::new(service.clone()).max_encoding_message_size(MAX_MESSAGE_BYTES);
        let operators = OperatorsServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let server = Server::builder()
            .tls_config(tls)
            .context("reading the controller's certificate and key")?
            .http2_keepalive_interval(Some(PING_AFTER))
            .http2_keepalive_timeout(Some(PATIENCE))
            .add_service(agents)
            .add_service(InterceptedService::new(operators, auth::require_operator))
            .serve_with_incoming_shutdown(
                TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?)
                    .with_nodelay(Some(true)),
                stop.clone().cancelled_owned(),
            );

        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.await.context("serving agents and operators") });
        tasks.spawn(until(stop.clone(), {
            let controller = Arc::clone(&controller);
            async move { controller.publish_changes().await }
        }));
        tasks.spawn(until(stop.clone(), {
            let controller = Arc::clone(&controller);
            async move { controller.watch_assertions().await }
        }));
        tasks.spawn(until(stop.clone(), tidy(Arc::clone(&controller))));
        tasks.spawn(until(
            stop.clone(),
            announce(whereabouts, Arc::clone(&controller), reload),
        ));
        tracing::info!(%address, data_dir = %data_dir.display(), "serving");
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        Ok(Self {
            address,
            controller,
            calls,
            tasks,
            stop,
            _lock: lock,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cancel it to stop the controller.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Serves until it is stopped or a task ends early.
    ///
    /// # Errors
    /// The reason why a task ended early.
    pub async fn run(mut self) -> Result<()> {
        let early = tokio::select! {
            // A task may end because of the stop before this one hears of it.
            biased;
            () = self.stop.cancelled() => None,
            ended = self.tasks.join_next() => ended,
        };
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        self.stop.cancel();
        self.calls.close();
        let rest = async {
            while self.tasks.join_next().await.is_some() {}
            self.calls.wait().await;
        };
        if timeout(FAREWELL, rest).await.is_err() {
            tracing::warn!("some calls did not end in time and are cut off");
        }
        self.controller.close().await;
        match early {
            None => Ok(()),
            Some(ended) => {
                ended.context("a task of the controller failed")??;
                bail!("a task of the controller ended early");
            }
        }
    }
}

/// Runs something that does not end by itself until the process stops.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) -> Result<()> {
    stop.run_until_cancelled_owned(task).await;
    Ok(())
}

async fn tidy(controller: Arc<Controller>) {
    let mut ticks = interval(TIDY_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        controller.tidy().await;
    }
}

/// Where agents find the controller.
struct Whereabouts {
    names: Names,
    dir: PathBuf,
    certificate_names: Vec<String>,
    port: u16,
}

/// Tells the agents where the controller is: at the start, when its names resolve to other addresses,
/// and when the file of its addresses is read again.
async fn announce(mut at: Whereabouts, controller: Arc<Controller>, reload: Arc<Notify>) {
    let mut ticks = interval(RESOLVE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = reload.notified() => {
                match Names::read(&at.dir, &at.certificate_names, at.port) {
                    Ok(names) => {
                        at.names = names;
                        tracing::info!("the controller's addresses are read again");
                    }
                    Err(error) => tracing::error!("the addresses stay as they are: {error:#}"),
                }
            }
        }
        if let Some(addresses) = at.names.resolve().await {
            controller.announce(addresses);
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).or_else(|error| {
        let no_ipv6 = matches!(
            error.kind(),
            io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable
        ) || error.raw_os_error()
            == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
        if no_ipv6 && address.ip() == Ipv6Addr::UNSPECIFIED {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        } else {
            Err(error)
        }
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Two controllers on one directory would each decide from a memory of their own.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).with_context(|| {
        format!(
            "another controller is running on {}: stop it first",
            dir.display()
        )
    })?;
    Ok(file)
}
