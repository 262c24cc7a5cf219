//! The debug information of one file: its sections, unpacked once, and which unit speaks of which code.
//!
//! The list of units is made from headers alone, and what they speak of from `.debug_aranges`; only of a unit that this
//! leaves out the first entry is read. A unit that says nowhere what code it has is not searched.

use super::table::joined;
use crate::module::{ModuleFile, Section};
use gimli::{AttributeValue, DebugInfoOffset, DwarfSections, EndianSlice, RunTimeEndian, SectionId};
use object::Object;
use std::ops::Range;

/// Units of one file.
const MAX_UNITS: usize = 2 << 20;
/// Ranges that the units of one file speak of.
const MAX_CLAIMS: usize = 4 << 20;
/// Claims that are looked through for those on one address.
const MAX_CLAIMS_BACK: usize = 256;
/// Units that are read for one address.
const MAX_UNITS_OF_ADDRESS: usize = 8;
/// Bytes of compressed sections that are worth a second thread.
const MIN_THREAD_BYTES: u64 = 256 << 10;

/// Bytes of a section, read as the file's machine would.
pub(crate) type Slice<'a> = EndianSlice<'a, RunTimeEndian>;

/// A unit's claim on a range of code.
#[derive(Clone, Copy, Debug)]
struct Claim {
    start: u64,
    end: u64,
    unit: u32,
    /// Where this claim and all before it have ended.
    reach: u64,
}

/// The debug information of one file.
#[derive(Debug)]
pub(crate) struct Debug {
    sections: DwarfSections<Option<Section>>,
    supplementary: Option<DwarfSections<Option<Section>>>,
    endian: RunTimeEndian,
    units: Vec<usize>,
    supplementary_units: Vec<usize>,
    claims: Vec<Claim>,
}

impl Debug {
    /// Reads where everything is.
    pub(crate) fn load(file: &ModuleFile, supplementary: Option<&ModuleFile>, code: &[Range<u64>]) -> Self {
        let is_little = file.elf().is_ok_and(|elf| elf.is_little_endian());
        let endian = if is_little { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let mut debug = Self {
            sections: sections(file),
            supplementary: supplementary.map(sections),
            endian,
            units: Vec::new(),
            supplementary_units: Vec::new(),
            claims: Vec::new(),
        };
        let sources = Sources::new(&debug);
        let units = offsets(&sources.dwarf);
        let supplementary_units = sources.dwarf.sup.as_deref().map(offsets).unwrap_or_default();
        let claims = claims(&sources.dwarf, &units, code);
        (debug.units, debug.supplementary_units, debug.claims) = (units, supplementary_units, claims);
        debug
    }

    /// Returns how many units there are.
    pub(crate) fn unit_count(&self) -> usize {
        self.units.len()
    }

    /// Returns the units that speak of an address.
    pub(crate) fn units_of(&self, address: u64) -> Vec<usize> {
        let after = self.claims.partition_point(|claim| claim.start <= address);
        let before = self.claims[..after].iter().rev().take(MAX_CLAIMS_BACK).take_while(|claim| claim.reach > address);
        let mut units: Vec<_> = before.filter(|claim| claim.end > address).map(|claim| claim.unit as usize).collect();
        units.sort_unstable();
        units.dedup();
        units.truncate(MAX_UNITS_OF_ADDRESS);
        units
    }

    /// Returns what these units speak of.
    pub(crate) fn claims_of(&self, units: &[usize]) -> Vec<(u64, u64)> {
        let claims = self.claims.iter().filter(|claim| units.contains(&(claim.unit as usize)));
        joined(claims.map(|claim| (claim.start, claim.end)).collect())
    }

    /// Returns the stretch of this range around an address of which no unit speaks.
    pub(crate) fn gap(&self, address: u64, around: &Range<u64>) -> (u64, u64) {
        let after = self.claims.partition_point(|claim| claim.start <= address);
        let start = after.checked_sub(1).map_or(0, |index| self.claims[index].reach.min(address));
        let end = self.claims.get(after).map_or(u64::MAX, |claim| claim.start);
        (start.max(around.start), end.min(around.end))
    }
}

/// The debug information of one file, ready to be read.
pub(crate) struct Sources<'a> {
    dwarf: gimli::Dwarf<Slice<'a>>,
    debug: &'a Debug,
}

