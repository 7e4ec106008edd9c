//! The description of the schema for people, made from its definition.

use std::fmt::Write as _;

use super::{ColumnDef, TableDef, TableKind, tables};

/// The content of `docs/events.md`: all tables with their columns, types, units and words.
pub fn events_md() -> String {
    let mut out = String::from(
        "# Events and tables\n\n\
         Generated from the definition in `tracer-store/src/schema`; do not edit.\n\n\
         All times are nanoseconds of `CLOCK_MONOTONIC`; `wall(ts)` gives the time of day in UTC, by \
         the nearest pair in `clock`, and `wall(ts, session_id)` by the nearest of one session. A number that has \
         no row in its table stands for something that ended before `session.kept_since`. A `dur` of NULL means that the \
         interval is open: at the end of what is stored it still lasted.\n",
    );
    let kinds = [
        (
            TableKind::Stream,
            "Streams",
            "What happened, a row per interval or event. The order of rows is not that of time: \
             use `ORDER BY ts`.",
        ),
        (TableKind::View, "Views", "Other ways to look at the streams."),
        (
            TableKind::Derived,
            "Derived tables",
            "What several streams say together, computed when it is asked for. Conditions on `ts` and `ugid` save work.",
        ),
        (
            TableKind::Entity,
            "Entities",
            "What the rows of the streams refer to, and what is known of a recording.",
        ),
        (
            TableKind::Internal,
            "Internal tables",
            "How streams are stored. They may change in any version; read the streams instead.",
        ),
    ];
    for (kind, title, intro) in kinds {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n## {title}\n\n{intro}\n");
        for table in tables().into_iter().filter(|t| t.kind == kind) {
            table_md(table, &mut out);
        }
    }
    out
}

fn table_md(table: &TableDef, out: &mut String) {
    let _ = write!(out, "\n### {}\n\n{}\n\n", table.name, table.doc());
    if !table.key.is_empty() {
        let _ = write!(out, "Primary key: {}.\n\n", table.key.join(", "));
    }
    out.push_str("| column | type | unit | meaning |\n|---|---|---|---|\n");
    for column in table.columns() {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            column.name,
            type_text(column),
            column.unit.unwrap_or_default(),
            column.doc()
        );
    }
    for column in table.columns().into_iter().filter(|c| !c.words.is_empty()) {
        let _ = write!(out, "\nWords of `{}`:\n\n", column.name);
        for word in column.words {
            let _ = writeln!(out, "- `{}`: {}", word.word, word.doc);
        }
    }
}

/// The type of a column, with "or NULL" where it may be that.
pub fn type_text(column: &ColumnDef) -> String {
    let null = if column.kind.nullable() { " or NULL" } else { "" };
    format!("{}{null}", column.kind.sql_type())
}
