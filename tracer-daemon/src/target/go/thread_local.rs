//! Where a thread keeps its g: in `runtime.tlsg`, so many bytes below the thread pointer. The linker
//! decides how many: 8 in a program of Go alone, more if C code has thread-local variables too.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::{Executable, Functions};

/// Functions written in assembly that read or write `runtime.tlsg` in their first instructions.
const USERS: [&str; 4] = ["gogo", "runtime.gogo", "runtime.systemstack", "runtime.mcall"];
/// How far these are looked at, in bytes.
const MAX_BYTES: u64 = 64;
/// Size of `runtime.tlsg`.
const WORD: u64 = 8;
/// Static thread-local data is smaller.
const MAX: u64 = 1 << 20;

/// Distance of `runtime.tlsg` from the thread pointer downwards, in bytes; none if that cannot be told.
pub fn distance(elf: &Executable<'_>, functions: &Functions) -> Option<u32> {
    let by_code = USERS.iter().find_map(|name| {
        let (start, end) = functions.range(name)?;
        let size = end.checked_sub(start)?.min(MAX_BYTES);
        from_code(elf.bytes_at(start, size)?, start)
    });
    // Nothing else has thread-local data.
    let alone = || elf.thread_local().filter(|&(size, _)| size == WORD).map(|_| WORD);
    by_code.or_else(alone).and_then(|distance| u32::try_from(distance).ok())
}

/// From the first access through `%fs`: `mov %fs:-N,%reg`, or in a position-independent program
/// `mov $-N,%reg; mov %fs:(%reg),...`.
fn from_code(code: &[u8], start: u64) -> Option<u64> {
    let mut constant = None;
    for instruction in &mut Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            return None;
        }
        if instruction.segment_prefix() == Register::FS {
            let displacement = instruction.memory_displacement64();
            let place = match (instruction.memory_base(), instruction.memory_index()) {
                (Register::None, Register::None) => Some(displacement),
                (base, Register::None) => constant
                    .filter(|&(register, _)| register == base)
                    .map(|(_, value): (_, u64)| displacement.wrapping_add(value)),
                _ => None,
            };
            let distance = place?.wrapping_neg();
            return (distance % WORD == 0 && (WORD..MAX).contains(&distance)).then_some(distance);
        }
        if let Some(loaded) = loads_constant(&instruction) {
            constant = Some(loaded);
        }
    }
    None
}

/// `mov $N,%reg`.
fn loads_constant(instruction: &Instruction) -> Option<(Register, u64)> {
    let is_constant = matches!(
        instruction.op1_kind(),
        OpKind::Immediate32to64 | OpKind::Immediate64 | OpKind::Immediate32
    );
    (instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Register
        && is_constant)
        .then(|| (instruction.op0_register(), instruction.immediate(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_decides() {
        // mov %fs:-0x80,%rdx
        let code = [0x64, 0x48, 0x8b, 0x14, 0x25, 0x80, 0xff, 0xff, 0xff];
        assert_eq!(from_code(&code, 0), Some(0x80));
        // mov $-0x80,%rcx; mov %rdx,%fs:(%rcx)
        let code = [0x48, 0xc7, 0xc1, 0x80, 0xff, 0xff, 0xff, 0x64, 0x48, 0x89, 0x11];
        assert_eq!(from_code(&code, 0), Some(0x80));
        // The same through another register, of which nothing is known.
        let other = [&code[..10], &[0x12]].concat();
        assert_eq!(from_code(&other, 0), None);
        // mov 0x1000(%rip),%rcx; mov %rdx,%fs:(%rcx)
        let got = [0x48, 0x8b, 0x0d, 0, 0x10, 0, 0, 0x64, 0x48, 0x89, 0x11];
        assert_eq!(from_code(&got, 0), None);
        // mov %fs:8,%rdx: above the thread pointer.
        let above = [0x64, 0x48, 0x8b, 0x14, 0x25, 8, 0, 0, 0];
        assert_eq!(from_code(&above, 0), None);
        assert_eq!(from_code(&[], 0), None);
    }
}
