//! `tracer schema`.

use std::io::Write as _;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tracer_store::schema::{ColumnDef, TableDef, docs, table, tables};
use tracer_store::sql_functions;

use super::did_you_mean;
use crate::args::{Schema, ShortOutput};
use crate::render::{Table, out};

/// Lists the tables, or the columns of one.
pub fn run(args: &Schema) -> Result<()> {
    let mut out = out();
    match (&args.table, args.output) {
        (None, ShortOutput::Table) => {
            let mut list = Table::new(["TABLE", "KIND", "MEANING"]);
            list.wrap();
            for table in tables() {
                list.row([table.name, table.kind.word(), table.doc()]);
            }
            list.write(&mut out)?;
            writeln!(out, "\n`tracer schema TABLE` lists the columns of a table.")?;
            writeln!(out, "\nFunctions beside those of SQLite:")?;
            for (_, what) in sql_functions() {
                writeln!(out, "  {what}")?;
            }
        }
        (None, ShortOutput::Json) => {
            let tables: Vec<Value> = tables().into_iter().map(table_json).collect();
            writeln!(out, "{:#}", Value::from(tables))?;
        }
        (Some(name), output) => {
            let Some(table) = table(name) else {
                let names = tables().into_iter().map(|table| table.name);
                bail!(
                    "there is no table {name}{}; `tracer schema` lists all",
                    did_you_mean(name, names)
                );
            };
            match output {
                ShortOutput::Table => columns(table, &mut out)?,
                ShortOutput::Json => {
                    let columns: Vec<Value> =
                        table.columns().into_iter().map(column_json).collect();
                    writeln!(out, "{:#}", Value::from(columns))?;
                }
            }
        }
    }
    Ok(out.flush()?)
}

fn columns(table: &TableDef, out: &mut impl std::io::Write) -> Result<()> {
    let mut list = Table::new(["COLUMN", "TYPE", "UNIT", "MEANING"]);
    list.wrap();
    for column in table.columns() {
        let kind = docs::type_text(column);
        list.row([column.name, &kind, column.unit.unwrap_or_default(), column.doc()]);
        for word in column.words {
            list.row(["", "", "", &format!("{}: {}", word.word, word.doc)]);
        }
    }
    writeln!(out, "{} ({}): {}\n", table.name, table.kind.word(), table.doc())?;
    Ok(list.write(out)?)
}

fn table_json(table: &TableDef) -> Value {
    let columns: Vec<Value> = table.columns().into_iter().map(column_json).collect();
    json!({
        "name": table.name,
        "kind": table.kind.word(),
        "doc": table.doc(),
        "key": table.key,
        "columns": columns,
    })
}

fn column_json(column: &ColumnDef) -> Value {
    let words: Vec<Value> =
        column.words.iter().map(|word| json!({ "word": word.word, "doc": word.doc })).collect();
    json!({
        "name": column.name,
        "type": column.kind.sql_type(),
        "nullable": column.kind.nullable(),
        "unit": column.unit,
        "doc": column.doc(),
        "words": words,
    })
}
