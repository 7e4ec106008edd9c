//! From a frame to its caller, as Go's tracebacks go: by the size that each frame has at each
//! instruction (runtime/traceback.go, unwinder). Unlike a walk along frame pointers it also sees the
//! callers of functions without a frame, and needs no saved frame pointer.

use std::sync::PoisonError;

use super::{Functions, Kind, Part};

/// How to get from a frame to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The return address lies so many bytes above the stack pointer.
    Return(u32),
    /// It is the outermost, or what lies above cannot be told.
    End,
}

/// internal/abi/symtab.go, FuncFlagTopFrame: the outermost frame of its stack.
const TOP_FRAME: u8 = 1;
/// internal/abi/symtab.go, FuncFlagSPWrite: changes the stack pointer in an unknown way.
const SP_WRITE: u8 = 2;

impl Functions {
    /// The way from the frame of a function that stopped at an address to its caller; none if it is
    /// no address of Go's code. `in_syscall`: it is the innermost frame of a goroutine in a system
    /// call, saved before the function changed its stack pointer.
    pub fn step(&self, pc: u64, in_syscall: bool) -> Option<Step> {
        let part = self.part(pc);
        let mut cache = part.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (pc, in_syscall);
        if let Some(step) = cache.steps.get(&key) {
            return *step;
        }
        let step = part.find_step(pc, in_syscall);
        cache.add_step(key, step);
        step
    }
}

impl Part {
    fn find_step(&self, pc: u64, in_syscall: bool) -> Option<Step> {
        let offset = self.offset(pc)?;
        let func = self.table.func(self.table.find(offset)?)?;
        let at = offset.checked_sub(func.entry)?;
        // cgocallback has valid frames on both stacks that it switches between.
        let known = in_syscall || self.kinds.get(func.id) == Kind::CgoCallback;
        if func.flags & TOP_FRAME != 0 || (func.flags & SP_WRITE != 0 && !known) {
            return Some(Step::End);
        }
        Some(self.table.frame_size(&func, at).map_or(Step::End, Step::Return))
    }
}
