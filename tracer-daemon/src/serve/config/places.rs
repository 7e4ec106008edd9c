//! Where things are in the text of a config file.

use std::collections::HashMap;

use serde::{Deserialize, de::IgnoredAny};
use toml::Spanned;

/// Rules and triggers of a config file, which can be read, with the values of their keys.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Places {
    rule: Vec<Spanned<HashMap<String, Spanned<IgnoredAny>>>>,
    trigger: Vec<Spanned<HashMap<String, Spanned<IgnoredAny>>>>,
    access: HashMap<String, Spanned<IgnoredAny>>,
}

/// A rule or a trigger, by its number from 0.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    Rule(usize),
    Trigger(usize),
}

impl Places {
    pub fn of(text: &str) -> Self {
        toml::from_str(text).unwrap_or_default()
    }

    /// Where the group is that may do everything.
    pub fn of_group(&self) -> usize {
        self.access.get("group").map_or(0, |value| value.span().start)
    }

    /// Where an entry is, or the value that it gives a key.
    pub fn of_entry(&self, entry: Entry, key: Option<&str>) -> usize {
        let found = match entry {
            Entry::Rule(index) => self.rule.get(index),
            Entry::Trigger(index) => self.trigger.get(index),
        };
        let span = found.map(|found| {
            let value = key.and_then(|key| found.get_ref().get(key));
            value.map_or_else(|| found.span(), Spanned::span)
        });
        span.map_or(0, |span| span.start)
    }
}
