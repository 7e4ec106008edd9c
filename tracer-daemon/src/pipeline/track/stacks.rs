//! Stacks: what the kernel programs tell by number is made readable when it is first heard of, so
//! that the database needs nothing of the machine that it came from.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tracer_common::events::{CUT_OF_MAIN, GoStack};
use tracer_store::{Batch, Frame, Stack};

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

/// All stacks that were told of.
#[derive(Default)]
pub struct Stacks {
    /// Their numbers in the database, by process (upid) and the number in its events; none if no frame
    /// of it is to be shown.
    known: FxHashMap<(i64, u64), Option<i64>>,
    /// A stack has one number however often it is told of.
    by_frames: FxHashMap<Vec<i64>, i64>,
    /// Stacks of the kernel by their number in events.
    kernel: FxHashMap<i32, Option<i64>>,
    /// Of those, the ones that events named and nobody has told of.
    wanted: Vec<i32>,
    frames: FxHashMap<Place, i64>,
    new_frames: Vec<Frame>,
    new_stacks: Vec<Stack>,
}

impl Stacks {
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
        (!frames.is_empty()).then(|| self.stack(frames))
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
        self.frame(Place {
            func: Arc::clone(&frame.function),
            file: (!frame.file.is_empty()).then(|| Arc::clone(&frame.file)),
            line: (frame.line > 0).then_some(i64::from(frame.line)),
            address: frame.pc.cast_signed(),
            module: module.cloned(),
        })
    }

    /// A process ended or runs another program: its numbers of stacks mean nothing any more.
    pub fn process_ended(&mut self, upid: i64) {
        self.known.retain(|(other, _), _| *other != upid);
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
        let frames = frames.into_iter().map(|frame| {
            self.frame(Place {
                func: frame.function,
                file: None,
                line: None,
                address: frame.address.cast_signed(),
                module: Some(Arc::clone(&module)),
            })
        });
        let frames: Vec<i64> = frames.collect();
        let stack_id = (!frames.is_empty()).then(|| self.stack(frames));
        self.kernel.insert(id, stack_id);
    }

    /// The stack of the kernel with this number in events.
    pub fn kernel(&self, id: i32) -> Option<i64> {
        self.kernel.get(&id).copied().flatten()
    }

    /// Moves the rows since the last call into a batch.
    pub fn take_new(&mut self, batch: &mut Batch) {
        batch.frames.append(&mut self.new_frames);
        batch.stacks.append(&mut self.new_stacks);
    }

    fn stack(&mut self, frames: Vec<i64>) -> i64 {
        let next = self.by_frames.len() as i64 + 1;
        if let Some(&stack_id) = self.by_frames.get(&frames) {
            return stack_id;
        }
        let rows = frames.iter().zip(0..);
        self.new_stacks.extend(rows.map(|(&frame_id, depth)| Stack {
            stack_id: next,
            depth,
            frame_id,
        }));
        self.by_frames.insert(frames, next);
        next
    }

    fn frame(&mut self, place: Place) -> i64 {
        if let Some(&frame_id) = self.frames.get(&place) {
            return frame_id;
        }
        let frame_id = self.frames.len() as i64 + 1;
        self.new_frames.push(Frame {
            frame_id,
            func: Some(Arc::clone(&place.func)),
            file: place.file.clone(),
            line: place.line,
            address: Some(place.address),
            module: place.module.clone(),
        });
        self.frames.insert(place, frame_id);
        frame_id
    }
}

/// A stack that was lost on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;
