//! An agent that speaks to a controller, without a kernel behind it.

use proto::{
    client,
    v1::{
        self, agent_message::Message as Up, agents_client::AgentsClient,
        controller_message::Message as Down,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::site::{Credentials, PATIENCE, Site, claim};

/// An enrolled host.
pub struct Host {
    pub name: String,
    pub credentials: Credentials,
}

impl Host {
    pub async fn client(&self, site: &Site) -> AgentsClient<Channel> {
        client::agents(site.channel(&self.credentials).await.unwrap())
    }

    /// Opens the control stream and says hello.
    pub async fn connect(&self, site: &Site, addresses: &[&str]) -> Agent {
        self.connect_with(site, addresses, &[]).await
    }

    pub async fn connect_with(&self, site: &Site, addresses: &[&str], applied: &[u8]) -> Agent {
        let (up, messages) = mpsc::channel(16);
        let mut client = self.client(site).await;
        let hello = v1::Hello {
            agent_version: "0.1.0-test".into(),
            kernel_release: "6.1.0".into(),
            addresses: Some(claim(addresses)),
            applied_digest: applied.to_vec(),
            report: None,
        };
        let agent_up = up.clone();
        let down = client
            .control(ReceiverStream::new(messages))
            .await
            .unwrap()
            .into_inner();
        let agent = Agent { up: agent_up, down };
        agent.say(Up::Hello(hello)).await;
        agent
    }
}

/// An agent's end of a control stream.
pub struct Agent {
    up: mpsc::Sender<v1::AgentMessage>,
    down: Streaming<v1::ControllerMessage>,
}

impl Agent {
    pub async fn say(&self, message: Up) {
        self.up
            .send(v1::AgentMessage {
                message: Some(message),
            })
            .await
            .unwrap();
    }

    /// The next message that is neither an answer to an ack nor an announcement.
    pub async fn hear(&mut self) -> Result<Option<Down>, Status> {
        loop {
            match self.next().await? {
                Some(Down::AckHeard(_) | Down::Controllers(_)) => {}
                message => return Ok(message),
            }
        }
    }

    pub async fn next(&mut self) -> Result<Option<Down>, Status> {
        let message = timeout(PATIENCE, self.down.message())
            .await
            .expect("an answer comes")?;
        Ok(message.map(|message| message.message.unwrap()))
    }

    /// The next policy, checked against its digest.
    pub async fn policy(&mut self) -> (policy::HostPolicy, Vec<u8>) {
        match self.hear().await.unwrap() {
            Some(Down::Policy(update)) => {
                let policy = proto::decode_host_policy(&update.policy, &update.digest).unwrap();
                (policy, update.digest)
            }
            other => panic!("not a policy: {other:?}"),
        }
    }

    /// The next policy, acknowledged.
    pub async fn apply(&mut self) -> (policy::HostPolicy, Vec<u8>) {
        let (policy, digest) = self.policy().await;
        self.ack(&policy, &digest).await;
        (policy, digest)
    }

    /// Policies, acknowledged, until one is as it should be.
    pub async fn apply_until(
        &mut self,
        is: impl Fn(&policy::HostPolicy) -> bool,
    ) -> (policy::HostPolicy, Vec<u8>) {
        loop {
            let (policy, digest) = self.apply().await;
            if is(&policy) {
                return (policy, digest);
            }
        }
    }

    pub async fn ack(&self, policy: &policy::HostPolicy, digest: &[u8]) {
        self.say(Up::Ack(v1::PolicyAck {
            digest: digest.to_vec(),
            revision: policy.revision.0,
            generation: 1,
        }))
        .await;
    }

    /// Sends a batch and waits until it is kept.
    pub async fn report(&mut self, sequence: u64, denials: Vec<v1::Denial>, lost: u64) {
        self.say(Up::Denials(v1::DenialBatch {
            sequence,
            denials,
            lost,
        }))
        .await;
        loop {
            match self.hear().await.unwrap() {
                Some(Down::DenialsKept(kept)) => return assert_eq!(kept.sequence, sequence),
                Some(Down::Policy(_) | Down::AckHeard(_) | Down::Controllers(_)) => {}
                None => panic!("the stream ended"),
            }
        }
    }

    /// The end of the stream, policies before it passed over.
    pub async fn end(&mut self) -> Status {
        loop {
            match self.hear().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a status"),
                Err(status) => return status,
            }
        }
    }
}
