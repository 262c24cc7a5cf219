//! The spawner's own process.

/// Runs the spawner on the socket that is its standard input, until that is closed.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
