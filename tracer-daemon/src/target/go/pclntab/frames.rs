//! Frames as Go prints them: from the addresses on a stack to functions, files and lines
//! (runtime/tracestack.go, fpunwindExpand; runtime/symtab.go, CallersFrames).

use std::sync::{Arc, PoisonError};

use rustc_hash::FxHashMap;

use super::{
    Functions, GENERIC_METHODS, Part, name,
    table::{Func, Table},
    unwind::Step,
};

/// Frames that Go's tracer keeps of a stack (internal/trace/tracev2, MaxFramesPerStack).
const MAX_FRAMES: usize = 128;
/// Since which minor version Go's tracer walks along frame pointers and leaves out frames afterwards
/// (runtime/tracestack.go, traceStack).
const BY_FRAME_POINTERS: u32 = 21;
/// Since which it walks further, so that those do not count (runtime/mprof.go, makeProfStackFP).
const WITH_SKIPPED: u32 = 26;
/// More calls than the compiler inlines into each other.
const MAX_INLINED: usize = 512;
/// Instructions whose frames are remembered.
const MAX_CACHED: usize = 1 << 16;
/// What a frame is called whose function is not known.
const UNKNOWN: &str = "[unknown]";

/// A function that was entered and not left: one line of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Full name as Go prints it, such as `main.(*server).serve` or `main.each[...]`; `[unknown]` for
    /// an address outside of Go's functions.
    pub function: Arc<str>,
    /// Its file as the compiler wrote it; `?` or empty if not known.
    pub file: Arc<str>,
    /// Line that is executed, or from where the next inner frame was called; 0 if not known.
    pub line: u32,
    /// Line of the `func` keyword; 0 if not known, as before Go 1.20.
    pub start_line: u32,
    /// Address in its file of an instruction (not a return address) at that line.
    pub pc: u64,
    /// Its file, if that is not the program itself.
    pub module: Option<Arc<str>>,
    /// Address in the file of the start of the function that this one was compiled into; 0 if not
    /// known.
    pub entry: u64,
    /// Whether the compiler inlined this function into the one of the next frame.
    pub inlined: bool,
    /// How the runtime treats it.
    pub kind: Kind,
}

/// Functions that Go's tracebacks treat in a special way (internal/abi/symtab.go, FuncID).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// All others.
    #[default]
    Normal,
    /// Made by the compiler, to call another function; not shown.
    Wrapper,
    /// `panic`, and what calls it for wrappers of methods.
    Panic,
    /// Entered by a signal: the caller stopped between two instructions, not at a call.
    Signal,
    /// Both: the panic that a signal makes.
    SignalPanic,
    /// Runs finalizers or cleanups.
    Finalizer,
    /// The main goroutine, or a coroutine's start.
    User,
    /// Calls Go from C, on the stack of the goroutine that called C.
    CgoCallback,
    /// The end of each stack.
    Goexit,
}

impl Kind {
    /// Whether a wrapper that called such a function is hidden: not if it called a panic instead of
    /// the function that it wraps (runtime/traceback.go, elideWrapperCalling).
    pub fn hides_wrapper(self) -> bool {
        !matches!(self, Self::Panic | Self::SignalPanic)
    }

    /// Whether the address in the caller's frame is the one of the next instruction to execute, not
    /// that behind a call (runtime/traceback.go, isInjectedCall).
    pub fn is_injected(self) -> bool {
        matches!(self, Self::Signal | Self::SignalPanic)
    }
}

/// Kinds by FuncID. The numbers differ between versions, so they are taken from the functions that
/// bear them.
#[derive(Clone, Debug)]
pub struct Kinds([Kind; 256]);

impl Kinds {
    const NAMED: &[(&str, Kind)] = &[
        ("runtime.gopanic", Kind::Panic),
        ("runtime.panicwrap", Kind::Panic),
        ("runtime.sigpanic", Kind::SignalPanic),
        ("runtime.asyncPreempt", Kind::Signal),
        ("runtime.debugCallV2", Kind::Signal),
        ("runtime.runfinq", Kind::Finalizer),
        ("runtime.runFinalizers", Kind::Finalizer),
        ("runtime.runCleanups", Kind::Finalizer),
        ("runtime.main", Kind::User),
        ("runtime.corostart", Kind::User),
        ("runtime.cgocallback", Kind::CgoCallback),
        ("runtime.goexit", Kind::Goexit),
    ];
    /// The last of the functions with a number of their own: the next number is that of wrappers.
    const LAST: &str = "runtime.systemstack_switch";

