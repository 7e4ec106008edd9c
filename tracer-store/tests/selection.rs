//! Questions about a part of a recording: its processes, a time, some functions.

mod common;

use common::{Dir, END, batch, create, goroutine, session};
use tracer_store::export::gotrace;
use tracer_store::query::selection::{Asked, Moment, Selection};
use tracer_store::query::warnings::{Scope, warnings};
use tracer_store::query::{goroutine_report, waits};
use tracer_store::{
    Clock, GoroutineState, Interner, LastingWriter, Limits, Process, Reader, StoreError,
};

const MS: i64 = 1_000_000;
/// What the clock of the day showed at the time 0 of the tables.
const ZERO: i64 = 1_700_000_000_000_000_000 - 1_000;

/// Two servers and a job: the goroutines of each are in one state for all of the time.
async fn recorded(path: &std::path::Path) {
    let mut writer = create(path).await;
    let mut interner = Interner::new();
    let mut row = |ugid, ts: i64, dur: i64, state: &str| GoroutineState {
        ts: ts * MS,
        dur: Some(dur * MS),
        ugid,
        state: interner.intern(state),
        reason: (state == "waiting").then(|| interner.intern("chan receive")),
        ..Default::default()
    };
    let rows = vec![
        row(1, 1, 9, "waiting"),
        row(1, 10, 20, "running"),
        row(2, 1, 49, "running"),
        row(3, 1, 49, "runnable"),
        row(4, 1, 4, "waiting"),
        row(4, 5, 0, "runnable"),
        row(5, 20, 10, "waiting"),
    ];
    let mut b = batch(&mut interner, 50 * MS);
    let process = |upid, pid, comm: &str, exe: &str| Process {
        upid,
        pid,
        comm: Some(comm.into()),
        exe: Some(exe.into()),
        runtime: Some("go".into()),
        ..Default::default()
    };
    b.processes = vec![
        process(1, 41, "httpload", "/srv/httpload"),
        process(2, 42, "httpload", "/srv/httpload"),
        process(3, 43, "a-job-with-a-lo", "/srv/a-job-with-a-long-name"),
        Process { upid: 4, pid: 44, comm: Some("cat".into()), ..Default::default() },
    ];
    let of = |upid, ugid, start_func| tracer_store::Goroutine {
        upid,
        created_ts: (ugid == 5).then_some(20 * MS),
        ..goroutine(ugid, start_func)
    };
    b.goroutines = vec![
        of(1, 1, "net/http.(*conn).serve"),
        of(2, 2, "net/http.(*conn).serve"),
        of(2, 3, "main.work[...]"),
        of(3, 4, "main.main"),
        of(1, 5, "runtime.gcBgMarkWorker"),
    ];
    b.closed.goroutine_state = rows;
    writer.commit(b).await.unwrap();
    writer.finish(50 * MS, "done", END).await.unwrap();
}

fn asked(change: impl FnOnce(&mut Asked)) -> Asked {
    let mut asked = Asked::default();
    change(&mut asked);
    asked
}

/// Process, function, goroutines and length in ms of each row: of `waits`, which `goroutines` must say, too.
fn told(reader: &Reader, asked: &Asked) -> Vec<(i64, String, u64, i64)> {
    let report = waits::report(reader, asked).unwrap();
    let by_waits: Vec<_> = report
        .functions
        .iter()
        .map(|f| (f.upid, f.start_func.clone(), f.n, f.dur / MS))
        .filter(|(.., ms)| *ms > 0)
        .collect();
    let other = goroutine_report::report(reader, asked, None).unwrap();
    let by_goroutines = other.functions.iter();
    let mut by_goroutines: Vec<_> = by_goroutines
        .map(|f| (f.upid, f.start_func.clone(), f.n, f.times.total() / MS))
        .filter(|(.., ms)| *ms > 0)
        .collect();
    by_goroutines.sort_by_key(|row| by_waits.iter().position(|other| other == row));
    assert_eq!(by_waits, by_goroutines, "{asked:?}");
    by_waits
}

