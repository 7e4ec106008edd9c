//! The kernel programs of tracerd: they look, filter by process, and submit records to one ring.
//! They format nothing and change nothing. Layout: maps.rs, globals.rs (what user space sets before
//! load), emit.rs (reserve, fill, submit or count), task.rs, file.rs, arguments.rs, go.rs and stack.rs (reading), probes/ (programs,
//! one family a file).

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod arguments;
mod emit;
mod file;
mod globals;
mod go;
mod maps;
mod probes;
mod stack;
mod task;
mod text;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// The kernel offers some helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
