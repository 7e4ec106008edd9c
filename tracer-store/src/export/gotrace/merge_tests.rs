//! Rows come in order, each once, whatever segments they are in.

use super::*;
use crate::schema::streams::Gc;
use crate::writer::{Batch, NewSession, Writer};

/// A database of these rows, a batch each.
fn database(path: &std::path::Path, batches: Vec<Vec<Gc>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (mut writer, _) = Writer::create(path, NewSession::default()).await.unwrap();
        for gc in batches {
            let mut batch = Batch::default();
            batch.closed.gc = gc;
            writer.commit(batch).await.unwrap();
        }
        writer.finish(1, "done", Default::default()).await.unwrap();
    });
}

fn all(path: &std::path::Path, to: i64) -> (Vec<(i64, i64)>, usize) {
    let reader = Reader::open(path).unwrap();
    let mut stream = Stream::<Gc>::open(&reader, 1, to).unwrap();
    let (mut rows, mut most) = (Vec::new(), 0);
    while let Some(ts) = stream.next_ts().filter(|ts| *ts <= to) {
        stream.take_at(ts, &mut |row| rows.push((row.ts, row.upid))).unwrap();
        most = most.max(stream.decoded);
        let decoded = stream.parts.iter().filter(|part| part.rows.is_some()).count();
        assert_eq!(stream.decoded, decoded);
    }
    (rows, most)
}

#[test]
fn long_intervals_in_late_segments_come_when_they_began() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let segments = i64::try_from(2 * MAX_DECODED).unwrap();
    // Each segment has rows of its own time, and one that began when the recording did.
    let rows = i64::try_from(crate::segment::MAX_ROWS).unwrap();
    let gc = |ts, upid| Gc { ts, upid, ..Gc::default() };
    let batches = (0..segments)
        .map(|segment| {
            let own = (1..rows).map(|row| gc(1_000 + segment * rows + row, segment));
            own.chain([gc(segment % 7, segment)]).collect()
        })
        .collect();
    database(&path, batches);
    let (found, most) = all(&path, i64::MAX);
    assert!(found.is_sorted_by_key(|(ts, _)| *ts));
    assert_eq!(found.len() as i64, segments * rows);
    let mut once = found.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), found.len());
    assert_eq!(most, MAX_DECODED);

    let (found, _) = all(&path, 3);
    assert!(found.iter().all(|(ts, _)| *ts <= 3));
    assert_eq!(found.len() as i64, (0..segments).filter(|segment| segment % 7 <= 3).count() as i64);
}

#[test]
fn rows_of_one_moment_come_in_the_order_in_which_they_were_stored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let gc = |ts, upid| Gc { ts, upid, ..Gc::default() };
    database(&path, vec![vec![gc(5, 1), gc(5, 2)], vec![gc(5, 3), gc(4, 4)], vec![gc(5, 5)]]);
    assert_eq!(all(&path, 9).0, [(4, 4), (5, 1), (5, 2), (5, 3), (5, 5)]);
}

#[test]
fn a_stream_without_rows_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    database(&path, Vec::new());
    assert_eq!(all(&path, i64::MAX).0, []);
}
