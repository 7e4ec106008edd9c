//! Ready-made questions. They read the columns of segments without SQL where there are many rows.

pub mod goroutine_report;
pub mod goroutines;
pub mod loss;
mod matter;
pub mod pattern;
pub mod selection;
pub mod session;
pub mod waits;
pub mod warnings;
