//! Where the Go runtime keeps things, by version of Go, on amd64: a table made from real toolchains
//! (`cargo xtask go-offsets` writes it), and the reader of DWARF that it is made with, which reads the
//! same from a program that has DWARF.

pub mod dwarf;
mod fields;
mod names;
mod table;
mod version;

pub use fields::{ABSENT, FIELDS, Field, Layout};
pub use names::{NO_NAMES, Names};
pub use version::{Distance, VERSIONS, Version, find, minor_of, nearest, newest};
