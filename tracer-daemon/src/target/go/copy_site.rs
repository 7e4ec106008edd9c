//! Where a probe may sit in a copy of a function that was inlined into another one.
//!
//! Such a copy has no `push %rbp` and no registers in which its arguments always are. What it does have is what the
//! function does: the instruction that changes a status, a store to a field, a call. From there on the code is
//! followed in a straight line to an instruction that the kernel emulates, as long as nothing else leads there and
//! what the kernel program needs is still in its register. Without one the next instruction is taken, which is stepped
//! over and so takes longer.

use iced_x86::{
    Code, ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register, RflagsBits,
};
use rustc_hash::{FxHashMap, FxHashSet};
use tracer_common::{goroutine_status as status, inlined::Inlined};

use super::{Executable, InlinedCopy, Layout, inner_site, site::SiteError};

/// How far a straight line is followed, in instructions.
const MAX_LINE: usize = 24;

/// How many ways into a copy are looked at: each takes a look at the whole function.
const MAX_ENTRIES: usize = 32;

/// A function, decoded as a whole, into which others were inlined.
pub struct Holder {
    code: Vec<Instruction>,
    /// Where it jumps to within itself.
    targets: FxHashSet<u64>,
}

/// A place for a probe in a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySite {
    /// Address of the instruction.
    pub address: u64,
    /// What the kernel program must know of it.
    pub inlined: Inlined,
}

impl Holder {
    /// Decodes the function between these addresses.
    ///
    /// # Errors
    /// When it cannot be decoded.
    pub fn of(elf: &Executable<'_>, (start, end): (u64, u64)) -> Result<Self, SiteError> {
        Ok(Self::new(inner_site::instructions(elf, start, end)?))
    }

    fn new(code: Vec<Instruction>) -> Self {
        let jumps = code.iter().filter(|i| i.op0_kind() == OpKind::NearBranch64);
        let jumps = jumps.filter(|i| i.flow_control() != FlowControl::Call);
        let targets = jumps.map(Instruction::near_branch_target).collect();
        Self { code, targets }
    }

    /// The first place in a copy that is reached once each time that the function would have been called, before it
    /// stores anything at `unless` (distances from any register).
    ///
    /// # Errors
    /// When there is none.
    pub fn beginning(&self, copy: &InlinedCopy, unless: &[u32]) -> Result<CopySite, SiteError> {
        let begins = self.entry_of(copy).ok_or(SiteError::NoPlace)?;
        let line = self.line(begins).ok_or(SiteError::NoPlace)?;
        let before = line.iter().take_while(|i| !stores_to_any(i, unless));
        let emulated = before.clone().find(|i| is_emulated(i));
        let at = emulated.or_else(|| before.clone().next().filter(|i| can_be_stepped(i)));
        site(copy, at.ok_or(SiteError::NoPlace)?.ip())
    }

