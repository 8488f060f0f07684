//! Why a packet was dropped, or passed without a rule.

/// A word for each way that a verdict comes about; the number is the index of its counter.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A rule allowed it, or its flow.
    Allowed = 0,
    /// A rule denied it.
    Policy = 1,
    /// Its flow was allowed once and is not any more.
    Revoked = 2,
    /// A header is cut short, or its length fields lie.
    Malformed = 3,
    /// A fragment after the first, of a packet whose first one was not let pass or not seen.
    FragmentOrphan = 4,
    /// An EtherType that is neither IP nor ARP, and no setting lets it pass.
    EtherType = 5,
    /// More IPv6 extension headers than are looked through.
    ExtensionHeaders = 6,
    /// The tables have no answer: nothing was published yet, or an index is out of range.
    Tables = 7,
    /// ARP, or the neighbour discovery that IPv6 needs.
    Neighbour = 8,
    /// An ICMP error about a flow that is allowed.
    Related = 9,
    /// An event that the full ring buffer did not take.
    EventLost = 10,
    /// A flow that passed although the flow table did not take it.
    FlowNotKept = 11,
    /// What a device needs to join its network: link aggregation, spanning tree, port authentication.
    LinkControl = 12,
    /// A first fragment that ends within the headers that a verdict needs.
    FragmentSmall = 13,
    /// A fragment after the first that begins within the headers of the first.
    FragmentOverlap = 14,
    /// More VLAN tags than are looked through.
    VlanTags = 15,
    /// An EtherType that is neither IP nor ARP; the setting `other_ethertypes` lets it pass.
    EtherTypePassed = 16,
    /// An event that the rates of its peer, its rule or all of them left out.
    EventLimited = 17,
    /// A TCP segment of no connection that is known, with flags that no stack sends then.
    TcpFlags = 18,
}

impl Reason {
    /// How many there are.
    pub const COUNT: u32 = 19;

    /// All, by number.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Allowed,
        Self::Policy,
        Self::Revoked,
        Self::Malformed,
        Self::FragmentOrphan,
        Self::EtherType,
        Self::ExtensionHeaders,
        Self::Tables,
        Self::Neighbour,
        Self::Related,
        Self::EventLost,
        Self::FlowNotKept,
        Self::LinkControl,
        Self::FragmentSmall,
        Self::FragmentOverlap,
        Self::VlanTags,
        Self::EtherTypePassed,
        Self::EventLimited,
        Self::TcpFlags,
    ];

    /// The reason of a number in an event.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether packets counted under it were dropped.
    #[must_use]
    pub const fn drops(self) -> bool {
        matches!(
            self,
            Self::Policy
                | Self::Revoked
                | Self::Malformed
                | Self::FragmentOrphan
                | Self::EtherType
                | Self::ExtensionHeaders
                | Self::Tables
                | Self::FragmentSmall
                | Self::FragmentOverlap
                | Self::VlanTags
                | Self::TcpFlags
        )
    }

    /// The word in reports and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Policy => "policy",
            Self::Revoked => "revoked",
            Self::Malformed => "malformed",
            Self::FragmentOrphan => "fragment-orphan",
            Self::EtherType => "ethertype",
            Self::ExtensionHeaders => "extension-headers",
            Self::Tables => "tables",
            Self::Neighbour => "neighbour",
            Self::Related => "related",
            Self::EventLost => "event-lost",
            Self::FlowNotKept => "flow-not-kept",
            Self::LinkControl => "link-control",
            Self::FragmentSmall => "fragment-small",
            Self::FragmentOverlap => "fragment-overlap",
            Self::VlanTags => "vlan-tags",
            Self::EtherTypePassed => "ethertype-passed",
            Self::EventLimited => "event-limited",
            Self::TcpFlags => "tcp-flags",
        }
    }
}
