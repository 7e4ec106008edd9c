//! Whatever is lost of a recording, the file is valid: a simulated scheduler makes rows, of which some are
//! dropped, moved or changed at random.

use tracer_store::{Gc, GcAssist, GcSweep, Gomaxprocs, Heap, Stw, UserRegion, UserTask};

use crate::db::{Db, Exported, START};

/// Numbers that look random, the same ones in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: i64) -> i64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as i64 % n
    }

    fn one_in(&mut self, n: i64) -> bool {
        self.below(n) == 0
    }
}

const GOROUTINES: i64 = 12;
const STEPS: i64 = 400;

#[derive(Clone, Copy, PartialEq)]
enum State {
    Unborn,
    Runnable,
    Running { m: i64 },
    Syscall { m: i64, p: i64 },
    Waiting,
    Dead,
}

/// What a scheduler with four threads and three Ps does, as rows.
fn simulate(random: &mut Random, with_procs: bool) -> Db {
    let mut db = Db::new();
    let mut now = 0;
    let mut states = [State::Unborn; GOROUTINES as usize];
    let mut since = [0_i64; GOROUTINES as usize];
    let mut created = [None; GOROUTINES as usize];
    let mut wakers = [None; GOROUTINES as usize];
    // Of each M (1 to 4) the P, and since when.
    let mut ps: [Option<(i64, i64)>; 5] = [None; 5];
    states[0] = State::Runnable;
    for step in 0..STEPS {
        now += 1 + random.below(20);
        let at = random.below(GOROUTINES) as usize;
        let ugid = at as i64 + 1;
        let m_free = (1..=4).find(|m| {
            !states.iter().any(
                |s| matches!(s, State::Running { m: o } | State::Syscall { m: o, .. } if o == m),
            )
        });
        let p_free = (0..3).find(|p| !ps.iter().flatten().any(|(held, _)| held == p));
        let stolen = (1..=4_i64).find(|m| {
            ps[*m as usize].is_some()
                && states.iter().any(|s| matches!(s, State::Syscall { m: o, .. } if o == m))
        });
        let next = match states[at] {
            State::Unborn => {
                let Some(State::Running { m }) =
                    states.iter().find(|s| matches!(s, State::Running { .. }))
                else {
                    continue;
                };
                created[at] = Some(now);
                wakers[at] = Some(*m);
                State::Runnable
            }
            State::Runnable => {
                let Some(m) = m_free else { continue };
                if ps[m as usize].is_none() {
                    if let Some(p) = p_free {
                        ps[m as usize] = Some((p, now));
                    } else if let Some(victim) = stolen {
                        let Some((p, from)) = ps[victim as usize].take() else { continue };
                        if with_procs {
                            db.proc(p, from, now, Some(victim));
                        }
                        ps[m as usize] = Some((p, now));
                    } else {
                        continue;
                    }
                }
                State::Running { m }
            }
            State::Running { m } => match random.below(5) {
                0 => State::Runnable,
                1 if step > STEPS / 2 => State::Dead,
                2 => {
                    let Some((p, _)) = ps[m as usize] else { continue };
                    State::Syscall { m, p }
                }
                _ => State::Waiting,
            },
            State::Syscall { m, .. } if ps[m as usize].is_some() => State::Running { m },
            State::Syscall { .. } | State::Waiting => {
                wakers[at] = states.iter().find_map(|s| match s {
                    State::Running { m } => Some(*m),
                    _ => None,
                });
                State::Runnable
            }
            State::Dead => continue,
        };
        let from = std::mem::replace(&mut since[at], now);
        match states[at] {
            State::Runnable => {
                let row = db.runnable(ugid, from, now);
                row.waker_utid = wakers[at];
            }
            State::Running { m } => {
                let p = ps[m as usize].map_or(0, |(p, _)| p);
                db.runs(ugid, from, now, m, p);
            }
            State::Syscall { m, p } => drop(db.syscall(ugid, from, now, m, Some(p))),
            State::Waiting => drop(db.waits(ugid, from, now, "chan send")),
            State::Unborn | State::Dead => {}
        }
        // An M that has nothing to do gives up its P, mostly.
        if let State::Running { m } = states[at]
            && !matches!(next, State::Syscall { .. })
            && !random.one_in(3)
            && let Some((p, from)) = ps[m as usize].take()
            && with_procs
        {
            db.proc(p, from, now, Some(m));
        }
        states[at] = next;
    }
    for at in 0..GOROUTINES as usize {
        if states[at] != State::Unborn {
            let ended = (states[at] == State::Dead).then_some(since[at]);
            db.goroutine(at as i64 + 1, created[at], ended);
        }
    }
    others(&mut db, random, now);
    db
}