fn row(upid: i64, func: &str, n: u64, ms: i64) -> (i64, String, u64, i64) {
    (upid, func.into(), n, ms)
}

#[tokio::test]
async fn processes_are_told_apart() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    recorded(&path).await;
    let reader = Reader::open(&path).unwrap();
    // The process that wanted to run most comes first.
    assert_eq!(
        told(&reader, &Asked::default()),
        [
            row(2, "main.work[...]", 1, 49),
            row(2, "net/http.(*conn).serve", 1, 49),
            row(1, "net/http.(*conn).serve", 1, 29),
            row(1, "runtime.gcBgMarkWorker", 1, 10),
            row(3, "main.main", 1, 4),
        ]
    );
    let report = waits::report(&reader, &Asked::default()).unwrap();
    let names: Vec<_> = report.processes.iter().map(ToString::to_string).collect();
    // Names that the kernel has cut are those of the files.
    assert_eq!(names, ["httpload (42)", "httpload (41)", "a-job-with-a-long-name (43)"]);

    let only = |change: fn(&mut Selection)| told(&reader, &asked(|a| change(&mut a.selection)));
    let second = [row(2, "main.work[...]", 1, 49), row(2, "net/http.(*conn).serve", 1, 49)];
    assert_eq!(only(|s| s.pid = Some(42)), second);
    assert_eq!(only(|s| s.upid = Some(2)), second);
    for name in ["a-job-with-a-long-name", "a-job-with-a-lo", "a-job*"] {
        let rows = told(&reader, &asked(|a| a.selection.name = Some(name.into())));
        assert_eq!(rows, [row(3, "main.main", 1, 4)], "{name}");
    }
    assert_eq!(only(|s| s.name = Some("httpload".into())).len(), 4);

    let nobody = asked(|a| a.selection.pid = Some(9));
    let error = waits::report(&reader, &nobody).unwrap_err();
    assert!(matches!(error, StoreError::Choice(_)));
    let said = error.to_string();
    assert!(said.contains("httpload (41), httpload (42), a-job-with-a-long-name (43)"), "{said}");
    // A process without goroutines is there, and has none.
    let cat = asked(|a| a.selection.name = Some("cat".into()));
    let report = waits::report(&reader, &cat).unwrap();
    assert!(report.functions.is_empty() && report.empty.is_some());
}