    /// The place behind the compare-and-swap by which a copy of `runtime.casgstatus` changes the status of a goroutine;
    /// none if it makes only changes that are of no interest.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn swap(&self, copy: &InlinedCopy, layout: &Layout) -> Result<Option<CopySite>, SiteError> {
        let swaps = |i: &&Instruction| {
            i.mnemonic() == Mnemonic::Cmpxchg
                && copy.contains(i.ip())
                && i.op0_kind() == OpKind::Memory
        };
        let mut all = self.code.iter().enumerate().filter(|(_, i)| swaps(i));
        let (Some((at, swap)), None) = (all.next(), all.next()) else {
            return Err(SiteError::NoPlace);
        };
        let (gp, new) = (swap.memory_base(), swap.op1_register());
        let expected = swap.code() == Code::Cmpxchg_rm32_r32
            && swap.has_lock_prefix()
            && is_field(swap, layout.g_atomicstatus);
        if !expected || full(gp) == full(new) {
            return Err(SiteError::unexpected(swap));
        }
        if self.changes(at, full(new)).is_some_and(is_of_no_interest) {
            return Ok(None);
        }
        let (site_at, if_zero) = self.behind_swap(at, gp, new).ok_or(SiteError::NoPlace)?;
        let (gp, new) = (word(gp).ok_or(SiteError::NoPlace)?, word(new).ok_or(SiteError::NoPlace)?);
        let found = site(copy, site_at)?;
        let inlined = found.inlined.with_argument(gp).with_swap(new, if_zero);
        Ok(Some(CopySite { inlined, ..found }))
    }

    /// The place behind a store to a field at this distance, or before a call of a function that begins at `callee`
    /// with the same as its first argument, in a copy that does one of these once.
    ///
    /// # Errors
    /// When there is none.
    pub fn store_or_call(
        &self,
        copy: &InlinedCopy,
        field: u32,
        callee: Option<u64>,
    ) -> Result<CopySite, SiteError> {
        let inside = || self.code.iter().enumerate().filter(|(_, i)| copy.contains(i.ip()));
        let calls = |i: &Instruction| {
            i.code() == Code::Call_rel32_64 && Some(i.near_branch_target()) == callee
        };
        let stores = |i: &Instruction| i.code() == Code::Mov_rm64_r64 && is_field(i, field);
        let mut all = inside().filter(|(_, i)| calls(i) || stores(i));
        let (Some((at, found)), None) = (all.next(), all.next()) else {
            return Err(SiteError::NoPlace);
        };
        let (address, register) = if calls(found) {
            (found.ip(), Register::RAX)
        } else {
            self.behind(at, found.op1_register()).ok_or(SiteError::NoPlace)?
        };
        with_argument(copy, address, register)
    }

    /// The place behind the only atomic store of 32 bits to a field at this distance: its argument is what has the field.
    ///
    /// # Errors
    /// When there is none.
    pub fn exchange(&self, copy: &InlinedCopy, field: u32) -> Result<CopySite, SiteError> {
        let exchanges = |i: &Instruction| {
            matches!(i.code(), Code::Xchg_rm32_r32) && is_field(i, field) && copy.contains(i.ip())
        };
        let mut all = self.code.iter().enumerate().filter(|(_, i)| exchanges(i));
        let (Some((at, found)), None) = (all.next(), all.next()) else {
            return Err(SiteError::NoPlace);
        };
        let (address, register) = self.behind(at, found.memory_base()).ok_or(SiteError::NoPlace)?;
        with_argument(copy, address, register)
    }

    /// The place behind the only call of a function that begins at `callee`, which returns what the kernel program needs.
    ///
    /// # Errors
    /// When there is none.
    pub fn result_of(&self, copy: &InlinedCopy, callee: u64) -> Result<CopySite, SiteError> {
        let calls =
            |i: &&Instruction| i.code() == Code::Call_rel32_64 && i.near_branch_target() == callee;
        let mut all = self.code.iter().enumerate().filter(|(_, i)| calls(i));
        let (Some((at, _)), None) = (all.next(), all.next()) else {
            return Err(SiteError::NoPlace);
        };
        let (address, register) = self.behind(at, Register::RAX).ok_or(SiteError::NoPlace)?;
        with_argument(copy, address, register)
    }

    /// The jump by which the caller of a copy goes elsewhere if that has returned nil, in the only place where it goes on by
    /// reading a field at this distance from what was returned: its argument is what was returned.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn nil_check(&self, copy: &InlinedCopy, field: u32) -> Result<CopySite, SiteError> {
        let mut all = self.code.windows(3).filter_map(|window| {
            let [test, jump, next] = window else { return None };
            let value = test.op0_register();
            let tests = test.code() == Code::Test_rm64_r64
                && test.op0_kind() == OpKind::Register
                && test.op1_register() == value;
            let reads = next.memory_base() == value
                && next.memory_index() == Register::None
                && next.memory_displacement64() == u64::from(field);
            let is_caller = [test, jump].iter().all(|i| !copy.contains(i.ip()));
            let is_it = tests && reads && is_caller && jump.mnemonic() == Mnemonic::Je;
            (is_it && !self.targets.contains(&jump.ip())).then_some((jump.ip(), value))
        });
        let (Some((address, value)), None) = (all.next(), all.next()) else {
            return Err(SiteError::NoPlace);
        };
        with_argument(copy, address, value)
    }

    /// Whether the instruction at this address is always executed before a function that begins at `callee` is called,
    /// and before a compare-and-swap.
    pub fn is_passed_before(&self, address: u64, callee: Option<u64>) -> bool {
        let place = self.places();
        let Some(&at) = place.get(&address) else { return false };
        let reached = self.reachable(&place, Some(at));
        let mut all = self.code.iter().zip(reached);
        !all.any(|(i, reached)| {
            let calls = i.code() == Code::Call_rel32_64 && Some(i.near_branch_target()) == callee;
            reached && (calls || i.mnemonic() == Mnemonic::Cmpxchg)
        })
    }

    /// Which instruction is at an address.
    fn places(&self) -> FxHashMap<u64, usize> {
        self.code.iter().enumerate().map(|(i, instruction)| (instruction.ip(), i)).collect()
    }

    /// The place behind the atomic addition to a field of a variable, in a copy that also takes the variable's address: its
    /// argument is the address of the field.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn addition(&self, copy: &InlinedCopy, field: u32) -> Result<CopySite, SiteError> {
        let inside = || self.code.iter().enumerate().filter(|(_, i)| copy.contains(i.ip()));
        let taken: FxHashSet<u64> = inside().filter_map(|(_, i)| address_taken(i)).collect();
        let adds = |&(at, i): &(usize, &Instruction)| {
            let to_field = || {
                let address = self.address_in(at, i.memory_base())?;
                taken.contains(&address.wrapping_sub(field.into())).then_some(())
            };
            i.code() == Code::Xadd_rm64_r64
                && i.has_lock_prefix()
                && is_field(i, 0)
                && to_field().is_some()
        };
        let mut all = inside().filter(adds);
        let (Some((at, found)), None) = (all.next(), all.next()) else {
            return Err(SiteError::NoPlace);
        };
        let (address, register) = self.behind(at, found.memory_base()).ok_or(SiteError::NoPlace)?;
        with_argument(copy, address, register)
    }

    /// The constant address that a register holds at an instruction.
    fn address_in(&self, at: usize, register: Register) -> Option<u64> {
        let mut info = InstructionInfoFactory::new();
        for i in (at.saturating_sub(MAX_LINE)..at).rev() {
            let instruction = &self.code[i];
            if self.targets.contains(&self.code[i + 1].ip())
                || instruction.flow_control() != FlowControl::Next
            {
                return None;
            }
            if written(&mut info, instruction).contains(&register) {
                return address_taken(instruction);
            }
        }
        None
    }

    /// The instructions from this one on that are executed one after the other, whatever happens, the last of which may
    /// be a call or a jump; none if nothing leads there.
    fn line(&self, from: usize) -> Option<&[Instruction]> {
        let rest = self.code.get(from..)?;
        let mut len = 0;
        for instruction in rest.iter().take(MAX_LINE) {
            if len > 0 && self.targets.contains(&instruction.ip()) {
                break;
            }
            len += 1;
            if instruction.flow_control() != FlowControl::Next {
                break;
            }
        }
        rest.get(..len).filter(|line| !line.is_empty())
    }

    /// A place behind an instruction at which a value that is in a register then still is in one.
    fn behind(&self, at: usize, value: Register) -> Option<(u64, Register)> {
        let next = self.code.get(at + 1)?;
        if self.targets.contains(&next.ip()) {
            return None;
        }
        let mut holders = FxHashSet::from_iter([value]);
        let mut info = InstructionInfoFactory::new();
        for instruction in self.line(at + 1)? {
            if is_emulated(instruction) {
                let mut all: Vec<Register> = holders.iter().copied().collect();
                all.sort_unstable();
                return all.first().map(|&register| (instruction.ip(), register));
            }
            if instruction.code() == Code::Mov_rm64_r64 || instruction.code() == Code::Mov_r64_rm64
            {
                let (to, from) = (instruction.op0_register(), instruction.op1_register());
                let both = instruction.op0_kind() == OpKind::Register
                    && instruction.op1_kind() == OpKind::Register;
                if both && holders.contains(&from) {
                    holders.insert(to);
                    continue;
                }
            }
            for written in written(&mut info, instruction) {
                holders.remove(&written);
            }
            if holders.is_empty() {
                break;
            }
        }
        can_be_stepped(next).then(|| (next.ip(), value))
    }

    /// A place behind a compare-and-swap at which its registers are still as they were, and whether the zero flag
    /// tells by being set, or by not being set, that it has changed something.
    fn behind_swap(&self, at: usize, gp: Register, new: Register) -> Option<(u64, bool)> {
        let next = self.code.get(at + 1)?;
        if self.targets.contains(&next.ip()) {
            return None;
        }
        let needed = [full(gp), full(new), Register::RAX];
        let mut info = InstructionInfoFactory::new();
        // What the zero flag says, and which register has been set to 1 by a change and to 0 otherwise.
        let (mut if_zero, mut result) = (true, None);
        for instruction in self.line(at + 1)? {
            if instruction.is_jcc_short_or_near() {
                return Some((instruction.ip(), if_zero));
            }
            let register = full(instruction.op0_register());
            let sets_result = instruction.mnemonic() == Mnemonic::Sete
                && instruction.op0_kind() == OpKind::Register
                && if_zero;
            let tests_result = instruction.code() == Code::Test_rm8_r8
                && instruction.op0_kind() == OpKind::Register
                && instruction.op0_register() == instruction.op1_register()
                && result == Some(register);
            let writes = written(&mut info, instruction);
            if writes.iter().any(|written| needed.contains(written)) {
                break;
            }
            if tests_result {
                if_zero = false;
            } else if instruction.rflags_modified() & RflagsBits::ZF != 0 {
                break;
            }
            if sets_result {
                result = Some(register);
            } else if result.is_some_and(|result| writes.contains(&result)) {
                result = None;
            }
            if instruction.flow_control() != FlowControl::Next {
                break;
            }
        }
        can_be_stepped(next).then(|| (next.ip(), true))
    }

    /// The status that a compare-and-swap expects, and the one that it sets, if both are constants.
    fn changes(&self, at: usize, new: Register) -> Option<(u64, u64)> {
        let mut info = InstructionInfoFactory::new();
        let mut constants: FxHashMap<Register, u64> = FxHashMap::default();
        let mut unknown: FxHashSet<Register> = FxHashSet::default();
        for i in (at.saturating_sub(MAX_LINE)..at).rev() {
            // What lies before a place that something jumps to need not have happened.
            if self.targets.contains(&self.code[i + 1].ip()) {
                break;
            }
            let instruction = &self.code[i];
            if instruction.flow_control() != FlowControl::Next {
                break;
            }
            for register in written(&mut info, instruction) {
                if constants.contains_key(&register) || !unknown.insert(register) {
                    continue;
                }
                let value = match instruction.code() {
                    Code::Mov_r32_imm32 => Some(u64::from(instruction.immediate32())),
                    Code::Xor_rm32_r32 | Code::Xor_r32_rm32
                        if instruction.op0_register() == instruction.op1_register() =>
                    {
                        Some(0)
                    }
                    _ => None,
                };
                if let Some(value) = value {
                    constants.insert(register, value);
                }
            }
        }
        Some((*constants.get(&Register::RAX)?, *constants.get(&new)?))
    }

    /// The instruction of a copy through which every way into it leads, and to which none leads back from within it.
    fn entry_of(&self, copy: &InlinedCopy) -> Option<usize> {
        let inside = |i: usize| copy.contains(self.code[i].ip());
        let place = self.places();
        let all = self.reachable(&place, None);
        let first = |&i: &usize| {
            let without = self.reachable(&place, Some(i));
            (0..self.code.len()).all(|j| i == j || !inside(j) || !without[j])
        };
        let jumps = |i: &Instruction| {
            let jumps =
                i.op0_kind() == OpKind::NearBranch64 && i.flow_control() != FlowControl::Call;
            jumps.then(|| i.near_branch_target())
        };
        let from_outside: FxHashSet<u64> =
            self.code.iter().filter(|i| !copy.contains(i.ip())).filter_map(jumps).collect();
        let enters = |&i: &usize| {
            let falls_in = i == 0 || all[i - 1] && !inside(i - 1);
            inside(i) && all[i] && (falls_in || from_outside.contains(&self.code[i].ip()))
        };
        // Each of the others would have to be looked at for its own.
        let begins = (0..self.code.len()).filter(enters).take(MAX_ENTRIES).find(first)?;
        let leads_back = |(i, instruction): (usize, &Instruction)| {
            inside(i)
                && instruction.op0_kind() == OpKind::NearBranch64
                && instruction.near_branch_target() == self.code[begins].ip()
        };
        (!self.code.iter().enumerate().any(leads_back)).then_some(begins)
    }

    /// Which instructions can be reached from the first one, without passing one of them.
    fn reachable(&self, place: &FxHashMap<u64, usize>, without: Option<usize>) -> Vec<bool> {
        let mut reached = vec![false; self.code.len()];
        let mut next = vec![0];
        while let Some(i) = next.pop() {
            if Some(i) == without || i >= reached.len() || std::mem::replace(&mut reached[i], true)
            {
                continue;
            }
            let instruction = &self.code[i];
            let jumps = instruction.op0_kind() == OpKind::NearBranch64
                && instruction.flow_control() != FlowControl::Call;
            if jumps && let Some(&target) = place.get(&instruction.near_branch_target()) {
                next.push(target);
            }
            let goes_on = !matches!(
                instruction.flow_control(),
                FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::Exception
            );
            if goes_on {
                next.push(i + 1);
            }
        }
        reached
    }
}

