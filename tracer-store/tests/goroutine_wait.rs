//! Where the time of goroutines went, on rows whose parts are known.

mod common;

use std::collections::HashMap;

use common::{Dir, END, batch, create, goroutine, process, rows};
use tracer_store::schema::words::goroutine_wait_part;
use tracer_store::{
    Batch, GcAssist, GoroutineState, Interner, Reader, Stw, Thread, ThreadState, Value,
};

/// A thread's interval; one of a negative length is open.
fn thread(
    i: &mut Interner,
    utid: i64,
    ts: i64,
    dur: i64,
    state: &str,
    next: Option<i64>,
) -> ThreadState {
    ThreadState {
        ts,
        dur: (dur >= 0).then_some(dur),
        utid,
        state: i.intern(state),
        next_utid: next,
        ..Default::default()
    }
}

/// A goroutine's interval; one of a negative length is open.
fn state(
    i: &mut Interner,
    ugid: i64,
    ts: i64,
    dur: i64,
    state: &str,
    utid: Option<i64>,
) -> GoroutineState {
    GoroutineState {
        ts,
        dur: (dur >= 0).then_some(dur),
        ugid,
        state: i.intern(state),
        utid,
        ..Default::default()
    }
}

fn named(utid: i64, upid: i64, name: &str) -> Thread {
    Thread { utid, upid, tid: 100 + utid, name: Some(name.into()), ..Default::default() }
}

/// What each row's parts are, without those of no length.
fn parts(reader: &Reader, condition: &str) -> Vec<String> {
    let columns: Vec<_> = goroutine_wait_part::ALL
        .iter()
        .map(|w| format!("iif({0} = 0, '', ' {0} ' || {0})", w.word))
        .collect();
    let sql = format!(
        "select ts || '+' || dur || iif(is_open, ' open', '') || ':' || {} from goroutine_wait
         where {condition} order by ts, ugid",
        columns.join(" || ")
    );
    rows(reader, &sql)
}

/// No row's parts may be more or less than its length.
fn sums_are_exact(reader: &Reader) {
    let columns: Vec<_> = goroutine_wait_part::ALL.iter().map(|w| w.word).collect();
    let sql = format!(
        "select count(*), sum(dur != {}), sum(cpu > dur or cpu < on_cpu + syscall_cpu) from goroutine_wait",
        columns.join(" + ")
    );
    let found = rows(reader, &sql);
    assert!(found[0].ends_with("|0|0") && !found[0].starts_with("0|"), "{found:?}");
    let pieces = "select count(*) from goroutine_wait w left join
         (select wait_ts, ugid, utid, sum(dur) as dur, min(ts) as ts, max(ts + dur) as end
          from goroutine_wait_part group by 1, 2, 3) p
         on p.wait_ts = w.ts and p.ugid = w.ugid and p.utid is w.utid
         where w.dur > 0 and (p.dur is not w.dur or p.ts is not w.ts or p.end is not w.ts + w.dur)";
    assert_eq!(rows(reader, pieces), ["0"]);
}

