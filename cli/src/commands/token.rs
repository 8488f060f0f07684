//! `bulkhead token`: tokens that new hosts enrol with.

mod next_steps;

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::Result;
use clap::{Args, Subcommand};
use ipnet::IpNet;
use jiff::Timestamp;
use proto::{convert::address_from_bytes, v1::CreateTokenRequest};
use serde::Serialize;

use self::next_steps::NextSteps;

use crate::{
    args::duration,
    exit::{Failure, Outcome},
    operator::{Controller, origin},
    output::{Format, json_lines},
    time,
};

const EXAMPLES: &str = "\
Examples:
  bulkhead token create --label tier=web --label env=prod
  bulkhead token create --label tier=db --host db-1 --valid 10m > db-1.token
  bulkhead token create --label tier=lb --allow-addresses 10.1.99.0/24

The token is alone on stdout; what to do with it is on stderr.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token that enrols one host, once
    Create(Create),
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Create {
    /// A label of the host; again for each
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// A subnet whose addresses the host may claim, beside the address it connects from; again for each
    #[arg(long = "allow-addresses", value_name = "SUBNET", value_parser = subnet)]
    allow_addresses: Vec<IpNet>,
    /// The name that the host gets [default: the host's own choice]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// From where operators reach the host over SSH, whatever policy says; again for each. It goes into
    /// the configuration that is printed [default: where you are now]
    #[arg(long, value_name = "SUBNET", value_parser = subnet)]
    failsafe: Vec<IpNet>,
    /// How long the token can be used, 1m to 30d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    valid: Duration,
}

#[derive(Serialize)]
struct Created {
    token: String,
    expires: Option<Timestamp>,
    /// The configuration of the host's agent.
    agent_toml: String,
}

impl Create {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`crate::commands::run`].
    pub async fn run(&self, controller: &Controller, format: Format) -> Result<Outcome> {
        let request = self.request()?;
        let answer = controller
            .ask(
                "creating a token",
                controller.client().create_token(request),
            )
            .await?;
        let expires = time::from_unix(answer.expires_unix)?;
        let steps = NextSteps {
            controllers: controller.addresses(),
            host: self.host.as_deref(),
            failsafe: self.failsafe(&answer.caller_address)?,
            is_named: !self.failsafe.is_empty(),
            expires,
        };
        match format {
            Format::Json => json_lines([Created {
                token: answer.token,
                expires,
                agent_toml: steps.config(),
            }])?,
            Format::Table => {
                writeln!(io::stdout(), "{}", answer.token)?;
                if self.labels.is_empty() {
                    eprintln!(
                        "The host will have no labels: only segments of subnets can hold it."
                    );
                }
                eprint!("{}", steps.text());
            }
        }
        Ok(Outcome::Fine)
    }

    fn request(&self) -> Result<CreateTokenRequest, Failure> {
        let mut request = CreateTokenRequest {
            address_subnets: self
                .allow_addresses
                .iter()
                .map(|&subnet| subnet.into())
                .collect(),
            host_name: self.host.clone().unwrap_or_default(),
            valid_seconds: self.valid.as_secs(),
            ..CreateTokenRequest::default()
        };
        if !(60..=2_592_000).contains(&request.valid_seconds) {
            return Err(Failure::usage("--valid must be from 1m to 30d"));
        }
        for (key, value) in &self.labels {
            if request.labels.insert(key.clone(), value.clone()).is_some() {
                return Err(Failure::usage(format!("--label gives `{key}` twice")));
            }
        }
        Ok(request)
    }

    /// The operator's own word, or from where the operator works.
    fn failsafe(&self, caller: &[u8]) -> Result<Vec<IpNet>> {
        if !self.failsafe.is_empty() {
            return Ok(self.failsafe.clone());
        }
        let caller = match caller {
            [] => None,
            bytes => Some(address_from_bytes(bytes)?),
        };
        Ok(next_steps::failsafe_of(
            caller.into_iter().chain(origin::own_ssh()),
        ))
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("write KEY=VALUE, such as tier=web".to_owned()),
    }
}

fn subnet(text: &str) -> Result<IpNet, String> {
    let subnet: IpNet = text
        .parse()
        .map_err(|_| "write ADDRESS/LENGTH, such as 10.1.30.0/24".to_owned())?;
    if subnet.addr() == subnet.network() {
        Ok(subnet)
    } else {
        Err(format!(
            "it has bits after the prefix; did you mean {}?",
            subnet.trunc()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subnets_are_taken_strictly() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        for bad in ["", "a", "a=", "=b"] {
            assert!(label(bad).is_err(), "{bad} was accepted");
        }
        assert!(subnet("10.0.0.0/8").is_ok() && subnet("fd00::/8").is_ok());
        for bad in ["10.0.0.1", "10.0.0.1/8", "10.0.0.0/33", "x"] {
            assert!(subnet(bad).is_err(), "{bad} was accepted");
        }
    }
}