impl<'a> Sources<'a> {
    /// Makes it ready, which costs nothing much.
    pub(crate) fn new(debug: &'a Debug) -> Self {
        let borrow = |section: &'a Option<Section>| Slice::new(section.as_deref().unwrap_or_default(), debug.endian);
        let mut dwarf = debug.sections.borrow(borrow);
        if let Some(supplementary) = &debug.supplementary {
            dwarf.set_sup(supplementary.borrow(borrow));
        }
        Self { dwarf, debug }
    }

    /// Returns the file itself, or what it shares with others.
    pub(crate) fn dwarf(&self, is_supplementary: bool) -> &gimli::Dwarf<Slice<'a>> {
        if is_supplementary { self.dwarf.sup.as_deref().unwrap_or(&self.dwarf) } else { &self.dwarf }
    }

    /// Opens a unit of the file.
    pub(crate) fn open(&self, index: usize) -> gimli::Result<gimli::Unit<Slice<'a>>> {
        self.open_either(false, index)
    }

    /// Opens a unit of the file, or of what it shares with others.
    pub(crate) fn open_either(&self, is_supplementary: bool, index: usize) -> gimli::Result<gimli::Unit<Slice<'a>>> {
        let units = if is_supplementary { &self.debug.supplementary_units } else { &self.debug.units };
        let offset = *units.get(index).ok_or(gimli::Error::MissingUnitDie)?;
        let dwarf = self.dwarf(is_supplementary);
        dwarf.unit(dwarf.unit_header(DebugInfoOffset(offset))?)
    }

    /// Returns the unit that an offset lies in.
    pub(crate) fn unit_of(&self, is_supplementary: bool, offset: DebugInfoOffset) -> Option<usize> {
        let units = if is_supplementary { &self.debug.supplementary_units } else { &self.debug.units };
        units.partition_point(|start| *start <= offset.0).checked_sub(1)
    }
}

/// Returns the sections that are needed, unpacked; those that cannot be are as if they were not there.
fn sections(file: &ModuleFile) -> DwarfSections<Option<Section>> {
    let read = |id: SectionId| match id {
        SectionId::DebugInfo => None,
        SectionId::DebugAbbrev
        | SectionId::DebugAddr
        | SectionId::DebugAranges
        | SectionId::DebugLine
        | SectionId::DebugLineStr
        | SectionId::DebugRanges
        | SectionId::DebugRngLists
        | SectionId::DebugStr
        | SectionId::DebugStrOffsets => file.section(id.name()),
        _ => None,
    };
    let all =
        || DwarfSections::load(|id| Ok::<_, std::convert::Infallible>(read(id))).unwrap_or_else(|never| match never {});
    let info = || file.section(SectionId::DebugInfo.name());
    // The one section is about as long as all others together, and unpacking is most of the work of a first look.
    let is_long = file.is_compressed(SectionId::DebugInfo.name(), MIN_THREAD_BYTES);
    let (mut sections, info) = std::thread::scope(|scope| {
        let second = is_long.then(|| std::thread::Builder::new().spawn_scoped(scope, info).ok()).flatten();
        let sections = all();
        let info = match second {
            Some(second) => second.join().unwrap_or(None),
            None => info(),
        };
        (sections, info)
    });
    sections.debug_info =
        gimli::Section::load(|_| Ok::<_, std::convert::Infallible>(info)).unwrap_or_else(|never| match never {});
    sections
}

/// Returns where units begin.
fn offsets(dwarf: &gimli::Dwarf<Slice<'_>>) -> Vec<usize> {
    let mut units = dwarf.units();
    let mut offsets = Vec::new();
    while let Ok(Some(header)) = units.next() {
        if offsets.len() >= MAX_UNITS {
            break;
        }
        offsets.extend(header.debug_info_offset().map(|offset| offset.0));
    }
    offsets
}

