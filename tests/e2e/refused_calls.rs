//! System calls that are refused before the kernel tells that they are entered.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tracer_tests::{
    cc,
    harness::{Database, SOON},
};

/// Runs the program in this mode, and makes sure that it ends with this code.
fn refused(how: &str, code: i32) -> Result<Database> {
    let program = cc::build("refused")?;
    let database = Database::new()?;
    let command = [program.to_str().context("an odd path")?, how];
    let ended = database.record(&[], &command, SOON)?;
    ensure!(ended.code() == code, "{how}: {ended:?}");
    database.is_complete()?;
    Ok(database)
}

/// What is stored of the refused calls of a mode, and how often.
fn rows(database: &Database, name: &str) -> Result<Vec<Value>> {
    database.sql(&format!(
        "select ret, error, dur, json_extract(args, '$[0]') as argument, count(*) as n
         from syscall where name = '{name}' group by 1, 2, 3, 4"
    ))
}

#[test]
fn are_rows_with_what_became_of_them() -> Result<()> {
    let error = json!({"ret": -1, "error": "EPERM", "dur": 0, "argument": 4711, "n": 10});
    assert_eq!(rows(&refused("errno", 0)?, "getpgid")?, [error]);
    for (how, code, signal, times) in [
        ("trap", 0, "SIGSYS", 10),
        ("kill", 128 + 31, "SIGSYS", 1),
        ("thread", 0, "SIGSYS", 1),
        ("strict", 128 + 9, "SIGKILL", 1),
        ("dispatch", 128 + 31, "SIGSYS", 1),
    ] {
        let row = json!({"ret": null, "error": signal, "dur": 0, "argument": 4711, "n": times});
        assert_eq!(rows(&refused(how, code)?, "getpgid")?, [row], "{how}");
    }
    Ok(())
}

#[test]
fn have_their_paths_and_files() -> Result<()> {
    let database = refused("path", 0)?;
    let row = database.sql("select path, file, error from syscall where name = 'mkdirat'")?;
    assert_eq!(row, [json!({"path": "refused", "file": "/", "error": "EPERM"})]);
    Ok(())
}

/// One that another process answers lasts as long as that takes.
#[test]
fn last_as_long_as_the_thread_waits() -> Result<()> {
    let database = refused("notify", 0)?;
    let row = database.sql(
        "select s.ret, s.error, s.dur >= 50000000 as waits, s.ts = t.ts as begins,
         s.ts + s.dur >= t.ts + t.dur as ends
         from syscall s join thread_state t using (utid)
         where s.name = 'getpgid' and t.syscall = 'getpgid' and t.state = 'sleeping'",
    )?;
    let expected = json!({"ret": 42, "error": null, "waits": 1, "begins": 1, "ends": 1});
    ensure!(row.first() == Some(&expected), "{row:?}");
    Ok(())
}
