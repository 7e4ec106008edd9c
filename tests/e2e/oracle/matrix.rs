//! Which programs are compared, built with which Go and how.
//!
//! All of it agrees; most is left to `cargo xtask test --full`, for its time.

use anyhow::{Result, ensure};
use tracer_tests::go::Variant;

use super::{By, compare};

/// A module of tests: all of the programs, built with one version in one way.
macro_rules! tests {
    ($module:ident: $minor:literal $variant:ident: $($program:ident)+) => {
        tests! { $module: $minor $variant Run: $($program)+ }
    };
    ($module:ident: $minor:literal $variant:ident $by:ident: $($program:ident)+) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $program() -> Result<()> {
                    compare(stringify!($program), $minor, Variant::$variant, By::$by)
                }
            )+
        }
    };
}

/// One test of all the programs, built with one version in one way.
macro_rules! full {
    ($name:ident: $minor:literal $variant:ident: $($program:ident)+) => {
        full! { $name: $minor $variant Run: $($program)+ }
    };
    ($name:ident: $minor:literal $variant:ident $by:ident: $($program:ident)+) => {
        #[test]
        #[ignore = "part of cargo xtask test --full"]
        fn $name() -> Result<()> {
            all(&[$(stringify!($program)),+], $minor, Variant::$variant, By::$by)
        }
    };
}

/// Compares all of the programs, and says of each what is wrong.
fn all(programs: &[&str], minor: &str, variant: Variant, by: By) -> Result<()> {
    let wrong: Vec<String> = programs
        .iter()
        .filter_map(|program| compare(program, minor, variant, by).err())
        .map(|error| format!("{error:#}"))
        .collect();
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), programs.len(), wrong.join("\n"));
    Ok(())
}

