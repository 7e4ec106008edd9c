//! Which events matter to which tables.

use tracer_common::events::DEFS;

/// The tables, beside itself, whose events a table is made of.
fn others(table: &str) -> &'static [&'static str] {
    match table {
        "goroutine_state" | "goroutine" => {
            &["goroutine", "goroutine_state", "proc_state", "syscall"]
        }
        "goroutine_wait" | "goroutine_wait_part" => &[
            "goroutine",
            "goroutine_state",
            "proc_state",
            "syscall",
            "thread_state",
            "gc_assist",
            "stw",
        ],
        "proc_state" => &["gomaxprocs", "goroutine_state", "stw", "syscall"],
        "gc" => &["stw"],
        "stw" => &["gc"],
        "frame" => &["stack"],
        _ => &[],
    }
}

/// Whether something that was dropped because of an event of this kind may be missing in a table.
pub fn to(kind: &str, table: &str) -> bool {
    let ends_in = DEFS.iter().find(|def| def.kind.name() == kind).map_or(kind, |def| def.table);
    match ends_in {
        // The end of a thread or process ends intervals of all kinds; a table that counts what is lost lacks none.
        "thread" | "process" => !matches!(table, "loss" | "event_count" | "session" | "clock"),
        // Of what cannot be understood it is not known.
        "unknown" => true,
        "kernel_stack" => matches!(table, "stack" | "frame"),
        other => other == table || others(table).contains(&other),
    }
}

/// Whether a table is about Go's runtime.
pub fn is_of_go(table: &str) -> bool {
    let kinds = DEFS.iter().filter(|def| def.kind.name().starts_with("go_"));
    let mut tables = kinds.map(|def| def.table).filter(|of| !matches!(*of, "stack" | "string"));
    matches!(table, "goroutine_wait" | "goroutine_wait_part") || tables.any(|of| of == table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::tables;

    #[test]
    fn what_is_dropped_matters_to_its_own_table_and_those_that_are_made_of_it() {
        assert!(to("sys_exit", "syscall") && to("sys_exit", "goroutine_state"));
        assert!(!to("sys_exit", "thread_state") && !to("go_status", "syscall"));
        assert!(to("sched_switch", "thread_state") && to("sched_switch", "goroutine_wait"));
        assert!(!to("sched_switch", "goroutine_state"));
        assert!(to("sched_exit", "syscall") && !to("sched_exit", "loss"));
        assert!(to("unknown", "gc") && to("kernel_stack", "stack") && !to("kernel_stack", "gc"));
        // Rows that found no room are counted by the name of their table.
        assert!(to("thread_state", "thread_state") && !to("thread_state", "syscall"));
    }

    #[test]
    fn the_tables_of_go_are_known_by_their_events() {
        let go: Vec<_> =
            tables().into_iter().map(|table| table.name).filter(|t| is_of_go(t)).collect();
        for table in ["goroutine", "goroutine_state", "goroutine_wait", "proc_state", "gc", "heap"]
        {
            assert!(go.contains(&table), "{table}");
        }
        for table in ["thread_state", "syscall", "process", "thread", "stack", "loss"] {
            assert!(!go.contains(&table), "{table}");
        }
    }

    #[test]
    fn every_name_is_that_of_a_table() {
        let names: Vec<_> = tables().into_iter().map(|table| table.name).collect();
        for table in &names {
            for other in others(table) {
                assert!(names.contains(other), "{other}");
            }
        }
    }
}