    /// Looks up those functions.
    pub fn of(table: &Table) -> Self {
        let mut kinds = [Kind::Normal; 256];
        for func in (0..table.count()).filter_map(|i| table.func(i)).filter(|func| func.id != 0) {
            let name = table.name(func.name);
            if let Some(&(_, kind)) = Self::NAMED.iter().find(|(n, _)| n.as_bytes() == name) {
                kinds[usize::from(func.id)] = kind;
            } else if name == Self::LAST.as_bytes() {
                kinds[usize::from(func.id.saturating_add(1))] = Kind::Wrapper;
            }
        }
        Self(kinds)
    }

    /// The kind of functions with this FuncID.
    pub fn get(&self, id: u8) -> Kind {
        self.0[usize::from(id)]
    }
}

/// What was decoded once.
#[derive(Debug, Default)]
pub struct Cache {
    names: FxHashMap<u32, Arc<str>>,
    files: FxHashMap<u32, Arc<str>>,
    frames: FxHashMap<u64, Arc<[Frame]>>,
    pub steps: FxHashMap<(u64, bool), Option<Step>>,
}

impl Cache {
    /// Remembers the way from a frame to its caller.
    pub fn add_step(&mut self, key: (u64, bool), step: Option<Step>) {
        if self.steps.len() >= MAX_CACHED {
            self.steps.clear();
        }
        self.steps.insert(key, step);
    }

    /// A name by its number, as Go prints it.
    pub fn name(&mut self, number: u32, functions: &Part) -> Arc<str> {
        let decode = || {
            let name = String::from_utf8_lossy(functions.table.name(number));
            Arc::from(name::printed(&name, functions.minor >= GENERIC_METHODS))
        };
        Arc::clone(self.names.entry(number).or_insert_with(decode))
    }

    fn line(&mut self, func: &Func, at: u32, table: &Table) -> (Arc<str>, u32) {
        let Some((file, line)) = table.line(func, at) else {
            return (Arc::from("?"), 0);
        };
        let decode = || Arc::from(String::from_utf8_lossy(table.file(file).unwrap_or(b"?")));
        (Arc::clone(self.files.entry(file).or_insert_with(decode)), line)
    }

    /// The frames of an instruction `at` bytes into a function.
    fn decode(&mut self, func: &Func, at: u32, functions: &Part) -> Arc<[Frame]> {
        let entry = functions.text.wrapping_add(func.entry.into());
        let above = functions.file.as_ref().map_or(0, |&(_, above)| above);
        let mut frames = Vec::with_capacity(1);
        let mut at = at;
        while frames.len() < MAX_INLINED {
            let inlined = functions.table.inlined(func, at);
            let (number, start_line, id) = match inlined {
                Some(call) => (call.name, call.start_line, call.id),
                None => (func.name, func.start_line, func.id),
            };
            let (file, line) = self.line(func, at, &functions.table);
            frames.push(Frame {
                function: self.name(number, functions),
                file,
                line,
                start_line,
                pc: entry.wrapping_add(at.into()).wrapping_sub(above),
                module: functions.file.as_ref().map(|(file, _)| Arc::clone(file)),
                entry,
                inlined: inlined.is_some(),
                kind: functions.kinds.get(id),
            });
            match inlined {
                Some(call) => at = call.parent,
                None => break,
            }
        }
        frames.into()
    }
}

