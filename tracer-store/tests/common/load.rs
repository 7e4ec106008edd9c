//! A load that goes on for ever: threads and goroutines come and go, and make calls with noise in them.

use tracer_store::{
    Batch, Clock, FirstIds, Frame, Goroutine, GoroutineState, Interner, Process, Stack, Syscall,
    Thread,
};

/// Length of a batch, ns.
pub const STEP: i64 = 400_000_000;
/// How many batches a process of the load lives.
const LIFE: i64 = 4;

/// Makes batches. Each has a process of its own with a thread, a goroutine and a stack; process 1 lives for ever.
pub struct Load {
    pub ids: FirstIds,
    pub strings: Interner,
    pub start: i64,
    /// Number of the next batch.
    pub at: i64,
    pub rows: i64,
    noise: u64,
}

impl Load {
    pub fn new(start: i64, ids: FirstIds, rows: i64) -> Self {
        let strings = Interner::starting_at(ids.string);
        Self { ids, strings, start, at: 0, rows, noise: 1 }
    }

    fn noise(&mut self) -> u64 {
        self.noise =
            self.noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.noise ^ self.noise >> 29
    }

    /// The entities of batch `n`, alive or ended.
    fn entities(&self, n: i64, ended: bool, batch: &mut Batch) {
        let (from, to) = (self.start + n * STEP, self.start + (n + LIFE) * STEP);
        let end = ended.then_some(to);
        let (upid, utid, ugid) = (self.ids.upid + n, self.ids.utid + n, self.ids.ugid + n);
        let create_stack = Some(self.ids.stack + n);
        batch.processes.push(Process {
            upid,
            pid: upid,
            start_ts: Some(from),
            end_ts: end,
            ..Process::default()
        });
        batch.threads.push(Thread {
            utid,
            upid,
            tid: utid,
            start_ts: Some(from),
            end_ts: end,
            ..Thread::default()
        });
        let created_ts = Some(from);
        batch.goroutines.push(Goroutine {
            ugid,
            upid,
            goid: 1,
            create_stack,
            created_ts,
            ended_ts: end,
            ..Goroutine::default()
        });
    }

    /// The stack of batch `n`.
    fn stack(&self, n: i64, batch: &mut Batch) -> i64 {
        let (stack_id, frame_id) = (self.ids.stack + n, self.ids.frame + n);
        batch.frames.push(Frame { frame_id, func: Some("main.f".into()), ..Frame::default() });
        batch.stacks.push(Stack { stack_id, depth: 0, frame_id });
        stack_id
    }

    /// The next batch, with all that lives.
    pub fn whole(&mut self) -> Batch {
        let mut batch = self.next();
        self.strings.retell();
        batch.strings = self.strings.take_new();
        for n in (0..self.at).filter(|n| *n == 0 || n + LIFE >= self.at) {
            self.entities(n, false, &mut batch);
            self.stack(n, &mut batch);
        }
        // What ended only now has one, too.
        self.stack((self.at - 1 - LIFE).max(0), &mut batch);
        Batch { whole: true, ..batch }
    }

    /// The next batch.
    pub fn next(&mut self) -> Batch {
        let n = self.at;
        self.at += 1;
        let (name, state) = (self.strings.intern("read"), self.strings.intern("waiting"));
        let first = self.start + n * STEP;
        let mut batch = Batch { last_ts: first + STEP, ..Batch::default() };
        self.entities(n, false, &mut batch);
        let stack_id = self.stack(n, &mut batch);
        // The first ones live for ever.
        if n > LIFE {
            self.entities(n - LIFE, true, &mut batch);
            batch.gone_stacks.push(stack_id - LIFE);
            batch.gone_frames.push(self.ids.frame + n - LIFE);
        }
        for i in 0..self.rows {
            let args = [(); 6].map(|()| self.noise());
            let ts = first + i * STEP / self.rows;
            // Of this process, of one that will end soon, or of the one that stays.
            let of = [n, (n - LIFE + 1).max(0), 0][i as usize % 3];
            batch.closed.syscall.push(Syscall {
                ts,
                dur: Some(100),
                utid: self.ids.utid + of,
                ugid: Some(self.ids.ugid + of),
                name,
                ret: Some(i),
                args,
                stack_id: Some(self.ids.stack + of),
                ..Syscall::default()
            });
        }
        let stack_id = Some(self.ids.stack);
        batch.open.goroutine_state.push(GoroutineState {
            ts: self.start,
            ugid: self.ids.ugid,
            state,
            stack_id,
            ..GoroutineState::default()
        });
        if n % 8 == 0 {
            batch.clocks.push(Clock { ts: first, realtime: 1_700_000_000_000_000_000 + first });
        }
        batch.strings = self.strings.take_new();
        batch
    }
}

/// What is wrong with a database of this load, by rows that refer to nothing.
pub const DANGLING: &str = "
    select 'thread', count(*) from syscall c
        where ts >= (select max(coalesce(kept_since, 0)) from session) and not exists (select 1 from thread t where t.utid = c.utid)
    union all select 'goroutine', count(*) from syscall c
        where ts >= (select max(coalesce(kept_since, 0)) from session) and not exists (select 1 from goroutine g where g.ugid = c.ugid)
    union all select 'stack', count(*) from syscall c where not exists (select 1 from stack s where s.stack_id = c.stack_id)
    union all select 'open', count(*) from goroutine_state c where not exists (select 1 from stack s where s.stack_id = c.stack_id)
    union all select 'frame', count(*) from stack s where not exists (select 1 from frame f where f.frame_id = s.frame_id)
    union all select 'creation', count(*) from goroutine g where not exists (select 1 from stack s where s.stack_id = g.create_stack)
    union all select 'process', count(*) from thread t where not exists (select 1 from process p where p.upid = t.upid)
    union all select 'process of goroutine', count(*) from goroutine t where not exists (select 1 from process p where p.upid = t.upid)";
