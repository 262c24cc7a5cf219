//! Splits a file or standard input (`-`), drops the frames, and says as JSON what that took; for `bench/dump`.
#![expect(clippy::print_stdout, reason = "whoever measures reads it there")]

use dump::parcel::{Packed, split_file, split_stream};
use std::fs::File;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which file?")?;
    let (begun, mut packed_bytes) = (Instant::now(), 0);
    let mut sink = |packed: Packed| {
        packed_bytes += packed.bytes.len();
        Ok(())
    };
    let split = match path.as_str() {
        "-" => split_stream(std::io::stdin(), &mut sink)?,
        path => split_file(&File::open(path)?, &mut sink)?,
    };
    let seconds = begun.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default().trim().to_owned();
    let manifest = &split.manifest;
    println!(
        "{{\"seconds\":{seconds:.4},\"size\":{},\"frames\":{},\"extents\":{},\"packed\":{packed_bytes},\"peak\":\"{peak}\",\"hash\":\"{}\"}}",
        manifest.size,
        manifest.frames.len(),
        manifest.extents.len(),
        split.hash()
    );
    Ok(())
}
