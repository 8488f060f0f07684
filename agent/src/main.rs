//! `bulkhead-agent`: policy in, kernel maps out, denials back.

use std::process::ExitCode;

use bulkhead_agent::with_causes;

fn main() -> ExitCode {
    bulkhead_agent::main().unwrap_or_else(|error| {
        eprintln!("bulkhead-agent: {}", with_causes(&error));
        error.exit_code()
    })
}