#[tokio::test]
async fn each_interval_is_told_apart_into_its_parts() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let i = &mut Interner::new();
    let mut b = Batch {
        last_ts: 2_000,
        processes: vec![process(1), process(2)],
        threads: vec![named(1, 1, "worker"), named(2, 2, "hog"), named(3, 2, "other")],
        goroutines: vec![goroutine(1, "main.main"), goroutine(2, "main.f")],
        ..Default::default()
    };
    b.closed.thread_state = vec![
        thread(i, 1, 1_000, 100, "running", None),
        thread(i, 1, 1_100, 30, "preempted", Some(3)),
        thread(i, 1, 1_130, 20, "running", None),
        thread(i, 1, 1_150, 50, "preempted", Some(2)),
        thread(i, 1, 1_200, 10, "running", None),
        thread(i, 1, 1_210, 40, "uninterruptible", Some(2)),
        thread(i, 1, 1_250, 5, "runnable", None),
        thread(i, 1, 1_255, 45, "running", None),
        // A state of another version, and then nothing until 1,320.
        thread(i, 1, 1_300, 10, "levitating", None),
        thread(i, 1, 1_320, 20, "stopped", None),
        ThreadState {
            reason: Some(i.intern("throttled")),
            ..thread(i, 1, 1_340, 20, "preempted", None)
        },
        thread(i, 1, 1_360, 100, "running", None),
    ];
    b.open.thread_state = vec![thread(i, 1, 1_460, -1, "sleeping", None)];
    b.closed.goroutine_state = vec![
        state(i, 1, 1_010, 190, "running", Some(1)),
        state(i, 2, 1_010, 100, "runnable", None),
        state(i, 1, 1_200, 100, "syscall", Some(1)),
        state(i, 1, 1_300, 0, "runnable", None),
        state(i, 1, 1_300, 150, "running", Some(1)),
        state(i, 2, 1_110, 300, "waiting", None),
        // It is not known on which thread.
        state(i, 2, 1_410, 10, "running", None),
        // Of a thread that has no rows.
        state(i, 2, 1_420, 10, "syscall", Some(3)),
    ];
    b.closed.goroutine_state[5].reason = Some(i.intern("GC assist wait"));
    b.open.goroutine_state =
        vec![state(i, 1, 1_450, -1, "syscall", Some(1)), state(i, 2, 1_430, -1, "runnable", None)];
    b.closed.stw = vec![
        Stw { ts: 1_020, dur: Some(10), upid: 1, reason: i.intern("x"), ..Default::default() },
        Stw {
            ts: 1_380,
            dur: Some(10),
            upid: 1,
            ugid: Some(1),
            reason: i.intern("x"),
            ..Default::default()
        },
        // Of another process.
        Stw { ts: 1_010, dur: Some(400), upid: 2, reason: i.intern("x"), ..Default::default() },
    ];
    b.closed.gc_assist = vec![
        GcAssist { ts: 1_110, dur: Some(90), ugid: 2, ..Default::default() },
        GcAssist { ts: 1_190, dur: Some(40), ugid: 1, ..Default::default() },
        GcAssist { ts: 1_400, dur: Some(5), ugid: 1, ..Default::default() },
    ];
    b.strings = i.take_new();
    writer.commit(b).await.unwrap();

    let reader = Reader::open(&path).unwrap();
    assert_eq!(
        parts(&reader, "ugid = 1"),
        [
            "1010+190: on_cpu 110 off_cpu 80",
            "1200+100: off_cpu 5 syscall_cpu 55 syscall_asleep 40",
            "1300+0:",
            "1300+150: on_cpu 75 throttled 20 stopped 20 gc_assist 5 stw 10 unknown 20",
            // Up to the newest stored time, 2,000.
            "1450+550 open: syscall_cpu 10 syscall_asleep 540",
        ]
    );
    assert_eq!(
        parts(&reader, "ugid = 2"),
        [
            "1010+100: runnable 90 stw 10",
            "1110+300: blocked 210 gc_assist 90",
            "1410+10: unknown 10",
            "1420+10: unknown 10",
            "1430+570 open: runnable 570",
        ]
    );
    sums_are_exact(&reader);
    assert_eq!(
        rows(
            &reader,
            "select cpu, by_utid, off_cpu_by, state, reason, upid, goid from goroutine_wait where ts in (1010, 1300, 1110) and dur > 0 order by ts, ugid"
        ),
        [
            "110|2|hog (4002)|running|-|1|1",
            "0|-|-|runnable|-|1|2",
            "0|-|-|waiting|GC assist wait|1|2",
            "90|-|-|running|-|1|1"
        ]
    );
    assert_eq!(
        rows(
            &reader,
            "select ts, dur, part, on_cpu, off_cpu_by from goroutine_wait_part where wait_ts = 1010 and ugid = 1 order by ts"
        ),
        [
            "1010|90|on_cpu|1|-",
            "1100|30|off_cpu|0|other (4002)",
            "1130|20|on_cpu|1|-",
            "1150|50|off_cpu|0|hog (4002)",
        ]
    );
    // Conditions on ts are about the piece there, and about the whole interval here.
    assert_eq!(
        rows(
            &reader,
            "select ts, part from goroutine_wait_part where ts between 1121 and 1200 order by ts, part"
        ),
        ["1130|on_cpu", "1150|off_cpu", "1200|blocked", "1200|syscall_cpu"]
    );
    for (condition, n) in [
        ("ts between 1010 and 1110", "3"),
        ("ts > 1010 and ts < 1110", "0"),
        ("ugid = 1 and ts >= 1300", "3"),
        ("ugid = '1'", "5"),
        ("ugid = 1.0", "5"),
        ("ugid = 3", "0"),
        ("ugid = null", "0"),
        ("ugid in (1, 2) and utid is null", "5"),
        ("ugid = 1 and ugid = 2", "0"),
        ("ts = null", "0"),
    ] {
        let sql = format!("select count(*) from goroutine_wait where {condition}");
        assert_eq!(rows(&reader, &sql), [n], "{condition}");
    }
    assert_eq!(
        rows(
            &reader,
            "select start_func, sum(off_cpu) from goroutine join goroutine_wait using (ugid) group by 1 order by 1"
        ),
        ["main.f|0", "main.main|85"]
    );
}

/// Numbers that are the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.cast_unsigned()).cast_signed()
    }
}

