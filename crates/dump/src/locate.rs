//! Finds the file of a module, and the file that holds its debug information.
//!
//! A path comes from a dump or from a file that a dump led to, so it is foreign: it is only ever resolved inside the
//! folder that stands for `/`, links included (`openat2` with `RESOLVE_IN_ROOT`), and what is opened must be a regular file. A
//! file counts only if it has the build id that was asked for; where a module has none, its first page must be the one the
//! dump holds. Nothing is fetched here: `wanted` says what a caller may put into
//! `Places::by_build_id` and `Places::packs` before it asks again.

use crate::core::VDSO;
use crate::module::{Home, ModuleFile};
use crate::places::Places;
use lzma_rust2::XzReader;
use model::analysis::{Lack, MAX_WANTED, Wanted};
use model::pack::check_build_id;
use model::report::{Found, Report};
use object::Object;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Bytes that the symbols a distribution leaves in a library may come to when unpacked.
const MAX_MINI_BYTES: u64 = 64 << 20;
/// KiB of memory that unpacking them may take.
const MAX_XZ_KIB: u32 = 96 << 10;
/// Bytes of a file whose checksum is computed.
const MAX_CHECKED_BYTES: usize = 512 << 20;
/// Times that a path is tried again because something was renamed meanwhile.
const MAX_TRIES: usize = 8;
/// Bytes of the first page that are compared.
const PAGE_BYTES: usize = 4096;

/// What is known of a module whose file is sought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sought<'a> {
    /// Its path on the machine it ran on.
    pub path: &'a str,
    /// Its build id, if it has one.
    pub build_id: Option<&'a [u8]>,
    /// The first bytes of it in memory, empty if they are not known.
    pub head: &'a [u8],
}

/// What was found of a module.
#[derive(Debug, Default)]
pub struct Located {
    /// Its file, or its unwind pack.
    pub file: Option<ModuleFile>,
    /// What was found and refused, a sentence each.
    pub notes: Vec<String>,
}

/// What was found of a module's debug information, besides its own file.
#[derive(Debug, Default)]
pub(crate) struct DebugFiles {
    /// The file that was stripped off it.
    pub(crate) debug: Option<ModuleFile>,
    /// What several debug files share.
    pub(crate) supplementary: Option<ModuleFile>,
    /// The build id of that, if it has not been found.
    pub(crate) lacks_supplementary: Option<Vec<u8>>,
    /// What was found and refused, a sentence each.
    pub(crate) notes: Vec<String>,
}

/// Finds the file of a module: in the roots by its path, else by its build id.
pub fn module(sought: &Sought<'_>, places: &Places) -> Located {
    let mut located = Located::default();
    let path = sought.path.strip_suffix(" (deleted)").unwrap_or(sought.path);
    if path.starts_with('/') {
        for root in &places.roots {
            if let Some(file) = open_module(root, Path::new(path), &mut located.notes)
                && is_sought(&file, sought, &mut located.notes)
            {
                located.file = Some(file);
                return located;
            }
        }
    }
    let Some(id) = sought.build_id else { return located };
    let Some((stem, folder)) = names(id) else { return located };
    for place in &places.packs {
        let path = PathBuf::from(format!("/{folder}/{stem}.elf"));
        let Some(file) = open_module(place, &path, &mut located.notes) else { continue };
        match crate::pack::prove(&file, id) {
            Ok(()) => {
                located.file = Some(file.sent());
                return located;
            }
            Err(error) => located.notes.push(format!("`{}` is refused: {error}", file.path().display())),
        }
    }
    // A debug file alone names what it cannot unwind, which is better than nothing.
    let packs = places.by_build_id.iter().map(|place| (place, PathBuf::from(format!("/{folder}/{stem}.elf"))));
    let links = places.debug.iter().map(|place| (place, PathBuf::from(format!("/.build-id/{folder}/{stem}"))));
    let packs = packs.chain(links).map(|(place, path)| (place.clone(), path));
    for (place, path) in packs.chain(debug_paths(id, places)) {
        if let Some(file) = open_module(&place, &path, &mut located.notes)
            && has_build_id(&file, id, &mut located.notes)
        {
            located.file = Some(file);
            return located;
        }
    }
    located
}

