//! What a query may do, what it costs, and what it says when it fails.

mod common;

use std::time::Duration;

use common::{Dir, END, batch, create, process, rows};
use tracer_store::schema::{TableKind, docs, tables};
use tracer_store::{Access, Clock, Gc, Heap, Interner, Reader, RowSink, StoreError, ValueRef};

/// 100 segments of heap rows, a row every 10 ns.
async fn hundred_segments(dir: &Dir) -> Reader {
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let mut b = batch(&mut Interner::new(), 0);
    b.closed.heap = (0..409_600)
        .map(|i| Heap {
            ts: i * 10,
            upid: 1,
            live: i,
            percent_goal: Some(i / 2),
            ..Heap::default()
        })
        .collect();
    b.closed.gc = vec![Gc { ts: 40_955, dur: Some(40_000), upid: 1, ..Gc::default() }];
    b.processes = vec![process(1)];
    writer.commit(b).await.unwrap();
    writer.finish(1, "done", END).await.unwrap();
    Reader::open(&path).unwrap()
}

/// Segments and columns that a query read.
fn cost(reader: &Reader, sql: &str) -> (Vec<String>, u64, u64) {
    let before = reader.scan_stats();
    let answer = rows(reader, sql);
    let after = reader.scan_stats();
    (answer, after.segments - before.segments, after.columns - before.columns)
}

#[tokio::test]
async fn conditions_on_ts_prune_segments_and_only_used_columns_are_decoded() {
    let dir = Dir::new();
    let reader = hundred_segments(&dir).await;
    let check = |sql: &str, answer: &str, segments: u64, columns: u64| {
        let (rows, found_segments, found_columns) = cost(&reader, sql);
        assert_eq!(rows, [answer], "{sql}");
        assert_eq!((found_segments, found_columns), (segments, columns), "{sql}");
    };
    check("select count(*) from heap", "409600", 100, 0);
    check("select sum(live) from heap", "83885875200", 100, 100);
    check("select live from heap where ts = 40950", "4095", 1, 2);
    check("select live from heap where ts = 40960.0", "4096", 1, 2);
    check("select count(*) from heap where ts = 40951", "0", 0, 0);
    check("select count(*) from heap where ts >= 40950 and ts <= 40960", "2", 2, 2);
    check("select count(*) from heap where ts > 40950 and ts < 40960", "0", 2, 2);
    check("select count(*) from heap where ts between 40950.5 and 40969.5", "1", 1, 1);
    check("select count(*) from heap where ts < 40960", "4096", 2, 2);
    check("select count(*) from heap where ts > 4055030", "4096", 2, 2);
    check("select count(*) from heap where ts in (10, 20, 4000000)", "3", 2, 2);
    check("select count(*) from heap where ts > 9e30", "0", 0, 0);
    check("select count(*) from heap where ts = null", "0", 0, 0);
    check("select count(*) from heap where ts < 'x'", "409600", 100, 100);
    check("select count(*) from heap where ts = '40950'", "1", 100, 100);
    // A join prunes by the other table's times.
    check(
        "select count(*) from gc join heap h on h.ts between gc.ts and gc.ts + gc.dur",
        "4000",
        1 + 1,
        2 + 1,
    );
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let dir = Dir::new();
    let reader = hundred_segments(&dir).await;
    let other = dir.file("other.db");
    let other = other.display();
    for sql in [
        "delete from session",
        "update session set command = ''",
        "insert into session select * from session",
        "create table x(y)",
        "create temp table x(y)",
        "create temp view x as select 1",
        "create index i on session(command)",
        "create trigger t after insert on session begin select 1; end",
        "create virtual table x using heap",
        "drop table session",
        "drop view event",
        "alter table session add column x",
        &format!("attach '{other}' as x"),
        &format!("vacuum into '{other}'"),
        "vacuum",
        "detach main",
        "begin",
        "commit",
        "rollback",
        "savepoint x",
        "analyze",
        "reindex",
        "pragma user_version = 7",
        "pragma journal_mode = delete",
        "pragma writable_schema = on",
        "pragma query_only = 0",
        "pragma wal_checkpoint",
        "pragma temp_store_directory = '/tmp'",
        "select load_extension('x')",
        "delete from string; select 1",
    ] {
        let error = reader.query_all(sql, None).unwrap_err();
        assert!(
            matches!(error, StoreError::Refused(_) | StoreError::BadSql(_)),
            "{sql}: {error:?}"
        );
        let text = error.to_string();
        assert!(text.contains("refused") || text.contains("may not"), "{sql}: {text}");
    }
    assert!(!dir.file("other.db").exists());
    assert_eq!(rows(&reader, "select count(*), count(command) from session"), ["1|1"]);
    let error = reader.query_all("drop table session", None).unwrap_err().to_string();
    assert!(error.starts_with("changing the schema is refused"), "{error}");
    let error = reader.query_all("pragma user_version = 7", None).unwrap_err().to_string();
    assert!(error.starts_with("PRAGMA user_version = 7 is refused"), "{error}");
    // A stream is no table of SQLite that could be written to.
    assert!(reader.query_all("delete from heap", None).is_err());

    for (sql, answer) in [
        ("pragma integrity_check", "ok"),
        ("pragma quick_check", "ok"),
        ("pragma user_version", "4"),
        ("pragma application_id", "1414677316"),
        ("select count(*) from pragma_table_info('heap')", "5"),
        (
            "select group_concat(name) from pragma_table_xinfo('gc')",
            "ts,dur,upid,utid,ugid,stack_id",
        ),
        (
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 9) select sum(i) from n",
            "45",
        ),
        ("values (1)", "1"),
    ] {
        assert_eq!(rows(&reader, sql), [answer], "{sql}");
    }
    assert!(rows(&reader, "explain query plan select * from heap").len() == 1);
}

