//! What threads wait in, who wakes them, and why they lose the CPU.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::{
    cc,
    harness::{Database, Process, field, wait_until},
    lifetimes,
};

const LIMIT: Duration = Duration::from_secs(120);
/// Most of the 100 ms for which the program sleeps.
const LONG: &str = "dur > 90000000";

/// As `record`, but with every wake-up known: docs/adr/0006 has why the kernel does not tell one in a thousand.
fn waits(args: &[&str]) -> Result<(Database, String)> {
    let untold = "select (select count(*) from thread_wait where waker is null and state in ('sleeping', 'uninterruptible'))
         + (select count(*) from thread_state where state = 'unknown') as n";
    for _ in 0..2 {
        let (database, said) = record(args)?;
        if database.number(untold)? == 0 {
            return Ok((database, said));
        }
    }
    record(args)
}

/// Records the test program; returns what it printed, too.
fn record(args: &[&str]) -> Result<(Database, String)> {
    let database = Database::new()?;
    let program = cc::build("waits")?;
    let mut command = vec![program.to_str().context("an odd path")?];
    command.extend(args);
    let ended = database.record(&[], &command, LIMIT)?.ok()?;
    lifetimes::check(&database)?;
    Ok((database, ended.stdout))
}

/// How many intervals there are like this, and who ended how many of those.
fn count(database: &Database, like: &str, woken: &str) -> Result<(i64, i64)> {
    let count = |joined: &str| {
        database.number(&format!("select count(*) as n from thread_wait where {like} {joined}"))
    };
    Ok((count("")?, count(&format!("and {woken}"))?))
}

