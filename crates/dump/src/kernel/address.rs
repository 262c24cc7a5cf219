//! A kernel's own addresses, as far as VMCOREINFO tells how they are translated.

use super::info::Info;
use super::pages::Pages;
use crate::memory::Memory;
use std::cell::RefCell;
use std::collections::HashMap;

/// Where a kernel's image is mapped on x86_64, and how far that may reach.
const IMAGE: u64 = 0xffff_ffff_8000_0000;
const IMAGE_BYTES: u64 = 1 << 30;
/// The bits of an entry of a page table that say where the next one is.
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
/// The bit of an entry that maps a large page.
const LARGE: u64 = 1 << 7;
/// Pages whose place is remembered.
const MAX_KNOWN: usize = 1 << 16;
const PAGE: u64 = 4096;

/// How addresses are translated.
#[derive(Debug)]
enum Way {
    /// The image by its offset, all else by page tables.
    X86 { phys_base: u64, tables: Option<u64>, levels: u32, mask: u64 },
    /// The image by its offset, the rest by where memory begins.
    Arm { image_offset: Option<u64>, address_bits: u32, memory_start: Option<u64> },
}

/// A kernel's memory by its own addresses.
#[derive(Debug)]
pub(super) struct Space<'a> {
    pages: &'a Pages<'a>,
    way: Way,
    known: RefCell<HashMap<u64, Option<u64>>>,
}

impl<'a> Space<'a> {
    /// Returns the memory of a kernel of some machine; none if nobody knows how that translates.
    pub(super) fn new(pages: &'a Pages<'a>, info: &Info, machine: &str, phys_base: Option<u64>) -> Option<Self> {
        let way = match machine {
            "x86_64" => {
                let phys_base = info.number("phys_base").or(phys_base).unwrap_or(0);
                let root = info.symbol("init_top_pgt").or_else(|| info.symbol("swapper_pg_dir"));
                let levels = if info.number("pgtable_l5_enabled") == Some(1) { 5 } else { 4 };
                let mask = info.number("sme_mask").unwrap_or(0);
                let tables = root.and_then(|root| in_image(root, phys_base));
                Way::X86 { phys_base, tables, levels, mask }
            }
            "aarch64" => Way::Arm {
                image_offset: info.number("kimage_voffset"),
                address_bits: info
                    .number("VA_BITS")
                    .and_then(|bits| u32::try_from(bits).ok())
                    .unwrap_or(48)
                    .clamp(36, 52),
                memory_start: info.number("PHYS_OFFSET"),
            },
            _ => return None,
        };
        Some(Self { pages, way, known: RefCell::default() })
    }

    /// Returns the physical address of a page.
    fn page(&self, page: u64) -> Option<u64> {
        if let Some(known) = self.known.borrow().get(&page) {
            return *known;
        }
        let physical = self.translate(page);
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(page, physical);
        physical
    }

    fn translate(&self, address: u64) -> Option<u64> {
        match self.way {
            Way::X86 { phys_base, tables, levels, mask } => {
                in_image(address, phys_base).or_else(|| self.walk(address, tables?, levels, !mask))
            }
            Way::Arm { image_offset, address_bits, memory_start } => {
                let start = (1_u64 << address_bits).wrapping_neg();
                let middle = (1_u64 << (address_bits - 1)).wrapping_neg();
                if address < start {
                    None
                } else if address < middle {
                    Some((address - start).wrapping_add(memory_start?))
                } else {
                    Some(address.wrapping_sub(image_offset?))
                }
            }
        }
    }

    /// Follows page tables of x86_64 from their root.
    fn walk(&self, address: u64, root: u64, levels: u32, mask: u64) -> Option<u64> {
        let mut table = root;
        for level in (0..levels).rev() {
            let shift = 12 + 9 * level;
            let index = address >> shift & 0x1ff;
            let mut entry = [0; 8];
            let at = table.checked_add(index * 8)?;
            (self.pages.read(at, &mut entry) == entry.len()).then_some(())?;
            let entry = u64::from_le_bytes(entry) & mask;
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 0 || (level <= 2 && entry & LARGE != 0) {
                let within = (1_u64 << shift) - 1;
                return Some((entry & FRAME & !within) | (address & within));
            }
            table = entry & FRAME;
        }
        None
    }
}

fn in_image(address: u64, phys_base: u64) -> Option<u64> {
    let within = address.wrapping_sub(IMAGE);
    (within < IMAGE_BYTES).then(|| within.wrapping_add(phys_base))
}

impl Memory for Space<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let Some(address) = address.checked_add(done as u64) else { break };
            let within = address % PAGE;
            let length = usize::try_from(PAGE - within).expect("a page is not long").min(into.len() - done);
            let Some(physical) = self.page(address - within) else { break };
            let Some(physical) = physical.checked_add(within) else { break };
            let read = self.pages.read(physical, &mut into[done..done + length]);
            done += read;
            if read < length {
                break;
            }
        }
        done
    }
}
