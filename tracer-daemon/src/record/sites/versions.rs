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
                let found = sites.found.iter().map(|(_, site)| site.program);
                found.collect::<BTreeSet<_>>()
            };
            assert_eq!(programs(&sites), programs(&all), "{minor} {variant:?}");
        }
    }
}

/// Programs with profiles that the end-to-end tests build, too.
const PROFILED: [(&str, &str, Variant); 4] = [
    ("1.21", "mutex", Variant::PgoPie),
    ("1.25", "httpload", Variant::PgoStripped),
    ("1.27", "pingpong", Variant::Pgo),
    ("1.27", "httpload", Variant::Pgo),
];

#[test]
fn what_a_profile_has_inlined_has_places_for_probes() {
    for (minor, name, variant) in PROFILED {
        let go = Go::of(minor).expect("setup has run");
        let path = go.build_variant(name, variant).expect("it compiles");
        let what = format!("{name}, Go {minor}, {variant:?}");
        let (runtime, sites) = look(&path);
        assert_eq!(sites.missing, [], "{what}");
        let copies =
            runtime.functions.copies_of(&[("runtime.casgstatus", None)]).expect("not too many");
        assert!(!copies.is_empty(), "{what}: the profile changes nothing");
        let in_copies = sites.found.iter().filter(|(_, site)| site.inlined.is_some());
        let of_status = in_copies.filter(|(_, site)| site.program == "go_casgstatus_inlined");
        assert!(of_status.count() > 0, "{what}");
        let (_, plain) = look(&go.build(name).expect("it compiles"));
        // A function of which all calls are inlined has only copies, with a program of their own where they need one.
        let programs = |sites: &Sites| {
            let found = sites.found.iter().map(|(_, site)| site.program);
            let own = |name: &'static str| {
                name.strip_suffix("_inlined").or(name.strip_suffix("_outer")).unwrap_or(name)
            };
            found.map(own).collect::<BTreeSet<_>>()
        };
        assert_eq!(programs(&sites), programs(&plain), "{what}");
        assert!(plain.found.iter().all(|(_, site)| site.inlined.is_none()), "{what}");
    }
}
