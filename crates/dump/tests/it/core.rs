//! Cores of real programs: their stacks are `eu-stack`'s and `gdb`'s, their crashes are called what they are, and cut short
//! or damaged they are read as far as they go.

use crate::program::{Program, run};
use dump::{Places, analyse, findings, quick_id};
use model::report::{DumpKind, MAX_TAIL_FRAMES, Report, Severity, Thread, Trust};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

fn here() -> Places {
    Places { roots: vec!["/".into()], debug: vec!["/usr/lib/debug".into()], ..Places::default() }
}

/// Addresses of the frames that have one of their own.
fn addresses(thread: &Thread) -> Vec<u64> {
    let own = thread.frames.iter().filter(|frame| frame.trust != Trust::Inline);
    own.filter_map(|frame| frame.address).map(|address| address.0).collect()
}

fn signature(report: &Report) -> String {
    findings(report).signature.expect("what can be read is signed").text
}

fn functions(thread: &Thread) -> Vec<&str> {
    thread.frames.iter().map(|frame| frame.function.as_deref().unwrap_or("?")).collect()
}

/// Returns the addresses of all frames that `eu-stack` finds, by thread.
fn eu_stack(program: &Path, core: &Path) -> BTreeMap<u64, Vec<u64>> {
    let output = Command::new("eu-stack").args(["-n", "0", "--core"]).arg(core).arg("-e").arg(program).output();
    let text = String::from_utf8(output.expect("eu-stack is there").stdout).expect("it writes text");
    let mut threads = BTreeMap::new();
    let mut thread = 0;
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("TID ") {
            thread = number.trim_end_matches(':').parse().expect("threads are numbered");
            threads.insert(thread, Vec::new());
        } else if let Some(address) = line.split_whitespace().nth(1).and_then(|word| word.strip_prefix("0x")) {
            let address = u64::from_str_radix(address, 16).expect("an address is a number");
            threads.entry(thread).or_default().push(address);
        }
    }
    threads
}

fn check_stacks(source: &str, flags: &[&str]) -> Report {
    let program = Program::compile(source, flags);
    let core = program.crash(&[]);
    let report = analyse(&core, &here());
    let expected = eu_stack(&program.path, &core);
    assert_eq!(report.threads.len(), expected.len(), "{source}");
    for thread in &report.threads {
        let expected = &expected[&thread.id];
        assert!(!expected.is_empty(), "{source}: eu-stack finds nothing of {}", thread.id);
        assert_eq!(&addresses(thread), expected, "{source}: thread {}: {:?}", thread.id, functions(thread));
        assert_eq!(thread.broken, None, "{source}: thread {}", thread.id);
    }
    report
}

#[test]
fn stacks_of_many_threads_are_whole() {
    let report = check_stacks("many.cpp", &["-O2", "-g", "-pthread"]);
    assert_eq!(report.threads.len(), 65);
    let crashed = report.crashed().expect("it aborted");
    assert!(functions(crashed).contains(&"main"));
    let deep = &report.threads[1];
    assert!(deep.frames.len() >= 60, "{}", deep.frames.len());
    let inlined = deep.frames.iter().find(|frame| frame.trust == Trust::Inline).expect("a function was inlined");
    assert!(inlined.line.is_some() && inlined.file.as_ref().is_some_and(|file| file.ends_with("many.cpp")));
}

#[test]
fn a_handlers_stack_goes_on_in_what_it_interrupted() {
    let report = check_stacks("sig.c", &["-O1", "-g"]);
    let crashed = report.crashed().expect("it aborted");
    let interrupted = crashed.frames.iter().position(|frame| frame.is_interrupted).expect("a signal came");
    assert_eq!(crashed.frames[interrupted].function.as_deref(), Some("deeper"));
    assert_eq!(functions(crashed).iter().filter(|name| **name == "deeper").count(), 9);
    let crash = report.crash.expect("it crashed");
    assert_eq!(crash.class, "abort");
    assert!(crash.reasons.iter().any(|reason| reason.contains("handler")), "{:?}", crash.reasons);
}

#[test]
fn realigned_stacks_are_walked() {
    let report = check_stacks("drap.c", &["-O2", "-g"]);
    let names = functions(report.crashed().expect("it aborted")).join(" ");
    assert!(names.contains("end realigned outer main"), "{names}");
}

#[test]
fn panics_are_told_in_rust() {
    let report = check_stacks("panic.rs", &["-O", "-g", "-Cpanic=abort"]);
    let crash = report.crash.as_ref().expect("it aborted");
    assert_eq!((crash.class.as_str(), crash.severity), ("panic", Severity::Low));
    let names = functions(report.crashed().expect("it aborted")).join(" ");
    assert!(names.contains("panic::inner") && names.contains("panic::main"), "{names}");
}

