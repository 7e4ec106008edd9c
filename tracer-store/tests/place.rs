//! Where a database may be made, what is left alone, and what happens when the disk is full.

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::{Dir, END, Mount, batch, create, ran, rows, session};
use tracer_store::{Gc, Interner, Reader, StoreError, Syscall, Writer};

async fn refused(path: &Path) -> StoreError {
    match Writer::create(path, session()).await {
        Ok(_) => panic!("{} was taken", path.display()),
        Err(error) => error,
    }
}

fn unreadable(path: &Path) -> StoreError {
    match Reader::open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

/// A recording of one row.
async fn record(path: &Path, ts: i64) {
    let mut writer = create(path).await;
    let mut b = batch(&mut Interner::new(), ts);
    b.closed.gc = vec![Gc { ts, dur: Some(1), upid: 1, ..Gc::default() }];
    writer.commit(b).await.unwrap();
    writer.finish(ts, "done", END).await.unwrap();
}

fn list(dir: &Dir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let dir = Dir::new();
    let text = dir.file("notes.txt");
    fs::write(&text, "dear diary, ütf-8 too\n").unwrap();
    let binary = dir.file("binary");
    fs::write(&binary, b"\x7fELF\0\0\0\xff").unwrap();
    let foreign = dir.file("foreign.db");
    let conn = rusqlite::Connection::open(&foreign).unwrap();
    conn.execute_batch("create table precious(x); insert into precious values (1)").unwrap();
    drop(conn);
    let before = fs::read(&foreign).unwrap();

    for (path, what) in [
        (dir.path(), "a directory"),
        (&text, "a text file"),
        (&binary, "a file of another kind"),
        (&foreign, "a SQLite database of another program"),
        (Path::new("/dev/null"), "a device"),
    ] {
        let error = refused(path).await;
        assert!(matches!(error, StoreError::NotADatabase { what: w, .. } if w == what), "{error}");
        let text = error.to_string();
        assert!(text.contains(what) && text.contains("--db"), "{text}");
        assert!(
            matches!(unreadable(path), StoreError::NotADatabase { .. }),
            "{}",
            unreadable(path)
        );
    }
    assert_eq!(fs::read(&text).unwrap(), "dear diary, ütf-8 too\n".as_bytes());
    assert_eq!(fs::read(&foreign).unwrap(), before);
    assert_eq!(list(&dir), ["binary", "foreign.db", "notes.txt"]);
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());

    assert!(matches!(refused(&dir.file("no/a.db")).await, StoreError::NoFolder { .. }));
    assert!(matches!(refused(&text.join("a.db")).await, StoreError::NoFolder { .. }));
    let missing = unreadable(&dir.file("missing.db"));
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    assert!(missing.to_string().contains("tracerd run"), "{missing}");
    std::os::unix::fs::symlink(dir.file("nowhere"), dir.file("link")).unwrap();
    assert!(matches!(refused(&dir.file("link")).await, StoreError::NotADatabase { .. }));
}

#[tokio::test]
async fn a_former_database_is_kept_as_old() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let old = dir.file("a.db.old");
    record(&path, 11).await;
    let (writer, kept) = Writer::create(&path, session()).await.unwrap();
    assert_eq!(kept.as_deref(), Some(old.as_path()));
    writer.finish(1, "done", END).await.unwrap();
    assert_eq!(rows(&Reader::open(&old).unwrap(), "select ts from gc"), ["11"]);
    assert!(rows(&Reader::open(&path).unwrap(), "select ts from gc").is_empty());
    // The next one takes the place of that one.
    record(&path, 13).await;
    record(&path, 14).await;
    assert_eq!(rows(&Reader::open(&old).unwrap(), "select ts from gc"), ["13"]);
    assert_eq!(list(&dir), ["a.db", "a.db.old"]);

    // What is called .old and is not ours stays, and so does the database.
    fs::write(&old, "mine").unwrap();
    let error = refused(&path).await;
    assert!(matches!(&error, StoreError::NotADatabase { path, .. } if *path == old), "{error}");
    assert_eq!(fs::read(&old).unwrap(), b"mine");
    assert_eq!(rows(&Reader::open(&path).unwrap(), "select ts from gc"), ["14"]);
}