#[tokio::test]
async fn wrong_statements_are_explained() {
    let dir = Dir::new();
    let reader = hundred_segments(&dir).await;
    let text = |sql: &str| reader.query_all(sql, None).unwrap_err().to_string();
    assert!(text("selekt 1").contains("near \"selekt\": syntax error"), "{}", text("selekt 1"));
    assert!(text("select x from heap").contains("no such column: x"));
    assert!(text("select * from heaps").contains("no such table: heaps"));
    assert!(text("select * from heaps").contains("tracer schema"));
    assert!(text("select wall('x')").contains("wall() wants"), "{}", text("select wall('x')"));
    assert!(text("select ?").contains("parameter"), "{}", text("select ?"));
    for sql in ["", "  ", "-- nothing", ";"] {
        assert!(
            matches!(reader.query_all(sql, None), Err(StoreError::NotOneStatement(_))),
            "{sql}"
        );
    }
    let error = reader.query_all("select 1; select 2", None).unwrap_err();
    assert!(matches!(error, StoreError::NotOneStatement(_)), "{error:?}");
    // What follows is no statement.
    assert_eq!(rows(&reader, "select 1; -- done"), ["1"]);
    assert!(text("select 1 \0").contains("NUL"));
}

const FOR_EVER: &str =
    "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n";

#[tokio::test]
async fn a_query_without_end_is_stopped_and_the_next_one_runs() {
    let dir = Dir::new();
    let reader = hundred_segments(&dir).await;
    let timeout = Duration::from_millis(200);
    let error = reader.query_all(FOR_EVER, Some(timeout)).unwrap_err();
    assert!(matches!(error, StoreError::Timeout(t) if t == timeout), "{error:?}");
    assert!(error.to_string().contains("after 0.2 s"), "{error}");
    let product = "select count(*) from heap a, heap b where a.live <> b.live";
    assert!(matches!(reader.query_all(product, Some(timeout)), Err(StoreError::Timeout(_))));
    assert_eq!(rows(&reader, "select count(*) from heap"), ["409600"]);
    assert!(reader.query_all("select 1", Some(Duration::MAX)).is_ok());
}

/// Takes its time for the first rows, then breaks.
struct Slow(u32);

impl RowSink for Slow {
    fn columns(&mut self, _names: &[String]) -> std::io::Result<()> {
        Ok(())
    }

