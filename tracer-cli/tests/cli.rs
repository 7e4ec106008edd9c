//! `tracer` as a user sees it, on a database with known rows.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use assert_cmd::prelude::*;
use insta::assert_snapshot;
use tracer_store::{
    Batch, Clock, Goroutine, GoroutineState, Interner, Loss, NewSession, Process, Syscall, Thread,
    ThreadState, Writer,
};

/// A folder with a database.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::with(|_| ())
    }

    /// A database of one process, with changes to what is stored.
    fn with(change: impl FnOnce(&mut Batch)) -> Self {
        let fixture = Self::empty();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let clock = |ts| Clock { ts, realtime: 1_700_000_000_000_000_000 + ts };
            let session = NewSession {
                started_ts: 1_000_000,
                command: "run -- daisy".into(),
                clock: clock(1_000_000),
                ..Default::default()
            };
            let (mut writer, _) = Writer::create(&fixture.db(), session).await.unwrap();
            let mut batch = rows();
            change(&mut batch);
            writer.commit(batch).await.unwrap();
            writer.finish(100_000_000, "the process exited", clock(100_000_000)).await.unwrap();
        });
        fixture
    }

    fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn db(&self) -> PathBuf {
        self.dir.path().join("trace.db")
    }

    /// `tracer` with these arguments and this database.
    fn tracer(&self, args: &[&str]) -> Command {
        let mut command = Command::cargo_bin("tracer").unwrap();
        command.args(args).env("TRACERD_DB", self.db());
        command
    }

    fn answer(&self, args: &[&str]) -> String {
        let output = self.tracer(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is said when there is no answer.
    fn failure(&self, args: &[&str]) -> String {
        let output = self.tracer(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        let stderr = stderr(&output);
        let message = stderr.strip_prefix("tracer: error: ").unwrap_or_else(|| panic!("{stderr}"));
        assert_eq!(message.lines().count(), 1, "{message}");
        message.to_owned()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn rows() -> Batch {
    let mut interner = Interner::new();
    let mut state = |ugid, ts, dur, state: &str, reason: &str| GoroutineState {
        ts,
        dur: Some(dur),
        ugid,
        state: interner.intern(state),
        reason: (!reason.is_empty()).then(|| interner.intern(reason)),
        // Each on a thread of the same number.
        utid: matches!(state, "running" | "syscall").then_some(ugid),
        ..Default::default()
    };
    let goroutine_state = vec![
        state(1, 1_000_000, 2_000_000, "running", ""),
        state(1, 3_000_000, 40_000_000, "waiting", "chan receive"),
        state(2, 2_000_000, 1_500, "runnable", ""),
        state(2, 2_001_500, 250_000, "running", ""),
        state(2, 2_251_500, 12_345_678, "waiting", "chan receive"),
        state(2, 14_597_178, 1_000_000, "waiting", "sync.Mutex.Lock"),
        state(3, 2_000_000, 500_000, "running", ""),
        state(3, 2_500_000, 700_000, "syscall", ""),
        state(4, 1_000_000, 99_000_000, "waiting", "GC worker (idle)"),
    ];
    let goroutine = |ugid, start_func: &str, created_ts| Goroutine {
        ugid,
        upid: 1,
        goid: ugid + 16,
        parent_ugid: (ugid == 2 || ugid == 3).then_some(1),
        start_func: Some(start_func.into()),
        created_ts,
        ended_ts: (ugid == 2).then_some(15_597_178),
        ..Default::default()
    };
    let goroutines = vec![
        goroutine(1, "runtime.main", None),
        goroutine(2, "main.pass", Some(2_000_000)),
        goroutine(3, "main.pass", Some(2_000_000)),
        goroutine(4, "runtime.gcBgMarkWorker", None),
    ];
    let mut thread_state = |utid, ts, dur, state: &str, next_utid| ThreadState {
        ts,
        dur: Some(dur),
        utid,
        state: interner.intern(state),
        next_utid,
        ..Default::default()
    };
    let thread_state = vec![
        thread_state(1, 900_000, 4_000_000, "running", None),
        thread_state(2, 2_000_000, 151_500, "running", None),
        thread_state(2, 2_151_500, 100_000, "preempted", Some(9)),
        thread_state(3, 2_000_000, 600_000, "running", None),
        thread_state(3, 2_600_000, 550_000, "sleeping", Some(9)),
        thread_state(3, 3_150_000, 30_000, "runnable", None),
        thread_state(3, 3_180_000, 20_000, "running", None),
    ];
    let thread = |utid, upid, name: &str| Thread {
        utid,
        upid,
        tid: utid + 40,
        name: Some(name.into()),
        ..Default::default()
    };
    let threads =
        vec![thread(1, 1, "a"), thread(2, 1, "a"), thread(3, 1, "a"), thread(9, 2, "hog")];
    let syscall = ["read", "write", "read"]
        .into_iter()
        .zip([5, -9, 7])
        .map(|(name, ret)| Syscall {
            ts: 2_500_000 + ret,
            dur: Some(1_000),
            utid: 1,
            name: interner.intern(name),
            ret: Some(ret),
            args: [3, 0xffff_ffff_ffff_ff00, 4096, 0, 0, 0],
            ..Default::default()
        })
        .collect();
    let process =
        Process { upid: 1, pid: 42, cmdline: Some("a \"b\",\u{1b}c".into()), ..Default::default() };
    let mut batch = Batch {
        strings: interner.take_new(),
        processes: vec![process, Process { upid: 2, pid: 1234, ..Default::default() }],
        threads,
        goroutines,
        last_ts: 100_000_000,
        ..Default::default()
    };
    batch.closed.goroutine_state = goroutine_state;
    batch.closed.thread_state = thread_state;
    batch.closed.syscall = syscall;
    batch
}

const SYSCALLS: &str =
    "select name, count(*) as n, avg(ret) as ret, null as none from syscall group by 1 order by 1";

#[test]
fn sql_answers_in_three_formats() {
    let fixture = Fixture::new();
    let csv = "name,n,ret,none\nread,2,6,\nwrite,1,-9,\n";
    // What is no terminal gets CSV.
    assert_eq!(fixture.answer(&["sql", SYSCALLS]), csv);
    assert_eq!(fixture.answer(&["sql", SYSCALLS, "-o", "csv"]), csv);
    assert_snapshot!(fixture.answer(&["sql", SYSCALLS, "-o", "json"]), @r#"
{"rows":[
{"name":"read","n":2,"ret":6.0,"none":null},
{"name":"write","n":1,"ret":-9.0,"none":null}
],"warnings":[]}
"#);
    assert_snapshot!(fixture.answer(&["sql", SYSCALLS, "-o", "table"]), @r"
name   n  ret  none
read   2    6  NULL
write  1   -9  NULL
");
    assert_eq!(
        fixture.answer(&["sql", "select cmdline, x'00ff' as b from process where upid = 1"]),
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
        fixture.answer(&["sql", "select args from syscall limit 1"]),
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
    let mut command = assert_cmd::Command::from_std(fixture.tracer(&["sql", "-"]));
    command.write_stdin("select 1 as one;\n").assert().success().stdout("one\n1\n");
}

#[test]
fn the_option_wins_over_the_environment() {
    let fixture = Fixture::new();
    let other = Fixture::empty();
    let db = fixture.db();
    let args = ["sql", "select 1 as one", "--db", db.to_str().unwrap()];
    assert_eq!(other.answer(&args), "one\n1\n");
    assert!(other.failure(&["sql", "select 1"]).contains("tracerd run -- COMMAND"));
}

#[test]
fn what_cannot_be_answered_says_why_and_what_to_do() {
    let fixture = Fixture::new();
    let sql = |sql| fixture.failure(&["sql", sql]);
    assert_snapshot!(sql("selekt 1"), @r#"near "selekt": syntax error; `tracer schema` lists tables and columns"#);
    assert_snapshot!(sql("select nme from syscall"), @"no such column: nme; `tracer schema` lists tables and columns");
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
    assert_eq!(output.stdout, b"one\n1\n");
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
fn goroutines_are_listed_by_start_function() {
    let fixture = Fixture::new();
    assert_snapshot!(fixture.answer(&["goroutines"]), @r"
START FUNCTION               N   TOTAL  RUNNING  RUNNABLE  WAITING  SYSCALL     CPU  OFF CPU
runtime.main                 1  42.0ms   2.00ms         0   40.0ms        0  2.00ms        0
  waiting: chan receive                                     40.0ms
main.pass                    2  14.8ms    750us    1.50us   13.3ms    700us   770us    130us
  waiting: chan receive                                     12.3ms
  waiting: sync.Mutex.Lock                                  1.00ms

runtime-internal:
runtime.gcBgMarkWorker       1  99.0ms        0         0   99.0ms        0       0        0
  waiting: GC worker (idle)                                 99.0ms
");
    assert_snapshot!(fixture.answer(&["goroutines", "-o", "csv"]), @r#"
start_func,runtime_internal,n,total,running,runnable,waiting,syscall,unknown,cpu,off_cpu,waiting_by_reason
runtime.main,false,1,42000000,2000000,0,40000000,0,0,2000000,0,"{""chan receive"":40000000}"
main.pass,false,2,14797178,750000,1500,13345678,700000,0,770000,130000,"{""chan receive"":12345678,""sync.Mutex.Lock"":1000000}"
runtime.gcBgMarkWorker,true,1,99000000,0,0,99000000,0,0,0,0,"{""GC worker (idle)"":99000000}"
"#);
    let json: serde_json::Value =
        serde_json::from_str(&fixture.answer(&["goroutines", "-o", "json"])).unwrap();
    let names: Vec<_> =
        json["rows"].as_array().unwrap().iter().map(|f| f["start_func"].clone()).collect();
    assert_eq!(names, ["runtime.main", "main.pass", "runtime.gcBgMarkWorker"]);
    assert_eq!(
        json["rows"][1],
        serde_json::json!({
            "start_func": "main.pass",
            "runtime_internal": false,
            "n": 2,
            "total": 14_797_178,
            "running": 750_000,
            "runnable": 1_500,
            "waiting": 13_345_678,
            "syscall": 700_000,
            "unknown": 0,
            "cpu": 770_000,
            "off_cpu": 130_000,
            "waiting_by_reason": { "chan receive": 12_345_678, "sync.Mutex.Lock": 1_000_000 },
        })
    );
    assert_eq!(json["rows"][2]["runtime_internal"], true);
}

#[test]
fn the_goroutines_of_a_function_are_listed() {
    let fixture = Fixture::new();
    assert_snapshot!(fixture.answer(&["goroutines", "--list", "main.pass"]), @r"
main.pass: times of creation and end are since the start of the recording

GOID  PARENT  CREATED   ENDED   TOTAL  RUNNING  RUNNABLE  WAITING  SYSCALL    CPU  OFF CPU  WAITING FOR
  18      17   1.00ms  14.6ms  13.6ms    250us    1.50us   13.3ms        0  150us    100us  chan receive 12.3ms, sync.Mutex.Lock 1.00ms
  19      17   1.00ms       -  1.20ms    500us         0        0    700us  620us   30.0us
");
    assert_eq!(
        fixture.answer(&["goroutines", "--list", "pass"]),
        fixture.answer(&["goroutines", "--list", "main.pass"])
    );
    let json: serde_json::Value =
        serde_json::from_str(&fixture.answer(&["goroutines", "--list", "pass", "-o", "json"]))
            .unwrap();
    assert_eq!(json["rows"][0]["goid"], 18);
    assert_eq!(json["rows"][0]["parent_goid"], 17);
    assert_eq!(json["rows"][0]["created_ts"], 2_000_000);
    assert_eq!(json["rows"][1]["ended_ts"], serde_json::Value::Null);
    assert_eq!(json["rows"][1]["syscall"], 700_000);
    let csv = fixture.answer(&["goroutines", "--list", "runtime.main", "-o", "csv"]);
    assert_snapshot!(csv, @r#"
ugid,upid,goid,parent_goid,start_func,created_ts,ended_ts,total,running,runnable,waiting,syscall,unknown,cpu,off_cpu,waiting_by_reason
1,1,17,,runtime.main,,,42000000,2000000,0,40000000,0,0,2000000,0,"{""chan receive"":40000000}"
"#);
    assert_snapshot!(fixture.failure(&["goroutines", "--list", "main.pas"]), @"no goroutine began in main.pas (did you mean main.pass?); `tracer goroutines` lists all functions");
}

#[test]
fn a_program_without_goroutines_is_told() {
    let fixture = Fixture::with(|batch| {
        batch.goroutines.clear();
        batch.closed.goroutine_state.clear();
    });
    let output = fixture.tracer(&["goroutines", "-o", "json"]).output().unwrap();
    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json, serde_json::json!({ "rows": [], "warnings": [] }));
    assert!(stderr(&output).contains("no Go program was recognised"));
    let output = fixture.tracer(&["waits"]).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(stderr(&output).contains("no Go program was recognised"));
}

#[test]
fn what_kept_goroutines_from_running_is_said_in_words() {
    let fixture = Fixture::new();
    assert_snapshot!(fixture.answer(&["waits"]), @r"
START FUNCTION          N    TIME   SHARE  WHERE IT WENT
runtime.main            1  42.0ms
                           40.0ms   95.2%  blocked: chan receive
                           2.00ms    4.8%  on CPU
main.pass               2  14.8ms
                           12.3ms   83.4%  blocked: chan receive
                           1.00ms    6.8%  blocked: sync.Mutex.Lock
                            650us    4.4%  on CPU
                            550us    3.7%  in a system call, asleep
                            120us    0.8%  in a system call, on CPU
                            100us    0.7%  thread off CPU, preempted by hog (1234)
                           30.0us    0.2%  thread off CPU, waiting for one

runtime-internal:
runtime.gcBgMarkWorker  1  99.0ms
                           99.0ms  100.0%  blocked: GC worker (idle)
");
    assert_snapshot!(fixture.answer(&["waits", "-o", "csv"]), @r"
start_func,runtime_internal,n,part,reason,by,dur
runtime.main,false,1,blocked,chan receive,,40000000
runtime.main,false,1,on_cpu,,,2000000
main.pass,false,2,blocked,chan receive,,12345678
main.pass,false,2,blocked,sync.Mutex.Lock,,1000000
main.pass,false,2,on_cpu,,,650000
main.pass,false,2,syscall_asleep,,,550000
main.pass,false,2,syscall_cpu,,,120000
main.pass,false,2,off_cpu,,hog (1234),100000
main.pass,false,2,off_cpu,,,30000
main.pass,false,2,runnable,,,1500
runtime.gcBgMarkWorker,true,1,blocked,GC worker (idle),,99000000
");
    let json: serde_json::Value =
        serde_json::from_str(&fixture.answer(&["waits", "-o", "json"])).unwrap();
    let json = &json["rows"];
    for function in json.as_array().unwrap() {
        let causes = function["causes"].as_array().unwrap();
        let sum: i64 = causes.iter().map(|cause| cause["dur"].as_i64().unwrap()).sum();
        assert_eq!(function["dur"], sum, "{function}");
    }
    assert_eq!(json[1]["start_func"], "main.pass");
    assert_eq!((&json[1]["n"], &json[1]["cpu"]), (&2.into(), &770_000.into()));
    let by_hog = serde_json::json!({
        "part": "off_cpu",
        "reason": null,
        "by": "hog (1234)",
        "dur": 100_000,
        "words": "thread off CPU, preempted by hog (1234)",
    });
    assert!(json[1]["causes"].as_array().unwrap().contains(&by_hog), "{}", json[1]);
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
                                   unknown: not known: events of that time were lost, see `loss`
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
