//! The binary as its users meet it: words in, words and an exit code out.

mod analysis;
mod blob;
mod change;
mod chaos;
mod connection;
mod doctor;
mod dump;
mod entity;
mod execution;
mod hand;
mod image;
mod kill;
mod life;
mod measure;
mod node;
mod reach;
mod registry;
mod room;
mod run;
mod runtime;
mod stub;
mod system;
mod tour;
mod usage;
mod view;
