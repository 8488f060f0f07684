//! The pure meaning of Bulkhead policy.
//!
//! Files become a [`PolicySet`], a set and an [`Inventory`] become one [`HostPolicy`] per
//! [`Subject`], and a host policy becomes [`Classes`]: the peer classes, port classes and decision
//! matrix that the kernel looks verdicts up in. Nothing here does I/O.

#![forbid(unsafe_code)]

pub mod assertion;
pub mod classify;
pub mod compile;
pub mod evaluate;
pub mod explain;
pub mod fleet;
pub mod host_policy;
pub mod import;
pub mod inventory;
pub mod limits;
pub mod lint;
pub mod parse;
pub mod population;
pub mod problem;
pub mod reach;
pub mod render;
pub mod schema;
pub mod selector;
pub mod service;
pub mod set;
pub mod source;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod words;

pub use classify::{Classes, TooLarge, check_fit, classify};
pub use compile::{Compiler, Subject, compile};
pub use evaluate::{Flow, Verdict, evaluate};
pub use explain::explain;
pub use fleet::Fleet;
pub use host_policy::{HostPolicy, Origin, PeerMatch, Rule, RuleId, SubnetMatch};
pub use inventory::{Host, HostName, Inventory, Labels};
pub use lint::lint;
pub use parse::{Parsed, parse, parse_mixed};
pub use population::{IdentityTable, Population};
pub use problem::{Problem, Problems};
pub use reach::reach;
pub use selector::Selector;
pub use service::{PortKey, PortSpan, ProtocolSlot};
pub use set::PolicySet;
pub use source::SourceFile;
pub use words::{Action, Direction, Effect, Identity, Mode, Revision, Tier, Timestamp};