/// Threads with states in a row and goroutines on them, over many segments that are written as a
/// recording is: whatever ended since the last flush.
#[tokio::test]
async fn parts_are_right_across_many_segments() {
    const THREADS: i64 = 8;
    const LENGTH: i64 = 200_000;
    let random = &mut Random(11);
    let i = &mut Interner::new();
    let words = ["running", "preempted", "runnable", "sleeping"];
    let (mut threads, mut goroutines) = (Vec::new(), Vec::new());
    for utid in 1..=THREADS {
        let mut ts = random.below(500);
        // The last ones have few and long intervals.
        let longest = if utid > 6 { 30_000 } else { 60 };
        // The thread 5 ends early, and 6 begins late: some goroutines on them have no part.
        let until = if utid == 5 { LENGTH / 3 } else { LENGTH };
        ts = if utid == 6 { LENGTH / 2 } else { ts };
        while ts < until {
            let dur = 1 + random.below(longest);
            threads.push(thread(i, utid, ts, dur, words[random.below(4) as usize], None));
            ts += dur;
            if random.below(50) == 0 {
                ts += random.below(100);
            }
        }
        let mut ts = random.below(500);
        let until = if utid == 5 { LENGTH / 2 } else { LENGTH };
        while ts < until {
            let dur = 1 + random.below(longest * 2);
            let word = if random.below(3) == 0 { "syscall" } else { "running" };
            goroutines.push(state(i, 1 + random.below(20), ts, dur, word, Some(utid)));
            ts += dur;
        }
    }
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let end = |ts: i64, dur: Option<i64>| ts + dur.unwrap_or_default();
    threads.sort_by_key(|row| end(row.ts, row.dur));
    goroutines.sort_by_key(|row| end(row.ts, row.dur));
    let all = (threads.clone(), goroutines.clone());
    let mut flushed = 0;
    while flushed < 2 * LENGTH {
        let until = flushed + 1_000;
        let mut b = batch(i, until);
        let ended = |ts, dur| end(ts, dur) <= until;
        b.closed.thread_state = threads.extract_if(.., |row| ended(row.ts, row.dur)).collect();
        b.closed.goroutine_state =
            goroutines.extract_if(.., |row| ended(row.ts, row.dur)).collect();
        if flushed == 0 {
            b.processes = vec![process(1)];
            b.goroutines = (1..=20).map(|ugid| goroutine(ugid, "main.f")).collect();
        }
        writer.commit(b).await.unwrap();
        flushed = until;
    }
    writer.finish(2 * LENGTH, "done", END).await.unwrap();
    let (threads, goroutines) = all;
    assert!(threads.len() > 5 * 4096, "{}", threads.len());

    // What each thread did in each nanosecond.
    let mut did: HashMap<i64, Vec<u8>> = HashMap::new();
    for row in &threads {
        let moments = did.entry(row.utid).or_insert_with(|| vec![3; 2 * LENGTH as usize]);
        let state = (0..4).find(|w| i.intern(words[*w]) == row.state).unwrap();
        let what = [0, 1, 1, 2][state];
        moments[row.ts as usize..end(row.ts, row.dur) as usize].fill(what);
    }
    let mut expected: Vec<[i64; 9]> = Vec::new();
    let syscall = i.intern("syscall");
    for row in &goroutines {
        let mut times = [0; 4];
        for what in &did[&row.utid.unwrap()][row.ts as usize..end(row.ts, row.dur) as usize] {
            times[usize::from(*what)] += 1;
        }
        let [on, off, asleep, unknown] = times;
        let is_call = row.state == syscall;
        let split = |ns: i64| if is_call { [0, ns] } else { [ns, 0] };
        let ([on_cpu, syscall_cpu], [asleep, syscall_asleep]) = (split(on), split(asleep));
        expected.push([
            row.ts,
            row.ugid,
            row.utid.unwrap(),
            on_cpu,
            off,
            syscall_cpu,
            syscall_asleep,
            asleep,
            unknown,
        ]);
    }
    expected.sort_unstable();
    let reader = Reader::open(&path).unwrap();
    sums_are_exact(&reader);
    let select = "select ts, ugid, utid, on_cpu, off_cpu, syscall_cpu, syscall_asleep, asleep, unknown from goroutine_wait";
    let found = |condition: &str| {
        let answer = reader.query_all(&format!("{select} {condition}"), None).unwrap();
        let number = |value: &Value| match value {
            Value::Integer(number) => *number,
            other => panic!("{other:?}"),
        };
        let mut rows: Vec<[i64; 9]> = answer
            .rows
            .iter()
            .map(|row| row.iter().map(number).collect::<Vec<_>>().try_into().unwrap())
            .collect();
        rows.sort_unstable();
        rows
    };
    assert!(found("") == expected);
    for _ in 0..40 {
        let from = random.below(LENGTH);
        let longest = if random.below(2) == 0 { 300 } else { LENGTH };
        let to = from + random.below(longest);
        let ugid = 1 + random.below(20);
        let within: Vec<_> =
            expected.iter().filter(|row| (from..=to).contains(&row[0])).copied().collect();
        assert!(found(&format!("where ts between {from} and {to}")) == within, "{from} to {to}");
        let of_one: Vec<_> = within.into_iter().filter(|row| row[1] == ugid).collect();
        let condition = format!("where ts between {from} and {to} and ugid = {ugid}");
        assert!(found(&condition) == of_one, "{condition}");
    }
    // A small range does not read everything.
    let before = reader.scan_stats().segments;
    found(&format!("where ts between {0} and {0} + 100", LENGTH / 5 * 4));
    let read = reader.scan_stats().segments - before;
    let all: u64 = rows(&reader, "select count(*) from segment")[0].parse().unwrap();
    assert!(read < all / 2, "{read} of {all} segments were read");
}
