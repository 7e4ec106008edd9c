//! What is traced: the process, its executable, and the runtime in it. Reads /proc and ELF files;
//! knows nothing of the kernel programs.

pub mod cgroup;
mod debugger;
mod elf;
pub mod go;
mod lease;
mod libraries;
pub mod memory;
pub mod overlay;
mod process;
pub mod program;
mod quota;
pub mod time;

pub use debugger::{Debugger, Standstill};
pub use elf::{ElfError, ElfFile, Executable, Program32};
pub use lease::Lease;
pub use libraries::GoLibraries;
pub use process::{Cmdline, ProcessError, ProcessInfo, live_thread};
pub use quota::{CpuGroups, Quota};
