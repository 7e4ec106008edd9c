//! Where in a function a probe may sit: at the `push %rbp` behind the stack check.
//!
//! There the arguments are still in their registers, it runs once a call, and the kernel emulates
//! the instruction instead of stepping over a copy of it. One byte off and the traced process
//! would die, so every instruction up to there is decoded and must be one of the few that Go's
//! compiler puts in a prologue (cmd/internal/obj/x86/obj6.go, stacksplit and preprocess).
//!
//! Before Go 1.21 functions have no `push`: they make room (`sub $N,%rsp`), save the frame pointer at
//! its end and set it. There the probe sits at the `sub`, where registers and stack are the same as at
//! a `push`; the kernel steps over a copy of it, which takes longer.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use thiserror::Error;

use super::Executable;

/// Offsets of g.stackguard0 and, for functions that run on the system stack, g.stackguard1.
const STACKGUARD0: u64 = 0x10;
const STACKGUARD1: u64 = 0x18;
/// Longest prologue that is looked at, in instructions and in bytes.
const MAX_INSTRUCTIONS: usize = 6;
const MAX_BYTES: u64 = 64;

/// Why no probe can sit on a function.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SiteError {
    /// The program has no such function.
    #[error("there is no such function")]
    Missing,
    /// Its bytes are not in the file.
    #[error("its code is not in the file")]
    NotCode,
    /// It does not begin as functions of Go do, or cannot be decoded.
    #[error("it is not as expected (at {address:#x}: {instruction})")]
    Unexpected {
        /// Address of the first instruction that does not belong there.
        address: u64,
        /// That instruction.
        instruction: String,
    },
    /// It is empty, or too long to be decoded as a whole.
    #[error("it has {0} bytes")]
    Size(u64),
    /// It has no return where a probe could sit.
    #[error("it never returns")]
    NoReturn,
    /// It does not call the function that it is known to call.
    #[error("it does not call what it is known to call")]
    NoCall,
    /// It was inlined into another function, in which there is no place for a probe.
    #[error("it is inlined, and has no place for a probe there")]
    NoPlace,
}

impl SiteError {
    pub(super) fn unexpected(instruction: &Instruction) -> Self {
        Self::Unexpected {
            address: instruction.ip(),
            instruction: format!("{:?}", instruction.code()),
        }
    }
}

/// Address of the `push %rbp` of the function from `start` to `end`, or of what it had in its place.
pub fn find(elf: &Executable<'_>, start: u64, end: u64) -> Result<u64, SiteError> {
    let size = end.saturating_sub(start).min(MAX_BYTES);
    let bytes = elf.bytes_at(start, size).ok_or(SiteError::NotCode)?;
    find_push(bytes, start, end)
}

fn find_push(bytes: &[u8], start: u64, end: u64) -> Result<u64, SiteError> {
    let mut decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    for _ in 0..MAX_INSTRUCTIONS {
        if !decoder.can_decode() {
            break;
        }
        decoder.decode_out(&mut instruction);
        if instruction.code() == Code::Push_r64 && instruction.op0_register() == Register::RBP {
            let push = instruction.ip();
            decoder.decode_out(&mut instruction);
            let frame = instruction.mnemonic() == Mnemonic::Mov
                && instruction.op0_register() == Register::RBP
                && instruction.op1_register() == Register::RSP;
            return if frame { Ok(push) } else { Err(SiteError::unexpected(&instruction)) };
        }
        if let Some(size) = room(&instruction) {
            let sub = instruction.ip();
            decoder.decode_out(&mut instruction);
            if saves_frame_pointer(&instruction, size) {
                decoder.decode_out(&mut instruction);
                if sets_frame_pointer(&instruction, size) {
                    return Ok(sub);
                }
            }
            return Err(SiteError::unexpected(&instruction));
        }
        if !in_prologue(&instruction, start, end) {
            break;
        }
    }
    Err(SiteError::unexpected(&instruction))
}

/// `sub $N,%rsp`, or `add $-N,%rsp`: N.
fn room(instruction: &Instruction) -> Option<u64> {
    if instruction.op0_kind() != OpKind::Register || instruction.op0_register() != Register::RSP {
        return None;
    }
    let size = match instruction.code() {
        Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 => instruction.immediate(1),
        // 128 does not fit into a byte, but -128 does.
        Code::Add_rm64_imm8 => instruction.immediate(1).wrapping_neg(),
        _ => return None,
    };
    (8..1 << 20).contains(&size).then_some(size)
}

/// `mov %rbp,N-8(%rsp)`.
fn saves_frame_pointer(instruction: &Instruction, size: u64) -> bool {
    instruction.code() == Code::Mov_rm64_r64
        && instruction.op1_register() == Register::RBP
        && is_last_word(instruction, size)
}

