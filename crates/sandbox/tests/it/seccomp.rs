//! What people run, under the filter of system calls: compilers that write code while they run, threads, processes, sockets.

use crate::house::{House, Keeper};
use sandbox::Status;
use std::path::Path;

/// Runs a program in each sort of house, if the machine has it.
fn check(command: &[&str], want: &str) {
    if !Path::new(command[0]).exists() {
        return;
    }
    for keeper in Keeper::all() {
        let mut house = House::new(keeper);
        let mut plan = house.plan();
        plan.limits.memory_bytes = 1 << 30;
        for ptrace in [false, true] {
            plan.ptrace = ptrace;
            let (ending, told) = house.run(&plan, &house.order(command, "0"));
            assert_eq!(ending.status, Status::Exited(0), "{keeper:?}, {command:?}: {told}");
            assert!(told.contains(want), "{keeper:?}, {command:?}: {told}");
        }
    }
}

#[test]
fn shells_and_compilers_work() {
    let script = "set -e; mkfifo /tmp/pipe; echo through > /tmp/pipe & cat /tmp/pipe; wait; \
                  printf 'int main(void) { return 7; }' > /tmp/x.c; gcc -o /tmp/x /tmp/x.c || exit 3; \
                  /tmp/x || test $? = 7; sort -R /etc/services | head -c 9 > /dev/null; echo done";
    check(&["/bin/sh", "-c", script], "through\ndone");
    check(&["/usr/bin/perl", "-e", "my $p = fork; exit 0 unless $p; wait; print 'perl', $?"], "perl0");
}

#[test]
fn python_works() {
    let script = "import threading, multiprocessing, socket, asyncio, ctypes, mmap, subprocess, signal\n\
        t = threading.Thread(target=lambda: None); t.start(); t.join()\n\
        p = multiprocessing.Pool(2); assert p.map(abs, [-1, 2]) == [1, 2]; p.close(); p.join()\n\
        s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); c.close()\n\
        asyncio.run(asyncio.sleep(0)); mmap.mmap(-1, 4096)\n\
        assert subprocess.run(['/bin/true']).returncode == 0\n\
        print('python')\n";
    check(&["/usr/bin/python3", "-c", script], "python");
}

#[test]
fn machines_that_compile_while_they_run_work() {
    let script = "let s = 0; for (let i = 0; i < 3e6; i++) s += i % 7; \
                  const { Worker } = require('worker_threads'); \
                  new Worker('require(\"worker_threads\").parentPort.postMessage(1)', { eval: true })\
                  .on('message', () => require('dns').lookup('localhost', () => console.log('node', s > 0)));";
    check(&["/usr/bin/node", "-e", script], "node true");
    check(&["/usr/bin/java", "-Xmx64m", "-version"], "");
}

#[test]
fn debuggers_are_told_no_unless_asked_for() {
    if !Path::new("/usr/bin/strace").exists() {
        return;
    }
    for keeper in Keeper::all() {
        let mut house = House::new(keeper);
        let mut plan = house.plan();
        let order = house.order(&["/usr/bin/strace", "-o", "/dev/stdout", "/bin/echo", "hello"], "0");
        let (ending, told) = house.run(&plan, &order);
        assert!(ending.status == Status::Exited(1) && told.contains("Operation not permitted"), "{told}");
        plan.ptrace = true;
        let (ending, told) = house.run(&plan, &order);
        assert!(ending.status == Status::Exited(0) && told.contains("execve("), "{told}");
    }
}
