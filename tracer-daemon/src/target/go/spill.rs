//! Where a function of Go keeps its second argument while it calls others.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// Distance from the frame pointer at which Go's ABI lets a function spill its second integer argument:
/// above the saved frame pointer, the return address and the first argument.
const SECOND_ARGUMENT: i64 = 24;

/// Address of the instruction by which the function whose code this is stores its second argument (BX) in its spill
/// space before its first call: behind it, it can be read there from any function that it calls.
pub fn keeps_second_argument(code: &[u8], start: u64) -> Option<u64> {
    let mut frame: Option<i64> = None;
    let decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    for instruction in decoder {
        match instruction.mnemonic() {
            Mnemonic::Call | Mnemonic::Ret | Mnemonic::INVALID => return None,
            Mnemonic::Sub if instruction.op0_register() == Register::RSP => {
                frame = Some(instruction.immediate(1).cast_signed());
            }
            Mnemonic::Add if instruction.op0_register() == Register::RSP => {
                frame = Some(-instruction.immediate(1).cast_signed());
            }
            // Before Go 1.21 the frame pointer is not pushed: it is stored in the frame, and points there.
            Mnemonic::Lea
                if instruction.op0_register() == Register::RBP
                    && instruction.memory_base() == Register::RSP =>
            {
                frame = Some(instruction.memory_displacement64().cast_signed());
            }
            Mnemonic::Mov if stores_bx(&instruction) => {
                let offset = instruction.memory_displacement64().cast_signed();
                let size = frame?;
                return (offset - size == SECOND_ARGUMENT).then(|| instruction.ip());
            }
            _ => {}
        }
    }
    None
}

fn stores_bx(instruction: &Instruction) -> bool {
    instruction.code() == Code::Mov_rm64_r64
        && instruction.op0_kind() == OpKind::Memory
        && instruction.memory_base() == Register::RSP
        && instruction.memory_index() == Register::None
        && instruction.op1_register() == Register::RBX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// push %rbp; mov %rsp,%rbp; sub $0x50,%rsp; mov %rax,0x60(%rsp); mov %rbx,0x68(%rsp)
    const READY: &[u8] = &[
        0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x50, 0x48, 0x89, 0x44, 0x24, 0x60, 0x48, 0x89,
        0x5c, 0x24, 0x68,
    ];

    #[test]
    fn the_spill_is_found() {
        assert_eq!(keeps_second_argument(READY, 0x1000), Some(0x100d));
    }

    #[test]
    fn the_spill_of_a_frame_without_a_push_is_found() {
        // sub $0x50,%rsp; mov %rbp,0x48(%rsp); lea 0x48(%rsp),%rbp; mov %rbx,0x60(%rsp)
        let code = [
            0x48, 0x83, 0xec, 0x50, 0x48, 0x89, 0x6c, 0x24, 0x48, 0x48, 0x8d, 0x6c, 0x24, 0x48,
            0x48, 0x89, 0x5c, 0x24, 0x60,
        ];
        assert_eq!(keeps_second_argument(&code, 0x1000), Some(0x100e));
    }

    #[test]
    fn another_place_or_none_is_refused() {
        let mut other = READY.to_vec();
        other[17] = 0x70;
        assert_eq!(keeps_second_argument(&other, 0x1000), None);
        assert_eq!(keeps_second_argument(&READY[..13], 0x1000), None);
        let mut called = READY[..13].to_vec();
        called.extend([0xe8, 0, 0, 0, 0]);
        called.extend(&READY[13..]);
        assert_eq!(
            keeps_second_argument(&called, 0x1000),
            None,
            "what is spilled later may be another value"
        );
    }
}
