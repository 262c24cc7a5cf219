//! Files of modules: found where they are, refused where they are not what was asked for, never outside of a root.

use crate::program::{Programs, call, run};
use dump::locate::{self, Located, Sought};
use dump::{ModuleFile, Place, Places, Symbols};
use model::analysis::{Lack, Wanted};
use model::report::{Address, DumpKind, Found, Frame, Module, Report, Thread, Trust};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A root with the small library in it, once as it is and once stripped.
struct Ground {
    programs: Programs,
    root: PathBuf,
    id: Vec<u8>,
}

impl Ground {
    fn new() -> Self {
        let programs = Programs::new();
        let root = programs.path("root");
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        let whole = programs.small("small");
        fs::copy(&whole, root.join("usr/lib/libsmall.so")).unwrap();
        let id = ModuleFile::open(&whole).unwrap().build_id().unwrap().to_vec();
        Self { programs, root, id }
    }

    fn places(&self) -> Places {
        Places { roots: vec![self.root.clone()], ..Places::default() }
    }

    fn sought<'a>(&'a self, path: &'a str) -> Sought<'a> {
        Sought { path, build_id: Some(&self.id), head: &[] }
    }

    /// Puts the library, stripped, where `path` says in the root, and its debug file at `debug`.
    fn strip(&self, path: &str, debug: &str) -> PathBuf {
        let whole = self.programs.path("small");
        let debug = self.root.join(debug);
        fs::create_dir_all(debug.parent().unwrap()).unwrap();
        call("objcopy", &[Path::new("--only-keep-debug"), &whole, &debug]);
        let link = format!("--add-gnu-debuglink={}", debug.display());
        call("objcopy", &[Path::new("--strip-all"), Path::new(&link), &whole, &self.root.join(path)]);
        debug
    }
}

#[test]
fn a_module_is_found_in_a_root() {
    let ground = Ground::new();
    symlink("usr/lib", ground.root.join("lib")).unwrap();
    symlink("/usr/lib/libsmall.so", ground.root.join("usr/lib/absolute.so")).unwrap();
    symlink("../../../../../../usr/lib/libsmall.so", ground.root.join("usr/lib/upward.so")).unwrap();
    let paths =
        ["/usr/lib/libsmall.so", "/lib/libsmall.so", "/lib/absolute.so", "/lib/upward.so", "/../lib/libsmall.so"];
    for path in paths {
        let located = locate::module(&ground.sought(path), &ground.places());
        assert_eq!(located.file.unwrap().build_id(), Some(&*ground.id), "{path}");
    }
    let deleted = locate::module(&ground.sought("/usr/lib/libsmall.so (deleted)"), &ground.places());
    assert!(deleted.file.is_some());
}

#[test]
fn nothing_outside_of_a_root_is_opened() {
    let ground = Ground::new();
    let outside = ground.programs.path("small");
    symlink(&outside, ground.root.join("usr/lib/escape.so")).unwrap();
    symlink(ground.programs.folder(), ground.root.join("usr/lib/folder")).unwrap();
    symlink("/proc/self/root", ground.root.join("usr/lib/magic")).unwrap();
    run(Command::new("mkfifo").arg(ground.root.join("usr/lib/pipe")));
    let magic = format!("/usr/lib/magic{}", outside.display());
    let up = format!("/usr/lib/../../../../../../..{}", outside.display());
    for path in ["/usr/lib/escape.so", "/usr/lib/folder/small", "/usr/lib/pipe", "/usr/lib", "small", "", &magic, &up] {
        let located = locate::module(&ground.sought(path), &ground.places());
        assert!(located.file.is_none(), "{path}");
    }
}

#[test]
fn another_build_id_is_refused() {
    let ground = Ground::new();
    let check = |located: Located, words: &str| {
        assert!(located.file.is_none());
        assert!(located.notes.iter().any(|note| note.contains(words)), "{:?}", located.notes);
    };
    let other = Sought { build_id: Some(b"other"), ..ground.sought("/usr/lib/libsmall.so") };
    check(locate::module(&other, &ground.places()), "is refused: its build id is");
    let head = [0; 4096];
    let other = Sought { build_id: None, head: &head, ..ground.sought("/usr/lib/libsmall.so") };
    check(locate::module(&other, &ground.places()), "begins otherwise than what was mapped");
    let bytes = fs::read(ground.programs.path("small")).unwrap();
    let same = Sought { build_id: None, head: &bytes[..4096], ..ground.sought("/usr/lib/libsmall.so") };
    assert!(locate::module(&same, &ground.places()).file.is_some());
    fs::write(ground.root.join("usr/lib/text.so"), "no library").unwrap();
    check(locate::module(&ground.sought("/usr/lib/text.so"), &ground.places()), "is not a whole ELF file");
}

