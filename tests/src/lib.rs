//! What the end-to-end tests share: the built commands ([`harness`]), the Go programs that they
//! trace ([`go`]) and the toolchains for them ([`toolchains`]), the Go runtime's own trace of the same run as an oracle ([`oracle`]), and what
//! the kernel says of BPF programs and threads ([`kernel`]). [`cc`] builds the programs in C, [`lifetimes`] checks that
//! nothing is missing of any thread, [`daemon`] runs the daemon and [`serving`] several
//! one after the other, [`usage`] is what one takes of the machine, [`ticks`] a program that makes known calls.
//!
//! The tests are in `e2e/`. They need root, a BTF kernel and what `cargo xtask setup` installs.

pub mod cc;
pub mod daemon;
pub mod go;
pub mod harness;
pub mod kernel;
pub mod lifetimes;
pub mod oracle;
pub mod serving;
pub mod strace;
pub mod ticks;
pub mod toolchains;
pub mod usage;
