//! The kernel programs, one family a file.

mod go;
mod irq;
mod process;
mod sched;
mod syscall;
