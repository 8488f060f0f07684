//! Identity comes from a certificate that the controller issued; everything else is refused, with
//! a sentence.

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{Family, HostSpec, LONG, Lab, Place, wait_until};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use serde::Deserialize;

const OPERATOR: &str = "spiffe://bulkhead/operator/admin";

/// A host whose agent is not started by the lab.
const STRANGER: HostSpec = HostSpec {
    place: Place {
        name: "web-2",
        subnet: 1,
        number: 20,
    },
    labels: &[("tier", "web")],
};

/// The shortest that a token can have, and a little for the making of it.
const TOKENS_LIFE: Duration = Duration::from_secs(62);

/// Writes an operator's file like the real one, but with this certificate and key.
fn operator_file(lab: &mut Lab, name: &str, certificate: &str, key: &str) -> Result<PathBuf> {
    let text = lab.controller().file("operator-admin.toml")?;
    let mut file: toml::Table = text.parse().context("reading the operator's file")?;
    file.insert("certificate_pem".to_owned(), certificate.into());
    file.insert("key_pem".to_owned(), key.into());
    let path = lab.directory().join(format!("operator-{name}.toml"));
    fs::write(&path, file.to_string())?;
    Ok(path)
}

/// A client certificate with its key, by some CA.
fn certificate(
    issuer: &Issuer<'_, KeyPair>,
    uri: &str,
    years: [i32; 2],
) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date_time_ymd(years[0], 1, 1);
    params.not_after = date_time_ymd(years[1], 1, 1);
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

/// The controller's CA, with its key.
fn real_ca(lab: &mut Lab) -> Result<Issuer<'static, KeyPair>> {
    let key = KeyPair::from_pem(&lab.controller().file("ca.key")?)?;
    Ok(Issuer::from_ca_cert_pem(
        &lab.controller().file("ca.pem")?,
        key,
    )?)
}

/// A CA that nobody knows.
fn other_ca() -> Result<Issuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(Issuer::new(params, KeyPair::generate()?))
}

#[test]
fn an_operators_call_needs_an_operators_certificate_of_this_ca_that_is_not_over() -> Result<()> {
    Lab::run(&[HostSpec::WEB], |lab| {
        let (real, other) = (real_ca(lab)?, other_ca()?);
        let holder = |lab: &mut Lab, name: &str, (pem, key): (String, String)| {
            let file = operator_file(lab, name, &pem, &key)?;
            Ok::<_, anyhow::Error>(lab.operator().with_file(&file))
        };
        // What makes a certificate good, so that each of the rest has one fault.
        let good = certificate(&real, OPERATOR, [2020, 2099])?;
        holder(lab, "good", good)?.run(&["hosts"])?.fine()?;

        let forged = certificate(&other, OPERATOR, [2020, 2099])?;
        let refused = holder(lab, "forged", forged)?.run(&["hosts"])?;
        refused.refused(77, &["certificate", "CA"])?;

        let expired = certificate(&real, OPERATOR, [2020, 2021])?;
        let refused = holder(lab, "expired", expired)?.run(&["hosts"])?;
        refused.refused(77, &["certificate", "expired"])?;

        let future = certificate(&real, OPERATOR, [2098, 2099])?;
        holder(lab, "future", future)?
            .run(&["hosts"])?
            .refused(77, &["certificate"])?;

        let stranger = certificate(&real, "spiffe://elsewhere/operator/admin", [2020, 2099])?;
        holder(lab, "stranger", stranger)?
            .run(&["hosts"])?
            .refused(77, &["permission denied"])?;

        // The certificate that a host really holds.
        let identity = fs::read_to_string(lab.directory().join("web-1/state/identity.toml"))?;
        let identity: toml::Table = identity.parse()?;
        let field = |name: &str| {
            let text = identity.get(name).and_then(toml::Value::as_str);
            text.map(str::to_owned)
                .with_context(|| format!("no {name} in a host's identity"))
        };
        let host = (field("certificate_chain_pem")?, field("key_pem")?);
        let holder = holder(lab, "host", host)?;
        for call in [
            &["hosts"][..],
            &["status"],
            &["denials"],
            &["token", "create", "--label", "tier=db"],
            &["quarantine", "web-1", "--reason", "a host must not"],
            &["release", "web-1"],
        ] {
            holder.run(call)?.refused(77, &["permission denied"])?;
        }
        let web = lab.host_status("web-1")?.context("web-1 is gone")?;
        ensure!(!web.quarantined, "a host quarantined another");
        Ok(())
    })
}

