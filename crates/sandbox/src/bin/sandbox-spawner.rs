//! A spawner as a program of its own, for the tests and the bench of this crate, and a container's minder; the real ones are
//! hidden roles of `quarry`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("minder") => sandbox::bundle::main(),
        _ => sandbox::spawner::main(),
    }
}
