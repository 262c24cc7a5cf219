//! Texts that programs, runtimes, sanitizers, debuggers and kernels printed, as reports and as signatures.
//!
//! The samples in `data` were printed by programs of our own; those of Go, of MemorySanitizer and of some kernels are
//! written by the format, since neither is here.

use dump::signature::{Rules, stack};
use dump::{Places, analyse};
use model::report::{DumpKind, MAX_FRAMES, NoteCode, Report, Trust};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data")
}

fn told(name: &str) -> Report {
    analyse(&folder().join(name), &Places::default())
}

/// Checks the kind, the class, the address, how the message begins, and the first frames as `function:line`.
fn check(name: &str, kind: DumpKind, class: &str, message: &str, frames: &[&str], threads: usize) -> Report {
    let report = told(name);
    assert_eq!(report.kind, kind, "{name}");
    let crash = report.crash.as_ref().unwrap_or_else(|| panic!("{name} has no crash"));
    assert_eq!(crash.class, class, "{name}");
    let said = crash.message.as_deref().unwrap_or_default();
    assert!(said.starts_with(message), "{name}: {said}");
    assert!(!crash.reasons.is_empty(), "{name}");
    let thread = report.crashed().unwrap_or_else(|| panic!("{name} has no thread"));
    let found: Vec<String> = thread
        .frames
        .iter()
        .take(frames.len())
        .map(|frame| format!("{}:{}", frame.function.as_deref().unwrap_or("?"), frame.line.unwrap_or(0)))
        .collect();
    assert_eq!(found, frames, "{name}");
    assert!(thread.frames.iter().all(|frame| frame.trust == Trust::Told), "{name}");
    assert_eq!(report.threads.len(), threads, "{name}");
    report
}

#[test]
fn sanitizers_are_read() {
    let sanitizer = DumpKind::Sanitizer;
    let report = check(
        "asan_uaf.txt",
        sanitizer,
        "heap_use_after_free",
        "heap-use-after-free on address 0x602000000010",
        &["read_node:8", "main:16"],
        3,
    );
    assert_eq!(report.threads[1].name.as_deref(), Some("freed by thread T0 here"));
    assert_eq!(report.threads[1].frames[1].function.as_deref(), Some("drop_node"));
    assert_eq!(report.threads[2].frames[1].function.as_deref(), Some("make_node"));
    assert_eq!(report.process.unwrap().pid, Some(7010));
    assert_eq!(report.crash.unwrap().address.unwrap().0, 0x6020_0000_0010);
    let last = &report.threads[0].frames[4];
    assert_eq!((last.module_name.as_deref(), last.offset.unwrap().0), (Some("/src/gasan"), 0x21b0));
    check("asan_heap.txt", sanitizer, "heap_buffer_overflow", "heap-buffer", &["fill:9"], 2);
    check("asan_stack.txt", sanitizer, "stack_buffer_overflow", "stack-buffer", &["fill:9"], 2);
    check("asan_global.txt", sanitizer, "global_buffer_overflow", "global-buffer", &["main:19"], 1);
    check("asan_double.txt", sanitizer, "double_free", "attempting", &["__interceptor_free:52", "drop_node:7"], 3);
    check("asan_badfree.txt", sanitizer, "invalid_free", "attempting free", &["__interceptor_free:52", "main:30"], 1);
    let null = check("asan_null.txt", sanitizer, "null_read", "SEGV on unknown address", &["read_node:8"], 1);
    assert_eq!(null.signal.unwrap().name, "SIGSEGV");
    check("asan_wild.txt", sanitizer, "wild_read", "SEGV on unknown address", &["read_node:8"], 1);
    check("asan_deep.txt", sanitizer, "stack_overflow", "stack-overflow", &["deep:11", "deep:11"], 1);
    check("asan_leak.txt", sanitizer, "leak", "detected", &["__interceptor_malloc:69", "make_node:6"], 2);
    check("asan_oom.txt", sanitizer, "allocation_size_too_big", "requested", &["__interceptor_malloc:69"], 1);
    check("asan_param.txt", sanitizer, "memcpy_param_overlap", "memcpy", &["__interceptor_memcpy:827"], 3);
    check("lsan_leak.txt", sanitizer, "leak", "detected", &["__interceptor_malloc:75", "make_node:6"], 2);
    check("msan.txt", sanitizer, "use_of_uninitialized_value", "use-of", &["main:27"], 2);
    let race = check("tsan_race.txt", sanitizer, "data_race", "data race", &["bump:13"], 4);
    assert_eq!((race.threads[0].id, race.threads[1].id), (2, 1));
    check("ubsan_plain.txt", sanitizer, "integer_overflow", "signed integer overflow", &["?:28"], 1);
    let stack = check("ubsan_stack.txt", sanitizer, "integer_overflow", "signed", &["main:28"], 1);
    assert_eq!(stack.threads[0].frames[0].column, Some(56));
}

