//! A process that sees another system: a container without its tools.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use tracer_tests::{
    daemon::{ControlGroup, Daemon, open_dir},
    go::Go,
    harness::{Process, SOON, is_alive, wait_until},
};

/// With mount, pid, user, network, host name and IPC namespaces, and a root of its own, in which nothing is but the
/// program.
#[test]
fn goroutines_in_namespaces_with_a_root_of_their_own() -> Result<()> {
    const ID: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
    let config =
        "[[rule]]\nname = \"app\"\nexe = \"/app\"\ncontainer = \"fedcba98\"\nlevel = \"go\"\n";
    let daemon = Daemon::start_in(open_dir()?, config)?;
    let go = Go::find()?;
    // The second one is known already.
    for _ in 0..2 {
        let program = go.build("mutex")?;
        let group = ControlGroup::new(&format!("docker-{ID}.scope"))?;
        let root = tempfile::tempdir_in(daemon.dir())?;
        let script = "mount -t tmpfs app $1 && cp $2 $1/app && mkdir $1/old && cd $1 \
                      && pivot_root . old && exec /app -n 6 -rounds 100000000";
        let mut container = Command::new("unshare");
        container.args([
            "--user",
            "--map-root-user",
            "--mount",
            "--pid",
            "--net",
            "--uts",
            "--ipc",
        ]);
        container.args(["--fork", "--kill-child", "sh", "-c", script, "sh"]);
        container.arg(root.path()).arg(program);
        let container = Process::start(group.enter(&mut container)?)?;
        let mut inside = None;
        let so = wait_until("the program", SOON / 4, || {
            let pid = container.pid();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            inside = children.ok().and_then(|text| text.trim().parse::<i32>().ok()).filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "app\n")
            });
            inside.is_some()
        });
        if so.is_err() {
            panic!("{:?}", container.wait(SOON / 10));
        }
        let pid = inside.context("no program")?;
        daemon.wait_for_rule(pid, "app go")?;
        let goroutines = format!(
            "select count(distinct ugid) from goroutine_state s join goroutine g using (ugid)
             join process p using (upid) join thread t on t.utid = s.utid and t.upid = p.upid
             where start_func = 'main.work' and state = 'running' and pid = {pid}"
        );
        daemon.wait_for(&goroutines, 6)?;
        // The kernel's ids, not those that they have in there.
        let mut threads: Vec<i64> = fs::read_dir(format!("/proc/{pid}/task"))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        threads.sort_unstable();
        let list = threads.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        let known = format!(
            "select count(distinct tid) from thread join process using (upid)
             where pid = {pid} and tid in ({list})"
        );
        daemon.wait_for(&known, i64::try_from(threads.len())?)?;
        let row = daemon.sql(&format!(
            "select exe, cmdline, cgroup, runtime_version, missing, level from process where pid = {pid}
             order by upid desc limit 1"
        ))?;
        let row = row.first().context("no process")?;
        assert_eq!((&row["exe"], &row["level"]), (&"/app".into(), &"go".into()), "{row}");
        assert_eq!(row["cmdline"], "/app -n 6 -rounds 100000000", "{row}");
        assert!(row["cgroup"].as_str().is_some_and(|cgroup| cgroup.contains(ID)), "{row}");
        assert!(row["runtime_version"].is_string() && row["missing"].is_null(), "{row}");
        drop(container);
        wait_until("its end", SOON, || !is_alive(pid))?;
        wait_until("it is forgotten", SOON, || daemon.traced(pid).is_ok_and(|row| row.is_none()))?;
    }
    daemon.end()?;
    Ok(())
}

/// Two containers of one image: each sees the program as a file of its own, and to the kernel it is one. It runs the
/// probes of both in each of them.
#[test]
fn two_of_one_image() -> Result<()> {
    let daemon = Daemon::start_in(
        open_dir()?,
        "[[rule]]\nname = \"app\"\ncomm = \"app\"\nlevel = \"go\"\n",
    )?;
    let image = tempfile::tempdir_in(daemon.dir())?;
    fs::copy(Go::find()?.build("gcheavy")?, image.path().join("app"))?;
    let script = "mount -t tmpfs own $1 && mkdir $1/upper $1/work $1/root && cd $1 \
                  && mount -t overlay -o lowerdir=$2,upperdir=upper,workdir=work root root \
                  && exec root/app -forever";
    let mut containers = Vec::new();
    for _ in 0..2 {
        let own = tempfile::tempdir_in(daemon.dir())?;
        let mut container = Command::new("unshare");
        container.args(["--mount", "sh", "-c", script, "sh"]).arg(own.path()).arg(image.path());
        let container = Process::start(&mut container)?;
        daemon.wait_for_rule(container.pid(), "app go")?;
        containers.push((container, own));
    }
    for (container, _) in &containers {
        let cycles = format!(
            "select count(*) from gc join process using (upid) where pid = {}",
            container.pid()
        );
        daemon.wait_for(&cycles, 3)?;
    }
    let status = daemon.tracer(&["status"])?.ok()?.stdout;
    assert_eq!(status.matches("/root/app").count(), 2, "{status}");
    drop(containers);
    let (database, _) = daemon.end()?;
    // What an event says is already so, if it comes twice.
    let twice = "select kind, sum(count) as n from loss where stage = 'state' and kind like 'go%' group by kind";
    assert_eq!(database.sql(twice)?, Vec::<serde_json::Value>::new());
    Ok(())
}
