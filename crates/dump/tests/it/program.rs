//! Programs that crash, compiled once for each process of tests, and the cores they leave.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A program, and the folder that goes with it.
pub(crate) struct Program {
    folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl Program {
    /// Compiles one of `tests/it/programs`.
    pub(crate) fn compile(source: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/programs").join(source);
        let path = folder.path().join(source.file_stem().expect("sources have names"));
        let compiler = match source.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => "rustc",
            Some("cpp") => "g++",
            _ => "gcc",
        };
        run(Command::new(compiler).args(flags).arg(&source).arg("-o").arg(&path));
        Self { folder, path }
    }

    /// Runs it until it crashes, and returns the core that the kernel or, where it keeps cores elsewhere, `gdb` makes.
    pub(crate) fn crash(&self, arguments: &[&str]) -> PathBuf {
        let core = self.folder.path().join("core");
        let _ = fs::remove_file(&core);
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
        if pattern.trim() == "core" {
            let script = "ulimit -c unlimited; exec \"$0\" \"$@\"";
            let mut command = Command::new("bash");
            command.args(["-c", script]).arg(&self.path).args(arguments);
            command.env("QUARRY_TEST", "kept").current_dir(self.folder.path());
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("bash is there");
            let with_number = || {
                fs::read_dir(self.folder.path()).ok()?.flatten().map(|entry| entry.path()).find(|path| is_core(path))
            };
            if !core.exists() {
                let left = with_number().unwrap_or_else(|| panic!("{arguments:?} left no core"));
                fs::rename(left, &core).expect("a name can be changed");
            }
        } else {
            let dump = format!("generate-core-file {}", core.display());
            let mut command = Command::new("gdb");
            command.args(["-nx", "-batch", "-ex", "set environment QUARRY_TEST kept", "-ex", "run", "-ex", &dump]);
            command.arg("--args").arg(&self.path).args(arguments).current_dir(self.folder.path());
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
