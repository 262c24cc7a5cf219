//! Files of modules: found where they are, refused where they are not what was asked for, never outside of a root.

use crate::programs::{Programs, call, run};
use dump::locate::{self, Located, Sought};
use dump::{ModuleFile, Place, Places, Symbols};
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
fn a_debug_file_is_found_by_its_link() {
    for debug in ["usr/lib/small.debug", "usr/lib/.debug/small.debug", "usr/lib/debug/usr/lib/small.debug"] {
        let ground = Ground::new();
        ground.strip("usr/lib/stripped.so", debug);
        assert!(has_lines(&ground, "/usr/lib/stripped.so").0, "{debug}");
    }
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
