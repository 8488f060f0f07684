//! Connections over time: revoked, silent, older than the agent.

use super::*;

/// A connection of which the agent sees the middle first: the accepting end speaks.
fn seen_from_the_middle(world: World) -> MemoryTables {
    let tables = tables(world);
    assert_eq!(egress(&tables, &tcp(SERVER, CLIENT, ACK), 1), Verdict::Pass);
    assert_eq!(
        ingress(&tables, &tcp(CLIENT, SERVER, ACK), 2),
        Verdict::Pass
    );
    tables
}

#[test]
fn revoked_means_cut_in_both_directions() {
    let mut tables = tables(World::Https);
    ingress(&tables, &tcp(CLIENT, SERVER, SYN), 1);
    egress(&tables, &tcp(SERVER, CLIENT, SYN | ACK), 2);
    publish(&mut tables, World::Nothing);
    for now in 3..10 {
        assert_eq!(
            egress(&tables, &tcp(SERVER, CLIENT, ACK), now),
            Verdict::Drop
        );
        assert_eq!(
            ingress(&tables, &tcp(CLIENT, SERVER, ACK), now),
            Verdict::Drop
        );
    }
    assert_eq!(tables.packets(Reason::Revoked), 14);
    assert_eq!(tables.events.borrow()[0].reason, Reason::Revoked as u8);
}

#[test]
fn a_revoked_connection_is_not_taken_for_one_from_before_the_agent() {
    // Outward connections are denied, inward ones all allowed: seen alone, a packet of the revoked
    // connection could belong to one that the peer opened.
    let mut tables = tables(World::NothingIn);
    let (local, remote) = ((HOST, 40000), (STRANGER, 5432));
    assert_eq!(egress(&tables, &tcp(local, remote, SYN), 1), Verdict::Pass);
    assert_eq!(
        ingress(&tables, &tcp(remote, local, SYN | ACK), 2),
        Verdict::Pass
    );
    publish(&mut tables, World::NothingOut);
    for packet in 0..600 {
        let now = packet * 10 * SECOND;
        assert_eq!(
            egress(&tables, &tcp(local, remote, ACK), now),
            Verdict::Drop
        );
        assert_eq!(
            ingress(&tables, &tcp(remote, local, ACK), now),
            Verdict::Drop
        );
    }
}

#[test]
fn a_flow_that_the_new_policy_still_allows_lives_on() {
    let mut tables = tables(World::Https);
    ingress(&tables, &tcp(CLIENT, SERVER, SYN), 1);
    for flip in 0..100 {
        publish(&mut tables, World::Https);
        assert_eq!(
            ingress(&tables, &tcp(CLIENT, SERVER, ACK), flip),
            Verdict::Pass
        );
        assert_eq!(
            egress(&tables, &tcp(SERVER, CLIENT, ACK), flip),
            Verdict::Pass
        );
    }
    assert!(tables.events.borrow().is_empty());
}

#[test]
fn a_connection_from_before_the_agent_goes_on_where_policy_allows_either_end_to_open_it() {
    let tables = tables(World::Https);
    // The server's answer in mid-stream: it is the friend who may have opened this.
    assert_eq!(egress(&tables, &tcp(SERVER, CLIENT, ACK), 1), Verdict::Pass);
    assert_eq!(
        ingress(&tables, &tcp(CLIENT, SERVER, ACK), 2),
        Verdict::Pass
    );
    let nothing = self::tables(World::Nothing);
    assert_eq!(
        egress(&nothing, &tcp(SERVER, CLIENT, ACK), 1),
        Verdict::Drop
    );
    // Inward from port 5432 to a high port: an answer to what the host may open.
    assert_eq!(
        ingress(&tables, &tcp((STRANGER, 5432), (HOST, 40000), ACK), 3),
        Verdict::Pass
    );
    // A SYN has no such grace, and UDP has none either.
    assert_eq!(
        ingress(&tables, &tcp((STRANGER, 5432), (HOST, 40001), SYN), 4),
        Verdict::Drop
    );
    assert_eq!(
        ingress(&tables, &udp((STRANGER, 53), (HOST, 40000)), 5),
        Verdict::Drop
    );
}

