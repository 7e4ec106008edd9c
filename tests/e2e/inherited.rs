//! What tracerd is started with: signals that are ignored, limits. It heeds it, and a command of `tracerd run` finds it as it
//! would without tracerd.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{SigHandler, Signal};
use serde_json::json;
use tracer_tests::{
    daemon::open_dir,
    go::Go,
    harness::{Database, Ended, Process, SOON, bin, run, tracerd, wait_until},
};

/// A command that a shell starts after it has done something.
fn after(shell: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell}; exec \"$@\""), "sh"]);
    command
}

/// Lets a command ignore signals from its beginning: `trap` of some shells does not do that for SIGCHLD.
fn ignoring<'a>(command: &'a mut Command, signals: &[Signal]) -> &'a mut Command {
    let signals = signals.to_vec();
    let ignore = move || {
        for &signal in &signals {
            // SAFETY: no handler is installed.
            unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
        }
        Ok(())
    };
    // SAFETY: nothing but system calls.
    unsafe { command.pre_exec(ignore) }
}

/// `tracerd run`, from such a shell.
fn recording(database: &Database, shell: &str, command: &[&str]) -> Result<Command> {
    let mut tracerd = after(shell);
    tracerd.arg(bin("tracerd")?).args(["run", "--quiet", "--db"]).arg(database.path());
    tracerd.arg("--").args(command);
    Ok(tracerd)
}

/// As [`recording`], to its end.
fn record(database: &Database, shell: &str, command: &[&str]) -> Result<Ended> {
    run(&mut recording(database, shell, command)?, 2 * SOON)
}

#[test]
fn ignored_signals_stay_ignored() -> Result<()> {
    let database = Database::new()?;
    let target = Process::start(Command::new("sleep").arg("60"))?;
    let mut attach = after("trap '' HUP INT QUIT");
    attach.arg(bin("tracerd")?).args(["attach", &target.pid().to_string(), "--db"]);
    let mut attach = Process::start(attach.arg(database.path()))?;
    let rows = "select count(*) as n from process where pid is not null";
    wait_until("a recording", SOON, || {
        database.path().is_file() && database.number(rows).is_ok_and(|n| n > 0)
    })?;
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        attach.signal(signal)?;
    }
    // Each would have ended it within a few milliseconds.
    thread::sleep(Duration::from_secs(1));
    assert!(attach.is_running(), "{:?}", attach.wait(SOON)?);
    attach.signal(Signal::SIGTERM)?;
    attach.wait(SOON)?.ok()?;
    assert_eq!(database.value("select end_reason from session")?, json!("SIGTERM"));
    Ok(())
}

#[test]
fn a_command_finds_signals_and_limits_as_without_tracerd() -> Result<()> {
    let database = Database::new()?;
    // A shell that waits for another program blocks signals for a while, so it shows only its limits.
    let signals = ["grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"];
    let limits = ["sh", "-c", "ulimit -Sn; ulimit -Hn; umask"];
    use Signal::{SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGXCPU, SIGXFSZ};
    let ways: [(&str, &[Signal]); 3] = [
        ("true", &[]),
        ("ulimit -Sn 300; umask 077", &[SIGCHLD, SIGPIPE, SIGXFSZ, SIGHUP, SIGINT]),
        ("ulimit -n 400", &[SIGTERM, SIGQUIT, SIGALRM, SIGXCPU]),
    ];
    for (shell, ignored) in ways {
        for show in [&signals[..], &limits] {
            let alone = run(ignoring(after(shell).args(show), ignored), SOON)?.ok()?;
            let mut traced = recording(&database, shell, show)?;
            let traced = run(ignoring(&mut traced, ignored), 2 * SOON)?.ok()?;
            assert_eq!(traced.stdout, alone.stdout, "{shell}, {ignored:?}: {}", traced.stderr);
        }
    }
    Ok(())
}

#[test]
fn exit_codes_are_passed_through_though_sigchld_is_ignored() -> Result<()> {
    let database = Database::new()?;
    // Without a shell, which may have a handler of its own for it.
    let record = |command: &[&str]| {
        let mut tracerd = tracerd(&["run", "--quiet", "--db"])?;
        tracerd.arg(database.path()).arg("--").args(command);
        run(ignoring(&mut tracerd, &[Signal::SIGCHLD]), 2 * SOON)
    };
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)] {
        let ended = record(&["sh", "-c", script])?;
        assert_eq!(ended.code(), code, "{script}: {}", ended.stderr);
    }
    let show = ["SigIgn", "/proc/self/status"];
    let alone = run(ignoring(Command::new("grep").args(show), &[Signal::SIGCHLD]), SOON)?.ok()?;
    let traced = record(&[&["grep"], &show[..]].concat())?.ok()?;
    assert_eq!(traced.stdout, alone.stdout, "{}", traced.stderr);
    Ok(())
}

