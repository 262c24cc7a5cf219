//! Reads one unit of DWARF: its functions with what is inlined into them, and its lines, into tables.
//!
//! Written over `gimli` rather than `addr2line`, which descends into itself as deep as a file says, and makes every path of a
//! line table whether it is used or not: both are for a hostile file to choose. Here nothing is recursive, and each entry,
//! range, row and step from a name to its origin costs one of a number of steps that is given. A unit that breaks off
//! midway is worth what was read of it.

use super::dwarf::{Slice, Sources};
use super::sweep::{Interval, sweep};
use super::table::{NONE, Node, Stretch, Tables};
use gimli::{AttributeValue, DebugInfoOffset, DebuggingInformationEntry, UnitOffset, UnitRef};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

/// How deep functions may be inlined into each other.
const MAX_INLINES: u32 = 128;
/// Steps from a function to what it is a copy of.
const MAX_HOPS: usize = 16;
/// Other units that are kept open for names.
const MAX_OPEN_UNITS: usize = 64;
/// Bytes of a path that is put together.
const MAX_PATH_BYTES: usize = 4096;
/// Scopes and rows of one unit.
const MAX_UNIT_ITEMS: usize = 4 << 20;

/// Why a unit was not read to its end.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is broken.
    Broken(gimli::Error),
    /// It takes more steps than are given.
    Spent,
    /// Only its lines are here, and its functions in a file of their own.
    Split,
}

impl From<gimli::Error> for Fault {
    fn from(error: gimli::Error) -> Self {
        Self::Broken(error)
    }
}

/// A function, or one inlined into another.
struct Scope {
    name: u32,
    /// The scope it is inlined into, and where: file, line, column.
    call: Option<(u32, u64, u32, u32)>,
    depth: u32,
}

/// A stretch of code that belongs to a line.
struct Row {
    start: u64,
    end: u64,
    file: u64,
    line: u32,
    column: u32,
}

/// A unit that is open, and the file it is of.
#[derive(Clone)]
struct Open<'a> {
    unit: Rc<gimli::Unit<Slice<'a>>>,
    is_supplementary: bool,
}

/// Reads units of one file.
pub(crate) struct Walk<'a> {
    sources: &'a Sources<'a>,
    code: &'a [Range<u64>],
    steps: u64,
    open: HashMap<(bool, usize), Open<'a>>,
    names: HashMap<(bool, usize), u32>,
    /// Of units in which it was asked for, what functions are in: namespaces and types, by the function's place.
    around: HashMap<(bool, usize), Rc<Around>>,
}

/// What the functions of a unit are in, by their places.
type Around = HashMap<usize, Rc<[u8]>>;

impl<'a> Walk<'a> {
    /// Begins to read, with as many steps as may be taken.
    pub(crate) fn new(sources: &'a Sources<'a>, code: &'a [Range<u64>], steps: u64) -> Self {
        Self { sources, code, steps, open: HashMap::new(), names: HashMap::new(), around: HashMap::new() }
    }

    /// Returns how many steps are left.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Reads a unit, given by its place in the list of units.
    pub(crate) fn read(&mut self, index: usize, tables: &mut Tables) -> Result<(), Fault> {
        let open = self.sources.open(index)?;
        let open = Open { unit: Rc::new(open), is_supplementary: false };
        tables.forget_nodes();
        let mut rows = Vec::new();
        let lines = self.lines(&open, &mut rows);
        settle(&mut rows);
        let (mut scopes, mut intervals) = (Vec::new(), Vec::new());
        let functions = self.scopes(&open, tables, &mut scopes, &mut intervals);
        let mut painter = Painter { walk: self, open: &open, scopes: &scopes, files: HashMap::new(), tables };
        painter.paint(intervals, &rows);
        let is_split = open.unit.dwo_id.is_some();
        lines.and(functions).and(if is_split { Err(Fault::Split) } else { Ok(()) })
    }

    fn spend(&mut self, steps: u64) -> Result<(), Fault> {
        self.steps = self.steps.checked_sub(steps).ok_or(Fault::Spent)?;
        Ok(())
    }

    fn is_code(&self, address: u64) -> bool {
        let after = self.code.partition_point(|range| range.start <= address);
        after.checked_sub(1).is_some_and(|index| address < self.code[index].end)
    }

