//! What a reader for one user shows, and what it cannot be made to show.

mod common;

use std::time::Duration;

use common::users::{mine, record, told};
use common::{Dir, rows};
use tracer_store::query::selection::Asked;
use tracer_store::query::{goroutines, session, waits};
use tracer_store::schema::{TableKind, tables};
use tracer_store::{Access, Heap, Reader, RowSink, StoreError, ThreadState, ValueRef};

#[tokio::test]
async fn a_user_sees_what_a_recording_of_only_the_own_processes_would_show() {
    let dir = Dir::new();
    let mine = mine(&dir).await;
    let alone = Reader::open(&record(&dir, "alone.db", false).await).unwrap();
    for table in tables() {
        let sql = format!("select * from \"{}\"", table.name);
        if table.kind == TableKind::Internal {
            let error = mine.query_all(&sql, None).unwrap_err().to_string();
            assert!(error.contains("no such table"), "{error}");
            continue;
        }
        let sorted = |reader| {
            let mut rows = rows(reader, &sql);
            rows.sort_unstable();
            rows
        };
        let mut expected = sorted(&alone);
        if table.name == "goroutine_wait" || table.name == "goroutine_wait_part" {
            // Who it was is told as far as it may be told.
            expected = expected
                .iter()
                .map(|row| match row.strip_suffix('-') {
                    Some(start) if table.name == "goroutine_wait" => format!("{start}another user"),
                    _ => row.replace("|-|-|1001", "|-|another user|1001"),
                })
                .collect();
        }
        let found = sorted(&mine);
        assert!(
            found == expected,
            "{}: {:?} and not {:?}",
            table.name,
            &found[..1],
            &expected[..1]
        );
        let hidden = ["event_count", "trigger_fired"].contains(&table.name);
        assert_eq!(expected.is_empty(), hidden, "{}", table.name);
        // By column, by key, and in a join.
        for column in table.columns() {
            let sql = format!(
                "select count(*) from \"{0}\" a join \"{0}\" b on a.\"{1}\" is b.\"{1}\" and a.\"{1}\" = b.\"{1}\" where a.rowid < 9",
                table.name, column.name
            );
            if table.kind != TableKind::View && !table.name.starts_with("heap") {
                rows(&mine, &sql);
            }
        }
    }
    // The keys of others find nothing.
    for sql in [
        "select * from process where upid = 2",
        "select * from process where upid in (2, 3)",
        "select * from thread where utid = 2 or upid = 2",
        "select * from goroutine where upid = '2'",
        "select * from stack where stack_id = 12",
        "select * from frame where frame_id = 3.0",
        "select * from heap where ts between 1000 and 9000 and upid <> 1",
        "select * from goroutine_wait where ugid = 2",
        "select * from goroutine_wait_part where ugid in (2, 3)",
        "select * from event_count where kind = 'CANARY'",
    ] {
        assert!(rows(&mine, sql).is_empty(), "{sql}");
    }
    // The user's own stacks, one of them from a system call only.
    assert_eq!(
        rows(&mine, "select stack_id, func from stack join frame using (frame_id) order by 1"),
        ["1|mine", "11|mine"]
    );
    assert_eq!(rows(&mine, "select command, end_reason from session"), ["(masked)|(masked)"]);
    // What is not asked in SQL.
    let functions: Vec<_> = goroutines::by_function(&mine, &Asked::default()).unwrap();
    assert_eq!(functions.iter().map(|f| f.start_func.as_str()).collect::<Vec<_>>(), ["mine"]);
    let functions = waits::report(&mine, &Asked::default()).unwrap().functions;
    assert_eq!(functions.len(), 1);
    assert_eq!(functions[0].causes[0].words(), "thread off CPU, preempted by another user");
    assert_eq!(session::processes(&mine, 1).unwrap().len(), 1);
    assert!(session::counts(&mine, 1).unwrap().is_empty());
    let mut found = 0;
    mine.scan(1, |row: &ThreadState| {
        assert_eq!((row.utid, row.waker_utid, row.next_utid), (1, None, None));
        found += 1;
    })
    .unwrap();
    mine.scan(1, |row: &Heap| assert_eq!((row.upid, row.live), (1, 5))).unwrap();
    assert_eq!(found, 5);
    // Who may see everything does, and nobody else.
    let path = dir.file("all.db");
    let all = Reader::open_as(&path, Access::Everything).unwrap();
    assert_eq!(rows(&all, "select count(*) from process"), ["3"]);
    let nobody = Reader::open_as(&path, Access::Uid(65534)).unwrap();
    assert_eq!(rows(&nobody, "select count(*) from event"), ["0"]);
    assert_eq!(rows(&nobody, "select count(*) from frame"), ["0"]);
}

