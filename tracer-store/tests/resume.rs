//! Going on with the database of a former run, and what happens to one that cannot be gone on with.

mod common;

use std::fs;
use std::path::Path;

use common::load::{DANGLING, Load, STEP};
use common::{Dir, END, rows, session};
use tracer_store::{
    FirstIds, LastingWriter, Limits, NewSession, Opened, Reader, StoreError, query,
};

async fn open(path: &Path, start: i64, boot: &str) -> (LastingWriter, Opened) {
    let session = NewSession { started_ts: start, boot_id: boot.into(), ..session() };
    LastingWriter::open(path, session, Limits::default()).await.unwrap()
}

/// A run of some batches; returns when it ended.
async fn run(path: &Path, start: i64, batches: i64) -> (LastingWriter, Opened, i64) {
    let (mut writer, opened) = open(path, start, "b0").await;
    let mut load = Load::new(start, opened.first_ids, 300);
    for _ in 0..batches {
        let stored = writer.store(load.next()).await;
        assert!(stored.error.is_none() && stored.dropped == 0, "{stored:?}");
    }
    (writer, opened, start + batches * STEP)
}

#[tokio::test]
async fn a_killed_run_is_gone_on_with() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let (writer, opened, end) = run(&path, 0, 9).await;
    assert_eq!(opened, Opened { first_ids: FirstIds::default(), note: None });
    // As when it is killed: nothing is told to the database.
    drop(writer);
    let (writer, opened, end) = run(&path, end + 1000, 7).await;
    let ids = FirstIds { upid: 10, utid: 10, ugid: 10, stack: 10, frame: 10, string: 3 };
    assert_eq!(opened.first_ids, ids);
    assert!(opened.note.unwrap().starts_with("going on with "));
    writer.finish(end, "done", END).await.unwrap();
    let (_writer, opened, _) = run(&path, end, 1).await;
    assert_eq!(opened.first_ids.ugid, 17);

    let reader = Reader::open(&path).unwrap();
    assert_eq!(
        rows(&reader, "select session_id, ended_ts is null, kept_since from session"),
        ["1|1|-", "2|0|-", "3|1|-"]
    );
    let sql = "select count(*), count(distinct segment_id) = count(*) from segment where is_open";
    assert_eq!(rows(&reader, sql), ["3|1"]);
    assert_eq!(rows(&reader, "select count(*), count(distinct ts) from syscall"), ["5100|5100"]);
    for row in rows(&reader, DANGLING) {
        assert!(row.ends_with("|0"), "{row}");
    }
    let of_session = |id| {
        let asked = query::selection::Asked::session(Some(id));
        query::goroutines::list(&reader, &asked, "[unknown]").unwrap().len()
    };
    assert_eq!([1, 2, 3].map(of_session), [9, 7, 1]);
    // Times of all sessions are of one clock.
    assert_eq!(rows(&reader, "select wall(1500)"), ["2023-11-14 22:13:20.000000500"]);
    assert_eq!(rows(&reader, "select wall(1500, 1)"), ["2023-11-14 22:13:20.000000500"]);
}

#[tokio::test]
async fn a_number_is_not_used_again_when_its_row_is_gone() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let (writer, _, end) = run(&path, 0, 9).await;
    writer.finish(end, "done", END).await.unwrap();
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch("delete from goroutine; delete from thread; delete from stack").unwrap();
    drop(conn);
    let (_, opened) = open(&path, end, "b0").await;
    assert_eq!(
        (opened.first_ids.ugid, opened.first_ids.utid, opened.first_ids.stack),
        (10, 10, 10)
    );
}

#[tokio::test]
async fn another_boot_or_schema_is_kept_as_old() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    drop(run(&path, 0, 3).await);
    let (writer, opened) = open(&path, 0, "b1").await;
    let note = opened.note.unwrap();
    assert!(
        note.contains("before the machine was started anew") && note.contains("a.db.old"),
        "{note}"
    );
    assert_eq!((opened.first_ids, writer.session_id()), (FirstIds::default(), Some(1)));
    let old = Reader::open(&dir.file("a.db.old")).unwrap();
    assert_eq!(rows(&old, "select count(*) from syscall"), ["900"]);
    drop((writer, old));

    for version in [2, 99] {
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.pragma_update(None, "user_version", version).unwrap();
        drop(conn);
        let (_, opened) = open(&path, 0, "b1").await;
        let note = opened.note.unwrap();
        assert!(note.contains("another version of the schema"), "{note}");
    }
}