#[test]
fn panics_and_exceptions_are_read() {
    let traceback = DumpKind::Traceback;
    check("rust_index.txt", traceback, "panic", "index out of bounds", &["__rustc::rust_begin_unwind:689"], 1);
    let rust = check(
        "rust_thread.txt",
        traceback,
        "panic",
        "assertion `left == right` failed: sums are off\n  left: 2",
        &[],
        1,
    );
    assert_eq!((rust.threads[0].name.as_deref(), rust.threads[0].id), (Some("worker-7"), 6434));
    assert_eq!(rust.threads[0].frames.len(), 33);
    check("rust_old.txt", traceback, "panic", "called `Option::unwrap()` on a `None` value", &["?:7"], 1);
    check("rust_deep.txt", traceback, "stack_overflow", "", &[], 1);
    let go = check(
        "go_panic.txt",
        traceback,
        "panic",
        "runtime error: index out of range [5] with length 3",
        &["main.main.func1:11", "panic:770", "main.(*Table).row:9", "main.load:21", "main.main:14"],
        2,
    );
    assert_eq!((go.threads[1].id, go.threads[1].frames.len()), (18, 1));
    let elided = "goroutine stack exceeds 1000000000-byte limit\nfatal error: stack overflow\n\n\
                  goroutine 1 [running]:\nmain.deep(0x1)\n\t/src/main.go:5 +0x1d\n...900 frames elided...\n\
                  main.main()\n\t/src/main.go:9 +0x1d\n";
    let folder = tempfile::tempdir().unwrap();
    let elided = analyse_text(&folder.path().join("text"), elided);
    let numbers: Vec<_> = elided.threads[0].numbered().map(|(number, _)| number).collect();
    assert_eq!(numbers, [0, 901]);
    let nil = check("go_nil.txt", traceback, "null_access", "runtime error: invalid", &["main.(*Node).next:12"], 1);
    assert_eq!(nil.signal.unwrap().address.unwrap().0, 8);
    check("go_deadlock.txt", traceback, "deadlock", "all goroutines", &["main.main:5"], 1);
    check("go_race.txt", DumpKind::Sanitizer, "data_race", "Write at", &["main.bump:9", "main.main.func1:15"], 3);
    let java = check(
        "java_chain.txt",
        traceback,
        "exception",
        "java.lang.NumberFormatException: For input string: \"abc\"",
        &[
            "java.lang.NumberFormatException.forInputString:67",
            "java.lang.Integer.parseInt:668",
            "java.lang.Integer.parseInt:786",
            "Main.parse:3",
            "Main.load:4",
            "Main.main:8",
        ],
        3,
    );
    assert_eq!(java.threads[1].name.as_deref(), Some("wrapped in: Main$Gone: cannot load `abc`"));
    assert_eq!(java.threads[2].name.as_deref(), Some("suppressed: java.io.IOException: close failed"));
    check("java_null.txt", traceback, "exception", "java.lang.NullPointerException: Cannot", &["Main.main:9"], 1);
    let second = "java.lang.IllegalArgumentException: second";
    let circle = check("java_circular.txt", traceback, "exception", second, &["Loop.circle:5", "Loop.main:9"], 2);
    let said: Vec<_> = circle.notes.iter().map(|note| note.text.as_str()).collect();
    assert_eq!(said, ["the causes go in a circle, back to java.lang.IllegalStateException: first"]);
    let nested = check("java_nested.txt", traceback, "exception", "java.io.IOException: disk", &["Loop.read:3"], 5);
    let others: Vec<_> = nested.threads[1..].iter().filter_map(|thread| thread.name.as_deref()).collect();
    assert_eq!(
        others,
        [
            "wrapped in: java.lang.RuntimeException: outer",
            "wrapped in: Loop$Step: cannot load",
            "suppressed: java.lang.IllegalStateException: close failed",
            "suppressed: java.lang.RuntimeException: inner",
        ]
    );
    // What they have in common with what they were thrown in is printed once.
    assert_eq!(nested.threads.iter().map(|thread| thread.frames.len()).collect::<Vec<_>>(), [3, 1, 2, 2, 2]);
    check("java_deep.txt", traceback, "stack_overflow", "java.lang.StackOverflowError", &["Main.deep:5"], 1);
    let thread = check("java_thread.txt", traceback, "exception", "java.lang.NumberFormat", &[], 3);
    assert_eq!(thread.threads[0].name.as_deref(), Some("worker-3"));
    check("python_plain.txt", traceback, "exception", "json.decoder.JSONDecodeError: Exp", &["raw_decode:353"], 1);
    check("python_chain.txt", traceback, "exception", "KeyError: 'missing'", &["again:14"], 3);
    check("python_deep.txt", traceback, "exception", "RecursionError", &["deep:16", "deep:16"], 1);
    check("python_syntax.txt", traceback, "exception", "SyntaxError: '(' was", &["?:1", "syn:18"], 1);
    check("python_group.txt", traceback, "exception", "ExceptionGroup: several", &["<genexpr>:19"], 1);
    check("python_fatal.txt", traceback, "wild_access", "Segmentation fault", &["scan:12"], 2);
    check("python_bare.txt", traceback, "exception", "SyntaxError: '(' was never closed", &["?:1"], 1);
    check("gdb.txt", traceback, "wild_access", "Program received signal SIGSEGV", &["fail:2", "main:3"], 1);
    let lldb = check("lldb.txt", traceback, "null_access", "thread #1", &["fail:2"], 1);
    assert_eq!(lldb.threads[0].frames[0].module_name.as_deref(), Some("t"));
}