    fn row(&mut self, _values: &[ValueRef<'_>]) -> std::io::Result<()> {
        self.0 += 1;
        std::thread::sleep(Duration::from_millis(30));
        if self.0 < 20 { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
    }
}

#[tokio::test]
async fn a_slow_reader_of_the_answer_takes_no_time_of_the_query_and_may_leave() {
    let dir = Dir::new();
    let reader = hundred_segments(&dir).await;
    let mut sink = Slow(0);
    let sql = "with recursive n(i) as (select 1 union all select i + 1 from n) select i from n";
    let error = reader.query(sql, Some(Duration::from_millis(300)), &mut sink).unwrap_err();
    assert!(error.is_broken_pipe(), "{error:?}");
    assert_eq!(sink.0, 20);
}

#[tokio::test]
async fn wall_tells_the_time_of_day() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let reader = Reader::open(&path).unwrap();
    assert_eq!(rows(&reader, "select wall(1001)"), ["2023-11-14 22:13:20.000000001"]);
    assert_eq!(rows(&reader, "select wall(null), wall(1, null), wall(1, 9)"), ["-|-|-"]);
    let mut b = batch(&mut Interner::new(), 1);
    b.clocks = vec![Clock { ts: 2_000, realtime: 0 }];
    writer.commit(b).await.unwrap();
    // The clock was set while it was recorded; the reader sees it at once.
    assert_eq!(
        rows(&reader, "select wall(1499), wall(1501.0), wall(2000, 1)"),
        [
            "2023-11-14 22:13:20.000000499|1969-12-31 23:59:59.999999501|1970-01-01 00:00:00.000000000"
        ]
    );
}

#[tokio::test]
async fn the_docs_name_what_the_database_has() {
    let dir = Dir::new();
    let reader = hundred_segments(&dir).await;
    let md = docs::events_md();
    let mut documented = Vec::new();
    for table in tables() {
        assert!(md.contains(&format!("\n### {}\n\n{}", table.name, table.doc())), "{}", table.name);
        assert!(!table.doc().is_empty(), "{}", table.name);
        let columns =
            rows(&reader, &format!("select name from pragma_table_info('{}')", table.name));
        let defined: Vec<_> = table.columns().iter().map(|c| c.name).collect();
        assert_eq!(columns, defined, "{}", table.name);
        for column in table.columns() {
            assert!(!column.doc().is_empty(), "{}.{}", table.name, column.name);
            assert!(md.contains(&format!("\n| {} | {} |", column.name, docs::type_text(column))));
            assert!(md.contains(column.doc()));
        }
        rows(&reader, &format!("select * from \"{}\" limit 1", table.name));
        if !matches!(table.kind, TableKind::Stream | TableKind::Derived) {
            documented.push(table.name.to_owned());
        }
    }
    let mut stored =
        rows(&reader, "select name from sqlite_schema where type in ('table', 'view')");
    documented.sort();
    stored.sort();
    assert_eq!(stored, documented);
    assert!(md.contains("- `preempted`: "));
}

#[tokio::test]
async fn functions_that_sqlite_does_not_have() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    create(&path).await.finish(1, "done", END).await.unwrap();
    for access in [Access::Everything, Access::Uid(1000)] {
        let reader = Reader::open_as(&path, access).unwrap();
        let text = "from (values ('net/http.(*conn).serve'), ('main.main'), (null), (17))";
        assert_eq!(
            rows(&reader, &format!("select column1 regexp '^main\\.|\\*conn|7$' {text}")),
            ["1", "1", "-", "1"]
        );
        assert_eq!(rows(&reader, "select 'a' regexp null, 'ab' not regexp 'b$'"), ["-|0"]);
        assert_eq!(
            rows(&reader, "select percentile(value, 75) from json_each('[4,1,3,2]')"),
            ["3.25"]
        );
        for (sql, says) in [
            ("select 'a' regexp '('", "unclosed group"),
            ("select 'a' regexp '(a{1000}){1000}'", "size limit"),
        ] {
            let error = reader.query_all(sql, None).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        for (name, what) in tracer_store::sql_functions() {
            assert!(what.contains(&name.to_uppercase()) || what.contains(*name), "{what}");
            let known =
                format!("select count(*) > 0 from pragma_function_list where name = '{name}'");
            assert_eq!(rows(&reader, &known), ["1"], "{name}");
        }
    }
}
