//! Finds a Rust toolchain that can build for BPF, and builds the kernel programs with it.
//!
//! Two toolchains will do, and the first complete one is taken:
//!
//! 1. a rustup nightly with the component `rust-src` (`core` is then built from source);
//! 2. Debian's `rustc-web` with `libstd-rust-web-dev-bpf`, which holds a precompiled `core`.
//!
//! Both link with `bpf-linker`, which has to speak the same LLVM bitcode as the compiler. It is
//! kept in a cache folder of its own (see [`linker_dir`]), one a version and LLVM major.
//! `cargo xtask setup` puts the missing pieces there.

mod error;
mod object;
mod toolchain;

pub use error::{Error, Result};
pub use object::{build, inputs};
pub use toolchain::{
    BPF_LINKER_VERSION, Compiler, DEBIAN_CORE_DIR, DEBIAN_RUSTC, Toolchain, cache_dir, compilers,
    linker_dir, toolchain,
};