    fn lines(&mut self, open: &Open<'a>, rows: &mut Vec<Row>) -> Result<(), Fault> {
        let Some(program) = open.unit.line_program.clone() else { return Ok(()) };
        let mut machine = program.rows();
        let mut from = rows.len();
        while let Some((_, row)) = machine.next_row()? {
            self.spend(1)?;
            if row.end_sequence() {
                close(rows, from, row.address());
                if rows.get(from).is_some_and(|first| !self.is_code(first.start)) {
                    rows.truncate(from);
                }
                from = rows.len();
                continue;
            }
            let line = row.line().map_or(0, |line| u32::try_from(line.get()).unwrap_or(0));
            let column = match row.column() {
                gimli::ColumnType::LeftEdge => 0,
                gimli::ColumnType::Column(column) => u32::try_from(column.get()).unwrap_or(0),
            };
            if rows.len() >= MAX_UNIT_ITEMS {
                return Err(Fault::Spent);
            }
            rows.push(Row { start: row.address(), end: 0, file: row.file_index(), line, column });
        }
        rows.truncate(from);
        Ok(())
    }

    /// Gathers functions, what is inlined into them, and where either is.
    fn scopes(
        &mut self,
        open: &Open<'a>,
        tables: &mut Tables,
        scopes: &mut Vec<Scope>,
        intervals: &mut Vec<Interval>,
    ) -> Result<(), Fault> {
        let unit = self.reference(open);
        let mut entries = unit.entries_raw(None)?;
        // The functions around the entry that is read, and how deep each is; those that are nowhere are `None`.
        let mut around: Vec<(isize, Option<u32>)> = Vec::new();
        while !entries.is_empty() {
            let (depth, offset) = (entries.next_depth(), entries.next_offset());
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            self.spend(1 + abbreviation.attributes().len() as u64)?;
            while around.last().is_some_and(|(last, _)| *last >= depth) {
                around.pop();
            }
            let is_inlined = match abbreviation.tag() {
                gimli::DW_TAG_subprogram => false,
                gimli::DW_TAG_inlined_subroutine => true,
                _ => {
                    entries.skip_attributes(abbreviation.attributes())?;
                    continue;
                }
            };
            let mut facts = Facts::default();
            for specification in abbreviation.attributes() {
                let attribute = entries.read_attribute(*specification)?;
                facts.take(unit, attribute.name(), attribute.value())?;
            }
            let parent = if is_inlined { around.last().and_then(|(_, scope)| *scope) } else { None };
            if is_inlined && parent.is_none() {
                around.push((depth, None));
                continue;
            }
            let scope = self.scope(open, (&facts, offset), parent, tables, (scopes, intervals))?;
            around.push((depth, scope));
        }
        Ok(())
    }

