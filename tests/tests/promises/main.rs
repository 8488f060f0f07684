//! The promises of the design, end to end: real programs, real sockets, the real kernel.
//!
//! Each test boots a lab of its own, so all of them can run at once.

#![forbid(unsafe_code)]

mod a_busy_host_learns_its_flows_before_it_enforces;
mod a_confirmation_means_enforced;
mod a_host_keeps_its_lease;
mod a_host_keeps_its_way_and_its_word_on_its_network;
mod a_host_that_cannot_enforce_says_why;
mod a_packet_in_pieces_is_judged_as_a_whole;
mod a_peer_cannot_choose_who_opened_its_connection;
mod a_policy_cannot_lock_the_operator_out;
mod a_policy_that_costs_the_controller_is_rolled_back;
mod an_exception_ends_on_time;
mod an_invalid_policy_never_replaces_a_valid_one;
mod apply_says_who_would_lose_ssh;
mod every_denial_names_its_rule;
mod forgers_gain_nothing;
mod installing_the_agent_cuts_only_what_policy_denies;
mod losing_the_agent_changes_nothing;
mod losing_the_controller_changes_nothing;
mod nobody_is_who_they_say_they_are;
mod nothing_that_happens_to_the_agent_opens_a_gap;
mod observing_lets_pass_and_reports;
mod one_packet_one_revision;
mod policies;
mod quarantine_leaves_the_host_its_address;
mod quarantine_outranks_everything;
mod revoked_means_cut;
mod scanners_see_what_policy_allows;
mod the_demo_keeps_its_word;
mod the_readmes_five_minutes;
mod what_goes_wrong_on_the_way_is_heard;
mod what_is_dropped_is_said;
mod what_no_policy_allows_is_denied;