#[test]
fn what_a_log_puts_before_every_line_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    let told = |text: &str| {
        let report = analyse_text(&path, text);
        let crash = report.crash.map(|crash| (crash.class, crash.message, crash.reasons));
        (report.kind, crash, report.threads, report.notes)
    };
    let names = fs::read_dir(self::folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let speakers = ["python_", "java_", "node_", "asan_", "rust_", "go_"];
    let is_meant = |name: &String| speakers.iter().any(|start| name.starts_with(start));
    // Nothing of these has a frame that says who speaks.
    let bare = ["python_bare.txt", "node_heap.txt", "node_thrown.txt", "rust_deep.txt", "rust_old.txt"];
    let is_bare = |name: &String| bare.contains(&name.as_str());
    for name in names.filter(is_meant).filter(|name| !is_bare(name)) {
        let sample = fs::read_to_string(self::folder().join(&name)).unwrap();
        let expected = told(&sample);
        let logs: [fn(usize, &str) -> String; 6] = [
            |_, line| format!("app[123]: {line}"),
            |at, line| format!("2026-11-22 10:00:00.{:03} INFO 4711 --- [main] : {line}", at % 1000),
            |at, line| format!("2026-11-22T10:00:{:02}.{at}Z stderr F {line}", at % 60),
            |_, line| format!("web-1  | {line}").trim_end().to_owned(),
            |at, line| format!("[{:5}.{at:06}] app[7]: {line}", at / 10),
            |at, line| format!("Nov 22 10:00:{:02} host app[12]: {}", at % 60, line.replace('\t', "#011")),
        ];
        // How syslog writes a tab is only known where Java's frames begin.
        let known = if name.starts_with("go_") { &logs[..5] } else { &logs };
        for log in known {
            let lines: Vec<String> = sample.lines().enumerate().map(|(at, line)| log(at, line)).collect();
            assert_eq!(told(&lines.join("\n")), expected, "{name}: {}", lines[0]);
        }
        // Another container speaks between each two lines.
        let mixed = sample.lines().map(|line| format!("web-1  | {line}\ndb-1   | checkpoint complete\n"));
        assert_eq!(told(&mixed.collect::<String>()), expected, "{name}");
    }
}

