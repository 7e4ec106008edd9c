//! The export of Go execution traces, checked by a strict reader of such files.

mod db;
mod decode;
mod fuzz;
mod goroutines;
mod runtime;
mod text;
mod validate;
