//! `tracer` as a user sees it, on a database with known rows.

mod fixture;
mod goroutines;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use insta::assert_snapshot;
use tracer_store::Loss;

use crate::fixture::{Fixture, stderr};

const SYSCALLS: &str =
    "select name, count(*) as n, avg(ret) as ret, null as none from syscall group by 1 order by 1";

#[test]
fn sql_answers_in_four_formats() {
    let fixture = Fixture::new();
    let csv = "name,n,ret,none\nread,2,6,\nwrite,1,-9,\n";
    assert_eq!(fixture.answer(&["sql", SYSCALLS, "-o", "csv"]), csv);
    assert_snapshot!(fixture.answer(&["sql", SYSCALLS, "-o", "json"]), @r#"
{"rows":[
{"name":"read","n":2,"ret":6.0,"none":null},
{"name":"write","n":1,"ret":-9.0,"none":null}
],"warnings":[]}
"#);
    let table = fixture.answer(&["sql", SYSCALLS, "-o", "table"]);
    assert_snapshot!(table, @r"
name   n  ret  none
read   2    6  NULL
write  1   -9  NULL
");
    // As of every command, in a pipe as on a terminal.
    assert_eq!(fixture.answer(&["sql", SYSCALLS]), table);
    assert_snapshot!(fixture.answer(&["sql", SYSCALLS, "-o", "lines"]), @r"
name: read
n: 2
ret: 6
none: 

name: write
n: 1
ret: -9
none: 
");
    assert_eq!(
        fixture.answer(&["sql", "select name from syscall order by ts", "-o", "lines"]),
        "write\nread\nread\n"
    );
    let median = "select median(ret), percentile(ret, 100) / 3.0 as third from syscall";
    assert_snapshot!(fixture.answer(&["sql", median]), @r"
median(ret)  third
          5  2.33333
");
    let big = "select 9007199254740993 as big, 1 as small";
    assert_eq!(
        fixture.answer(&["sql", big, "-o", "json", "--bigint-strings"]),
        "{\"rows\":[\n{\"big\":\"9007199254740993\",\"small\":1}\n],\"warnings\":[]}\n"
    );
    assert_eq!(
        fixture.answer(&[
            "sql",
            "select cmdline, x'00ff' as b from process where upid = 1",
            "-o",
            "csv"
        ]),
        "cmdline,b\n\"a \"\"b\"\",\u{1b}c\",00ff\n"
    );
    let table =
        fixture.answer(&["sql", "select cmdline from process where upid = 1", "-o", "table"]);
    assert_eq!(table, "cmdline\na \"b\",\\u{1b}c\n");
    assert_eq!(
        fixture.answer(&["sql", "select 1 as x where 0", "-o", "json"]),
        "{\"rows\":[],\"warnings\":[]}\n"
    );
    assert_eq!(
        fixture.answer(&["sql", "select args from syscall limit 1", "-o", "csv"]),
        "args\n\"[3,18446744073709551360,4096,0,0,0]\"\n"
    );
    assert_eq!(
        fixture.answer(&["sql", "select wall(started_ts) as at from session"]),
        "at\n2023-11-14 22:13:20.001000000\n"
    );
}

#[test]
fn a_query_comes_from_standard_input() {
    let fixture = Fixture::new();
    let mut command = assert_cmd::Command::from_std(fixture.tracer(&["sql", "-", "-o", "lines"]));
    command.write_stdin("select 1 as one;\n").assert().success().stdout("1\n");
}

#[test]
fn the_option_wins_over_the_environment() {
    let fixture = Fixture::new();
    let other = Fixture::empty();
    let db = fixture.db();
    let args = ["sql", "select 1 as one", "-o", "lines", "--db", db.to_str().unwrap()];
    assert_eq!(other.answer(&args), "1\n");
    assert!(other.failure(&["sql", "select 1"]).contains("tracerd run -- COMMAND"));
}

#[test]
fn what_cannot_be_answered_says_why_and_what_to_do() {
    let fixture = Fixture::new();
    let sql = |sql| fixture.failure(&["sql", sql]);
    assert_snapshot!(sql("selekt 1"), @r#"near "selekt": syntax error; `tracer schema` lists tables and columns"#);
    assert_snapshot!(sql("select nme from syscall"), @"no such column: nme; `tracer schema` lists tables and columns (did you mean name?)");
    assert_snapshot!(sql("select count(*) from syscalls"), @"no such table: syscalls; `tracer schema` lists tables and columns (did you mean syscall?)");
    assert_snapshot!(sql("select medain(ret) from syscall"), @"no such function: medain; `tracer schema` lists tables and columns (did you mean median?)");
    assert_snapshot!(sql("select 1; select 2"), @"there is more than one statement; give one SQL statement at a time");
    assert_snapshot!(sql(" "), @"there is no statement; give one SQL statement at a time");
    assert_snapshot!(sql("delete from session"), @"writing to the table session is refused: a recording is only read; copy what you need with `-o csv`, or use a copy of the file");
    assert_snapshot!(sql("drop table session"), @"changing the schema is refused: a recording is only read; copy what you need with `-o csv`, or use a copy of the file");
    assert_snapshot!(sql("attach 'x' as y"), @"ATTACH (or VACUUM) is refused: a recording is only read; copy what you need with `-o csv`, or use a copy of the file");
    assert_snapshot!(sql("pragma journal_mode = wal"), @"PRAGMA journal_mode = wal is refused: a recording is only read; copy what you need with `-o csv`, or use a copy of the file");
    assert_snapshot!(sql("vacuum into 'x'"), @"a statement that writes is refused: a recording is only read; copy what you need with `-o csv`, or use a copy of the file");
    let for_ever =
        "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n";
    let timeout = fixture.failure(&["sql", for_ever, "--timeout", "200ms", "-o", "json"]);
    assert_snapshot!(timeout, @"the query was stopped after 0.2 s; ask for less, for example with a range of ts, or give it more time with --timeout");

    let dir = fixture.dir.path().to_str().unwrap();
    assert!(fixture.failure(&["sql", "select 1", "--db", dir]).contains("is a directory"));
    let text = fixture.dir.path().join("notes.txt");
    fs::write(&text, "dear diary\n".repeat(100)).unwrap();
    let text = text.to_str().unwrap();
    for command in [&["sql", "select 1"][..], &["goroutines"]] {
        let args = [command, &["--db", text]].concat();
        assert!(fixture.failure(&args).contains("not a tracerd database"));
    }
    assert!(fixture.failure(&["goroutines", "--session", "7"]).contains("there is no session 7"));
}

#[test]
fn wrong_usage_is_2() {
    let fixture = Fixture::new();
    for args in [
        &[][..],
        &["sql"],
        &["sql", "select 1", "-o", "xml"],
        &["sql", "select 1", "--timeout", "soon"],
        &["schema", "-o", "csv"],
        &["goroutines", "--session", "x"],
        &["flows"],
        &["attach"],
        &["dump"],
        &["waits", "--last", "1s", "--from", "+1s"],
        &["waits", "--from", "25:00"],
        &["attach", "1", "--level", "all"],
        &["sql", "select 1", "--db", "x", "--socket", "y"],
    ] {
        let output = fixture.tracer(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn losses_are_told_once_on_stderr() {
    let fixture = Fixture::with(|batch| {
        let loss =
            |count| Loss { ts: 1, dur: 2, kind: "syscall".into(), stage: "ring".into(), count };
        batch.losses = vec![loss(1_000), loss(234)];
    });
    for args in [&["sql", "select 1 as one"][..], &["goroutines"]] {
        let output = fixture.tracer(args).output().unwrap();
        assert!(output.status.success());
        assert_eq!(
            stderr(&output),
            "warning: 1234 events were lost in this trace (select * from loss): totals may be low\n"
        );
    }
    let output = fixture.tracer(&["sql", "select 1 as one"]).output().unwrap();
    assert_eq!(output.stdout, b"one\n  1\n");
    // JSON has a field for it.
    for args in [&["sql", "select 1 as one", "-o", "json"][..], &["goroutines", "-o", "json"]] {
        let json: serde_json::Value = serde_json::from_str(&fixture.answer(args)).unwrap();
        assert!(json["warnings"][0].as_str().unwrap().contains("1234 events were lost"), "{json}");
    }
    // A loss that is not in the time that was asked for is none.
    fixture.answer(&["sql", "select count(*) from syscall where ts > 2500000"]);
}

#[test]
fn without_a_daemon_that_is_said() {
    let fixture = Fixture::new();
    let socket = fixture.dir.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    for args in [
        &["ls"][..],
        &["attach", "1"],
        &["detach", "1"],
        &["status"],
        &["snapshot"],
        &["sql", "select 1"],
        &["goroutines"],
    ] {
        let message = fixture.failure(&[args, &["--socket", socket]].concat());
        assert!(
            message.contains("no tracerd listens on") && message.contains("tracerd serve"),
            "{message}"
        );
    }
    // By the environment, too, which the database of the environment comes before.
    let mut command = fixture.tracer(&["sql", "select 1 as one"]);
    assert!(command.env("TRACERD_SOCKET", socket).status().unwrap().success());
    let mut command = fixture.tracer(&["sql", "select 1 as one"]);
    command.env_remove("TRACERD_DB").env("TRACERD_SOCKET", socket);
    assert_eq!(command.output().unwrap().status.code(), Some(1));
}

#[test]
fn the_schema_needs_no_database() {
    let fixture = Fixture::empty();
    let list = fixture.answer(&["schema"]);
    for table in tracer_store::schema::tables() {
        assert!(list.lines().any(|line| line.starts_with(&format!("{} ", table.name))), "{list}");
        let columns = fixture.answer(&["schema", table.name]);
        let json: serde_json::Value =
            serde_json::from_str(&fixture.answer(&["schema", table.name, "-o", "json"])).unwrap();
        let names: Vec<_> =
            json.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        let defined: Vec<_> = table.columns().iter().map(|c| c.name).collect();
        assert_eq!(names, defined);
        for name in names {
            assert!(columns.lines().any(|line| line.starts_with(&format!("{name} "))), "{columns}");
        }
    }
    assert_snapshot!(fixture.answer(&["schema", "goroutine_state"]), @r"
goroutine_state (stream): What each goroutine did, one row per interval between two changes of its state.

COLUMN      TYPE             UNIT  MEANING
ts          INTEGER          ns    When the interval began.
dur         INTEGER or NULL  ns    Its length; NULL while it is open.
ugid        INTEGER                The goroutine, see `goroutine`.
state       TEXT                   What the goroutine did.
                                   running: running Go code on a thread
                                   runnable: ready to run, waiting for a P
                                   waiting: parked; `reason` says for what
                                   syscall: in a system call
                                   unknown: not known: events of that time were lost, see `loss`,
                                   or it had begun before the recording
reason      TEXT or NULL           While waiting: for what, named as Go's runtime names it (`chan
                                   receive`, `sync.Mutex.Lock`, `IO wait`...). While runnable
                                   after running: why it stopped (`preempted`, `runtime.Gosched`).
                                   While running: what kind of GC worker it is, if it is one (`GC
                                   (dedicated)`, `GC (fractional)`, `GC (idle)`).
utid        INTEGER or NULL        The thread (Go's M) that it was on, while running or in a
                                   system call.
proc        INTEGER or NULL        The P that it ran on, by Go's number.
stack_id    INTEGER or NULL        The stack of the event that began the interval, see `stack`:
                                   where the goroutine blocked, stopped or entered a system call;
                                   on runnable after a wait that of the waker, and on the first
                                   interval that of the creator.
waker_ugid  INTEGER or NULL        On the runnable interval that follows a wait: the goroutine
                                   that ended it.
waker_utid  INTEGER or NULL        On a runnable interval: the thread that made it runnable, the
                                   goroutine's own one if it stopped.
");
    assert_snapshot!(fixture.failure(&["schema", "syscalls"]), @"there is no table syscalls (did you mean syscall?); `tracer schema` lists all");
    let json: serde_json::Value =
        serde_json::from_str(&fixture.answer(&["schema", "-o", "json"])).unwrap();
    assert_eq!(json.as_array().unwrap().len(), tracer_store::schema::tables().len());
    assert_eq!(json[0]["columns"][0]["unit"], "ns");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let fixture = Fixture::new();
    let endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select i from n";
    for format in ["csv", "json", "table"] {
        let mut child = fixture
            .tracer(&["sql", endless, "-o", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().is_ok());
        drop(lines);
        let output = child.wait_with_output().unwrap();
        assert_eq!(stderr(&output), "", "{format}");
        assert_eq!(output.status.code(), Some(0), "{format}");
    }
}
