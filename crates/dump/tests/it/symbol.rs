//! Symbols: the same as elfutils or LLVM find, from the files and from the cache, and nothing worse than nothing from
//! damaged ones. Two are asked because each is wrong somewhere: elfutils loses functions that are inlined from another
//! unit, and gives lines of the last unit to code that has none; LLVM knows no symbols of code that debug information
//! leaves out of a function.

use crate::program::{Programs, call};
use dump::{ModuleFile, Place, Places, Symbols};
use object::{Object, ObjectSection, SectionFlags};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A function's name as the linker knows it, the file's name, and the line.
type Told = (String, String, u32);

#[test]
fn a_program_in_cpp_is_told_as_elfutils_tells_it() {
    let programs = Programs::new();
    check(&programs.inlines("inlines"), 3000, 0);
}

#[test]
fn compressed_debug_information_is_read() {
    let programs = Programs::new();
    let options = ["-O2", "-g", "-gz=zlib"];
    check(&programs.build("g++", "inlines.cpp", "zlib", &options), 500, 0);
    let plain = programs.build("g++", "inlines.cpp", "plain", &["-O2", "-g"]);
    let packed = programs.path("packed");
    call("objcopy", &[Path::new("--compress-debug-sections=zlib-gabi"), &plain, &packed]);
    check(&packed, 500, 0);
}

#[test]
fn older_and_other_debug_information_is_read() {
    let programs = Programs::new();
    check(&programs.build("g++", "inlines.cpp", "four", &["-O2", "-gdwarf-4"]), 500, 0);
    check(&programs.build("g++", "inlines.cpp", "flat", &["-O0", "-g", "-gdwarf-5"]), 500, 0);
    check(&programs.build("clang++", "inlines.cpp", "clang", &["-O2", "-g"]), 500, 0);
}

#[test]
fn a_program_in_rust_is_told_as_elfutils_tells_it() {
    let programs = Programs::new();
    check(&programs.build("rustc", "panics.rs", "panics", &["-g", "-O"]), 2000, 4);
}

#[test]
fn what_the_linker_never_hears_of_is_told_with_what_it_is_in() {
    let programs = Programs::new();
    for compiler in ["g++", "clang++"] {
        let path = programs.build(compiler, "spaces.cpp", compiler, &["-O2", "-g"]);
        let symbols = open(&path, &places());
        let functions = |address| -> Vec<_> {
            find(&symbols, address).into_iter().map(|place| place.function.unwrap_or_default()).collect()
        };
        let all: Vec<_> = addresses(&path, 2_000).into_iter().map(functions).collect();
        let deepest = all.iter().max_by_key(|functions| functions.len()).unwrap();
        let bare: Vec<_> = deepest.iter().map(|name| name.split(['(', '<']).next().unwrap().to_owned()).collect();
        assert_eq!(bare.last().map(String::as_str), Some("shop::total"), "{compiler}: {deepest:?}");
        let hidden = ["shop::price", "shop::(anonymous namespace)::hidden", "shop::(anonymous namespace)::Till::count"];
        for (name, expected) in deepest.iter().zip(hidden) {
            assert!(name.starts_with(expected), "{compiler}: {deepest:?}");
        }
        assert_eq!(deepest.len(), 4, "{compiler}: {deepest:?}");
    }
}

#[test]
fn libraries_of_this_machine_are_told_as_elfutils_tells_them() {
    // Where a cleanup is a nested copy of its function elfutils tells both; and it reads some code of which the unit's ranges
    // say nothing.
    check_if_there("/lib/x86_64-linux-gnu/libc.so.6", 3000, 6);
    check_if_there("/usr/lib/x86_64-linux-gnu/libstdc++.so.6", 3000, 0);
    check_if_there("/usr/bin/python3.11", 3000, 0);
}

