//! Texts and stacks of a file: each generation holds those that its events refer to.

use std::collections::HashMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::source::Goroutine;
use super::wire::{self, MAX_FRAMES};
use crate::error::Result;
use crate::reader::Reader;
use crate::strings::StrId;

/// Addresses from here on stand for frames that have none of their own.
const NO_ADDRESS: u64 = 1 << 63;
/// Stacks whose frames are kept from one generation to the next.
const KEPT_STACKS: usize = 1 << 15;

/// Texts by number. A text keeps its number in all generations, because an event of one can end what an
/// event of an earlier one began.
#[derive(Default)]
struct Strings {
    ids: HashMap<Arc<str>, u64>,
    texts: Vec<Arc<str>>,
    /// In which generation each text was last referred to.
    used: Vec<u64>,
    in_use: Vec<u64>,
}

impl Strings {
    /// The number of a text, 0 for the empty one. It is not yet a part of the generation.
    fn id(&mut self, text: &str) -> u64 {
        if text.is_empty() {
            return 0;
        }
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.used.push(0);
        let id = self.texts.len() as u64;
        self.ids.insert(text, id);
        id
    }

    fn refer(&mut self, id: u64, generation: u64) -> u64 {
        if let Some(used) = (id as usize).checked_sub(1).and_then(|at| self.used.get_mut(at))
            && *used != generation
        {
            *used = generation;
            self.in_use.push(id);
        }
        id
    }
}

#[derive(Clone, Copy)]
struct Frame {
    address: u64,
    func: u64,
    file: u64,
    line: u64,
}

/// What a stack in the file stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// A stack of the database.
    Stack(i64),
    /// The one frame of a goroutine that has not run.
    StartFrame(i64),
    /// Such a frame of which only the function is known, by number of the text.
    StartFunction(u64),
}

/// The texts and stacks of a file.
pub(super) struct Tables<'r> {
    reader: &'r Reader,
    generation: u64,
    strings: Strings,
    /// Numbers of texts of the database.
    known: FxHashMap<StrId, u64>,
    frames: FxHashMap<i64, Frame>,
    goexit: u64,
    main: u64,
    /// Frames of stacks of the database.
    kept: FxHashMap<i64, Box<[i64]>>,
    /// Numbers of this generation's stacks.
    stacks: FxHashMap<Key, u64>,
    encoded: Vec<Vec<u8>>,
}

impl<'r> Tables<'r> {
    /// Reads the frames of a recording.
    ///
    /// Go's tools tell frames by their address alone, also where a function was inlined and several frames
    /// share one: all but the first get a number that is no address.
    pub fn load(reader: &'r Reader) -> Result<Self> {
        let mut strings = Strings::default();
        let mut frames = FxHashMap::default();
        let mut taken = rustc_hash::FxHashSet::default();
        let mut statement = reader
            .conn()
            .prepare("SELECT frame_id, func, file, line, address FROM frame ORDER BY frame_id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let func: Option<Arc<str>> = row.get(1)?;
            let file: Option<Arc<str>> = row.get(2)?;
            let line: Option<i64> = row.get(3)?;
            let address = row
                .get::<_, Option<i64>>(4)?
                .map(i64::cast_unsigned)
                .filter(|address| *address < NO_ADDRESS && taken.insert(*address))
                .unwrap_or(NO_ADDRESS | id.cast_unsigned());
            let frame = Frame {
                address,
                func: strings.id(func.as_deref().unwrap_or("[unknown]")),
                file: strings.id(file.as_deref().unwrap_or_default()),
                line: line.and_then(|line| u64::try_from(line).ok()).unwrap_or_default(),
            };
            frames.insert(id, frame);
        }
        let (goexit, main) = (strings.id("runtime.goexit"), strings.id("runtime.main"));
        Ok(Self {
            reader,
            generation: 0,
            strings,
            known: FxHashMap::default(),
            frames,
            goexit,
            main,
            kept: FxHashMap::default(),
            stacks: FxHashMap::default(),
            encoded: Vec::new(),
        })
    }

    /// Begins a generation, in which nothing is referred to.
    pub fn begin(&mut self) {
        self.generation += 1;
        self.strings.in_use.clear();
        self.stacks.clear();
        self.encoded.clear();
        if self.kept.len() > KEPT_STACKS {
            self.kept.clear();
        }
    }

