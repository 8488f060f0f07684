//! A pod of the manifests as the kubelet and a container runtime translate it: into the configuration of an OCI
//! runtime. A security setting that is not known here is an error, so none is left out silently.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use crate::{
    image::{Image, workspace},
    profiles::Runtime,
};

/// The machine that runs a pod.
pub struct Node {
    name: String,
    address: String,
    /// Its network namespace, by the name that `ip netns` knows.
    namespace: String,
    /// The kubelet's directory of seccomp profiles.
    pub profiles: PathBuf,
    /// Where each volume is.
    volumes: BTreeMap<String, PathBuf>,
}

/// A pod's template, with the ConfigMap that is in the same file.
pub struct Pod {
    spec: PodSpec,
    config: BTreeMap<String, String>,
}

/// A container of a pod.
pub struct PodContainer<'a> {
    pod: &'a PodSpec,
    container: ContainerSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "named so that any other setting is refused")]
struct PodSpec {
    service_account_name: IgnoredAny,
    automount_service_account_token: IgnoredAny,
    priority_class_name: Option<IgnoredAny>,
    node_selector: Option<IgnoredAny>,
    tolerations: Option<IgnoredAny>,
    dns_policy: IgnoredAny,
    host_network: bool,
    security_context: SecurityContext,
    #[serde(default)]
    init_containers: Vec<ContainerSpec>,
    containers: Vec<ContainerSpec>,
    volumes: Vec<Volume>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerSpec {
    name: String,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    security_context: SecurityContext,
    #[serde(default)]
    volume_mounts: Vec<VolumeMount>,
}

/// A pod's, or a container's, which counts first.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct SecurityContext {
    run_as_non_root: Option<bool>,
    run_as_user: Option<u32>,
    run_as_group: Option<u32>,
    fs_group: Option<u32>,
    #[serde(rename = "fsGroupChangePolicy")]
    _fs_group_change_policy: Option<IgnoredAny>,
    allow_privilege_escalation: Option<bool>,
    read_only_root_filesystem: Option<bool>,
    capabilities: Option<Capabilities>,
    seccomp_profile: Option<SeccompProfile>,
    // What runs the tests has neither of these; both are set to what confines nothing.
    app_armor_profile: Option<Unconfined>,
    se_linux_options: Option<Unconfined>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Capabilities {
    drop: Vec<String>,
    #[serde(default)]
    add: Vec<String>,
}

#[derive(Clone, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum SeccompProfile {
    RuntimeDefault,
    Localhost {
        #[serde(rename = "localhostProfile")]
        path: String,
    },
}

#[derive(Clone, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Unconfined {
    Unconfined,
    #[serde(rename = "spc_t")]
    SuperPrivilegedContainer,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Variable {
    name: String,
    value: Option<String>,
    value_from: Option<ValueFrom>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ValueFrom {
    field_ref: FieldRef,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FieldRef {
    field_path: String,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VolumeMount {
    name: String,
    mount_path: String,
    sub_path: Option<String>,
    #[serde(default)]
    read_only: bool,
    mount_propagation: Option<Propagation>,
}

#[derive(Clone, Copy, Deserialize)]
enum Propagation {
    HostToContainer,
}

#[derive(Deserialize)]
struct Volume {
    name: String,
}

impl Node {
    pub fn new(name: &str, address: &str, namespace: &str) -> Self {
        Self {
            name: name.to_owned(),
            address: address.to_owned(),
            namespace: namespace.to_owned(),
            profiles: PathBuf::new(),
            volumes: BTreeMap::new(),
        }
    }

    /// Says where a volume of the pod is.
    pub fn mount(&mut self, volume: &str, directory: &Path) {
        self.volumes.insert(volume.to_owned(), directory.to_owned());
    }

    fn field(&self, path: &str) -> Result<&str> {
        match path {
            "spec.nodeName" => Ok(&self.name),
            "status.hostIP" => Ok(&self.address),
            _ => anyhow::bail!("this node does not know {path}"),
        }
    }
}

impl Pod {
    /// Reads the template of the workload of this kind.
    pub fn read(manifest: &str, kind: &str) -> Result<Self> {
        let path = workspace().join("deploy/kubernetes").join(manifest);
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .with_context(|| format!("reading {}", path.display()))?;
        let of_kind = |kind: &str| documents.iter().find(|document| document["kind"] == kind);
        let workload = of_kind(kind).with_context(|| format!("no {kind} in {manifest}"))?;
        let config = of_kind("ConfigMap").map_or(Value::Null, |map| map["data"].clone());
        Ok(Self {
            spec: serde_json::from_value(workload["spec"]["template"]["spec"].clone())
                .with_context(|| format!("the pod of {manifest}"))?,
            config: serde_json::from_value(config).unwrap_or_default(),
        })
    }

    /// An entry of the ConfigMap.
    pub fn config_map(&self, key: &str) -> Result<&str> {
        let entry = self.config.get(key);
        Ok(entry.with_context(|| format!("no {key} in the ConfigMap"))?)
    }

    /// The group that volumes belong to.
    pub fn fs_group(&self) -> Result<u32> {
        self.spec.security_context.fs_group.context("no fsGroup")
    }

    pub fn container(&self, name: &str) -> Result<PodContainer<'_>> {
        self.find(&self.spec.containers, name)
    }

    pub fn init_container(&self, name: &str) -> Result<PodContainer<'_>> {
        self.find(&self.spec.init_containers, name)
    }

    fn find(&self, among: &[ContainerSpec], name: &str) -> Result<PodContainer<'_>> {
        let container = among.iter().find(|container| container.name == name);
        Ok(PodContainer {
            pod: &self.spec,
            container: container
                .with_context(|| format!("the pod has no container {name}"))?
                .clone(),
        })
    }
}