#[test]
fn an_agent_tells_nothing_to_a_controller_that_its_token_does_not_name() -> Result<()> {
    Lab::run_bare(&[STRANGER], |lab| {
        let token = lab.create_token(&STRANGER)?;
        let (rest, pin) = token.rsplit_once('.').context("a token has a CA's hash")?;
        // One digit of the hash is another one.
        let digit = if pin.starts_with('0') { '1' } else { '0' };
        lab.agent("web-2")?
            .give_token(&format!("{rest}.{digit}{}", &pin[1..]))?;
        lab.agent("web-2")?
            .once("enroll")?
            .refused(78, &["verified", "nothing was sent"])?;
        // So the token is still good.
        lab.agent("web-2")?.give_token(&token)?;
        lab.agent("web-2")?.once("enroll")?.fine()?;
        Ok(())
    })
}

#[test]
fn a_token_enrols_once_and_not_for_ever() -> Result<()> {
    Lab::run_bare(&[HostSpec::WEB, STRANGER], |lab| {
        lab.enrol(&[HostSpec::WEB])?;
        let created = Instant::now();
        let expiring = lab
            .operator()
            .create_token(&["--label", "tier=web", "--valid", "1m"])?;

        let used = fs::read_to_string(lab.directory().join("web-1/token"))?;
        lab.agent("web-2")?.give_token(&used)?;
        lab.agent("web-2")?
            .once("enroll")?
            .refused(78, &["token", "used"])?;

        let (version, rest) = used.split_once('.').context("a token has three parts")?;
        let (secret, pin) = rest.split_once('.').context("a token has three parts")?;
        let other: String = secret.chars().rev().collect();
        lab.agent("web-2")?
            .give_token(&format!("{version}.{other}.{pin}"))?;
        lab.agent("web-2")?
            .once("enroll")?
            .refused(78, &["token"])?;

        lab.agent("web-2")?.give_token("not a token")?;
        lab.agent("web-2")?
            .once("enroll")?
            .refused(78, &["token"])?;

        // `run` refuses as `enroll` does, and the host is not known.
        lab.agent("web-2")?.give_token(&used)?;
        lab.agent("web-2")?
            .once("run")?
            .refused(78, &["token", "used"])?;
        ensure!(
            lab.host_status("web-2")?.is_none(),
            "a host enrolled without a token"
        );

        wait_until("the end of the token's life", TOKENS_LIFE * 2, || {
            Ok(created.elapsed() > TOKENS_LIFE)
        })?;
        lab.agent("web-2")?.give_token(&expiring)?;
        lab.agent("web-2")?
            .once("enroll")?
            .refused(78, &["token", "expired"])?;
        ensure!(
            lab.host_status("web-2")?.is_none(),
            "a host enrolled with an expired token"
        );
        Ok(())
    })
}

#[test]
fn an_address_that_another_host_holds_or_the_token_does_not_allow_is_not_believed() -> Result<()> {
    Lab::run(&[STRANGER, HostSpec::APP], |lab| {
        let before = security_events(lab)?;
        let taken = lab.address("app-1", Family::V4)?;
        let foreign: IpAddr = "fd66:7::7".parse()?;
        for address in [format!("{taken}/32"), format!("{foreign}/128")] {
            let mut add = lab.namespace("web-2")?.command("ip");
            let added = add
                .args(["addr", "add", &address, "dev", "eth0"])
                .status()?;
            ensure!(added.success(), "ip addr add {address}: {added}");
        }
        wait_until("both claims to be refused", LONG, || {
            let refused = lab.host_status("web-2")?.map(|host| host.refused_addresses);
            Ok(refused.is_some_and(|all| all.contains(&taken) && all.contains(&foreign)))
        })?;
        let held = |host| Ok::<_, anyhow::Error>(lab.host_status(host)?.map(|host| host.addresses));
        let (stranger, app) = (held("web-2")?, held("app-1")?);
        ensure!(
            app.is_some_and(|all| all.contains(&taken)),
            "app-1 has lost its address"
        );
        ensure!(
            stranger.is_some_and(|all| !all.contains(&taken) && !all.contains(&foreign)),
            "a claim is believed after all"
        );
        ensure!(
            security_events(lab)? > before,
            "no security event was counted"
        );
        Ok(())
    })
}

fn security_events(lab: &Lab) -> Result<u64> {
    #[derive(Deserialize)]
    struct Status {
        security_events: u64,
    }
    Ok(lab.operator().one::<Status>(&["status"])?.security_events)
}