#[test]
fn an_overflowing_stack_is_cut_and_called_so() {
    let program = Program::compile("overflow.c", &["-O1", "-g", "-fno-optimize-sibling-calls"]);
    let report = analyse(&program.crash(&[]), &here());
    let thread = report.crashed().expect("it crashed");
    assert_eq!(thread.broken, None);
    assert!(thread.frames_cut > 10_000, "{}", thread.frames_cut);
    // What is left out is counted in the numbers of those behind it, as gdb counts them.
    let gap = thread.frames.len() - MAX_TAIL_FRAMES;
    assert_eq!(thread.gap(), Some((gap, thread.frames_cut)));
    let numbers: Vec<_> = thread.numbered().map(|(number, _)| number).collect();
    assert_eq!((numbers[gap - 1], numbers[gap]), (gap as u64 - 1, gap as u64 + thread.frames_cut));
    assert_eq!(thread.frames.last().and_then(|frame| frame.function.as_deref()), Some("_start"));
    let crash = report.crash.expect("it crashed");
    assert_eq!((crash.class.as_str(), crash.severity), ("stack_overflow", Severity::Low), "{:?}", crash.reasons);
    assert!(crash.reasons.iter().any(|reason| reason.contains("frames deep")), "{:?}", crash.reasons);
}

/// Returns the names of the functions that `gdb` finds.
fn gdb(program: &Path, core: &Path) -> Vec<String> {
    let text = run(Command::new("gdb").args(["-nx", "-batch", "-ex", "bt"]).arg(program).arg(core));
    // It shows the innermost frame once more when it opens the core.
    let frames: Vec<_> = text.lines().filter(|line| line.starts_with('#')).skip(1).collect();
    let name = |line: &str| {
        let line = line.split_once(' ')?.1.trim();
        let rest = line.split_once(" in ").map_or(line, |(_, rest)| rest);
        Some(rest.split(" (").next()?.to_owned())
    };
    frames.into_iter().filter_map(name).collect()
}

#[test]
fn a_call_that_led_nowhere_has_a_caller() {
    let program = Program::compile("null_call.c", &["-O1", "-g"]);
    let core = program.crash(&[]);
    let report = analyse(&core, &here());
    let thread = report.crashed().expect("it crashed");
    assert_eq!(functions(thread)[..3], ["?", "call", "main"]);
    let expected = gdb(&program.path, &core);
    assert_eq!(functions(thread)[1..3], expected[1..3]);
    let crash = report.crash.as_ref().expect("it crashed");
    assert_eq!((crash.class.as_str(), crash.severity), ("null_exec", Severity::Low));
    assert_eq!(signature(&report), "null_exec | call");
    let signature_of = |arguments: &[&str]| signature(&analyse(&program.crash(arguments), &here()));
    assert_eq!(signature_of(&["1"]), "null_exec | ask");
    assert_eq!(signature_of(&["1", "2"]), "wild_exec | call");
    assert_eq!(signature_of(&["1", "2", "3"]), "wild_exec | ask");
}

#[test]
fn inlined_functions_are_gdbs() {
    let program = Program::compile("sig.c", &["-O2", "-g"]);
    let core = program.crash(&[]);
    let report = analyse(&core, &here());
    let ours: Vec<_> = functions(report.crashed().expect("it crashed")).into_iter().map(str::to_owned).collect();
    // What was entered by way of a signal is a line of its own in `gdb`, and what is before `main` is not shown.
    let own = |names: &[String]| -> Vec<String> {
        let is_own = |name: &&String| ["give_up", "handler", "touch", "deeper", "main"].contains(&name.as_str());
        names.iter().filter(is_own).cloned().collect()
    };
    assert_eq!(own(&ours), own(&gdb(&program.path, &core)));
    assert!(own(&ours).contains(&"give_up".to_owned()), "{ours:?}");
}