#[test]
fn a_stripped_program_is_told_by_its_debug_file() {
    let programs = Programs::new();
    let whole = programs.inlines("whole");
    let (debug, stripped) = (programs.path("whole.debug"), programs.path("stripped"));
    call("objcopy", &[Path::new("--only-keep-debug"), &whole, &debug]);
    let link = format!("--add-gnu-debuglink={}", debug.display());
    call("objcopy", &[Path::new("--strip-all"), Path::new(&link), &whole, &stripped]);
    // The tools read the debug file's lines and not its table of symbols, so they are asked of the whole program.
    check_against(&stripped, &whole, 500, 0);
}

#[test]
fn a_stripped_program_is_told_by_the_symbols_packed_into_it() {
    let programs = Programs::new();
    let whole = programs.inlines("whole");
    let (mini, stripped, both) = (programs.path("mini"), programs.path("stripped"), programs.path("both"));
    call("objcopy", &[Path::new("--strip-debug"), &whole, &mini]);
    call("objcopy", &[Path::new("--strip-all"), &whole, &stripped]);
    call("xz", &[Path::new("--keep"), &mini]);
    let add = format!("--add-section=.gnu_debugdata={}.xz", mini.display());
    call("objcopy", &[Path::new(&add), &stripped, &both]);
    let places = places();
    let symbols = open(&both, &places);
    assert_eq!(symbols.level(), model::report::Found::Symbols);
    let expected = open(&mini, &places);
    let addresses = addresses(&both, 500);
    let mut named = 0;
    for address in addresses {
        let place = find(&symbols, address);
        named += place.len();
        assert_eq!(place, find(&expected, address), "{address:#x}");
    }
    assert!(named > 100, "{named}");
}

#[test]
fn a_cache_says_what_the_files_say() {
    let programs = Programs::new();
    let file = programs.inlines("inlines");
    let (some, all) = (cached(&programs, "some"), cached(&programs, "all"));
    open(&file, &all).complete();
    let addresses = addresses(&file, 300);
    let expected: Vec<_> = { addresses.iter().map(|address| find(&open(&file, &places()), *address)).collect() };
    for round in 0..3 {
        let (some, all) = (open(&file, &some), open(&file, &all));
        for (address, expected) in addresses.iter().zip(&expected).skip(round * 20) {
            assert_eq!(&find(&some, *address), expected, "{address:#x}");
            assert_eq!(&find(&all, *address), expected, "{address:#x}");
        }
    }
}

#[test]
fn debug_information_that_turns_up_later_is_used() {
    let programs = Programs::new();
    let whole = programs.inlines("whole");
    let stripped = programs.path("stripped");
    call("objcopy", &[Path::new("--strip-debug"), &whole, &stripped]);
    let mut places = cached(&programs, "cache");
    let address = addresses(&whole, 50)[7];
    assert!(find(&open(&stripped, &places), address).iter().all(|place| place.line.is_none()));
    let id =
        ModuleFile::open(&whole).unwrap().build_id().unwrap().iter().map(|b| format!("{b:02x}")).collect::<String>();
    let store = programs.path("store");
    fs::create_dir_all(store.join(&id[..2])).unwrap();
    fs::copy(&whole, store.join(&id[..2]).join(format!("{}.debug", &id[2..]))).unwrap();
    places.by_build_id.push(store);
    let expected = find(&open(&whole, &self::places()), address);
    assert!(expected.iter().any(|place| place.line.is_some()));
    assert_eq!(find(&open(&stripped, &places), address), expected);
}

#[test]
fn a_damaged_cache_is_made_again() {
    let programs = Programs::new();
    let file = programs.small("small");
    let places = cached(&programs, "cache");
    let addresses = addresses(&file, 12);
    let ask = || {
        let symbols = open(&file, &places);
        addresses.iter().map(|address| find(&symbols, *address)).collect::<Vec<_>>()
    };
    let expected = ask();
    assert!(expected.iter().any(|places| places.len() > 1), "{expected:?}");
    let path = only_file(places.cache.as_deref().unwrap());
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(ask(), expected, "byte {at} of {}", whole.len());
    }
    for length in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(ask(), expected, "cut off at {length}");
    }
}

