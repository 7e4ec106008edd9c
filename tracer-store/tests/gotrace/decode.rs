//! Reads Go execution traces: the wire format, as Go's `src/internal/trace/tracev2/events.go` describes it.

use std::collections::HashMap;

/// An event as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub time: u64,
    pub kind: u8,
    pub args: Vec<u64>,
}

/// A frame: address, function, file, line.
pub type Frame = (u64, String, String, u64);

/// A part of a file.
#[derive(Debug, Default)]
pub struct Generation {
    pub number: u64,
    /// Events of each thread, in order.
    pub events: Vec<(u64, Vec<Event>)>,
    pub strings: HashMap<u64, String>,
    pub stacks: HashMap<u64, Vec<Frame>>,
    pub frequency: u64,
}

/// Name and number of arguments (without the time) of each kind of event that has a time.
pub const KINDS: &[(u8, &str, usize)] = &[
    (9, "ProcsChange", 2),
    (10, "ProcStart", 2),
    (11, "ProcStop", 0),
    (12, "ProcSteal", 3),
    (13, "ProcStatus", 2),
    (14, "GoCreate", 3),
    (15, "GoCreateSyscall", 1),
    (16, "GoStart", 2),
    (17, "GoDestroy", 0),
    (18, "GoDestroySyscall", 0),
    (19, "GoStop", 2),
    (20, "GoBlock", 2),
    (21, "GoUnblock", 3),
    (22, "GoSyscallBegin", 2),
    (23, "GoSyscallEnd", 0),
    (24, "GoSyscallEndBlocked", 0),
    (25, "GoStatus", 3),
    (26, "STWBegin", 2),
    (27, "STWEnd", 0),
    (28, "GCActive", 1),
    (29, "GCBegin", 2),
    (30, "GCEnd", 1),
    (32, "GCSweepBegin", 1),
    (33, "GCSweepEnd", 2),
    (34, "GCMarkAssistActive", 1),
    (35, "GCMarkAssistBegin", 1),
    (36, "GCMarkAssistEnd", 0),
    (37, "HeapAlloc", 1),
    (38, "HeapGoal", 1),
    (39, "GoLabel", 1),
    (40, "UserTaskBegin", 4),
    (41, "UserTaskEnd", 2),
    (42, "UserRegionBegin", 3),
    (43, "UserRegionEnd", 3),
    (44, "UserLog", 4),
    (45, "GoSwitch", 2),
    (46, "GoSwitchDestroy", 2),
    (47, "GoCreateBlocked", 3),
    (48, "GoStatusStack", 4),
];

pub fn name(kind: u8) -> &'static str {
    KINDS.iter().find(|(k, ..)| *k == kind).map_or("?", |(_, name, _)| name)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> Result<u8, String> {
        let (first, rest) = self.0.split_first().ok_or("it is cut")?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number without end".into())
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(n as usize).ok_or("it is cut")?;
        self.0 = rest;
        Ok(taken)
    }
}

/// Reads a file.
pub fn decode(file: &[u8]) -> Result<Vec<Generation>, String> {
    let rest = file.strip_prefix(b"go 1.23 trace\0\0\0").ok_or("a bad header")?;
    let mut bytes = Bytes(rest);
    let mut generations: Vec<Generation> = Vec::new();
    while !bytes.0.is_empty() {
        if bytes.byte()? != 1 {
            return Err("no batch".into());
        }
        let (number, m, time, size) =
            (bytes.number()?, bytes.number()?, bytes.number()?, bytes.number()?);
        if size > 64 << 10 {
            return Err(format!("a batch of {size} bytes"));
        }
        let data = bytes.take(size)?;
        match generations.last() {
            Some(last) if last.number == number => {}
            last if number == last.map_or(1, |last| last.number + 1) => {
                generations.push(Generation { number, ..Generation::default() });
            }
            _ => return Err(format!("generation {number} is out of order")),
        }
        let generation = generations.last_mut().ok_or("no generation")?;
        batch(generation, m, time, Bytes(data))?;
    }
    for generation in &generations {
        check(generation)?;
    }
    Ok(generations)
}

fn batch(
    generation: &mut Generation,
    m: u64,
    time: u64,
    mut data: Bytes<'_>,
) -> Result<(), String> {
    match data.0.first() {
        Some(2) => {
            data.byte()?;
            while !data.0.is_empty() {
                if data.byte()? != 3 {
                    return Err("no stack".into());
                }
                let (id, n) = (data.number()?, data.number()?);
                if n > 128 {
                    return Err(format!("a stack of {n} frames"));
                }
                let mut frames = Vec::new();
                for _ in 0..n {
                    let frame: Vec<u64> =
                        (0..4).map(|_| data.number()).collect::<Result<_, _>>()?;
                    let text = |id: u64| format!("#{id}");
                    frames.push((frame[0], text(frame[1]), text(frame[2]), frame[3]));
                }
                if generation.stacks.insert(id, frames).is_some() {
                    return Err(format!("stack {id} twice"));
                }
            }
        }
        Some(4) => {
            data.byte()?;
            while !data.0.is_empty() {
                if data.byte()? != 5 {
                    return Err("no string".into());
                }
                let (id, len) = (data.number()?, data.number()?);
                if len > 1 << 10 {
                    return Err(format!("a string of {len} bytes"));
                }
                let text = String::from_utf8(data.take(len)?.into()).map_err(|e| e.to_string())?;
                if generation.strings.insert(id, text).is_some() {
                    return Err(format!("string {id} twice"));
                }
            }
        }
        Some(8) => {
            data.byte()?;
            if generation.frequency != 0 {
                return Err("two frequencies".into());
            }
            generation.frequency = data.number()?;
        }
        _ => {
            let mut time = time;
            let mut events = Vec::new();
            while !data.0.is_empty() {
                let kind = data.byte()?;
                let (.., n) = KINDS
                    .iter()
                    .find(|(k, ..)| *k == kind)
                    .ok_or_else(|| format!("event of kind {kind}"))?;
                time += data.number()?;
                let args = (0..*n).map(|_| data.number()).collect::<Result<_, _>>()?;
                events.push(Event { time, kind, args });
            }
            match generation.events.iter_mut().find(|(of, _)| *of == m) {
                Some((_, of)) => of.append(&mut events),
                None => generation.events.push((m, events)),
            }
        }
    }
    Ok(())
}

/// Checks that all that is referred to is there, and puts in the names of frames.
fn check(generation: &Generation) -> Result<(), String> {
    if generation.frequency == 0 {
        return Err("no frequency".into());
    }
    let mut functions: HashMap<u64, &Frame> = HashMap::new();
    for frame in generation.stacks.values().flatten() {
        // A reader tells frames by their address.
        if *functions.entry(frame.0).or_insert(frame) != frame {
            return Err(format!("two frames with the address {:x}", frame.0));
        }
        for text in [&frame.1, &frame.2] {
            let id: u64 = text[1..].parse().map_err(|_| "no number")?;
            if id != 0 && !generation.strings.contains_key(&id) {
                return Err(format!("string {id} is missing"));
            }
        }
    }
    Ok(())
}
