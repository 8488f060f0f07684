//! The images and the manifests of `deploy/`, run by `runc` as a kubelet would have them run: with exactly the
//! security settings of the manifests, and with the default seccomp profiles of container runtimes.

#![forbid(unsafe_code)]

mod image;
mod pod;
mod profiles;
mod runc;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    CONTROLLER, Controller, Family, HostSpec, LONG, Lab, Service::Tcp, allowed, denied, wait_until,
};
use serde_json::Value;

use self::{
    image::Image,
    pod::{Node, Pod},
    profiles::Runtime,
    runc::Container,
};

const NODE: HostSpec = HostSpec {
    place: lab::Place {
        name: "web-2",
        subnet: 1,
        number: 20,
    },
    labels: &[("role", "node")],
};
/// The user of the controller's pod.
const CONTROLLER_USER: u32 = 65532;
/// A bound that only a container that hangs exceeds.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the shipped profile is called in what users read.
const SHIPPED: &str = "deploy/kubernetes/seccomp/bulkhead-agent.json";

/// The agent's pod on one node of a lab.
struct AgentPod<'a> {
    lab: &'a mut Lab,
    pod: Pod,
    image: Image,
    node: Node,
}

impl AgentPod<'_> {
    /// Boots a lab with a node that has no agent yet, and prepares on it what the manifests mount into the pod.
    fn run(scenario: impl FnOnce(AgentPod<'_>) -> Result<()>) -> Result<()> {
        Lab::run_bare(&[NODE], |lab| {
            let pod = Pod::read("3-agent.yaml", "DaemonSet")?;
            let home = lab.directory().join(NODE.place.name);
            let image = Image::build("agent", &home.join("image"))?;
            let address = lab.address(NODE.place.name, Family::V4)?.to_string();
            let mut node = Node::new(
                NODE.place.name,
                &address,
                lab.namespace(NODE.place.name)?.name(),
            );

            // As docs/install-kubernetes.md says: the controller's address and the admin subnet go into the ConfigMap.
            let config = pod
                .config_map("agent.toml")?
                .replace(
                    "192.0.2.10:7443",
                    &Controller::address(Family::V4).to_string(),
                )
                .replace("192.0.2.0/24", "10.66.0.0/24");
            // This node has no flows from before the agent.
            let config = format!("warm_start = 0\n{config}");
            fs::create_dir(home.join("config"))?;
            fs::write(home.join("config/agent.toml"), config)?;
            node.mount("config", &home.join("config"));

            let tokens = home.join("tokens");
            fs::create_dir(&tokens)?;
            let token = tokens.join(NODE.place.name);
            fs::write(&token, lab.create_token(&NODE)?)?;
            fs::set_permissions(&token, fs::Permissions::from_mode(0o400))?;
            node.mount("tokens", &tokens);

            for (volume, directory) in [("state", "pod-state"), ("seccomp", "kubelet/bulkhead")] {
                fs::create_dir_all(home.join(directory))?;
                node.mount(volume, &home.join(directory));
            }
            node.profiles = home.join("kubelet");
            node.mount("bpffs", &home.join("bpf"));
            scenario(AgentPod {
                lab,
                pod,
                image,
                node,
            })
        })
    }

    /// Runs the init container under a runtime's default profile; it writes the agent's profile to the node.
    fn install_profile(&self, runtime: &Runtime) -> Result<()> {
        let init = self.pod.init_container("seccomp-profile")?;
        let config = init.config(&self.node, &self.image, runtime)?;
        let ended = Container::new("init", &config, &self.image)?.run_to_end(PATIENCE)?;
        ensure!(ended.code == 0, "the init container: {ended:?}");
        Ok(())
    }

    /// The agent's container as the manifest has it, or with the runtime's default profile in place of its own.
    fn agent(&self, runtime: &Runtime, with_default: bool) -> Result<Container> {
        let mut agent = self.pod.container("agent")?;
        if with_default {
            agent.use_default_profile();
        }
        let config = agent.config(&self.node, &self.image, runtime)?;
        Container::new("agent", &config, &self.image)
    }

    /// Starts the agent, and looks whether it has what the manifest gives, and enforces.
    fn expect_enforcement(&mut self, agent: &mut Container) -> Result<()> {
        agent.start()?;
        let status = agent.status()?;
        for (line, value) in [
            // Bits 12, 38 and 39: NET_ADMIN, PERFMON, BPF.
            ("CapEff", "000000c000001000"),
            ("CapBnd", "000000c000001000"),
            ("CapInh", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            let expected = format!("{line}:\t{value}");
            ensure!(
                status.lines().any(|line| line == expected),
                "not {expected:?}:\n{status}"
            );
        }
        let host = NODE.place.name;
        wait_until("the node to be connected and in sync", LONG, || {
            ensure!(agent.is_running()?, "the agent ended:\n{}", agent.output()?);
            let status = self.lab.host_status(host)?;
            Ok(status.is_some_and(|host| host.connected && host.in_sync))
        })?;
        self.lab.serve(host, &[Tcp(8080), Tcp(8081)])?;
        self.lab.apply(
            "{ apiVersion: bulkhead/v1, kind: Segment, name: node, match: { role: node } }\n---\n\
             { apiVersion: bulkhead/v1, kind: Policy, name: node, appliesTo: node, ingress: [{ allow: [tcp/8080] }] }\n",
        )?;
        self.lab.check(&[
            allowed("client-1", host, Tcp(8080)),
            denied("client-1", host, Tcp(8081)),
        ])?;
        self.lab
            .wait_denial("of a new flow", host, |denial| denial.local_port == 8081)?;
        // `kubectl exec`: the command of the handbook works in the pod.
        let shown = agent.exec(&["bulkhead-agent", "status"])?;
        ensure!(shown.code == 0, "bulkhead-agent status: {shown:?}");
        Ok(())
    }
}

#[test]
fn the_daemon_set_enforces_with_the_profile_that_its_init_container_writes() -> Result<()> {
    AgentPod::run(|mut pod| {
        let runtimes = [Runtime::podman()?, Runtime::containerd()?];
        for runtime in &runtimes {
            pod.install_profile(runtime)?;
            let written: Value =
                serde_json::from_slice(&fs::read(pod.node.profiles.join("bulkhead/agent.json"))?)?;
            let shipped: Value =
                serde_json::from_slice(&fs::read(image::workspace().join(SHIPPED))?)?;
            ensure!(written == shipped, "another profile was written");
        }
        let mut agent = pod.agent(&runtimes[0], false)?;
        pod.expect_enforcement(&mut agent)?;
        let status = agent.terminate()?;
        ensure!(status.success(), "{status}:\n{}", agent.output()?);
        // Enforcement does not depend on the pod.
        pod.lab.check(&[
            allowed("client-1", NODE.place.name, Tcp(8080)),
            denied("client-1", NODE.place.name, Tcp(8081)),
        ])
    })
}

#[test]
fn containerds_default_profile_lets_the_agent_load_its_programs() -> Result<()> {
    AgentPod::run(|mut pod| {
        let mut agent = pod.agent(&Runtime::containerd()?, true)?;
        pod.expect_enforcement(&mut agent)
    })
}

#[test]
fn where_a_profile_refuses_bpf_the_agent_names_seccomp_and_not_its_capabilities() -> Result<()> {
    AgentPod::run(|pod| {
        let podman = Runtime::podman()?;
        // Podman's own answers EPERM; a profile that does not know bpf answers its default, here ENOSYS.
        for runtime in [podman.clone(), podman.without_bpf()] {
            let ended = pod.agent(&runtime, true)?.run_to_end(PATIENCE)?;
            ensure!(ended.code == 69, "{ended:?}");
            for word in ["the capabilities are there", "seccomp", SHIPPED] {
                ensure!(ended.output.contains(word), "no {word:?}: {ended:?}");
            }
            for word in ["missing", "CAP_", "no bpf system call"] {
                ensure!(!ended.output.contains(word), "{word:?}: {ended:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn the_controllers_pod_makes_its_certificate_authority_and_serves() -> Result<()> {
    Lab::run_bare(&[], |lab| {
        lab.controller().kill_9()?;
        let pod = Pod::read("2-controller.yaml", "Deployment")?;
        let home = lab.directory().join("pod");
        let image = Image::build("controller", &home.join("image"))?;
        let namespace = lab.namespace(CONTROLLER.name)?.name();
        let address = lab.address(CONTROLLER.name, Family::V4)?;
        let mut node = Node::new(CONTROLLER.name, &address.to_string(), namespace);
        for volume in ["data", "tmp"] {
            let directory = home.join(volume);
            fs::create_dir(&directory)?;
            give_to_group(&directory, pod.fs_group()?)?;
            node.mount(volume, &directory);
        }
        for runtime in [Runtime::podman()?, Runtime::containerd()?] {
            // The second time it finds what the first one made, as after a restart of the pod.
            let init = pod.init_container("init")?;
            let config = init.config(&node, &image, &runtime)?;
            let ended = Container::new("init", &config, &image)?.run_to_end(PATIENCE)?;
            ensure!(ended.code == 0, "the init container: {ended:?}");

            let serve = pod.container("controller")?;
            let config = serve.config(&node, &image, &runtime)?;
            let mut controller = Container::new("controller", &config, &image)?;
            controller.start()?;
            let operator = lab
                .operator()
                .with_file(&home.join("data/data/operator-admin.toml"));
            wait_until("the controller to answer its operator", LONG, || {
                ensure!(
                    controller.is_running()?,
                    "the controller ended:\n{}",
                    controller.output()?
                );
                Ok(operator.run(&["status"])?.code == 0)
            })?;
            let status = controller.status()?;
            let user = format!("Uid:\t{CONTROLLER_USER}\t{CONTROLLER_USER}");
            for expected in [user.as_str(), "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
                ensure!(
                    status.lines().any(|line| line.starts_with(expected)),
                    "not {expected:?}:\n{status}"
                );
            }
            let status = controller.terminate()?;
            ensure!(status.success(), "{status}:\n{}", controller.output()?);
        }
        Ok(())
    })
}

/// What a kubelet does with a volume of a pod that has an `fsGroup`.
fn give_to_group(directory: &Path, group: u32) -> Result<()> {
    chown(directory, Some(0), Some(group))
        .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o2775)))
        .with_context(|| format!("giving {} to a group", directory.display()))
}
