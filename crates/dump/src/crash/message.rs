//! What the C library says before it gives up: the text of an assertion, of its allocator, of a smashed stack. It keeps it
//! for debuggers, behind the symbol `__abort_msg`.

use crate::core::View;
use crate::memory::read_some;
use crate::unwind::Loaded;
use object::{Object, ObjectSymbol};

/// Bytes of a message.
const MAX_MESSAGE_BYTES: usize = 4096;
/// Symbols of one module that are looked through.
const MAX_SYMBOLS: usize = 1 << 20;
/// Modules that are looked through.
const MAX_SEARCHED: usize = 64;

const SYMBOL: &str = "__abort_msg";

/// Returns what the C library said last, if it said something.
pub(super) fn abort_message(view: &View<'_>) -> Option<String> {
    let is_library = |module: &&Loaded| module.file().is_some_and(|file| is_c_library(file.path()));
    let library = view.modules.iter().find(is_library);
    // A program that was linked with all it needs has it itself.
    let modules = library.into_iter().chain(view.modules.iter().take(MAX_SEARCHED));
    let address = modules.take(MAX_SEARCHED).find_map(symbol)?;
    let layout = view.core.header.layout;
    let pointer = layout.word(&read_some(view, address, layout.word_bytes()), 0)?;
    if pointer == 0 {
        return None;
    }
    // Its length, then the text.
    let text = read_some(view, pointer.checked_add(4)?, MAX_MESSAGE_BYTES);
    let text = String::from_utf8_lossy(text.split(|byte| *byte == 0).next()?).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn is_c_library(path: &std::path::Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("libc.so") || name.starts_with("libc-"))
}

fn symbol(module: &Loaded) -> Option<u64> {
    let elf = module.file()?.elf().ok()?;
    let mut symbols = elf.dynamic_symbols().take(MAX_SYMBOLS);
    let found = symbols.find(|symbol| symbol.is_definition() && symbol.name() == Ok(SYMBOL));
    let address = match found {
        Some(symbol) => symbol.address(),
        None if elf.dynamic_symbols().next().is_none() => {
            let mut symbols = elf.symbols().take(MAX_SYMBOLS);
            symbols.find(|symbol| symbol.is_definition() && symbol.name() == Ok(SYMBOL))?.address()
        }
        None => return None,
    };
    Some(module.bias.wrapping_add(address))
}
