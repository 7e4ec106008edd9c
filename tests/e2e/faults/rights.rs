//! A daemon with too few rights, and one with no more than the unit file gives it.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tracer_tests::{
    go::Go,
    harness::{Process, SOON, bin, rows, run, tracer, wait_until},
    serving::{Place, stop},
};

/// A user who is in no group that matters, and owns nothing.
const SOMEBODY: u32 = 4_712;

/// A command with other rights: `setpriv RIGHTS -- COMMAND`.
fn with_rights(rights: &[&str], command: &Command) -> Command {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(rights).arg("--").arg(command.get_program()).args(command.get_args());
    setpriv
}

/// `+bpf,+perfmon...`: the capabilities of the unit file, as setpriv names them.
fn of_the_unit() -> Result<String> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/tracerd.service");
    let unit = fs::read_to_string(unit)?;
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.context("the unit has no capabilities")?.split_whitespace();
    let names = names.map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    Ok(format!("-all{}", names.collect::<String>()))
}

/// A daemon with no more than these capabilities.
fn serve_as_the_unit(place: &Place, config: &str) -> Result<Process> {
    let capabilities = of_the_unit()?;
    let rights = ["--no-new-privs", "--inh-caps", "-all", "--bounding-set", &capabilities];
    place.ready(Process::start(&mut with_rights(&rights, &place.command(config)?))?)
}

/// A copy of a program in a folder that everybody may look into, or only `owner`.
fn copy(program: &Path, folder: &Path, owner: Option<u32>) -> Result<std::path::PathBuf> {
    fs::create_dir_all(folder)?;
    let copy = folder.join(program.file_name().context("no name")?);
    fs::copy(program, &copy)?;
    let mode = if owner.is_some() { 0o700 } else { 0o755 };
    for path in [&copy, folder] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        chown(path, owner, owner)?;
    }
    Ok(copy)
}

#[test]
fn without_rights_it_says_what_it_needs() -> Result<()> {
    let place = Place::new()?;
    fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o777))?;
    let tracerd = copy(&bin("tracerd")?, &place.dir().join("bin"), None)?;
    let nobody = SOMEBODY.to_string();
    let nobody = ["--reuid", &nobody, "--regid", &nobody, "--clear-groups"];
    for rights in [&["--bounding-set", "-all"][..], &nobody] {
        let command = place.command("")?;
        let mut same = Command::new(&tracerd);
        same.args(command.get_args());
        let ended = run(&mut with_rights(rights, &same), SOON)?;
        assert_eq!(ended.code(), 1, "{ended:?}");
        let lines: Vec<_> = ended.stderr.lines().collect();
        assert!(
            lines.len() == 1 && lines[0].contains("needs root or CAP_BPF+CAP_PERFMON"),
            "{ended:?}"
        );
        assert!(!place.database().exists() && !place.socket().exists());
    }
    Ok(())
}

#[test]
fn the_capabilities_of_the_unit_are_enough() -> Result<()> {
    let place = Place::new()?;
    fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755))?;
    // The database is root's alone, the program somebody else's.
    let private = place.dir().join("private");
    fs::create_dir(&private)?;
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700))?;
    let program = copy(&Go::find()?.build("httpload")?, &place.dir().join("own"), Some(SOMEBODY))?;
    let mut load = Command::new(&program);
    let load = Process::start(load.args(["-pause", "1ms"]).uid(SOMEBODY).gid(SOMEBODY))?;
    let config = format!(
        "[store]\npath = \"{}\"\n[[rule]]\nexe = \"{}\"\nlevel = \"go\"\n[[rule]]\nlevel = \"sched\"\n",
        private.join("trace.db").display(),
        program.display()
    );
    let daemon = serve_as_the_unit(&place, &config)?;
    // Its executable was read, its memory, and its probes were put in place.
    let states = "select count(*) as n from goroutine_state join goroutine using (ugid) join process using (upid)";
    let states = format!("{states} where pid = {} and stack_id is not null", load.pid());
    wait_until("goroutines", SOON, || place.ask_number(&states).is_ok_and(|n| n > 100))?;
    // Its owner asks.
    let tracer = copy(&bin("tracer")?, &place.dir().join("bin"), None)?;
    let mut own = Command::new(tracer);
    own.args(["sql", &states, "-o", "json", "--socket"]).arg(place.socket());
    let answer = run(own.uid(SOMEBODY).gid(SOMEBODY), SOON)?.ok()?;
    assert!(rows(&answer.stdout)?[0]["n"].as_i64() > Some(100), "{answer:?}");
    // Who does not wait for the answer leaves no process behind that works on it.
    let endless =
        "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n";
    let asking = Process::start(&mut place.tracer(&["sql", endless])?)?;
    let under_way = |n: u64| {
        move |place: &Place| place.status().is_ok_and(|status| status["socket"]["queries"] == n)
    };
    wait_until("a question", SOON, || under_way(1)(&place))?;
    drop(asking);
    wait_until("no question", SOON, || under_way(0)(&place))?;
    let workers = || -> Result<usize> {
        let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
        Ok(fs::read_to_string(children)?.split_whitespace().count())
    };
    wait_until("no process", SOON, || workers().is_ok_and(|count| count == 0))?;
    let list = run(&mut place.tracer(&["ls", "-o", "json"])?, SOON)?.ok()?.stdout;
    let list: Value = serde_json::from_str(&list)?;
    let pid = i64::from(load.pid());
    let traced = list.as_array().into_iter().flatten().find(|row| row["pid"] == pid);
    assert_eq!(traced.context("it is not traced")?["state"], "tracing", "{list}");
    let said = stop(daemon)?.stderr;
    for word in ["denied", "hides its addresses", "not permitted"] {
        assert!(!said.to_lowercase().contains(word), "{said}");
    }
    place.is_sound()
}

/// What `sudo tracerd attach` leaves behind is the user's who said sudo, and the unit may not write to it.
#[test]
fn a_database_of_another_user_does_not_keep_the_unit_from_starting() -> Result<()> {
    let place = Place::new()?;
    let config = "[[rule]]\nlevel = \"sched\"\n";
    stop(place.serve(config)?)?;
    let database = place.database();
    let of = |file: &Path| -> Result<(u32, u32)> {
        let meta = fs::metadata(file)?;
        Ok((meta.uid(), meta.mode() & 0o777))
    };
    chown(database, Some(SOMEBODY), Some(SOMEBODY))?;
    assert_eq!(of(database)?, (SOMEBODY, 0o640));
    let daemon = serve_as_the_unit(&place, config)?;
    assert_eq!(place.ask_number("select count(*) as n from session")?, 1);
    let said = stop(daemon)?.stderr;
    assert!(said.contains("trace.db belongs to another user; it is kept as "), "{said}");
    assert_eq!(of(database)?, (0, 0o640));
    let old = database.with_extension("db.old");
    assert_eq!(of(&old)?, (SOMEBODY, 0o640));
    let sessions = ["sql", "select count(*) as n from session", "-o", "json", "--db"];
    let answer = run(tracer(&sessions)?.arg(&old), SOON)?.ok()?;
    assert_eq!(rows(&answer.stdout)?[0]["n"], 1);
    // The next one goes on with what is its own.
    let daemon = serve_as_the_unit(&place, config)?;
    assert_eq!(place.ask_number("select count(*) as n from session")?, 2);
    stop(daemon)?;
    assert_eq!(of(&old)?, (SOMEBODY, 0o640));
    place.is_sound()
}