#[tokio::test]
async fn no_statement_gets_around_it() {
    let dir = Dir::new();
    let mine = mine(&dir).await;
    let file = dir.file("all.db");
    let file = file.display();
    // Each is refused, or is no statement for this database.
    for sql in [
        "select * from segment",
        "select * from string",
        "select value from main.string",
        "select data from main.segment",
        "select * from sqlite_stat1",
        "select * from sqlite_dbpage",
        "select * from pragma_wal_checkpoint",
        "select load_extension('/x')",
        "select readfile('/etc/passwd')",
        "select edit('x')",
        "select fts3_tokenizer('x', x'00')",
        &format!("attach '{file}' as x"),
        &format!("attach 'file:{file}?mode=ro' as x"),
        &format!("vacuum into '{file}.copy'"),
        &format!("create virtual table x using csv(filename='{file}')"),
        "create virtual table temp.x using process",
        "create temp view process as select 1",
        "create temp table x as select * from process",
        "create temp trigger x after insert on session begin select 1; end",
        "drop view event",
        "insert into process(upid) values (2)",
        "update process set uid = 1000",
        "delete from process",
        "pragma temp_store_directory = '/tmp'",
        "pragma temp_store = file",
        "pragma query_only = 0",
        "pragma writable_schema = 1",
        "pragma trusted_schema = 1",
        "pragma hard_heap_limit = 0",
        "pragma mmap_size = 1",
        "pragma journal_mode = wal",
        "begin",
        "savepoint x",
        "explain insert into process(upid) values (2)",
        "values (?)",
        "select 1; select * from process",
    ] {
        assert!(told(&mine, sql) == (None, false), "{sql}: {:?}", told(&mine, sql));
    }
    assert!(!dir.file("all.db.copy").exists());
    // Each is answered, and tells nothing.
    for sql in [
        "select * from sqlite_master",
        "select * from sqlite_schema",
        "select * from sqlite_temp_master",
        "select * from temp.process natural join main.process natural join x.process",
        "select * from dbstat",
        "pragma database_list",
        "select * from pragma_database_list",
        "select * from pragma_table_list",
        "select * from pragma_function_list",
        "select * from pragma_module_list",
        "select * from pragma_compile_options",
        "pragma integrity_check",
        "pragma quick_check",
        "pragma page_count",
        "pragma freelist_count",
        "explain select * from process join thread using (upid)",
        "explain query plan select * from process join thread using (upid)",
        "select group_concat(exe) from process",
        "select json_group_array(json_object('a', p.cmdline, 'b', t.name)) from process p, thread t",
        "select * from process union all select * from process",
        "select * from process left join thread on true full join goroutine on true",
        "select *, rowid, _rowid_, oid from process",
        "with recursive p(u, e) as (select upid, exe from process union select p.u + 1, q.exe from p left join process q on q.upid = p.u + 1 where p.u < 9) select * from p",
        "with recursive n(i) as (select 0 union all select i + 1 from n where i < 40) select i, (select exe from process where upid = i), (select name from thread where utid = i), (select start_func from goroutine where ugid = i), (select func from frame where frame_id = i), (select frame_id from stack where stack_id = i) from n",
        "select max(live), total(live), avg(live), count(*), min(rowid), max(rowid) from heap",
        "select sum(live) over (order by ts rows between 3 preceding and current row) from heap where ts < 3000",
        "select name from syscall group by name having count(*) > 0",
        "select * from event order by 1",
        "select * from stack_user natural join frame",
        "select detail from event where kind = 'user_log'",
        "select * from thread_state where waker_utid is not null or next_utid is not null",
        "select upid from process where exe like '%ANAR%' or exe glob '*N*'",
        "select 1 where exists (select 1 from process where cmdline like 'C%')",
        "select case when (select count(*) from process) > 1 then 1 / 0 else 'one' end",
        "select (select uid from process where upid = s.waker_utid) from thread_state s",
        "select off_cpu_by, by_utid from goroutine_wait",
        "select * from goroutine_wait_part natural join goroutine",
        "select wall(ts), wall(ts, 1), wall(ts, 2) from clock",
        "select * from json_each((select json_group_array(cmdline) from process))",
        "select sqlite_source_id(), sqlite_version(), last_insert_rowid(), changes(), total_changes()",
        "select hex(cast(exe as blob)), quote(exe), unicode(exe), printf('%s', exe) from process",
        "select * from (select * from process order by random()) limit 5 offset 0",
        "select p.* from process p, process q where p.upid between -9e18 and 9e18 and q.upid != p.upid",
        "select * from process where upid = (select max(upid) + 1 from process)",
        "select * from frame where frame_id in (select value from json_each('[1,2,3,11,12,13]'))",
    ] {
        assert_eq!(told(&mine, sql), (None, true), "{sql}: {:?}", mine.query_all(sql, None));
    }
    assert_eq!(
        rows(&mine, "select name from sqlite_schema"),
        ["event", "thread_wait", "migration", "stack_user"]
    );
    assert_eq!(rows(&mine, "select file from pragma_database_list"), ["", ""]);
    assert_eq!(rows(&mine, "select max(rowid) from process"), ["0"]);
    // The check itself finds what it looks for.
    let all = Reader::open(&dir.file("all.db")).unwrap();
    assert!(told(&all, "select exe from process").0.is_some());
}