#[tokio::test]
async fn a_recording_that_was_cut_off_is_put_aside_whole() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let mut b = batch(&mut Interner::new(), 5);
    b.closed.gc = vec![Gc { ts: 5, dur: Some(1), upid: 1, ..Gc::default() }];
    writer.commit(b).await.unwrap();
    // As a killed tracerd leaves it: the row is in the write-ahead log only.
    let cut = dir.file("cut.db");
    for suffix in ["", "-wal"] {
        fs::copy(format!("{}{suffix}", path.display()), format!("{}{suffix}", cut.display()))
            .unwrap();
    }
    let (_writer, kept) = Writer::create(&cut, session()).await.unwrap();
    let reader = Reader::open(&kept.unwrap()).unwrap();
    assert_eq!(rows(&reader, "select ts from gc"), ["5"]);
    assert_eq!(rows(&reader, "select ended_ts from session"), ["-"]);
}

#[tokio::test]
async fn a_database_in_use_is_refused() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let writer = create(&path).await;
    let error = refused(&path).await;
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    // Through another name, too.
    std::os::unix::fs::symlink(&path, dir.file("link.db")).unwrap();
    assert!(matches!(refused(&dir.file("link.db")).await, StoreError::Locked { .. }));
    writer.finish(1, "done", END).await.unwrap();

    // As a shell has it that was opened while it was recorded.
    let shell = rusqlite::Connection::open(&path).unwrap();
    shell.execute_batch("pragma journal_mode = wal; select * from session").unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    shell.execute_batch("select * from session").unwrap();
    drop(shell);
    record(&path, 3).await;
}

/// As when it was put aside by somebody who did not know that it is written.
#[tokio::test]
async fn who_ends_a_renamed_recording_leaves_the_next_ones_log_alone() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut first = create(&path).await;
    for suffix in ["", "-wal", "-shm"] {
        let [from, to] = ["", ".old"].map(|name| format!("{}{name}{suffix}", path.display()));
        fs::rename(from, to).unwrap();
    }
    let row = |ts| {
        let mut b = batch(&mut Interner::new(), ts);
        b.closed.gc = vec![Gc { ts, dur: Some(1), upid: 1, ..Gc::default() }];
        b
    };
    let mut second = create(&path).await;
    second.commit(row(7)).await.unwrap();
    first.commit(row(5)).await.unwrap();
    first.finish(6, "done", END).await.unwrap();
    let of = |name| rows(&Reader::open(&dir.file(name)).unwrap(), "select ts from gc");
    assert_eq!((of("a.db.old"), of("a.db")), (vec!["5".into()], vec!["7".into()]));
    assert!(dir.file("a.db-wal").exists());
    second.commit(row(8)).await.unwrap();
    assert_eq!(of("a.db"), ["7", "8"]);
    second.finish(9, "done", END).await.unwrap();
    assert_eq!(of("a.db"), ["7", "8"]);
}

#[tokio::test]
async fn left_over_side_files_do_no_harm() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    for suffix in ["-wal", "-shm", "-journal"] {
        fs::write(format!("{}{suffix}", path.display()), "left over").unwrap();
    }
    fs::write(&path, "").unwrap();
    fs::remove_file(&path).unwrap();
    record(&path, 3).await;
    assert_eq!(list(&dir), ["a.db"]);
    // An empty file, as mktemp makes it, is a good place.
    let empty = dir.file("empty");
    fs::write(&empty, "").unwrap();
    assert!(matches!(unreadable(&empty), StoreError::NotADatabase { what: "an empty file", .. }));
    record(&empty, 4).await;
    assert_eq!(rows(&Reader::open(&empty).unwrap(), "select ts from gc"), ["4"]);
}

