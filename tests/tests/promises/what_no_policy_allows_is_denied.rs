//! Default deny for what a policy selects, allow by identity and by subnet, on each host's own
//! side, over both families.

use anyhow::Result;
use lab::{HostSpec, Lab, Service, allowed, denied};

use crate::policies::policy;

use Service::{Ping, Tcp, Udp};

const SERVICES: [Service; 4] = [Tcp(8080), Tcp(8081), Udp(5353), Udp(5354)];

#[test]
fn a_host_that_no_policy_selects_is_open() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::APP], |lab| {
        lab.serve("app-1", &SERVICES)?;
        lab.serve("web-1", &[Tcp(8080)])?;
        let open = [
            allowed("web-1", "app-1", Tcp(8080)),
            allowed("client-1", "app-1", Udp(5353)),
            allowed("client-1", "app-1", Ping),
        ];
        lab.check(&open)?;
        // A policy for others is no policy for these.
        lab.apply(&policy(&["appliesTo: db, ingress: [], egress: []"]))?;
        lab.check(&open)?;
        // A policy for one direction leaves the other alone.
        lab.apply(&policy(&["appliesTo: app, ingress: []"]))?;
        lab.check(&[
            denied("web-1", "app-1", Tcp(8080)),
            allowed("app-1", "web-1", Tcp(8080)),
            allowed("app-1", "web-1", Ping),
        ])
    })
}

#[test]
fn by_identity() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::APP, HostSpec::DB], |lab| {
        lab.serve("app-1", &SERVICES)?;
        lab.serve("web-1", &[Tcp(8080)])?;
        lab.serve("client-1", &SERVICES)?;
        lab.apply(&policy(&[
            "appliesTo: app, ingress: [\
               { from: [web], allow: [tcp/8080, udp/5353, icmp/8, icmpv6/128] },\
               { from: [db], allow: [tcp/8081] }]",
            "appliesTo: web, egress: [\
               { to: [app], allow: [tcp/8080, udp/5353-5354, icmp/8, icmpv6/128] }]",
        ]))?;
        lab.check(&[
            allowed("web-1", "app-1", Tcp(8080)),
            allowed("web-1", "app-1", Udp(5353)),
            allowed("web-1", "app-1", Ping),
            allowed("db-1", "app-1", Tcp(8081)),
            // The receiver refuses what the sender may send, and the other way round.
            denied("web-1", "app-1", Udp(5354)),
            denied("web-1", "app-1", Tcp(8081)),
            // Not this identity.
            denied("db-1", "app-1", Tcp(8080)),
            denied("db-1", "app-1", Udp(5353)),
            denied("db-1", "app-1", Ping),
            // No identity.
            denied("client-1", "app-1", Tcp(8080)),
            denied("client-1", "app-1", Udp(5353)),
            denied("client-1", "app-1", Ping),
            denied("web-1", "client-1", Tcp(8080)),
            denied("web-1", "client-1", Udp(5353)),
            denied("web-1", "client-1", Ping),
            // Nothing selects these directions.
            allowed("client-1", "web-1", Tcp(8080)),
            allowed("app-1", "client-1", Udp(5354)),
            allowed("app-1", "db-1", Ping),
        ])
    })
}

#[test]
fn by_subnet_and_its_exceptions() -> Result<()> {
    Lab::run(&[HostSpec::WEB, HostSpec::DB], |lab| {
        lab.serve("db-1", &SERVICES)?;
        lab.apply(&format!(
            "{}---\n{{ apiVersion: bulkhead/v1, kind: Segment, name: office, \
             subnets: [10.66.9.0/24, 'fd66:9::/64'] }}\n",
            policy(&["appliesTo: db, ingress: [\
               { from: [office], allow: [tcp/8080] },\
               { from: [{ subnet: 10.66.9.0/24, except: [10.66.9.20/32] },\
                        { subnet: 'fd66:9::/64', except: ['fd66:9::20/128'] }],\
                 allow: [tcp/8081, icmp/8, icmpv6/128] },\
               { from: [{ subnet: 10.66.0.0/16 }, { subnet: 'fd66::/16' }], allow: [udp/5353] }]"]),
        ))?;
        lab.check(&[
            allowed("client-1", "db-1", Tcp(8080)),
            allowed("controller", "db-1", Tcp(8080)),
            denied("web-1", "db-1", Tcp(8080)),
            // In the subnet, and excepted.
            allowed("controller", "db-1", Tcp(8081)),
            allowed("controller", "db-1", Ping),
            denied("client-1", "db-1", Tcp(8081)),
            denied("client-1", "db-1", Ping),
            // A subnet matches by address, whether or not a host with labels holds it.
            allowed("web-1", "db-1", Udp(5353)),
            allowed("client-1", "db-1", Udp(5353)),
            denied("web-1", "db-1", Udp(5354)),
        ])
    })
}
