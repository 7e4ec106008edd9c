//! Calls by name of a program that is not Go, against strace.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::harness::{Database, run};

const LIMIT: Duration = Duration::from_secs(300);
/// A command that makes the same calls each time.
const COMMAND: [&str; 3] = ["/bin/ls", "-R", "/usr/share"];

/// The columns `calls` and `syscall` of `strace -f -c`.
fn strace(database: &Database) -> Result<BTreeMap<String, i64>> {
    let file = database.dir().join("strace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&file).args(COMMAND);
    run(strace.env("LC_ALL", "C"), LIMIT)?.ok()?;
    let text = fs::read_to_string(file)?;
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        if let [n, name] = line.split_whitespace().collect::<Vec<_>>()[..]
            && let Ok(n) = n.parse()
            && name != "total"
        {
            calls.insert(name.to_owned(), n);
        }
    }
    ensure!(!calls.is_empty(), "strace printed no calls: {text}");
    Ok(calls)
}

#[test]
fn ls_makes_the_same_calls() -> Result<()> {
    let database = Database::new()?;
    let expected = strace(&database)?;
    assert_eq!(expected, strace(&database)?, "the command is not deterministic");

    let mut tracerd = tracer_tests::harness::tracerd(&["run", "--db"])?;
    tracerd.arg(database.path()).arg("--").args(COMMAND).env("LC_ALL", "C");
    let ended = run(&mut tracerd, LIMIT)?.ok()?;
    assert!(ended.stdout.contains("/usr/share/doc"), "ls was harmed");
    assert!(
        ended.stderr.to_lowercase().contains("runtime"),
        "it does not say that no runtime was recognised: {}",
        ended.stderr
    );

    // strace counts a call when it returns, so it does not know the last one.
    let rows = database
        .sql("select name, count(*) as n from syscall where name != 'exit_group' group by 1")?;
    let mut recorded = BTreeMap::new();
    for row in &rows {
        let name = row["name"].as_str().context("name is no text")?;
        recorded.insert(name.to_owned(), row["n"].as_i64().context("n is no integer")?);
    }
    assert_eq!(recorded, expected);
    let last = "select count(*) as n from syscall where name = 'exit_group'";
    assert_eq!(database.number(last)?, 1);
    let failed = "select count(*) as n from syscall where name = 'access' and ret = -2";
    assert!(database.number(failed)? > 0, "the loader looks for a file that is not there");
    assert_eq!(database.number("select count(*) as n from goroutine_state")?, 0);
    let with_runtime = "select count(*) as n from process where runtime is not null";
    assert_eq!(database.number(with_runtime)?, 0);
    Ok(())
}

#[test]
fn threads_of_other_programs_are_seen() -> Result<()> {
    let database = Database::new()?;
    let script = "import threading, time\n\
        threads = [threading.Thread(target=time.sleep, args=(0.2,)) for _ in range(5)]\n\
        [t.start() for t in threads]\n[t.join() for t in threads]";
    database.record(&[], &["/usr/bin/python3", "-c", script], LIMIT)?.ok()?;
    let threads = "select count(*) as n from thread join process using (upid)
         where exe like '%python3%' and end_ts is not null";
    assert_eq!(database.number(&threads.replace("end_ts", "thread.end_ts"))?, 6);
    // Each of the five sleeps on its own for 0.2 s.
    let sleepers = "select count(*) as n from
         (select utid, max(dur) as longest from thread_state where state = 'sleeping' group by utid)
         where longest between 190000000 and 2000000000";
    assert!(database.number(sleepers)? >= 5);
    Ok(())
}
