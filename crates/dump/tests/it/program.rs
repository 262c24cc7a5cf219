//! Programs of `tests/it/programs`, built in a folder that vanishes with the test, and the cores that they leave.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A folder for programs and what is made of them.
pub(crate) struct Programs {
    folder: TempDir,
}

impl Programs {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("there is room for a folder") }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Builds a program with a compiler and its options.
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

/// One program, in a folder of its own.
pub(crate) struct Program {
    programs: Programs,
    pub(crate) path: PathBuf,
}

impl Program {
    /// Builds a program with the usual compiler of its language.
    pub(crate) fn compile(source: &str, options: &[&str]) -> Self {
        let (name, language) = source.rsplit_once('.').expect("sources have names");
        let compiler = match language {
            "rs" => "rustc",
            "cpp" => "g++",
            _ => "gcc",
        };
        let programs = Programs::new();
        let path = programs.build(compiler, source, name, options);
        Self { programs, path }
    }

    /// Runs it until it crashes, and returns the core that the kernel or, where it keeps cores elsewhere, `gdb` makes.
    pub(crate) fn crash(&self, arguments: &[&str]) -> PathBuf {
        let (folder, core) = (self.programs.folder(), self.programs.path("core"));
        let _ = fs::remove_file(&core);
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
        if pattern.trim() == "core" {
            let script = "ulimit -c unlimited; exec \"$0\" \"$@\"";
            let mut command = Command::new("bash");
            command.args(["-c", script]).arg(&self.path).args(arguments);
            command.env("QUARRY_TEST", "kept").current_dir(folder);
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("bash is there");
            let with_number =
                || fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).find(|path| is_core(path));
            if !core.exists() {
                let left = with_number().unwrap_or_else(|| panic!("{arguments:?} left no core"));
                fs::rename(left, &core).expect("a name can be changed");
            }
        } else {
            let dump = format!("generate-core-file {}", core.display());
            let mut command = Command::new("gdb");
            command.args(["-nx", "-batch", "-ex", "set environment QUARRY_TEST kept", "-ex", "run", "-ex", &dump]);
            command.arg("--args").arg(&self.path).args(arguments).current_dir(folder);
            run(command.stdin(Stdio::null()));
        }
        core
    }
}

fn is_core(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("core."))
}

/// Runs a command that must succeed, and returns what it wrote.
pub(crate) fn run(command: &mut Command) -> String {
    command.env("DEBUGINFOD_URLS", "");
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

/// Runs a program with these arguments, which must succeed.
pub(crate) fn call<I: AsRef<OsStr>>(program: &str, arguments: &[I]) -> String {
    run(Command::new(program).args(arguments))
}