fn site(copy: &InlinedCopy, address: u64) -> Result<CopySite, SiteError> {
    // As if it returned behind the place of the call, whose line that of the caller is.
    let returns_to = copy.call.wrapping_add(1);
    let inlined = Inlined::new(returns_to.wrapping_sub(address).cast_signed());
    inlined.map(|inlined| CopySite { address, inlined }).ok_or(SiteError::NoPlace)
}

fn with_argument(
    copy: &InlinedCopy,
    address: u64,
    register: Register,
) -> Result<CopySite, SiteError> {
    let place = site(copy, address)?;
    let register = word(register).ok_or(SiteError::NoPlace)?;
    Ok(CopySite { inlined: place.inlined.with_argument(register), ..place })
}

/// Whether a change of status is recorded otherwise, or not at all.
fn is_of_no_interest((old, new): (u64, u64)) -> bool {
    let [running, syscall, copystack, idle] =
        [status::RUNNING, status::SYSCALL, status::COPYSTACK, status::IDLE].map(u64::from);
    (old, new) == (running, syscall)
        || (old, new) == (syscall, running)
        || old == copystack
        || new == copystack
        || old == idle
}

/// The address that a `lea` takes of a variable.
fn address_taken(instruction: &Instruction) -> Option<u64> {
    let takes = instruction.code() == Code::Lea_r64_m && instruction.is_ip_rel_memory_operand();
    takes.then(|| instruction.ip_rel_memory_address())
}