#[test]
fn long_tracebacks_of_python_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    let frame = |line: usize, function: &str| {
        format!("  File \"/src/many.py\", line {line}, in {function}\n    {function}(n - 1)\n")
    };
    let begin = "Traceback (most recent call last):\n";
    let wrapper = format!(
        "\nThe above exception was the direct cause of the following exception:\n\n{begin}{}RuntimeError: cannot load\n",
        frame(13, "load")
    );
    let calls = |count: usize| (0..count).map(|at| frame(at % 7, ["even", "odd"][at % 2])).collect::<String>();
    let check = |text: &str, frames: (usize, u64), is_broken: bool| {
        let report = analyse_text(&path, text);
        let thread = report.crashed().unwrap();
        assert_eq!((thread.frames.len(), thread.frames_cut), frames);
        assert_eq!(thread.gap(), (frames.1 > 0).then_some((960, frames.1)));
        assert_eq!(thread.numbered().last().map(|(number, _)| number), Some(frames.0 as u64 + frames.1 - 1));
        assert_eq!(thread.broken.is_some(), is_broken);
        let names: Vec<_> = report.threads[1..].iter().filter_map(|thread| thread.name.as_deref()).collect();
        assert_eq!(names, ["wrapped in: RuntimeError: cannot load"]);
        assert_eq!(report.crash.unwrap().message.as_deref(), Some("ValueError: bottom\nof it"));
    };
    let end = "ValueError: bottom\nof it\n";
    check(&format!("{begin}{}{end}{wrapper}", calls(1500)), (1024, 476), false);
    // As many as the interpreter tells by itself; there may have been more.
    check(&format!("{begin}{}{end}{wrapper}", calls(1000)), (1000, 0), true);
    let repeated = |count: usize| calls(3) + &format!("  [Previous line repeated {count} more times]\n") + &calls(1);
    check(&format!("{begin}{}{end}{wrapper}", repeated(40)), (44, 0), false);
    check(&format!("{begin}{}{end}{wrapper}", repeated(4_000)), (1024, 2980), false);
    // What a log says next is no part of what was said.
    let next = "2026-11-22 10:00:01 served in 3 ms\n";
    check(&format!("{begin}{}{end}{wrapper}{next}", calls(2)), (2, 0), false);
    let report = analyse_text(&path, &format!("{begin}{}KeyError: 'x'\n{next}[INFO] and on\n", calls(2)));
    assert_eq!(report.crash.unwrap().message.as_deref(), Some("KeyError: 'x'"));
}