tests! { go1_27: "1.27" Plain:
    daisy pingpong httpload mutex busy coroutine blocking selecttimer
    lockosthread cgo panicking usertrace sched signals
}
// Attached to while they run.
tests! { go1_27_attached: "1.27" Plain Attach:
    httpload mutex
}
full! { full_go1_27_attached: "1.27" Plain Attach:
    daisy pingpong gcheavy busy coroutine blocking selecttimer tcpecho lockosthread cgo panicking usertrace
    sched signals
}
tests! { go1_25_attached: "1.25" Plain Attach:
    blocking
}
full! { full_go1_25_attached: "1.25" Plain Attach:
    httpload mutex gcheavy tcpecho cgo signals
}
full! { full_go1_21_attached: "1.21" Plain Attach:
    httpload mutex gcheavy blocking cgo
}
full! { full_go1_27: "1.27" Plain:
    gcheavy tcpecho
}
tests! { go1_27_stripped: "1.27" Stripped:
    selecttimer
}
full! { full_go1_27_stripped: "1.27" Stripped:
    daisy pingpong httpload mutex busy coroutine blocking gcheavy tcpecho lockosthread
    cgo panicking usertrace sched signals
}
tests! { go1_27_pie: "1.27" Pie:
    httpload
}
full! { full_go1_27_pie: "1.27" Pie:
    daisy pingpong mutex gcheavy busy coroutine blocking selecttimer tcpecho lockosthread
    cgo panicking usertrace sched signals
}
tests! { go1_27_noinline: "1.27" NoInline:
    mutex
}
full! { full_go1_27_noinline: "1.27" NoInline:
    daisy pingpong httpload tcpecho gcheavy busy coroutine blocking selecttimer lockosthread
    cgo panicking usertrace sched signals
}
tests! { go1_27_trimpath: "1.27" TrimPath:
    daisy
}
full! { full_go1_27_trimpath: "1.27" TrimPath:
    pingpong httpload mutex gcheavy busy coroutine blocking selecttimer tcpecho lockosthread
    cgo panicking usertrace sched signals
}
tests! { go1_27_pgo: "1.27" Pgo:
    pingpong httpload
}
full! { full_go1_27_pgo: "1.27" Pgo:
    mutex
}
full! { full_go1_27_pgo_stripped: "1.27" PgoStripped:
    pingpong mutex httpload
}
full! { full_go1_27_pgo_pie: "1.27" PgoPie:
    pingpong mutex httpload
}
tests! { go1_25: "1.25" Plain:
    blocking cgo
}
full! { full_go1_25: "1.25" Plain:
    daisy pingpong httpload mutex gcheavy busy coroutine selecttimer tcpecho lockosthread panicking
    usertrace sched signals
}
tests! { go1_25_stripped: "1.25" Stripped:
    httpload
}
full! { full_go1_25_stripped: "1.25" Stripped:
    gcheavy blocking daisy pingpong mutex busy coroutine selecttimer tcpecho lockosthread cgo panicking
    usertrace sched signals
}
full! { full_go1_25_pie: "1.25" Pie:
    httpload gcheavy cgo
}
full! { full_go1_25_noinline: "1.25" NoInline:
    mutex httpload
}
tests! { go1_25_pgo_stripped: "1.25" PgoStripped:
    httpload
}
full! { full_go1_25_pgo: "1.25" Pgo:
    pingpong mutex httpload
}
full! { full_go1_25_pgo_pie: "1.25" PgoPie:
    pingpong mutex httpload
}
full! { full_go1_25_trimpath: "1.25" TrimPath:
    daisy
}
tests! { go1_23: "1.23" Plain:
    coroutine usertrace selecttimer
}
full! { full_go1_23: "1.23" Plain:
    daisy pingpong httpload mutex gcheavy busy blocking tcpecho lockosthread cgo panicking sched
    signals
}
full! { full_go1_23_stripped: "1.23" Stripped:
    daisy pingpong httpload mutex gcheavy busy coroutine blocking selecttimer tcpecho
    lockosthread cgo panicking usertrace sched signals
}
full! { full_go1_23_pie: "1.23" Pie:
    httpload gcheavy cgo
}
full! { full_go1_23_noinline: "1.23" NoInline:
    mutex httpload
}
full! { full_go1_23_pgo: "1.23" Pgo:
    pingpong mutex httpload
}
full! { full_go1_23_trimpath: "1.23" TrimPath:
    daisy
}
tests! { go1_21: "1.21" Plain:
    daisy blocking sched signals
}
full! { full_go1_21: "1.21" Plain:
    gcheavy pingpong httpload mutex busy selecttimer tcpecho lockosthread cgo panicking usertrace
}
full! { full_go1_21_stripped: "1.21" Stripped:
    daisy pingpong httpload mutex gcheavy busy blocking selecttimer tcpecho lockosthread cgo
    panicking usertrace sched signals
}
full! { full_go1_21_pie: "1.21" Pie:
    httpload gcheavy cgo
}
full! { full_go1_21_noinline: "1.21" NoInline:
    mutex httpload
}
tests! { go1_21_pgo_pie: "1.21" PgoPie:
    mutex
}
full! { full_go1_21_pgo: "1.21" Pgo:
    pingpong mutex httpload
}
full! { full_go1_21_pgo_stripped: "1.21" PgoStripped:
    pingpong mutex httpload
}
full! { full_go1_21_trimpath: "1.21" TrimPath:
    daisy
}
tests! { go1_19: "1.19" Plain:
    mutex httpload
}
full! { full_go1_19: "1.19" Plain:
    daisy pingpong gcheavy busy blocking selecttimer tcpecho lockosthread cgo panicking usertrace
    sched signals
}
full! { full_go1_19_stripped: "1.19" Stripped:
    daisy pingpong httpload mutex gcheavy busy blocking selecttimer tcpecho lockosthread cgo
    panicking usertrace sched signals
}
full! { full_go1_19_pie: "1.19" Pie:
    httpload gcheavy cgo
}
full! { full_go1_19_noinline: "1.19" NoInline:
    mutex httpload
}
full! { full_go1_19_trimpath: "1.19" TrimPath:
    daisy
}
