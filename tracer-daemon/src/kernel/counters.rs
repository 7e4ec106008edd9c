//! Reading the counters of the kernel programs.

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use tracer_common::EventKind;

use super::{KernelError, take_map};
use crate::counts::{Counts, KindCounts};

pub(super) struct Counters {
    produced: PerCpuArray<MapData, u64>,
    no_room: PerCpuArray<MapData, u64>,
    unreadable: PerCpuArray<MapData, u64>,
}

impl Counters {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let mut array = |map: &'static str| {
            PerCpuArray::try_from(take_map(ebpf, map)?)
                .map_err(|e| KernelError::Map { map, reason: e.to_string() })
        };
        Ok(Self {
            produced: array("PRODUCED")?,
            no_room: array("NO_ROOM")?,
            unreadable: array("UNREADABLE")?,
        })
    }

    pub(super) fn read(&self) -> Result<Counts, KernelError> {
        let mut counts = Counts::default();
        let sum = |array: &PerCpuArray<MapData, u64>, kind: EventKind, map: &'static str| {
            array
                .get(&(kind as u32), 0)
                .map(|values| values.iter().sum::<u64>())
                .map_err(|e| KernelError::Map { map, reason: e.to_string() })
        };
        for &kind in EventKind::ALL {
            // What is a part of the whole is read before the whole, so that it is never more.
            let no_room = sum(&self.no_room, kind, "NO_ROOM")?;
            let unreadable = sum(&self.unreadable, kind, "UNREADABLE")?;
            let produced = sum(&self.produced, kind, "PRODUCED")?;
            counts.0[kind as usize] = KindCounts { produced, no_room, unreadable };
        }
        Ok(counts)
    }
}
