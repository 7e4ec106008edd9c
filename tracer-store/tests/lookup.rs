//! Questions that look for rows by a value again and again: how much they read.

mod common;

use common::{Dir, END, batch, create, rows};
use tracer_store::{Interner, Process, Reader, Syscall, Thread, limit_memory};

const THREADS: i64 = 100;
const ROWS: i64 = 20_000;

#[tokio::test]
async fn a_subquery_for_each_row_reads_a_stream_a_few_times_only() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let mut interner = Interner::new();
    let name = interner.intern("read");
    let mut b = batch(&mut interner, ROWS * 10);
    b.processes = vec![Process { upid: 1, pid: 41, ..Default::default() }];
    b.threads = (0..THREADS)
        .map(|utid| Thread { utid, upid: 1, tid: 100 + utid, ..Default::default() })
        .collect();
    // Of each thread there are rows in each segment.
    b.closed.syscall = (0..ROWS)
        .map(|i| Syscall {
            ts: i * 10,
            dur: Some(1 + i % 7),
            utid: i % (THREADS - 1),
            name,
            ret: (i % 5 != 0).then_some(i),
            ..Default::default()
        })
        .collect();
    writer.commit(b).await.unwrap();
    writer.finish(ROWS * 10, "done", END).await.unwrap();

    let by_thread = "select utid, (select count(*) || ' ' || coalesce(sum(dur), 0) from syscall s
         where s.utid = t.utid) from thread t";
    let grouped = "select utid, count(s.ts) || ' ' || coalesce(sum(dur), 0) from thread t
         left join syscall s using (utid) group by utid order by utid";
    let in_time = "select sum((select count(*) from syscall s
         where s.utid = t.utid and s.ts between 100000 and 199999)) from thread t";
    // Half of the numbers are of no row, and one is no number.
    let by_result =
        "with recursive n(i) as (select -200 union all select i + 1 from n where i < 199)
         select count(*), sum((select count(*) from syscall where ret = i)),
             sum((select count(*) from syscall where ret = i + 0.5)),
             sum((select count(*) from syscall where ret = i || '')),
             sum((select count(*) from syscall where ret = null)) from n";
    let answers = |reader: &Reader| {
        let by_thread = rows(reader, by_thread);
        assert_eq!(by_thread, rows(reader, grouped));
        (by_thread, rows(reader, in_time), rows(reader, by_result))
    };
    let reader = Reader::open(&path).unwrap();
    let read = |sql: &str| {
        let before = reader.scan_stats();
        let rows = rows(&reader, sql).len();
        let after = reader.scan_stats();
        (rows, after.segments - before.segments, after.rows - before.rows)
    };
    let segments: u64 =
        rows(&reader, "select count(*) from segment where tbl = 'syscall'")[0].parse().unwrap();
    let (found, read_segments, read_rows) = read(by_thread);
    assert_eq!(found as i64, THREADS);
    // All is read until it is worth while to make an index, once for that, and what is found.
    assert!(read_rows <= 6 * ROWS as u64, "{read_rows} rows");
    assert!(read_segments <= 6 * segments, "{read_segments} of {segments} segments");
    let (_, _, read_rows) = read(in_time);
    assert!(read_rows <= 6 * ROWS as u64, "{read_rows} rows");
    // Who asks once makes no index.
    let (_, read_segments, read_rows) = read("select count(*) from syscall where utid = 7");
    assert_eq!((read_segments, read_rows), (segments, ROWS as u64));

    let with_index = answers(&reader);
    assert_eq!(with_index.2, ["400|160|0|160|0"]);
    // The same without the memory for it.
    limit_memory(8 << 20);
    let reader = Reader::open(&path).unwrap();
    assert_eq!(answers(&reader), with_index);
}
