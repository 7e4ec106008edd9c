//! The 32-bit interface of the kernel: in a 64-bit program, and in programs that know nothing else.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tracer_tests::{
    cc,
    go::{Go, programs_dir},
    harness::{Database, Process, SOON, run, wait_until},
};

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("an odd path")
}

#[test]
fn calls_of_a_64_bit_program_have_their_own_names_and_arguments() -> Result<()> {
    let database = Database::new()?;
    database.record(&[], &[text(&cc::build("int80")?)?, "calls"], SOON)?.ok()?;
    let argument = |n: u32| format!("json_extract(args, '$[{n}]')");
    let row = |name: &str| {
        database.sql(&format!(
            "select {} as a, {} as b, {} as c, {} as d, {} as e from syscall
             where name = '{name}' and {} = {}",
            argument(0),
            argument(1),
            argument(2),
            argument(3),
            argument(4),
            argument(3),
            0x5151
        ))
    };
    let getpid = json!({"a": 0x11, "b": 0x22, "c": 0x33, "d": 0x5151, "e": 0x7777});
    assert_eq!(row("getpid")?, [getpid]);
    let kill = json!({"a": 0, "b": 0, "c": 0x33, "d": 0x5151, "e": 0x7777});
    assert_eq!(row("kill")?, [kill]);
    let write = row("write")?;
    assert_eq!(write.len(), 1);
    assert_eq!((&write[0]["a"], &write[0]["c"]), (&json!(4), &json!(6)), "{write:?}");
    Ok(())
}

/// /proc/PID/syscall shows a number, but not whose.
#[test]
fn a_call_under_way_at_attach_has_its_name() -> Result<()> {
    let process = Process::start(Command::new(cc::build("int80")?).arg("blocks"))?;
    let call = format!("/proc/{}/syscall", process.pid());
    wait_until("it blocks", SOON, || {
        std::fs::read_to_string(&call).is_ok_and(|call| call.starts_with("3 0x3 "))
    })?;
    let database = Database::new()?;
    database.attach(process.pid(), &["--duration", "2s"])?.wait(SOON)?.ok()?;
    let rows = database.sql("select state, syscall from thread_state")?;
    assert_eq!(rows, [json!({"state": "sleeping", "syscall": "read"})]);
    Ok(())
}

#[test]
fn a_32_bit_program_is_recorded() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [object, program] = ["calls32.o", "calls32"].map(|name| dir.path().join(name));
    let source = programs_dir().join("../asm/calls32.s");
    run(Command::new("as").arg("--32").arg("-o").arg(&object).arg(source), SOON)?.ok()?;
    let mut ld = Command::new("ld");
    run(ld.args(["-m", "elf_i386", "-o"]).arg(&program).arg(&object), SOON)?.ok()?;
    let database = Database::new()?;
    let ended = database.record(&[], &[text(&program)?], SOON)?;
    ensure!(ended.code() == 5 && ended.stdout == "hi\n", "{ended:?}");
    ensure!(ended.stderr.contains("no Go runtime recognised"), "{ended:?}");
    let rows = database.sql(
        "select name, ret, json_extract(args, '$[0]') as first from syscall
         where name in ('write', 'nanosleep', 'exit') order by ts",
    )?;
    let [write, sleep, exit] = &rows[..] else { anyhow::bail!("{rows:?}") };
    assert_eq!(*write, json!({"name": "write", "ret": 3, "first": 1}));
    assert_eq!((&sleep["name"], &sleep["ret"]), (&json!("nanosleep"), &json!(0)));
    assert_eq!(*exit, json!({"name": "exit", "ret": Value::Null, "first": 5}));
    let sleeps = "select count(*) as n from thread_state where syscall = 'nanosleep'
                  and state = 'sleeping' and dur >= 20000000";
    assert_eq!(database.number(sleeps)?, 1);
    Ok(())
}

#[test]
fn of_a_32_bit_go_program_one_line_says_what_is_missing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("daisy");
    let mut go = Go::find()?.command();
    go.env("GOARCH", "386").env("CGO_ENABLED", "0").args(["build", "-o"]).arg(&program);
    run(go.arg("./daisy"), SOON * 3)?.ok()?;
    let database = Database::new()?;
    let ended = database.record(&[], &[text(&program)?, "-n", "5"], SOON)?.ok()?;
    ensure!(ended.stdout == "sum=6\n", "{ended:?}");
    let said = "goroutines cannot be traced: it is a 32-bit program; threads and system calls are";
    ensure!(ended.stderr.matches(said).count() == 1, "{ended:?}");
    ensure!(database.number("select count(*) as n from syscall where name = 'mmap2'")? > 0);
    ensure!(database.number("select count(*) as n from thread where start_ts is not null")? > 0);
    let missing = database.value("select missing from process where exe like '%/daisy'")?;
    ensure!(missing.as_str().is_some_and(|text| text.contains("32-bit")), "{missing}");
    Ok(())
}