#[test]
fn a_connection_of_unknown_opener_outlives_a_judgement_if_both_orientations_are_allowed() {
    let (low, high) = ((HOST, 50_051), (STRANGER, 40_000));
    for (local, remote) in [
        (SERVER, CLIENT),
        (low, high),
        ((HOST, 40_000), (FRIEND, 80)),
    ] {
        for (world, verdict) in [
            (World::All, Verdict::Pass),
            (World::NothingIn, Verdict::Drop),
            (World::NothingOut, Verdict::Drop),
        ] {
            let mut tables = tables(World::All);
            assert_eq!(egress(&tables, &tcp(local, remote, ACK), 1), Verdict::Pass);
            assert_eq!(ingress(&tables, &tcp(remote, local, ACK), 2), Verdict::Pass);
            publish(&mut tables, world);
            assert_eq!(egress(&tables, &tcp(local, remote, ACK), 3), verdict);
            assert_eq!(ingress(&tables, &tcp(remote, local, ACK), 4), verdict);
        }
    }
}

#[test]
fn what_lies_below_every_policy_is_not_cut_where_the_opener_is_unknown() {
    // As the way to the controller: allowed outward alone, and by no policy.
    let (local, remote) = ((HOST, 40_000), (FRIEND, 7443));
    let mut tables = tables(World::NothingIn);
    assert_eq!(egress(&tables, &tcp(local, remote, ACK), 1), Verdict::Pass);
    publish(&mut tables, World::NothingIn);
    for cell in tables.matrix.values_mut() {
        cell.enforced = cell.enforced.strict();
    }
    assert_eq!(egress(&tables, &tcp(local, remote, ACK), 2), Verdict::Pass);
    assert_eq!(ingress(&tables, &tcp(remote, local, ACK), 3), Verdict::Pass);
}

#[test]
fn silence_does_not_bring_a_revoked_connection_back() {
    let mut tables = tables(World::NothingIn);
    let (local, remote) = ((HOST, 40_000), (STRANGER, 5432));
    egress(&tables, &tcp(local, remote, SYN), 1);
    ingress(&tables, &tcp(remote, local, SYN | ACK), 2);
    publish(&mut tables, World::NothingOut);
    for hours in [0, 1, 10, 100] {
        let now = hours * 3600 * SECOND + 3;
        assert_eq!(
            egress(&tables, &tcp(local, remote, ACK), now),
            Verdict::Drop
        );
        assert_eq!(
            ingress(&tables, &tcp(remote, local, ACK), now),
            Verdict::Drop
        );
    }
}

#[test]
fn a_revoked_datagram_flow_stays_cut_while_its_opener_keeps_trying() {
    let mut tables = tables(World::NothingIn);
    let (local, remote) = ((HOST, 40_000), (STRANGER, 53));
    assert_eq!(egress(&tables, &udp(local, remote), 1), Verdict::Pass);
    publish(&mut tables, World::NothingOut);
    for seconds in 0..1_000 {
        let now = seconds * SECOND + 2;
        assert_eq!(egress(&tables, &udp(local, remote), now), Verdict::Drop);
        assert_eq!(ingress(&tables, &udp(remote, local), now), Verdict::Drop);
    }
}

#[test]
fn a_syn_from_the_other_end_does_not_make_it_the_opener() {
    let mut tables = tables(World::NothingIn);
    let (local, remote) = ((HOST, 40_000), (FRIEND, 443));
    egress(&tables, &tcp(local, remote, SYN), 1);
    ingress(&tables, &tcp(remote, local, SYN | ACK), 2);
    publish(&mut tables, World::All);
    // Allowed by itself now, it passes; the connection stays the one that this host opened.
    assert_eq!(ingress(&tables, &tcp(remote, local, SYN), 3), Verdict::Pass);
    publish(&mut tables, World::NothingOut);
    assert_eq!(egress(&tables, &tcp(local, remote, ACK), 4), Verdict::Drop);
    assert_eq!(ingress(&tables, &tcp(remote, local, ACK), 5), Verdict::Drop);
}

#[test]
fn a_strict_deny_excepts_no_connection_from_before_the_agent() {
    let mut tables = tables(World::NothingIn);
    let packet = tcp((STRANGER, 5432), (HOST, 40_000), ACK);
    for cell in tables.matrix.values_mut() {
        if !cell.enforced.allows() {
            cell.enforced = cell.enforced.strict();
        }
    }
    assert_eq!(ingress(&tables, &packet, 1), Verdict::Drop);
}