#[test]
fn a_module_is_found_by_its_build_id() {
    let ground = Ground::new();
    let store = ground.programs.path("store");
    let id: String = ground.id.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::create_dir_all(store.join(&id[..2])).unwrap();
    fs::copy(ground.programs.path("small"), store.join(&id[..2]).join(format!("{}.elf", &id[2..]))).unwrap();
    let places = Places { by_build_id: vec![store], ..ground.places() };
    assert!(locate::module(&ground.sought("/no/such/file"), &places).file.is_some());
    assert!(locate::module(&Sought { build_id: Some(&[1]), ..ground.sought("/no") }, &places).file.is_none());
}

#[test]
fn a_pack_is_taken_if_it_is_one() {
    let ground = Ground::new();
    let shelf = ground.programs.path("shelf");
    let id: String = ground.id.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::create_dir_all(shelf.join(&id[..2])).unwrap();
    let place = shelf.join(&id[..2]).join(format!("{}.elf", &id[2..]));
    let places = Places { packs: vec![shelf], ..ground.places() };
    let whole = ModuleFile::open(&ground.programs.path("small")).unwrap();
    fs::write(&place, dump::pack::write(&whole).unwrap()).unwrap();
    assert!(locate::module(&ground.sought("/no/such/file"), &places).file.is_some());
    // A whole module says more than a pack may.
    fs::copy(ground.programs.path("small"), &place).unwrap();
    let located = locate::module(&ground.sought("/no/such/file"), &places);
    assert!(located.file.is_none() && located.notes[0].contains("holds what no pack does"), "{:?}", located.notes);
}

#[test]
fn what_would_tell_more_is_wanted_and_no_more() {
    let module = |path: &str, build_id: Option<&str>, found: Found| Module {
        path: path.to_owned(),
        start: Address(0),
        end: Address(1),
        bias: Address(0),
        build_id: build_id.map(str::to_owned),
        found,
        lack: None,
        supplementary: None,
    };
    let mut report = Report::new(DumpKind::Core);
    report.modules = vec![
        module("/lost", Some("0a0a"), Found::Missing),
        module("/whole", Some("0b0b"), Found::Debug),
        module("/stripped", Some("0c0c"), Found::Symbols),
        module("/quiet", Some("0d0d"), Found::Unwind),
        module("/nameless", None, Found::Missing),
        module("/hostile", Some("../.."), Found::Missing),
        module("[vdso]", Some("0e0e"), Found::Core),
        module("/again", Some("0c0c"), Found::Missing),
        Module { supplementary: Some("0f0f".to_owned()), ..module("/shares", Some("1a1a"), Found::Debug) },
        Module { supplementary: Some("0f0f".to_owned()), ..module("/shares too", Some("1b1b"), Found::Debug) },
        Module { supplementary: Some("1f1f".to_owned()), ..module("/shares unseen", Some("1c1c"), Found::Debug) },
        Module { supplementary: Some("../f".to_owned()), ..module("/hostile too", Some("1d1d"), Found::Debug) },
    ];
    let frames = [1, 2, 4, 5, 6, 8, 9, 11].map(|module| Frame { module: Some(module), ..Frame::new(Trust::Cfi) });
    report.threads = vec![Thread { frames: frames.to_vec(), ..Thread::default() }];
    let wanted = |build_id: &str, lack, has_frames| Wanted { build_id: build_id.to_owned(), lack, has_frames };
    let expected =
        [wanted("0c0c", Lack::Debug, true), wanted("0f0f", Lack::Debug, true), wanted("0a0a", Lack::Module, false)];
    assert_eq!(locate::wanted(&report), expected);
}

#[test]
fn a_debug_file_is_found_by_its_link() {
    for debug in ["usr/lib/small.debug", "usr/lib/.debug/small.debug", "usr/lib/debug/usr/lib/small.debug"] {
        let ground = Ground::new();
        ground.strip("usr/lib/stripped.so", debug);
        assert!(has_lines(&ground, "/usr/lib/stripped.so").0, "{debug}");
    }
}

