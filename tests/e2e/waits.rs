//! Where goroutines' time went, for programs of which that is known.

use std::{fs, process::Command, thread, time::Duration};

use crate::{schedstat::stolen, thread_waits::Quota};
use anyhow::{Context as _, Result, ensure};
use tracer_tests::{
    go::Go,
    harness::{Database, Process, SOON, field, monotonic_ns, run, tracer, tracerd, wait_until},
};

/// All parts, whose sum is an interval's length.
const PARTS: &str =
    "on_cpu + blocked + runnable + off_cpu + throttled + syscall_cpu + syscall_asleep
     + asleep + stopped + gc_assist + stw + unknown";

/// No row's parts sum up to more or less than its length, and few are unknown.
fn sums_are_exact(database: &Database) -> Result<()> {
    let rows = database.number("select count(*) as n from goroutine_wait")?;
    let intervals = database.number("select count(*) as n from goroutine_state")?;
    assert!(rows > 100 && rows == intervals, "{rows} rows for {intervals} intervals");
    let wrong = format!("select * from goroutine_wait where {PARTS} != dur limit 3");
    assert_eq!(database.sql(&wrong)?, [] as [serde_json::Value; 0]);
    let known =
        database.number("select sum(unknown) * 100 < sum(dur) as known from goroutine_wait")?;
    assert_eq!(known, 1, "a hundredth is unknown");
    Ok(())
}

/// Runs a program of ours under `tracerd`, with one more variable.
fn record(variable: (&str, &str), program: &str, args: &[&str]) -> Result<Database> {
    let database = Database::new()?;
    let mut tracerd = tracerd(&["run", "--db"])?;
    tracerd.arg(database.path()).arg("--").arg(Go::find()?.build(program)?).args(args);
    run(tracerd.env(variable.0, variable.1), 2 * SOON)?.ok()?;
    Ok(database)
}

/// The sum of a column of `goroutine_wait` over the goroutines that began in a function.
fn sum(database: &Database, column: &str, start_func: &str) -> Result<i64> {
    database.number(&format!(
        "select sum({column}) as ns from goroutine_wait join goroutine using (ugid)
         where start_func = '{start_func}'"
    ))
}

#[test]
fn parts_of_an_http_load_sum_up() -> Result<()> {
    let database = record(("GOMAXPROCS", "2"), "httpload", &["-d", "1s"])?;
    sums_are_exact(&database)?;
    // CPU time by another way: what is common to rows of goroutines and rows of threads.
    let begin = database.number("select min(ts) as ts from goroutine_state")? + 500_000_000;
    let window = format!("between {begin} and {begin} + 20000000");
    let by_rows = format!(
        "with g as materialized (select ts, dur, utid from goroutine_state
             where ts {window} and state in ('running', 'syscall') and dur is not null),
         t as materialized (select ts, dur, utid from thread_state where state = 'running' and dur is not null)
         select sum(min(g.ts + g.dur, t.ts + t.dur) - max(g.ts, t.ts)) as ns
         from g join t on t.utid = g.utid and t.ts < g.ts + g.dur and t.ts + t.dur > g.ts"
    );
    let by_view =
        format!("select sum(cpu) as ns from goroutine_wait where ts {window} and not is_open");
    let (by_rows, by_view) = (database.number(&by_rows)?, database.number(&by_view)?);
    assert!(by_rows > 0 && by_rows == by_view, "{by_rows} ns by rows, {by_view} ns by the view");
    Ok(())
}

/// Makes all threads of a process real-time ones on the first CPU: they share it with each other, whatever else the machine does.
fn share_first_cpu(pid: i32) -> Result<()> {
    let pid = pid.to_string();
    run(Command::new("taskset").args(["-a", "-c", "-p", "0", &pid]), SOON)?.ok()?;
    run(Command::new("chrt").args(["-a", "-r", "-p", "1", &pid]), SOON)?.ok()?;
    Ok(())
}

/// The child of a process that has become this program, once there is one.
fn child_of(pid: i32, name: &str) -> Result<i32> {
    let mut child = None;
    wait_until("the program runs", SOON, || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let is_it = |child: &i32| {
            fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|comm| comm.trim() == name)
        };
        child = children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_it);
        child.is_some()
    })?;
    child.context("no child")
}