/// `lea N-8(%rsp),%rbp`.
fn sets_frame_pointer(instruction: &Instruction, size: u64) -> bool {
    instruction.code() == Code::Lea_r64_m
        && instruction.op0_register() == Register::RBP
        && is_last_word(instruction, size)
}

/// Whether the operand in memory is the last word of a frame of this size.
fn is_last_word(instruction: &Instruction, size: u64) -> bool {
    instruction.memory_base() == Register::RSP
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == size - 8
}

/// `cmp GUARD(%r14),%rsp`, or for large frames `lea -N(%rsp),%r12; cmp GUARD(%r14),%r12`, then
/// `jbe` to the call of morestack at the end of the function.
fn in_prologue(instruction: &Instruction, start: u64, end: u64) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Nop => true,
        Mnemonic::Cmp => {
            matches!(instruction.op0_register(), Register::RSP | Register::R12)
                && instruction.op1_kind() == OpKind::Memory
                && instruction.memory_base() == Register::R14
                && matches!(instruction.memory_displacement64(), STACKGUARD0 | STACKGUARD1)
        }
        Mnemonic::Lea => {
            instruction.op0_register() == Register::R12
                && instruction.memory_base() == Register::RSP
        }
        Mnemonic::Jbe => (start..end).contains(&instruction.near_branch_target()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x40_0000;
    const END: u64 = START + 0x100;
    /// cmp 0x10(%r14),%rsp; jbe +0x20; push %rbp; mov %rsp,%rbp
    const CHECKED: &[u8] =
        &[0x49, 0x3b, 0x66, 0x10, 0x76, 0x20, 0x55, 0x48, 0x89, 0xe5, 0x90, 0x90];

    #[test]
    fn finds_the_push_behind_the_stack_check() {
        assert_eq!(find_push(CHECKED, START, END), Ok(START + 6));
    }

    #[test]
    fn finds_it_in_a_function_with_a_large_frame_on_the_system_stack() {
        // lea -0x18(%rsp),%r12; cmp 0x18(%r14),%r12; jbe +0x20; push %rbp; mov %rsp,%rbp
        let code = [
            0x4c, 0x8d, 0x64, 0x24, 0xe8, 0x4d, 0x3b, 0x66, 0x18, 0x76, 0x20, 0x55, 0x48, 0x89,
            0xe5,
        ];
        assert_eq!(find_push(&code, START, END), Ok(START + 11));
    }

    #[test]
    fn finds_it_at_the_start_of_a_nosplit_function() {
        assert_eq!(find_push(&CHECKED[6..], START, END), Ok(START));
    }

    /// sub $0x40,%rsp; mov %rbp,0x38(%rsp); lea 0x38(%rsp),%rbp
    const WITHOUT_PUSH: &[u8] =
        &[0x48, 0x83, 0xec, 0x40, 0x48, 0x89, 0x6c, 0x24, 0x38, 0x48, 0x8d, 0x6c, 0x24, 0x38];

    #[test]
    fn finds_the_frame_of_go_1_20() {
        assert_eq!(find_push(WITHOUT_PUSH, START, END), Ok(START));
        let checked = [&CHECKED[..6], WITHOUT_PUSH].concat();
        assert_eq!(find_push(&checked, START, END), Ok(START + 6));
    }

    #[test]
    fn refuses_every_other_frame() {
        // Some bits mean nothing, such as those that extend registers where there are none.
        let mut same = 0;
        for at in 0..WITHOUT_PUSH.len() {
            for bit in 0..8 {
                let mut bytes = WITHOUT_PUSH.to_vec();
                bytes[at] ^= 1 << bit;
                if let Ok(found) = find_push(&bytes, START, END) {
                    assert_eq!(found, START, "byte {at} bit {bit}");
                    same += 1;
                }
            }
        }
        assert!(same <= 8, "{same} of 112 changes are not seen");
    }

    #[test]
    fn refuses_a_push_without_a_frame() {
        assert!(find_push(&[0x55, 0x90, 0x90, 0x90], START, END).is_err());
    }

    #[test]
    fn refuses_every_changed_prologue() {
        // A changed byte gives another place, no place, or (in the distance of the jump) the same
        // one; never the middle of an instruction.
        for at in 0..10 {
            for bit in 0..8 {
                let mut bytes = CHECKED.to_vec();
                bytes[at] ^= 1 << bit;
                if let Ok(found) = find_push(&bytes, START, END) {
                    assert_eq!(found, START + 6, "byte {at} bit {bit}");
                    assert_eq!(bytes[6], CHECKED[6], "byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn refuses_an_unconditional_start() {
        // jmp rel32: a function that something else has already patched
        assert!(find_push(&[0xe9, 0, 0, 0, 0, 0x55, 0x48, 0x89, 0xe5], START, END).is_err());
    }
}