/// Finds the file of a kernel with its symbols: by its build id, and where distributions put it for its release.
pub(crate) fn kernel(build_id: Option<&[u8]>, release: Option<&str>, places: &Places) -> Located {
    let mut located = Located::default();
    let by_id = build_id.map(|id| debug_paths(id, places)).unwrap_or_default();
    let release = release.filter(|release| plain_name(release.as_bytes()).is_some());
    let named = release.into_iter().flat_map(|release| {
        let inner = [format!("boot/vmlinux-{release}"), format!("lib/modules/{release}/vmlinux")];
        let debug = places.debug.iter().flat_map({
            let inner = inner.clone();
            move |place| inner.clone().map(|inner| (place.clone(), PathBuf::from(format!("/{inner}"))))
        });
        let built = format!("lib/modules/{release}/build/vmlinux");
        let inner = inner.into_iter().flat_map(|inner| [format!("/usr/lib/debug/{inner}"), format!("/{inner}")]);
        let inner: Vec<_> = inner.chain([format!("/{built}")]).collect();
        let roots = places
            .roots
            .iter()
            .flat_map(move |root| inner.clone().into_iter().map(|inner| (root.clone(), PathBuf::from(inner))));
        debug.chain(roots)
    });
    for (root, path) in by_id.into_iter().chain(named) {
        let Some(file) = open_module(&root, &path, &mut located.notes) else { continue };
        if build_id.is_none_or(|id| has_build_id(&file, id, &mut located.notes)) {
            located.file = Some(file);
            break;
        }
    }
    located
}

/// Returns the modules of a report of which nothing, or no debug information, was found, those first that frames lie in; of
/// the others only those of which nothing was found, since a stack may go through them once it can be followed that far.
/// What debug information shares with others is a file of its own, and asked for as one.
pub fn wanted(report: &Report) -> Vec<Wanted> {
    let mut used: Vec<usize> =
        report.threads.iter().flat_map(|thread| &thread.frames).filter_map(|frame| frame.module).collect();
    used.sort_unstable();
    let mut indices: Vec<usize> = (0..report.modules.len()).collect();
    indices.sort_by_key(|index| used.binary_search(index).is_err());
    let (mut wanted, mut known) = (Vec::new(), HashSet::new());
    for index in indices {
        if wanted.len() >= MAX_WANTED {
            break;
        }
        let Some(module) = report.modules.get(index) else { continue };
        let Some(build_id) = module.build_id.as_deref().filter(|id| check_build_id(id).is_ok()) else { continue };
        let has_frames = used.binary_search(&index).is_ok();
        let shared = module.supplementary.as_deref().filter(|id| has_frames && check_build_id(id).is_ok());
        if let Some(shared) = shared.filter(|shared| known.insert(*shared)) {
            wanted.push(Wanted { build_id: shared.to_owned(), lack: Lack::Debug, has_frames });
        }
        let lack = match module.found {
            Found::Debug => continue,
            Found::Missing | Found::Core => Lack::Module,
            Found::Symbols | Found::Unwind if has_frames => Lack::Debug,
            Found::Symbols | Found::Unwind => continue,
        };
        // The kernel's own page is nobody's file.
        if module.path == VDSO || !known.insert(build_id) {
            continue;
        }
        wanted.push(Wanted { build_id: build_id.to_owned(), lack, has_frames });
    }
    wanted.truncate(MAX_WANTED);
    wanted
}

/// Finds the debug information of a module's file.
pub(crate) fn debug_files(file: &ModuleFile, places: &Places) -> DebugFiles {
    let mut files = DebugFiles::default();
    if !file.has_section(".debug_info") {
        files.debug = by_build_id(file, places, &mut files.notes).or_else(|| by_link(file, places, &mut files.notes));
    }
    let holder = files.debug.as_ref().unwrap_or(file);
    (files.supplementary, files.lacks_supplementary) = supplementary(holder, places, &mut files.notes);
    files
}

