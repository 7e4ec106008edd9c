//! What users may do who are not root.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::{libc, sys::signal::Signal};
use serde_json::Value;
use tracer_protocol::{Control, Reply, client::Client};
use tracer_tests::{
    daemon::{Daemon, User, as_user, open_dir},
    go::Go,
    harness::{Process, SOON, monotonic_ns, rows, run, tracer, wait_until},
    ticks::Ticks,
};

use super::SOMEBODY;

const NOBODY_ELSE: User<'_> = User { id: SOMEBODY, groups: &[] };

/// Everything is traced; the group is one that every system has.
const CONFIG: &str = "[access]\ngroup = \"daemon\"\nquery_timeout = \"60s\"\nquery_memory = \"96 MiB\"\n\
                      [[rule]]\nname = \"all\"\ncomm = \"service-*\"\nlevel = \"go\"\n";
/// How many clients ask without end, and how often the daemon is looked at meanwhile.
const CLIENTS: usize = 60;
const ROUNDS: usize = 3;
/// What the secrets of others begin with.
const SECRET: &str = "the-secret";

/// A daemon that traces a program of the user and one of root.
fn start(config: &str) -> Result<(Daemon, [Process; 2])> {
    let dir = open_dir()?;
    let program = dir.path().join("service-a");
    fs::copy(Go::find()?.build("mutex")?, &program)?;
    let others = dir.path().join("service-b");
    fs::copy(Go::find()?.build("httpload")?, &others)?;
    let daemon = Daemon::start_in(dir, config)?;
    let mut own = Command::new(program);
    let own = Process::start(as_user(own.args(["-rounds", "100000000"]), NOBODY_ELSE))?;
    let secret = format!("-addr=127.0.0.1:0 -pause=1ms -trace=/{SECRET}/in/a/path");
    let others = Process::start(Command::new(others).args(secret.split(' ').take(2)))?;
    let states = |process: &Process| {
        format!(
            "select count(*) from goroutine_state join goroutine using (ugid)
             join process using (upid) where pid = {}",
            process.pid()
        )
    };
    daemon.wait_for(&states(&own), 200)?;
    daemon.wait_for(&states(&others), 200)?;
    // A path and arguments that nobody else should know.
    run(
        Command::new("sh")
            .args(["-c", "cp /bin/cat $0/service-c; exec $0/service-c $1 $0"])
            .arg(daemon.dir())
            .arg(format!("/{SECRET}/in/a/path")),
        SOON,
    )?;
    daemon.wait_for(&format!("select count(*) from syscall where path like '/{SECRET}%'"), 1)?;
    daemon.wait_for(&format!("select count(*) from process where cmdline like '%{SECRET}%'"), 1)?;
    Ok((daemon, [own, others]))
}

/// Tables that are not there for him.
const INTERNAL: [&str; 3] = ["segment", "string", "next_id"];

/// The numbers of his processes, threads and goroutines.
fn his_things(daemon: &Daemon) -> Result<[Vec<Value>; 3]> {
    let ids = |id: &str, of: &str| -> Result<Vec<Value>> {
        let sql = format!("select {id} as id from {of} where uid = {SOMEBODY}");
        Ok(daemon.sql(&sql)?.iter().map(|row| row["id"].clone()).collect())
    };
    Ok([
        ids("upid", "process")?,
        ids("utid", "thread join process using (upid)")?,
        ids("ugid", "goroutine join process using (upid)")?,
    ])
}

/// The rows that he gets.
fn his_rows(daemon: &Daemon, sql: &str) -> Result<Vec<Value>> {
    let ended = daemon.tracer_as(NOBODY_ELSE, &["sql", sql, "-o", "json"])?.ok();
    rows(&ended.with_context(|| sql.to_owned())?.stdout)
}

