//! Cores of programs that die in a sandbox, and programs that look at themselves as debuggers do.

use crate::house::{House, Keeper, compile, shown};
use sandbox::{Core, Status};
use std::io::Read;
use std::process::Command;

const CRASH: &str = "#include <pthread.h>\n#include <stdlib.h>\n#include <sys/wait.h>\n#include <unistd.h>\n\
    static int third(volatile int *where) { return *where; }\n\
    static int second(long depth) { return third((int *)(depth - 7)) + 1; }\n\
    int main(int count, char **words) {\n\
      if (words[1][0] == 'c') { pid_t c = fork(); if (!c) return second(7); waitpid(c, 0, 0); return 0; }\n\
      if (words[1][0] == 'a') abort();\n\
      return second(7) + 1; }\n";

/// Runs the program that crashes, and returns its status and its core.
fn crash(keeper: Keeper, user: &str, word: &str, ptrace: bool, core_bytes: u64) -> (Status, Option<Core>) {
    let folder = tempfile::tempdir().unwrap();
    compile(folder.path(), "crash", CRASH, &["-O0"]);
    let mut house = House::new(keeper);
    let mut plan = house.plan();
    plan.binds.push(shown(folder.path(), "/ground"));
    plan.ptrace = ptrace;
    plan.limits.core_bytes = core_bytes;
    let order = house.order(&["/ground/crash", word], user);
    let (mut ending, told) = house.run(&plan, &order);
    assert_eq!(told, "");
    let Some(mut core) = ending.core.take() else { return (ending.status, None) };
    let mut bytes = Vec::new();
    core.file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, core.bytes);
    let path = folder.path().join("core");
    std::fs::write(&path, &bytes).unwrap();
    if !core.is_truncated && word != "abort" {
        let program = folder.path().join("crash");
        let told = Command::new("gdb").args(["-nx", "-batch", "-ex", "bt"]).arg(program).arg(&path).output().unwrap();
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains("third (where=0x0)") && told.contains("second (depth=7)"), "{told}");
    }
    (ending.status, Some(core))
}

#[test]
fn what_dies_leaves_its_core() {
    for keeper in Keeper::all() {
        let users: &[&str] = if keeper == Keeper::Root { &["0", "1000"] } else { &["0"] };
        for user in users {
            let (status, core) = crash(keeper, user, "segv", false, 64 << 20);
            let core = core.expect("it leaves a core");
            assert_eq!(status, Status::Signalled(libc::SIGSEGV), "{keeper:?}, {user}");
            assert_eq!((core.signal, core.program.as_str(), core.is_truncated), (libc::SIGSEGV, "crash", false));
            let (status, core) = crash(keeper, user, "child", false, 64 << 20);
            assert_eq!((status, core.expect("its child leaves a core").signal), (Status::Exited(0), libc::SIGSEGV));
        }
        let (status, core) = crash(keeper, "0", "abort", false, 64 << 20);
        assert_eq!((status, core.expect("it leaves a core").signal), (Status::Signalled(libc::SIGABRT), libc::SIGABRT));
        let (status, core) = crash(keeper, "0", "segv", false, 0);
        assert!(status == Status::Signalled(libc::SIGSEGV) && core.is_none(), "none was wanted");
    }
}

#[test]
fn sanitizers_and_debuggers_work_inside() {
    let folder = tempfile::tempdir().unwrap();
    let leaky = "#include <stdlib.h>\nvoid *kept; int main(int count, char **words) \
                 { kept = malloc(7); if (count > 1) kept = 0; return 0; }\n";
    compile(folder.path(), "leaky", leaky, &["-fsanitize=address"]);
    compile(folder.path(), "crash", CRASH, &["-O0"]);
    for keeper in Keeper::all() {
        let mut house = House::new(keeper);
        let mut plan = house.plan();
        plan.binds.push(shown(folder.path(), "/ground"));
        for ptrace in [false, true] {
            plan.ptrace = ptrace;
            let (ending, told) = house.run(&plan, &house.order(&["/ground/leaky"], "0"));
            assert_eq!((ending.status, told.as_str()), (Status::Exited(0), ""), "{keeper:?}");
            let (ending, told) = house.run(&plan, &house.order(&["/ground/leaky", "now"], "0"));
            assert!(ending.status == Status::Exited(1) && told.contains("detected memory leaks"), "{told}");
        }
        let words = ["gdb", "-nx", "-batch", "-ex", "run", "-ex", "bt", "--args", "/ground/crash", "segv"];
        let (_, told) = house.run(&plan, &house.order(&words, "0"));
        assert!(told.contains("third (where=0x0)"), "{told}");
    }
}
