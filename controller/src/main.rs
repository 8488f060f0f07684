//! `bulkhead-controller`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_controller::cli::main()
}