#[test]
fn a_user_sees_only_his_own_processes() -> Result<()> {
    let (daemon, [own, others]) = start(CONFIG)?;
    let pid = others.pid().to_string();
    let his = |args: &[&str]| daemon.tracer_as(NOBODY_ELSE, args);

    // What there is by now is enough.
    own.signal(Signal::SIGSTOP)?;
    others.signal(Signal::SIGSTOP)?;

    // What he may not do.
    for args in [
        &["attach", &pid][..],
        &["attach", &own.pid().to_string()],
        &["detach", &pid],
        &["detach", &own.pid().to_string()],
        &["status"],
        &["snapshot"],
    ] {
        let ended = his(args)?;
        assert_eq!(ended.code(), 1, "{args:?}: {ended:?}");
        assert!(ended.stderr.contains("group daemon"), "{args:?}: {ended:?}");
    }
    assert!(daemon.traced(others.pid())?.is_some() && daemon.traced(own.pid())?.is_some());

    // What he sees.
    let list = his(&["ls", "-o", "json"])?.ok()?.stdout;
    let list: Vec<Value> = serde_json::from_str(&list)?;
    assert!(list.iter().all(|row| row["uid"] == SOMEBODY) && !list.is_empty(), "{list:?}");
    let processes = his_rows(&daemon, "select upid, pid, uid, exe from process")?;
    // His commands may be there for the moment before it was known that no rule names them.
    assert!(processes.iter().all(|row| row["uid"] == SOMEBODY), "{processes:?}");
    assert!(processes.iter().any(|row| row["pid"] == own.pid()), "{processes:?}");
    // In every table, whatever it is called, there is something of his and nothing of others.
    let tables: Vec<Value> =
        serde_json::from_str(&run(&mut tracer(&["schema", "-o", "json"])?, SOON)?.ok()?.stdout)?;
    assert!(tables.len() > 20, "{tables:?}");
    let mut looked_at = [0; 3];
    for table in &tables {
        let name = table["name"].as_str().context("a table without a name")?;
        for column in table["columns"].as_array().context("a table without columns")? {
            let (is_text, column) = (column["type"] == "TEXT", column["name"].as_str());
            let column = column.context("a column without a name")?;
            let thing = ["upid", "utid", "ugid"].iter().position(|id| column.ends_with(id));
            if thing.is_none() && !is_text {
                continue;
            }
            let sql = format!(
                "select distinct \"{column}\" as value from \"{name}\" where value is not null"
            );
            let ended = his(&["sql", &sql, "-o", "json"])?;
            if ended.code() != 0 {
                // It is not there for him.
                assert!(INTERNAL.contains(&name), "{name}: {ended:?}");
                continue;
            }
            for secret in [SECRET, "service-b", "service-c", "net/http", "main.client"] {
                assert!(!ended.stdout.contains(secret), "{name}.{column} has {secret}");
            }
            let Some(thing) = thing else { continue };
            let own = &his_things(&daemon)?[thing];
            let found = rows(&ended.stdout)?;
            assert!(found.iter().all(|row| own.contains(&row["value"])), "{name}.{column}");
            looked_at[thing] += found.len();
        }
    }
    assert!(looked_at.iter().all(|&count| count > 5), "{looked_at:?}");
    for internal in ["sqlite_schema", "sqlite_temp_schema"].iter().chain(&INTERNAL) {
        let ended = his(&["sql", &format!("select * from \"{internal}\""), "-o", "json"])?;
        assert!(!ended.stdout.contains(SECRET) && ended.code() < 2, "{internal}: {ended:?}");
    }
    for table in ["thread_state", "goroutine_state", "syscall", "goroutine_wait", "stack", "frame"]
    {
        assert!(
            !his_rows(&daemon, &format!("select 1 from {table} limit 1"))?.is_empty(),
            "{table}"
        );
    }
    let goroutines = his(&["goroutines"])?.ok()?.stdout;
    assert!(goroutines.contains("main.work") && !goroutines.contains("net/http"), "{goroutines}");
    let waits = his(&["waits"])?.ok()?.stdout;
    assert!(waits.contains("main.work") && !waits.contains("net/http"), "{waits}");
    let trace = daemon.dir().join("his.trace");
    let file = fs::File::create(&trace)?;
    std::os::unix::fs::fchown(&file, Some(SOMEBODY), None)?;
    let path = trace.to_str().context("an odd path")?;
    let ended = his(&["export", "--format", "gotrace", "-o", path, "--pid", &pid])?;
    assert_eq!(ended.code(), 1, "{ended:?}");

    // Ways around.
    for sql in [
        format!("select * from syscall where path like '/{SECRET}%'"),
        "select * from segment".to_owned(),
        "select * from main.string".to_owned(),
        "select sql from sqlite_master where sql like '%service-b%'".to_owned(),
        format!(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 200)
                 select * from n join process on upid = i where uid != {SOMEBODY}"
        ),
        format!("select * from process where uid != {SOMEBODY} or exe like '%service-b'"),
        "select * from thread where upid not in (select upid from process)".to_owned(),
        "select * from (select * from goroutine union all select * from goroutine)
         where start_func like 'net/http%'"
            .to_owned(),
        format!("attach '{}' as x", daemon.database().path().display()),
        "select * from dbstat where name = 'segment'".to_owned(),
        "select load_extension('/lib/x86_64-linux-gnu/libc.so.6')".to_owned(),
        "select readfile('/etc/shadow')".to_owned(),
        format!("select * from pragma_database_list where file like '%{}%'", "trace"),
        "pragma writable_schema = on".to_owned(),
        "vacuum into '/tmp/out.db'".to_owned(),
        "create temp table x as select 1".to_owned(),
        "create virtual table temp.x using process".to_owned(),
    ] {
        let ended = his(&["sql", &sql, "-o", "json"])?;
        let nothing = ended.code() == 1 || rows(&ended.stdout).is_ok_and(|rows| rows.is_empty());
        assert!(nothing, "{sql}: {ended:?}");
        assert!(!ended.stderr.contains("panicked"), "{sql}: {ended:?}");
    }
    daemon.end()?;
    Ok(())
}