/// Returns the symbols that were packed into the module's file (`.gnu_debugdata`), as a file of their own.
pub(crate) fn mini_debug(file: &ModuleFile, notes: &mut Vec<String>) -> Option<ModuleFile> {
    let packed = file.section(".gnu_debugdata")?;
    let mut bytes = Vec::new();
    let reader = XzReader::new_mem_limit(&packed[..], false, MAX_XZ_KIB);
    if let Err(error) = reader.take(MAX_MINI_BYTES + 1).read_to_end(&mut bytes) {
        notes.push(format!("`.gnu_debugdata` of `{}` cannot be unpacked: {error}", file.path().display()));
        return None;
    }
    if bytes.len() as u64 > MAX_MINI_BYTES {
        notes.push(format!("`.gnu_debugdata` of `{}` is longer than {MAX_MINI_BYTES} bytes", file.path().display()));
        return None;
    }
    ModuleFile::of_bytes(file.path(), bytes).ok()
}

/// Opens a file inside a folder that stands for `/`, links included.
pub(crate) fn open_inside(root: &Path, inner: &Path) -> std::io::Result<File> {
    let folder = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // A pipe must not hold us up, nor a terminal become ours; either is refused when it is mapped.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match openat2(&folder, inner, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN) if tries < MAX_TRIES => tries += 1,
            answer => return answer.map(File::from).map_err(std::io::Error::from),
        }
    }
}

fn open_module(root: &Path, inner: &Path, notes: &mut Vec<String>) -> Option<ModuleFile> {
    let file = open_inside(root, inner).ok()?;
    let home = Home { root: root.to_owned(), folder: inner.parent().unwrap_or(Path::new("/")).to_owned() };
    let shown = root.join(inner.strip_prefix("/").unwrap_or(inner));
    match ModuleFile::of_file(&shown, &file, Some(home)) {
        Ok(file) => Some(file),
        Err(error) => {
            notes.push(error.to_string());
            None
        }
    }
}

fn is_sought(file: &ModuleFile, sought: &Sought<'_>, notes: &mut Vec<String>) -> bool {
    if let Some(id) = sought.build_id {
        return has_build_id(file, id, notes);
    }
    let length = PAGE_BYTES.min(sought.head.len()).min(file.bytes().len());
    let is_same = sought.head[..length] == file.bytes()[..length];
    if !is_same {
        notes.push(format!("`{}` is refused: it begins otherwise than what was mapped", file.path().display()));
    }
    is_same
}

fn has_build_id(file: &ModuleFile, id: &[u8], notes: &mut Vec<String>) -> bool {
    if file.build_id() == Some(id) {
        return true;
    }
    let other = file.build_id().map_or_else(|| "none".to_owned(), |id| format!("`{}`", hex(id)));
    notes.push(format!("`{}` is refused: its build id is {other}, not `{}`", file.path().display(), hex(id)));
    false
}

/// Finds a debug file by build id; one with debug information goes before one with symbols only.
fn by_build_id(file: &ModuleFile, places: &Places, notes: &mut Vec<String>) -> Option<ModuleFile> {
    let id = file.build_id()?;
    let mut symbols = None;
    for (root, path) in debug_paths(id, places) {
        let Some(found) = open_module(&root, &path, notes) else { continue };
        if !has_build_id(&found, id, notes) {
            continue;
        }
        if found.has_section(".debug_info") {
            return Some(found);
        }
        if symbols.is_none() && found.has_section(".symtab") {
            symbols = Some(found);
        }
    }
    symbols
}

/// Returns where a debug file with this build id may be.
fn debug_paths(id: &[u8], places: &Places) -> Vec<(PathBuf, PathBuf)> {
    let Some((stem, folder)) = names(id) else { return Vec::new() };
    let given = places.by_build_id.iter().map(|place| (place.clone(), format!("/{folder}/{stem}.debug")));
    let laid_out = places.debug.iter().map(|place| (place.clone(), format!("/.build-id/{folder}/{stem}.debug")));
    let inside = format!("/usr/lib/debug/.build-id/{folder}/{stem}.debug");
    let roots = places.roots.iter().map(|root| (root.clone(), inside.clone()));
    given.chain(laid_out).chain(roots).map(|(root, path)| (root, PathBuf::from(path))).collect()
}

