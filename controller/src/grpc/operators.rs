//! What operators call.

use std::sync::Arc;

use proto::v1;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Result, Status};

use super::{Service, source_of};
use crate::{auth::Operator, controller::Caller, error::Error, store::KeptDenial};

/// Denials that are listed unless the operator says how many.
const DEFAULT_LIMIT: u32 = 100;
/// Denials to a follower that wait in its stream.
const BACKLOG: usize = 256;

type Denials = mpsc::Sender<Result<v1::HostDenial>>;

#[tonic::async_trait]
impl v1::operators_server::Operators for Service {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>> {
        let (controller, caller) = (self.controller.clone(), caller(&request)?);
        let request = request.into_inner();
        self.finish(async move { controller.create_token(&caller, request).await })
            .await
            .map(Response::new)
    }

    async fn list_hosts(
        &self,
        _: Request<v1::ListHostsRequest>,
    ) -> Result<Response<v1::ListHostsResponse>> {
        let hosts = self.controller.host_statuses().await;
        Ok(Response::new(v1::ListHostsResponse { hosts }))
    }

    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Result<Response<v1::ApplyPolicyResponse>> {
        let (controller, caller) = (self.controller.clone(), caller(&request)?);
        let request = request.into_inner();
        self.finish(async move { controller.apply_policy(&caller, request).await })
            .await
            .map(Response::new)
    }

    async fn get_policy(
        &self,
        _: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>> {
        Ok(Response::new(self.controller.policy_files().await))
    }

    async fn quarantine(
        &self,
        request: Request<v1::QuarantineRequest>,
    ) -> Result<Response<v1::QuarantineResponse>> {
        let (controller, operator) = (self.controller.clone(), operator(&request));
        let request = request.into_inner();
        self.finish(async move { controller.quarantine(&operator, request).await })
            .await
            .map(Response::new)
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>> {
        let (controller, operator) = (self.controller.clone(), operator(&request));
        let request = request.into_inner();
        self.finish(async move { controller.release(&operator, request).await })
            .await
            .map(Response::new)
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>> {
        Ok(Response::new(self.controller.status().await?))
    }

    type WatchDenialsStream = ReceiverStream<Result<v1::HostDenial>>;

    async fn watch_denials(
        &self,
        request: Request<v1::WatchDenialsRequest>,
    ) -> Result<Response<Self::WatchDenialsStream>> {
        let request = request.into_inner();
        self.controller.check_host_filter(&request.host).await?;
        // Before the kept ones are read, so that none falls between.
        let news = request.follow.then(|| self.controller.follow_denials());
        let (denials, messages) = mpsc::channel(BACKLOG);
        let service = self.clone();
        self.tasks.spawn(async move {
            let stopped = service.stop.clone();
            tokio::select! {
                () = stopped.cancelled() => {
                    let _ = denials.try_send(Err(Status::unavailable("the controller is stopping")));
                }
                // Also ends when the caller goes away without a denial coming.
                () = denials.closed() => {}
                outcome = service.watch(&request, news, &denials) => if let Err(status) = outcome {
                    let _ = denials.send(Err(status)).await;
                },
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Service {
    /// Sends the kept denials, then with `news` those that come.
    async fn watch(
        &self,
        request: &v1::WatchDenialsRequest,
        news: Option<broadcast::Receiver<Arc<KeptDenial>>>,
        denials: &Denials,
    ) -> Result<()> {
        let v1::WatchDenialsRequest {
            follow: _,
            host,
            limit,
            since_ns,
        } = request;
        let wanted = |denial: &v1::HostDenial| {
            (host.is_empty() || denial.host == *host)
                && denial
                    .denial
                    .as_ref()
                    .is_some_and(|denial| denial.time_ns >= *since_ns)
        };
        let store = self.controller.store();
        let limit = if *limit == 0 { DEFAULT_LIMIT } else { *limit };
        let (first, last) = store
            .denials_range(host, limit.into())
            .await
            .map_err(Error::from)?;
        let mut next = Some(first);
        while let Some(first) = next {
            let (page, following) = store
                .denials_page(host, first, last)
                .await
                .map_err(Error::from)?;
            for kept in page.into_iter().filter(|kept| wanted(&kept.denial)) {
                if denials.send(Ok(kept.denial)).await.is_err() {
                    return Ok(());
                }
            }
            next = following;
        }

        let Some(mut news) = news else {
            return Ok(());
        };
        let mut missed = 0;
        loop {
            match news.recv().await {
                Ok(kept) if kept.id > last && wanted(&kept.denial) => {
                    let denial = v1::HostDenial {
                        missed,
                        ..kept.denial.clone()
                    };
                    missed = 0;
                    if denials.send(Ok(denial)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(count)) => missed += count,
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            }
        }
    }
}

/// Who calls, and from where.
fn caller<T>(request: &Request<T>) -> Result<Caller> {
    Ok(Caller {
        name: operator(request),
        source: source_of(request)?,
    })
}

/// Who calls: [`crate::auth::require_operator`] has put it into the request.
fn operator<T>(request: &Request<T>) -> String {
    request
        .extensions()
        .get()
        .map_or_else(String::new, |Operator(name)| name.clone())
}