/// As `sudo -u` and the service manager start programs of users: root does something, and then executes a program as somebody.
#[test]
fn a_user_does_not_see_what_root_did_before_the_process_was_his() -> Result<()> {
    let dir = open_dir()?;
    for program in ["sh", "setpriv", "cat"] {
        fs::copy(
            Path::new("/usr/bin").join(program),
            dir.path().join(format!("service-{program}")),
        )?;
    }
    let file = dir.path().join(SECRET);
    fs::write(&file, "")?;
    fs::write(dir.path().join("his-file"), "")?;
    let daemon = Daemon::start_in(dir, &CONFIG.replace("\"go\"", "\"sched\""))?;
    let dir = daemon.dir();
    let become_him = |ids: &str| {
        let script =
            format!(": < $0/{SECRET}; exec $0/service-setpriv {ids} $0/service-cat $0/his-file");
        let mut shell = Command::new(dir.join("service-sh"));
        Process::start(shell.args(["-c", &script]).arg(dir))
    };
    let him = become_him(&format!("--reuid={SOMEBODY} --regid={SOMEBODY} --clear-groups"))?;
    // It can become root again at any time.
    let root = become_him(&format!("--euid={SOMEBODY}"))?;
    let (him, root) = (him.pid(), root.pid());
    for pid in [him, root] {
        let of = "from process p join thread using (upid) join syscall s using (utid)";
        for path in [SECRET, "his-file"] {
            daemon.wait_for(
                &format!("select count(*) {of} where p.pid = {pid} and s.path like '%/{path}'"),
                1,
            )?;
        }
    }
    let ended = format!("process where pid in ({him}, {root}) and end_ts is not null");
    daemon.wait_for(&format!("select count(*) from {ended}"), 2)?;
    let process = format!("select uid, uid_since from process where pid = {him}");
    let process = &daemon.sql(&process)?[0];
    assert_eq!(process["uid"], SOMEBODY, "{process}");
    let since = process["uid_since"].as_i64().context("it was root's")?;
    let uid = daemon.number(&format!("select uid from process where pid = {root}"))?;
    assert_eq!(uid, 0);

    let his = his_rows(&daemon, &format!("select * from process where pid in ({him}, {root})"))?;
    assert_eq!(his.len(), 1, "{his:?}");
    let paths = his_rows(&daemon, "select distinct path from syscall where path is not null")?;
    let has = |name: &str| paths.iter().any(|row| row["path"].to_string().contains(name));
    assert!(has("his-file") && !has(SECRET), "{paths:?}");
    for table in ["syscall", "thread_state", "thread_wait", "event"] {
        let of_it = format!(
            "{table} where utid in (select utid from thread join process using (upid) where pid = {him})"
        );
        let count = |condition: &str| format!("select count(*) as n from {of_it} and {condition}");
        let [before, after] = [format!("ts < {since}"), format!("ts >= {since}")];
        // There is something to hide.
        assert!(table == "thread_wait" || daemon.number(&count(&before))? > 0, "{table}");
        assert_eq!(his_rows(&daemon, &count(&before))?[0]["n"], 0, "{table}");
        let shown = &his_rows(&daemon, &count(&after))?[0]["n"];
        assert_eq!(shown.as_i64(), Some(daemon.number(&count(&after))?), "{table}");
    }
    daemon.end()?;
    Ok(())
}

