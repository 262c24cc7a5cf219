//! Programs that are built once per run of the tests, in a folder that vanishes with it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A folder of programs.
pub(crate) struct Programs {
    folder: TempDir,
}

impl Programs {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Builds a program of `tests/it/programs` with a compiler and its options.
    pub(crate) fn build(&self, compiler: &str, source: &str, name: &str, options: &[&str]) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/programs").join(source);
        let out = self.path(name);
        run(Command::new(compiler).args(options).arg("-o").arg(&out).arg(source));
        out
    }

    /// The C++ program, with all that its debug information can tell.
    pub(crate) fn inlines(&self, name: &str) -> PathBuf {
        self.build("g++", "inlines.cpp", name, &["-O2", "-g", "-Wl,--build-id=sha1"])
    }

    /// The small library.
    pub(crate) fn small(&self, name: &str) -> PathBuf {
        self.build("gcc", "small.c", name, &["-O2", "-g", "-shared", "-fPIC", "-nostdlib", "-Wl,--build-id=sha1"])
    }
}

/// Runs a command that must succeed, and returns what it prints.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program with these arguments, which must succeed.
pub(crate) fn call<I: AsRef<OsStr>>(program: &str, arguments: &[I]) -> String {
    run(Command::new(program).args(arguments))
}
