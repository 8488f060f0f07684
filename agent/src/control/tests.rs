#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::IpAddr;

use policy::{HostPolicy, Revision};
use proto::v1::{
    DenialBatch, DenialsKept, Hello, PolicyAck, PolicyNack, PolicyUpdate, agent_message::Message,
    controller_message,
};
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::*;
use crate::{
    config::{ControllerAddress, ControllerList},
    enforcement::{Applied, Command, Facts, bootstrap_policy},
    spool::{Spool, tests::denial},
    state::policy_store::EncodedPolicy,
    testing::{LONG, TestController, TestStream},
};

/// The agent's control task, with a kernel side that the test plays.
struct Agent {
    facts: watch::Sender<Facts>,
    commands: mpsc::Receiver<Command>,
    spool: SharedSpool,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), AgentError>>,
    _directory: TempDir,
}

impl Agent {
    fn start(controller: &TestController) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDir::open(directory.path()).unwrap());
        let address: ControllerAddress = controller.address.to_string().parse().unwrap();
        let list = ControllerList::try_from(vec![address]).unwrap();
        let controllers = Controllers::load(&list, &state);
        let spool = Spool::open(&directory.path().join("spool"), 1 << 20).unwrap();
        let spool = SharedSpool::new(spool);
        let (facts, facts_receiver) = watch::channel(Facts::default());
        let (enforcement, commands) = Enforcement::new(facts_receiver);
        let config: Config =
            toml::from_str(&format!("controllers = ['{}']", controller.address)).unwrap();
        let control = Control {
            config: config.into(),
            state,
            controllers,
            addresses: watch::Sender::new(Vec::new()),
            identity: watch::Sender::new(Arc::new(controller.ca.host())),
            enforcement,
            spool: spool.clone(),
        };
        let cancel = CancellationToken::new();
        let task = tokio::spawn(control.run(cancel.clone()));
        Self {
            facts,
            commands,
            spool,
            cancel,
            task,
            _directory: directory,
        }
    }

    async fn command(&mut self) -> Command {
        timeout(LONG, self.commands.recv()).await.unwrap().unwrap()
    }

    /// What the control task does before each attempt to connect.
    async fn let_it_connect(&mut self) -> Vec<SocketAddr> {
        let Command::SetControllers { addresses, answer } = self.command().await else {
            panic!("another command before the way was open")
        };
        answer.send(()).unwrap();
        addresses
    }

    async fn stop(self) {
        self.cancel.cancel();
        timeout(LONG, self.task).await.unwrap().unwrap().unwrap();
    }
}

fn policy(revision: u64) -> EncodedPolicy {
    EncodedPolicy::encode(HostPolicy {
        revision: Revision(revision),
        ..bootstrap_policy()
    })
}

fn update(revision: u64) -> PolicyUpdate {
    let policy = policy(revision);
    let (encoded, _) = proto::encode_host_policy(policy.policy());
    PolicyUpdate {
        policy: encoded.into(),
        digest: policy.digest().into(),
    }
}

async fn hello(stream: &mut TestStream) -> Hello {
    match stream.next().await {
        Some(Message::Hello(hello)) => hello,
        other => panic!("{other:?} in place of the hello"),
    }
}

async fn batch(stream: &mut TestStream) -> DenialBatch {
    match stream.next().await {
        Some(Message::Denials(batch)) => batch,
        other => panic!("{other:?} in place of denials"),
    }
}

/// Spools a batch more than an agent sends without a confirmation, and takes what it sends; the
/// sequence number of the first.
async fn fill_window(agent: &Agent, stream: &mut TestStream) -> u64 {
    for number in 0..9 {
        agent.spool.with(|spool| spool.append(vec![denial(number)]));
    }
    let first = batch(stream).await;
    assert_eq!(ports(&first), [0]);
    for number in 1..8 {
        assert_eq!(ports(&batch(stream).await), [number]);
    }
    first.sequence
}