/// It was his when the daemon began, which is told of no exec as long as nothing is traced.
#[test]
fn a_process_is_his_who_has_it_when_it_is_attached_to() -> Result<()> {
    let dir = open_dir()?;
    let program = dir.path().join("roots-sleep");
    fs::copy("/usr/bin/sleep", &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755))?;
    let mut shell = Command::new("sh");
    let script = "until [ -e $0/now ]; do sleep 0.1; done; exec $0/roots-sleep 300";
    let process = Process::start(as_user(shell.args(["-c", script]).arg(dir.path()), NOBODY_ELSE))?;
    let daemon = Daemon::start_in(dir, "rule = []\n")?;
    fs::write(daemon.dir().join("now"), "")?;
    let exe = format!("/proc/{}/exe", process.pid());
    wait_until("the other program", SOON, || fs::read_link(&exe).is_ok_and(|exe| exe == program))?;
    daemon.tracer(&["attach", &process.pid().to_string()])?.ok()?;
    let of_it = format!("process where pid = {}", process.pid());
    daemon.wait_for(&format!("select count(*) from {of_it}"), 1)?;
    let rows = daemon.sql(&format!("select uid, exe, cmdline from {of_it}"))?;
    assert_eq!(rows[0]["uid"], 0, "{rows:?}");
    assert_eq!(rows[0]["exe"].as_str(), program.to_str(), "{rows:?}");
    assert_eq!(his_rows(&daemon, &format!("select * from {of_it}"))?, [] as [Value; 0]);
    daemon.end()?;
    Ok(())
}

/// Memory and processor of the daemon are not his.
#[test]
fn a_user_cannot_exhaust_it() -> Result<()> {
    let (daemon, [own, _others]) = start(&CONFIG.replace("60s", "3s"))?;
    // Alone, so that nobody else is being started while the command is copied.
    daemon.tracer_as(NOBODY_ELSE, &["ls"])?.ok()?;
    let before = daemon.status()?;
    let rss = |status: &Value| status["rss_bytes"].as_u64().unwrap_or_default();
    let endless = "with recursive n(i) as (select 1 union all select i + 1 from n)";
    let questions = [
        format!("{endless} select max(i) from n"),
        format!("{endless} select group_concat(hex(zeroblob(100000))) from n"),
        "select hex(zeroblob(1000000000))".to_owned(),
        format!(
            "{endless}, m as materialized (select randomblob(100000) as b from n) select sum(length(b)) from m"
        ),
        "select count(*) from syscall a, syscall b, syscall c, thread_state d".to_owned(),
        format!("{endless} select i, randomblob(1000) from n order by 2"),
    ];
    // All at once, and more than may be answered at once.
    let states = "select count(*) from goroutine_state";
    let ask = |sql: &str| daemon.tracer_as(NOBODY_ELSE, &["sql", sql]);
    std::thread::scope(|scope| -> Result<()> {
        let both = questions.iter().chain(&questions);
        let asked: Vec<_> = both.map(|sql| (sql, scope.spawn(|| ask(sql)))).collect();
        // Meanwhile it records, and answers what takes no query.
        let events = |status: &Value| status["events"].to_string();
        let first = events(&daemon.status()?);
        wait_until("events", SOON, || daemon.status().is_ok_and(|now| events(&now) != first))?;
        for (sql, thread) in asked {
            let ended = thread.join().map_err(|_| anyhow!("a panic"))??;
            assert_eq!(ended.code(), 1, "{sql}: {ended:?}");
        }
        Ok(())
    })?;
    let after = daemon.status()?;
    // Those who answered had the memory (gigabytes), not the daemon, whose rows wait for a CPU meanwhile.
    assert!(rss(&after) < rss(&before) + (256 << 20), "{before} {after}");
    let n = daemon.number(states)?;
    daemon.wait_for(states, n + 100)?;
    assert!(daemon.traced(own.pid())?.is_some());
    let (_, log) = daemon.end()?;
    assert!(!log.contains("panicked"), "{log}");
    Ok(())
}

