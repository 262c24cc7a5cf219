//! Symbols of one module: which functions, inlined ones too, which file and which line a place in it belongs to.
//!
//! What was once found out is kept in a cache per build id (`symbol/cache.rs`), and only what a dump asks for is found out:
//! a place that the cache does not cover costs reading the units of debug information that speak of it, whole, and those
//! are in the cache from then on. The linker's table is taken whole at the first need. This was decided by measurement
//! (`examples/symbols.rs`, processor time): four places of libc cost 35 ms, and all of
//! libc 138 ms; all of a program with 60 MB of debug information costs 6 s and 440 MB of memory, sixty places all over it
//! about two seconds of one processor. Found in the cache, either costs some 10 µs a place, whatever the size. `Symbols::complete` reads all for
//! whoever wants no first dump to wait. Names are kept as the linker has them and put into their language's words when
//! they are asked for: that takes microseconds each, and a dump has a hundred where a library has a quarter of a million.
//!
//! A cache is worth what the files are that it was made from: whoever lets one tenant put files into `Places` must not let
//! another use the same cache. It is called after its sources, so a file that changes, or debug information that turns up
//! later, leads to another cache and never to stale answers.

mod cache;
mod dwarf;
mod linker;
mod name;
mod sweep;
mod table;
mod unit;

use crate::locate::{DebugFiles, debug_files, hex, mini_debug};
use crate::module::ModuleFile;
use crate::places::Places;
use cache::Cache;
use dwarf::{Debug, Sources};
use model::report::Found;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use table::{NONE, Node, Tables};
use unit::{Fault, Walk};

/// Steps that reading debug information for one dump may take, of one module; some 10 ns each.
const MAX_STEPS: u64 = 200_000_000;
/// Steps that reading all of it may take.
const MAX_COMPLETE_STEPS: u64 = 4_000_000_000;
/// Threads that read all of it.
const MAX_THREADS: usize = 4;
/// Functions that are told for one place, at most.
const MAX_CHAIN: usize = 160;
/// Layers that one module's symbols may have before they are made into one.
const MAX_LAYERS: usize = 64;
/// Names that are remembered in their language's words.
const MAX_NAMES: usize = 65_536;

/// A function that a place belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The function, in the language's own words.
    pub function: Option<String>,
    /// The function as the linker knows it, if that differs.
    pub symbol: Option<String>,
    /// How far into the function the place is; known of the last one only, which is not inlined.
    pub function_offset: Option<u64>,
    /// The source file.
    pub file: Option<String>,
    /// The line.
    pub line: Option<u32>,
    /// The column.
    pub column: Option<u32>,
}

/// The symbols of one module.
#[derive(Debug)]
pub struct Symbols {
    level: Found,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    module: ModuleFile,
    files: DebugFiles,
    code: Option<Vec<Range<u64>>>,
    /// What is known: what was kept, then what was found out since.
    layers: Vec<Cache>,
    /// How many of them were kept.
    kept: usize,
    debug: Option<Debug>,
    has_debug: bool,
    /// Where what is found out is kept.
    place: Option<PathBuf>,
    steps: u64,
    names: HashMap<Box<str>, String>,
    lack: Vec<String>,
}