/// Finds a debug file by the name and the checksum that the module's file tells.
fn by_link(file: &ModuleFile, places: &Places, notes: &mut Vec<String>) -> Option<ModuleFile> {
    let elf = file.elf().ok()?;
    let (name, checksum) = elf.gnu_debuglink().ok()??;
    let name = plain_name(name)?;
    let home = file.home();
    let folder = home.map_or_else(|| file.path().parent().map(Path::to_owned), |home| Some(home.folder.clone()))?;
    let root = home.map_or_else(|| PathBuf::from("/"), |home| home.root.clone());
    let inside = Path::new("/usr/lib/debug").join(folder.strip_prefix("/").unwrap_or(&folder));
    let mut paths = vec![
        (root.clone(), folder.join(name)),
        (root.clone(), folder.join(".debug").join(name)),
        (root, inside.join(name)),
    ];
    paths.extend(places.debug.iter().map(|place| (place.clone(), folder.join(name))));
    for (root, path) in paths {
        let Some(found) = open_module(&root, &path, notes) else { continue };
        // The module may be its own namesake.
        if found.bytes().as_ptr() == file.bytes().as_ptr() || !is_debug(&found) {
            continue;
        }
        match (file.build_id(), found.build_id()) {
            (Some(id), Some(_)) if !has_build_id(&found, id, notes) => {}
            (Some(_), Some(_)) => return Some(found),
            _ if found.bytes().len() > MAX_CHECKED_BYTES => {
                notes.push(format!("`{}` is too long to be checked", found.path().display()));
            }
            _ if sum(found.bytes()) == checksum => return Some(found),
            _ => notes.push(format!("`{}` is refused: its checksum is another", found.path().display())),
        }
    }
    None
}

fn is_debug(file: &ModuleFile) -> bool {
    file.has_section(".debug_info") || file.has_section(".symtab")
}

fn sum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Finds what `dwz` has moved out of a debug file because others have it too; else returns its build id.
fn supplementary(
    holder: &ModuleFile,
    places: &Places,
    notes: &mut Vec<String>,
) -> (Option<ModuleFile>, Option<Vec<u8>>) {
    let Ok(elf) = holder.elf() else { return (None, None) };
    let Ok(Some((path, id))) = elf.gnu_debugaltlink() else { return (None, None) };
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    for (root, candidate) in debug_paths(id, places).into_iter().chain(shared_paths(holder, path, places)) {
        if let Some(found) = open_module(&root, &candidate, notes)
            && has_build_id(&found, id, notes)
        {
            return (Some(found), None);
        }
    }
    notes.push(format!("what `{}` shares with others (`{}`) was not found", holder.path().display(), hex(id)));
    (None, Some(id.to_vec()))
}

/// Returns where what a debug file shares with others may be by the path that it tells.
fn shared_paths(holder: &ModuleFile, path: &Path, places: &Places) -> Vec<(PathBuf, PathBuf)> {
    let folder = holder
        .home()
        .map_or_else(|| holder.path().parent().unwrap_or(Path::new("/")).to_owned(), |home| home.folder.clone());
    let root = holder.home().map_or_else(|| PathBuf::from("/"), |home| home.root.clone());
    let mut paths = vec![(root, folder.join(path))];
    if path.is_absolute() {
        paths.extend(places.roots.iter().map(|root| (root.clone(), path.to_owned())));
    }
    // Distributions keep them in one folder, some by architecture.
    let inner: PathBuf = path.components().skip_while(|part| part.as_os_str() != ".dwz").collect();
    let names = [Some(inner), path.file_name().map(|name| Path::new(".dwz").join(name))];
    for inner in names.into_iter().flatten().filter(|inner| !inner.as_os_str().is_empty()) {
        paths.extend(places.debug.iter().map(|place| (place.clone(), Path::new("/").join(&inner))));
    }
    paths
}

/// Returns the name a link tells, if it is the name of a file and no path.
fn plain_name(name: &[u8]) -> Option<&Path> {
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let mut components = path.components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)).then_some(path)
}

/// Returns what a file with this build id is called, and the folder it is in.
fn names(id: &[u8]) -> Option<(String, String)> {
    let (first, rest) = id.split_first()?;
    (!rest.is_empty()).then(|| (hex(rest), hex(&[*first])))
}

/// Returns bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
