use super::*;
use crate::schema::streams::{Gc, Heap, Syscall, ThreadState};
use crate::strings::StrId;

/// A small generator of the same numbers in every run (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number of any length in bits, so that short and long varints both come.
    fn number(&mut self) -> i64 {
        let bits = self.next() % 64;
        self.next().cast_signed() >> bits
    }

    fn option(&mut self) -> Option<i64> {
        (!self.next().is_multiple_of(3)).then(|| self.number())
    }
}

impl Random {
    fn text(&mut self) -> Option<Arc<str>> {
        let number = self.next() % 100;
        (number > 30).then(|| format!("/proc/{number}/cmdline").into())
    }
}

fn syscalls(random: &mut Random, count: usize) -> Vec<Syscall> {
    let mut rows: Vec<Syscall> = (0..count)
        .map(|_| Syscall {
            ts: random.number(),
            dur: random.option(),
            utid: random.number() & 3,
            ugid: None,
            name: StrId(random.next() as u32),
            ret: random.option(),
            args: std::array::from_fn(|_| random.number().cast_unsigned()),
            file: random.text(),
            path: random.text(),
            stack_id: Some(7),
            ..Syscall::default()
        })
        .collect();
    rows.sort_by_key(|row| row.ts);
    rows
}

fn decode<R: StreamRow>(bytes: &[u8]) -> Result<Vec<R>> {
    let segment = Segment::parse(R::TABLE, bytes)?;
    let columns = segment.columns()?;
    Ok((0..segment.rows()).map(|row| R::get(&columns, row)).collect())
}

#[test]
fn rows_come_back_as_they_were() {
    let mut random = Random(1);
    let mut encoder = Encoder::new().unwrap();
    for count in [0, 1, 2, 7, 8, 9, 63, 500, 4095, 4096] {
        let rows = syscalls(&mut random, count);
        let bytes = encoder.encode(&rows).unwrap();
        assert_eq!(decode::<Syscall>(&bytes).unwrap(), rows, "{count} rows");
    }
}

#[test]
fn extreme_numbers_come_back() {
    let mut rows = Vec::new();
    for live in [i64::MIN, -1, 0, 1, i64::MAX, i64::MIN, i64::MAX] {
        rows.push(Heap { ts: live, upid: live, live, percent_goal: Some(live), ..Heap::default() });
        rows.push(Heap { ts: live, upid: !live, live: 0, percent_goal: None, ..Heap::default() });
    }
    rows.sort_by_key(|row| row.ts);
    let bytes = Encoder::new().unwrap().encode(&rows).unwrap();
    assert_eq!(decode::<Heap>(&bytes).unwrap(), rows);
}

#[test]
fn columns_of_one_value_and_of_nulls_take_no_room() {
    let rows = vec![ThreadState { ts: 5, utid: 1 << 40, ..Default::default() }; 4096];
    let bytes = Encoder::new().unwrap().encode(&rows).unwrap();
    assert_eq!(decode::<ThreadState>(&bytes).unwrap(), rows);
    let columns = ThreadState::TABLE.columns().len();
    assert!(bytes.len() < 40 * columns, "{} bytes", bytes.len());
}

#[test]
fn a_usual_trace_takes_few_bytes_a_row() {
    let mut random = Random(3);
    let mut ts = 1_000_000_000_000;
    let rows: Vec<ThreadState> = (0..4096)
        .map(|i| {
            let dur = 1_000 + (random.next() % 100_000).cast_signed();
            ts += dur / 4;
            let cpu = (i % 2 == 0).then_some(i / 2 % 2);
            ThreadState {
                ts,
                dur: Some(dur),
                utid: (random.next() % 8).cast_signed(),
                state: StrId(1 + (i % 2) as u32),
                cpu,
                ..ThreadState::default()
            }
        })
        .collect();
    let bytes = Encoder::new().unwrap().encode(&rows).unwrap();
    assert_eq!(decode::<ThreadState>(&bytes).unwrap(), rows);
    assert!(bytes.len() < rows.len() * 8, "{} bytes a row", bytes.len() as f64 / 4096.0);
}

#[test]
fn too_many_rows_are_refused() {
    let rows = vec![Gc::default(); MAX_ROWS + 1];
    assert!(Encoder::new().unwrap().encode(&rows).is_err());
}

#[test]
fn a_segment_of_another_table_is_refused() {
    let bytes = Encoder::new()
        .unwrap()
        .encode(&[Gc { ts: 1, dur: None, upid: 2, ..Gc::default() }])
        .unwrap();
    assert!(Segment::parse(ThreadState::TABLE, &bytes).is_err());
}

#[test]
fn cut_or_changed_bytes_are_an_error() {
    let rows = syscalls(&mut Random(2), 50);
    let bytes = Encoder::new().unwrap().encode(&rows).unwrap();
    for len in 0..bytes.len() {
        assert!(decode::<Syscall>(&bytes[..len]).is_err(), "cut to {len}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(decode::<Syscall>(&longer).is_err());
    let mut changed = bytes;
    for at in 0..changed.len() {
        for bit in 0..8 {
            changed[at] ^= 1 << bit;
            assert!(decode::<Syscall>(&changed).is_err(), "bit {bit} of byte {at}");
            changed[at] ^= 1 << bit;
        }
    }
}

/// Behind the checksums: bytes that were damaged before they were summed must do no harm either.
#[test]
fn any_raw_column_is_decoded_or_refused() {
    let mut random = Random(4);
    let mut decoded = 0;
    for _ in 0..200_000 {
        let len = random.next() as usize % 40;
        let raw: Vec<u8> = (0..len).map(|_| random.next() as u8 & random.next() as u8).collect();
        let rows = random.next() as usize % 20;
        let flags = random.next() as u8;
        if let Some(column) = decode_raw(flags, &raw, rows) {
            assert_eq!(column.values.len(), rows);
            assert!(column.nulls.is_empty() || column.nulls.len() == rows);
            decoded += 1;
        }
    }
    assert!(decoded > 1000, "only {decoded} were decoded, the test tests little");
}

/// A directory that lies about lengths, with a checksum that is right.
#[test]
fn a_directory_that_lies_is_refused_without_much_memory() {
    let rows = syscalls(&mut Random(5), 64);
    let good = Encoder::new().unwrap().encode(&rows).unwrap();
    let width = width(Syscall::TABLE);
    for entry in 0..width {
        for field in [1, 5] {
            for value in [0, 1, 40_000, MAX_RAW as u32, u32::MAX] {
                let mut bad = good.clone();
                let at = HEADER + entry * ENTRY + field;
                if bad[at..at + 4] == value.to_le_bytes() {
                    continue;
                }
                bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
                let crc = directory_crc(&good[..4], &bad[HEADER..HEADER + width * ENTRY]);
                bad[4..8].copy_from_slice(&crc.to_le_bytes());
                assert!(decode::<Syscall>(&bad).is_err(), "entry {entry} field {field} {value}");
            }
        }
    }
}

#[test]
fn varints_are_as_long_as_foretold() {
    let mut random = Random(6);
    for value in (0..10_000).map(|_| random.number().cast_unsigned()).chain([0, 127, 128, u64::MAX])
    {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        assert_eq!(bytes.len(), varint_len(value), "{value}");
        let mut rest = bytes.as_slice();
        assert_eq!(take_varint(&mut rest), Some(value));
        assert!(rest.is_empty());
        assert_eq!(unzigzag(zigzag(value.cast_signed())), value.cast_signed());
    }
}
