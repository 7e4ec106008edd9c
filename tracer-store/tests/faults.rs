//! A disk that is full, slow, or loses what was written: the writer goes on, and says what is missing.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::load::{DANGLING, Load, STEP};
use common::{Dir, END, Mount, ran, rows, session};
use tracer_store::{
    Background, Batch, LastingWriter, Limits, NewSession, Reader, ThreadState, Unknown,
};

async fn open(path: &Path, limits: Limits) -> (LastingWriter, Load) {
    let session = NewSession { started_ts: 0, ..session() };
    let (writer, opened) = LastingWriter::open(path, session, limits).await.unwrap();
    (writer, Load::new(0, opened.first_ids, 2000))
}

fn number(reader: &Reader, sql: &str) -> i64 {
    rows(reader, sql)[0].parse().unwrap()
}

/// Rows of streams that were lost at a stage, as the database says.
fn lost(reader: &Reader, stage: &str) -> u64 {
    let sql = format!(
        "select coalesce(sum(count), 0) from loss
         where stage = '{stage}' and kind in ('syscall', 'thread_state')"
    );
    number(reader, &sql).cast_unsigned()
}

fn sound(reader: &Reader) {
    assert_eq!(rows(reader, "pragma integrity_check"), ["ok"]);
    for row in rows(reader, DANGLING) {
        assert!(row.ends_with("|0"), "{row}");
    }
}

#[tokio::test]
async fn a_full_disk_costs_rows_and_writing_goes_on_when_there_is_room() {
    let place = Dir::new();
    let Some(_mount) = Mount::new(place.path(), &["-t", "tmpfs", "-o", "size=24m", "tmpfs"]) else {
        return;
    };
    let path = place.file("a.db");
    let (mut writer, mut load) = open(&path, Limits::default()).await;
    for _ in 0..20 {
        assert!(writer.store(next_with_states(&mut load)).await.error.is_none());
    }
    let before = number(&Reader::open(&path).unwrap(), "select count(*) from syscall");
    assert_eq!(before, 40_000);
    // As large as it can get.
    let ballast = place.file("ballast");
    fs::write(&ballast, vec![1; 24 << 20]).unwrap_err();

    let (mut dropped, mut failed) = (0, 0);
    for _ in 0..60 {
        let stored = writer.store(next_with_states(&mut load)).await;
        dropped += stored.dropped;
        if let Some(error) = stored.error {
            failed += 1;
            assert!(error.to_string().contains("full"), "{error}");
        }
        assert!(stored.begun_anew.is_none());
    }
    assert!(failed > 20 && dropped > 40_000, "{failed} failed, {dropped} dropped");
    let reader = Reader::open(&path).unwrap();
    assert_eq!(rows(&reader, "pragma integrity_check"), ["ok"]);
    assert!(number(&reader, "select count(*) from syscall") >= before);
    drop(reader);

    fs::remove_file(&ballast).unwrap();
    for _ in 0..3 {
        let stored = writer.store(next_with_states(&mut load)).await;
        assert!(stored.error.is_none() && stored.dropped == 0, "{stored:?}");
    }
    let reader = Reader::open(&path).unwrap();
    sound(&reader);
    // Of what began and ended meanwhile nothing is missing.
    assert_eq!(number(&reader, "select count(*) from process"), load.at);
    assert_eq!(number(&reader, "select count(*) from goroutine where ended_ts is null"), 5);
    assert_eq!(lost(&reader, "store"), dropped);
    check_rows(&reader, &load);
    let span = "select min(ts) >= 20 * 400000000 and max(ts + dur) <= 80 * 400000000
        and max(ts + dur) - min(ts) > 20 * 400000000 from loss";
    assert_eq!(rows(&reader, span), ["1"], "{:?}", rows(&reader, "select ts, dur from loss"));
    let end = load.at * STEP;
    assert_eq!(writer.finish(end, "done", END).await.unwrap().lost, dropped);
}