#[test]
fn errors_of_javascript_are_read() {
    let traceback = DumpKind::Traceback;
    let check = |name: &str, class: &str, message: &str, frames: &[&str], threads: &[&str]| {
        let report = check(name, traceback, class, message, frames, threads.len() + 1);
        let names: Vec<_> =
            report.threads[1..].iter().map(|thread| thread.name.as_deref().unwrap_or_default()).collect();
        assert_eq!(names, threads, "{name}");
        report
    };
    let nested = check(
        "node_nested.txt",
        "exception",
        "TypeError: Cannot read properties of undefined (reading 'name')",
        &["Table.row:5", "?:9", "Array.map:0", "load:9", "main:12", "Object.<anonymous>:14", "Module._compile:1521"],
        &[],
    );
    assert_eq!((nested.threads[0].frames[0].column, nested.threads[0].frames.len()), (Some(26), 10));
    assert!(nested.notes.iter().any(|note| note.text == "Node.js v20.20.2"), "{:?}", nested.notes);
    check("node_async.txt", "exception", "RangeError: row 17", &["fetchRow:4", "loadAll:7", "main:10"], &[]);
    let cause = check(
        "node_cause.txt",
        "exception",
        "Error: ENOENT: no such file or directory",
        &["readFileSync:448", "readState:3", "start:7", "?:12", "ModuleJob.run:325"],
        &["wrapped in: Error: cannot start"],
    );
    assert_eq!(cause.threads[0].frames[1].file.as_deref(), Some("/src/cause.mjs"));
    // What both have in common is printed once.
    let lines: Vec<_> = cause.threads[1].frames.iter().map(|frame| frame.line).collect();
    assert_eq!(lines, [9, 12, 325, 606, 117].map(Some));
    let wrappers = ["wrapped in: DbError: query failed", "wrapped in: Error: connection reset"];
    let causes = check("node_causes.txt", "exception", "TypeError: socket is null", &["query:3", "?:4"], &wrappers);
    assert_eq!(causes.threads[1].frames.len(), 5);
    let class = ["new Socket:4", "new Server:13", "Object.<anonymous>:16"];
    check("node_class.txt", "exception", "TypeError: port 70000 is out of range", &class, &[]);
    let all = ["wrapped in: AggregateError: All promises were rejected", "beside: Error: no answer from b"];
    check("node_aggregate.txt", "exception", "Error: no answer from a", &["ask:2", "first:5", "?:7"], &all);
    check("node_thrown.txt", "exception", "just words", &["?:1"], &[]);
    check("node_assert.txt", "assert", "AssertionError [ERR_ASSERTION]: Expected values", &["check:2"], &[]);
    check("node_deep.txt", "stack_overflow", "RangeError: Maximum call stack", &["deep:1", "deep:1"], &[]);
    check("node_syntax.txt", "exception", "SyntaxError: Unexpected number", &["?:2", "wrapSafe:1464"], &[]);
    let emitted = ["Emitted 'error' event at"];
    check("node_emitted.txt", "exception", "Error: lost the line\nand more of it", &["Immediate.run:3"], &emitted);
    check("node_logged.txt", "exception", "TypeError: Cannot read", &["Object.go:2", "Timeout._onTimeout:3"], &[]);
    let heap = check("node_heap.txt", "out_of_memory", "Reached heap limit Allocation failed", &[], &[]);
    assert_eq!((heap.threads[0].frames.len(), heap.process.unwrap().pid.is_some()), (10, true));
    let first = &heap.threads[0].frames[0];
    assert_eq!(first.function.as_deref(), Some("node::OOMErrorHandler(char const*, v8::OOMDetails const&)"));
    assert_eq!(first.module_name.as_deref(), Some("node"));
}

#[test]
fn kernels_are_read() {
    let kernel = DumpKind::Kernel;
    let console = check(
        "kernel_console.txt",
        kernel,
        "kernel_panic",
        "Kernel panic - not syncing: sysrq triggered crash",
        &["dump_stack_lvl:0", "panic:0", "sysrq_handle_crash:0", "__handle_sysrq.cold:0"],
        1,
    );
    assert_eq!(console.process.unwrap().name.as_deref(), Some("busybox"));
    assert_eq!(console.machine.release.as_deref(), Some("6.1.0-56-cloud-amd64"));
    let null = check(
        "kernel_null.txt",
        kernel,
        "null_deref",
        "BUG: kernel NULL",
        &["ext4_put_super:0", "generic_shutdown_super:0"],
        1,
    );
    assert_eq!(null.crash.unwrap().address.unwrap().0, 0x18);
    assert_eq!(null.threads[0].registers["rbx"].0, 0xffff_9d6a_44a2_0000);
    assert_eq!(null.threads[0].frames[0].module_name.as_deref(), Some("ext4"));
    assert_eq!(null.kernel.unwrap().panic.as_deref(), Some("Kernel panic - not syncing: Fatal exception"));
    let kasan = check("kernel_kasan.txt", kernel, "kasan_use_after_free", "BUG: KASAN", &["__dump_stack:88"], 3);
    assert_eq!(kasan.threads[2].name.as_deref(), Some("Freed by task 710"));
    check("kernel_arm.txt", kernel, "null_deref", "Unable to handle", &["drain_queue:0", "worker_thread:0"], 1);
}

