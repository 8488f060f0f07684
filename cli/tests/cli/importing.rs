//! Importing the policy of other systems.

use std::fs;

use crate::run::{Files, bulkhead};

const GROUPS: &str = r#"{"SecurityGroups": [{
    "GroupId": "sg-1", "GroupName": "db", "IpPermissionsEgress": [],
    "IpPermissions": [{"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "IpRanges": [{"CidrIp": "10.1.0.0/16"}]}]
}]}"#;

const INTERFACES: &str = r#"{"NetworkInterfaces": [{
    "NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.1.2.3", "Groups": [{"GroupId": "sg-1"}]
}]}"#;

#[test]
fn what_is_imported_can_be_checked_and_asked() {
    let files = Files::new(&[("groups.json", GROUPS), ("interfaces.json", INTERFACES)]);
    let out = files.name("out");
    let done = bulkhead(&[
        "policy",
        "import",
        "--from",
        "aws",
        files.root(),
        "--out",
        &out,
    ]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    assert_eq!(
        done.stdout,
        format!("{out}/policies.yaml\n{out}/inventory.yaml\n")
    );

    let check = bulkhead(&["policy", "check", &out]);
    assert_eq!((check.code, check.stderr.as_str()), (0, ""));
    let ask = |port: &str| {
        let inventory = format!("{out}/inventory.yaml");
        bulkhead(&[
            "policy",
            "eval",
            "--inventory",
            &inventory,
            "--policies",
            &out,
            "--src",
            "10.1.0.9",
            "--dst",
            "eni-1",
            "--protocol",
            "tcp",
            "--port",
            port,
        ])
    };
    assert_eq!(ask("5432").code, 0);
    assert_eq!(ask("22").code, 1);

    // Nobody's work is overwritten.
    let before = fs::read_to_string(files.path("out/policies.yaml")).unwrap();
    let again = bulkhead(&[
        "policy",
        "import",
        "--from",
        "aws",
        &files.name("groups.json"),
        "--out",
        &out,
    ]);
    assert_eq!(again.code, 64, "{again:?}");
    assert!(
        again.stderr.contains("policies.yaml: it is there already"),
        "{again:?}"
    );

    // Without a directory, the same text.
    let printed = bulkhead(&[
        "policy",
        "import",
        "--from",
        "aws",
        &files.name("groups.json"),
    ]);
    let plain = |text: &str| text.replace(&files.name(""), "");
    assert_eq!(plain(&printed.stdout), plain(&before));
}

#[test]
fn what_cannot_be_imported_is_shown_and_nothing_is_written() {
    let files = Files::new(&[(
        "policy.yaml",
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: { name: p }\nspec:\n  preDNAT: true\n",
    )]);
    let out = files.name("out");
    let done = bulkhead(&[
        "policy",
        "import",
        "--from",
        "calico",
        files.root(),
        "--out",
        &out,
    ]);
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    assert!(
        done.stderr
            .contains("policy.yaml:5:3: `preDNAT` cannot be expressed"),
        "{done:?}"
    );
    assert!(!files.path("out").exists());
    let misplaced = [
        "policy",
        "import",
        "--from",
        "calico",
        "--allow-missing-groups",
        files.root(),
    ];
    assert_eq!(bulkhead(&misplaced).code, 64);
}

const MANIFESTS: &str = "apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: shop }
spec: { replicas: 2, template: { metadata: { labels: { app: web } } } }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: shop }
spec:
  podSelector: {}
  ingress: [{ from: [{ ipBlock: { cidr: 0.0.0.0/0, except: [10.0.0.0/8] } }] }]
";

#[test]
fn manifests_without_addresses_say_what_that_means() {
    let files = Files::new(&[("web.yaml", MANIFESTS)]);
    let manifests = files.name("web.yaml");
    let out = files.name("out");
    let arguments = [
        "policy",
        "import",
        "--from",
        "kubernetes",
        &manifests,
        "--out",
        &out,
    ];
    let done = bulkhead(&arguments);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(
        done.stderr
            .contains("warning: 1 host without an address: fill"),
        "{done:?}"
    );

    let ask = [
        "--src",
        "shop/web",
        "--dst",
        "shop/web_2",
        "--protocol",
        "tcp",
        "--port",
        "1",
    ];
    let done = bulkhead(&[&["policy", "eval", "--policies", &manifests][..], &ask].concat());
    assert!(
        done.stderr.contains("note: 2 workloads without an address"),
        "{done:?}"
    );
}

#[test]
fn an_endpoint_of_one_interface_wants_a_word() {
    let endpoint = "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\n\
                    metadata: { name: db-1.eth0 }\n\
                    spec: { node: db-1, interfaceName: eth0, expectedIPs: [10.0.0.1] }\n";
    let files = Files::new(&[("endpoints.yaml", endpoint)]);
    let (path, out) = (files.name("endpoints.yaml"), files.name("out"));
    let arguments = ["policy", "import", "--from", "calico", &path, "--out", &out];
    let refused = bulkhead(&arguments);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("`interfaceName` other than `*`"),
        "{refused:?}"
    );
    let taken = bulkhead(&[&arguments[..], &["--all-interfaces"]].concat());
    assert_eq!(taken.code, 0, "{taken:?}");
    let hosts = fs::read_to_string(files.path("out/inventory.yaml")).unwrap();
    assert!(hosts.contains("name: db-1\n"), "{hosts}");
}
