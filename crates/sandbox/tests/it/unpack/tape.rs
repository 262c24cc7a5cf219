//! Archives written byte by byte, so that they may say what no honest writer would.

use std::io::Write;

/// An archive in the making.
#[derive(Clone, Default)]
pub(crate) struct Tape(pub(crate) Vec<u8>);

/// The header of one entry.
pub(crate) struct Head {
    block: [u8; 512],
}

impl Head {
    pub(crate) fn new(kind: u8, name: &[u8]) -> Self {
        let mut block = [0; 512];
        block[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        Self { block }
            .octal(100, 8, if kind == b'5' { 0o755 } else { 0o644 })
            .octal(108, 8, 0)
            .octal(116, 8, 0)
            .octal(124, 12, 0)
            .octal(136, 12, 1_000_000_000)
    }

    /// Writes a number into a field.
    pub(crate) fn octal(mut self, at: usize, width: usize, value: u64) -> Self {
        let text = format!("{value:0>width$o}\0", width = width - 1);
        self.block[at..at + width].copy_from_slice(text.as_bytes());
        self
    }

    pub(crate) fn bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn mode(self, mode: u64) -> Self {
        self.octal(100, 8, mode)
    }

    pub(crate) fn owner(self, user: u64, group: u64) -> Self {
        self.octal(108, 8, user).octal(116, 8, group)
    }

    pub(crate) fn size(self, size: u64) -> Self {
        self.octal(124, 12, size)
    }

    pub(crate) fn link(self, target: &[u8]) -> Self {
        self.bytes(157, target)
    }

    fn finish(mut self) -> [u8; 512] {
        self.block[148..156].copy_from_slice(b"        ");
        let sum: u32 = self.block.iter().map(|byte| u32::from(*byte)).sum();
        self.bytes(148, format!("{sum:06o}\0 ").as_bytes()).block
    }
}

impl Tape {
    pub(crate) fn head(mut self, head: Head) -> Self {
        self.0.extend_from_slice(&head.finish());
        self
    }

    /// Appends content and fills the block up.
    pub(crate) fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &[u8], content: &[u8]) -> Self {
        self.head(Head::new(b'0', name).size(content.len() as u64)).content(content)
    }

    pub(crate) fn folder(self, name: &[u8]) -> Self {
        self.head(Head::new(b'5', name))
    }

    pub(crate) fn symlink(self, name: &[u8], target: &[u8]) -> Self {
        self.head(Head::new(b'2', name).link(target))
    }

    pub(crate) fn hard_link(self, name: &[u8], target: &[u8]) -> Self {
        self.head(Head::new(b'1', name).link(target))
    }

    /// Appends PAX records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            write!(text, "{length} {key}=").expect("a vector takes it");
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.head(Head::new(b'x', b"pax").size(text.len() as u64)).content(&text)
    }

    /// Ends the archive as writers do.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}
