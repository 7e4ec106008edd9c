//! Stacks: what the kernel programs tell by number is made readable when it is first heard of, so
//! that the database needs nothing of the machine that it came from.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use tracer_common::events::{CUT_OF_MAIN, GoStack};
use tracer_store::{Batch, FirstIds, Frame, Stack};

use crate::{
    kernel::KernelFrame,
    target::go::{Frame as CodeFrame, GoRuntime},
};

/// The function by which C calls Go.
const FROM_C: &str = "crosscall2";

/// What makes a place a different one.
#[derive(PartialEq, Eq, Hash)]
struct Place {
    func: Arc<str>,
    file: Option<Arc<str>>,
    line: Option<i64>,
    address: i64,
    module: Option<Arc<str>>,
}

/// How many times [`Stacks::take_new`] is called before the stacks of a program that nobody runs any more are
/// forgotten: about a minute. A service that is started anew gets the numbers that it had, and the call that replaced a
/// program is over by then.
const PROGRAM_STAYS: u64 = 150;

/// Places and stacks of one program (or of the kernel), which are numbered once however many processes run it.
#[derive(Default)]
struct Program {
    frames: FxHashMap<Place, i64>,
    by_frames: FxHashMap<Vec<i64>, i64>,
    /// The processes (upid) that run it.
    users: FxHashSet<i64>,
    /// When it was used last, while there are none (in calls of [`Stacks::take_new`]).
    used: u64,
}

/// All stacks that were told of.
#[derive(Default)]
pub struct Stacks {
    /// Their numbers in the database, by process (upid) and the number in its events; none if no frame
    /// of it is to be shown.
    known: FxHashMap<(i64, u64), Option<i64>>,
    /// By path of the executable.
    programs: FxHashMap<Option<Arc<str>>, Program>,
    /// The program of each process (upid).
    program_of: FxHashMap<i64, Option<Arc<str>>>,
    of_kernel: Program,
    /// Stacks of the kernel by their number in events.
    kernel: FxHashMap<i32, Option<i64>>,
    /// Of those, the ones that events named and nobody has told of.
    wanted: Vec<i32>,
    new: New,
    /// How often new rows were taken.
    taken: u64,
}

/// Rows that are to be stored, and the numbers that were given.
struct New {
    next_stack: i64,
    next_frame: i64,
    stacks: Vec<Stack>,
    frames: Vec<Frame>,
}

impl Default for New {
    fn default() -> Self {
        Self { next_stack: 1, next_frame: 1, stacks: Vec::new(), frames: Vec::new() }
    }
}

impl New {
    fn add_stack(&mut self, stack_id: i64, frames: &[i64]) {
        let row = |(&frame_id, depth)| Stack { stack_id, depth, frame_id };
        self.stacks.extend(frames.iter().zip(0..).map(row));
    }

    fn add_frame(&mut self, frame_id: i64, place: &Place) {
        self.frames.push(Frame {
            frame_id,
            func: Some(Arc::clone(&place.func)),
            file: place.file.clone(),
            line: place.line,
            address: Some(place.address),
            module: place.module.clone(),
        });
    }
}

impl Program {
    fn stack(&mut self, frames: Vec<i64>, new: &mut New) -> i64 {
        if let Some(&stack_id) = self.by_frames.get(&frames) {
            return stack_id;
        }
        let stack_id = new.next_stack;
        new.next_stack += 1;
        new.add_stack(stack_id, &frames);
        self.by_frames.insert(frames, stack_id);
        stack_id
    }

    fn frame(&mut self, place: Place, new: &mut New) -> i64 {
        if let Some(&frame_id) = self.frames.get(&place) {
            return frame_id;
        }
        let frame_id = new.next_frame;
        new.next_frame += 1;
        new.add_frame(frame_id, &place);
        self.frames.insert(place, frame_id);
        frame_id
    }

    fn retell(&self, new: &mut New) {
        self.frames.iter().for_each(|(place, &id)| new.add_frame(id, place));
        self.by_frames.iter().for_each(|(frames, &id)| new.add_stack(id, frames));
    }
}

impl Stacks {
    /// With the numbers that come after these.
    pub fn starting_at(ids: FirstIds) -> Self {
        let new = New { next_stack: ids.stack, next_frame: ids.frame, ..New::default() };
        Self { new, ..Self::default() }
    }

    /// A process runs a program, whose stacks are kept as long as it does.
    pub fn process_runs(&mut self, upid: i64, module: Option<&Arc<str>>) {
        self.leave(upid);
        self.program_of.insert(upid, module.cloned());
        self.programs.entry(module.cloned()).or_default().users.insert(upid);
    }

    fn leave(&mut self, upid: i64) {
        if let Some(module) = self.program_of.remove(&upid)
            && let Some(program) = self.programs.get_mut(&module)
        {
            program.users.remove(&upid);
            program.used = self.taken;
        }
    }

    fn program(&mut self, module: Option<&Arc<str>>) -> (&mut Program, &mut New) {
        let program = self.programs.entry(module.cloned()).or_default();
        program.used = self.taken;
        (program, &mut self.new)
    }