#[test]
fn code_that_tells_nothing_is_walked_by_guesses() {
    let flags = ["-O1", "-fomit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    let program = Program::compile("bare.c", &flags);
    let report = analyse(&program.crash(&[]), &here());
    let thread = report.crashed().expect("it aborted");
    let names = functions(thread);
    let own: Vec<_> = names.iter().filter(|name| ["last", "third", "second", "first", "main"].contains(name)).collect();
    assert_eq!(own, [&"last", &"third", &"second", &"first", &"main"], "{names:?}");
    assert!(thread.frames.iter().any(|frame| frame.trust == Trust::Scan));
    assert_eq!(names.last(), Some(&"_start"));
}

#[test]
fn frame_pointers_lead_on_where_there_is_nothing_else() {
    let flags = ["-O1", "-fno-omit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    let program = Program::compile("bare.c", &flags);
    let report = analyse(&program.crash(&[]), &here());
    let thread = report.crashed().expect("it aborted");
    let names = functions(thread).join(" ");
    assert!(names.contains("last third second first main"), "{names}");
    assert!(thread.frames.iter().any(|frame| frame.trust == Trust::FramePointer));
}

#[test]
fn sections_for_debuggers_are_used_where_there_are_no_others() {
    let flags =
        ["-O1", "-g", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-Wl,--compress-debug-sections=zlib"];
    let report = check_stacks("bare.c", &flags);
    let thread = report.crashed().expect("it aborted");
    assert!(thread.frames.iter().all(|frame| matches!(frame.trust, Trust::Context | Trust::Cfi | Trust::Inline)));
}

#[test]
fn crashes_are_called_what_they_are() {
    let program = Program::compile("faults.c", &["-O1", "-g", "-w", "-fstack-protector-all", "-D_FORTIFY_SOURCE=2"]);
    let cases = [
        ("null_read", "null_read", Severity::Low),
        ("null_write", "null_write", Severity::Low),
        ("null_exec", "null_exec", Severity::Low),
        ("wild_read", "wild_read", Severity::Medium),
        ("wild_write", "wild_write", Severity::High),
        ("impossible_write", "wild_write", Severity::High),
        ("wild_exec", "wild_exec", Severity::Critical),
        ("wild_return", "wild_exec", Severity::Critical),
        ("constant_write", "wild_write", Severity::High),
        ("division_by_zero", "division_by_zero", Severity::Low),
        ("trap", "trap", Severity::Low),
        ("illegal_instruction", "illegal_instruction", Severity::High),
        ("garbage", "wild_exec", Severity::High),
        ("assert", "assert", Severity::Low),
        ("abort", "abort", Severity::Low),
        ("stack_smashing", "stack_smashing", Severity::High),
        ("buffer_overflow", "buffer_overflow", Severity::High),
        ("double_free", "double_free", Severity::High),
        ("bus_error", "bus_error", Severity::Low),
        ("killed", "killed", Severity::Low),
    ];
    let mut wrong = Vec::new();
    for (how, class, severity) in cases {
        let report = analyse(&program.crash(&[how]), &here());
        let crash = report.crash.expect("it crashed");
        if how == "wild_return" && crash.address.map(|address| address.0) != Some(0x4242_4242_4242_4242) {
            wrong.push(format!("{how}: {:?}", crash.address));
        }
        if (crash.class.as_str(), crash.severity) != (class, severity) || crash.reasons.is_empty() {
            wrong.push(format!("{how}: {crash:?} {:?}", report.signal));
        }
        if how == "assert" && !crash.message.as_ref().is_some_and(|text| text.contains("`zero == 1' failed")) {
            wrong.push(format!("{how}: says {:?}", crash.message));
        }
        let names = report.threads.first().map(functions).unwrap_or_default();
        if how != "wild_return" && !names.contains(&"main") {
            wrong.push(format!("{how}: {names:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_picture_of_what_lives_on_is_no_crash() {
    let folder = tempfile::tempdir().expect("there is room");
    let core = folder.path().join("core");
    let mut living = Command::new("sleep").arg("1000").spawn().expect("starts");
    let save = format!("generate-core-file {}", core.display());
    run(Command::new("gdb").args(["-nx", "-batch", "-p", &living.id().to_string(), "-ex", &save]));
    living.kill().expect("is ours");
    living.wait().expect("ends");
    let report = analyse(&core, &here());
    let crash = report.crash.as_ref().expect("something is said of it");
    assert_eq!((crash.class.as_str(), crash.severity), ("snapshot", Severity::Unknown));
    assert_eq!(crash.reasons, ["no signal ended it: somebody took a picture of it while it ran"]);
    assert!(report.signal.is_none() && report.crashed().is_none(), "{:?}", report.signal);
    assert!(!report.threads[0].frames.is_empty());
    assert!(signature(&report).starts_with("snapshot | "), "{}", signature(&report));
}

#[test]
fn a_crash_is_signed_alike_without_its_code() {
    let program = Program::compile("faults.c", &["-O1", "-g", "-w"]);
    let cases = [
        ("trap", ("trap", Severity::Low), ("illegal_instruction", Severity::Medium)),
        ("illegal_instruction", ("illegal_instruction", Severity::High), ("illegal_instruction", Severity::Medium)),
        ("null_write", ("null_write", Severity::Low), ("null_access", Severity::Low)),
    ];
    for (how, with_code, without_code) in cases {
        let core = program.crash(&[how]);
        let whole = analyse(&core, &here());
        let folder = packs(&whole);
        let alone = analyse(&core, &Places { by_build_id: vec![folder.path().to_owned()], ..Places::default() });
        for (report, (class, severity)) in [(&whole, with_code), (&alone, without_code)] {
            let crash = report.crash.as_ref().expect("it crashed");
            assert_eq!((crash.class.as_str(), crash.severity), (class, severity), "{how}: {crash:?}");
        }
        assert_eq!(signature(&alone), signature(&whole), "{how}");
        assert!(signature(&whole).ends_with(" | main @faults"), "{how}: {}", signature(&whole));
    }
}

#[test]
fn what_the_library_refuses_is_signed_by_its_caller() {
    let ways = ["stoi", "stod", "vector", "map", "substr", "bitset", "room", "optional", "variant", "shared", "future"];
    for optimised in ["-O0", "-O2"] {
        let program = Program::compile("throws.cpp", &[optimised, "-g", "-w", "-std=c++17", "-pthread"]);
        let signed = |how: &str| signature(&analyse(&program.crash(&[how]), &here()));
        for how in ways {
            assert_eq!(signed(how), "uncaught_exception | ask", "{how} {optimised}");
        }
        let lock = signed("mutex");
        assert!(
            lock.starts_with("null_access | ") && lock.ends_with("pthread_mutex_lock | ask"),
            "{optimised}: {lock}"
        );
    }
}

#[test]
fn a_core_tells_its_process() {
    let program = Program::compile("faults.c", &["-O1", "-g", "-w"]);
    let core = program.crash(&["null_write", "and more"]);
    let report = analyse(&core, &here());
    assert_eq!((report.kind, report.is_truncated), (DumpKind::Core, false));
    let process = report.process.as_ref().expect("it was a process");
    assert_eq!(process.name.as_deref(), Some("faults"));
    let program_path = program.path.to_str().expect("its path is text");
    assert_eq!(process.program.as_deref(), Some(program_path));
    assert_eq!(process.arguments.as_deref(), Some(format!("{program_path} null_write and more").as_str()));
    assert!(process.environment.iter().any(|entry| entry == "QUARRY_TEST=kept"), "{:?}", process.environment);
    assert!(process.auxv.contains_key("AT_SYSINFO_EHDR"));
    let signal = report.signal.as_ref().expect("a signal ended it");
    assert_eq!((signal.name.as_str(), signal.code_name.as_deref()), ("SIGSEGV", Some("SEGV_MAPERR")));
    assert_eq!(signal.address.map(|address| address.0), Some(0));
    let paths: BTreeSet<_> = report.modules.iter().map(|module| module.path.as_str()).collect();
    assert!(paths.contains("[vdso]") && paths.contains(program_path), "{paths:?}");
    assert!(report.modules.iter().all(|module| module.build_id.is_some()), "{:?}", report.modules);
    let source = include_str!("programs/faults.c").lines().position(|line| line.contains("\"null_write\""));
    let line = source.and_then(|line| u32::try_from(line + 1).ok()).expect("the program can do that");
    let thread = report.crashed().expect("it crashed");
    assert!(thread.registers.contains_key("rip") && thread.registers.contains_key("fs_base"));
    assert_eq!(thread.frames.iter().find_map(|frame| frame.line), Some(line));
}

#[test]
fn without_its_files_a_core_is_walked_as_far_as_it_goes() {
    let program = Program::compile("sig.c", &["-O1", "-g"]);
    let report = analyse(&program.crash(&[]), &Places::default());
    let thread = report.crashed().expect("it aborted");
    assert!(thread.frames.len() > 1, "{thread:?}");
    let told = report.modules.iter().filter(|module| module.path == "[vdso]").count();
    assert_eq!(told, 1);
}

/// Packs the modules of a report: what unwinding needs of them and their symbols, and no code.
fn packs(report: &Report) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    for module in report.modules.iter().filter(|module| module.path.starts_with('/')) {
        let file = dump::ModuleFile::open(Path::new(&module.path)).expect("the module is there");
        let (first, rest) = module.build_id.as_ref().expect("it has a build id").split_at(2);
        fs::create_dir_all(folder.path().join(first)).expect("there is room for a folder");
        let packed = dump::pack::write(&file).expect("it can be packed");
        fs::write(folder.path().join(first).join(format!("{rest}.elf")), packed).expect("there is room for a file");
    }
    folder
}

#[test]
fn unwind_packs_are_as_good_as_files() {
    let program = Program::compile("sig.c", &["-O1", "-g"]);
    let core = program.crash(&[]);
    let with_files = analyse(&core, &here());
    let folder = packs(&with_files);
    let places = Places { by_build_id: vec![folder.path().to_owned()], ..Places::default() };
    let with_packs = analyse(&core, &places);
    let walked = |report: &Report| addresses(report.crashed().expect("it aborted"));
    assert_eq!(walked(&with_packs), walked(&with_files));
    let names = functions(with_packs.crashed().expect("it aborted")).join(" ");
    assert!(names.contains("deeper") && names.contains("main"), "{names}");
}

/// Analyses every prefix of a core that ends at a multiple of `step`.
fn check_prefixes(core: &Path, places: Places, step: usize) {
    let bytes = fs::read(core).expect("a core can be read");
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let places = &Places { cache: Some(folder.path().join("cache")), ..places };
    let whole = analyse(core, places);
    let path = folder.path().join("cut");
    for length in (0..bytes.len()).step_by(step) {
        fs::write(&path, &bytes[..length]).expect("there is room for a file");
        let report = analyse(&path, places);
        let is_core = length >= 4096;
        assert_eq!(report.kind == DumpKind::Core, is_core, "{length}");
        assert_eq!(report.is_truncated, is_core, "{length}");
        assert!(!report.notes.is_empty(), "{length}");
        if length > 65_536 {
            assert_eq!(report.threads.len(), whole.threads.len(), "{length}");
            assert_eq!(report.signal, whole.signal, "{length}");
        }
        let file = fs::File::open(&path).expect("it was written");
        quick_id(&mut std::io::BufReader::new(file)).expect("a file can be read");
    }
}

/// Tells whether tests have their full size, which `make soak` gives them.
fn is_soak() -> bool {
    std::env::var_os("QUARRY_SOAK").is_some()
}

/// At each page with `QUARRY_SOAK`, which takes minutes.
#[test]
fn a_core_cut_short_anywhere_is_read() {
    let program = Program::compile("sig.c", &["-O1", "-g"]);
    check_prefixes(&program.crash(&[]), here(), if is_soak() { 4096 } else { 7 * 4096 });
    if is_soak() {
        let program = Program::compile("panic.rs", &["-O", "-g", "-Cpanic=abort"]);
        check_prefixes(&program.crash(&[]), Places::default(), 40_960);
    }
}

/// Changes bytes of a core at places that a seed chooses, and analyses what comes of it.
fn check_damage(core: &Path, places: Places, rounds: u64) {
    let whole = fs::read(core).expect("a core can be read");
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let places = &Places { cache: Some(folder.path().join("cache")), ..places };
    let path = folder.path().join("damaged");
    for seed in 1..=rounds {
        let mut bytes = whole.clone();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for _ in 0..1 + seed % 40 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Headers and notes are what is parsed; mostly it is they that change.
            let reach = if state % 4 == 0 { bytes.len() } else { bytes.len().min(12_288) };
            let at = (state >> 8) as usize % reach;
            bytes[at] = if state % 3 == 0 { 0xff } else { (state >> 40) as u8 };
        }
        fs::write(&path, &bytes).expect("there is room for a file");
        let report = analyse(&path, places);
        assert!(serde_json::to_vec(&report).is_ok_and(|json| json.len() < model::report::MAX_REPORT_BYTES), "{seed}");
    }
}

/// Thousands of them with `QUARRY_SOAK`, which takes minutes.
#[test]
fn damaged_cores_break_nothing() {
    let program = Program::compile("sig.c", &["-O1", "-g"]);
    check_damage(&program.crash(&[]), here(), if is_soak() { 10_000 } else { 60 });
}

#[test]
fn what_a_sanitizer_found_is_the_class_of_its_core() {
    let program = Program::compile("sanitized.c", &["-g", "-O0", "-fsanitize=address", "-Wl,--build-id=sha1"]);
    for (arguments, class) in [(&["freed"][..], "heap_use_after_free"), (&[], "heap_buffer_overflow")] {
        let report = analyse(&program.crash(arguments), &Places { roots: vec!["/".into()], ..Places::default() });
        let crash = report.crash.as_ref().expect("it crashed");
        assert_eq!((crash.class.as_str(), crash.severity), (class, Severity::High), "{:?}", crash.reasons);
        assert_eq!(report.signal.as_ref().expect("it was ended").number, 6);
        let functions: Vec<_> =
            report.crashed().expect("a thread").frames.iter().filter_map(|frame| frame.function.as_deref()).collect();
        assert!(functions.contains(&"store"), "{functions:?}");
    }
}