#[test]
fn a_bound_on_the_size_of_files_is_as_a_full_disk() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("pingpong")?;
    let program = program.to_str().context("an odd path")?;
    let begun = Instant::now();
    // Blocks of 512 bytes.
    let ended = record(&database, "ulimit -f 1200", &[program, "-d", "3s"])?;
    assert_eq!(ended.code(), 1, "{ended:?}");
    let message = &ended.stderr;
    assert!(message.contains("ulimit -f") && message.contains("exit code 0"), "{message}");
    ensure!(begun.elapsed() > Duration::from_secs(3), "the command was not left alone");
    assert_eq!(database.sql("pragma integrity_check")?, [json!({"integrity_check": "ok"})]);
    database.number("select count(*) as n from segment").context("nothing can be read")?;
    Ok(())
}

#[test]
fn too_much_cpu_time_ends_the_recording_and_not_the_command() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("pingpong")?;
    let program = program.to_str().context("an odd path")?;
    // Of tracerd itself, the program may have more.
    let script = format!("ulimit -St unlimited; exec {program} -d 8s");
    let ended = record(&database, "ulimit -St 1", &["sh", "-c", &script])?.ok()?;
    assert!(ended.stdout.contains("rounds="), "{ended:?}");
    assert_eq!(database.value("select end_reason from session")?, json!("SIGXCPU"));
    Ok(())
}

/// In places of its own instead of /var/lib and /run, with a umask that lets nobody else in.
#[test]
fn a_umask_keeps_nobody_from_what_is_theirs() -> Result<()> {
    let dir = open_dir()?;
    let copy = dir.path().join("tracer");
    fs::copy(bin("tracer")?, &copy)?;
    let script = r#"
        tracerd=$1 tracer=$2
        mount -t tmpfs -o mode=755 none /var/lib; mount -t tmpfs -o mode=755 none /run
        as_user() { setpriv --reuid 12345 --regid 54321 --clear-groups "$@"; }
        umask 077
        SUDO_UID=12345 SUDO_GID=54321 "$tracerd" run --quiet -- true
        stat -c '%n %a %u' /var/lib/tracerd /var/lib/tracerd/trace.db
        as_user "$tracer" sql "select 'read' as word" -o csv
        rm /var/lib/tracerd/*; rmdir /var/lib/tracerd
        "$tracerd" serve & pid=$!
        trap 'kill $pid; wait $pid' EXIT
        for i in $(seq 600); do [ -S /run/tracerd/tracerd.sock ] && break; sleep 0.1; done
        stat -c '%n %a %u' /var/lib/tracerd /run/tracerd /run/tracerd/tracerd.sock
        as_user "$tracer" ls >/dev/null && echo connected
        chmod 700 /run/tracerd
        as_user "$tracer" ls 2>&1 || true
        chmod 700 /var/lib/tracerd
        as_user "$tracer" sql 'select 1' --db /var/lib/tracerd/trace.db 2>&1 || true
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script, "sh"]).arg(bin("tracerd")?).arg(copy);
    for name in ["TRACERD_DB", "TRACERD_SOCKET", "TRACERD_CONFIG"] {
        command.env_remove(name);
    }
    let ended = run(&mut command, 2 * SOON)?.ok()?;
    let lines: Vec<_> = ended.stdout.lines().collect();
    let as_it_should = [
        "/var/lib/tracerd 755 0",
        "/var/lib/tracerd/trace.db 640 12345",
        "word",
        "read",
        "/var/lib/tracerd 755 0",
        "/run/tracerd 755 0",
        "/run/tracerd/tracerd.sock 666 0",
        "connected",
    ];
    ensure!(lines.starts_with(&as_it_should), "{ended:#?}");
    let [socket, file] = lines[as_it_should.len()..] else { bail!("{ended:#?}") };
    assert!(socket.contains("may not enter /run/tracerd (mode 0700)"), "{socket}");
    assert!(file.contains("may not enter /var/lib/tracerd (mode 0700)"), "{file}");
    Ok(())
}
