//! Stacks of the kernel itself, where threads leave the CPU.

use std::{collections::BTreeMap, sync::Arc};

use aya::{
    Ebpf,
    maps::{MapData, StackTraceMap},
    util::kernel_symbols,
};

use super::{KernelError, take_map};

/// The function that calls the tracepoint of a switch: what it calls is the recording itself.
const SWITCH: &str = "__schedule";

/// A return address in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFrame {
    /// Name of the function; `[unknown]` if the kernel does not tell.
    pub function: Arc<str>,
    /// The address.
    pub address: u64,
}

/// The stacks that kernel programs recorded, by number.
pub struct KernelStacks {
    map: StackTraceMap<MapData>,
    /// Start addresses of functions; read when they are first needed.
    symbols: Option<BTreeMap<u64, String>>,
}

impl KernelStacks {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        const MAP: &str = "KERNEL_STACKS_SEEN";
        let map = StackTraceMap::try_from(take_map(ebpf, MAP)?)
            .map_err(|e| KernelError::Map { map: MAP, reason: e.to_string() })?;
        Ok(Self { map, symbols: None })
    }

    /// The frames of a stack, innermost first; none if it is not in the map.
    pub fn frames(&mut self, id: u32) -> Vec<KernelFrame> {
        let Ok(stack) = self.map.get(&id, 0) else {
            return Vec::new();
        };
        let symbols = self.symbols.get_or_insert_with(|| {
            kernel_symbols().unwrap_or_else(|error| {
                tracing::warn!("kernel functions have no names: {error}");
                BTreeMap::new()
            })
        });
        let name = |address: u64| {
            // Hidden addresses are all 0.
            let symbol = symbols.range(1..=address.checked_sub(1)?).next_back()?;
            Some(Arc::from(symbol.1.as_str()))
        };
        let frames = stack.frames().iter().map(|frame| KernelFrame {
            function: name(frame.ip).unwrap_or_else(|| "[unknown]".into()),
            address: frame.ip,
        });
        let mut frames: Vec<_> = frames.collect();
        let switch = frames.iter().position(|frame| &*frame.function == SWITCH);
        frames.drain(..switch.unwrap_or(0));
        frames
    }
}
