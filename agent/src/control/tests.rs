#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::IpAddr;

use policy::{HostPolicy, Identity, Revision};
use proto::{
    host_report::Enforcement as Protection,
    v1::{
        self, AckHeard, DenialBatch, DenialsKept, Hello, PolicyAck, PolicyNack, PolicyUpdate,
        agent_message::Message, controller_message,
    },
};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{
    config::{ControllerAddress, ControllerList},
    enforcement::{Applied, Command, Facts, bootstrap_policy},
    spool::{Spool, tests::denial},
    state::{policy_store::EncodedPolicy, rolled_back::RolledBack},
    testing::{LONG, TestController, TestStream},
};

type Answer = oneshot::Sender<Result<Applied, String>>;

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
        let config = format!(
            "controllers = ['{}']\nrollback_after = 3",
            controller.address
        );
        let config: Config = toml::from_str(&config).unwrap();
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

    /// An agent whose stream to a controller has just begun.
    async fn connected() -> (TestController, Self, TestStream) {
        let mut controller = TestController::start(0).await;
        let mut agent = Self::start(&controller);
        let (stream, _) = agent.connect(&mut controller).await;
        (controller, agent, stream)
    }

    /// Plays the kernel side of an attempt to connect, to the hello.
    async fn connect(&mut self, controller: &mut TestController) -> (TestStream, Hello) {
        self.let_it_connect().await;
        let Command::Look { answer } = self.command().await else {
            panic!("another command before the hello")
        };
        answer.send(()).unwrap();
        let mut stream = controller.stream().await;
        match stream.next().await {
            Some(Message::Hello(hello)) => (stream, hello),
            other => panic!("{other:?} in place of the hello"),
        }
    }

    /// What the control task does before each attempt to connect.
    async fn let_it_connect(&mut self) -> Vec<SocketAddr> {
        let Command::SetControllers { way, answer } = self.command().await else {
            panic!("another command before the way was open")
        };
        answer.send(()).unwrap();
        way.addresses
    }

    /// The next policy that the kernel is to enforce.
    async fn apply(&mut self) -> (EncodedPolicy, Answer) {
        match self.command().await {
            Command::Apply { policy, answer } => (*policy, answer),
            other => panic!("{other:?} in place of a policy"),
        }
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

fn quarantine(revision: u64) -> EncodedPolicy {
    EncodedPolicy::encode(HostPolicy {
        identity: Identity::QUARANTINED,
        ..policy(revision).policy().clone()
    })
}

fn update(revision: u64) -> PolicyUpdate {
    update_of(&policy(revision))
}

fn update_of(policy: &EncodedPolicy) -> PolicyUpdate {
    let (encoded, _) = proto::encode_host_policy(policy.policy());
    PolicyUpdate {
        policy: encoded.into(),
        digest: policy.digest().into(),
    }
}

impl TestStream {
    async fn send_policy(&self, update: PolicyUpdate) {
        self.send(controller_message::Message::Policy(update)).await;
    }

    async fn confirm(&self, sequence: u64) {
        let kept = DenialsKept { sequence };
        self.send(controller_message::Message::DenialsKept(kept))
            .await;
    }

    async fn batch(&mut self) -> DenialBatch {
        match self.next().await {
            Some(Message::Denials(batch)) => batch,
            other => panic!("{other:?} in place of denials"),
        }
    }

    async fn ack(&mut self) -> PolicyAck {
        match self.next().await {
            Some(Message::Ack(ack)) => ack,
            other => panic!("{other:?} in place of an ack"),
        }
    }

    async fn hear(&self, ack: PolicyAck) {
        let heard = AckHeard { digest: ack.digest };
        self.send(controller_message::Message::AckHeard(heard))
            .await;
    }

    async fn nack(&mut self) -> PolicyNack {
        match self.next().await {
            Some(Message::Nack(nack)) => nack,
            other => panic!("{other:?} in place of a nack"),
        }
    }
}

fn applied(policy: &EncodedPolicy, generation: u32) -> Applied {
    Applied {
        digest: policy.digest(),
        revision: policy.policy().revision,
        generation,
    }
}

/// Spools a batch more than an agent sends without a confirmation, and takes what it sends; the
/// sequence number of the first.
async fn fill_window(agent: &Agent, stream: &mut TestStream) -> u64 {
    for number in 0..9 {
        agent.spool.with(|spool| spool.append(vec![denial(number)]));
    }
    let first = stream.batch().await;
    assert_eq!(ports(&first), [0]);
    for number in 1..8 {
        assert_eq!(ports(&stream.batch().await), [number]);
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
async fn the_hello_claims_the_addresses_of_that_moment() {
    let mut controller = TestController::start(0).await;
    let mut agent = Agent::start(&controller);
    assert_eq!(
        agent.let_it_connect().await,
        [controller.address],
        "the way is opened first"
    );
    let Command::Look { answer } = agent.command().await else {
        panic!("a hello without a look at the addresses")
    };
    let address: IpAddr = "10.1.10.3".parse().unwrap();
    agent
        .facts
        .send_modify(|facts| facts.addresses = vec![address]);
    answer.send(()).unwrap();
    let mut stream = controller.stream().await;
    let Some(Message::Hello(hello)) = stream.next().await else {
        panic!()
    };
    assert_eq!(hello.addresses.unwrap().addresses, [vec![10, 1, 10, 3]]);
    assert_eq!(hello.applied_digest, Vec::<u8>::new());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_acknowledged_when_the_kernel_enforces_it_and_not_before() {
    let (_controller, mut agent, mut stream) = Agent::connected().await;
    stream.send_policy(update(7)).await;
    let (received, answer) = agent.apply().await;
    assert_eq!(received, policy(7));
    // An answer to this claim shows that no ack has come before it.
    let address: IpAddr = "10.1.10.3".parse().unwrap();
    agent
        .facts
        .send_modify(|facts| facts.addresses = vec![address]);
    let Some(Message::Addresses(claim)) = stream.next().await else {
        panic!()
    };
    assert_eq!(claim.addresses, [vec![10, 1, 10, 3]]);

    answer.send(Ok(applied(&received, 3))).unwrap();
    let ack = PolicyAck {
        digest: received.digest().to_vec(),
        revision: 7,
        generation: 3,
    };
    assert_eq!(stream.ack().await, ack);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_be_enforced_is_refused_with_the_reason() {
    let (_controller, mut agent, mut stream) = Agent::connected().await;

    // Not what was digested: the kernel side never hears of it.
    let mut torn = update(8);
    torn.policy.truncate(torn.policy.len() - 1);
    stream.send_policy(torn.clone()).await;
    let nack = stream.nack().await;
    assert_eq!(nack.digest, torn.digest);
    assert!(nack.reason.contains("digest"), "{}", nack.reason);

    // Digested well, and no policy.
    let junk = vec![0xff; 10];
    let digest = proto::sha256(&junk).to_vec();
    let policy = junk.into();
    stream.send_policy(PolicyUpdate { policy, digest }).await;
    stream.nack().await;

    // The kernel refuses.
    stream.send_policy(update(9)).await;
    let (received, answer) = agent.apply().await;
    assert_eq!(received.policy().revision, Revision(9));
    answer.send(Err("the policy does not fit".into())).unwrap();
    let nack = stream.nack().await;
    assert_eq!(
        (nack.revision, nack.reason.as_str()),
        (9, "the policy does not fit")
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_an_ack_proves_the_way_and_without_it_another_connection_does() {
    let (mut controller, mut agent, mut stream) = Agent::connected().await;
    let reached = async |agent: &mut Agent| match agent.command().await {
        Command::Reached { digest, answer } => {
            answer.send(()).unwrap();
            digest
        }
        other => panic!("{other:?} in place of a proof"),
    };
    stream.send_policy(update(7)).await;
    let (received, answer) = agent.apply().await;
    let digest = received.digest();
    agent.facts.send_modify(|facts| facts.trial = Some(digest));
    answer.send(Ok(applied(&received, 3))).unwrap();
    let ack = stream.ack().await;
    stream.hear(ack).await;
    assert_eq!(reached(&mut agent).await, digest);

    // Nothing is on trial: nothing hangs on the answer.
    agent.facts.send_modify(|facts| facts.trial = None);
    stream.send_policy(update(8)).await;
    let (received, answer) = agent.apply().await;
    answer.send(Ok(applied(&received, 4))).unwrap();
    stream.ack().await;

    stream.send_policy(update(9)).await;
    let (received, answer) = agent.apply().await;
    let digest = received.digest();
    agent.facts.send_modify(|facts| facts.trial = Some(digest));
    answer.send(Ok(applied(&received, 5))).unwrap();
    stream.ack().await;
    assert_eq!(stream.next().await, None, "a stream without an answer ends");
    agent.let_it_connect().await;
    assert_eq!(reached(&mut agent).await, digest, "by a new connection");
    drop(controller.streams.try_recv());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_refusal_of_this_host_nor_silence_proves_the_way() {
    let controller = TestController::start(0).await;
    // A relay of this host that has ended: the host's own kernel says that nobody listens.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let refused = Agent::start(&TestController {
        address,
        ..controller
    });
    prove_nothing(refused).await;

    let controller = TestController::start(0).await;
    // The kernel accepts, and nobody says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let unheard = Agent::start(&TestController {
        address,
        ..controller
    });
    prove_nothing(unheard).await;
}

#[test]
fn a_controller_that_is_down_on_another_host_proves_the_way() {
    let own = ["10.1.10.3", "fd00::3"].map(|own| own.parse::<IpAddr>().unwrap());
    let proves = |refused: &[&str]| {
        let outcome = Err::<(), _>(ChannelError::Unreachable {
            failures: Vec::new(),
            refused: refused.iter().map(ToString::to_string).collect(),
        });
        let elsewhere = |address| is_elsewhere(address) && !own.contains(&address);
        is_the_way_open(&outcome, elsewhere)
    };
    assert!(proves(&["198.51.100.7:7443"]));
    assert!(proves(&["[2001:db8::7]:7443"]));
    assert!(proves(&["127.0.0.1:7443", "198.51.100.7:7443"]));
    for here in [
        "127.0.0.1:7443",
        "127.0.0.53:7443",
        "[::1]:7443",
        "[::ffff:127.0.0.1]:7443",
        "0.0.0.0:7443",
        "10.1.10.3:7443",
        "[fd00::3]:7443",
    ] {
        assert!(!proves(&[here]), "{here}");
    }
    assert!(!proves(&[]));
}

/// An attempt to connect that does not prove the way to the controller.
async fn prove_nothing(mut agent: Agent) {
    agent.facts.send_modify(|facts| facts.trial = Some([7; 32]));
    agent.let_it_connect().await;
    match agent.command().await {
        // The next attempt.
        Command::SetControllers { .. } => {}
        other => panic!("{other:?} after an attempt"),
    }
    drop(agent.commands);
    agent.cancel.cancel();
    let _ = timeout(LONG, agent.task).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_is_told_on_the_next_contact_and_on_a_live_stream() {
    let rolled_back = RolledBack {
        revision: Revision(9),
        digest: policy(9).digest(),
        after_seconds: 30,
        at: jiff::Timestamp::UNIX_EPOCH,
    };
    let tell = |agent: &Agent| {
        let enforced = applied(&policy(5), 6);
        let rolled_back = rolled_back.clone();
        agent.facts.send_modify(|facts| {
            facts.applied = Some(enforced);
            facts.rolled_back = Some(rolled_back);
        });
    };
    let hear = async |stream: &mut TestStream| {
        let ack = stream.ack().await;
        assert_eq!((ack.revision, ack.generation), (5, 6));
        let nack = stream.nack().await;
        assert_eq!(
            (nack.revision, &nack.digest[..]),
            (9, &rolled_back.digest[..])
        );
        assert!(nack.reason.contains("30 s"), "{}", nack.reason);
    };
    let (mut controller, mut agent, mut stream) = Agent::connected().await;
    tell(&agent);
    hear(&mut stream).await;
    drop(stream);
    let (mut stream, hello) = agent.connect(&mut controller).await;
    assert_eq!(hello.applied_digest, policy(5).digest());
    hear(&mut stream).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_policies_that_come_during_an_apply_only_the_newest_is_applied() {
    let (_controller, mut agent, mut stream) = Agent::connected().await;
    let first = fill_window(&agent, &mut stream).await;
    for revision in 1..=4 {
        stream.send_policy(update(revision)).await;
    }
    // Messages are heard in order: when this one has an effect, the updates have come.
    stream.confirm(first).await;
    assert_eq!(ports(&stream.batch().await), [8]);
    for revision in [1, 4] {
        let (policy, answer) = agent.apply().await;
        assert_eq!(policy.policy().revision, Revision(revision));
        answer.send(Ok(applied(&policy, 1))).unwrap();
        assert_eq!(stream.ack().await.revision, revision);
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_host_learns_the_newest_policy_waits_and_a_quarantine_does_not() {
    let (_controller, mut agent, mut stream) = Agent::connected().await;
    agent.facts.send_modify(|facts| facts.learns = true);
    let quarantine = quarantine(3);
    for revision in 1..=2 {
        stream.send_policy(update(revision)).await;
    }
    stream.send_policy(update_of(&quarantine)).await;
    let (first, answer) = agent.apply().await;
    assert_eq!(first.digest(), quarantine.digest());
    answer.send(Ok(applied(&first, 1))).unwrap();
    assert_eq!(stream.ack().await.revision, 3);

    for revision in 4..=5 {
        stream.send_policy(update(revision)).await;
    }
    // Its answer shows that the updates before it were heard.
    stream.send_policy(PolicyUpdate::default()).await;
    stream.nack().await;
    assert!(agent.commands.try_recv().is_err(), "a policy did not wait");
    agent.facts.send_modify(|facts| facts.learns = false);
    let (newest, answer) = agent.apply().await;
    assert_eq!(newest.policy().revision, Revision(5));
    answer.send(Ok(applied(&newest, 2))).unwrap();
    assert_eq!(stream.ack().await.revision, 5);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_takes_the_place_of_the_policy_that_waits_while_the_host_learns() {
    let (_controller, mut agent, mut stream) = Agent::connected().await;
    let first = fill_window(&agent, &mut stream).await;
    agent.facts.send_modify(|facts| facts.learns = true);
    stream.send_policy(update(1)).await;
    stream.send_policy(update_of(&quarantine(2))).await;
    let (received, answer) = agent.apply().await;
    assert_eq!(received.digest(), quarantine(2).digest());
    // Another one that comes meanwhile waits for the apply only.
    stream.send_policy(update(3)).await;
    stream.send_policy(update_of(&quarantine(4))).await;
    stream.confirm(first).await;
    assert_eq!(ports(&stream.batch().await), [8]);
    answer.send(Ok(applied(&received, 1))).unwrap();
    assert_eq!(stream.ack().await.revision, 2);
    let (received, answer) = agent.apply().await;
    assert_eq!(received.digest(), quarantine(4).digest());
    answer.send(Ok(applied(&received, 2))).unwrap();
    assert_eq!(stream.ack().await.revision, 4);

    agent.facts.send_modify(|facts| {
        facts.learns = false;
        facts.addresses = vec!["10.1.10.3".parse().unwrap()];
    });
    // The claim shows that the end of learning was seen.
    assert!(matches!(stream.next().await, Some(Message::Addresses(_))));
    assert!(
        agent.commands.try_recv().is_err(),
        "an older policy came after the quarantine"
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_an_older_ack_is_none_to_the_newest() {
    let (_controller, mut agent, mut stream) = Agent::connected().await;
    let mut acks = Vec::new();
    for revision in [7, 8] {
        stream.send_policy(update(revision)).await;
        let (received, answer) = agent.apply().await;
        let digest = received.digest();
        agent.facts.send_modify(|facts| facts.trial = Some(digest));
        answer.send(Ok(applied(&received, 3))).unwrap();
        acks.push(stream.ack().await);
    }
    stream.hear(acks.remove(0)).await;
    let Command::Reached { digest, answer } = agent.command().await else {
        panic!("an answer that was not heard")
    };
    assert_eq!(digest, policy(7).digest());
    answer.send(()).unwrap();
    // Heartbeats come for ever on a stream that stays.
    let end = timeout(LONG, stream.next()).await;
    assert_eq!(end.unwrap(), None, "the newest has no answer");
    drop(stream);
    agent.let_it_connect().await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_are_sent_again_after_a_cut_until_the_controller_has_kept_them() {
    let (mut controller, mut agent, mut stream) = Agent::connected().await;
    agent
        .spool
        .with(|spool| spool.append(vec![denial(1), denial(2)]));
    let first = stream.batch().await;
    assert_eq!(ports(&first), [1, 2]);
    assert_eq!(
        first.denials[0].origin.as_ref().unwrap().file,
        "policies/db.yaml"
    );
    agent.spool.with(|spool| spool.append(vec![denial(3)]));
    let second = stream.batch().await;
    assert_eq!(ports(&second), [3]);

    // Cut before anything was confirmed; what the host enforces is told anew.
    drop(stream);
    let enforced = policy(5);
    agent
        .facts
        .send_modify(|facts| facts.applied = Some(applied(&enforced, 2)));
    let (mut stream, hello) = agent.connect(&mut controller).await;
    assert_eq!(hello.applied_digest, enforced.digest());
    assert_eq!(stream.batch().await, first);
    assert_eq!(stream.batch().await, second);
    stream.confirm(first.sequence).await;
    // The answer to this update shows that the confirmation before it was heard.
    stream.send_policy(PolicyUpdate::default()).await;
    stream.nack().await;

    drop(stream);
    let (mut stream, _) = agent.connect(&mut controller).await;
    assert_eq!(stream.batch().await, second, "only what was not confirmed");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_confirms_nothing_gets_a_few_batches_and_no_more() {
    let (_controller, agent, mut stream) = Agent::connected().await;
    let first = fill_window(&agent, &mut stream).await;
    // A full window holds denials back, and nothing else.
    stream.send_policy(PolicyUpdate::default()).await;
    stream.nack().await;
    stream.confirm(first).await;
    assert_eq!(ports(&stream.batch().await), [8]);
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

#[tokio::test(flavor = "multi_thread")]
async fn the_addresses_of_a_name_are_kept_at_the_enrollment() {
    let controller = TestController::start(1).await;
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path()).unwrap();
    let address = format!("localhost:{}", controller.address.port());
    let text = format!("controllers = ['{address}']\nhost_name = 'web-1'");
    let config: Config = toml::from_str(&text).unwrap();
    let mut controllers = Controllers::load(&config.controllers, &state);
    first_enrolment(&config, &state, &mut controllers, &controller.token())
        .await
        .unwrap();
    // The next start does not ask anybody.
    let known = Controllers::load(&config.controllers, &state).addresses();
    assert!(known.contains(&controller.address), "{known:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_loses_the_address_of_its_connection_connects_anew_at_once() {
    let (mut controller, mut agent, stream) = Agent::connected().await;
    // The connection to the test's controller comes from 127.0.0.1.
    let own: IpAddr = "127.0.0.1".parse().unwrap();
    let other: IpAddr = "10.0.0.5".parse().unwrap();
    drop(stream);
    agent
        .facts
        .send_modify(|facts| facts.addresses = vec![own, other]);
    let (_stream, hello) = agent.connect(&mut controller).await;
    assert_eq!(hello.addresses.unwrap().addresses.len(), 2);
    agent
        .facts
        .send_modify(|facts| facts.addresses = vec![other]);
    // The old stream is open still.
    let (_second, hello) = agent.connect(&mut controller).await;
    assert_eq!(hello.addresses.unwrap().addresses.len(), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_what_is_protected_is_reported_and_a_policy_acknowledged_once_it_protects() {
    let mut controller = TestController::start(0).await;
    let mut agent = Agent::start(&controller);
    let applied = Applied {
        digest: [7; 32],
        revision: Revision(7),
        generation: 3,
    };
    agent.facts.send_modify(|facts| {
        facts.applied = Some(applied);
        facts.report.enforcement = Protection::PolicesNothing;
    });
    let (mut stream, hello) = agent.connect(&mut controller).await;
    assert!(hello.applied_digest.is_empty(), "it protects nothing");
    let polices_nothing = v1::Enforcement::PolicesNothing;
    assert_eq!(hello.report.unwrap().enforcement(), polices_nothing);
    agent
        .facts
        .send_modify(|facts| facts.report.enforcement = Protection::Enforcing);
    let Some(Message::Report(report)) = stream.next().await else {
        panic!("no report")
    };
    assert_eq!(report.enforcement(), v1::Enforcement::Enforcing);
    let Some(Message::Ack(ack)) = stream.next().await else {
        panic!("no ack")
    };
    assert_eq!((ack.digest, ack.revision), (vec![7; 32], 7));
    agent.stop().await;
}