#[test]
fn signatures_name_the_place_in_the_program() {
    for (name, expected) in [
        ("asan_uaf.txt", "heap_use_after_free | read_node"),
        ("asan_double.txt", "double_free | drop_node"),
        ("asan_leak.txt", "leak | make_node"),
        ("tsan_race.txt", "data_race | bump"),
        ("ubsan_stack.txt", "integer_overflow | main @ubsan"),
        ("go_panic.txt", "panic | runtime error: index out of range [#] with length # | main.(*Table).row"),
        ("rust_index.txt", "panic | index out of bounds: the len is # but the index is # | panics::pick"),
        ("java_chain.txt", "exception | java.lang.NumberFormatException: For input string: \"…\" | Main.parse"),
        ("java_deep.txt", "stack_overflow | Main.deep"),
        ("python_chain.txt", "exception | KeyError: '…' | p.again"),
        ("python_bare.txt", "exception | SyntaxError: '…' was never closed | x.py:1"),
        ("node_nested.txt", "exception | TypeError: Cannot read properties of undefined (reading '…') | Table.row"),
        ("node_async.txt", "exception | RangeError: row # is not there | fetchRow"),
        ("node_class.txt", "exception | TypeError: port # is out of range | Socket"),
        ("node_causes.txt", "exception | TypeError: socket is null | query"),
        ("node_thrown.txt", "exception | just words | plain.js:1"),
        ("node_syntax.txt", "exception | SyntaxError: Unexpected number | syntax.js:2"),
        ("node_deep.txt", "stack_overflow | deep"),
        ("node_heap.txt", "out_of_memory | node::OOMErrorHandler"),
        ("kernel_null.txt", "null_deref | ext4_put_super"),
        ("kernel_kasan.txt", "kasan_use_after_free | nft_set_destroy"),
        ("kernel_console.txt", "kernel_panic | Kernel panic - not syncing: sysrq triggered crash | proc_reg_write"),
    ] {
        let signed = Rules::builtin().sign(&stack(&told(name)));
        assert_eq!(signed.signature.text, expected, "{name}");
    }
}

#[test]
fn what_is_no_report_is_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["dear diary\n", "", "int main(void) { return 0; }\n", "at once (soon)\n", "#1 of many\n#2 of many\n"] {
        let path = folder.path().join("text");
        fs::write(&path, text).unwrap();
        assert_eq!(analyse(&path, &Places::default()).kind, DumpKind::Unknown, "{text}");
    }
}

#[test]
fn words_that_others_say_too_are_not_misread() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    // A server in Go, of a request; its stack follows.
    let go = "2026/11/22 10:00:00 http: panic serving 127.0.0.1:1234: runtime error: index out of range [5] with length 3\n\
              goroutine 7 [running]:\nmain.serve(0x1)\n\t/src/main.go:12 +0x1d\n";
    let report = analyse_text(&path, go);
    assert_ne!(report.crash.map(|crash| crash.class).as_deref(), Some("undefined_behavior"));
    // A call of nothing: what stands in the program comes behind it.
    let null = "==7==ERROR: AddressSanitizer: SEGV on unknown address 0x000000000000 (pc 0x000000000000 T0)\n\
                ==7==Hint: pc points to the zero page.\n    #0 0x0  (<unknown module>)\n    #1 0x4f in main /src/n.cpp:5:3\n";
    let report = analyse_text(&path, null);
    let frames = &report.crashed().unwrap().frames;
    assert_eq!((frames[0].function.as_deref(), frames[1].function.as_deref()), (None, Some("main")));
    // A panic of the old form, of which nothing but a quote is left.
    analyse_text(&path, "thread 'main' panicked at ', src/main.rs:3:4\nnote: run with `RUST_BACKTRACE=1`\n");
}

