//! What file descriptors refer to, and texts that are arguments of system calls: they come ahead of the events
//! that they belong to.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tracer_common::calls::FILE_REMEMBERED;
use tracer_common::events::{SysFile, SysText};

use super::{address, file_name};

/// What is known of files and texts. What kernel programs tell again before it is forgotten need not be kept
/// for ever, and a server makes new sockets all the time.
#[derive(Default)]
pub struct Files {
    /// By number in events: when it was told last (ns), and how it is shown.
    known: FxHashMap<u64, (u64, Arc<str>)>,
    /// By thread id, time and which argument; until the event of that time comes.
    texts: FxHashMap<(u32, u64, u32), Arc<str>>,
    /// When it was last looked for what can be forgotten, ns.
    looked: u64,
}

impl Files {
    /// A file is described.
    pub fn told(&mut self, head: &SysFile, tail: &[u8]) {
        let shown = file_name::shown(head, tail);
        let ts = head.header.ts;
        match self.known.get_mut(&head.id) {
            Some((told, text)) if **text == *shown => *told = ts,
            _ => drop(self.known.insert(head.id, (ts, shown.into()))),
        }
    }

    /// The file with this number; `Err` if it was never told of.
    pub fn find(&self, id: u64) -> Result<Option<Arc<str>>, Unknown> {
        if id == 0 {
            return Ok(None);
        }
        self.known.get(&id).map(|(_, text)| Some(Arc::clone(text))).ok_or(Unknown)
    }

    /// A text comes, ahead of its event.
    pub fn text(&mut self, head: &SysText, bytes: &[u8]) {
        if let Some(text) = address::text(head, bytes) {
            let header = &head.header;
            self.texts.insert((header.tid, header.ts, head.what), text.into());
        }
    }

    /// The text that came with this record; none if it says nothing.
    pub fn take_text(&mut self, head: &SysText) -> Option<Arc<str>> {
        self.texts.remove(&(head.header.tid, head.header.ts, head.what))
    }

    /// Forgets what no event from `until` (ns) on can name.
    pub fn advanced(&mut self, until: u64) {
        if until.saturating_sub(self.looked) < FILE_REMEMBERED {
            return;
        }
        self.looked = until;
        let oldest = until.saturating_sub(2 * FILE_REMEMBERED);
        self.known.retain(|_, (told, _)| *told >= oldest);
        self.texts.retain(|(_, ts, _), _| *ts >= oldest);
        self.known.shrink_to(2 * self.known.len());
        self.texts.shrink_to(2 * self.texts.len());
    }
}

/// A file whose description was lost on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;
