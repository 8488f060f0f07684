//! No address is taken on a host's word.

use proto::v1::agent_message::Message as Up;

use crate::site::{Site, addresses, claim, token_for};

#[tokio::test]
async fn an_address_outside_the_tokens_subnets_is_refused_counted_and_shown() {
    let site = Site::new().await;
    let host = site.enrol("web-1", "web").await;
    let mut stream = host
        .connect(&site, &["127.0.0.1", "10.1.0.1", "192.0.2.1"])
        .await;
    stream.policy().await;
    let status = site
        .host_when("web-1", |host| !host.refused_addresses.is_empty())
        .await;
    // The connection comes from loopback, so that one counts; the other is in the subnet.
    assert_eq!(addresses(&status.addresses), ["10.1.0.1", "127.0.0.1"]);
    assert_eq!(addresses(&status.refused_addresses), ["192.0.2.1"]);
    assert_eq!(site.status().await.security_events, 1);

    stream.say(Up::Addresses(claim(&["10.1.0.2"]))).await;
    let status = site
        .host_when("web-1", |host| host.refused_addresses.is_empty())
        .await;
    assert_eq!(addresses(&status.addresses), ["10.1.0.2"]);
}

#[tokio::test]
async fn an_address_of_a_live_host_is_not_given_away_until_that_host_is_gone() {
    let site = Site::new().await;
    let (victim, thief) = (
        site.enrol("db-1", "db").await,
        site.enrol("web-1", "web").await,
    );
    let mut held = victim.connect(&site, &["10.2.0.1"]).await;
    held.policy().await;
    site.host_when("db-1", |host| !host.addresses.is_empty())
        .await;
    let mut stream = thief.connect(&site, &["10.2.0.1"]).await;
    stream.policy().await;
    let status = site
        .host_when("web-1", |host| !host.refused_addresses.is_empty())
        .await;
    assert!(status.addresses.is_empty());
    assert_eq!(addresses(&site.host("db-1").await.addresses), ["10.2.0.1"]);

    // A host that is gone loses it to one that is there, without a new claim.
    drop(held);
    let status = site
        .host_when("web-1", |host| host.refused_addresses.is_empty())
        .await;
    assert_eq!(addresses(&status.addresses), ["10.2.0.1"]);
    assert!(site.host("db-1").await.addresses.is_empty());
}

#[tokio::test]
async fn ipv4_written_as_ipv6_is_ipv4() {
    let site = Site::new().await;
    let token = site.token(token_for("web")).await;
    let host = site.try_enrol(&token, "web-1").await.unwrap();
    host.connect(&site, &["::ffff:10.1.0.1"])
        .await
        .policy()
        .await;
    let status = site
        .host_when("web-1", |host| !host.addresses.is_empty())
        .await;
    assert_eq!(addresses(&status.addresses), ["10.1.0.1"]);
}
