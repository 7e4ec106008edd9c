//! Texts that come again and again are stored once, and rows hold their numbers.

use std::collections::HashMap;
use std::sync::Arc;

/// Number of a text in the table `string`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StrId(pub u32);

/// Gives numbers to texts.
///
/// Numbers begin at 1, so that the default [`StrId`] stands for no text.
///
/// It keeps all of them: it is for the words of a language (states, reasons, names of calls), not for what a
/// program may make up.
#[derive(Debug)]
pub struct Interner {
    first: u32,
    ids: HashMap<Arc<str>, StrId>,
    new: Vec<(StrId, Arc<str>)>,
}

impl Default for Interner {
    fn default() -> Self {
        Self::starting_at(1)
    }
}

impl Interner {
    /// An interner that knows no text.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Self::new`], with `first` as the first number.
    pub fn starting_at(first: u32) -> Self {
        Self { first, ids: HashMap::new(), new: Vec::new() }
    }

    /// The number of a text; a new one when the text is new.
    pub fn intern(&mut self, text: &str) -> StrId {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        // 2^32 texts would need more memory than the map may take long before this saturates.
        let known = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        let id = StrId(self.first.saturating_add(known));
        let text: Arc<str> = text.into();
        self.ids.insert(Arc::clone(&text), id);
        self.new.push((id, text));
        id
    }

    /// The texts that are new since the last call, for [`Batch::strings`](crate::Batch).
    pub fn take_new(&mut self) -> Vec<(StrId, Arc<str>)> {
        std::mem::take(&mut self.new)
    }

    /// Makes all texts new again, for a database that knows none of them.
    pub fn retell(&mut self) {
        self.new = self.ids.iter().map(|(text, id)| (*id, Arc::clone(text))).collect();
        self.new.sort_unstable_by_key(|(id, _)| *id);
    }

    /// How many texts it knows.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it knows no text.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_its_number_and_is_new_once() {
        let mut interner = Interner::new();
        let read = interner.intern("read");
        let write = interner.intern("write");
        assert_ne!(read, write);
        assert_eq!(interner.intern("read"), read);
        assert_eq!(interner.take_new(), [(read, "read".into()), (write, "write".into())]);
        assert_eq!(interner.intern("write"), write);
        assert!(interner.take_new().is_empty());
        assert_eq!(interner.len(), 2);
        interner.retell();
        assert_eq!(interner.take_new(), [(read, "read".into()), (write, "write".into())]);
    }

    #[test]
    fn numbers_go_on_where_they_are_told_to() {
        let mut interner = Interner::starting_at(40);
        assert_eq!(interner.intern("read"), StrId(40));
        assert_eq!(interner.intern("write"), StrId(41));
    }
}