/// A file of the disk whose pages are not in memory.
fn cold_file() -> Result<tempfile::NamedTempFile> {
    let file =
        tempfile::Builder::new().prefix("tracerd-").tempfile_in(env!("CARGO_TARGET_TMPDIR"))?;
    fs::write(file.path(), vec![7; 1 << 20])?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[test]
fn another_process_wakes_a_reader() -> Result<()> {
    let (database, said) = waits(&["pipe"])?;
    let like = format!(
        "state = 'sleeping' and reason = 'syscall' and syscall = 'read' and io_wait = 0 and {LONG}"
    );
    let woken = format!(
        "waker = 'thread' and waker_name = 'writer' and waker_pid = {}",
        field(&said, "writer")?
    );
    assert_eq!(count(&database, &like, &woken)?, (1, 1));
    // The call is the one in the table of calls.
    let joined = "select count(*) as n from thread_state w join syscall c on c.ts = w.syscall_ts and c.utid = w.utid
         where w.syscall = 'read' and c.name = 'read' and c.ret = 1 and c.dur > w.dur";
    assert_eq!(database.number(joined)?, 1);
    Ok(())
}

#[test]
fn a_timer_wakes_a_sleeper() -> Result<()> {
    let (database, _) = waits(&["timer"])?;
    let like = format!("state = 'sleeping' and syscall = 'clock_nanosleep' and {LONG}");
    assert_eq!(count(&database, &like, "waker = 'timer' and waker_utid is null")?, (1, 1));
    Ok(())
}

#[test]
fn a_packet_wakes_a_receiver() -> Result<()> {
    let (database, _) = waits(&["packet"])?;
    let like = format!("state = 'sleeping' and syscall = 'recvfrom' and {LONG}");
    assert_eq!(count(&database, &like, "waker = 'softirq' and waker_utid is null")?, (1, 1));
    Ok(())
}

#[test]
fn who_holds_a_mutex_is_known_if_it_has_waited_for_it() -> Result<()> {
    let (database, said) = waits(&["mutex"])?;
    let futex = field(&said, "futex")?;
    let wait = |of: &str| -> Result<String> {
        let tid = field(&said, of)?;
        Ok(format!("syscall = 'futex' and futex = {futex} and tid = {tid}"))
    };
    let first = wait("first")?;
    assert_eq!(count(&database, &first, "holder_utid is null and waker = 'thread'")?, (1, 1));
    let held = format!("holder_tid = {} and waker_utid = holder_utid", field(&said, "first")?);
    assert_eq!(count(&database, &wait("second")?, &held)?, (1, 1));
    Ok(())
}

/// The program says how often the kernel has counted that it waited.
fn for_disk(mode: &str, like: &str) -> Result<()> {
    let file = cold_file()?;
    let (database, said) = record(&[mode, file.path().to_str().context("an odd path")?])?;
    let like = format!("state = 'uninterruptible' and io_wait = 1 and {like}");
    let (all, untold) = count(&database, &like, "waker is null")?;
    let (_, woken) = count(&database, &like, "waker in ('interrupt', 'softirq')")?;
    let expected = field(&said, "waited")?;
    let kinds = database.sql(
        "select state, reason, syscall, io_wait, count(*) from thread_wait group by 1, 2, 3, 4",
    )?;
    // docs/adr/0006: some switches are not told, several in a row on a loaded machine. And before and after it counts, the
    // program may wait for a page of its own.
    let most = expected + expected / 20;
    let agrees = expected >= 20 && (expected - expected / 5..=most).contains(&all);
    assert!(agrees, "{all} waits, and {expected}: {kinds:?}");
    assert_eq!(woken + untold, all);
    assert!(untold <= 1 + all / 50, "{untold} of {all}");
    Ok(())
}

#[test]
fn memory_comes_from_a_disk() -> Result<()> {
    for_disk("touch", "reason = 'page fault' and syscall is null")
}

#[test]
fn a_read_waits_for_the_disk() -> Result<()> {
    for_disk("disk", "reason = 'syscall' and syscall = 'pread64'")
}

#[test]
fn memory_comes_from_a_disk_within_a_system_call() -> Result<()> {
    for_disk("touch-in-call", "reason = 'page fault' and syscall = 'write'")
}

#[test]
fn memory_comes_from_another_thread() -> Result<()> {
    let (database, _) = waits(&["fault"])?;
    let like = format!("state = 'sleeping' and reason = 'page fault' and io_wait = 0 and {LONG}");
    assert_eq!(count(&database, &like, "syscall is null and waker_name = 'giver'")?, (1, 1));
    Ok(())
}

#[test]
fn yielding_is_told_from_being_preempted() -> Result<()> {
    let (database, _) = waits(&["yield"])?;
    let like = "state = 'preempted' and reason = 'yielded' and syscall = 'sched_yield'";
    let yields = format!("select count(*) as n from thread_state where {like}");
    assert!(database.number(&yields)? > 1_000);
    Ok(())
}

/// Two programs on one CPU.
#[test]
fn a_hog_takes_the_cpu() -> Result<()> {
    let program = cc::build("waits")?;
    let hog = Database::new()?.dir().join("hog");
    let dir = tempfile::tempdir()?;
    let hog = dir.path().join(hog.file_name().context("a name")?);
    fs::copy(&program, &hog)?;
    let mut taskset = Command::new("taskset");
    let _hog = Process::start(taskset.args(["-c", "0"]).arg(&hog).args(["spin", "60000"]))?;
    let database = Database::new()?;
    let program = program.to_str().context("an odd path")?;
    let command = ["taskset", "-c", "0", program, "spin", "1000"];
    database.record(&[], &command, LIMIT)?.ok()?;
    lifetimes::check(&database)?;
    let lost = "select sum(s.dur) as n from thread_state s join thread n on n.utid = s.next_utid
         where s.state = 'preempted' and s.reason = 'preempted' and n.name = 'hog'";
    // Half of the second that it spins, if nobody else wants that CPU.
    let lost = database.number(lost)?;
    assert!(lost > 20_000_000, "{lost} ns");
    Ok(())
}

/// A control group with a quota of CPU time, of either version.
pub struct Quota(PathBuf);

impl Quota {
    /// So much CPU time in each period (us).
    pub fn new(quota: u32, period: u32) -> Result<Self> {
        let name = format!("tracerd-test-{}-{quota}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/cpu");
        let root = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
        let group = Self(root.join(name));
        fs::create_dir(&group.0)?;
        if v1.is_dir() {
            fs::write(group.0.join("cpu.cfs_period_us"), period.to_string())?;
            fs::write(group.0.join("cpu.cfs_quota_us"), quota.to_string())?;
        } else {
            // Fails if it is on already.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
            fs::write(group.0.join("cpu.max"), format!("{quota} {period}"))?;
        }
        Ok(group)
    }

    /// How long its threads were kept from running, in ns.
    pub fn throttled(&self) -> Result<i64> {
        let usec = || self.stat("throttled_usec").map(|usec| usec * 1_000);
        self.stat("throttled_time").or_else(usec).context("no time in cpu.stat")
    }

    /// What is limited by it, as `tracer waits` shows it.
    pub fn words(&self, quota: &str) -> Result<String> {
        let name = self.0.file_name().context("no name")?.display();
        let is_v1 = self.0.join("cpu.cfs_quota_us").exists();
        let file = if is_v1 { "cpu.cfs_quota_us" } else { "cpu.max" };
        Ok(format!("/{name}: {quota} ({file})"))
    }

    /// A line of cpu.stat.
    fn stat(&self, key: &str) -> Option<i64> {
        let stat = fs::read_to_string(self.0.join("cpu.stat")).ok()?;
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(name, _)| *name == key).and_then(|(_, value)| value.parse().ok())
    }

    /// A command that runs another one in the group.
    pub fn command(&self, program: &Path, args: &str) -> String {
        let (group, program) = (self.0.display(), program.display());
        format!("echo $$ > {group}/cgroup.procs; exec {program} {args}")
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // It is empty: there is nobody to tell.
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_quota_is_used_up() -> Result<()> {
    let quota = Quota::new(20_000, 100_000)?;
    let script = quota.command(&cc::build("waits")?, "spin 1000");
    let database = Database::new()?;
    database.record(&[], &["sh", "-c", &script], LIMIT)?.ok()?;
    lifetimes::check(&database)?;
    let throttled =
        "select sum(dur) as n from thread_state where state = 'preempted' and reason = 'throttled'";
    let (recorded, expected) = (database.number(throttled)?, quota.throttled()?);
    ensure!(expected > 500_000_000, "the quota has no effect: {expected} ns");
    // Ours goes on until it has a CPU again, and begins when it really leaves it.
    ensure!(
        (recorded - expected).abs() < expected / 5,
        "{recorded} ns, and {expected} by cpu.stat"
    );
    Ok(())
}

/// Nothing happens to it before it may run again.
#[test]
fn a_quota_is_used_up_at_attach() -> Result<()> {
    let quota = Quota::new(10_000, 1_000_000)?;
    let script = quota.command(&cc::build("waits")?, "spin 60000");
    let process = Process::start(Command::new("sh").args(["-c", &script]))?;
    let times = || quota.stat("nr_throttled").unwrap_or_default();
    wait_until("the quota is used up", LIMIT, || times() > 1)?;
    let before = times();
    wait_until("the quota is used up again", LIMIT, || times() > before)?;
    let database = Database::new()?;
    database.attach(process.pid(), &["--duration", "3s"])?.wait(LIMIT)?.ok()?;
    drop(process);
    lifetimes::check(&database)?;
    let share = "select 100 * sum(iif(reason = 'throttled', length, 0)) / sum(length) as n from (
         select reason, coalesce(dur, (select max(ts) from thread_state) - ts) as length
         from thread_state join thread using (utid) join process using (upid)
         where comm = 'waits')";
    let share = database.number(share)?;
    ensure!(share >= 80, "{share} %");
    let first = database.value(
        "select reason from thread_state join thread using (utid) where tid = (select pid from
         process where comm = 'waits') order by ts limit 1",
    )?;
    assert_eq!(first, "throttled");
    let quota = "select quota || ' of ' || quota_period from process where comm = 'waits'";
    assert_eq!(database.value(quota)?, "10000000 of 1000000000");
    Ok(())
}