#[tokio::test]
async fn damage_that_is_found_late_begins_a_new_database() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let (mut writer, mut load) =
        open(&path, Limits { max_bytes: Some(64 << 20), ..Limits::default() }).await;
    for _ in 0..80 {
        assert!(writer.store(load.next()).await.error.is_none());
    }
    // The disk gives back noise, and rows are removed for which that must be read.
    let pages = fs::metadata(&path).unwrap().len() / 4096;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for page in 4..pages {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 4096], page * 4096).unwrap();
    }
    let limits = Limits { max_bytes: Some(4 << 20), ..Limits::default() };
    writer.set_limits(limits).await.unwrap();
    load.rows = 100;
    let mut note = None;
    for _ in 0..20 {
        let stored = writer.store(load.next()).await;
        if stored.begun_anew.is_some() {
            assert!(stored.error.is_some() && stored.dropped == 100, "{stored:?}");
            note = stored.begun_anew;
            break;
        }
    }
    let note = note.unwrap();
    assert!(note.contains("is damaged") && note.contains("a.db.corrupt-"), "{note}");

    // What the new one has not been told of cannot be referred to.
    assert_eq!(writer.store(load.next()).await.dropped, 100);
    let mut whole = load.next();
    load.strings.retell();
    whole.strings = load.strings.take_new();
    whole.whole = true;
    assert_eq!(writer.store(whole).await.dropped, 0);
    assert_eq!(writer.store(load.next()).await.dropped, 0);
    let reader = Reader::open(&path).unwrap();
    assert_eq!(rows(&reader, "pragma integrity_check"), ["ok"]);
    assert_eq!(
        rows(&reader, "select count(*), min(name), max(name) from syscall"),
        ["200|read|read"]
    );
    assert_eq!(lost(&reader, "store"), 200);
}

#[tokio::test]
async fn a_database_that_is_removed_is_begun_anew() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let (mut writer, mut load) = open(&path, Limits::default()).await;
    assert!(writer.store(load.next()).await.error.is_none());
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(format!("{}{suffix}", path.display())).unwrap();
    }
    let stored = writer.store(load.next()).await;
    assert!(stored.begun_anew.unwrap().contains("was removed"));
    assert_eq!(stored.dropped, 2000);
    let whole = Batch { whole: true, ..load.next() };
    assert_eq!(writer.store(whole).await.dropped, 0);
    let reader = Reader::open(&path).unwrap();
    assert_eq!(rows(&reader, "pragma integrity_check"), ["ok"]);
    assert_eq!(lost(&reader, "store"), 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_new_database_lacks_is_asked_for_until_it_is_on_its_way() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let (writer, mut load) = open(&path, Limits::default()).await;
    let writer = Background::start(writer, Limits::default()).unwrap();
    let until = |what: &str, is_so: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{what}: {:?}", writer.state());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    writer.send(load.next());
    until("stored", &|| writer.state().last_ts == STEP);
    assert!(!writer.wants_whole());
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(format!("{}{suffix}", path.display())).unwrap();
    }
    writer.send(load.next());
    until("asked for", &|| writer.wants_whole());
    // Rows that are sent before are not stored.
    writer.send(load.next());
    until("dropped", &|| writer.state().last_ts == 3 * STEP);
    assert!(writer.wants_whole());
    writer.send(load.whole());
    assert!(!writer.wants_whole());
    writer.send(load.next());
    let end = tracer_store::Clock { ts: load.at * STEP, realtime: 1 };
    writer.finish(end, "done").unwrap();
    let reader = Reader::open(&path).unwrap();
    sound(&reader);
    assert_eq!(number(&reader, "select count(*) from syscall"), 4_000);
    assert_eq!(lost(&reader, "store"), 4_000);
}

/// Rows of the thread that lives for ever, in each batch.
const STATES: i64 = 2_000;

/// The next batch, with what the thread that lives for ever did meanwhile.
fn next_with_states(load: &mut Load) -> Batch {
    let begin = load.start + load.at * STEP;
    let states = ["running", "sleeping", "unknown"].map(|word| load.strings.intern(word));
    let mut batch = load.next();
    batch.unknown = Unknown::new(states[2]);
    let rows = (0..STATES).map(|n| ThreadState {
        ts: begin + n * STEP / STATES,
        dur: Some(STEP / STATES),
        utid: load.ids.utid,
        state: states[n as usize % 2],
        ..ThreadState::default()
    });
    batch.closed.thread_state.extend(rows);
    batch
}

