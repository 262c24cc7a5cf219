//! Unwind packs: small, readable like the module, and refused when they are anything else.

use crate::program::Programs;
use dump::pack::{self, PackError};
use dump::{ModuleFile, Place, Places, Symbols};
use model::report::Found;
use object::{Object, ObjectSection};
use std::fs;
use std::path::Path;

const KEPT: [&str; 5] = [".eh_frame", ".eh_frame_hdr", ".dynsym", ".dynstr", ".note.gnu.build-id"];

#[test]
fn a_pack_is_read_like_its_module() {
    let programs = Programs::new();
    check(&programs.inlines("inlines"));
    check(&programs.small("small"));
    for path in ["/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "/usr/bin/python3.11"] {
        if Path::new(path).exists() {
            check(Path::new(path));
        }
    }
}

#[test]
fn a_pack_leaves_out_what_unwinding_does_not_need() {
    let check = |path: &str, most: usize| {
        if Path::new(path).exists() {
            let bytes = pack::write(&ModuleFile::open(Path::new(path)).unwrap()).unwrap();
            assert!(bytes.len() <= most, "{path}: {}", bytes.len());
        }
    };
    check("/lib/x86_64-linux-gnu/libc.so.6", 300 << 10);
    check("/usr/lib/x86_64-linux-gnu/libstdc++.so.6", 900 << 10);
    check("/usr/bin/python3.11", 1 << 20);
}

#[test]
fn a_pack_has_debug_information_while_it_is_short() {
    let programs = Programs::new();
    let level = |file: &ModuleFile| Symbols::open(file, &Places::default()).level();
    let file = ModuleFile::open(&programs.inlines("inlines")).unwrap();
    let pack = |file: &ModuleFile| ModuleFile::of_bytes(Path::new("pack"), pack::write(file).unwrap()).unwrap();
    assert_eq!(level(&pack(&file)), Found::Debug);
    // What is not needed to tell functions and lines stays behind.
    assert!(pack(&file).elf().unwrap().section_by_name(".debug_loclists").is_none());
    let long = programs.inlines("long");
    let padding = long.with_extension("padding");
    fs::File::create(&padding).unwrap().set_len(65 << 20).unwrap();
    let update = format!(".debug_str={}", padding.display());
    let status = std::process::Command::new("objcopy").arg("--update-section").arg(update).arg(&long).status().unwrap();
    assert!(status.success());
    let long = ModuleFile::open(&long).unwrap();
    assert_eq!((level(&long), level(&pack(&long))), (Found::Debug, Found::Symbols));
}

#[test]
fn no_pack_is_made_of_what_nobody_could_ask_for() {
    let programs = Programs::new();
    let options = ["-shared", "-fPIC", "-nostdlib", "-Wl,--build-id=none"];
    let nameless = programs.build("gcc", "small.c", "nameless", &options);
    let error = pack::write(&ModuleFile::open(&nameless).unwrap()).unwrap_err();
    assert!(matches!(error, PackError::Nameless(_)), "{error}");
}

#[test]
fn another_pack_is_refused() {
    let programs = Programs::new();
    let file = ModuleFile::open(&programs.small("small")).unwrap();
    let id = file.build_id().unwrap().to_vec();
    let good = pack::write(&file).unwrap();
    let accept = |bytes: Vec<u8>, id: &[u8]| pack::accept(Path::new("pack"), bytes, id);
    assert!(accept(good.clone(), &id).is_ok());
    assert!(matches!(accept(good.clone(), b"another"), Err(PackError::Other { .. })));
    // A module is not its own pack, and nothing may be added to one.
    assert!(matches!(accept(file.bytes().to_vec(), &id), Err(PackError::Odd(_))));
    assert!(matches!(accept([&good[..], b"more"].concat(), &id), Err(PackError::Odd(_))));
    for length in (0..good.len()).step_by(13) {
        assert!(accept(good[..length].to_vec(), &id).is_err(), "cut off at {length}");
    }
}

#[test]
fn a_damaged_pack_is_refused_or_harmless() {
    let programs = Programs::new();
    let file = ModuleFile::open(&programs.small("small")).unwrap();
    let id = file.build_id().unwrap().to_vec();
    let good = pack::write(&file).unwrap();
    let mut refused = 0;
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = good.clone();
            damaged[at] ^= flip;
            match pack::accept(Path::new("pack"), damaged, &id) {
                Ok(pack) => drop(all(&pack)),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > good.len() / 4, "{refused} of {}", good.len() * 3);
}

#[test]
fn a_damaged_module_has_a_pack_that_is_accepted_or_none() {
    let programs = Programs::new();
    let module = fs::read(programs.small("small")).unwrap();
    let (mut made, mut refused) = (0, 0);
    // The table of sections is what a linker writes last.
    for at in (0..0x200).chain(module.len() - 0x800..module.len()) {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = module.clone();
            damaged[at] ^= flip;
            let Ok(file) = ModuleFile::of_bytes(Path::new("module"), damaged) else { continue };
            let Some(id) = file.build_id() else { continue };
            match pack::write(&file) {
                Ok(bytes) => {
                    pack::accept(Path::new("pack"), bytes, id).unwrap_or_else(|error| panic!("{at:#x}: {error}"));
                    made += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(made > 100 && refused > 100, "{made} made, {refused} refused");
}

fn check(path: &Path) {
    let file = ModuleFile::open(path).unwrap();
    let id = file.build_id().unwrap();
    let bytes = pack::write(&file).unwrap();
    let pack = pack::accept(path, bytes.clone(), id).unwrap();
    assert_eq!(pack::write(&pack).unwrap(), bytes, "a pack of a pack is that pack");
    let (whole, packed) = (file.elf().unwrap(), pack.elf().unwrap());
    for name in KEPT {
        let content = |elf: &object::File<'_>| {
            let section = elf.section_by_name(name);
            section.map(|section| (section.address(), section.data().unwrap().to_vec()))
        };
        assert_eq!(content(&whole), content(&packed), "{name} of {}", path.display());
    }
    let symbols = |elf: &object::File<'_>| elf.symbols().count();
    assert_eq!(symbols(&whole), symbols(&packed), "{}", path.display());
    // Named as by the module itself, inlined functions and lines too.
    assert_eq!(all(&pack), all(&file), "{}", path.display());
    fs::metadata(path).unwrap();
}

fn all(file: &ModuleFile) -> Vec<Place> {
    let symbols = Symbols::open(file, &Places::default());
    let elf = file.elf().unwrap();
    let Some(text) = elf.section_by_name(".text") else { return Vec::new() };
    let step = (text.size() / 64).max(1);
    let mut places = Vec::new();
    for index in 0..64 {
        symbols.find(text.address().wrapping_add(index * step), &mut places);
    }
    places
}