impl PodContainer<'_> {
    /// Replaces the container's own profile by its runtime's default.
    pub fn use_default_profile(&mut self) {
        self.container.security_context.seccomp_profile = Some(SeccompProfile::RuntimeDefault);
    }

    /// The runtime's configuration.
    ///
    /// # Errors
    /// The manifest says something that is not known here.
    pub fn config(&self, node: &Node, image: &Image, runtime: &Runtime) -> Result<Value> {
        let (pod, own) = (&self.pod.security_context, &self.container.security_context);
        let user = own.run_as_user.or(pod.run_as_user).unwrap_or(image.user.0);
        let group = own
            .run_as_group
            .or(pod.run_as_group)
            .unwrap_or(image.user.1);
        ensure!(
            user != 0 || own.run_as_non_root.or(pod.run_as_non_root) != Some(true),
            "the image's user is root, and the pod must not run as root"
        );
        ensure!(self.pod.host_network, "the pod has no network of the host");
        let capabilities = self.capabilities()?;
        let profile = own
            .seccomp_profile
            .as_ref()
            .or(pod.seccomp_profile.as_ref());
        let seccomp = match profile.context("no seccomp profile")? {
            SeccompProfile::RuntimeDefault => runtime.profile(&capabilities)?,
            SeccompProfile::Localhost { path } => {
                let path = node.profiles.join(path);
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("reading {}", path.display()))?;
                serde_json::from_str(&text).context("reading a profile")?
            }
        };
        let may_escalate = own.allow_privilege_escalation.unwrap_or(true);
        Ok(json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {
                    "uid": user,
                    "gid": group,
                    "additionalGids": pod.fs_group.iter().collect::<Vec<_>>(),
                },
                "args": self.arguments(image),
                "env": self.environment(node)?,
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities,
                    "effective": capabilities,
                    "permitted": capabilities,
                },
                "noNewPrivileges": !may_escalate,
            },
            "root": { "path": "rootfs", "readonly": own.read_only_root_filesystem == Some(true) },
            "hostname": node.name,
            "mounts": self.mounts(node, image)?,
            "linux": {
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                    { "type": "network", "path": format!("/run/netns/{}", node.namespace) },
                ],
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
                "seccomp": seccomp,
                "maskedPaths": [
                    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                ],
                "readonlyPaths": [
                    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
                ],
            },
        }))
    }

    fn capabilities(&self) -> Result<Vec<String>> {
        let Capabilities { drop, add } = self
            .container
            .security_context
            .capabilities
            .as_ref()
            .context("the capabilities are the runtime's")?;
        ensure!(drop == &["ALL"], "some of the runtime's capabilities stay");
        Ok(add.iter().map(|name| format!("CAP_{name}")).collect())
    }

    fn arguments(&self, image: &Image) -> Vec<String> {
        let ContainerSpec { command, args, .. } = &self.container;
        let program = if command.is_empty() {
            &image.entrypoint
        } else {
            command
        };
        let arguments = if command.is_empty() && args.is_empty() {
            &image.command
        } else {
            args
        };
        [program.as_slice(), arguments].concat()
    }

    fn environment(&self, node: &Node) -> Result<Vec<String>> {
        let mut values: Vec<(&str, String)> = vec![(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        )];
        for Variable {
            name,
            value,
            value_from,
        } in &self.container.env
        {
            let mut value = match (value, value_from) {
                (Some(value), _) => value.clone(),
                (None, Some(ValueFrom { field_ref })) => {
                    node.field(&field_ref.field_path)?.to_owned()
                }
                (None, None) => String::new(),
            };
            for (earlier, is) in &values {
                value = value.replace(&format!("$({earlier})"), is);
            }
            values.push((name, value));
        }
        let pairs = values.iter().map(|(name, value)| format!("{name}={value}"));
        Ok(pairs.collect())
    }

    fn mounts(&self, node: &Node, image: &Image) -> Result<Vec<Value>> {
        let special = |kind: &str, at: &str, options: &[&str]| json!({ "destination": at, "type": kind, "source": kind, "options": options });
        let mut mounts = vec![
            special("proc", "/proc", &["nosuid", "noexec", "nodev"]),
            special(
                "tmpfs",
                "/dev",
                &["nosuid", "strictatime", "mode=755", "size=65536k"],
            ),
            special(
                "tmpfs",
                "/dev/shm",
                &["nosuid", "noexec", "nodev", "size=65536k"],
            ),
            special("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        ];
        for (here, at) in &image.programs {
            mounts.push(bind(here, at, true, None));
        }
        for mount in &self.container.volume_mounts {
            let name = &mount.name;
            ensure!(
                self.pod.volumes.iter().any(|volume| &volume.name == name),
                "the pod has no volume {name}"
            );
            let volume = node.volumes.get(name);
            let volume = volume.with_context(|| format!("this node has no volume {name}"))?;
            let source = match &mount.sub_path {
                Some(path) => volume.join(path),
                None => volume.clone(),
            };
            mounts.push(bind(
                &source,
                &mount.mount_path,
                mount.read_only,
                mount.mount_propagation,
            ));
        }
        Ok(mounts)
    }
}

fn bind(source: &Path, at: &str, read_only: bool, propagation: Option<Propagation>) -> Value {
    let propagation = match propagation {
        Some(Propagation::HostToContainer) => "rslave",
        None => "rprivate",
    };
    let access = if read_only { "ro" } else { "rw" };
    json!({
        "destination": at, "type": "bind", "source": source,
        "options": ["rbind", propagation, access],
    })
}
