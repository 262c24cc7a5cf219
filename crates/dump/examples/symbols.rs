//! Looks places of a module up, to see what is found and how long it takes.
//!
//! `symbols FILE [--cache FOLDER] [--complete] [--quiet] [--debug FOLDER] ADDRESS…`: addresses in hexadecimal digits, or on standard input.
//! Prints as `addr2line -f -i` does, and the time of opening, of all look-ups and of keeping.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() -> std::io::Result<()> {
    let mut places =
        dump::Places { roots: vec!["/".into()], debug: vec!["/usr/lib/debug".into()], ..Default::default() };
    let (mut is_complete, mut is_quiet, mut rest) = (false, false, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--cache" => places.cache = arguments.next().map(PathBuf::from),
            "--debug" => places.debug = arguments.next().map(PathBuf::from).into_iter().collect(),
            "--complete" => is_complete = true,
            "--quiet" => is_quiet = true,
            _ => rest.push(argument),
        }
    }
    let path = rest.first().cloned().unwrap_or_default();
    let mut words = rest.split_off(rest.len().min(1));
    if words.is_empty() && !is_complete {
        words = std::io::stdin().lines().collect::<Result<_, _>>()?;
    }
    let addresses: Vec<_> =
        words.iter().filter_map(|word| u64::from_str_radix(word.trim().trim_start_matches("0x"), 16).ok()).collect();
    let began = Instant::now();
    let file = dump::ModuleFile::open(Path::new(&path)).map_err(std::io::Error::other)?;
    let symbols = dump::Symbols::open(&file, &places);
    let opened = began.elapsed();
    if is_complete {
        symbols.complete();
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut found = Vec::new();
    for address in &addresses {
        found.clear();
        symbols.find(*address, &mut found);
        if is_quiet {
            continue;
        }
        writeln!(out, "{address:#x}")?;
        for place in &found {
            let name = place.function.as_deref().unwrap_or("??");
            let symbol = place.symbol.as_deref().unwrap_or(name);
            let file = place.file.as_deref().unwrap_or("??");
            writeln!(out, "{name}\t{symbol}\t{file}:{}:{}", place.line.unwrap_or(0), place.column.unwrap_or(0))?;
        }
    }
    out.flush()?;
    let found = began.elapsed();
    symbols.keep()?;
    let kept = began.elapsed();
    let error = &mut std::io::stderr().lock();
    writeln!(error, "{:?} {:?}: {} addresses", symbols.level(), symbols.lack(), addresses.len())?;
    writeln!(error, "open {opened:?}, find {:?}, keep {:?}", found - opened, kept - found)
}
