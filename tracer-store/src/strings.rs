//! Texts that come again and again are stored once, and rows hold their numbers.

use std::collections::HashMap;
use std::sync::Arc;

/// Number of a text in the table `string`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StrId(pub u32);

/// Gives numbers to texts.
///
/// Numbers begin at 1, so that the default [`StrId`] stands for no text.
#[derive(Debug, Default)]
pub struct Interner {
    ids: HashMap<Arc<str>, StrId>,
    new: Vec<(StrId, Arc<str>)>,
}

impl Interner {
    /// An interner that knows no text.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of a text; a new one when the text is new.
    pub fn intern(&mut self, text: &str) -> StrId {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        // 2^32 texts would need more memory than the map may take long before this saturates.
        let id = StrId(u32::try_from(self.ids.len() + 1).unwrap_or(u32::MAX));
        let text: Arc<str> = text.into();
        self.ids.insert(Arc::clone(&text), id);
        self.new.push((id, text));
        id
    }

    /// The texts that are new since the last call, for [`Batch::strings`](crate::Batch).
    pub fn take_new(&mut self) -> Vec<(StrId, Arc<str>)> {
        std::mem::take(&mut self.new)
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
    }
}
