//! Security groups of AWS: the JSON that `aws ec2 describe-security-groups` prints.
//!
//! A group becomes a segment, of the workloads with the label `sg-...: member`, and a policy of the
//! same name. Both mean the same: groups add up, and what no group of a workload allows is denied in
//! both directions. The JSON of `aws ec2 describe-network-interfaces` becomes the inventory: each
//! interface is a host of its own, since groups belong to interfaces. That of
//! `aws ec2 describe-prefix-lists` says what prefix lists hold.
//!
//! Port 0 is no port in Bulkhead: a range from 0 begins at 1.

mod interface;
mod permission;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    host_policy::Origin,
    import::{
        Imported,
        object::{given, items, start, text},
        segments::Segments,
    },
    inventory::{Inventory, Labels},
    parse::{
        collector::{Collector, quote},
        fields::{Fields, Word, list, word},
        read_file,
        values::{MAX_NAME, is_name, subnet},
        yaml::{Node, Place},
    },
    problem::Problems,
    render::tidy,
    selector::Selector,
    set::{Peer, Policy, PolicySet, SegmentId, Side},
    source::SourceFile,
    words::{Direction, Mode},
};

/// The value of the label that says that a workload is in a group; the key is the group's id.
const MEMBER: &str = "member";

/// Imports security groups, and network interfaces and prefix lists where they are given, in any
/// files. With `allow_missing_groups` a rule may name a group that no file has: it then matches
/// the workloads that have its label.
///
/// # Errors
/// Every mistake and every field that Bulkhead cannot express, at once.
pub fn import(files: &[SourceFile], allow_missing_groups: bool) -> Result<Imported, Problems> {
    let mut problems = Collector::new(files);
    let nodes: Vec<Node> = (0..files.len())
        .flat_map(|file| read_file(file, &mut problems).0)
        .collect();
    let mut documents = Documents::default();
    for node in &nodes {
        documents.read(node, &mut problems);
    }
    if documents.groups.is_empty() && problems.is_empty() {
        problems.report_help(
            start(0),
            "no security groups here",
            "give the JSON that `aws ec2 describe-security-groups` prints".to_owned(),
        );
    }
    let groups = groups(&documents.groups, &mut problems);
    let mut reader = Reader {
        names: names(&groups),
        prefix_lists: prefix_lists(&documents.prefix_lists, &mut problems),
        segments: Segments::default(),
        allow_missing_groups,
        problems,
    };
    // Those that are there come first: a segment's place is its group.
    for group in groups.values() {
        reader.segment(group.id.text.as_str(), group.id.place);
    }
    let policies = groups.values().map(|group| reader.policy(group)).collect();
    let inventory = reader.inventory(&documents.interfaces);
    let set = PolicySet {
        segments: reader.segments.into_vec(),
        policies,
        ..PolicySet::default()
    };
    let set = tidy(set).set;
    reader.problems.finish(Imported { set, inventory })
}

/// The objects of all files, by what they are.
#[derive(Default)]
struct Documents<'n> {
    groups: Vec<&'n Node>,
    interfaces: Vec<&'n Node>,
    prefix_lists: Vec<&'n Node>,
}

impl<'n> Documents<'n> {
    fn read(&mut self, node: &'n Node, problems: &mut Collector<'_>) {
        let known = [
            "SecurityGroups",
            "NetworkInterfaces",
            "PrefixLists",
            "NextToken",
        ];
        let help = |field: &str| {
            (field == "SecurityGroupRules")
                .then(|| "give what `aws ec2 describe-security-groups` prints".to_owned())
        };
        let what = "the output of `aws ec2`";
        let Some(fields) = Fields::read_with_help(node, what, &known, help, problems) else {
            return;
        };
        if let Some(token) = given(&fields, "NextToken") {
            problems.report_help(
                token.key,
                "`NextToken` says that there is more than this file has",
                "leave out --max-items and --no-paginate, so that everything is printed".to_owned(),
            );
        }
        self.groups
            .extend(items(&fields, "SecurityGroups", problems));
        self.interfaces
            .extend(items(&fields, "NetworkInterfaces", problems));
        self.prefix_lists
            .extend(items(&fields, "PrefixLists", problems));
    }
}

struct Group<'n> {
    id: Word,
    name: &'n str,
    /// Of each direction, the place of the field and the permissions.
    permissions: [(Place, &'n [Node]); 2],
}

/// The groups by id.
fn groups<'n>(nodes: &[&'n Node], problems: &mut Collector<'_>) -> BTreeMap<String, Group<'n>> {
    let mut groups: BTreeMap<String, Group<'_>> = BTreeMap::new();
    for node in nodes {
        let Some(group) = group(node, problems) else {
            continue;
        };
        if let Some(first) = groups.get(&group.id.text) {
            let message = format!(
                "security group {} is also in {}",
                quote(&group.id.text),
                problems.line_of(first.id.place)
            );
            problems.report(group.id.place, message);
        } else {
            groups.insert(group.id.text.clone(), group);
        }
    }
    groups
}

fn group<'n>(node: &'n Node, problems: &mut Collector<'_>) -> Option<Group<'n>> {
    const WHAT: &str = "a security group";
    let known = [
        "GroupId",
        "GroupName",
        "IpPermissions",
        "IpPermissionsEgress",
        // What says nothing about traffic.
        "Description",
        "OwnerId",
        "VpcId",
        "Tags",
        "SecurityGroupArn",
    ];
    let fields = Fields::read(node, WHAT, &known, problems)?;
    let id = fields
        .require("GroupId", WHAT, problems)
        .and_then(|field| group_id(field.node, problems));
    let mut permissions = |name| {
        // Left out is not empty: whoever cut it out of the JSON would deny everything.
        let field = fields.require(name, WHAT, problems);
        let place = field.map_or(node.place, |field| field.key);
        let rules = field.and_then(|field| list(field.node, &format!("`{name}`"), problems));
        (place, rules.unwrap_or_default())
    };
    let permissions = [
        permissions("IpPermissions"),
        permissions("IpPermissionsEgress"),
    ];
    let id = id?;
    Some(Group {
        name: text(node, "GroupName").unwrap_or_default(),
        id,
        permissions,
    })
}