#[test]
fn a_starved_thread_names_who_had_its_cpu() -> Result<()> {
    let database = Database::new()?;
    let mut tracerd = tracerd(&["run", "--db"])?;
    tracerd.arg(database.path()).arg("--").arg(Go::find()?.build("busy")?);
    let tracerd = Process::start(tracerd.args(["-mode", "free", "-threads", "1", "-d", "8s"]))?;
    let busy = child_of(tracerd.pid(), "busy")?;
    // It is busy, and all of its threads are there.
    thread::sleep(Duration::from_secs(1));
    share_first_cpu(busy)?;
    let program = database.dir().join("hog");
    fs::copy("/bin/sh", &program)?;
    let hog = Process::start(Command::new(&program).args(["-c", "while :; do :; done"]))?;
    share_first_cpu(hog.pid())?;
    let begin = monotonic_ns();
    thread::sleep(Duration::from_secs(2));
    let end = monotonic_ns();
    let name = format!("hog ({})", hog.pid());
    drop(hog);
    tracerd.wait(2 * SOON)?.ok()?;

    let sum = |what: &str| {
        database.number(&format!(
            "select sum(dur) as ns from goroutine_wait_part join goroutine using (ugid)
             where start_func = 'main.free' and ts between {begin} and {end} and {what}"
        ))
    };
    let (all, on_cpu) = (sum("true")?, sum("part = 'on_cpu'")?);
    let (off_cpu, by_hog) =
        (sum("part = 'off_cpu'")?, sum(&format!("part = 'off_cpu' and off_cpu_by = '{name}'"))?);
    let most = database.sql(&format!(
        "select off_cpu_by, sum(off_cpu) as ns from goroutine_wait join goroutine using (ugid)
         where start_func = 'main.free' and ts between {begin} and {end}
         group by 1 order by sum(off_cpu) desc limit 4"
    ))?;
    // It wants all of the CPU, and the hog as well.
    let missing = all - on_cpu;
    assert!(missing > 500_000_000, "the hog left it {on_cpu} of {all} ns");
    assert!(off_cpu > missing / 20 * 19, "{off_cpu} of {missing} ns are off the CPU");
    assert!(by_hog > missing / 4 * 3, "{by_hog} of {missing} ns are due to {name}: {most:?}");
    assert_eq!(most[0]["off_cpu_by"], name);
    // As `tracer waits` says it.
    let said = run(tracer(&["waits", "--db"])?.arg(database.path()), SOON)?.ok()?.stdout;
    let expected = format!("thread off CPU, preempted by {name}");
    assert!(said.contains(&expected), "{said}");
    Ok(())
}

#[test]
fn waits_for_the_only_p_are_runnable() -> Result<()> {
    let args = ["-mode", "spin", "-threads", "4", "-d", "1500ms"];
    let database = record(("GOMAXPROCS", "1"), "busy", &args)?;
    sums_are_exact(&database)?;
    let all = sum(&database, "dur", "main.work")?;
    let runnable = sum(&database, "runnable", "main.work")?;
    let off_cpu = sum(&database, "off_cpu", "main.work")?;
    // One of four runs at a time.
    assert!(all > 4_000_000_000, "{all} ns");
    assert!(runnable > all / 2, "{runnable} of {all} ns");
    assert!(runnable > 2 * off_cpu, "{runnable} ns runnable, {off_cpu} ns off the CPU");
    Ok(())
}

#[test]
fn gc_shows_as_assists_and_stops() -> Result<()> {
    let database = record(("GOGC", "5"), "gcheavy", &["-rounds", "40"])?;
    sums_are_exact(&database)?;
    let assist = database.number("select sum(gc_assist) as ns from goroutine_wait")?;
    let stored = database.number("select sum(dur) as ns from gc_assist")?;
    assert!(assist > 0 && assist <= stored, "{assist} of {stored} ns");
    // What else happens within an assist is that its thread or its goroutine has to wait for its turn.
    let otherwise = database.number(
        "with a as materialized (select * from gc_assist),
         p as materialized (select * from goroutine_wait_part)
         select sum(min(a.ts + a.dur, p.ts + p.dur) - max(a.ts, p.ts)) as ns
         from a join p on p.ugid = a.ugid and p.ts < a.ts + a.dur and p.ts + p.dur > a.ts
         where part in ('runnable', 'off_cpu', 'stw', 'asleep', 'unknown', 'syscall_cpu', 'syscall_asleep')",
    )?;
    assert_eq!(assist + otherwise, stored, "assists by part, and as they are stored");
    let stw = database.number("select sum(stw) as ns from goroutine_wait")?;
    assert!(stw > 0, "no stop of the world was seen");
    let outside = database.number(
        "with s as materialized (select * from stw)
         select count(*) as n from goroutine_wait_part p where part = 'stw' and not exists
             (select 1 from s where s.ts <= p.ts and p.ts + p.dur <= s.ts + s.dur)",
    )?;
    assert_eq!(outside, 0, "goroutines were stopped while the world was not");
    Ok(())
}

