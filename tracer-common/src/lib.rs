//! What kernel programs and tracerd share: event records, their kinds, and the configuration of a
//! traced process. Plain data without I/O; `no_std`, so that it builds for the BPF target.

#![no_std]

pub mod calls;
pub mod cgroup;
pub mod events;
pub mod goroutine_status;
pub mod inlined;
mod numbers;
mod record;
mod sched;
pub mod target;
pub mod user;

pub use events::{Event, EventKind};
pub use record::{Counters, DecodeError, EventDef, FieldDef, HEADER_SIZE, Header};
