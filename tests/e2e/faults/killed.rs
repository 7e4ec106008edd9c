//! The daemon is killed, again and again.

use std::{
    collections::BTreeSet,
    env, fs,
    process::Command,
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tracer_tests::{
    go::Go,
    harness::{Process, SOON, Tmpfs, field, monotonic_ns, wait_until},
    kernel::{OwnObjects, code_is_unchanged},
    serving::{Place, stop},
    ticks::Ticks,
};

/// How much a kill may cost (ns).
const MAY_MISS: i64 = 1_000_000_000;

/// How long all threads of a process together waited for a CPU so far (ns).
fn run_queue_wait(pid: i32) -> Result<i64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += text.split_whitespace().nth(1).map_or(Ok(0), str::parse)?;
    }
    Ok(sum)
}

/// A time up to `most`, another one at each call.
fn random(most: Duration) -> Result<Duration> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    // Any digits that nobody chooses.
    Ok(most * (now.subsec_micros() % 1000) / 1000)
}

/// `TRACER_KILLS` says how often.
#[test]
fn at_random_moments_costs_a_second_at_most_and_nothing_else() -> Result<()> {
    let kills = env::var("TRACER_KILLS").map_or(Ok(5), |kills| kills.parse())?;
    // Only what tracerd itself does takes time.
    let disk = Tmpfs::mount("size=160m")?;
    let place = Place::with_database(disk.path().join("trace.db"))?;
    let program = Go::find()?.build("httpload")?;
    let config = format!(
        "[store]\nmax_size = \"96 MiB\"\n[[rule]]\nexe = \"{}\"\nlevel = \"go\"\n[[rule]]\nlevel = \"sched\"\n",
        program.display()
    );
    let ticks = Ticks::start(place.dir())?;
    let load = Process::start(Command::new(&program).args(["-pause", "1ms"]))?;
    let (mut checked, mut probed, mut sessions) = (0, 0, 0);
    for kill in 0..kills {
        let before = monotonic_ns();
        let mut daemon = Process::start(&mut place.command(&config)?)?;
        // One in five while it starts.
        let early = kill % 5 == 4;
        if early {
            thread::sleep(random(Duration::from_secs(1))?);
            ensure!(daemon.is_running(), "{:#?}", daemon.wait(SOON)?);
            daemon.signal(Signal::SIGKILL)?;
            daemon.wait(SOON)?;
        } else {
            daemon = place.ready(daemon)?;
            let from = monotonic_ns();
            if kill == 0 {
                wait_until("probes", SOON, || !code_is_unchanged(load.pid()).unwrap_or(true))?;
            }
            thread::sleep(random(Duration::from_secs(2))?);
            let waited = run_queue_wait(daemon.pid())?;
            thread::sleep(Duration::from_nanos(MAY_MISS.unsigned_abs()));
            let objects = OwnObjects::of(daemon.pid())?;
            probed += usize::from(!code_is_unchanged(load.pid())?);
            let waited = run_queue_wait(daemon.pid())? - waited;
            let killed = monotonic_ns();
            daemon.signal(Signal::SIGKILL)?;
            daemon.wait(SOON)?;

            objects.wait_until_gone(SOON)?;
            place.is_sound()?;
            let rows = place.rows(&ticks.recorded())?;
            let numbers: Vec<_> = rows.iter().filter_map(|row| row["n"].as_i64()).collect();
            checked += ticks.all_in(&numbers, from, killed - MAY_MISS - waited)?;
            // It was the session of this run.
            let last = format!("select count(*) as n from session where started_ts > {before}");
            assert_eq!(place.number(&last)?, 1);
            sessions += 1;
        }
        wait_until("no probes", SOON, || code_is_unchanged(load.pid()).unwrap_or(false))?;
        if place.database().exists() {
            place.is_sound()?;
        }
    }
    assert!(checked > 0 && probed > 0, "{checked} calls, {probed} times with probes");
    // None of it was ever begun anew.
    let beside: BTreeSet<_> = fs::read_dir(disk.path())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    assert!(
        beside.iter().all(|name| ["trace.db", "trace.db-wal", "trace.db-shm", "trace.db.lock"]
            .contains(&name.as_str())),
        "{beside:?}"
    );
    let daemon = place.serve(&config)?;
    let ended = stop(daemon)?;
    assert!(ended.stderr.contains("going on with"), "{ended:?}");
    place.is_sound()?;
    // The first ones may be gone, within the bound on the database.
    assert!(place.number("select max(session_id) from session")? > sessions);
    // Numbers are never used again.
    for (table, id) in [("process", "upid"), ("thread join process using (upid)", "utid")] {
        let again = format!(
            "select count(*) from (select min({id}) as first, lag(max({id})) over (order by session_id) as before
             from {table} group by session_id) where first <= before"
        );
        assert_eq!(place.number(&again)?, 0, "{table}");
    }
    let of_others =
        "select count(*) from thread_state s join thread using (utid) join process using (upid)
        join session using (session_id) where s.ts < started_ts";
    assert_eq!(place.number(of_others)?, 0);

    load.signal(Signal::SIGTERM)?;
    let ended = load.wait(SOON)?.ok()?;
    assert_eq!(field(&ended.stdout, "errors")?, 0, "{}", ended.stderr);
    Ok(())
}