#[test]
fn cpu_time_is_that_of_the_scheduler() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("busy")?;
    let program = program.to_str().context("an odd path")?;
    // More threads than CPUs: by the wall clock each runs all of the time.
    let command = [program, "-mode", "spin", "-threads", "5", "-d", "2s"];
    let before = stolen()?;
    let ended = database.record(&[], &command, 2 * SOON)?.ok()?;
    let stolen = stolen()? - before;
    let lines: Vec<&str> = ended.stdout.lines().filter(|line| line.starts_with("tid=")).collect();
    ensure!(lines.len() == 5, "the program was harmed: {}", ended.stdout);
    for line in lines {
        let (tid, expected) = (field(line, "tid")?, field(line, "cpu")?);
        let (begin, end) = (field(line, "begin")?, field(line, "end")?);
        let found = database.number(&format!(
            "select sum(min(ts + dur, {end}) - max(ts, {begin})) as ns
             from goroutine_wait_part join thread using (utid)
             where tid = {tid} and on_cpu and ts < {end} and ts + dur > {begin}"
        ))?;
        // The runtime's own work on the thread is no goroutine's.
        assert!(
            (found - expected).abs() < expected / 20 + stolen,
            "thread {tid}: {found} ns of goroutines, {expected} ns by schedstat, {stolen} ns stolen"
        );
    }
    Ok(())
}

/// Eight goroutines on two Ps, and a quota of a fifth of a CPU. Those that wait for a P do so because the threads that hold
/// the Ps are throttled. On one CPU, so that the time in cpu.stat, which is summed up over CPUs, is wall-clock time.
#[test]
fn a_quota_that_throttles_all_ps_keeps_every_goroutine_from_running() -> Result<()> {
    let quota = Quota::new(20_000, 100_000)?;
    let program = Go::find()?.build("busy")?;
    let taskset = format!("-c 0 {} -mode free -threads 8 -d 3s", program.display());
    let script = quota.command("taskset".as_ref(), &taskset);
    let database = Database::new()?;
    let mut tracerd = tracerd(&["run", "--db"])?;
    tracerd.arg(database.path()).args(["--", "sh", "-c", &script]);
    let ended = run(tracerd.env("GOMAXPROCS", "2"), 2 * SOON)?.ok()?;
    sums_are_exact(&database)?;
    let expected = quota.throttled()?;
    ensure!(expected > 1_500_000_000, "the quota has no effect: {expected} ns");

    let rows = database.sql(
        "select sum(throttled) as throttled, sum(dur) - sum(cpu) as off,
             sum(iif(state = 'runnable', throttled, 0)) as runnable
         from goroutine_wait join goroutine using (ugid) where start_func = 'main.free' group by ugid",
    )?;
    assert_eq!(rows.len(), 8, "{}", ended.stdout);
    let (mut all, mut without_p) = (0, 0);
    for row in &rows {
        let ns = |name: &str| row[name].as_i64().context("no number");
        let (throttled, off) = (ns("throttled")?, ns("off")?);
        // It began a little after the first period, and ended at most two periods before the last one.
        let range = expected / 4 * 3..=expected / 10 * 11;
        assert!(range.contains(&throttled), "{throttled} ns, and {expected} by cpu.stat: {rows:?}");
        assert!(throttled > off / 3 * 2, "{throttled} of {off} ns off the CPU: {rows:?}");
        (all, without_p) = (all + throttled, without_p + ns("runnable")?);
    }
    assert!(without_p > all / 2, "six of eight have no P: {without_p} of {all} ns");

    let words = quota.words("20 ms of CPU each 100 ms")?;
    let table = run(tracer(&["waits", "--db"])?.arg(database.path()), SOON)?.ok()?.stdout;
    assert!(table.contains(&format!("throttled by {words}")), "{table}");
    let json = ["waits", "--output", "json", "--db"];
    let json = run(tracer(&json)?.arg(database.path()), SOON)?.ok()?.stdout;
    assert!(json.contains(&format!("\"by\": \"{words}\"")), "{json}");
    let stored = "select count(*) as n from process where comm = 'busy'
         and quota = 20000000 and quota_period = 100000000 and quota_cgroup = '/' || ";
    let group = words.split(['/', ':']).nth(1).context("no group")?;
    assert_eq!(database.number(&format!("{stored}'{group}'"))?, 1);
    Ok(())
}