fn ports(batch: &DenialBatch) -> Vec<u32> {
    batch
        .denials
        .iter()
        .map(|denial| denial.peer_port)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_acknowledged_when_the_kernel_enforces_it_and_not_before() {
    let mut controller = TestController::start(0).await;
    let mut agent = Agent::start(&controller);
    assert_eq!(
        agent.let_it_connect().await,
        [controller.address],
        "the way is opened first"
    );
    let mut stream = controller.stream().await;
    assert_eq!(hello(&mut stream).await.applied_digest, Vec::<u8>::new());

    stream
        .send(controller_message::Message::Policy(update(7)))
        .await;
    let Command::Apply {
        policy: received,
        answer,
    } = agent.command().await
    else {
        panic!()
    };
    assert_eq!(*received, policy(7));
    // An answer to this claim shows that no ack has come before it.
    let address: IpAddr = "10.1.10.3".parse().unwrap();
    agent
        .facts
        .send_modify(|facts| facts.addresses = vec![address]);
    let Some(Message::Addresses(claim)) = stream.next().await else {
        panic!()
    };
    assert_eq!(claim.addresses, [vec![10, 1, 10, 3]]);

    let applied = Applied {
        digest: received.digest(),
        revision: Revision(7),
        generation: 3,
    };
    answer.send(Ok(applied)).unwrap();
    let Some(Message::Ack(PolicyAck {
        digest,
        revision,
        generation,
    })) = stream.next().await
    else {
        panic!()
    };
    assert_eq!(
        (digest, revision, generation),
        (received.digest().to_vec(), 7, 3)
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_be_enforced_is_refused_with_the_reason() {
    let mut controller = TestController::start(0).await;
    let mut agent = Agent::start(&controller);
    agent.let_it_connect().await;
    let mut stream = controller.stream().await;
    hello(&mut stream).await;

    // Not what was digested: the kernel side never hears of it.
    let mut torn = update(8);
    torn.policy.truncate(torn.policy.len() - 1);
    stream
        .send(controller_message::Message::Policy(torn.clone()))
        .await;
    let Some(Message::Nack(PolicyNack { digest, reason, .. })) = stream.next().await else {
        panic!()
    };
    assert_eq!(digest, torn.digest);
    assert!(reason.contains("digest"), "{reason}");

    // Digested well, and no policy.
    let junk = vec![0xff; 10];
    let digest = proto::sha256(&junk).to_vec();
    let message = PolicyUpdate {
        policy: junk.into(),
        digest,
    };
    stream
        .send(controller_message::Message::Policy(message))
        .await;
    assert!(matches!(stream.next().await, Some(Message::Nack(_))));

    // The kernel refuses.
    stream
        .send(controller_message::Message::Policy(update(9)))
        .await;
    let Command::Apply {
        policy: received,
        answer,
    } = agent.command().await
    else {
        panic!()
    };
    assert_eq!(received.policy().revision, Revision(9));
    answer.send(Err("the policy does not fit".into())).unwrap();
    let Some(Message::Nack(PolicyNack {
        revision, reason, ..
    })) = stream.next().await
    else {
        panic!()
    };
    assert_eq!((revision, reason.as_str()), (9, "the policy does not fit"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_policies_that_come_during_an_apply_only_the_newest_is_applied() {
    let mut controller = TestController::start(0).await;
    let mut agent = Agent::start(&controller);
    agent.let_it_connect().await;
    let mut stream = controller.stream().await;
    hello(&mut stream).await;
    let first = fill_window(&agent, &mut stream).await;
    for revision in 1..=4 {
        stream
            .send(controller_message::Message::Policy(update(revision)))
            .await;
    }
    // Messages are heard in order: when this one has an effect, the updates have come.
    let kept = DenialsKept { sequence: first };
    stream
        .send(controller_message::Message::DenialsKept(kept))
        .await;
    assert_eq!(ports(&batch(&mut stream).await), [8]);
    let Command::Apply {
        policy: first,
        answer,
    } = agent.command().await
    else {
        panic!()
    };
    assert_eq!(first.policy().revision, Revision(1));
    let done = |policy: &EncodedPolicy| {
        let revision = policy.policy().revision;
        Ok(Applied {
            digest: policy.digest(),
            revision,
            generation: 1,
        })
    };
    answer.send(done(&first)).unwrap();
    let Command::Apply {
        policy: second,
        answer,
    } = agent.command().await
    else {
        panic!()
    };
    assert_eq!(second.policy().revision, Revision(4));
    answer.send(done(&second)).unwrap();
    for revision in [1, 4] {
        let Some(Message::Ack(ack)) = stream.next().await else {
            panic!()
        };
        assert_eq!(ack.revision, revision);
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_are_sent_again_after_a_cut_until_the_controller_has_kept_them() {
    let mut controller = TestController::start(0).await;
    let mut agent = Agent::start(&controller);
    agent
        .spool
        .with(|spool| spool.append(vec![denial(1), denial(2)]));
    agent.let_it_connect().await;
    let mut stream = controller.stream().await;
    hello(&mut stream).await;
    let first = batch(&mut stream).await;
    assert_eq!(ports(&first), [1, 2]);
    assert_eq!(
        first.denials[0].origin.as_ref().unwrap().file,
        "policies/db.yaml"
    );
    agent.spool.with(|spool| spool.append(vec![denial(3)]));
    let second = batch(&mut stream).await;
    assert_eq!(ports(&second), [3]);

    // Cut before anything was confirmed; what the host enforces is told anew.
    drop(stream);
    agent.facts.send_modify(|facts| {
        facts.applied = Some(Applied {
            digest: [9; 32],
            revision: Revision(5),
            generation: 2,
        });
    });
    agent.let_it_connect().await;
    let mut stream = controller.stream().await;
    assert_eq!(hello(&mut stream).await.applied_digest, [9; 32]);
    assert_eq!(batch(&mut stream).await, first);
    assert_eq!(batch(&mut stream).await, second);
    let kept = DenialsKept {
        sequence: first.sequence,
    };
    stream
        .send(controller_message::Message::DenialsKept(kept))
        .await;
    // The answer to this update shows that the confirmation before it was heard.
    stream
        .send(controller_message::Message::Policy(PolicyUpdate::default()))
        .await;
    assert!(matches!(stream.next().await, Some(Message::Nack(_))));

    drop(stream);
    agent.let_it_connect().await;
    let mut stream = controller.stream().await;
    hello(&mut stream).await;
    assert_eq!(
        batch(&mut stream).await,
        second,
        "only what was not confirmed"
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_confirms_nothing_gets_a_few_batches_and_no_more() {
    let mut controller = TestController::start(0).await;
    let mut agent = Agent::start(&controller);
    agent.let_it_connect().await;
    let mut stream = controller.stream().await;
    hello(&mut stream).await;
    let first = fill_window(&agent, &mut stream).await;
    // A full window holds denials back, and nothing else.
    stream
        .send(controller_message::Message::Policy(PolicyUpdate::default()))
        .await;
    assert!(matches!(stream.next().await, Some(Message::Nack(_))));
    let kept = DenialsKept { sequence: first };
    stream
        .send(controller_message::Message::DenialsKept(kept))
        .await;
    assert_eq!(ports(&batch(&mut stream).await), [8]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_with_another_ca_hears_nothing() {
    let mut impostor = TestController::start(0).await;
    let real = TestController::start(0).await;
    let mut agent = Agent::start(&TestController {
        address: impostor.address,
        ..real
    });
    // Two whole attempts, and no stream from either.
    for _ in 0..3 {
        agent.let_it_connect().await;
    }
    assert!(impostor.streams.try_recv().is_err());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_kernel_side_ends_the_task() {
    let controller = TestController::start(0).await;
    let agent = Agent::start(&controller);
    drop(agent.commands);
    let outcome = timeout(LONG, agent.task).await.unwrap().unwrap();
    assert!(matches!(outcome, Err(AgentError::TaskEnded("enforcement"))));
}