/// Rows of the other streams, at any time.
fn others(db: &mut Db, random: &mut Random, end: i64) {
    let name = db.text("name");
    for i in 0..10 {
        let mut span = || {
            let ts = START + random.below(end.max(1));
            (ts, Some(random.below(100)))
        };
        let ((ts, dur), utid, ugid) = (span(), Some(1 + i % 4), Some(1 + i % GOROUTINES));
        let closed = &mut db.batch.closed;
        closed.gc.push(Gc { ts, dur, upid: 1, utid, ugid, stack_id: None });
        let (ts, dur) = span();
        closed.stw.push(Stw { ts, dur, upid: 1, reason: name, utid, ugid, stack_id: None });
        let (ts, dur) = span();
        closed.gc_assist.push(GcAssist { ts, dur, ugid: 1 + i, utid, stack_id: None });
        let (ts, dur) = span();
        closed.gc_sweep.push(GcSweep {
            ts,
            dur,
            upid: 1,
            proc: Some(i % 3),
            utid,
            ..GcSweep::default()
        });
        let (ts, _) = span();
        closed.heap.push(Heap { ts, upid: 1, live: i, utid, ..Heap::default() });
        let (ts, _) = span();
        closed.gomaxprocs.push(Gomaxprocs { ts, upid: 1, count: 3, utid, stack_id: None });
        let (ts, dur) = span();
        closed.user_region.push(UserRegion {
            ts,
            dur,
            ugid: 1 + i,
            task: Some(i % 2),
            name,
            stack_id: None,
        });
        let (ts, dur) = span();
        let task = UserTask {
            ts,
            dur,
            upid: 1,
            task: i % 5,
            name,
            ugid,
            end_ugid: ugid,
            ..UserTask::default()
        };
        closed.user_task.push(task);
    }
}

/// Drops and changes rows.
fn damage(db: &mut Db, random: &mut Random, one_in: i64) {
    let idle = db.text("idle");
    if !random.one_in(4) {
        db.lost(1);
    }
    let rows = &mut db.batch.closed.goroutine_state;
    rows.retain(|_| !random.one_in(one_in));
    for row in rows.iter_mut() {
        if random.one_in(one_in) {
            match random.below(5) {
                0 => row.ts += random.below(200) - 100,
                1 => row.utid = (random.below(2) == 0).then(|| 1 + random.below(4)),
                2 => row.proc = (random.below(2) == 0).then(|| random.below(5)),
                3 => row.dur = Some(0),
                _ => row.waker_ugid = Some(1 + random.below(GOROUTINES)),
            }
            row.ts = row.ts.max(START);
        }
    }
    db.batch.closed.proc_state.retain(|_| !random.one_in(one_in));
    for row in &mut db.batch.closed.proc_state {
        if random.one_in(one_in) {
            match random.below(3) {
                0 => row.utid = Some(1 + random.below(4)),
                1 => (row.state, row.utid) = (idle, None),
                _ => (row.state, row.taker_utid) = (idle, Some(1 + random.below(4))),
            }
        }
    }
    for goroutine in &mut db.batch.goroutines {
        if random.one_in(one_in) {
            match random.below(3) {
                0 => goroutine.created_ts = None,
                1 => goroutine.ended_ts = goroutine.ended_ts.map(|ts| ts + random.below(100)),
                _ => goroutine.ended_ts = Some(START + random.below(4_000)),
            }
        }
    }
}

#[test]
fn a_whole_recording_needs_no_inference() {
    for seed in 1..=20 {
        let mut db = simulate(&mut Random(seed), true);
        // What is done by goroutines that do not run is left out: not what this is about.
        let streams = &mut db.batch.closed;
        let states =
            (std::mem::take(&mut streams.goroutine_state), std::mem::take(&mut streams.proc_state));
        *streams = tracer_store::Streams {
            goroutine_state: states.0,
            proc_state: states.1,
            ..Default::default()
        };
        let rows = streams.goroutine_state.len();
        let exported: Exported = db.export();
        assert!(exported.report.left_out.is_empty(), "seed {seed}: {:?}", exported.report);
        assert!(exported.lines.len() > rows, "seed {seed}");
    }
}

#[test]
fn a_damaged_recording_is_a_valid_file() {
    let mut left_out = 0;
    for seed in 1..=200 {
        let mut random = Random(seed);
        let mut db = simulate(&mut random, seed % 3 != 0);
        damage(&mut db, &mut random, 2 + seed as i64 % 30);
        let from = (seed % 4 == 0).then(|| random.below(2_000));
        let exported = db.export_range(from, None);
        left_out += exported.report.left_out.values().sum::<u64>();
    }
    assert!(left_out > 100, "the damage was not felt: {left_out}");
}