#[tokio::test]
async fn the_file_is_for_owner_and_group_only() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let writer = create(&path).await;
    for suffix in ["", "-wal"] {
        let meta = fs::metadata(format!("{}{suffix}", path.display())).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o640, "{suffix}");
    }
    drop(writer);
}

#[tokio::test]
async fn an_older_schema_is_refused_and_put_aside_as_it_is() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    record(&path, 3).await;
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 1).unwrap();
    drop(conn);
    let error = unreadable(&path);
    assert!(matches!(error, StoreError::OlderSchema { found: 1, known: 4, .. }), "{error}");
    record(&path, 4).await;
    let old = unreadable(&dir.file("a.db.old"));
    assert!(matches!(old, StoreError::OlderSchema { found: 1, .. }), "{old}");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_put_aside() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    record(&path, 3).await;
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    let error = unreadable(&path);
    assert!(matches!(error, StoreError::NewerSchema { found: 99, known: 4, .. }), "{error}");
    record(&path, 4).await;
    assert!(matches!(unreadable(&dir.file("a.db.old")), StoreError::NewerSchema { .. }));
}

#[tokio::test]
async fn a_damaged_database_is_an_error_and_no_panic() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let mut b = batch(&mut Interner::new(), 5);
    b.closed.gc = (0..30_000)
        .map(|i| Gc { ts: i, dur: Some(i * i % 977), upid: i % 7, ..Gc::default() })
        .collect();
    writer.commit(b).await.unwrap();
    writer.finish(1, "done", END).await.unwrap();
    let good = fs::read(&path).unwrap();
    let mut errors = 0;
    for at in (200..good.len()).step_by(499) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        fs::write(&path, &bad).unwrap();
        let sum = Reader::open(&path)
            .and_then(|r| r.query_all("select sum(dur), sum(upid) from gc", None));
        errors += usize::from(sum.is_err());
    }
    assert!(errors > 10, "only {errors} of the damages were seen");
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    let sum = Reader::open(&path).and_then(|r| r.query_all("select sum(dur) from gc", None));
    assert!(matches!(sum, Err(StoreError::Corrupt(_))), "{sum:?}");
}

#[tokio::test]
async fn a_damaged_segment_is_told_as_damage() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    record(&path, 3).await;
    let conn = rusqlite::Connection::open(&path).unwrap();
    let changed = conn.execute("update segment set data = substr(data, 1, length(data) - 1)", []);
    assert_eq!(changed.unwrap(), 1);
    let reader = Reader::open(&path).unwrap();
    let error = reader.query_all("select sum(dur) from gc", None).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
    assert!(error.to_string().contains("segment of gc"), "{error}");
    assert!(matches!(reader.scan(1, |_: &Gc| ()), Err(StoreError::Corrupt(_))));
    conn.execute("update segment set data = zeroblob(40)", []).unwrap();
    assert!(matches!(reader.query_all("select ts from gc", None), Err(StoreError::Corrupt(_))));
    // Other tables can still be read.
    assert_eq!(rows(&reader, "select count(*) from session"), ["1"]);
}

/// Set for the test that is started once more, as sudo and others would start it.
const AS_SUDO: &str = "TRACER_STORE_TEST_AS_SUDO";