/// Whether an operand in memory is a field at this distance from where a register points to.
fn is_field(instruction: &Instruction, offset: u32) -> bool {
    let stack = [Register::RSP, Register::RBP, Register::RIP, Register::None];
    instruction.op0_kind() == OpKind::Memory
        && !stack.contains(&instruction.memory_base())
        && instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None
        && instruction.memory_displacement64() == u64::from(offset)
}

fn stores_to_any(instruction: &Instruction, offsets: &[u32]) -> bool {
    let reads_only = matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test);
    !reads_only && offsets.iter().any(|&offset| is_field(instruction, offset))
}

/// Whether the kernel does what the instruction does, and needs not step over a copy of it
/// (arch/x86/kernel/uprobes.c: `branch_setup_xol_ops`, `push_setup_xol_ops`).
fn is_emulated(instruction: &Instruction) -> bool {
    let push = matches!(instruction.code(), Code::Push_r64);
    let jump = matches!(
        instruction.code(),
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 | Code::Call_rel32_64 | Code::Nopd
    );
    push || jump
        || instruction.is_jcc_short_or_near() && instruction.condition_code() != ConditionCode::None
}

/// Whether the kernel can step over a copy of it, which it refuses of some, and which nothing else can notice.
fn can_be_stepped(instruction: &Instruction) -> bool {
    let plain = matches!(
        instruction.mnemonic(),
        Mnemonic::Mov
            | Mnemonic::Movzx
            | Mnemonic::Lea
            | Mnemonic::Test
            | Mnemonic::Cmp
            | Mnemonic::Xor
            | Mnemonic::Inc
            | Mnemonic::Add
            | Mnemonic::Sub
            | Mnemonic::And
            | Mnemonic::Or
            | Mnemonic::Sete
            | Mnemonic::Setne
    );
    plain && !instruction.has_lock_prefix() && instruction.segment_prefix() == Register::None
}