/// Nor is the time of the loop that records, which answers what takes no query.
#[test]
fn a_user_who_asks_without_end_keeps_nothing_from_being_recorded() -> Result<()> {
    let dir = open_dir()?;
    let ticks = Ticks::start(dir.path())?;
    let config = "[[rule]]\ncomm = \"sleep\"\nlevel = \"sched\"\n[[rule]]\ncomm = \"ticks*\"\nlevel = \"sched\"\n";
    let sleepers: Result<Vec<_>> =
        (0..300).map(|_| Process::start(Command::new("sleep").arg("300"))).collect();
    let sleepers = sleepers?;
    let daemon = Daemon::start_in(dir, config)?;
    daemon.wait_for(&format!("select count(*) from ({})", ticks.recorded()), 1)?;
    let from = monotonic_ns();
    let done = AtomicBool::new(false);
    let flood = || -> Result<usize> {
        // SAFETY: the system call itself, other than the function of the C library, changes one thread.
        unsafe { libc::syscall(libc::SYS_setresuid, SOMEBODY, SOMEBODY, SOMEBODY) };
        let mut client = Client::connect(daemon.socket(), "test")?;
        let mut asked = 0;
        while !done.load(Ordering::Relaxed) {
            let Reply::List(list) = client.control(Control::List)? else { bail!("no list") };
            // None of them is his.
            ensure!(list.is_empty(), "{list:?}");
            asked += 1;
        }
        Ok(asked)
    };
    let until = std::thread::scope(|scope| -> Result<i64> {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(flood)).collect();
        // While they go on asking, others are answered, and what happens is recorded.
        let seen = (0..ROUNDS).try_fold(0, |_, _| -> Result<i64> {
            daemon.status()?;
            let times = ticks.times()?;
            let last = i64::try_from(times.len())? - 1;
            let newest = format!("select max(n) from ({})", ticks.recorded());
            wait_until("what happens is recorded", SOON, || {
                daemon.number(&newest).is_ok_and(|n| n >= last)
            })?;
            times.last().copied().context("there was a first tick")
        });
        done.store(true, Ordering::Relaxed);
        let mut asked = 0;
        for client in clients {
            asked += client.join().map_err(|_| anyhow!("a panic"))??;
        }
        assert!(asked >= CLIENTS * ROUNDS, "{asked}");
        seen
    })?;
    let rows = daemon.sql(&ticks.recorded())?;
    drop(sleepers);
    let numbers: Vec<_> = rows.iter().filter_map(|row| row["n"].as_i64()).collect();
    ticks.all_in(&numbers, from, until)?;
    daemon.end()?;
    Ok(())
}

#[test]
fn the_group_may_do_everything_and_others_nothing_if_so_said() -> Result<()> {
    let gid = nix::unistd::Group::from_name("daemon")?.context("no group daemon")?.gid.as_raw();
    let member = User { id: SOMEBODY, groups: &[gid] };
    let daemon = Daemon::start("rule = []\n[access]\ngroup = \"daemon\"\nothers = \"nothing\"\n")?;
    let sleeper = Process::start(Command::new("sleep").arg("300"))?;
    let pid = sleeper.pid().to_string();
    daemon.tracer_as(member, &["attach", &pid])?.ok()?;
    daemon.tracer_as(member, &["status"])?.ok()?;
    let sql = format!("select count(*) from process where pid = {pid}");
    daemon.wait_for(&sql, 1)?;
    let ended = daemon.tracer_as(member, &["sql", &sql, "-o", "csv"])?.ok()?;
    assert!(ended.stdout.ends_with("\n1\n"), "{ended:?}");
    for args in [&["ls"][..], &["sql", "select 1"], &["goroutines"], &["waits"], &["attach", &pid]]
    {
        let ended = daemon.tracer_as(NOBODY_ELSE, args)?;
        assert_eq!(ended.code(), 1, "{args:?}: {ended:?}");
        assert!(ended.stdout.is_empty(), "{args:?}: {ended:?}");
    }
    daemon.tracer_as(member, &["detach", &pid])?.ok()?;
    let (_, log) = daemon.end()?;
    for what in ["attach", "detach", "sql"] {
        let line = log.lines().find(|line| line.contains("uid=4712") && line.contains(what));
        assert!(
            line.is_some_and(|line| line.contains("\"done\"") || line.contains("\"answered\"")),
            "{what}: {log}"
        );
    }
    Ok(())
}
