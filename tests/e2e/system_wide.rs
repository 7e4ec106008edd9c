//! Every process of the machine at level `sched`, while something is compiled.

use std::{env, fmt::Write as _, fs, path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use tracer_tests::{
    cc,
    daemon::Daemon,
    harness::{Database, Ended, Process, SOON, field, monotonic_ns, run, wait_until},
    lifetimes,
};

const LIMIT: Duration = Duration::from_secs(900);
const FILES: i64 = 60;

/// C files of some thousand lines each, and what builds a program of them.
fn write_project(dir: &Path) -> Result<()> {
    let mut objects = String::new();
    for file in 0..FILES {
        let mut text =
            String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
        for function in 0..40 {
            writeln!(
                text,
                "int f{file}_{function}(int n) {{ char s[99]; int sum = {function};
                 for (int i = 0; i < n; i++) {{ sum = sum * 31 + i % {}; snprintf(s, sizeof s, \"%d\", sum);
                 sum ^= (int)strlen(s); }} return sum; }}",
                function + 1
            )?;
        }
        if file == 0 {
            text += "int main(void) { return f0_1(3) == 0; }\n";
        }
        fs::write(dir.join(format!("file{file}.c")), text)?;
        write!(objects, " file{file}.o")?;
    }
    let make = format!(
        "program:{objects}\n\tcc -o $@ $^\n%.o: %.c\n\t@echo compiles $< >/dev/null; cc -O2 -c -o $@ $<\n"
    );
    Ok(fs::write(dir.join("Makefile"), make)?)
}

/// Time for which a thread was on a run queue, or did what is not known, between two moments.
fn time_in(database: &Database, tid: i64, states: &str, begin: i64, end: i64) -> Result<i64> {
    database.number(&format!(
        "select sum(min(ts + coalesce(dur, {end}), {end}) - max(ts, {begin})) as ns
         from thread_state join thread using (utid)
         where tid = {tid} and state in ({states}) and ts < {end}
         and (dur is null or ts + dur > {begin})"
    ))
}

/// The waits of these threads for a CPU are as long as the kernel has counted.
fn compare_with_schedstat(database: &Database, naps: &Ended) -> Result<()> {
    let lines: Vec<&str> = naps.stdout.lines().filter(|line| line.starts_with("tid=")).collect();
    ensure!(lines.len() == 4, "the program was harmed: {naps:?}");
    for line in lines {
        let (tid, begin, end) = (field(line, "tid")?, field(line, "begin")?, field(line, "end")?);
        let expected = field(line, "delay")?;
        let recorded = time_in(database, tid, "'runnable', 'preempted'", begin, end)?;
        // docs/adr/0006: some kernels do not tell each switch, and where several in a row are missing it is not known
        // what the thread did.
        let unknown = time_in(database, tid, "'unknown'", begin, end)?;
        ensure!(unknown < (end - begin) / 20, "thread {tid}: {unknown} ns are unknown");
        ensure!(
            (recorded - expected).abs() <= expected / 50 + unknown,
            "thread {tid}: {recorded} ns by thread_state, {expected} ns by schedstat, {unknown} ns unknown"
        );
    }
    Ok(())
}

/// Nothing was lost, each thread's intervals are its life, and all processes are there that descend from this one.
/// Returns how many these are.
fn check_tree(database: &Database, root: i32) -> Result<i64> {
    database.is_complete()?;
    let lost = "select count(*) as n from event_count where lost > 0 or recorded != produced";
    assert_eq!(database.number(lost)?, 0, "{:?}", database.sql("select * from event_count")?);
    lifetimes::check(database)?;
    let tree = format!(
        "with recursive tree(upid) as (
             select upid from process where pid = {root}
             union select process.upid from process join tree on process.parent_upid = tree.upid)
         select count(*) as n from tree join process using (upid)"
    );
    let odd = format!(
        "{tree} where exe is null or cmdline is null or exit_code is null or start_ts is null
         or end_ts is null or end_ts <= start_ts or level != 'sched'"
    );
    assert_eq!(
        database.number(&odd)?,
        0,
        "{:?}",
        database.sql(&odd.replace("count(*) as n", "*"))?
    );
    database.number(&tree)
}

