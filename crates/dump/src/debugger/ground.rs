//! What a debugger finds beside a core: the files that were mapped when it was made, laid out where debuggers look.
//!
//! ```text
//! .build-id/ab/cdef…          the module, and `.debug` what was stripped off it or what it shares with others
//! root/usr/lib/libc.so.6      the module by the names it was mapped and linked by; a pack never
//! names/libc.so.6             the same by its last name alone
//! packs/7f3a0000/libc.so.6    a pack, by what is added to its addresses
//! ```
//! A pack has no content where a module has code, so nothing may take its bytes for what was mapped, nor its headers for
//! those in memory: it is given to the debugger as symbols at an address, and never as the program.

use crate::core::note::AT_ENTRY;
use crate::core::{Core, Image, VDSO};
use crate::locate::{self, Sought, hex};
use crate::memory::read_some;
use crate::module::ModuleFile;
use crate::places::Places;
use model::analysis::{Lack, Wanted};
use model::pack::check_build_id;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

/// Bytes of a module's beginning that tell it from others if it has no build id.
const PAGE_BYTES: usize = 4096;

/// What was found for a debugger.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The program that died, if it is whole.
    pub(super) program: Option<PathBuf>,
    /// What the debugger will not find by itself, and what is added to its addresses.
    pub(super) placed: Vec<(PathBuf, u64)>,
}

/// What is known of one file that was mapped.
#[derive(Debug)]
struct Part {
    image: Image,
    is_program: bool,
    file: Option<ModuleFile>,
    /// Whether that is a pack.
    is_packed: bool,
    debug: Option<ModuleFile>,
    has_lines: bool,
    shared: Option<ModuleFile>,
    lacks_shared: Option<Vec<u8>>,
}

/// What is known of all of them.
#[derive(Debug)]
pub(super) struct Ground {
    parts: Vec<Part>,
}

impl Ground {
    /// Looks for the files that were mapped, and for their debug information.
    pub(super) fn find(core: &Core<'_>, places: &Places) -> Self {
        let entry = core.aux(AT_ENTRY);
        let images = core.images().into_iter().filter(|image| image.path != VDSO);
        let part = |image: Image| {
            let head = if image.bias.is_some() { read_some(core, image.start, PAGE_BYTES) } else { Vec::new() };
            let sought = Sought { path: &image.path, build_id: image.build_id.as_deref(), head: &head };
            let file = locate::module(&sought, places).file;
            let files = file.as_ref().map(|file| locate::debug_files(file, places)).unwrap_or_default();
            let has_lines = |file: &Option<ModuleFile>| file.as_ref().is_some_and(|it| it.has_section(".debug_info"));
            Part {
                is_program: entry.is_some_and(|entry| (image.start..image.end).contains(&entry)),
                is_packed: file.as_ref().is_some_and(|file| places.packs.iter().any(|at| file.path().starts_with(at))),
                has_lines: has_lines(&file) || has_lines(&files.debug),
                debug: files.debug,
                shared: files.supplementary,
                lacks_shared: files.lacks_supplementary,
                file,
                image,
            }
        };
        Self { parts: images.map(part).collect() }
    }

