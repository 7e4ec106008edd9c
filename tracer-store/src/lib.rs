//! The store of tracerd: a SQLite database that holds what was traced, written by one [`Writer`] and
//! read by any number of [`Reader`]s.
//!
//! What there is few of (processes, threads, goroutines...) is in plain tables. Events are in segments:
//! up to 4,096 rows as compressed columns in one row of the table `segment`, which virtual tables show as
//! ordinary rows. Every table is defined once, in [`schema`].

mod access;
mod aggregates;
mod authorizer;
mod dictionary;
mod entity_vtab;
mod error;
pub mod export;
mod folder;
mod functions;
mod limits;
mod lookup;
pub mod query;
mod reader;
pub mod schema;
pub mod segment;
mod shared;
mod strings;
mod vtab;
mod waits;
mod writer;

pub use access::Access;
pub use error::{Result, StoreError};
pub use folder::{make_folder, why_denied};
pub use functions::sql_functions;
pub use limits::limit_memory;
pub use reader::{QueryResult, Reader, RowSink};
pub use rusqlite::types::{Value, ValueRef};
pub use schema::entities::{
    Clock, EventCount, Fired, Frame, Goroutine, Loss, Process, Stack, Thread,
};
pub use schema::streams::{
    Alloc, Gc, GcAssist, GcSweep, Gomaxprocs, GoroutineState, Heap, HeapGoal, ProcState, Streams,
    Stw, Syscall, ThreadState, UserLog, UserRegion, UserTask,
};
pub use schema::tables::StreamRow;
pub use schema::words;
pub use schema::{DEFAULT_DB, SNAPSHOT_ENDING};
pub use shared::ScanStats;
pub use strings::{Interner, StrId};
pub use writer::{
    Background, Batch, FirstIds, LastingWriter, Limits, NewSession, Opened, State, Stored, Summary,
    Unknown, Writer,
};