#[tokio::test]
async fn the_user_who_became_root_gets_the_file() {
    if let Ok(path) = std::env::var(AS_SUDO) {
        let writer = create(Path::new(&path)).await;
        drop(writer);
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root can give files away");
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
    let (known, unknown) = (uid.to_string(), "12345");
    let environments = [
        (vec![("SUDO_UID", unknown), ("SUDO_GID", "54321")], (12345, 54321)),
        (vec![("DOAS_USER", "nobody")], (uid, gid)),
        (vec![("PKEXEC_UID", &known)], (uid, gid)),
        // Without an entry in the list of users, their group is not known.
        (vec![("PKEXEC_UID", unknown)], (12345, 0)),
        (vec![("DOAS_USER", "no-such-user")], (0, 0)),
        (vec![("SUDO_UID", "0"), ("SUDO_GID", "0")], (0, 0)),
        (vec![], (0, 0)),
    ];
    for (environment, owner) in environments {
        let dir = Dir::new();
        let path = dir.file("a.db");
        let mut command = Command::new("sh");
        for name in ["SUDO_UID", "SUDO_GID", "DOAS_USER", "PKEXEC_UID"] {
            command.env_remove(name);
        }
        let output = command
            .args(["-c", "umask 077; exec \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "the_user_who_became_root_gets_the_file"])
            .env(AS_SUDO, &path)
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let meta = fs::metadata(&path).unwrap();
        let is = ((meta.uid(), meta.gid()), meta.mode() & 0o777);
        assert_eq!(is, (owner, 0o640), "{environment:?}");
    }
}

#[tokio::test]
async fn a_read_only_place_can_be_read_and_not_written() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    record(&path, 3).await;
    let place = Dir::new();
    let source = dir.path().to_str().unwrap();
    let Some(_mount) = Mount::new(place.path(), &["--bind", "-o", "ro", source]) else {
        return;
    };
    if fs::write(place.file("try"), "").is_ok() {
        // An old mount makes a bind mount read-only in a second step only.
        assert!(ran("mount", &["-o", "remount,ro,bind", place.path().to_str().unwrap()]));
    }
    for name in ["a.db", "new.db"] {
        let error = refused(&place.file(name)).await;
        assert!(matches!(error, StoreError::File { .. }), "{error}");
        assert!(error.to_string().contains("Read-only file system"), "{error}");
    }
    let reader = Reader::open(&place.file("a.db")).unwrap();
    assert_eq!(rows(&reader, "select ts from gc"), ["3"]);
}

#[tokio::test]
async fn on_a_full_disk_what_was_stored_stays() {
    let place = Dir::new();
    let Some(_mount) = Mount::new(place.path(), &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]) else {
        return;
    };
    let path = place.file("a.db");
    let mut writer = create(&path).await;
    let mut interner = Interner::new();
    let name = interner.intern("read");
    let mut stored = 0;
    let mut noise = 1_u64;
    let error = loop {
        let mut b = batch(&mut interner, stored);
        b.closed.syscall = (stored..stored + 1000)
            .map(|ts| {
                let args = [(); 6].map(|()| {
                    noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    noise
                });
                Syscall { ts, dur: Some(1), utid: 1, name, args, ..Default::default() }
            })
            .collect();
        match writer.commit(b).await {
            Ok(()) => stored += 1000,
            Err(error) => break error,
        }
        assert!(stored < 1_000_000, "the disk does not fill up");
    };
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
    assert!(error.to_string().contains("disk is full"), "{error}");
    let again = writer.commit(Default::default()).await.unwrap_err();
    assert!(matches!(again, StoreError::WriterFailed { .. }), "{again}");
    let check = |reader: &Reader| {
        assert_eq!(rows(reader, "pragma integrity_check"), ["ok"]);
        let sql = "select count(*), max(ts), sum(dur) from syscall";
        assert_eq!(rows(reader, sql), [format!("{stored}|{}|{stored}", stored - 1)]);
    };
    check(&Reader::open(&path).unwrap());
    let summary = writer.finish(1, "the disk is full", END).await.unwrap();
    assert_eq!(summary.rows, stored.cast_unsigned());
    assert!(stored > 0);
    check(&Reader::open(&path).unwrap());

    // No room even for the schema: nothing is left behind.
    fs::write(place.file("full"), vec![0; 2 << 20]).unwrap_err();
    let before = list(&place);
    let error = refused(&place.file("b.db")).await;
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
    assert_eq!(list(&place), before);
}