#[test]
fn long_texts_are_bounded_and_quick() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    let samples: Vec<String> =
        fs::read_dir(self::folder()).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    for sample in samples {
        let lines: Vec<&str> = sample.lines().collect();
        let middle = lines.len() / 2;
        let text =
            lines[..middle].join("\n") + &format!("\n{}", lines[middle]).repeat(150_000) + &lines[middle..].join("\n");
        fs::write(&path, &text).unwrap();
        let start = Instant::now();
        let report = analyse(&path, &Places::default());
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}: {}", start.elapsed(), &sample[..80]);
        assert!(report.threads.iter().all(|thread| thread.frames.len() <= MAX_FRAMES));
    }
}

#[test]
fn a_crash_at_the_end_of_a_long_log_is_told() {
    let sample = fs::read_to_string(folder().join("asan_uaf.txt")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    let check = |text: &str, is_told: bool, notes: &[&str]| {
        let report = analyse_text(&path, text);
        let class = report.crash.as_ref().map(|crash| crash.class.as_str());
        assert_eq!(class, is_told.then_some("heap_use_after_free"), "{} bytes", text.len());
        let cuts = report.notes.iter().filter(|note| note.code == NoteCode::Cut).map(|note| note.text.as_str());
        assert_eq!(cuts.collect::<Vec<_>>(), notes);
        assert!(!is_told || report.crashed().unwrap().frames[0].function.as_deref() == Some("read_node"));
    };
    let logged = |lines: usize| "12:00:01 served in 3 ms\n".repeat(lines);
    // Many short lines: all of them are read, and then all but the middle.
    check(&(logged(250_000) + &sample), true, &[]);
    let (long, lines) = (logged(600_000) + &sample, sample.lines().count());
    let all = long.len();
    let left_out = (600_000 - 200_000 - (200_000 - lines)) * 24;
    let note = format!("the middle of the text was not looked at: {left_out} of its {all} bytes");
    check(&long, true, &[&note]);
    // What stands at the beginning is told as ever, and what stands in the middle is not.
    check(&(sample.clone() + &logged(600_000)), true, &[&note]);
    check(&(logged(300_000) + &sample + &logged(300_000)), false, &[]);
    // Long lines, and one that never ends.
    for log in [("x".repeat(1_000) + "\n").repeat(20_000), "x".repeat(20 << 20) + "\n"] {
        let report = analyse_text(&path, &(log + &sample));
        assert_eq!(report.crash.unwrap().class, "heap_use_after_free");
    }
}

fn analyse_text(path: &Path, text: &str) -> Report {
    fs::write(path, text).unwrap();
    analyse(path, &Places::default())
}

fn samples() -> impl Strategy<Value = Vec<u8>> {
    let all: Vec<Vec<u8>> =
        fs::read_dir(folder()).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    prop::sample::select(all)
}

/// A change to a sample: what is taken away, what comes in its place, and how often.
type Change = (prop::sample::Index, u16, Vec<u8>);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_texts_break_nothing(
        sample in samples(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_u16..80, prop::collection::vec(prop::sample::select(&b"#0x +()[]{}:'\"<>\n\t,./=at19"[..]), 0..6)), 1..12),
    ) {
        let mut text = sample;
        for (at, gone, come) in &changes as &Vec<Change> {
            if text.is_empty() {
                break;
            }
            let at = at.index(text.len());
            let end = text.len().min(at + usize::from(*gone));
            text.splice(at..end, come.iter().copied());
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &text).unwrap();
        let report = analyse(file.path(), &Places::default());
        prop_assert!(serde_json::to_vec(&report).unwrap().len() < 64 << 20);
    }
}
