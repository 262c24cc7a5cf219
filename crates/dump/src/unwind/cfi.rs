//! Call frame information: finds the row that tells, for one place in the code, where the caller's registers are.
//!
//! A module's `.eh_frame` is searched through its sorted index, in the mapped file, without copying anything. Where there
//! is no index, and for `.debug_frame`, one is made by reading the section once. Nothing here reads the memory of what died.

use super::fuel::Fuel;
use super::loaded::Loaded;
use gimli::{
    BaseAddresses, CfaRule, CieOrFde, DebugFrame, DebugFrameOffset, EhFrame, EhFrameHdr, EhFrameOffset, Encoding,
    EndianSlice, Reader, RegisterRule, RunTimeEndian, UnwindContext, UnwindSection,
};
use std::cell::OnceCell;

pub(super) type Slice<'a> = EndianSlice<'a, RunTimeEndian>;

/// Entries of an index that is made here.
const MAX_ENTRIES: usize = 4 << 20;
/// Bytes of one entry; compilers write some hundreds.
const MAX_ENTRY_BYTES: usize = 1 << 20;
/// Rules of one row.
const MAX_RULES: usize = 64;

/// Where the value of a register is to be found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule<'a> {
    Undefined,
    Same,
    /// In memory, so far from the frame's address.
    At(i64),
    /// So far from the frame's address, itself.
    Is(i64),
    Register(u16),
    AtExpression(Slice<'a>),
    IsExpression(Slice<'a>),
    Constant(u64),
}

/// What the frame's address is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Base<'a> {
    Register(u16, i64),
    Expression(Slice<'a>),
}

/// What holds for one place in the code.
#[derive(Clone, Debug)]
pub(super) struct Row<'a> {
    pub(super) base: Base<'a>,
    pub(super) rules: Vec<(u16, Rule<'a>)>,
    pub(super) return_register: u16,
    /// Whether what called this was interrupted rather than made a call.
    pub(super) is_signal: bool,
    pub(super) encoding: Encoding,
}

/// The call frame information of one module.
#[derive(Debug)]
pub(super) struct Table<'a> {
    module: &'a Loaded,
    endian: RunTimeEndian,
    frames: OnceCell<Option<Frames<'a>>>,
    debug: OnceCell<Option<Made<'a, DebugFrame<Slice<'a>>>>>,
}

/// `.eh_frame`, and how it is searched.
#[derive(Debug)]
enum Frames<'a> {
    Indexed(Index<'a>, Section<EhFrame<Slice<'a>>>),
    Made(Made<'a, EhFrame<Slice<'a>>>),
}

/// A section, and what its pointers are counted from.
#[derive(Debug)]
struct Section<S> {
    entries: S,
    bases: BaseAddresses,
}

/// The sorted table of `.eh_frame_hdr` in the one form that linkers write: pairs of four bytes, counted from its start.
#[derive(Debug)]
struct Index<'a> {
    pairs: Slice<'a>,
    start: u64,
    frames: u64,
}

/// A section with an index that was made here: where each entry's code begins, where it ends, and where the entry is.
#[derive(Debug)]
struct Made<'a, S: UnwindSection<Slice<'a>>> {
    section: Section<S>,
    index: Vec<(u64, u64, S::Offset)>,
}

impl<'a> Table<'a> {
    /// Prepares a module's information; nothing is read before it is asked for.
    pub(super) fn new(module: &'a Loaded) -> Self {
        let is_big = module.file().is_some_and(|file| file.bytes().get(5) == Some(&2));
        let endian = if is_big { RunTimeEndian::Big } else { RunTimeEndian::Little };
        Self { module, endian, frames: OnceCell::new(), debug: OnceCell::new() }
    }