/// The only file that a damaged database was kept as.
fn kept(dir: &Dir, what: &str) -> String {
    let names = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string());
    let mut kept: Vec<_> = names.flatten().filter(|name| name.contains(".corrupt-")).collect();
    kept.retain(|name| !name.ends_with("-wal"));
    assert_eq!(kept.len(), 1, "{what}: {kept:?}");
    kept.remove(0)
}

#[tokio::test]
async fn a_damaged_database_is_kept_aside_and_told() {
    let made = Dir::new();
    let path = made.file("a.db");
    let (writer, _, end) = run(&path, 0, 40).await;
    writer.finish(end, "done", END).await.unwrap();
    let good = fs::read(&path).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    let pages = good.len() / 4096;
    let damages: Vec<(&str, Vec<u8>)> = vec![
        ("text", b"this is no database\n".to_vec()),
        ("noise", (0..9000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
        ("header", with(0, &[0; 16])),
        ("cut", good[..good.len() / 2].to_vec()),
        ("cut in the first page", good[..1000].to_vec()),
        ("zeros", with(4096 * (pages / 3), &vec![0; 4096 * 9])),
        ("schema", with(100, &[0xff; 200])),
        ("list of free pages", with(32, &[0, 0, 0, 11, 0, 0, 0, 3])),
    ];
    for (what, bytes) in damages {
        let dir = Dir::new();
        let path = dir.file("a.db");
        fs::write(&path, &bytes).unwrap();
        let (mut writer, opened) = open(&path, end, "b0").await;
        let note = opened.note.unwrap_or_default();
        let kept = kept(&dir, what);
        assert!(note.contains("is damaged (") && note.contains(&kept), "{what}: {note}");
        assert_eq!(fs::read(dir.file(&kept)).unwrap(), bytes, "{what}");
        let mut load = Load::new(end, opened.first_ids, 10);
        assert!(writer.store(load.next()).await.error.is_none());
        writer.finish(end + STEP, "done", END).await.unwrap();
        let reader = Reader::open(&path).unwrap();
        assert_eq!(rows(&reader, "pragma integrity_check"), ["ok"], "{what}");
        assert_eq!(rows(&reader, "select count(*) from syscall"), ["10"], "{what}");
    }
}

#[tokio::test]
async fn a_snapshot_is_not_gone_on_with() {
    let dir = Dir::new();
    let (snapshot, link) = (dir.file("1-request.flight.db"), dir.file("a.db"));
    let (writer, _, end) = run(&snapshot, 0, 3).await;
    writer.finish(end, "done", END).await.unwrap();
    let before = fs::read(&snapshot).unwrap();
    for gone in [false, true] {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&snapshot, &link).unwrap();
        if gone {
            fs::remove_file(&snapshot).unwrap();
        }
        let (writer, opened, _) = run(&link, end, 1).await;
        let note = opened.note.unwrap();
        assert!(note.contains(" was a link to the snapshot "), "{note}");
        assert!(
            note.ends_with("1-request.flight.db, which stays; a new database is begun"),
            "{note}"
        );
        drop(writer);
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        let reader = Reader::open(&link).unwrap();
        assert_eq!(rows(&reader, "select count(*) from session"), ["1"]);
        assert_eq!(snapshot.exists(), !gone);
        assert!(gone || fs::read(&snapshot).unwrap() == before);
    }
}

/// A database that somebody put on another disk stays there.
#[tokio::test]
async fn a_link_to_a_database_is_followed() {
    let dir = Dir::new();
    let (path, link) = (dir.file("a.db"), dir.file("link.db"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    drop(run(&path, 0, 1).await);
    let (_writer, opened, _) = run(&link, 10_000, 1).await;
    assert!(opened.note.unwrap().starts_with("going on with "));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let dir = Dir::new();
    let text = dir.file("notes.txt");
    fs::write(&text, "dear diary\n").unwrap();
    let foreign = dir.file("foreign.db");
    let conn = rusqlite::Connection::open(&foreign).unwrap();
    conn.execute_batch("create table precious(x)").unwrap();
    drop(conn);
    for path in [&text, &foreign] {
        let before = fs::read(path).unwrap();
        let opened = LastingWriter::open(path, session(), Limits::default()).await;
        let error = opened.err().unwrap();
        assert!(matches!(error, StoreError::NotADatabase { .. }), "{error}");
        assert_eq!(fs::read(path).unwrap(), before);
    }
    let path = dir.file("a.db");
    let (_writer, _) = open(&path, 0, "b0").await;
    let again = LastingWriter::open(&path, session(), Limits::default()).await;
    assert!(matches!(again.err(), Some(StoreError::Locked { .. })));
}

#[tokio::test]
async fn a_reader_does_not_keep_a_run_from_going_on() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    drop(run(&path, 0, 3).await);
    let held = rusqlite::Connection::open(&path).unwrap();
    held.execute_batch("begin; select count(*) from segment").unwrap();
    let (_, opened, _) = run(&path, 3 * STEP, 3).await;
    assert!(opened.note.unwrap().starts_with("going on with "));
}

/// Set for the test that is started once more, with fewer rights.
const WITHOUT_RIGHTS: &str = "TRACER_STORE_TEST_WITHOUT_RIGHTS";

/// As root who may read everything, and write only what is root's, opens it; returns what that said.
fn opened_without_rights(path: &Path) -> String {
    let output = std::process::Command::new("setpriv")
        .args(["--inh-caps", "-all", "--bounding-set", "-all,+dac_read_search", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_database_of_another_user_is_kept_as_old", "--nocapture"])
        .env(WITHOUT_RIGHTS, path)
        .env_remove("SUDO_UID")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_database_of_another_user_is_kept_as_old() {
    if let Some(path) = std::env::var_os(WITHOUT_RIGHTS) {
        let opened = LastingWriter::open(Path::new(&path), session(), Limits::default()).await;
        println!("opened: {:?}", opened.map(|(_, opened)| opened.note).map_err(|e| e.to_string()));
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root can give files away");
    }
    let dir = Dir::new();
    let path = dir.file("a.db");
    let (writer, _, end) = run(&path, 0, 3).await;
    let give = |path: &Path| std::os::unix::fs::chown(path, Some(4712), Some(4712)).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        give(&dir.file(&format!("a.db{suffix}")));
    }
    // While it is written it stays.
    let said = opened_without_rights(&path);
    assert!(said.contains("another tracerd is recording into"), "{said}");
    // As a killed tracerd leaves it: some rows are only in the log.
    for suffix in ["", "-wal", "-shm"] {
        let [from, to] = ["a.db", "cut.db"].map(|name| dir.file(&format!("{name}{suffix}")));
        fs::copy(from, &to).unwrap();
        give(&to);
    }
    writer.finish(end, "done", END).await.unwrap();
    for (name, rows_kept) in [("a.db", "900"), ("cut.db", "900"), ("a.db", "0")] {
        let path = dir.file(name);
        give(&path);
        let said = opened_without_rights(&path);
        let note = format!("{name} belongs to another user; it is kept as ");
        assert!(said.contains("opened: Ok(") && said.contains(&note), "{said}");
        let old = Reader::open(&dir.file(&format!("{name}.old"))).unwrap();
        assert_eq!(rows(&old, "select count(*) from syscall"), [rows_kept], "{name}");
        let new = Reader::open(&path).unwrap();
        assert_eq!(rows(&new, "select count(*) from session"), ["1"]);
    }
    // A folder that is not ours, either.
    give(dir.path());
    give(&path);
    let said = opened_without_rights(&path);
    assert!(said.contains("cannot open") && said.contains("Permission denied"), "{said}");
    assert!(path.exists());
}