    /// The number of a text in this generation.
    pub fn string(&mut self, text: &str) -> u64 {
        let id = self.strings.id(text);
        self.strings.refer(id, self.generation)
    }

    /// Refers to a text that an earlier generation referred to by this number.
    pub fn keep_string(&mut self, id: u64) {
        self.strings.refer(id, self.generation);
    }

    /// The number of a text of the database in this generation.
    pub fn text(&mut self, id: StrId) -> Result<u64> {
        let id = match self.known.get(&id) {
            Some(known) => *known,
            None => {
                let number = self.strings.id(&self.reader.text(id)?);
                self.known.insert(id, number);
                number
            }
        };
        Ok(self.strings.refer(id, self.generation))
    }

    /// The number of a stack of the database in this generation, 0 for none.
    pub fn stack(&mut self, id: Option<i64>) -> Result<u64> {
        let Some(id) = id else { return Ok(0) };
        if let Some(number) = self.stacks.get(&Key::Stack(id)) {
            return Ok(*number);
        }
        if !self.kept.contains_key(&id) {
            let frames = self.read(id)?;
            self.kept.insert(id, frames);
        }
        let found = self.kept.get(&id).into_iter().flatten();
        let mut frames: Vec<Frame> =
            found.filter_map(|frame| self.frames.get(frame)).copied().collect();
        // As in Go's own traces, where a goroutine's stack ends with the function that it began in.
        if frames.last().is_some_and(|frame| frame.func == self.goexit) {
            frames.pop();
            if frames.last().is_some_and(|frame| frame.func == self.main) {
                frames.pop();
            }
        }
        frames.truncate(MAX_FRAMES);
        Ok(self.add(Key::Stack(id), &frames))
    }

    /// The number of the stack of a goroutine that has not run, 0 if its function is not known.
    pub fn start(&mut self, goroutine: &Goroutine) -> u64 {
        if let Some(id) = goroutine.start_frame
            && let Some(&frame) = self.frames.get(&id)
        {
            let key = Key::StartFrame(id);
            return match self.stacks.get(&key) {
                Some(number) => *number,
                None => self.add(key, &[frame]),
            };
        }
        let Some(func) = &goroutine.start_func else { return 0 };
        let func = self.strings.id(func);
        let key = Key::StartFunction(func);
        if let Some(number) = self.stacks.get(&key) {
            return *number;
        }
        // Other than that of any frame.
        let address = NO_ADDRESS | 1 << 62 | func;
        self.add(key, &[Frame { address, func, file: 0, line: 0 }])
    }

    fn add(&mut self, key: Key, frames: &[Frame]) -> u64 {
        let mut id = 0;
        if !frames.is_empty() {
            id = self.encoded.len() as u64 + 1;
            let frames: Vec<[u64; 4]> =
                frames.iter().map(|f| [f.address, f.func, f.file, f.line]).collect();
            for [_, func, file, _] in &frames {
                self.strings.refer(*func, self.generation);
                self.strings.refer(*file, self.generation);
            }
            self.encoded.push(wire::stack(id, &frames));
        }
        self.stacks.insert(key, id);
        id
    }

    /// The frames of a stack, the innermost first.
    fn read(&self, id: i64) -> Result<Box<[i64]>> {
        // Two more than fit: the outermost ones may have to be left out.
        let mut statement = self.reader.conn().prepare_cached(
            "SELECT frame_id FROM stack WHERE stack_id = ?1 ORDER BY depth LIMIT ?2",
        )?;
        let frames = statement.query_map((id, MAX_FRAMES as i64 + 2), |row| row.get(0))?;
        Ok(frames.collect::<rusqlite::Result<_>>()?)
    }

    /// The texts of this generation, with their numbers.
    pub fn strings(&self) -> impl Iterator<Item = (u64, &str)> {
        self.strings.in_use.iter().filter_map(|id| {
            let text = self.strings.texts.get((*id as usize).checked_sub(1)?)?;
            Some((*id, &**text))
        })
    }

    /// The stacks of this generation.
    pub fn stacks(&self) -> impl Iterator<Item = &[u8]> {
        self.encoded.iter().map(Vec::as_slice)
    }
}
