//! Executables that are unlike those that `go build` makes.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use tracer_tests::{
    go::Go,
    harness::{Database, Ended, SOON},
};

const LIMIT: Duration = Duration::from_secs(120);

fn record(database: &Database, program: &Path, args: &[&str]) -> Result<Ended> {
    let mut command = vec![program.to_str().context("an odd path")?];
    command.extend(args);
    database.record(&[], &command, LIMIT)
}

/// An executable of the given bytes in the database's folder.
fn executable(database: &Database, bytes: &[u8]) -> Result<std::path::PathBuf> {
    let path = database.dir().join("program");
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[test]
fn position_independent() -> Result<()> {
    let database = Database::new()?;
    let ended = record(&database, &Go::find()?.build_pie("daisy")?, &["-n", "10"])?.ok()?;
    assert_eq!(ended.stdout, "sum=11\n");
    let n = "select count(*) as n from goroutine where start_func = 'main.pass'";
    assert_eq!(database.number(n)?, 10);
    Ok(())
}

#[test]
fn no_executable_at_all() -> Result<()> {
    let database = Database::new()?;
    for bytes in [&b"\x7fELF"[..], b"\0\0\0\0", b""] {
        let ended = record(&database, &executable(&database, bytes)?, &[])?;
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert!(ended.stderr.contains("program"), "{}", ended.stderr);
    }
    let ended = database.record(&[], &["/nonexistent/command"], SOON)?;
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("/nonexistent/command"), "{}", ended.stderr);
    Ok(())
}

/// Reads an integer of the ELF header.
fn word(bytes: &[u8], at: usize) -> Result<usize> {
    let word = bytes.get(at..at + 8).context("a short file")?;
    Ok(usize::try_from(u64::from_le_bytes(word.try_into()?))?)
}

/// The kernel loads a program by its segments. Damage to all that is only for tools does not stop
/// it, so tracerd meets such files alive.
#[test]
fn damaged_but_running() -> Result<()> {
    let good = fs::read(Go::find()?.build_stripped("daisy")?)?;
    const E_SHOFF: usize = 40;
    let sections = word(&good, E_SHOFF)?;
    let magic = good
        .windows(6)
        .position(|window| window == [0xf1, 0xff, 0xff, 0xff, 0, 0])
        .context("no pclntab")?;
    let build_info = good
        .windows(14)
        .position(|window| window == b"\xff Go buildinf:")
        .context("no build info")?;

    type Damage = (&'static str, usize, Vec<u8>);
    let damages: [Damage; 6] = [
        ("section table beyond the file", E_SHOFF, u64::MAX.to_le_bytes().into()),
        ("section table in mid-file", E_SHOFF, 4097_u64.to_le_bytes().into()),
        ("section table of zeros", sections, vec![0; 64 * 8]),
        ("section table of ones", sections + 64, vec![0xff; 64 * 8]),
        ("build info of nonsense", build_info + 14, vec![0xff; 40]),
        ("magic of the pclntab", magic, vec![0x55; 4]),
    ];
    for (what, at, bytes) in damages {
        let mut bad = good.clone();
        bad.get_mut(at..at + bytes.len()).context(what)?.copy_from_slice(&bytes);
        let database = Database::new()?;
        let program = executable(&database, &bad)?;
        // The runtime reads its own pclntab, and gives up when that is bad.
        let alone = std::process::Command::new(&program).output()?;
        let ended = record(&database, &program, &[])?;
        assert!([0, 1, 2].contains(&ended.code()), "{what}: {ended:?}");
        assert!(!ended.stderr.contains("panicked"), "{what}: {ended:?}");
        if alone.status.success() && ended.code() == 0 {
            assert_eq!(ended.stdout, "sum=4\n", "{what}: {ended:?}");
            // Nothing wrong is stored: the right functions, or none.
            let wrong = "select count(*) as n from goroutine
                 where start_func not like 'runtime.%' and start_func not in ('main.pass', 'main.sendFirst')";
            assert_eq!(database.number(wrong)?, 0, "{what}");
            assert!(database.number("select count(*) as n from syscall")? > 0, "{what}");
        } else {
            assert!(!ended.stderr.is_empty(), "{what}: {ended:?}");
        }
    }
    Ok(())
}
