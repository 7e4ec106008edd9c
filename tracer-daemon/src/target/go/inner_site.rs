//! Where inside a function a probe may sit: at its returns, at its calls of another function, and where it checks what that
//! has returned.
//!
//! A return is stepped over by the kernel, which is slow; a call and a conditional jump are emulated. Unlike a uretprobe
//! neither changes anything on the stack, so the runtime may move it. To know where instructions
//! begin, the whole function is decoded from its start; it is refused unless every jump within it
//! leads to the beginning of an instruction.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use rustc_hash::FxHashSet;

use super::{Executable, site::SiteError};

/// Longest function that is looked at, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Addresses of all returns of the function from `start` to `end`.
///
/// # Errors
/// When the function cannot be decoded, or never returns.
pub fn returns(elf: &Executable<'_>, start: u64, end: u64) -> Result<Vec<u64>, SiteError> {
    find_returns(code(elf, start, end)?, start)
}

/// Address of the last call of a function that begins at one of `callees` in the function from `start` to `end`.
///
/// # Errors
/// When the function cannot be decoded, or has no such call.
pub fn last_call(
    elf: &Executable<'_>,
    start: u64,
    end: u64,
    callees: &[u64],
) -> Result<u64, SiteError> {
    find_last_call(code(elf, start, end)?, start, callees)
}

/// Addresses of the jumps by which the function from `start` to `end` goes elsewhere if a call of one that begins at one of
/// `callees` has returned nil, each with that of the call; there RAX is what it has returned.
///
/// # Errors
/// When the function cannot be decoded, has no such call, or does something else behind one.
pub fn nil_checks(
    elf: &Executable<'_>,
    start: u64,
    end: u64,
    callees: &[u64],
) -> Result<Vec<(u64, u64)>, SiteError> {
    find_nil_checks(code(elf, start, end)?, start, callees)
}

/// All instructions of the function from `start` to `end`.
///
/// # Errors
/// When the function cannot be decoded.
pub fn instructions(
    elf: &Executable<'_>,
    start: u64,
    end: u64,
) -> Result<Vec<Instruction>, SiteError> {
    decode(code(elf, start, end)?, start)
}

fn code<'a>(elf: &Executable<'a>, start: u64, end: u64) -> Result<&'a [u8], SiteError> {
    let size = end.saturating_sub(start);
    if size == 0 || size > MAX_BYTES {
        return Err(SiteError::Size(size));
    }
    elf.bytes_at(start, size).ok_or(SiteError::NotCode)
}

fn find_returns(bytes: &[u8], start: u64) -> Result<Vec<u64>, SiteError> {
    let returns: Vec<u64> = decode(bytes, start)?
        .iter()
        .filter(|instruction| instruction.code() == Code::Retnq)
        .map(Instruction::ip)
        .collect();
    if returns.is_empty() { Err(SiteError::NoReturn) } else { Ok(returns) }
}

fn find_last_call(bytes: &[u8], start: u64, callees: &[u64]) -> Result<u64, SiteError> {
    let calls_it = |instruction: &&Instruction| {
        instruction.code() == Code::Call_rel32_64
            && callees.contains(&instruction.near_branch_target())
    };
    let decoded = decode(bytes, start)?;
    decoded.iter().rfind(calls_it).map(Instruction::ip).ok_or(SiteError::NoCall)
}

fn find_nil_checks(
    bytes: &[u8],
    start: u64,
    callees: &[u64],
) -> Result<Vec<(u64, u64)>, SiteError> {
    let decoded = decode(bytes, start)?;
    let leads_to = |i: &Instruction, target: u64| {
        i.op0_kind() == OpKind::NearBranch64 && i.near_branch_target() == target
    };
    let mut found = Vec::new();
    for (at, call) in decoded.iter().enumerate() {
        let is_it =
            call.code() == Code::Call_rel32_64 && callees.contains(&call.near_branch_target());
        if !is_it {
            continue;
        }
        let mut behind = decoded[at + 1..].iter().filter(|i| i.mnemonic() != Mnemonic::Nop);
        let (Some(test), Some(jump)) = (behind.next(), behind.next()) else {
            return Err(SiteError::NoCall);
        };
        let tests_it = test.code() == Code::Test_rm64_r64
            && test.op0_register() == Register::RAX
            && test.op1_register() == Register::RAX;
        if !tests_it {
            return Err(SiteError::unexpected(test));
        }
        if jump.mnemonic() != Mnemonic::Je || decoded.iter().any(|i| leads_to(i, jump.ip())) {
            return Err(SiteError::unexpected(jump));
        }
        found.push((call.ip(), jump.ip()));
    }
    if found.is_empty() { Err(SiteError::NoCall) } else { Ok(found) }
}

