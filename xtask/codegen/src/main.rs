//! Writes `docs/events.md`, which describes all tables and all records of the kernel programs, from
//! the definitions that the code itself is made from. Run as `cargo xtask codegen`.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use tracer_common::{EventDef, HEADER_SIZE, events::DEFS};
use tracer_store::schema::docs::events_md;

fn main() -> Result<()> {
    let path = path();
    fs::write(&path, content()).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

fn path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "docs", "events.md"].iter().collect()
}

fn content() -> String {
    let mut out = events_md();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "\n## Kernel records\n\n\
         What the kernel programs send, generated from `tracer-common/src/events.rs`. tracerd makes \
         the tables above from them; `loss.kind` and `event_count.kind` have their names. Each record \
         begins with a header of {HEADER_SIZE} bytes: `ts` (ns of `CLOCK_MONOTONIC`), `kind` (its \
         number), `cpu`, and `tid` (the thread that was current).\n"
    );
    for def in DEFS {
        record_md(def, &mut out);
    }
    out
}

fn record_md(def: &EventDef, out: &mut String) {
    let _ = write!(
        out,
        "\n### {} ({})\n\n{} Goes to `{}`.\n\n| field | type | unit | meaning |\n|---|---|---|---|\n",
        def.kind.name(),
        def.kind as u16,
        def.doc.trim(),
        def.table
    );
    for field in def.fields {
        let (name, ty, unit, doc) = (field.name, field.ty, field.unit, field.doc.trim());
        let _ = writeln!(out, "| {name} | `{ty}` | {unit} | {doc} |");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_up_to_date() {
        let file = fs::read_to_string(path()).unwrap_or_default();
        assert!(file == content(), "docs/events.md is old: run `cargo xtask codegen`");
    }

    #[test]
    fn every_record_and_stream_is_described() {
        let content = content();
        for def in DEFS {
            assert!(content.contains(&format!("### {} (", def.kind.name())), "{:?}", def.kind);
        }
        assert!(content.contains("### goroutine_state\n"));
    }
}