impl Symbols {
    /// Opens the symbols of a module: from the cache if they are there. Nothing is read before it is asked for.
    pub fn open(file: &ModuleFile, places: &Places) -> Self {
        let files = debug_files(file, places);
        let holder = files.debug.as_ref().unwrap_or(file);
        let has_debug = holder.has_section(".debug_info");
        let has_table =
            holder.has_section(".symtab") || file.has_section(".symtab") || file.has_section(".gnu_debugdata");
        let level = if has_debug {
            Found::Debug
        } else if has_table || file.has_section(".dynsym") {
            Found::Symbols
        } else {
            Found::Unwind
        };
        let mut lack = files.notes.clone();
        match level {
            Found::Debug => {}
            _ if has_table => lack.push("there is no debug information of it, only symbols".to_owned()),
            Found::Symbols => {
                lack.push("there is no debug information of it, only symbols for other modules".to_owned());
            }
            _ => lack.push("there is neither debug information of it nor a table of symbols".to_owned()),
        }
        let name = cache_name(file, &files);
        let layers: Vec<_> =
            places.cache.as_ref().and_then(|folder| Cache::open(&folder.join(&name))).into_iter().collect();
        let place = places.fresh.as_ref().or(places.cache.as_ref()).map(|folder| folder.join(&name));
        let state = State {
            module: file.clone(),
            files,
            code: None,
            kept: layers.len(),
            layers,
            debug: None,
            has_debug,
            place,
            steps: MAX_STEPS,
            names: HashMap::new(),
            lack,
        };
        Self { level, state: Mutex::new(state) }
    }

    /// Adds the functions that a place belongs to, the innermost inlined one first, the one that is not inlined last;
    /// `offset` is counted as the file's program headers count. Nothing is added if nothing is known.
    pub fn find(&self, offset: u64, found: &mut Vec<Place>) {
        let mut state = self.lock();
        state.learn(offset);
        state.find(offset, found);
        // What turned out to be damaged is found out again, once.
        if state.layers.iter().any(Cache::is_broken) {
            found.clear();
            state.layers.retain(|layer| !layer.is_broken());
            state.kept = 0;
            state.learn(offset);
            state.find(offset, found);
        }
    }

    /// Returns how much is known of the module.
    pub fn level(&self) -> Found {
        self.level
    }

    /// Returns why there is no more, if there might be.
    pub fn lack(&self) -> Option<String> {
        let state = self.lock();
        (!state.lack.is_empty()).then(|| state.lack.join("; "))
    }

    /// Returns the build id of what its debug information shares with others, if that has not been found.
    pub(crate) fn lacks_supplementary(&self) -> Option<String> {
        self.lock().files.lacks_supplementary.as_deref().map(hex)
    }

    /// Reads all debug information there is, so that no later dump has to; for when nobody waits.
    pub fn complete(&self) {
        self.lock().complete();
    }

