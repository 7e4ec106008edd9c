//! Reading the counters of the kernel programs.

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use tracer_common::{Counters as Raw, EventKind};

use super::{KernelError, take_map};
use crate::counts::{Arrivals, Counts, KindCounts};

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
    pub(super) fn read(&self) -> Result<(Counts, Arrivals), KernelError> {
        let (mut counts, mut submitted) = (Counts::default(), Arrivals::default());
        let cpus = self.0.get(&0, 0).map_err(|e| failed(&e))?;
        for (number, CountersValue(cpu)) in cpus.iter().enumerate() {
            for &kind in EventKind::ALL {
                let index = kind as usize;
                let of_cpu = KindCounts {
                    produced: cpu.produced[index],
                    no_room: cpu.no_room[index],
                    unreadable: cpu.unreadable[index],
                };
                let sum = &mut counts.0[index];
                sum.produced += of_cpu.produced;
                sum.no_room += of_cpu.no_room;
                sum.unreadable += of_cpu.unreadable;
                submitted.add(number, kind, of_cpu.submitted());
            }
        }
        Ok((counts, submitted))
    }
}

fn failed(error: &dyn std::fmt::Display) -> KernelError {
    KernelError::Map { map: MAP, reason: error.to_string() }
}