/// Every row is there or counted as lost.
fn check_rows(reader: &Reader, load: &Load) {
    let stored = number(reader, "select count(*) from syscall");
    let dropped = |kind: &str| {
        let sql = format!("select coalesce(sum(count), 0) from loss where kind = '{kind}'");
        number(reader, &sql)
    };
    assert_eq!(stored + dropped("syscall"), load.at * load.rows);
    // What the thread did while its rows were dropped is unknown, and no time is missing or there twice.
    let of_thread = format!("from thread_state where utid = {}", load.ids.utid);
    let known = number(reader, &format!("select count(*) {of_thread} and state != 'unknown'"));
    assert_eq!(known + dropped("thread_state"), load.at * STATES);
    assert!(known < load.at * STATES, "nothing was dropped");
    assert_eq!(number(reader, &format!("select sum(dur) {of_thread}")), load.at * STEP);
    let overlaps = format!(
        "select count(*) from (select ts + dur as end, lead(ts) over (order by ts) as next {of_thread}) where next != end"
    );
    assert_eq!(number(reader, &overlaps), 0);
}

/// Sends more than there is memory for while the disk stands still; then it works again.
async fn stands_still(path: &Path, stop: impl FnOnce(), go_on: impl FnOnce()) {
    let memory = 12 << 20;
    let limits = Limits { memory, ..Limits::default() };
    let (writer, mut load) = open(path, limits).await;
    let writer = Background::start(writer, limits).unwrap();
    for _ in 0..5 {
        writer.send(next_with_states(&mut load));
    }
    stop();
    // A sender that waited for the disk would do so for ever: it works again only after this.
    for _ in 0..100 {
        writer.send(next_with_states(&mut load));
        let waiting = writer.state().waiting;
        assert!(waiting <= memory, "{waiting} bytes wait");
    }
    let state = writer.state();
    assert!(state.dropped_queue > 20_000, "{state:?}");
    go_on();
    let until = Instant::now() + Duration::from_secs(30);
    while writer.state().last_ts < load.at * STEP {
        assert!(Instant::now() < until, "{:?}", writer.state());
        std::thread::sleep(Duration::from_millis(20));
    }
    writer.send(next_with_states(&mut load));
    let state = writer.state();
    let end = load.at * STEP;
    writer.finish(tracer_store::Clock { ts: end, realtime: 1 }, "done").unwrap();
    let reader = Reader::open(path).unwrap();
    sound(&reader);
    assert_eq!(lost(&reader, "queue"), state.dropped_queue);
    assert_eq!(lost(&reader, "store"), state.dropped_store);
    check_rows(&reader, &load);
    assert_eq!(number(&reader, "select count(*) from process"), load.at);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_locked_holds_up_nobody() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let other = std::cell::OnceCell::new();
    stands_still(
        &path,
        || {
            let conn = rusqlite::Connection::open(&path).unwrap();
            conn.busy_timeout(Duration::from_secs(5)).unwrap();
            conn.execute_batch("begin immediate").unwrap();
            let _ = other.set(conn);
        },
        || other.get().unwrap().execute_batch("rollback").unwrap(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stands_still_holds_up_nobody() {
    let dir = Dir::new();
    let image = dir.file("disk");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let image = image.to_str().unwrap().to_owned();
    let place = Dir::new();
    assert!(ran("mkfs.ext4", &["-q", &image]), "`cargo xtask setup` installs mkfs.ext4");
    let Some(_mount) = Mount::new(place.path(), &["-o", "loop", &image]) else {
        return;
    };
    let folder = place.path().to_str().unwrap().to_owned();
    let frozen = std::cell::OnceCell::new();
    stands_still(
        &place.file("a.db"),
        || drop(frozen.set(Frozen::new(&folder))),
        || frozen.get().map(Frozen::thaw).unwrap(),
    )
    .await;
}

/// A file system that stands still until this is dropped, or for 20 s at most: a test that is killed must not leave
/// threads behind that nothing can end.
struct Frozen<'a> {
    folder: &'a str,
    guard: std::process::Child,
}

impl<'a> Frozen<'a> {
    fn new(folder: &'a str) -> Self {
        let guard = Command::new("sh")
            .args(["-c", "trap '' TERM INT HUP; sleep 20; fsfreeze --unfreeze ."])
            .current_dir(folder)
            .spawn()
            .unwrap();
        assert!(ran("fsfreeze", &["--freeze", folder]));
        Self { folder, guard }
    }

    fn thaw(&self) {
        assert!(ran("fsfreeze", &["--unfreeze", self.folder]));
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        ran("fsfreeze", &["--unfreeze", self.folder]);
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}