/// The 64-bit register of which this one is a part.
fn full(register: Register) -> Register {
    register.full_register()
}

/// All registers that an instruction changes.
fn written(info: &mut InstructionInfoFactory, instruction: &Instruction) -> Vec<Register> {
    let used = info.info(instruction).used_registers().iter();
    let written = used.filter(|used| !matches!(used.access(), OpAccess::Read | OpAccess::CondRead));
    written.map(|used| full(used.register())).collect()
}

/// Which word of `pt_regs` has a register (arch/x86/include/asm/ptrace.h).
fn word(register: Register) -> Option<u32> {
    const ORDER: [Register; 15] = [
        Register::R15,
        Register::R14,
        Register::R13,
        Register::R12,
        Register::RBP,
        Register::RBX,
        Register::R11,
        Register::R10,
        Register::R9,
        Register::R8,
        Register::RAX,
        Register::RCX,
        Register::RDX,
        Register::RSI,
        Register::RDI,
    ];
    let at = ORDER.iter().position(|&known| known == full(register))?;
    u32::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;
    use crate::target::go::layout;

    const START: u64 = 0x40_0000;
    /// mov $4,%eax; mov $1,%r11d; lock cmpxchg %r11d,0x90(%r10); sete %r12b; test %r12b,%r12b; jne +0
    const SWAP: &[u8] = &[
        0xb8, 4, 0, 0, 0, 0x41, 0xbb, 1, 0, 0, 0, 0xf0, 0x45, 0x0f, 0xb1, 0x9a, 0x90, 0, 0, 0,
        0x41, 0x0f, 0x94, 0xc4, 0x45, 0x84, 0xe4, 0x75, 0,
    ];
    const CMPXCHG: usize = 11;
    const SETE: u64 = START + 20;
    const JNE: u64 = START + 27;

    fn layout() -> Layout {
        Layout { g_atomicstatus: 0x90, ..layout::newest().layout }
    }

    fn holder(code: &[u8]) -> (Holder, InlinedCopy) {
        let end = START + code.len() as u64;
        let decoder = Decoder::with_ip(64, code, START, DecoderOptions::NONE);
        let copy = InlinedCopy {
            function: "runtime.casgstatus".to_owned(),
            holder: "runtime.ready".to_owned(),
            within: (START, end),
            call: START,
            ranges: vec![(START, end)],
        };
        (Holder::new(decoder.into_iter().collect()), copy)
    }

    fn swap(code: &[u8]) -> Result<Option<CopySite>, SiteError> {
        let (holder, copy) = holder(code);
        holder.swap(&copy, &layout())
    }

    #[test]
    fn the_place_is_the_jump_behind_a_change_of_status() {
        let found = swap(SWAP).expect("a place").expect("of interest");
        assert_eq!(found.address, JNE);
        // Words of r10 and r11 in pt_regs.
        assert_eq!((found.inlined.argument(), found.inlined.new_value()), (7, 6));
        assert!(!found.inlined.swapped_if_zero());
        assert_eq!(JNE.wrapping_add_signed(found.inlined.call()), START + 1);
    }

    #[test]
    fn a_jump_on_the_result_itself_needs_no_test() {
        let code = [&SWAP[..20], &[0x75, 0]].concat();
        let found = swap(&code).expect("a place").expect("of interest");
        assert_eq!(found.address, SETE);
        assert!(found.inlined.swapped_if_zero());
    }

    #[test]
    fn a_register_that_is_overwritten_is_not_read_behind_that() {
        // The result goes into the register of the new status, or of the goroutine.
        for result in [0xc3, 0xc2] {
            let mut code = SWAP.to_vec();
            code[23] = result;
            let found = swap(&code).expect("a place").expect("of interest");
            assert_eq!(found.address, SETE, "before it is overwritten");
            assert!(found.inlined.swapped_if_zero());
        }
        // xor %r10d,%r10d in place of the test.
        let mut code = SWAP.to_vec();
        code[24..27].copy_from_slice(&[0x45, 0x31, 0xd2]);
        assert_eq!(swap(&code).expect("a place").expect("of interest").address, SETE);
    }

    #[test]
    fn a_jump_from_elsewhere_ends_the_line() {
        // jmp back to the test, or to the instruction behind the change.
        let to_test = [SWAP, &[0xeb, (24i8 - 31) as u8]].concat();
        assert_eq!(swap(&to_test).expect("a place").expect("of interest").address, SETE);
        let to_result = [SWAP, &[0xeb, (20i8 - 31) as u8]].concat();
        assert_eq!(swap(&to_result), Err(SiteError::NoPlace));
    }

    #[test]
    fn changes_that_are_seen_elsewhere_have_no_place() {
        let with = |old: u8, new: u8| {
            let mut code = SWAP.to_vec();
            (code[1], code[7]) = (old, new);
            swap(&code).map(|site| site.is_some())
        };
        assert_eq!(with(status::RUNNING, status::SYSCALL), Ok(false));
        assert_eq!(with(status::SYSCALL, status::RUNNING), Ok(false));
        assert_eq!(with(status::SYSCALL, status::RUNNABLE), Ok(true));
        assert_eq!(with(status::RUNNING, status::WAITING), Ok(true));
    }

    #[test]
    fn everything_else_is_refused() {
        // Another field; without lock; relative to the stack pointer; twice.
        let mut other = SWAP.to_vec();
        other[CMPXCHG + 5] = 0x98;
        let mut unlocked = SWAP.to_vec();
        unlocked[CMPXCHG] = 0x90;
        let twice = [SWAP, SWAP].concat();
        for code in [&other[..], &unlocked, &twice, &SWAP[..CMPXCHG]] {
            assert!(swap(code).is_err(), "{code:x?}");
        }
    }

    #[test]
    fn the_beginning_is_where_every_way_leads_through() {
        // xor %eax,%eax; mov %rax,(%rbx); cmp $1,%eax; je +1; nop; ret
        let code = [0x31, 0xc0, 0x48, 0x89, 0x03, 0x83, 0xf8, 1, 0x74, 1, 0x90, 0xc3];
        let (holder, mut copy) = holder(&code);
        copy.ranges = vec![(START + 2, START + 11)];
        let at = |unless: &[u32]| holder.beginning(&copy, unless).map(|site| site.address);
        assert_eq!(at(&[]), Ok(START + 8), "the jump is emulated");
        assert_eq!(at(&[0]), Err(SiteError::NoPlace), "it comes behind a store");
        // Only one of two ways leads through it.
        copy.ranges = vec![(START + 10, START + 11)];
        assert_eq!(holder.beginning(&copy, &[]).map(|site| site.address), Ok(START + 10));
        copy.ranges = vec![(START + 8, START + 9), (START + 10, START + 11)];
        assert_eq!(holder.beginning(&copy, &[]).map(|site| site.address), Ok(START + 8));
    }

    #[test]
    fn a_loop_that_leads_back_to_the_beginning_would_count_more_than_once() {
        // cmp $1,%eax; je -5
        let (holder, copy) = holder(&[0x83, 0xf8, 1, 0x74, (-5i8) as u8]);
        assert_eq!(holder.beginning(&copy, &[]), Err(SiteError::NoPlace));
    }

    #[test]
    fn an_addition_to_a_field_is_told_from_others_by_the_address_of_the_variable() {
        // lea 0x68(variable),%r8; lock xadd %rsi,(%r8); je +0; lea 0x70(variable),%rcx; lock xadd %rdi,(%rcx);
        // lea variable,%rax
        let code = [
            0x4c, 0x8d, 0x05, 0x61, 0x01, 0, 0, 0xf0, 0x49, 0x0f, 0xc1, 0x30, 0x74, 0, 0x48, 0x8d,
            0x0d, 0x5b, 0x01, 0, 0, 0xf0, 0x48, 0x0f, 0xc1, 0x39, 0x48, 0x8d, 0x05, 0xdf, 0, 0, 0,
        ];
        let (holder, copy) = holder(&code);
        let found = holder.addition(&copy, 0x68).expect("a place");
        assert_eq!(found.address, START + 12);
        assert_eq!(found.inlined.argument(), 9, "r8");
        assert_eq!(holder.addition(&copy, 0x60), Err(SiteError::NoPlace));
    }

    #[test]
    fn a_returned_nil_is_looked_for_behind_the_copy() {
        // nop; test %rcx,%rcx; je +5; movzx 0x60(%rcx),%edx; nop
        let code = [0x90, 0x48, 0x85, 0xc9, 0x74, 5, 0x0f, 0xb7, 0x51, 0x60, 0x90];
        let (holder, mut copy) = holder(&code);
        copy.ranges = vec![(START, START + 1)];
        let found = holder.nil_check(&copy, 0x60).expect("a place");
        assert_eq!((found.address, found.inlined.argument()), (START + 4, 11), "rcx");
        assert_eq!(holder.nil_check(&copy, 0x62), Err(SiteError::NoPlace), "another field");
        // It is a check of the copy's own.
        copy.ranges = vec![(START, START + 6)];
        assert_eq!(holder.nil_check(&copy, 0x60), Err(SiteError::NoPlace));
        // Which of two it is, nobody knows.
        let (holder, mut copy) = self::holder(&[code, code].concat());
        copy.ranges = vec![(START, START + 1)];
        assert_eq!(holder.nil_check(&copy, 0x60), Err(SiteError::NoPlace));
    }

    #[test]
    fn a_value_is_followed_from_register_to_register() {
        // call +0; mov %rax,%rcx; xor %eax,%eax; je +0
        let code = [0xe8, 0, 0, 0, 0, 0x48, 0x89, 0xc1, 0x31, 0xc0, 0x74, 0];
        let (holder, copy) = holder(&code);
        let found = holder.result_of(&copy, START + 5).expect("a place");
        assert_eq!(found.address, START + 10);
        assert_eq!(found.inlined.argument(), 11, "rcx");
    }
}