    /// Keeps what was found out, for the next dump; this also happens when the symbols are dropped.
    pub fn keep(&self) -> std::io::Result<()> {
        self.lock().keep()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here is left half done by a panic that would matter: layers are added whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Symbols {
    fn drop(&mut self) {
        // A cache that cannot be kept is no loss but of time.
        let _ = self.keep();
    }
}

impl State {
    /// Sees to it that what can be known of a place is in the layers.
    fn learn(&mut self, offset: u64) {
        if !self.layers.iter().any(Cache::has_labels) {
            self.read_labels();
        }
        if self.has_debug && !self.layers.iter().any(|layer| layer.covers(offset)) {
            let code = self.code();
            if let Some(around) = code.iter().find(|range| range.contains(&offset)) {
                self.read_units(offset, around, &code);
            }
        }
        if self.layers.len() > MAX_LAYERS {
            self.flatten();
        }
    }

    fn find(&mut self, offset: u64, found: &mut Vec<Place>) {
        let owner = self.layers.iter().enumerate().find_map(|(index, layer)| Some((index, layer.owner(offset)?)));
        match owner {
            Some((layer, node)) => self.tell(layer, node, offset, found),
            None => found.extend(self.label(offset)),
        }
    }

    fn tell(&mut self, layer: usize, innermost: Node, offset: u64, found: &mut Vec<Place>) {
        let mut node = Some(innermost);
        let first = found.len();
        while let Some(this) = node.take() {
            let layer = &self.layers[layer];
            let text = |number| layer.text(number).map(|text| String::from_utf8_lossy(text).into_owned());
            let (linkage, file) = (text(this.name), text(this.file));
            let is_last = this.parent == NONE || found.len() - first >= MAX_CHAIN;
            if !is_last {
                node = usize::try_from(this.parent).ok().and_then(|parent| layer.node(parent));
            }
            let linkage = linkage.map(|linkage| match node {
                // Lambdas and the like have no linker's name in debug information, but where they stand one.
                None if !name::is_mangled(&linkage) => self.mangled_at(this.entry).unwrap_or(linkage),
                _ => linkage,
            });
            let mut place = match linkage {
                Some(linkage) => Place {
                    function_offset: if node.is_none() { offset.checked_sub(this.entry) } else { None },
                    ..self.named(&linkage)
                },
                // Lines of assembly have no function; the linker knows one.
                None => self.label(offset).unwrap_or_default(),
            };
            place.file = file.map(|file| name::cut(&file));
            place.line = (this.line != 0).then_some(this.line);
            place.column = (this.line != 0 && this.column != 0).then_some(this.column);
            found.push(place);
        }
    }

    fn label(&mut self, offset: u64) -> Option<Place> {
        let (layer, label) = self.layers.iter().find_map(|layer| Some((layer, layer.label_of(offset)?)))?;
        let linkage = String::from_utf8_lossy(layer.text(label.name)?).into_owned();
        Some(Place { function_offset: offset.checked_sub(label.start), ..self.named(&linkage) })
    }

    /// Returns the linker's name of what begins here, if it is in a language's encoding.
    fn mangled_at(&self, entry: u64) -> Option<String> {
        let (layer, label) = self.layers.iter().find_map(|layer| Some((layer, layer.label_of(entry)?)))?;
        let name = layer.text(label.name).filter(|_| label.start == entry)?;
        let name = String::from_utf8_lossy(name);
        name::is_mangled(&name).then(|| name.into_owned())
    }

    fn named(&mut self, linkage: &str) -> Place {
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        let function = match self.names.get(linkage) {
            Some(function) => function.clone(),
            None => {
                let function = name::demangle(linkage);
                self.names.insert(linkage.into(), function.clone());
                function
            }
        };
        let symbol = (function != linkage).then(|| name::cut(linkage));
        Place { function: Some(function), symbol, ..Place::default() }
    }

    fn code(&mut self) -> Vec<Range<u64>> {
        self.code.get_or_insert_with(|| self.module.code()).clone()
    }

    fn read_labels(&mut self) {
        let code = self.code();
        let mini = mini_debug(&self.module, &mut self.lack);
        let files: Vec<_> =
            [self.files.debug.as_ref(), mini.as_ref(), Some(&self.module)].into_iter().flatten().collect();
        let mut tables = Tables::default();
        linker::read(&files, &code, &mut tables);
        self.add(tables);
    }

    /// Reads the units that speak of a place, which is in this range of code.
    fn read_units(&mut self, offset: u64, around: &Range<u64>, code: &[Range<u64>]) {
        self.load();
        let Some(debug) = &self.debug else { return };
        let units = debug.units_of(offset);
        let mut tables = Tables::default();
        let mut notes = Vec::new();
        let sources = Sources::new(debug);
        let mut walk = Walk::new(&sources, code, self.steps);
        for unit in &units {
            if let Err(fault) = walk.read(*unit, &mut tables) {
                notes.push(told(&fault));
            }
        }
        self.steps = walk.steps();
        tables.covered = if units.is_empty() { vec![debug.gap(offset, around)] } else { debug.claims_of(&units) };
        tables.covered.push((offset, offset.saturating_add(1)));
        self.note(notes);
        self.add(tables);
    }

    fn load(&mut self) {
        if self.debug.is_none() {
            let code = self.code();
            let holder = self.files.debug.as_ref().unwrap_or(&self.module);
            self.debug = Some(Debug::load(holder, self.files.supplementary.as_ref(), &code));
        }
    }

    fn complete(&mut self) {
        if !self.layers.iter().any(Cache::has_labels) {
            self.read_labels();
        }
        let code = self.code();
        let Some(start) = code.first().map(|range| range.start) else { return };
        // As far as a cache reaches.
        let everything = (start, start.saturating_add(u64::from(u32::MAX)));
        if !self.has_debug || self.layers.iter().any(|layer| layer.covers(start) && layer.covers(everything.1 - 1)) {
            return;
        }
        self.load();
        let Some(debug) = &self.debug else { return };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let share = debug.unit_count().div_ceil(threads).max(1);
        let read = |from: usize| {
            let sources = Sources::new(debug);
            let mut tables = Tables::default();
            let mut walk = Walk::new(&sources, &code, MAX_COMPLETE_STEPS / threads as u64);
            let mut notes = Vec::new();
            for unit in from..from.saturating_add(share).min(debug.unit_count()) {
                if let Err(fault) = walk.read(unit, &mut tables) {
                    notes.push(told(&fault));
                }
                if tables.is_full || walk.steps() == 0 {
                    notes.push("there is more debug information than is kept".to_owned());
                    break;
                }
            }
            (tables.image(), notes)
        };
        let parts = std::thread::scope(|scope| {
            let rest: Vec<_> = (1..threads)
                .filter_map(|part| std::thread::Builder::new().spawn_scoped(scope, move || read(part * share)).ok())
                .collect();
            let mut parts = vec![read(0)];
            parts.extend(rest.into_iter().filter_map(|thread| thread.join().ok()));
            parts
        });
        for (image, notes) in parts {
            self.note(notes);
            self.layers.extend(Cache::of_image(image));
        }
        let mut tables = Tables::default();
        tables.covered.push(everything);
        self.add(tables);
    }

    fn note(&mut self, notes: Vec<String>) {
        for note in notes {
            if self.lack.len() < 8 && !self.lack.contains(&note) {
                self.lack.push(note);
            }
        }
    }

    fn add(&mut self, tables: Tables) {
        self.layers.extend(Cache::of_image(tables.image()));
    }

    /// Makes one layer of all.
    fn flatten(&mut self) {
        let mut tables = Tables::default();
        for layer in &self.layers {
            tables.absorb(layer);
        }
        let image = tables.image();
        self.layers = Cache::of_image(image).into_iter().collect();
        self.kept = 0;
    }

    fn keep(&mut self) -> std::io::Result<()> {
        let Some(place) = self.place.clone() else { return Ok(()) };
        if self.layers.len() == self.kept {
            return Ok(());
        }
        if let ([only], 0) = (self.layers.as_slice(), self.kept) {
            cache::keep(only.bytes(), &place)?;
            self.kept = 1;
            return Ok(());
        }
        let mut tables = Tables::default();
        for layer in &self.layers {
            tables.absorb(layer);
        }
        if tables.is_full {
            // It has grown too long: what was found out now is what is kept.
            tables = Tables::default();
            self.layers.iter().skip(self.kept).for_each(|layer| tables.absorb(layer));
        }
        let image = tables.image();
        cache::keep(&image, &place)?;
        self.layers = Cache::of_image(image).into_iter().collect();
        self.kept = self.layers.len();
        Ok(())
    }
}

/// Returns where in its folder the cache of these files is: called after what they are, so that others have another.
fn cache_name(file: &ModuleFile, files: &DebugFiles) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    for part in [Some(file), files.debug.as_ref(), files.supplementary.as_ref()] {
        hasher.update(&part.map_or([0; 32], ModuleFile::stamp));
    }
    let digest = hex(&hasher.finalize().as_bytes()[..12]);
    let id = file.build_id().map_or_else(|| "none".to_owned(), hex);
    let (first, rest) = id.split_at(2);
    Path::new(first).join(format!("{rest}-{digest}.symbols"))
}

fn told(fault: &Fault) -> String {
    match fault {
        Fault::Broken(error) => format!("some debug information of it is broken: {error}"),
        Fault::Split => "functions of it are told in files of their own (`.dwo`), which are not read".to_owned(),
        Fault::Spent => "some debug information of it takes too long to read".to_owned(),
    }
}
