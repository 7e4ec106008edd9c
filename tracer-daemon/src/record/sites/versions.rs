//! Every probe in every version of Go, however the program was built.

use std::{collections::BTreeSet, path::PathBuf};

use tracer_tests::go::{Go, Variant};

use super::Sites;
use crate::target::{
    ElfFile,
    go::{self, GoRuntime, Source},
};

fn look(path: &PathBuf) -> (GoRuntime, Sites) {
    let file = ElfFile::open(path).expect("readable");
    let elf = file.parse().expect("an executable");
    let version = go::version(&elf).expect("a Go program");
    let runtime = GoRuntime::read(&elf, &version).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let sites = Sites::find(&runtime, &elf).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    (runtime, sites)
}

#[test]
fn every_probe_has_a_place_however_a_program_was_built() {
    for minor in Go::minors() {
        let go = Go::of(minor).expect("setup has run");
        let (plain, all) = look(&go.build("daisy").expect("it compiles"));
        assert_eq!(plain.source, Source::Dwarf, "{minor}");
        assert_eq!(all.missing, [], "{minor}");
        for variant in Variant::ALL {
            let path = go.build_variant("daisy", variant).expect("it compiles");
            let (runtime, sites) = look(&path);
            assert_eq!(runtime.layout, plain.layout, "{minor} {variant:?}");
            assert_eq!(runtime.tls_g, 8, "{minor} {variant:?}");
            assert_eq!(sites.missing, [], "{minor} {variant:?}");
            let programs = |sites: &Sites| {
                let found = sites.found.iter().map(|(_, program, _)| *program);
                found.collect::<BTreeSet<_>>()
            };
            assert_eq!(programs(&sites), programs(&all), "{minor} {variant:?}");
        }
    }
}
