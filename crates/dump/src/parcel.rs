//! Frames of dumps: cutting a dump into them in one pass, and putting it together again, whole or as far as is looked at.
//!
//! A dump is cut on a grid that begins afresh at each segment of a core, so that equal memory of two dumps becomes equal
//! frames wherever it lies in the files; holes and zero pages become nothing at all. The steps of the grid are small where
//! a dump begins and grow with the place in the file (`Grid`): so the number of frames is bounded however long it is.
//! Little pieces that follow each other share a frame. What each frame is called, and how frames, parcels and manifests
//! are written down, is `model::parcel`.
//!
//! Memory is bounded whatever the dump: a few frames on their way, and a few dozen bytes for each frame that was cut.

mod assembly;
mod cutter;
mod grid;
mod splitter;

pub use assembly::{Assembler, Assembly, AssemblyError, Frames};
pub use grid::{Head, MAX_HEAD_BYTES};
pub use splitter::{
    Packed, Split, SplitError, head_of_file, head_of_stream, split_file, split_file_by, split_stream, split_stream_by,
};