#[tokio::test]
async fn intervals_are_cut_at_the_borders_of_the_time() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    recorded(&path).await;
    let reader = Reader::open(&path).unwrap();
    let between = |from: i64, to: i64| {
        asked(|a| {
            a.selection.from = Some(Moment::Ts(from * MS));
            a.selection.to = Some(Moment::Ts(to * MS));
        })
    };
    let some = [
        row(2, "main.work[...]", 1, 7),
        row(2, "net/http.(*conn).serve", 1, 7),
        row(1, "net/http.(*conn).serve", 1, 7),
    ];
    assert_eq!(told(&reader, &between(8, 15)), some);
    let report = waits::report(&reader, &between(8, 15)).unwrap();
    let parts: Vec<_> = report.functions[2].causes.iter().map(|c| (c.words(), c.dur)).collect();
    assert_eq!(parts, [("not known".into(), 5 * MS), ("blocked: chan receive".into(), 2 * MS)]);
    // What began later is not counted.
    let functions = goroutine_report::report(&reader, &between(8, 15), None).unwrap().functions;
    assert!(functions.iter().all(|f| f.start_func != "runtime.gcBgMarkWorker"), "{functions:?}");
    // The same time by other names.
    let wall = |ms: i64| Some(Moment::Wall(ZERO + ms * MS));
    assert_eq!(
        told(&reader, &asked(|a| (a.selection.from, a.selection.to) = (wall(8), wall(15)))),
        some
    );
    // The end of the recording.
    let rows = told(&reader, &asked(|a| a.selection.last = Some(30 * MS)));
    assert_eq!(rows[0], row(2, "main.work[...]", 1, 30));
    for (from, to, says) in [
        (Some(60), None, "nothing was recorded after 2023-11-14 22:13:20 UTC: recording 1 is from"),
        (None, Some(-9), "nothing was recorded before"),
        (Some(9), Some(8), "--from is not before --to"),
    ] {
        let moment = |ms: Option<i64>| ms.map(|ms| Moment::Ts(ms * MS));
        let asked = asked(|a| (a.selection.from, a.selection.to) = (moment(from), moment(to)));
        for error in [
            waits::report(&reader, &asked).unwrap_err(),
            goroutine_report::report(&reader, &asked, None).unwrap_err(),
            gotrace::choose(&reader, &asked.selection).unwrap_err(),
        ] {
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}

#[tokio::test]
async fn nothing_is_read_of_what_ended_before() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let mut interner = Interner::new();
    let running = interner.intern("running");
    let mut b = batch(&mut interner, 50 * MS);
    b.processes = vec![common::process(1)];
    b.goroutines = vec![goroutine(1, "main.main")];
    // A segment that is full, and one more.
    let rows = (0..4_196).map(|i| GoroutineState {
        ts: i * 10_000,
        dur: Some(10_000),
        ugid: 1,
        state: running,
        ..Default::default()
    });
    b.closed.goroutine_state = rows.collect();
    writer.commit(b).await.unwrap();
    writer.finish(50 * MS, "done", END).await.unwrap();
    let reader = Reader::open(&path).unwrap();
    let read = |from: i64| {
        let before = reader.scan_stats().segments;
        let asked = asked(|a| a.selection.from = Some(Moment::Ts(from)));
        let report = waits::report(&reader, &asked).unwrap();
        (report.functions[0].dur, reader.scan_stats().segments - before)
    };
    assert_eq!(read(40_955_000), (1_005_000, 2));
    assert_eq!(read(40_965_000), (995_000, 1));
}

#[tokio::test]
async fn functions_are_chosen_by_a_part_of_their_name() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    recorded(&path).await;
    let reader = Reader::open(&path).unwrap();
    let of = |func: &str| told(&reader, &asked(|a| a.func = Some(func.into())));
    let serve = [row(2, "net/http.(*conn).serve", 1, 49), row(1, "net/http.(*conn).serve", 1, 29)];
    assert_eq!(of("net/http.(*conn).serve"), serve);
    assert_eq!(of("conn).serve"), serve);
    assert_eq!(of("net/http.*"), serve);
    assert_eq!(of("main.work[...]"), [row(2, "main.work[...]", 1, 49)]);
    assert_eq!(of("nothing"), []);
    let report = waits::report(&reader, &asked(|a| a.func = Some("nothing".into()))).unwrap();
    assert!(report.empty.unwrap().contains("no goroutine began in nothing"));

    // The first ones of each process, and how many more there are.
    let first = asked(|a| a.limit = Some(1));
    let report = waits::report(&reader, &first).unwrap();
    let rows: Vec<_> = report.functions.iter().map(|f| f.upid).collect();
    assert_eq!((rows, report.left_out), (vec![2, 1, 3], 2));
    let list = goroutine_report::report(&reader, &first, Some("serve")).unwrap();
    assert_eq!(list.matches, ["net/http.(*conn).serve"]);
    assert_eq!(list.goroutines.iter().map(|g| g.upid).collect::<Vec<_>>(), [2, 1]);
}