/// An id, which becomes a label's key.
fn group_id(node: &Node, problems: &mut Collector<'_>) -> Option<Word> {
    let id = word(node, "a security group's id", problems)?;
    if is_name(&id.text, MAX_NAME) {
        return Some(id);
    }
    problems.report(
        id.place,
        format!("{} is not a security group's id", quote(&id.text)),
    );
    None
}

/// A name for each group: its own where it is the only one of that name, as `default` is not.
fn names(groups: &BTreeMap<String, Group<'_>>) -> BTreeMap<String, String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for group in groups.values() {
        *counts.entry(group.name).or_default() += 1;
    }
    groups
        .iter()
        .map(|(id, group)| {
            let name = match (group.name, counts.get(group.name)) {
                ("", _) => id.clone(),
                (name, Some(1)) => name.to_owned(),
                (name, _) => format!("{name}-{id}"),
            };
            (id.clone(), name)
        })
        .collect()
}

/// The subnets of each prefix list.
fn prefix_lists(nodes: &[&Node], problems: &mut Collector<'_>) -> BTreeMap<String, Vec<IpNet>> {
    let mut lists = BTreeMap::new();
    for node in nodes {
        const WHAT: &str = "a prefix list";
        let known = ["PrefixListId", "PrefixListName", "Cidrs"];
        let Some(fields) = Fields::read(node, WHAT, &known, problems) else {
            continue;
        };
        let id = fields
            .require("PrefixListId", WHAT, problems)
            .and_then(|field| word(field.node, "a prefix list's id", problems));
        fields.require("Cidrs", WHAT, problems);
        let subnets: Vec<IpNet> = items(&fields, "Cidrs", problems)
            .iter()
            .filter_map(|item| subnet(item, problems))
            .collect();
        if let Some(id) = id
            && lists.insert(id.text.clone(), subnets).is_some()
        {
            problems.report(
                id.place,
                format!("prefix list {} stands here twice", quote(&id.text)),
            );
        }
    }
    lists
}

struct Reader<'f> {
    /// What the group of each id is called.
    names: BTreeMap<String, String>,
    prefix_lists: BTreeMap<String, Vec<IpNet>>,
    segments: Segments,
    allow_missing_groups: bool,
    problems: Collector<'f>,
}

impl Reader<'_> {
    fn origin(&self, rule: String, place: Place) -> Arc<Origin> {
        Arc::new(Origin {
            rule,
            file: self.problems.file(place).path.clone(),
            line: place.line,
        })
    }

    /// The segment of a group.
    fn segment(&mut self, id: &str, place: Place) -> SegmentId {
        let name = self.names.get(id).map_or(id, String::as_str).to_owned();
        let origin = self.origin(name.clone(), place);
        let label = Labels::from([(id.to_owned(), MEMBER.to_owned())]);
        self.segments.id(&Selector::from(&label), &name, &origin)
    }

    fn policy(&mut self, group: &Group<'_>) -> Policy {
        let id = &group.id;
        let name = self.names.get(&id.text).unwrap_or(&id.text).clone();
        let [ingress, egress] = Direction::ALL.map(|direction| {
            let (place, permissions) = group.permissions[direction as usize];
            let rule = format!("{name}/{direction}");
            let rules = permissions
                .iter()
                .enumerate()
                .filter_map(|(index, node)| self.allow(node, format!("{rule}[{index}]")))
                .collect();
            Some(Side {
                origin: self.origin(rule, place),
                rules,
            })
        });
        Policy {
            applies_to: vec![self.segment(&id.text, id.place)],
            name,
            ingress,
            egress,
            mode: Mode::Enforce,
        }
    }

    /// A group that a rule names as its peer.
    fn peer_group(&mut self, node: &Node) -> Option<Peer> {
        const WHAT: &str = "an item of `UserIdGroupPairs`";
        let known = [
            "GroupId",
            "PeeringStatus",
            // Whose the group is, and by which way its members are reached: the id is enough.
            "GroupName",
            "UserId",
            "VpcId",
            "VpcPeeringConnectionId",
            "Description",
        ];
        let fields = Fields::read(node, WHAT, &known, &mut self.problems)?;
        if let Some(status) = given(&fields, "PeeringStatus")
            && text(node, "PeeringStatus") != Some("active")
        {
            self.problems.report_help(
                status.node.place,
                "`PeeringStatus` says that the rule is stale: its group is out of reach",
                "delete the rule first; `aws ec2 describe-stale-security-groups` lists such"
                    .to_owned(),
            );
        }
        let id = fields.require("GroupId", WHAT, &mut self.problems)?;
        let id = group_id(id.node, &mut self.problems)?;
        if !self.names.contains_key(&id.text) && !self.allow_missing_groups {
            self.problems.report_help(
                id.place,
                format!("security group {} is in none of the files", quote(&id.text)),
                "give its JSON too, or --allow-missing-groups: the rule then matches hosts with its label"
                    .to_owned(),
            );
            return None;
        }
        Some(Peer::Segment(self.segment(&id.text, id.place)))
    }

    fn inventory(&mut self, interfaces: &[&Node]) -> Inventory {
        let known: BTreeSet<&str> = self.names.keys().map(String::as_str).collect();
        interface::inventory(interfaces, &known, &mut self.problems)
    }
}
