//! Ready-made questions. They read the columns of segments without SQL where there are many rows.

pub mod goroutines;
pub mod loss;
pub mod session;
