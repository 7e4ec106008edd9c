//! Executables in an overlay mount that are copied up while they run: the process keeps the file of the lower layer mapped,
//! which no path of the mount resolves to any more.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use tracer_tests::{
    daemon::{Daemon, open_dir},
    go::Go,
    harness::{Database, Process, SOON, wait_until},
};

const STATES: &str = "select count(*) as n from goroutine_state where dur is not null";
const RULE: &str = "[[rule]]\nname = \"it\"\ncomm = \"copied\"\nlevel = \"go\"\n";
const COPIED_UP: &str = "copied up by an overlay mount";

/// Mounts an overlay as engines for containers do, with several layers, of which one has a name with a colon and another
/// one is relative, and runs the program in it.
const MOUNT: &str = r#"mount -t tmpfs own "$1" && cd "$1" && mkdir empty l:1 l3 upper work && cp "$2" l:1/copied
    mount -t overlay -o 'lowerdir=empty:'"$1"'/l\:1:l3,upperdir=upper,workdir=work' over "$3" || exit
    (while ! readlink /proc/$$/exe | grep -q copied; do sleep 0.01; done; sleep 0.1; chown 1 "$3/copied") &
"#;
const RUN: &str = r#"exec "$3/copied" -d 600s"#;
/// Another one that begins after the copy-up stays beside it.
const RUN_TWO: &str = r#"(while ! find "$3/copied" -user 1 | grep -q copied; do sleep 0.01; done
        exec "$3/copied" -d 600s) &
    exec "$3/copied" -d 600s"#;
/// No path leads to the layers any more.
const RUN_WITHOUT_LAYERS: &str = r#"(while ! find "$3/copied" -user 1 | grep -q copied; do sleep 0.01; done
        cd / && umount -l "$1") &
    cd / && exec "$3/copied" -d 600s"#;

/// Runs the program in a mount in the folder `dir`, and has its file copied up.
fn copied_up(dir: &Path, run: &str) -> Result<Process> {
    let (own, mounted) = (dir.join("own"), dir.join("mounted"));
    fs::create_dir(&own)?;
    fs::create_dir(&mounted)?;
    let program = Go::find()?.build("pingpong")?;
    let script = format!("{MOUNT}{run}");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(&own).arg(program).arg(&mounted);
    let process = Process::start(&mut command)?;
    let exe = format!("/proc/{}/exe", process.pid());
    let is_so = wait_until("it is copied up", SOON / 4, || {
        fs::read_link(&exe).is_ok_and(|path| path.ends_with("copied"))
            && fs::metadata(&exe).is_ok_and(|file| file.uid() == 1)
    });
    if is_so.is_err() {
        bail!("{:?}", process.wait(SOON / 60));
    }
    Ok(process)
}

/// Lets those end that the process has started.
fn end_children(pid: i32) {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
        // It may have ended.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), Signal::SIGKILL);
    }
}

#[test]
fn attach_traces_what_is_mapped() -> Result<()> {
    let dir = open_dir()?;
    let target = copied_up(dir.path(), RUN)?;
    let database = Database::new()?;
    let tracerd = database.attach(target.pid(), &[])?;
    wait_until("states", SOON, || database.number(STATES).is_ok_and(|n| n > 10_000))?;
    tracerd.signal(Signal::SIGINT)?;
    let said = tracerd.wait(SOON)?.ok()?.stderr;
    ensure!(!said.contains("overwritten") && !said.contains(COPIED_UP), "{said}");
    assert_eq!(database.number("select count(*) as n from process where missing is not null")?, 0);
    Ok(())
}

/// One runs the lower file and the other one the upper file, with the same path.
#[test]
fn the_daemon_traces_what_is_mapped() -> Result<()> {
    let dir = open_dir()?;
    let target = copied_up(dir.path(), RUN_TWO)?;
    let pid = target.pid();
    let done = (|| {
        let daemon = Daemon::start(RULE)?;
        daemon.wait_for_rule(pid, "it go")?;
        let states = |who: &str| {
            format!(
                "{STATES} and ugid in (select ugid from goroutine join process using (upid) where pid {who} {pid})"
            )
        };
        daemon.wait_for(&states("="), 10_000)?;
        daemon.wait_for(&states("<>"), 10_000)?;
        daemon.end()
    })();
    end_children(pid);
    done.map(drop)
}

#[test]
fn what_cannot_be_reached_is_missing() -> Result<()> {
    let dir = open_dir()?;
    let target = copied_up(dir.path(), RUN_WITHOUT_LAYERS)?;
    let mounts = format!("/proc/{}/mounts", target.pid());
    wait_until("the layers are gone", SOON, || {
        fs::read_to_string(&mounts)
            .is_ok_and(|mounts| !mounts.contains("own tmpfs") && !mounts.contains("/own "))
    })?;
    let missing = format!("select count(*) as n from process where missing like '%{COPIED_UP}%'");
    let database = Database::new()?;
    let tracerd = database.attach(target.pid(), &[])?;
    let threads = "select count(*) as n from thread_state where dur is not null";
    wait_until("states of threads", SOON, || database.number(threads).is_ok_and(|n| n > 100))?;
    tracerd.signal(Signal::SIGINT)?;
    let said = tracerd.wait(SOON)?.ok()?.stderr;
    ensure!(said.contains(COPIED_UP) && !said.contains("overwritten"), "{said}");
    assert_eq!(database.number(&missing)?, 1);
    assert_eq!(database.number("select count(*) as n from goroutine_state")?, 0);

    let daemon = Daemon::start(RULE)?;
    daemon.wait_for(&missing, 1)?;
    daemon.wait_for(threads, 100)?;
    daemon.end()?;
    Ok(())
}
