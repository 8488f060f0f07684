//! How a host stands with the policy in force, in words.

use proto::v1::{HostReport, HostStatus, Standing};

use crate::output::some;

/// More problems of a host than these are counted.
const MOST_PROBLEMS: usize = 3;

/// The word for programs. `unknown`: the controller is older than this tool.
pub fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Unspecified => "unknown",
        Standing::Detached => "detached",
        Standing::PolicesNothing => "polices-nothing",
        Standing::Refused => "refused",
        Standing::Degraded => "degraded",
        Standing::Pending => "pending",
        Standing::NoPolicy => "no-policy",
        Standing::NotSelected => "not-selected",
        Standing::Observed => "observed",
        Standing::Enforced => "enforced",
    }
}

/// The words for people, of a host that is connected.
pub fn words(standing: Standing) -> &'static str {
    match standing {
        Standing::Unspecified => "connected",
        Standing::Detached => "NOT PROTECTED: detached",
        Standing::PolicesNothing => "NOT PROTECTED: polices no interface",
        Standing::Refused => "newest policy refused",
        Standing::Degraded => "PARTLY PROTECTED",
        Standing::Pending => "waiting for its policy",
        Standing::NoPolicy => "no policy yet",
        Standing::NotSelected => "no policy selects it",
        Standing::Observed => "observed only",
        Standing::Enforced => "enforced",
    }
}

/// Whether the host does not enforce what it has acknowledged, or not everywhere.
pub fn falls_short(standing: Standing) -> bool {
    matches!(
        standing,
        Standing::Detached | Standing::PolicesNothing | Standing::Degraded
    )
}

/// Why a host does not enforce what it has acknowledged; none for one that does.
pub fn shortcoming(host: &HostStatus) -> Option<String> {
    falls_short(host.standing()).then(|| explain(host.standing(), host.report.as_ref()))
}

/// Why a host falls short, in a sentence without its name.
pub fn explain(standing: Standing, report: Option<&HostReport>) -> String {
    let what = match standing {
        Standing::Detached => {
            "enforcement was ended there (`bulkhead-agent detach`): everything passes"
        }
        Standing::PolicesNothing => "it polices no interface: everything passes",
        _ => "it polices less than it is to",
    };
    match report {
        Some(report) if !report.problems.is_empty() => {
            format!("{what}; {}", some(&report.problems, MOST_PROBLEMS, "; "))
        }
        _ => what.to_owned(),
    }
}
