//! The texts of a column of a segment: each once, in the order in which rows first have them.
//!
//! ```text
//! count varint | per text: length varint, bytes (UTF-8)
//! ```
//! Unlike the texts of the table `string` they go when their segment goes: there is no end of paths and
//! addresses.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::segment::{MAX_ROWS, put_varint, take_varint};

/// Longest text that is stored; the rest of a longer one is cut off.
pub const MAX_TEXT: usize = 4096;
/// Most bytes of an encoded dictionary.
pub const MAX_RAW: usize = 2 + MAX_ROWS * (MAX_TEXT + 2);

/// Texts and their numbers, from 0.
#[derive(Debug, Default, Clone)]
pub struct Dictionary {
    texts: Vec<Arc<str>>,
    numbers: FxHashMap<Arc<str>, i64>,
    /// The number that was asked for last: rows that follow each other are alike.
    last: usize,
}

// The order of the texts says all.
impl PartialEq for Dictionary {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Eq for Dictionary {}

impl Dictionary {
    /// The number of a text, a new one if it is new.
    pub fn number(&mut self, text: &Arc<str>) -> i64 {
        if self.texts.get(self.last).is_some_and(|last| Arc::ptr_eq(last, text)) {
            return self.last as i64;
        }
        let number = match self.numbers.get(text) {
            Some(&number) => number,
            None => {
                let number = self.texts.len() as i64;
                self.texts.push(Arc::clone(text));
                self.numbers.insert(Arc::clone(text), number);
                number
            }
        };
        self.last = number as usize;
        number
    }

    /// The text with this number.
    pub fn get(&self, number: i64) -> Option<&Arc<str>> {
        usize::try_from(number).ok().and_then(|number| self.texts.get(number))
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Forgets all texts, and keeps the memory.
    pub fn clear(&mut self) {
        self.texts.clear();
        self.numbers.clear();
        self.last = 0;
    }

    /// Appends the encoded texts.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.texts.len() as u64);
        for text in &self.texts {
            let kept = &text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)];
            put_varint(out, kept.len() as u64);
            out.extend_from_slice(kept);
        }
    }

    /// Takes encoded texts from the beginning of `bytes`; `None` if they are none.
    pub fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let count = usize::try_from(take_varint(bytes)?).ok().filter(|count| *count <= MAX_ROWS)?;
        let mut texts = Vec::with_capacity(count);
        for _ in 0..count {
            let len = usize::try_from(take_varint(bytes)?).ok()?;
            let (text, rest) = bytes.split_at_checked(len)?;
            texts.push(std::str::from_utf8(text).ok()?.into());
            *bytes = rest;
        }
        Some(Self { texts, ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(mut bytes: &[u8]) -> Option<Vec<Arc<str>>> {
        Dictionary::decode(&mut bytes).filter(|_| bytes.is_empty()).map(|texts| texts.texts)
    }

    #[test]
    fn texts_keep_their_numbers_and_come_back() {
        let mut texts = Dictionary::default();
        let (hosts, shadow): (Arc<str>, Arc<str>) = ("/etc/hosts".into(), "/etc/shadow".into());
        assert_eq!((texts.number(&hosts), texts.number(&shadow)), (0, 1));
        assert_eq!((texts.number(&hosts), texts.number(&"/etc/shadow".into())), (0, 1));
        let mut bytes = Vec::new();
        texts.encode(&mut bytes);
        assert_eq!(decoded(&bytes), Some(vec![hosts, shadow]));
        for len in 0..bytes.len() {
            assert_eq!(decoded(&bytes[..len]), None, "{len} bytes");
        }
        texts.clear();
        assert_eq!(texts.number(&"x".into()), 0);
    }

    #[test]
    fn a_text_too_long_is_cut_between_characters() {
        let mut texts = Dictionary::default();
        texts.number(&format!("{}ää", "x".repeat(MAX_TEXT - 1)).into());
        let mut bytes = Vec::new();
        texts.encode(&mut bytes);
        assert!(bytes.len() <= MAX_RAW);
        assert_eq!(decoded(&bytes), Some(vec!["x".repeat(MAX_TEXT - 1).into()]));
    }

    #[test]
    fn what_is_no_dictionary_is_refused() {
        assert_eq!(decoded(&[1, 2, 0xff, 0xff]), None);
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff, 0x0f]), None);
        assert_eq!(decoded(&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), None);
    }
}