#[test]
fn damaged_debug_information_is_borne() {
    let programs = Programs::new();
    let whole = fs::read(programs.inlines("whole")).unwrap();
    let file = object::File::parse(&*whole).unwrap();
    let ranges: Vec<_> = file
        .sections()
        .filter(|section| section.name().is_ok_and(|name| name.starts_with(".debug") || name.ends_with("tab")))
        .filter_map(|section| section.file_range())
        .collect();
    let addresses = addresses(&programs.path("whole"), 4);
    let mut random = 42_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for _ in 0..400 {
        let mut damaged = whole.clone();
        for _ in 0..=next(20) {
            let (start, length) = ranges[next(ranges.len() as u64) as usize];
            damaged[(start + next(length.max(1))) as usize] = next(256) as u8;
        }
        let Ok(file) = ModuleFile::of_bytes(Path::new("damaged"), damaged) else { continue };
        let symbols = Symbols::open(&file, &Places::default());
        symbols.complete();
        addresses.iter().for_each(|address| drop(find(&symbols, *address)));
    }
}

fn check_if_there(path: &str, count: usize, allowed: usize) {
    if Path::new(path).exists() {
        check(Path::new(path), count, allowed);
    }
}

/// Compares what is told of places all over a file with what elfutils and LLVM tell; lists where neither says the same.
fn check(path: &Path, count: usize, allowed: usize) {
    check_against(path, path, count, allowed);
}

fn check_against(path: &Path, whole: &Path, count: usize, allowed: usize) {
    let symbols = open(path, &places());
    symbols.complete();
    let addresses = addresses(path, count);
    let mut unequal = Vec::new();
    for (address, expected) in addresses.iter().zip(elfutils(whole, &addresses)) {
        let found: Vec<_> = find(&symbols, *address).into_iter().map(told).collect();
        let found = if found.is_empty() { vec![nothing()] } else { found };
        if found != expected {
            unequal.push((*address, found, expected));
        }
    }
    let rest: Vec<_> = unequal.iter().map(|(address, ..)| *address).collect();
    let others = if rest.is_empty() { Vec::new() } else { llvm(whole, &rest) };
    let mut differences = Vec::new();
    for ((address, found, expected), other) in unequal.into_iter().zip(others) {
        // The one may know the name, from the table of symbols, and the other the line.
        let places = |told: &[Told]| told.iter().map(|(_, file, line)| (file.clone(), *line)).collect::<Vec<_>>();
        let names = |told: &[Told]| told.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>();
        let is_both = names(&found) == names(&expected) && places(&found) == places(&other);
        if found != other && !is_both {
            differences
                .push(format!("{address:#x}\n  here     {found:?}\n  elfutils {expected:?}\n  llvm     {other:?}"));
        }
    }
    let list = differences.join("\n");
    assert!(differences.len() <= allowed, "{}: {} of {count}\n{list}", path.display(), differences.len());
}

fn open(path: &Path, places: &Places) -> Symbols {
    Symbols::open(&ModuleFile::open(path).unwrap(), places)
}

fn find(symbols: &Symbols, address: u64) -> Vec<Place> {
    let mut found = Vec::new();
    symbols.find(address, &mut found);
    found
}

fn places() -> Places {
    Places { roots: vec!["/".into()], debug: vec!["/usr/lib/debug".into()], ..Places::default() }
}

fn cached(programs: &Programs, name: &str) -> Places {
    Places { cache: Some(programs.path(name)), ..places() }
}

#[test]
fn what_is_new_goes_where_it_may_be_written() {
    let programs = Programs::new();
    let path = programs.inlines("inlines");
    let at = addresses(&path, 1)[0];
    let folder = |name: &str| programs.path(name);
    let with = |fresh: &str| Places { cache: Some(folder("kept")), fresh: Some(folder(fresh)), ..places() };
    let first = find(&open(&path, &with("one")), at);
    assert!(!folder("kept").exists());
    let file = only_file(&folder("one"));
    // What a node makes of it: the next child reads it, and has nothing new to say.
    let kept = folder("kept").join(file.strip_prefix(folder("one")).unwrap());
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::rename(&file, &kept).unwrap();
    assert_eq!(find(&open(&path, &with("two")), at), first);
    assert!(!folder("two").exists());
}

