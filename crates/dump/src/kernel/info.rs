//! VMCOREINFO: the lines by which a kernel tells of itself to whoever reads its dump.

use model::report::MAX_NAME_CHARS;
use std::collections::BTreeMap;

/// Bytes of it; a kernel keeps one page.
const MAX_BYTES: usize = 64 << 10;
/// Lines of it.
const MAX_LINES: usize = 4096;

/// What a kernel tells of itself.
#[derive(Debug, Default)]
pub(super) struct Info(BTreeMap<String, String>);

impl Info {
    /// Reads the lines.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_BYTES)]);
        let lines = text.lines().take(MAX_LINES).filter_map(|line| line.trim_end_matches('\0').split_once('='));
        let cut = |text: &str| crate::text::line::cut(text, MAX_NAME_CHARS).to_owned();
        Self(lines.map(|(key, value)| (cut(key), cut(value))).collect())
    }

    /// Returns the value of a line.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Returns where something is.
    pub(super) fn symbol(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.get(&format!("SYMBOL({name})"))?, 16).ok()
    }

    /// Returns how many bytes something takes.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        self.get(&format!("SIZE({name})"))?.parse().ok()
    }

    /// Returns where in its whole something is.
    pub(super) fn offset(&self, name: &str) -> Option<u64> {
        self.get(&format!("OFFSET({name})"))?.parse().ok().filter(|offset| *offset < 1 << 20)
    }

    /// Returns a number, as the bits it has, since some are told as negative ones.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let text = self.get(&format!("NUMBER({name})"))?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse::<i64>().map(i64::cast_unsigned).or_else(|_| text.parse()).ok(),
        }
    }

    /// Returns all lines.
    pub(super) fn into_lines(self) -> BTreeMap<String, String> {
        self.0
    }
}