/// All instructions of a function that begins at `start`.
fn decode(bytes: &[u8], start: u64) -> Result<Vec<Instruction>, SiteError> {
    let end = start + bytes.len() as u64;
    let decoded: Vec<Instruction> =
        Decoder::with_ip(64, bytes, start, DecoderOptions::NONE).iter().collect();
    let begins: FxHashSet<u64> = decoded.iter().map(Instruction::ip).collect();
    for instruction in &decoded {
        let fits = if instruction.op0_kind() == OpKind::NearBranch64 {
            let target = instruction.near_branch_target();
            !(start..end).contains(&target) || begins.contains(&target)
        } else {
            // Where an indirect jump leads cannot be told.
            !instruction.is_invalid() && instruction.mnemonic() != Mnemonic::Jmp
        };
        if !fits {
            return Err(SiteError::unexpected(instruction));
        }
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x40_0000;
    /// test %rax,%rax; je +6; call START+0x100; ret; call START+0x100; ret; int3
    const CODE: &[u8] =
        &[0x48, 0x85, 0xc0, 0x74, 0x06, 0xe8, 0xf6, 0, 0, 0, 0xc3, 0xe8, 0xf0, 0, 0, 0, 0xc3, 0xcc];

    #[test]
    fn finds_every_return_and_the_last_call() {
        assert_eq!(find_returns(CODE, START), Ok(vec![START + 10, START + 16]));
        assert_eq!(find_last_call(CODE, START, &[START + 0x100]), Ok(START + 11));
        assert_eq!(find_last_call(CODE, START, &[START + 0x101]), Err(SiteError::NoCall));
        assert_eq!(find_returns(&CODE[..5], START), Err(SiteError::NoReturn));
    }

    #[test]
    fn finds_where_a_returned_nil_is_looked_for() {
        // call START+0x100; nop; test %rax,%rax; je +1; ret; jmp START+9
        let code = [0xe8, 0xfb, 0, 0, 0, 0x90, 0x48, 0x85, 0xc0, 0x74, 1, 0xc3, 0x0f, 0x0b];
        let find = |code: &[u8]| find_nil_checks(code, START, &[START + 0x100]);
        assert_eq!(find(&code), Ok(vec![(START, START + 9)]));
        // test %rcx,%rax; jne; and a jump that leads there without a call.
        for (at, byte) in [(8, 0xc8), (9, 0x75)] {
            let mut other = code;
            other[at] = byte;
            assert!(matches!(find(&other), Err(SiteError::Unexpected { .. })), "{at}");
        }
        let jumps = [&code[..12], &[0xeb, 0xfb]].concat();
        assert!(matches!(find(&jumps), Err(SiteError::Unexpected { .. })));
        assert_eq!(find(&code[..5]), Err(SiteError::NoCall));
        assert_eq!(find(&code[6..]), Err(SiteError::NoCall));
    }

    #[test]
    fn a_return_within_an_instruction_is_none() {
        // mov $0xc3,%eax; ret
        assert_eq!(find_returns(&[0xb8, 0xc3, 0, 0, 0, 0xc3], START), Ok(vec![START + 5]));
    }

    #[test]
    fn refuses_a_jump_into_an_instruction() {
        let mut code = CODE.to_vec();
        code[4] = 7;
        assert!(matches!(find_returns(&code, START), Err(SiteError::Unexpected { .. })));
    }

    #[test]
    fn refuses_what_is_no_code_or_ends_within_an_instruction() {
        // 0x06 is no instruction of x86_64; then a call without its last byte; then jmp *%rax.
        for code in [&[0x06, 0xc3][..], &[0xc3, 0xe8, 0, 0, 0], &[0xff, 0xe0, 0xc3]] {
            assert!(find_returns(code, START).is_err(), "{code:x?}");
        }
    }
}
