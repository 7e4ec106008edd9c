//! Where the runtime's variables are. They are in the symbol table; a program without one still has
//! the functions that use them, and in those the addresses.

use std::collections::BTreeSet;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

use super::{Executable, Functions};

/// More code than the functions have that are looked at.
const MAX_CODE: u64 = 64 << 10;

/// Addresses in the file at which variables of the runtime may be: the right one first if it is known
/// from the symbol table, otherwise whatever the code points at. What is there must be verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    /// `runtime.allgs`: a slice of all goroutines.
    pub allgs: Vec<u64>,
    /// `runtime.allp`: a slice of all Ps.
    pub allp: Vec<u64>,
    /// `runtime.gcController`.
    pub gc_controller: Vec<u64>,
    /// What decides whether allocations are sampled, if it was found.
    pub profile: Option<Profile>,
}

/// Bytes for each sample, unless the program sets another rate (runtime.MemProfileRate).
const DEFAULT_RATE: u32 = 512 << 10;

/// Variables of the runtime's memory profiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// `runtime.disableMemoryProfiling` (a byte): the linker sets it in a program that does not ask for the profile.
    pub disabled: u64,
    /// `runtime.MemProfileRate` (a word): set to 0 then, when the program begins. None before Go 1.21, where it is 0 until
    /// the program begins.
    pub rate: Option<u64>,
}

impl Globals {
    /// Looks for them.
    pub fn find(elf: &Executable<'_>, functions: &Functions) -> Self {
        let symbols = elf.symbols(&["runtime.allgs", "runtime.allp", "runtime.gcController"]);
        let mut globals = Self::from_code(elf, functions);
        for (name, addresses) in [
            ("runtime.allgs", &mut globals.allgs),
            ("runtime.allp", &mut globals.allp),
            ("runtime.gcController", &mut globals.gc_controller),
        ] {
            if let Some(&address) = symbols.get(name) {
                *addresses = vec![address];
            }
        }
        globals
    }

    fn from_code(elf: &Executable<'_>, functions: &Functions) -> Self {
        let operands = |function| Operands::of(elf, functions, function);
        let commit = operands("runtime.gcControllerCommit").taken;
        let init = operands("runtime.gcinit").taken;
        Self {
            allgs: operands("runtime.allgadd").slices(),
            allp: operands("runtime.procresize").slices(),
            gc_controller: commit.intersection(&init).copied().collect(),
            profile: profile(elf, functions),
        }
    }
}

/// From `if disableMemoryProfiling { MemProfileRate = 0 }` in `schedinit`, before Go 1.21 from the value that `init` gives
/// `MemProfileRate`.
fn profile(elf: &Executable<'_>, functions: &Functions) -> Option<Profile> {
    let instructions = |function| {
        let (start, end) = functions.range(function)?;
        let code = elf.bytes_at(start, end.checked_sub(start)?.min(MAX_CODE))?;
        let decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
        Some(decoder.into_iter().collect::<Vec<_>>())
    };
    let zero = |instruction: &Instruction, code: Code| {
        (instruction.code() == code
            && instruction.is_ip_rel_memory_operand()
            && instruction.immediate(1) == 0)
            .then(|| instruction.ip_rel_memory_address())
    };
    let is_reset = |three: &[Instruction]| {
        let [test, skip, set] = three else { return None };
        let skips_it =
            skip.mnemonic() == Mnemonic::Je && skip.near_branch_target() == set.next_ip();
        let disabled = zero(test, Code::Cmp_rm8_imm8).filter(|_| skips_it)?;
        Some(Profile { disabled, rate: Some(zero(set, Code::Mov_rm64_imm32)?) })
    };
    let is_default = |three: &[Instruction]| {
        let [load, test, set] = three else { return None };
        let is_it = load.mnemonic() == Mnemonic::Movzx
            && load.is_ip_rel_memory_operand()
            && test.mnemonic() == Mnemonic::Test
            && set.mnemonic() == Mnemonic::Mov
            && set.op1_kind() == OpKind::Immediate32
            && set.immediate32() == DEFAULT_RATE;
        is_it.then(|| Profile { disabled: load.ip_rel_memory_address(), rate: None })
    };
    let reset = || instructions("runtime.schedinit")?.windows(3).find_map(is_reset);
    let default = || instructions("runtime.init")?.windows(3).find_map(is_default);
    // Which `init` calls where nothing is inlined.
    let function = || {
        let instructions = instructions("runtime.defaultMemProfileRate")?;
        let disabled = zero(instructions.first()?, Code::Cmp_rm8_imm8)?;
        Some(Profile { disabled, rate: None })
    };
    reset().or_else(default).or_else(function)
}

/// Addresses that a function uses.
#[derive(Default)]
pub(super) struct Operands {
    /// Of which it reads or writes what is there.
    pub used: BTreeSet<u64>,
    /// Which it takes, to pass them on.
    taken: BTreeSet<u64>,
}

impl Operands {
    pub fn of(elf: &Executable<'_>, functions: &Functions, function: &str) -> Self {
        let mut operands = Self::default();
        let Some((start, end)) = functions.range(function) else {
            return operands;
        };
        let Some(code) = elf.bytes_at(start, end.saturating_sub(start).min(MAX_CODE)) else {
            return operands;
        };
        let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            let in_memory = (0..instruction.op_count())
                .any(|operand| instruction.op_kind(operand) == OpKind::Memory);
            if !in_memory || !instruction.is_ip_rel_memory_operand() {
                continue;
            }
            let address = instruction.ip_rel_memory_address();
            if instruction.mnemonic() == Mnemonic::Lea {
                operands.taken.insert(address);
            } else {
                operands.used.insert(address);
            }
        }
        operands
    }

    /// Those where a slice may be: pointer, length and capacity are used.
    fn slices(&self) -> Vec<u64> {
        let used = |address: u64| self.used.contains(&address) || self.taken.contains(&address);
        let is_slice = |&&address: &&u64| {
            [8, 16].iter().all(|offset| address.checked_add(*offset).is_some_and(used))
        };
        self.used.iter().filter(is_slice).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use tracer_tests::go::Go;

    use super::*;
    use crate::target::{ElfFile, go};

    #[test]
    fn code_tells_what_the_symbol_table_tells() {
        for minor in Go::minors() {
            let path = Go::of(minor).and_then(|go| go.build("daisy")).expect("it compiles");
            let file = ElfFile::open(&path).expect("readable");
            let elf = file.parse().expect("an executable");
            let version = go::version(&elf).expect("a Go program");
            let runtime = go::GoRuntime::read(&elf, &version).expect("a known version");
            let known = Globals::find(&elf, &runtime.functions);
            let found = Globals::from_code(&elf, &runtime.functions);
            assert_eq!(found.allgs, known.allgs, "{minor}");
            assert_eq!((known.allp.len(), known.gc_controller.len()), (1, 1), "{minor}");
            assert!(found.allp.contains(&known.allp[0]), "{minor}");
            assert!(found.gc_controller.contains(&known.gc_controller[0]), "{minor}");
            let names = ["runtime.MemProfileRate", "runtime.disableMemoryProfiling"];
            let [rate, disabled] = names.map(|name| elf.symbols(&[name])[name]);
            let rate = (minor != "1.19").then_some(rate);
            assert_eq!(found.profile, Some(Profile { disabled, rate }), "{minor}");
            assert!(found.allp.len() < 10 && found.gc_controller.len() < 10, "{minor}: {found:?}");
        }
    }
}
