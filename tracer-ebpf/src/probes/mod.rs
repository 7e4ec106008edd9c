//! The kernel programs, one family a file.

mod go;
mod go_alloc;
mod go_gc;
mod go_proc;
mod go_syscall;
mod go_user;
mod irq;
mod process;
mod sched;
mod syscall;
