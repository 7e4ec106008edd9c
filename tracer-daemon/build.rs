//! Builds the kernel programs, which src/kernel embeds.

use std::{
    env,
    path::{Path, PathBuf},
};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let workspace = manifest.parent().unwrap_or(Path::new("."));
    for path in ebpf_builder::inputs(workspace) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    match ebpf_builder::build(workspace, &out) {
        Ok(object) => println!("cargo::rustc-env=TRACERD_EBPF_OBJECT={}", object.display()),
        Err(error) => {
            for line in error.to_string().lines() {
                println!("cargo::error={line}");
            }
        }
    }
}