#[test]
fn a_project_is_compiled() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("tracerd-").tempdir()?;
    write_project(dir.path())?;
    let crowd = cc::build("crowd")?;
    let daemon = Daemon::start("")?;
    let naps = Process::start(Command::new(crowd).args(["naps", "4", "5"]))?;
    let make = Process::start(Command::new("make").arg("-j4").current_dir(dir.path()))?;
    let (naps, root, own) = (naps.wait(LIMIT)?.ok()?, make.pid(), daemon.process().pid());
    make.wait(LIMIT)?.ok()?;
    let database = daemon.end()?.0;

    let processes = check_tree(&database, root)?;
    // make, and for each file a shell, cc, cc1 and as; at the end cc, collect2 and ld.
    assert!(processes >= 1 + 4 * FILES + 3, "{processes} processes");
    let compilers = "select count(*) as n, count(distinct cmdline) as files,
             sum(exit_code = 0 and signal is null) as well, sum(cmdline like '% file%.c %') as named
         from process where exe like '%/cc1'";
    let compilers = &database.sql(compilers)?[0];
    for count in ["n", "files", "well", "named"] {
        assert!(compilers[count] == FILES, "{compilers}");
    }
    let parents = "select count(*) as n from process c join process p on p.upid = c.parent_upid
         where c.exe like '%/cc1' and c.start_ts >= p.start_ts and c.end_ts <= p.end_ts
         and p.cmdline like 'cc -O2 -c -o file%.o file%.c'";
    assert_eq!(database.number(parents)?, FILES);
    compare_with_schedstat(&database, &naps)?;
    // Itself it does not trace, also where it is the neighbour of a thread that is traced.
    let own = format!(
        "select count(*) as n from thread_state join thread using (utid) join process using (upid) where pid = {own}"
    );
    assert_eq!(database.number(&own)?, 0);
    Ok(())
}

/// `TRACER_COMPILE` is a command that compiles something larger, such as `cargo build` with a target folder of its own.
#[test]
fn something_large_is_compiled() -> Result<()> {
    let Ok(command) = env::var("TRACER_COMPILE") else { return Ok(()) };
    let daemon = Daemon::start("")?;
    let compiler = Process::start(Command::new("sh").args(["-c", &command]))?;
    let root = compiler.pid();
    compiler.wait(LIMIT)?.ok()?;
    let status = daemon.tracer(&["status"])?.ok()?.stdout;
    let database = daemon.end()?.0;
    let processes = check_tree(&database, root)?;
    println!("{processes} processes\n{status}");
    Ok(())
}

/// Each run of `tracer sql` is a process of its own; the machine may be busy with others as well.
#[test]
fn nothing_of_what_is_not_traced_is_recorded() -> Result<()> {
    let crowd = cc::build("crowd")?;
    let daemon = Daemon::start("[[rule]]\nexe = \"/no/such/file\"\nlevel = \"sched\"\n")?;
    let begun = monotonic_ns();
    let mut usages = Vec::new();
    for _ in 0..2 {
        let storm = run(Command::new(&crowd).args(["storm", "1000", "4"]), LIMIT)?.ok()?;
        ensure!(field(&storm.stdout, "wrong")? == 0, "{storm:?}");
        usages.push(daemon.usage()?);
    }
    // Who has ended is forgotten: a second storm needs no more than the first one.
    let most = usages[0].memory + (32 << 20);
    wait_until("memory as after one storm", SOON, || {
        daemon.usage().is_ok_and(|usage| usage.memory < most)
    })?;
    let database = daemon.end()?.0;
    // Of others it may have heard when it began, before it could look who they are.
    let of_storm = format!(
        "select count(*) as n from thread_state join thread using (utid)
         where thread.name in ('crowd', 'exe') and ts > {begun}"
    );
    assert_eq!(database.number(&of_storm)?, 0);
    assert_eq!(database.number("select count(*) as n from process where level is not null")?, 0);
    database.is_complete()
}