    /// Adds a function, if it is anywhere.
    fn scope(
        &mut self,
        open: &Open<'a>,
        (facts, offset): (&Facts<'a>, UnitOffset),
        parent: Option<u32>,
        tables: &mut Tables,
        (scopes, intervals): (&mut Vec<Scope>, &mut Vec<Interval>),
    ) -> Result<Option<u32>, Fault> {
        let depth = match parent.and_then(|parent| scopes.get(parent as usize)) {
            Some(parent) => parent.depth + 1,
            None => 0,
        };
        if depth > MAX_INLINES || scopes.len() >= MAX_UNIT_ITEMS {
            return Ok(None);
        }
        let number = u32::try_from(scopes.len()).map_err(|_| Fault::Spent)?;
        let first = intervals.len();
        self.ranges(open, facts, |start, end| intervals.push(Interval { start, end, scope: number, parent, depth }))?;
        if intervals.len() == first {
            return Ok(None);
        }
        if intervals.len() > MAX_UNIT_ITEMS {
            return Err(Fault::Spent);
        }
        let name = match facts.linkage {
            Some(name) => tables.intern(name.slice()),
            None => self.name(open, offset, tables)?,
        };
        let call = parent.map(|parent| (parent, facts.call_file, facts.call_line, facts.call_column));
        scopes.push(Scope { name, call, depth });
        Ok(Some(number))
    }

    fn ranges(&mut self, open: &Open<'a>, facts: &Facts<'a>, mut add: impl FnMut(u64, u64)) -> Result<(), Fault> {
        let mut one = |walk: &mut Self, start: u64, end: u64| {
            if start < end && walk.is_code(start) {
                add(start, end);
            }
        };
        if let Some(offset) = facts.ranges {
            let mut ranges = self.reference(open).ranges(offset)?;
            while let Some(range) = ranges.next()? {
                self.spend(1)?;
                one(self, range.begin, range.end);
            }
        } else if let Some(start) = facts.low {
            let end = facts.high.or_else(|| start.checked_add(facts.size?));
            one(self, start, end.unwrap_or(start));
        }
        Ok(())
    }

    /// Returns what the entry at this place is called, or what it is a copy of is.
    fn name(&mut self, open: &Open<'a>, offset: UnitOffset, tables: &mut Tables) -> Result<u32, Fault> {
        let mut place = Some((open.clone(), offset));
        let mut passed = Vec::new();
        let (mut found, mut plain) = (NONE, None);
        while let Some((open, offset)) = place.take() {
            self.spend(4)?;
            let key = open.unit.debug_info_offset().map(|unit| (open.is_supplementary, unit.0.wrapping_add(offset.0)));
            if let Some(known) = key.and_then(|key| self.names.get(&key)) {
                found = *known;
                break;
            }
            passed.extend(key);
            if passed.len() > MAX_HOPS {
                break;
            }
            let Ok(entry) = open.unit.entry(offset) else { break };
            let unit = self.reference(&open);
            if let Some(name) = text(unit, &entry, &[gimli::DW_AT_linkage_name, gimli::DW_AT_MIPS_linkage_name]) {
                (found, plain) = (tables.intern(name.slice()), None);
                break;
            }
            if let Some(name) = text(unit, &entry, &[gimli::DW_AT_name]) {
                plain = Some((open.clone(), offset, name));
            }
            let origins = [gimli::DW_AT_abstract_origin, gimli::DW_AT_specification];
            let origin = origins.iter().find_map(|name| entry.attr_value(*name));
            place = origin.and_then(|origin| self.follow(&open, origin));
        }
        // The linker knows nothing of what is nowhere but inlined.
        if let Some((open, offset, name)) = plain {
            found = match self.around(&open, offset)? {
                Some(around) => tables.intern(&[&around, name.slice()].concat()),
                None => tables.intern(name.slice()),
            };
        }
        for key in passed {
            self.names.insert(key, found);
        }
        Ok(found)
    }

    /// Returns the namespaces and types that a function is in, with what stands between them and its name.
    fn around(&mut self, open: &Open<'a>, offset: UnitOffset) -> Result<Option<Rc<[u8]>>, Fault> {
        let Some(start) = open.unit.debug_info_offset() else { return Ok(None) };
        let key = (open.is_supplementary, start.0);
        let there = match self.around.get(&key) {
            Some(there) => Rc::clone(there),
            None => {
                if self.around.len() >= MAX_OPEN_UNITS {
                    self.around.clear();
                }
                let there = Rc::new(self.all_around(open)?);
                self.around.insert(key, Rc::clone(&there));
                there
            }
        };
        Ok(there.get(&offset.0).cloned())
    }

    /// Reads what all functions of a unit are in that are in anything; nothing where the language has no such things.
    fn all_around(&mut self, open: &Open<'a>) -> Result<Around, Fault> {
        let unit = self.reference(open);
        let mut found = HashMap::new();
        let mut entries = unit.entries_raw(None)?;
        // How deep each is, and its name behind those of all around it; within a function nothing has one.
        let mut around: Vec<(isize, Option<Rc<[u8]>>)> = Vec::new();
        while !entries.is_empty() {
            let (depth, offset) = (entries.next_depth(), entries.next_offset());
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            self.spend(1 + abbreviation.attributes().len() as u64)?;
            while around.last().is_some_and(|(last, _)| *last >= depth) {
                around.pop();
            }
            let (tag, mut name, mut is_flat) = (abbreviation.tag(), None, false);
            for specification in abbreviation.attributes() {
                let attribute = entries.read_attribute(*specification)?;
                match attribute.name() {
                    gimli::DW_AT_name => name = unit.attr_string(attribute.value()).ok(),
                    gimli::DW_AT_language => is_flat = is_flat_language(attribute.value()),
                    _ => {}
                }
            }
            if is_flat && depth == 0 {
                return Ok(found);
            }
            let name = match (tag, &name) {
                (gimli::DW_TAG_subprogram, _) => {
                    if let Some((_, Some(around))) = around.last() {
                        found.insert(offset.0, Rc::clone(around));
                    }
                    around.push((depth, None));
                    continue;
                }
                (gimli::DW_TAG_namespace, None) => &b"(anonymous namespace)"[..],
                (
                    gimli::DW_TAG_namespace
                    | gimli::DW_TAG_class_type
                    | gimli::DW_TAG_structure_type
                    | gimli::DW_TAG_union_type
                    | gimli::DW_TAG_enumeration_type,
                    Some(name),
                ) => name.slice(),
                _ => continue,
            };
            let path = match around.last() {
                None => Some([name, b"::"].concat()),
                Some((_, Some(outer))) => {
                    Some([outer, name, b"::"].concat()).filter(|path| path.len() <= MAX_PATH_BYTES)
                }
                Some((_, None)) => None,
            };
            self.spend(path.as_ref().map_or(0, |path| path.len() as u64 / 16))?;
            around.push((depth, path.map(Rc::from)));
        }
        Ok(found)
    }

    /// Returns the entry that an attribute refers to.
    fn follow(&mut self, open: &Open<'a>, origin: AttributeValue<Slice<'a>>) -> Option<(Open<'a>, UnitOffset)> {
        let (is_supplementary, offset) = match origin {
            AttributeValue::UnitRef(offset) => return Some((open.clone(), offset)),
            AttributeValue::DebugInfoRef(offset) => (open.is_supplementary, offset),
            AttributeValue::DebugInfoRefSup(offset) => (true, offset),
            _ => return None,
        };
        let index = self.sources.unit_of(is_supplementary, offset)?;
        let unit = match self.open.get(&(is_supplementary, index)) {
            Some(open) => open.clone(),
            None => {
                let unit = Rc::new(self.sources.open_either(is_supplementary, index).ok()?);
                let opened = Open { unit, is_supplementary };
                if self.open.len() >= MAX_OPEN_UNITS {
                    self.open.clear();
                }
                self.open.insert((is_supplementary, index), opened.clone());
                opened
            }
        };
        let start = unit.unit.debug_info_offset()?;
        let inside = DebugInfoOffset(offset.0).0.checked_sub(start.0)?;
        Some((unit, UnitOffset(inside)))
    }

    fn reference<'b>(&self, open: &'b Open<'a>) -> UnitRef<'b, Slice<'a>>
    where
        'a: 'b,
    {
        UnitRef::new(self.sources.dwarf(open.is_supplementary), &open.unit)
    }
}

/// What the attributes of a function say.
#[derive(Default)]
struct Facts<'a> {
    low: Option<u64>,
    high: Option<u64>,
    size: Option<u64>,
    ranges: Option<gimli::RangeListsOffset>,
    linkage: Option<Slice<'a>>,
    call_file: u64,
    call_line: u32,
    call_column: u32,
}

