//! Reading the counters of the kernel programs.

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use tracer_common::{Counters as Raw, EventKind};

use super::{KernelError, take_map};
use crate::counts::Counts;

const MAP: &str = "COUNTERS";

/// The counters of one CPU.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct CountersValue(Raw);

// SAFETY: repr(transparent) over a repr(C) struct of arrays of u64, without padding.
unsafe impl aya::Pod for CountersValue {}

pub(super) struct Counters(PerCpuArray<MapData, CountersValue>);

impl Counters {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        PerCpuArray::try_from(take_map(ebpf, MAP)?).map(Self).map_err(|e| failed(&e))
    }

    /// All of them in one system call: they are read often.
    pub(super) fn read(&self) -> Result<Counts, KernelError> {
        let mut counts = Counts::default();
        for CountersValue(cpu) in self.0.get(&0, 0).map_err(|e| failed(&e))?.iter() {
            for kind in EventKind::ALL.iter().map(|&kind| kind as usize) {
                let sum = &mut counts.0[kind];
                sum.no_room += cpu.no_room[kind];
                sum.unreadable += cpu.unreadable[kind];
                sum.produced += cpu.produced[kind];
            }
        }
        Ok(counts)
    }
}

fn failed(error: &dyn std::fmt::Display) -> KernelError {
    KernelError::Map { map: MAP, reason: error.to_string() }
}
