//! Prints the report of a dump: `cargo run -p dump --example report -- DUMP '{"roots":["/"]}'`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    dump::main(&arguments)
}