impl<'a> Facts<'a> {
    fn take(
        &mut self,
        unit: UnitRef<'_, Slice<'a>>,
        name: gimli::DwAt,
        value: AttributeValue<Slice<'a>>,
    ) -> Result<(), Fault> {
        match name {
            gimli::DW_AT_low_pc => self.low = unit.attr_address(value)?,
            gimli::DW_AT_high_pc => match value.udata_value() {
                Some(size) => self.size = Some(size),
                None => self.high = unit.attr_address(value)?,
            },
            gimli::DW_AT_ranges => self.ranges = unit.attr_ranges_offset(value)?,
            gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => self.linkage = unit.attr_string(value).ok(),
            gimli::DW_AT_call_file => {
                self.call_file = match value {
                    AttributeValue::FileIndex(index) => index,
                    other => other.udata_value().unwrap_or(0),
                };
            }
            gimli::DW_AT_call_line => self.call_line = narrow(&value),
            gimli::DW_AT_call_column => self.call_column = narrow(&value),
            _ => {}
        }
        Ok(())
    }
}

/// Tells whether a language has no names within names.
fn is_flat_language(value: AttributeValue<Slice<'_>>) -> bool {
    use gimli::{DW_LANG_C, DW_LANG_C11, DW_LANG_C17, DW_LANG_C89, DW_LANG_C99, DW_LANG_Go, DW_LANG_Mips_Assembler};
    let AttributeValue::Language(language) = value else { return false };
    [DW_LANG_C, DW_LANG_C89, DW_LANG_C99, DW_LANG_C11, DW_LANG_C17, DW_LANG_Go, DW_LANG_Mips_Assembler]
        .contains(&language)
}

fn narrow(value: &AttributeValue<Slice<'_>>) -> u32 {
    value.udata_value().and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
}

fn text<'a>(
    unit: UnitRef<'_, Slice<'a>>,
    entry: &DebuggingInformationEntry<Slice<'a>>,
    names: &[gimli::DwAt],
) -> Option<Slice<'a>> {
    let value = names.iter().find_map(|name| entry.attr_value(*name))?;
    unit.attr_string(value).ok().filter(|text| !text.is_empty())
}

/// Gives each row of a sequence its end: the next one's start; of several at one address the last counts.
fn close(rows: &mut [Row], from: usize, end: u64) {
    let sequence = &mut rows[from..];
    for index in 0..sequence.len() {
        let next = sequence.get(index + 1).map_or(end, |next| next.start);
        sequence[index].end = next;
    }
}