#[test]
fn what_several_share_is_found_by_build_id_and_by_path() {
    let ground = Ground::new();
    let shared = ground.programs.build(
        "gcc",
        "small.c",
        "shared",
        &["-g", "-shared", "-fPIC", "-nostdlib", "-Wl,--build-id=0x0123456789abcdef"],
    );
    let lack = |path: &str, laid: Option<&str>| {
        let link = ground.programs.path("link");
        fs::write(&link, [path.as_bytes(), b"\0\x01\x23\x45\x67\x89\xab\xcd\xef"].concat()).unwrap();
        let section = format!("--add-section=.gnu_debugaltlink={}", link.display());
        let file = ground.root.join("usr/lib/sharing.so");
        call("objcopy", &[Path::new(&section), &ground.programs.path("small"), &file]);
        let debug = ground.root.join("usr/lib/debug");
        let laid = laid.map(|laid| debug.join(laid));
        if let Some(laid) = &laid {
            fs::create_dir_all(laid.parent().unwrap()).unwrap();
            fs::copy(&shared, laid).unwrap();
        }
        let places = Places { debug: vec![debug], ..ground.places() };
        let located = locate::module(&ground.sought("/usr/lib/sharing.so"), &places);
        let lack = Symbols::open(&located.file.unwrap(), &places).lack();
        laid.map(fs::remove_file).transpose().unwrap();
        lack.filter(|lack| lack.contains("0123456789abcdef"))
    };
    let absolute = "/usr/lib/debug/.dwz/x86_64-linux-gnu/small.debug";
    let check =
        |path: &str, laid: Option<&str>| assert_eq!(lack(path, laid).is_none(), laid.is_some(), "{path} {laid:?}");
    for path in [absolute, "../../.dwz/x86_64-linux-gnu/small.debug", "../nowhere/small.debug"] {
        check(path, None);
        check(path, Some(".build-id/01/23456789abcdef.debug"));
        check(path, Some(".dwz/small.debug"));
    }
    check(absolute, Some(".dwz/x86_64-linux-gnu/small.debug"));
    check("../../.dwz/x86_64-linux-gnu/small.debug", Some(".dwz/x86_64-linux-gnu/small.debug"));
    check("debug/other/small.debug", Some("other/small.debug"));
}

#[test]
fn a_debug_file_of_another_module_is_refused() {
    let ground = Ground::new();
    let debug = ground.strip("usr/lib/stripped.so", "usr/lib/small.debug");
    // The same with another build id.
    let other = ground.programs.build(
        "gcc",
        "small.c",
        "other",
        &["-O1", "-g", "-shared", "-fPIC", "-nostdlib", "-Wl,--build-id=sha1"],
    );
    call("objcopy", &[Path::new("--only-keep-debug"), &other, &debug]);
    let (has_lines, lack) = has_lines(&ground, "/usr/lib/stripped.so");
    assert!(!has_lines && lack.contains("its build id is"), "{lack}");
}

#[test]
fn without_build_ids_the_checksum_decides() {
    let ground = Ground::new();
    ground.programs.build(
        "gcc",
        "small.c",
        "small",
        &["-O2", "-g", "-shared", "-fPIC", "-nostdlib", "-Wl,--build-id=none"],
    );
    let debug = ground.strip("usr/lib/stripped.so", "usr/lib/small.debug");
    let ask = || {
        let file =
            locate::module(&Sought { build_id: None, ..ground.sought("/usr/lib/stripped.so") }, &ground.places());
        lines(&Symbols::open(&file.file.unwrap(), &ground.places()))
    };
    assert!(ask().0);
    let mut bytes = fs::read(&debug).unwrap();
    bytes.push(0);
    fs::write(&debug, bytes).unwrap();
    let (has_lines, lack) = ask();
    assert!(!has_lines && lack.contains("its checksum is another"), "{lack}");
}

fn has_lines(ground: &Ground, path: &str) -> (bool, String) {
    let located = locate::module(&ground.sought(path), &ground.places());
    lines(&Symbols::open(&located.file.unwrap(), &ground.places()))
}

/// Returns whether any place in the small library's code has a line, and what the symbols lack.
fn lines(symbols: &Symbols) -> (bool, String) {
    let mut found: Vec<Place> = Vec::new();
    (0x1000..0x1080).for_each(|offset| symbols.find(offset, &mut found));
    (found.iter().any(|place| place.line.is_some()), symbols.lack().unwrap_or_default())
}
