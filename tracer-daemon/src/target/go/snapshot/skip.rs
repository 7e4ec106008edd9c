//! How many of the innermost frames of a goroutine that waits Go's tracer leaves out: each call of `gopark` says it in its
//! fifth argument (runtime/proc.go, traceskip). The thread that parked it had the number for a moment only, so it is read
//! from the instructions before the call.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::Process;

/// What every wait goes through.
const PARK: &str = "runtime.gopark";
/// Its frame and that of a function that is always inlined.
const PARKS: [&str; 2] = [PARK, "runtime.goparkunlock"];
/// The one function that gets the number, or a part of it, as an argument (runtime/sema.go).
const SEMACQUIRE: &str = "runtime.semacquire1";
/// What it adds to that: its own frames and that of the function that `sync` calls.
const SEMACQUIRE_SKIPS: u32 = 4;
/// Go's fifth integer argument is in RSI, the fourth in RDI, the third in RCX.
const TRACE_SKIP: [Register; 2] = [Register::RSI, Register::ESI];
const SEMACQUIRE_SKIP: [Register; 2] = [Register::RDI, Register::EDI];
const SYNC_SKIP: [Register; 2] = [Register::RCX, Register::ECX];
/// No function of these has more code in front of such a call.
const MAX_CODE: u64 = 64 << 10;
/// No call leaves out more.
const MAX_SKIP: i64 = 32;

impl Process<'_> {
    /// Frames that Go's tracer leaves out of the stack of a goroutine that waits, from its return addresses in the file.
    pub(super) fn trace_skip(&self, pcs: &[u64]) -> u32 {
        let functions = &self.runtime.functions;
        let (Some(&inner), Some(park)) = (pcs.first(), functions.range(PARK)) else { return 0 };
        if !(park.0..park.1).contains(&inner) {
            return 0;
        }
        if let Some(&skip) = self.skips.borrow().get(&pcs[..pcs.len().min(4)]) {
            return skip;
        }
        let skip = self.find_skip(pcs, park.0).unwrap_or_else(|| {
            // At least what parks is left out.
            let frames = functions.expand(&pcs[..pcs.len().min(2)], 0);
            frames.iter().take_while(|frame| PARKS.contains(&&*frame.function)).count() as u32
        });
        self.skips.borrow_mut().insert(pcs[..pcs.len().min(4)].into(), skip);
        skip
    }

    fn find_skip(&self, pcs: &[u64], park: u64) -> Option<u32> {
        let caller = *pcs.get(1)?;
        if let Some(skip) = self.argument(caller, park, TRACE_SKIP) {
            return Some(skip);
        }
        let semacquire = self.runtime.functions.range(SEMACQUIRE)?;
        if !(semacquire.0..semacquire.1).contains(&caller) {
            return None;
        }
        let (sync, user) = (*pcs.get(2)?, pcs.get(3));
        let own = self.argument(sync, semacquire.0, SEMACQUIRE_SKIP).or_else(|| {
            // It passes on what it was given.
            let (start, _) = self.runtime.functions.around(sync.wrapping_sub(1))?;
            self.argument(*user?, start, SYNC_SKIP)
        })?;
        Some(SEMACQUIRE_SKIPS + own)
    }

    /// The constant that the call of `callee` behind which a function goes on at `after` passes in a register.
    fn argument(&self, after: u64, callee: u64, register: [Register; 2]) -> Option<u32> {
        let (start, _) = self.runtime.functions.around(after.wrapping_sub(1))?;
        let size = after.checked_sub(start).filter(|&size| size <= MAX_CODE)?;
        let code = self.memory.read(start.wrapping_add(self.bias), usize::try_from(size).ok()?);
        constant(&code.ok()?, start, callee, register)
    }
}

/// The constant in a register at the call of `callee` with which the code ends.
fn constant(code: &[u8], start: u64, callee: u64, register: [Register; 2]) -> Option<u32> {
    let (mut value, mut last) = (None, Instruction::default());
    for instruction in &mut Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
        last = instruction;
        if instruction.mnemonic() == Mnemonic::Call {
            if instruction.next_ip() != start.wrapping_add(code.len() as u64) {
                // It may have changed all registers.
                value = None;
            }
        } else if instruction.op_count() > 0
            && instruction.op0_kind() == OpKind::Register
            && register.contains(&instruction.op0_register())
        {
            value = match instruction.mnemonic() {
                Mnemonic::Mov => loaded(&instruction),
                Mnemonic::Xor if instruction.op1_register() == instruction.op0_register() => {
                    Some(0)
                }
                // They change nothing.
                Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push => value,
                _ => None,
            };
        }
    }
    let is_it = last.code() == Code::Call_rel32_64
        && last.next_ip() == start.wrapping_add(code.len() as u64)
        && last.near_branch_target() == callee;
    value.filter(|_| is_it).and_then(|value| u32::try_from(value).ok())
}

/// `mov $N,%reg`.
fn loaded(instruction: &Instruction) -> Option<i64> {
    let is_constant = matches!(
        instruction.op1_kind(),
        OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64
    );
    let value = is_constant.then(|| instruction.immediate(1).cast_signed());
    value.filter(|value| (0..MAX_SKIP).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_is_found_before_the_call_that_it_is_for() {
        // xor %esi,%esi; call 0x2000; mov $2,%esi; test %esi,%esi; call 0x3000
        let code = [
            0x31, 0xf6, 0xe8, 0xf9, 0x0f, 0, 0, 0xbe, 2, 0, 0, 0, 0x85, 0xf6, 0xe8, 0xed, 0x1f, 0,
            0,
        ];
        assert_eq!(constant(&code, 0x1000, 0x3000, TRACE_SKIP), Some(2));
        assert_eq!(constant(&code[..7], 0x1000, 0x2000, TRACE_SKIP), Some(0));
        assert_eq!(constant(&code, 0x1000, 0x3001, TRACE_SKIP), None, "another function");
        assert_eq!(constant(&code[..18], 0x1000, 0x3000, TRACE_SKIP), None, "no whole call");
        assert_eq!(constant(&code, 0x1000, 0x3000, SEMACQUIRE_SKIP), None, "another register");
        // mov $2,%esi; mov %eax,%esi; call 0x3000
        let code = [0xbe, 2, 0, 0, 0, 0x89, 0xc6, 0xe8, 0xf4, 0x1f, 0, 0];
        assert_eq!(constant(&code, 0x1000, 0x3000, TRACE_SKIP), None, "a variable");
    }
}