/// Puts the rows of all sequences in order; of two that overlap the first keeps the place.
fn settle(rows: &mut Vec<Row>) {
    rows.retain(|row| row.start < row.end);
    rows.sort_by_key(|row| row.start);
    let mut reached = 0;
    rows.retain_mut(|row| {
        row.start = row.start.max(reached);
        reached = reached.max(row.end);
        row.start < row.end
    });
}

/// Turns scopes and rows into stretches of code and nodes.
struct Painter<'w, 'a> {
    walk: &'w mut Walk<'a>,
    open: &'w Open<'a>,
    scopes: &'w [Scope],
    files: HashMap<u64, u32>,
    tables: &'w mut Tables,
}

impl Painter<'_, '_> {
    fn paint(&mut self, intervals: Vec<Interval>, rows: &[Row]) {
        let pieces = sweep(intervals);
        let mut rows = rows.iter().peekable();
        let mut reached = 0;
        for piece in pieces {
            // Lines before it that belong to no function, as in units of assembly.
            while let Some(row) = rows.next_if(|row| row.end <= piece.start) {
                self.alone(row, reached, row.end);
            }
            if let Some(row) = rows.peek().filter(|row| row.start < piece.start) {
                let row = *row;
                self.alone(row, reached, piece.start);
            }
            let mut at = piece.start;
            while let Some(row) = rows.peek().copied().filter(|row| row.start < piece.end) {
                if at < row.start {
                    self.place(at, row.start, Some(piece.scope), piece.entry, None);
                    at = row.start;
                }
                let end = row.end.min(piece.end);
                self.place(at, end, Some(piece.scope), piece.entry, Some(row));
                at = end;
                if row.end > piece.end {
                    break;
                }
                rows.next();
            }
            self.place(at, piece.end, Some(piece.scope), piece.entry, None);
            reached = piece.end;
        }
        for row in rows {
            self.alone(row, reached, row.end);
        }
    }

    fn alone(&mut self, row: &Row, reached: u64, end: u64) {
        self.place(row.start.max(reached), end, None, row.start, Some(row));
    }

    fn place(&mut self, start: u64, end: u64, scope: Option<u32>, entry: u64, row: Option<&Row>) {
        if start >= end {
            return;
        }
        let (file, line, column) = row.map_or((NONE, 0, 0), |row| (self.file(row.file), row.line, row.column));
        let node = self.node(scope, entry, (file, line, column));
        self.tables.stretch(Stretch { start, end, node });
    }

    /// Returns the node of a place, after those that it is inlined into.
    fn node(&mut self, scope: Option<u32>, entry: u64, place: (u32, u32, u32)) -> u32 {
        let mut chain = Vec::new();
        let (mut scope, mut place) = (scope, place);
        loop {
            let known = scope.and_then(|scope| self.scopes.get(scope as usize));
            chain.push((known.map_or(NONE, |scope| scope.name), place));
            let Some((parent, file, line, column)) = known.and_then(|scope| scope.call) else { break };
            place = (self.file(file), line, column);
            // A parent stands before its children, and no deeper than `MAX_INLINES`.
            scope = Some(parent);
        }
        let mut parent = NONE;
        for (depth, (name, (file, line, column))) in chain.into_iter().rev().enumerate() {
            let entry = if depth == 0 { entry } else { 0 };
            parent = self.tables.node(Node { name, file, line, column, parent, entry });
            if parent == NONE {
                break;
            }
        }
        parent
    }

    fn file(&mut self, index: u64) -> u32 {
        if let Some(number) = self.files.get(&index) {
            return *number;
        }
        let path = self.path(index);
        let number = path.map_or(NONE, |path| self.tables.intern(path.as_bytes()));
        self.files.insert(index, number);
        number
    }

    fn path(&self, index: u64) -> Option<String> {
        let unit = self.walk.reference(self.open);
        let header = unit.line_program.as_ref()?.header();
        let file = header.file(index)?;
        let mut path = String::new();
        if let Some(folder) = &unit.comp_dir {
            push(&mut path, &folder.to_string_lossy());
        }
        // Before DWARF 5 folder 0 was the one above; since, it is written in the table, and the same.
        if file.directory_index() != 0
            && let Some(folder) = file.directory(header)
        {
            push(&mut path, &unit.attr_string(folder).ok()?.to_string_lossy());
        }
        push(&mut path, &unit.attr_string(file.path_name()).ok()?.to_string_lossy());
        Some(path)
    }
}

fn push(path: &mut String, part: &str) {
    if part.starts_with('/') {
        path.clear();
    } else if !path.is_empty() && !path.ends_with('/') {
        path.push('/');
    }
    let room = MAX_PATH_BYTES.saturating_sub(path.len());
    path.push_str(&part[..part.floor_char_boundary(room)]);
}
