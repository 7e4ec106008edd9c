//! Goroutines with the same state and the same stack, as one.

use std::io::{self, Write};

use rustc_hash::FxHashMap;

use super::{
    goroutine::{Goroutine, Line},
    text,
};
use crate::record::count;

/// Numbers of goroutines that are listed of each group.
const LISTED: usize = 5;

/// What goroutines of one group have in common.
#[derive(PartialEq, Eq, Hash)]
struct Key<'a> {
    words: String,
    frames: &'a [Line],
    created_by: Option<&'a Line>,
}

/// Writes the groups, the largest first, and of equal ones the one with the smallest number.
pub fn write(out: &mut impl Write, goroutines: &[Goroutine]) -> io::Result<()> {
    let mut groups: FxHashMap<Key<'_>, Vec<&Goroutine>> = FxHashMap::default();
    for goroutine in goroutines {
        let key = Key {
            words: text::words(goroutine, false),
            frames: &goroutine.frames,
            created_by: goroutine.created_by.as_ref().map(|created| &created.line),
        };
        groups.entry(key).or_default().push(goroutine);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    for (_, members) in &mut groups {
        members.sort_by_key(|goroutine| goroutine.goid);
    }
    groups.sort_by_key(|(_, members)| (usize::MAX - members.len(), members[0].goid));
    for (key, members) in groups {
        let minutes = members.iter().filter_map(|goroutine| goroutine.minutes).max();
        let blocked = minutes.map(|minutes| format!(", up to {minutes} minutes"));
        let words = key.words + &blocked.unwrap_or_default();
        match members.as_slice() {
            [one] => writeln!(out, "goroutine {} [{words}]:", one.goid)?,
            many => {
                writeln!(out, "{} goroutines [{words}]: {}", count(many.len() as u64), ids(many))?;
            }
        }
        text::frames(out, members[0])?;
        if let Some(created) = key.created_by {
            writeln!(out, "created by {}", created.function)?;
            text::place(out, created)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn ids(members: &[&Goroutine]) -> String {
    let listed: Vec<String> = members.iter().take(LISTED).map(|g| g.goid.to_string()).collect();
    let more = members.len().saturating_sub(LISTED);
    let listed = listed.join(", ");
    if more == 0 { listed } else { format!("{listed} and {} more", count(more as u64)) }
}
