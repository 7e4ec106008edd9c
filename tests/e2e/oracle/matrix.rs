//! Which programs are compared, built with which Go and how.
//!
//! All of it takes about an hour: most of it is left to `cargo xtask test --full`.

use anyhow::Result;
use tracer_tests::go::Variant;

use super::compare;

/// A module of tests: all of the programs, built with one version in one way.
macro_rules! tests {
    ($module:ident: $minor:literal $variant:ident: $($program:ident)+) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $program() -> Result<()> {
                    compare(stringify!($program), $minor, Variant::$variant)
                }
            )+
        }
    };
    ($module:ident: $minor:literal $variant:ident in full: $($program:ident)+) => {
        mod $module {
            use super::*;
            $(
                #[test]
                #[ignore = "part of cargo xtask test --full"]
                fn $program() -> Result<()> {
                    compare(stringify!($program), $minor, Variant::$variant)
                }
            )+
        }
    };
}

tests! { go1_27: "1.27" Plain:
    daisy pingpong httpload mutex gcheavy busy coroutine blocking selecttimer tcpecho
    lockosthread cgo panicking usertrace sched
}
tests! { go1_27_stripped: "1.27" Stripped:
    gcheavy
}
tests! { go1_27_stripped_full: "1.27" Stripped in full:
    daisy pingpong httpload mutex busy coroutine blocking selecttimer tcpecho lockosthread
    cgo panicking usertrace sched
}
tests! { go1_27_pie: "1.27" Pie:
    httpload
}
tests! { go1_27_pie_full: "1.27" Pie in full:
    daisy pingpong mutex gcheavy busy coroutine blocking selecttimer tcpecho lockosthread
    cgo panicking usertrace sched
}
tests! { go1_27_noinline: "1.27" NoInline:
    tcpecho
}
tests! { go1_27_noinline_full: "1.27" NoInline in full:
    daisy pingpong httpload mutex gcheavy busy coroutine blocking selecttimer lockosthread
    cgo panicking usertrace sched
}
tests! { go1_27_trimpath: "1.27" TrimPath:
    daisy
}
tests! { go1_27_trimpath_full: "1.27" TrimPath in full:
    pingpong httpload mutex gcheavy busy coroutine blocking selecttimer tcpecho lockosthread
    cgo panicking usertrace sched
}
tests! { go1_25_full: "1.25" Plain in full:
    daisy pingpong httpload mutex gcheavy busy coroutine blocking selecttimer tcpecho
    lockosthread cgo panicking usertrace sched
}
tests! { go1_25_stripped: "1.25" Stripped:
    httpload gcheavy cgo blocking
}
tests! { go1_25_stripped_full: "1.25" Stripped in full:
    daisy pingpong mutex busy coroutine selecttimer tcpecho lockosthread panicking usertrace
    sched
}
tests! { go1_25_pie_full: "1.25" Pie in full:
    httpload gcheavy cgo
}
tests! { go1_25_noinline_full: "1.25" NoInline in full:
    mutex httpload
}
tests! { go1_25_trimpath_full: "1.25" TrimPath in full:
    daisy
}
tests! { go1_23: "1.23" Plain:
    mutex coroutine usertrace
}
tests! { go1_23_full: "1.23" Plain in full:
    daisy pingpong httpload gcheavy busy blocking selecttimer tcpecho lockosthread cgo
    panicking sched
}
tests! { go1_23_stripped: "1.23" Stripped:
    tcpecho sched
}
tests! { go1_23_stripped_full: "1.23" Stripped in full:
    daisy pingpong httpload mutex gcheavy busy coroutine blocking selecttimer lockosthread
    cgo panicking usertrace
}
tests! { go1_23_pie_full: "1.23" Pie in full:
    httpload gcheavy cgo
}
tests! { go1_23_noinline_full: "1.23" NoInline in full:
    mutex httpload
}
tests! { go1_23_trimpath_full: "1.23" TrimPath in full:
    daisy
}
tests! { go1_21: "1.21" Plain:
    daisy gcheavy
}
tests! { go1_21_full: "1.21" Plain in full:
    pingpong httpload mutex busy blocking selecttimer tcpecho lockosthread cgo panicking
    usertrace sched
}
tests! { go1_21_stripped: "1.21" Stripped:
    httpload blocking
}
tests! { go1_21_stripped_full: "1.21" Stripped in full:
    daisy pingpong mutex gcheavy busy selecttimer tcpecho lockosthread cgo panicking
    usertrace sched
}
tests! { go1_21_pie_full: "1.21" Pie in full:
    httpload gcheavy cgo
}
tests! { go1_21_noinline_full: "1.21" NoInline in full:
    mutex httpload
}
tests! { go1_21_trimpath_full: "1.21" TrimPath in full:
    daisy
}
tests! { go1_19: "1.19" Plain:
    mutex panicking
}
tests! { go1_19_full: "1.19" Plain in full:
    daisy pingpong httpload gcheavy busy blocking selecttimer tcpecho lockosthread cgo
    usertrace sched
}
tests! { go1_19_stripped: "1.19" Stripped:
    gcheavy tcpecho
}
tests! { go1_19_stripped_full: "1.19" Stripped in full:
    daisy pingpong httpload mutex busy blocking selecttimer lockosthread cgo panicking
    usertrace sched
}
tests! { go1_19_pie_full: "1.19" Pie in full:
    httpload gcheavy cgo
}
tests! { go1_19_noinline_full: "1.19" NoInline in full:
    mutex httpload
}
tests! { go1_19_trimpath_full: "1.19" TrimPath in full:
    daisy
}
