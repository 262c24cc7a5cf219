//! The child that unpacks, as a program of its own: what the tests start, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    sandbox::unpack::main()
}