impl Functions {
    /// All frames of the instruction at an address (not a return address), innermost first: inlined
    /// functions, then the one that they were inlined into. Empty if it is no instruction of Go.
    pub fn frames_at(&self, address: u64) -> Arc<[Frame]> {
        let part = self.part(address);
        let mut cache = part.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frames) = cache.frames.get(&address) {
            return Arc::clone(frames);
        }
        let func = part.offset(address).and_then(|offset| {
            let func = part.table.func(part.table.find(offset)?)?;
            Some((func, offset.checked_sub(func.entry)?))
        });
        let frames = func.map(|(func, at)| cache.decode(&func, at, &part)).unwrap_or_default();
        if cache.frames.len() >= MAX_CACHED {
            cache.frames.clear();
        }
        cache.frames.insert(address, Arc::clone(&frames));
        frames
    }

    /// The stack that Go's tracer would write for these return addresses (in the file, innermost
    /// first, as a walk along frame pointers finds them), without its `skip` innermost frames:
    /// inlined calls are added, wrappers left out, and so are the ends of all stacks,
    /// `runtime.goexit` and the main goroutine's `runtime.main`. An address outside of Go's code
    /// becomes a frame `[unknown]`. At most 128 frames.
    pub fn expand(&self, pcs: &[u64], skip: u32) -> Vec<Frame> {
        let mut pcs = pcs;
        if let Some((_, rest)) = pcs.split_last().filter(|(pc, _)| self.is_goexit(**pc)) {
            pcs = rest;
            if let Some((_, rest)) = pcs.split_last().filter(|(pc, _)| self.is_main(**pc)) {
                pcs = rest;
            }
        }
        let mut stack = Vec::new();
        let mut skip = skip;
        let mut inner = Kind::Normal;
        for &pc in pcs {
            let frames = self.frames_at(self.call(pc));
            let unknown = frames.is_empty().then(|| unknown(pc));
            for frame in frames.iter().chain(&unknown) {
                let hidden = frame.kind == Kind::Wrapper && inner.hides_wrapper();
                if unknown.is_none() {
                    inner = frame.kind;
                }
                if hidden {
                    continue;
                }
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                stack.push(frame.clone());
                if stack.len() == MAX_FRAMES {
                    return stack;
                }
            }
        }
        stack
    }

    /// Of the return addresses of a stack those that Go's tracer takes, if its `skip` innermost frames are
    /// not shown. Of a deep stack it leaves out the last one that it took, too, as if it were the end, and
    /// of the main goroutine's two; `main`: it is that one's, but does not reach to its end.
    pub fn taken<'a>(&self, pcs: &'a [u64], skip: u32, main: bool) -> &'a [u64] {
        let most = match self.minor {
            WITH_SKIPPED.. => MAX_FRAMES + 6,
            BY_FRAME_POINTERS.. => MAX_FRAMES - 1,
            _ => MAX_FRAMES + self.hidden(pcs, skip),
        };
        if pcs.len() < most {
            return pcs;
        }
        let ends_in_main = match pcs {
            [.., main, end] => self.is_goexit(*end) && self.is_main(*main),
            _ => false,
        };
        &pcs[..most - if main || ends_in_main { 2 } else { 1 }]
    }

    /// How many of these have none but frames that are not shown.
    fn hidden(&self, pcs: &[u64], skip: u32) -> usize {
        let frames = |pc: &u64| self.frames_at(self.call(*pc)).len().max(1);
        let sums = pcs.iter().scan(0, |sum, pc| {
            *sum += frames(pc);
            Some(*sum)
        });
        sums.take_while(|sum| *sum <= skip as usize).count()
    }

    /// The address of the call that an address on a stack stands for: the instruction before it,
    /// unless the function has not begun yet.
    pub fn call(&self, pc: u64) -> u64 {
        let part = self.part(pc);
        let begins = |offset| Some(part.table.range(part.table.find(offset)?)?.0 == offset);
        let has_not_begun = part.offset(pc).and_then(begins).unwrap_or(false);
        if has_not_begun { pc } else { pc.wrapping_sub(1) }
    }

    fn is_goexit(&self, pc: u64) -> bool {
        self.frames_at(pc.wrapping_sub(1)).last().is_some_and(|f| f.kind == Kind::Goexit)
    }

    fn is_main(&self, pc: u64) -> bool {
        let frames = self.frames_at(pc.wrapping_sub(1));
        frames.last().is_some_and(|f| &*f.function == "runtime.main")
    }
}

fn unknown(pc: u64) -> Frame {
    Frame {
        function: Arc::from(UNKNOWN),
        file: Arc::from(""),
        line: 0,
        start_line: 0,
        pc: pc.wrapping_sub(1),
        module: None,
        entry: 0,
        inlined: false,
        kind: Kind::Normal,
    }
}