/// Why there are no goroutines of these processes, by `waits`, `goroutines` and `export`, which say the same.
async fn why(command: &str, processes: Vec<Process>) -> String {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let session = tracer_store::NewSession { command: command.into(), ..session() };
    let mut writer = tracer_store::Writer::create(&path, session).await.unwrap().0;
    let mut b = batch(&mut Interner::new(), 50 * MS);
    b.processes = processes;
    writer.commit(b).await.unwrap();
    writer.finish(50 * MS, "done", END).await.unwrap();
    let reader = Reader::open(&path).unwrap();
    let why = waits::report(&reader, &Asked::default()).unwrap().empty.unwrap();
    let other = goroutine_report::report(&reader, &Asked::default(), None).unwrap().empty;
    assert_eq!(other.as_ref(), Some(&why));
    let refused = gotrace::choose(&reader, &Selection::default()).unwrap_err().to_string();
    assert_eq!(refused, format!("there is nothing to export: {why}"));
    why
}

#[tokio::test]
async fn what_has_no_goroutines_says_why_and_what_to_do() {
    let process = |upid: i64, level: &str, go: bool| Process {
        upid,
        pid: 40 + upid,
        exe: Some(format!("/srv/p{upid}").into()),
        runtime: go.then(|| "go".into()),
        level: (!level.is_empty()).then(|| level.into()),
        ..Default::default()
    };
    assert_eq!(
        why("tracerd attach 41 --level sched", vec![process(1, "sched", true)]).await,
        "no goroutines were recorded: p1 (41) is a Go program traced at level sched, where goroutines are not; \
         `tracerd attach 41 --level go` records them from then on"
    );
    assert_eq!(
        why("tracerd serve", vec![process(1, "sched", false), process(2, "", false)]).await,
        "no goroutines were recorded: p1 (41) is traced at level sched, where it is not looked for them; \
         `tracer attach 41 --level go` records those of a Go program from then on"
    );
    let kernel = Process { exe: None, ..process(3, "sched", false) };
    let several = vec![process(1, "sched", false), process(2, "sched", false), kernel];
    let said = why("tracerd serve", several).await;
    assert!(said.contains("2 processes are traced at level sched"), "{said}");
    let said = why("tracerd run x", vec![process(1, "go", false)]).await;
    assert!(said.contains("no Go program was recognised"), "{said}");
    let short = Process {
        missing: Some(tracer_store::query::warnings::NOT_LOOKED_INTO.into()),
        ..process(1, "go", false)
    };
    assert_eq!(
        why("tracerd serve", vec![short]).await,
        "no goroutines were recorded: p1 (41) ended before it was known whether it is a Go program"
    );
    let refused = Process {
        missing: Some("goroutines cannot be traced: x".into()),
        ..process(1, "go", true)
    };
    assert_eq!(
        why("tracerd run x", vec![refused]).await,
        "no goroutines were recorded of the Go program p1 (41): goroutines cannot be traced: x"
    );
}

#[tokio::test]
async fn a_time_of_day_is_looked_for_in_all_recordings() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    recorded(&path).await;
    // tracerd was started again at 100 ms.
    let clock = |ts: i64| Clock { ts, realtime: ZERO + ts };
    let mut again = session();
    (again.started_ts, again.clock) = (100 * MS, clock(100 * MS));
    let (mut writer, _) = LastingWriter::open(&path, again, Limits::default()).await.unwrap();
    writer.store(batch(&mut Interner::new(), 150 * MS)).await;
    writer.finish(150 * MS, "done", clock(150 * MS)).await.unwrap();
    let reader = Reader::open(&path).unwrap();
    // By default the last one counts, which has nothing.
    assert!(told(&reader, &Asked::default()).is_empty());
    let wall = |ms: i64| Some(Moment::Wall(ZERO + ms * MS));
    let first = asked(|a| (a.selection.from, a.selection.to) = (wall(8), wall(15)));
    assert_eq!(told(&reader, &first).len(), 3);
    let both = asked(|a| (a.selection.from, a.selection.to) = (wall(8), wall(120)));
    assert!(told(&reader, &both).is_empty());
    let scope = Scope::selected(&reader, &both.selection).unwrap();
    let warned = warnings(&reader, &scope).unwrap();
    assert!(warned.iter().any(|line| line.contains("in recording 1: --session 1")), "{warned:?}");
}