    /// Returns the row that holds at one of the module's own addresses.
    pub(super) fn row(&self, address: u64, context: &mut UnwindContext<usize>, fuel: &mut Fuel) -> Option<Row<'a>> {
        let frames = self.frames.get_or_init(|| self.indexed().or_else(|| self.scanned()));
        let found = match frames {
            Some(Frames::Indexed(index, section)) => {
                index.find(address).and_then(|at| section.row(EhFrameOffset(at), address, context, fuel))
            }
            Some(Frames::Made(made)) => made.row(address, context, fuel),
            None => None,
        };
        found.or_else(|| self.debug.get_or_init(|| self.debug_frame()).as_ref()?.row(address, context, fuel))
    }

    /// Finds `.eh_frame` by its index, as a running program would.
    fn indexed(&self) -> Option<Frames<'a>> {
        let loaded = self.module.index().and_then(|start| Some((start, self.module.part(start)?)));
        // What is packed to be sent has sections, and nothing that is loaded.
        let (start, bytes) = loaded.or_else(|| self.module.section(".eh_frame_hdr"))?;
        // Version 1; a pointer to the frames from here, a count, and pairs counted from the start of all this.
        if *bytes.first_chunk::<4>()? != [1, 0x1b, 0x03, 0x3b] {
            return None;
        }
        let bases = BaseAddresses::default().set_eh_frame_hdr(start);
        let header = EhFrameHdr::new(bytes, self.endian).parse(&bases, 8).ok()?;
        let frames = header.eh_frame_ptr().direct().ok()?;
        let mut count = Slice::new(bytes.get(8..12)?, self.endian);
        let count = usize::try_from(count.read_u32().ok()?).ok()?;
        let pairs = &bytes[12..];
        let pairs = &pairs[..count.checked_mul(8)?.min(pairs.len() / 8 * 8)];
        let index = Index { pairs: Slice::new(pairs, self.endian), start, frames };
        let packed = || self.module.section(".eh_frame").filter(|section| section.0 == frames).map(|section| section.1);
        let entries = EhFrame::new(self.module.part(frames).or_else(packed)?, self.endian);
        (!pairs.is_empty()).then(|| Frames::Indexed(index, Section::new(entries, bases.set_eh_frame(frames), self)))
    }

    /// Finds `.eh_frame` by its name, and makes an index for it.
    fn scanned(&self) -> Option<Frames<'a>> {
        let (address, bytes) = self.module.section(".eh_frame")?;
        let bases = BaseAddresses::default().set_eh_frame(address);
        let section = Section::new(EhFrame::new(bytes, self.endian), bases, self);
        Some(Frames::Made(Made::new(section, EhFrame::cie_from_offset, EhFrameOffset)))
    }

    fn debug_frame(&self) -> Option<Made<'a, DebugFrame<Slice<'a>>>> {
        let bytes = self.module.debug_frame()?;
        let section = Section::new(DebugFrame::new(bytes, self.endian), BaseAddresses::default(), self);
        Some(Made::new(section, DebugFrame::cie_from_offset, DebugFrameOffset))
    }
}

impl<'a> Index<'a> {
    /// Returns where in the section the entry lies that should hold for an address.
    fn find(&self, address: u64) -> Option<usize> {
        let number = |at: usize| {
            let mut bytes = Slice::new(self.pairs.slice().get(at..at + 4)?, self.pairs.endian());
            let number = bytes.read_u32().ok()?.cast_signed();
            Some(self.start.wrapping_add_signed(i64::from(number)))
        };
        let (mut low, mut high) = (0, self.pairs.slice().len() / 8);
        while low < high {
            let middle = low.midpoint(high);
            if number(8 * middle)? <= address { low = middle + 1 } else { high = middle }
        }
        let entry = number(8 * low.checked_sub(1)? + 4)?;
        usize::try_from(entry.checked_sub(self.frames)?).ok()
    }
}