/// Tells whether a unit claims more than there are addresses, which is added up unchecked where ranges are read.
fn is_endless(unit: &gimli::Unit<Slice<'_>>) -> bool {
    let mut entries = unit.header.entries(&unit.abbreviations);
    let root = entries.next_dfs().ok().flatten();
    root.and_then(|root| root.attr_value(gimli::DW_AT_high_pc))
        .is_some_and(|high| matches!(high, AttributeValue::Udata(bytes) if unit.low_pc.checked_add(bytes).is_none()))
}

/// Returns which unit speaks of which code, sorted.
fn claims(dwarf: &gimli::Dwarf<Slice<'_>>, units: &[usize], code: &[Range<u64>]) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut has_ranges = vec![false; units.len()];
    let mut claim = |unit: usize, start: u64, end: u64| {
        let after = code.partition_point(|range| range.start <= start);
        let is_code = after.checked_sub(1).is_some_and(|index| start < code[index].end);
        if start < end && is_code && claims.len() < MAX_CLAIMS {
            claims.push(Claim { start, end, unit: u32::try_from(unit).unwrap_or(0), reach: 0 });
        }
    };
    let mut headers = dwarf.debug_aranges.headers();
    while let Ok(Some(header)) = headers.next() {
        let Ok(unit) = units.binary_search(&header.debug_info_offset().0) else { continue };
        has_ranges[unit] = true;
        let mut entries = header.entries();
        while let Ok(Some(entry)) = entries.next() {
            claim(unit, entry.range().begin, entry.range().end);
        }
    }
    let mut spent = 0;
    for (index, offset) in units.iter().enumerate().filter(|(index, _)| !has_ranges[*index]) {
        let Ok(unit) = dwarf.unit_header(DebugInfoOffset(*offset)).and_then(|header| dwarf.unit(header)) else {
            continue;
        };
        if is_endless(&unit) {
            continue;
        }
        let Ok(mut ranges) = dwarf.unit_ranges(&unit) else { continue };
        while let Ok(Some(range)) = ranges.next() {
            spent += 1;
            if spent > MAX_CLAIMS {
                break;
            }
            claim(index, range.begin, range.end);
        }
    }
    claims.sort_unstable_by_key(|claim| (claim.start, claim.end, claim.unit));
    let mut reach = 0;
    for claim in &mut claims {
        reach = reach.max(claim.end);
        claim.reach = reach;
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One unit that claims so many bytes from an address on.
    fn claimed(low: u64, bytes: u64) -> Vec<(u64, u64)> {
        let abbreviations = [1, 0x11, 0, 0x11, 0x01, 0x12, 0x07, 0, 0, 0];
        let mut unit = vec![4, 0, 0, 0, 0, 0, 8, 1];
        unit.extend(low.to_le_bytes().into_iter().chain(bytes.to_le_bytes()));
        let info = [&(unit.len() as u32).to_le_bytes(), unit.as_slice()].concat();
        let section = |id| match id {
            SectionId::DebugAbbrev => &abbreviations[..],
            SectionId::DebugInfo => &info[..],
            _ => &[],
        };
        let sections = DwarfSections::load(|id| Ok::<_, gimli::Error>(section(id))).expect("are there");
        let dwarf = sections.borrow(|section| EndianSlice::new(section, RunTimeEndian::Little));
        let claims = claims(&dwarf, &offsets(&dwarf), &[0..0x8000, 0x8000..u64::MAX]);
        claims.into_iter().map(|claim| (claim.start, claim.end)).collect()
    }

    #[test]
    fn a_unit_that_claims_too_much_gets_nothing() {
        assert_eq!(claimed(0x1000, 0x20), [(0x1000, 0x1020)]);
        assert_eq!(claimed(u64::MAX - 8, 8), [(u64::MAX - 8, u64::MAX)]);
        assert_eq!(claimed(u64::MAX - 8, 9), []);
    }
}
