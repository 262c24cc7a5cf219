//! A spawner as a program of its own, for the tests and the bench of this crate; the real one is a hidden role of `quarry`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    sandbox::spawner::main()
}