impl<'a, S: UnwindSection<Slice<'a>>> Made<'a, S> {
    fn new(
        section: Section<S>,
        cie: fn(&S, &BaseAddresses, S::Offset) -> gimli::Result<gimli::CommonInformationEntry<Slice<'a>>>,
        offset: fn(usize) -> S::Offset,
    ) -> Self {
        let mut index = Vec::new();
        {
            let mut entries = section.entries.entries(&section.bases);
            while let Ok(Some(entry)) = entries.next() {
                if index.len() >= MAX_ENTRIES {
                    break;
                }
                let CieOrFde::Fde(partial) = entry else { continue };
                if let Ok(entry) = partial.parse(cie) {
                    index.push((entry.initial_address(), entry.end_address(), offset(entry.offset())));
                }
            }
        }
        index.sort_by_key(|entry| entry.0);
        Self { section, index }
    }

    fn row(&self, address: u64, context: &mut UnwindContext<usize>, fuel: &mut Fuel) -> Option<Row<'a>> {
        let at = self.index.partition_point(|entry| entry.0 <= address).checked_sub(1)?;
        let (_, end, offset) = self.index[at];
        (address < end).then(|| self.section.row(offset, address, context, fuel)).flatten()
    }
}

impl<'a, S: UnwindSection<Slice<'a>>> Section<S> {
    /// Reads the row for an address out of the entry at `offset`.
    fn row(
        &self,
        offset: S::Offset,
        address: u64,
        context: &mut UnwindContext<usize>,
        fuel: &mut Fuel,
    ) -> Option<Row<'a>> {
        let entry = self.entries.fde_from_offset(&self.bases, offset, S::cie_from_offset).ok()?;
        let cost = entry.entry_len().saturating_add(entry.cie().entry_len());
        if !entry.contains(address) || cost > MAX_ENTRY_BYTES {
            return None;
        }
        fuel.spend(cost as u64)?;
        let row = entry.unwind_info_for_address(&self.entries, &self.bases, context, address).ok()?;
        let expression = |expression: &gimli::UnwindExpression<usize>| Some(expression.get(&self.entries).ok()?.0);
        let base = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => Base::Register(register.0, *offset),
            CfaRule::Expression(found) => Base::Expression(expression(found)?),
        };
        let mut rules = Vec::new();
        for (register, rule) in row.registers().take(MAX_RULES) {
            let rule = match rule {
                RegisterRule::Undefined | RegisterRule::Architectural => Rule::Undefined,
                RegisterRule::SameValue => Rule::Same,
                RegisterRule::Offset(offset) => Rule::At(*offset),
                RegisterRule::ValOffset(offset) => Rule::Is(*offset),
                RegisterRule::Register(register) => Rule::Register(register.0),
                RegisterRule::Expression(found) => Rule::AtExpression(expression(found)?),
                RegisterRule::ValExpression(found) => Rule::IsExpression(expression(found)?),
                RegisterRule::Constant(value) => Rule::Constant(*value),
            };
            rules.push((register.0, rule));
        }
        Some(Row {
            base,
            rules,
            return_register: entry.cie().return_address_register().0,
            is_signal: entry.is_signal_trampoline(),
            encoding: entry.cie().encoding(),
        })
    }
}

/// Sections that want to be told how wide an address is, and whose dialect they are in.
trait Told {
    fn tell(&mut self, address_size: u8, vendor: gimli::Vendor);
}

impl Told for EhFrame<Slice<'_>> {
    fn tell(&mut self, address_size: u8, vendor: gimli::Vendor) {
        self.set_address_size(address_size);
        self.set_vendor(vendor);
    }
}

impl Told for DebugFrame<Slice<'_>> {
    fn tell(&mut self, address_size: u8, vendor: gimli::Vendor) {
        self.set_address_size(address_size);
        self.set_vendor(vendor);
    }
}

impl<S: Told> Section<S> {
    fn new(mut entries: S, bases: BaseAddresses, table: &Table<'_>) -> Self {
        let bytes = table.module.file().map(|file| file.bytes()).unwrap_or_default();
        let is_narrow = bytes.get(4) == Some(&1);
        let machine = Slice::new(bytes.get(18..20).unwrap_or(&[0, 0]), table.endian).read_u16();
        // On ARM of 64 bits one instruction of the tables means another thing than everywhere else.
        let vendor = if machine == Ok(183) { gimli::Vendor::AArch64 } else { gimli::Vendor::Default };
        entries.tell(if is_narrow { 4 } else { 8 }, vendor);
        Self { entries, bases }
    }
}