    /// Returns what is not here, the program's own first.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        let mut parts: Vec<_> = self.parts.iter().collect();
        parts.sort_by_key(|part| !part.is_program);
        let of_part = |part: &Part| {
            let lack = match &part.file {
                None => Some(Lack::Module),
                Some(_) if !part.has_lines => Some(Lack::Debug),
                Some(_) => None,
            };
            let own = part.image.build_id.as_deref().zip(lack);
            let shared = part.lacks_shared.as_deref().map(|id| (id, Lack::Debug));
            let want = |(id, lack)| Wanted { build_id: hex(id), lack, has_frames: true };
            own.map(want).into_iter().chain(shared.map(want)).collect::<Vec<_>>()
        };
        let wanted = parts.into_iter().flat_map(of_part);
        wanted.filter(|one| check_build_id(&one.build_id).is_ok()).collect()
    }

    /// Lays everything out beneath a folder. What cannot be laid out is left to the debugger's own search.
    pub(super) fn lay_out(&self, core: &Core<'_>, folder: &Path) -> Found {
        let mut found = Found::default();
        let program = self.parts.iter().find(|part| part.is_program);
        let linked = program.map(|part| core.linked(&part.image)).unwrap_or_default();
        // Only with a program can a debugger tell what it had loaded, and where.
        let has_program = program.is_some_and(|part| part.file.is_some() && !part.is_packed);
        for part in &self.parts {
            let Some(file) = part.file.as_ref().map(ModuleFile::path) else { continue };
            let id = part.image.build_id.as_deref();
            let whole = (!part.is_packed).then_some(file);
            let _ = id.map(|id| by_id(folder, id, whole, part.debug.as_ref().map(ModuleFile::path)));
            let shared = part.shared.as_ref();
            let _ = shared.and_then(|shared| Some(by_id(folder, shared.build_id()?, None, Some(shared.path()))));
            let bias = part.image.bias.unwrap_or(part.image.start);
            let mapped = part.image.path.strip_suffix(" (deleted)").unwrap_or(&part.image.path);
            if part.is_packed {
                let last = Path::new(mapped).file_name().filter(|last| is_word(last));
                let named = folder.join("packs").join(format!("{bias:x}")).join(last.unwrap_or("module".as_ref()));
                found.placed.push(if link(file, &named).is_ok() { (named, bias) } else { (file.to_owned(), bias) });
                continue;
            }
            match (part.is_program, has_program) {
                // What lies under its build id is shown by its own name.
                (true, _) if Path::new(mapped).file_name() != file.file_name() => {
                    let named = by_name(folder, mapped, file).ok().flatten();
                    found.program = Some(named.unwrap_or_else(|| file.to_owned()));
                }
                (true, _) => found.program = Some(file.to_owned()),
                (false, true) => {}
                (false, false) => found.placed.push((file.to_owned(), bias)),
            }
            let others = linked.iter().filter(|(at, _)| *at == bias && !part.is_program).map(|(_, name)| name);
            for name in others.map(String::as_str).chain([mapped]) {
                let _ = by_name(folder, name, file);
            }
        }
        found
    }
}

fn by_id(folder: &Path, id: &[u8], file: Option<&Path>, debug: Option<&Path>) -> io::Result<()> {
    let Some((first, rest)) = id.split_first().filter(|(_, rest)| !rest.is_empty()) else { return Ok(()) };
    let folder = folder.join(".build-id").join(hex(&[*first]));
    file.map_or(Ok(()), |file| link(file, &folder.join(hex(rest))))?;
    debug.map_or(Ok(()), |debug| link(debug, &folder.join(format!("{}.debug", hex(rest)))))
}

/// Lays a file out by a name, and returns where, if that is a path.
fn by_name(folder: &Path, name: &str, file: &Path) -> io::Result<Option<PathBuf>> {
    let path = Path::new(name);
    let mut named = None;
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let mut parts = path.components();
    // A path of a dump's leads nowhere but beneath the folder.
    if parts.next() == Some(Component::RootDir) && parts.clone().all(is_plain) && parts.next().is_some() {
        let at = folder.join("root").join(path.strip_prefix("/").unwrap_or(path));
        link(file, &at)?;
        named = Some(at);
    }
    path.file_name().map_or(Ok(()), |last| link(file, &folder.join("names").join(last)))?;
    Ok(named)
}

/// Tells whether a debugger's command line takes a name for nothing but one word of it.
fn is_word(name: &OsStr) -> bool {
    name.as_encoded_bytes().iter().all(|one| one.is_ascii_alphanumeric() || b"-_.+".contains(one))
}

/// Makes a link in place of the one that was there.
fn link(file: &Path, at: &Path) -> io::Result<()> {
    fs::create_dir_all(at.parent().unwrap_or(at))?;
    match fs::remove_file(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => symlink(file, at),
    }
}
