//! What is looked out for.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tracer_tests::{
    daemon::{Daemon, open_dir},
    go::Go,
    harness::{Process, SOON, wait_until},
};

use super::{LIMIT, shell};

/// Each kind once, for these processes only. The one about calls fires again when it has cooled down.
const CONFIG: &str = r#"
[[rule]]
name = "some"
comm = "watched-*"
level = "go"
[[trigger]]
when = "syscall"
longer = "100ms"
name = "clock_nanosleep"
only = { comm = "watched-sleep" }
cooldown = "1s"
[[trigger]]
when = "goroutine-wait"
longer = "1ms"
name = "sync.Mutex.Lock"
only = { comm = "watched-mutex" }
[[trigger]]
when = "run-queue-wait"
longer = "1ms"
only = { exe = "/**/watched-gc" }
[[trigger]]
when = "stw"
longer = "1us"
only = { comm = "watched-gc" }
[[trigger]]
when = "gc"
longer = "10us"
only = { comm = "watched-gc" }
[[trigger]]
when = "goroutines"
above = 50
only = { uid = 0, exe = "/**/watched-parked" }
[[trigger]]
when = "signal"
"#;

#[test]
fn each_kind_fires() -> Result<()> {
    let (go, dir) = (Go::find()?, open_dir()?);
    let path = |name: &str| dir.path().join(name);
    for (program, name) in [("mutex", "mutex"), ("gcheavy", "gc"), ("parked", "parked")] {
        fs::copy(go.build(program)?, path(&format!("watched-{name}")))?;
    }
    fs::copy("/bin/sleep", path("watched-sleep"))?;
    fs::copy("/bin/sh", path("watched-sh"))?;
    let [sleep, mutex, gc, parked, sh] =
        ["sleep", "mutex", "gc", "parked", "sh"].map(|name| path(&format!("watched-{name}")));
    let daemon = Daemon::start_in(dir, CONFIG)?;
    // Too short for the trigger, and then in rows of two that are near each other.
    shell("$1 0.01; $1 0.2 & $1 0.2 & wait; sleep 2; $1 0.3", &[&sleep])?.wait(SOON)?.ok()?;
    let mutex = Process::start(Command::new(mutex).args(["-rounds", "100000000", "-n", "20"]))?;
    // Many threads that all want the same CPU.
    let gc = Process::start(
        Command::new("taskset").args(["-c", "0"]).arg(gc).args(["-rounds", "100000000"]),
    )?;
    let parked = Process::start(Command::new(parked).args(["-n", "60"]))?;
    let died = shell("$1 -c 'kill -SEGV $$'; true", &[&sh])?;
    let fired = |kind: &str| format!("select count(*) from trigger_fired where kind = '{kind}'");
    for (kind, count) in [
        ("syscall", 2),
        ("goroutine-wait", 1),
        ("run-queue-wait", 1),
        ("stw", 1),
        ("gc", 1),
        ("goroutines", 1),
        ("signal", 1),
    ] {
        let so = wait_until(kind, LIMIT, || daemon.number(&fired(kind)).is_ok_and(|n| n >= count));
        assert!(
            so.is_ok(),
            "{kind}: {:?}; {}",
            daemon.sql("select * from trigger_fired"),
            daemon.log()
        );
    }
    let of_gc = gc.pid();
    let (of_mutex, of_parked) = (mutex.pid(), parked.pid());
    drop((mutex, gc, parked));
    died.wait(SOON)?;
    let (database, _) = daemon.end()?;
    let rows = |kind: &str| {
        database.sql(&format!(
            "select f.*, p.pid, p.exe, t.upid as thread_upid, g.upid as goroutine_upid from trigger_fired f
             left join process p using (upid) left join thread t on t.utid = f.utid
             left join goroutine g on g.ugid = f.ugid where f.kind = '{kind}' order by f.ts"
        ))
    };
    // What a row says can be looked up: the interval that was too long is there, even if it went on.
    let found = |kind: &str, table: &str, key: &str, and: &str| -> Result<()> {
        let sql = format!(
            "select count(*) from trigger_fired f join {table} x on x.ts = f.ts - f.value
             and coalesce(x.dur >= f.value, true) and x.{key} = f.{key} where f.kind = '{kind}' {and}"
        );
        assert_eq!(
            database.number(&sql)?,
            i64::try_from(rows(kind)?.len())?,
            "{kind}: {:?}",
            rows(kind)?
        );
        Ok(())
    };
    found("syscall", "syscall", "utid", "and x.name = f.name")?;
    found("goroutine-wait", "goroutine_state", "ugid", "and x.reason = f.name")?;
    found("run-queue-wait", "thread_state", "utid", "and x.state in ('runnable', 'preempted')")?;
    found("stw", "stw", "upid", "")?;
    found("gc", "gc", "upid", "")?;

    let calls = rows("syscall")?;
    assert!(calls.len() >= 2, "once for two at a time, once more when it had cooled down");
    assert_eq!(calls[0]["name"], "clock_nanosleep", "{calls:?}");
    assert!(apart(&calls, 1), "{calls:?}");
    for (kind, pid) in [
        ("goroutine-wait", of_mutex),
        ("run-queue-wait", of_gc),
        ("stw", of_gc),
        ("gc", of_gc),
        ("goroutines", of_parked),
    ] {
        let rows = rows(kind)?;
        assert!(apart(&rows, 60), "{kind}: {rows:?}");
        assert_eq!(rows[0]["pid"], pid, "{rows:?}");
        for key in ["thread_upid", "goroutine_upid"] {
            assert!(rows[0][key].is_null() || rows[0][key] == rows[0]["upid"], "{rows:?}");
        }
    }
    assert!(rows("goroutines")?[0]["value"].as_i64() > Some(50));
    let signal = &rows("signal")?[0];
    assert_eq!(signal["value"], 11, "{signal}");
    assert!(signal["exe"].as_str().is_some_and(|exe| exe.ends_with("watched-sh")), "{signal}");
    Ok(())
}

/// Whether there are rows, and at least this time (s) lies between each two.
fn apart(rows: &[Value], seconds: i64) -> bool {
    let ts: Vec<_> = rows.iter().filter_map(|row| row["ts"].as_i64()).collect();
    !ts.is_empty() && ts.windows(2).all(|pair| pair[1] - pair[0] >= seconds * 1_000_000_000)
}

/// A deadlock never ends, and is what one wants to know of.
#[test]
fn what_does_not_end_fires() -> Result<()> {
    let config = r#"
        [[rule]]
        comm = "parked"
        level = "go"
        [[trigger]]
        when = "goroutine-wait"
        longer = "300ms"
        name = "sync.Mutex.Lock"
        [[trigger]]
        when = "syscall"
        longer = "300ms"
        only = { comm = "parked" }
    "#;
    let daemon = Daemon::start(config)?;
    let parked = Process::start(Command::new(Go::find()?.build("parked")?).args(["-n", "3"]))?;
    let pid = parked.pid();
    for (kind, table, key) in
        [("goroutine-wait", "goroutine_state", "ugid"), ("syscall", "syscall", "utid")]
    {
        let fired = format!(
            "select count(*) from trigger_fired f join {table} x on x.ts = f.ts - f.value and x.{key} = f.{key}
             join process p on p.upid = f.upid
             where f.kind = '{kind}' and x.dur is null and f.value > 300000000 and pid = {pid}"
        );
        daemon.wait_for(&fired, 1).with_context(|| kind)?;
    }
    assert!(daemon.log().contains(&format!(", parked ({pid})")), "{}", daemon.log());
    Ok(())
}
