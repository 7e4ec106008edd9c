//! The frames of a goroutine that does not run, from a copy of its stack.

use super::{
    super::{Functions, Step},
    word,
};

/// Deepest stack that is followed: 100,000 frames and more.
pub const MAX_STACK: u64 = 16 << 20;
/// More frames than a stack of that size can have, with damage or without.
const MAX_FRAMES: usize = 1 << 20;

/// Where a goroutine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Next instruction.
    pub pc: u64,
    /// Stack pointer.
    pub sp: u64,
    /// End of its stack.
    pub high: u64,
    /// Whether both were saved when it entered a system call.
    pub in_syscall: bool,
}

impl Stopped {
    /// Bytes of the stack that are in use; none if the words cannot be right.
    pub fn used(&self) -> Option<u64> {
        let used = self.high.checked_sub(self.sp)?;
        (self.sp != 0 && self.sp.is_multiple_of(8) && self.pc != 0).then_some(used.min(MAX_STACK))
    }

    /// The frames' addresses in the file, innermost first, from a copy of the stack that begins at
    /// the stack pointer; and whether they lead to the stack's end.
    pub fn frames(&self, stack: &[u8], functions: &Functions, bias: u64) -> (Vec<u64>, bool) {
        let mut frames = Vec::new();
        let (mut pc, mut at) = (self.pc, 0usize);
        while frames.len() < MAX_FRAMES {
            let innermost = frames.is_empty();
            let pc_in_file = pc.wrapping_sub(bias);
            let Some(step) = functions.step(pc_in_file, innermost && self.in_syscall) else {
                // No code of Go: nothing is known of its frame.
                return (frames, false);
            };
            frames.push(pc_in_file);
            let Step::Return(size) = step else { return (frames, true) };
            let Some(next) = at.checked_add(size as usize).filter(|at| at + 8 <= stack.len())
            else {
                return (frames, false);
            };
            pc = word(stack, next);
            at = next + 8;
        }
        (frames, false)
    }
}