#[tokio::test]
async fn a_statement_cannot_take_more_than_its_part() {
    let dir = Dir::new();
    let mine = mine(&dir).await;
    let all = Reader::open_as(&dir.file("all.db"), Access::Everything).unwrap();
    for reader in [&mine, &all] {
        let second = Some(Duration::from_secs(1));
        let error = |sql: &str| reader.query_all(sql, second).unwrap_err();
        for sql in [
            "select zeroblob(100000000)",
            "select length(randomblob(99999999))",
            "select hex(printf('%.*c', 15000000, 'x'))",
            "select replace(hex(zeroblob(8000000)), '0', 'aaaaaaaa')",
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 99) select group_concat(hex(randomblob(200000))) from n",
        ] {
            let error = error(sql);
            assert!(matches!(error, StoreError::TooBig(_)), "{sql}: {error:?}");
            assert!(error.to_string().contains("ask for less"), "{error}");
        }
        for sql in [
            format!("select {}1", "1+".repeat(1_000)),
            format!("select 1 {}", "union all select 1 ".repeat(1_000)),
            format!("select '{}'", "x".repeat(1 << 20)),
            format!("select 'x' like '{}'", "%a".repeat(10_000)),
        ] {
            let error = error(&sql);
            assert!(
                matches!(error, StoreError::BadSql(_) | StoreError::TooBig(_)),
                "{}: {error:?}",
                &sql[..40]
            );
        }
        for sql in [
            "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n",
            "select count(*) from heap a, heap b, heap c where a.live + b.live + c.live = 1",
            "select count(*) from thread_state a, goroutine_wait b, event c, event d, event e",
        ] {
            assert!(matches!(error(sql), StoreError::Timeout(_)), "{sql}: {:?}", error(sql));
        }
        assert_eq!(rows(reader, "select 1"), ["1"]);
        assert_eq!(temporary_files(reader), 0);
    }
    // Who is trusted may sort on the disk, and so it is seen that it would be.
    assert!(temporary_files(&Reader::open(&dir.file("all.db")).unwrap()) > 0);
}

/// How many temporary files of SQLite are open while the rows of a large sort come.
fn temporary_files(reader: &Reader) -> usize {
    struct Count(usize);
    impl RowSink for Count {
        fn columns(&mut self, _names: &[String]) -> std::io::Result<()> {
            Ok(())
        }

        fn row(&mut self, _values: &[ValueRef<'_>]) -> std::io::Result<()> {
            let open = std::fs::read_dir("/proc/self/fd")?.flatten();
            let files = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
            self.0 = files.filter(|file| file.to_string_lossy().contains("etilqs_")).count();
            Ok(())
        }
    }
    let mut count = Count(0);
    let sorted = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 200000)
         select i, randomblob(100) as b from n order by b";
    let ended = reader.query(sorted, None, &mut Once(&mut count));
    assert!(ended.unwrap_err().is_broken_pipe());
    count.0
}

/// Ends an answer after its first row.
struct Once<'a, T>(&'a mut T);

impl<T: RowSink> RowSink for Once<'_, T> {
    fn columns(&mut self, names: &[String]) -> std::io::Result<()> {
        self.0.columns(names)
    }

    fn row(&mut self, values: &[ValueRef<'_>]) -> std::io::Result<()> {
        self.0.row(values)?;
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
}