fn only_file(folder: &Path) -> PathBuf {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    let entry = entries.remove(0);
    if entry.is_dir() { only_file(&entry) } else { entry }
}

/// Returns places all over a file's code but its stubs, which elfutils does not name.
fn addresses(path: &Path, count: usize) -> Vec<u64> {
    let bytes = fs::read(path).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let is_code = |section: &object::Section<'_, '_>| match section.flags() {
        SectionFlags::Elf { sh_flags, .. } => sh_flags.0 & 4 != 0,
        _ => false,
    };
    let sections = file.sections().filter(is_code).filter(|section| !section.name().unwrap().starts_with(".plt"));
    let ranges: Vec<_> = sections.map(|section| (section.address(), section.size())).collect();
    let total: u64 = ranges.iter().map(|(_, size)| size).sum();
    // Steps of the golden ratio reach everywhere evenly.
    let step = (total as f64 * 0.618_033_988_75) as u64 | 1;
    let place = |index: usize| {
        let mut at = (index as u64).wrapping_mul(step) % total;
        for (start, size) in &ranges {
            if at < *size {
                return start + at;
            }
            at -= size;
        }
        unreachable!("the remainder is below the sum of sizes")
    };
    (0..count).map(place).collect()
}

fn told(place: Place) -> Told {
    let name = place.symbol.or(place.function).unwrap_or_else(|| "??".to_owned());
    // Of what the linker has no name for, others do not say what it is in.
    let name = if name.starts_with('_') { &name } else { last_part(&name) };
    entry(name, &place.file.unwrap_or_default(), place.line.unwrap_or(0))
}

/// Returns a name without what it is in.
fn last_part(name: &str) -> &str {
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in name.char_indices() {
        match letter {
            '<' | '(' => depth += 1,
            '>' | ')' => depth -= 1,
            ':' if depth == 0 => start = at + 1,
            _ => {}
        }
    }
    &name[start..]
}

fn nothing() -> Told {
    entry("??", "", 0)
}

/// Tools differ in how they call a file without a line, and in how they write paths.
fn entry(name: &str, path: &str, line: u32) -> Told {
    let file = if line == 0 { "??" } else { path.rsplit('/').next().unwrap_or(path) };
    // What a compiler made of one name is called by the table of symbols, and not by debug information.
    let name = name.split(".llvm.").next().unwrap();
    (name.to_owned(), file.to_owned(), line)
}

/// Asks `eu-addr2line` for functions, inlined ones too, files and lines.
fn elfutils(path: &Path, addresses: &[u64]) -> Vec<Vec<Told>> {
    let mut command = Command::new("eu-addr2line");
    command.args(["-a", "-i", "-f", "-e"]).arg(path);
    ask(&mut command, addresses)
}

/// Asks `llvm-symbolizer` for the same.
fn llvm(path: &Path, addresses: &[u64]) -> Vec<Vec<Told>> {
    let mut command = Command::new("llvm-symbolizer");
    command.args(["-a", "-i", "-f=linkage", "--no-demangle", "--output-style=GNU", "-e"]).arg(path);
    ask(&mut command, addresses)
}

/// Asks a tool of addresses on its standard input; it answers each with itself and pairs of lines.
fn ask(command: &mut Command, addresses: &[u64]) -> Vec<Vec<Told>> {
    command.env("DEBUGINFOD_URLS", "").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let lines: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut told: Vec<Vec<Told>> = Vec::new();
    let mut lines = output.lines().filter(|line| !line.is_empty());
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            told.push(Vec::new());
            continue;
        }
        let name = line.split(" inlined at ").next().unwrap();
        let place = lines.next().unwrap().split(" (").next().unwrap();
        let mut parts = place.rsplit(':');
        let (last, middle) = (parts.next().unwrap(), parts.next());
        // `file:line:column`, or `file:line`, or `??:0`.
        let line = middle.and_then(|line| line.parse().ok()).or_else(|| last.parse().ok()).unwrap_or(0);
        told.last_mut().unwrap().push(entry(name, place.split(':').next().unwrap(), line));
    }
    assert_eq!(told.len(), addresses.len());
    told
}