    /// A stack of a process, from the innermost program counter outwards (as the process has them, which
    /// is `bias` more than the file has).
    pub fn add(
        &mut self,
        upid: i64,
        head: &GoStack,
        pcs: &[u64],
        runtime: &GoRuntime,
        bias: u64,
        module: Option<&Arc<str>>,
    ) {
        if self.known.contains_key(&(upid, head.id)) {
            return;
        }
        let in_file: Vec<u64> = pcs.iter().map(|pc| pc.wrapping_sub(bias)).collect();
        let (skip, cut_of_main) = (head.skip & !CUT_OF_MAIN, head.skip & CUT_OF_MAIN != 0);
        let taken = runtime.functions.taken(&in_file, skip, cut_of_main);
        let mut expanded = runtime.functions.expand(taken, skip);
        // Behind it is C code, which need not keep frame pointers: what they lead to are no frames.
        if let Some(at) = expanded.iter().position(|frame| &*frame.function == FROM_C) {
            expanded.truncate(at);
        }
        let stack_id = self.store(&expanded, module);
        self.known.insert((upid, head.id), stack_id);
    }

    /// The number in the database of a stack; none if it has no frames.
    pub fn store(&mut self, frames: &[CodeFrame], module: Option<&Arc<str>>) -> Option<i64> {
        let frames: Vec<i64> = frames.iter().map(|frame| self.place(frame, module)).collect();
        let (program, new) = self.program(module);
        (!frames.is_empty()).then(|| program.stack(frames, new))
    }

    /// The stack with this number in the events of a process; `Err` if it was never told of.
    pub fn find(&self, upid: i64, id: u64) -> Result<Option<i64>, Unknown> {
        if id == 0 {
            return Ok(None);
        }
        self.known.get(&(upid, id)).copied().ok_or(Unknown)
    }

    /// The number in the database of a frame.
    pub fn place(&mut self, frame: &CodeFrame, module: Option<&Arc<str>>) -> i64 {
        let place = Place {
            func: Arc::clone(&frame.function),
            file: (!frame.file.is_empty()).then(|| Arc::clone(&frame.file)),
            line: (frame.line > 0).then_some(i64::from(frame.line)),
            address: frame.pc.cast_signed(),
            module: frame.module.as_ref().or(module).cloned(),
        };
        let (program, new) = self.program(module);
        program.frame(place, new)
    }

    /// A process ended or runs another program: its numbers of stacks mean nothing any more.
    pub fn process_ended(&mut self, upid: i64) {
        self.known.retain(|(other, _), _| *other != upid);
        self.leave(upid);
    }

    /// An event names a stack of the kernel.
    pub fn want_kernel(&mut self, id: i32) {
        if id >= 0 && !self.kernel.contains_key(&id) {
            self.kernel.insert(id, None);
            self.wanted.push(id);
        }
    }

    /// Stacks of the kernel that are to be told of.
    pub fn take_wanted(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.wanted)
    }

    /// A stack of the kernel, innermost frame first.
    pub fn add_kernel(&mut self, id: i32, frames: Vec<KernelFrame>) {
        let module: Arc<str> = "[kernel]".into();
        let Self { of_kernel, new, .. } = self;
        let frames = frames.into_iter().map(|frame| {
            let place = Place {
                func: frame.function,
                file: None,
                line: None,
                address: frame.address.cast_signed(),
                module: Some(Arc::clone(&module)),
            };
            of_kernel.frame(place, new)
        });
        let frames: Vec<i64> = frames.collect();
        let stack_id = (!frames.is_empty()).then(|| of_kernel.stack(frames, new));
        self.kernel.insert(id, stack_id);
    }

    /// The stack of the kernel with this number in events.
    pub fn kernel(&self, id: i32) -> Option<i64> {
        self.kernel.get(&id).copied().flatten()
    }

    /// See [`super::Tracker::held`].
    #[cfg(test)]
    pub fn held(&self) -> Vec<(&'static str, usize)> {
        vec![("stacks", self.known.len()), ("program_of", self.program_of.len())]
    }

    /// Makes all rows new again, for a database that has none of them.
    pub fn retell(&mut self) {
        let Self { programs, of_kernel, new, .. } = self;
        (new.stacks, new.frames) = (Vec::new(), Vec::new());
        programs.values().for_each(|program| program.retell(new));
        of_kernel.retell(new);
    }

    /// Moves the rows since the last call into a batch, and forgets what nobody can name any more.
    pub fn take_new(&mut self, batch: &mut Batch) {
        batch.frames.append(&mut self.new.frames);
        batch.stacks.append(&mut self.new.stacks);
        let taken = self.taken;
        self.taken += 1;
        self.programs.retain(|_, program| {
            let stays = !program.users.is_empty() || program.used + PROGRAM_STAYS > taken;
            if !stays {
                batch.gone_stacks.extend(program.by_frames.values());
                batch.gone_frames.extend(program.frames.values());
            }
            stays
        });
    }
}

/// A stack that was lost on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;
