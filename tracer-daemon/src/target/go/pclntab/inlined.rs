//! Which functions were inlined into which others: a probe in a function's own code does not see those calls.

use rustc_hash::FxHashMap;

use super::{
    Functions,
    table::{Func, Table},
};

/// More calls than the compiler inlines into each other.
const MAX_DEPTH: usize = 512;
/// More copies of the few functions that are asked for than any program has.
const MAX_COPIES: usize = 500;

/// A copy of a function that the compiler put into another one. All addresses are those of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlinedCopy {
    /// Full name of the function, as it was compiled.
    pub function: String,
    /// Full name of the function into which it was inlined, perhaps by way of others.
    pub holder: String,
    /// First and last-plus-one address of that one.
    pub within: (u64, u64),
    /// An instruction at the place of the call.
    pub call: u64,
    /// First and last-plus-one addresses of its instructions, in order, with what was inlined into it.
    pub ranges: Vec<(u64, u64)>,
}

impl InlinedCopy {
    /// Whether an instruction belongs to it.
    pub fn contains(&self, address: u64) -> bool {
        let after = self.ranges.partition_point(|&(start, _)| start <= address);
        self.ranges[..after].last().is_some_and(|&(_, end)| address < end)
    }
}

impl Functions {
    /// All copies of functions with these full names, each with that of the function in which it is looked for, or
    /// without for all; none if there are more of them, or larger tables, than in any real program.
    pub fn copies_of(&self, wanted: &[(&str, Option<&str>)]) -> Option<Vec<InlinedCopy>> {
        let names: Vec<&str> = wanted.iter().map(|&(name, _)| name).collect();
        let numbers = self.own.table.name_numbers(&names);
        let mut copies = Vec::new();
        if numbers.is_empty() {
            return Some(copies);
        }
        // A damaged table may let all functions share one part of it.
        let mut budget = self.own.table.len();
        for i in 0..self.own.table.count() {
            let Some(func) = self.own.table.func(i) else { continue };
            let Some(ranges) = self.own.table.inlined_ranges(&func, &mut budget)? else { continue };
            let holder = self.own.table.name(func.name);
            let is_wanted = |function: &str| {
                let is_it = |&(name, within): &(&str, Option<&str>)| {
                    name == function && within.is_none_or(|name| name.as_bytes() == holder)
                };
                wanted.iter().any(is_it)
            };
            let one_of_them = |&(_, _, index): &(u32, u32, u32)| {
                let call = self.own.table.inlined_call(&func, index);
                let name = call.and_then(|call| numbers.get(&call.name));
                name.is_some_and(|name| is_wanted(name))
            };
            if ranges.iter().any(one_of_them) {
                let (start, end) = self.own.table.range(i)?;
                let within = (self.moved(start), self.moved(end));
                let first = copies.len();
                self.copies_in(&func, within, &ranges, &numbers, &mut copies);
                let mut at = 0;
                copies.retain(|copy| {
                    at += 1;
                    at <= first || is_wanted(&copy.function)
                });
                if copies.len() > MAX_COPIES {
                    return None;
                }
            }
        }
        Some(copies)
    }

    fn copies_in(
        &self,
        func: &Func,
        within: (u64, u64),
        ranges: &[(u32, u32, u32)],
        numbers: &FxHashMap<u32, &str>,
        copies: &mut Vec<InlinedCopy>,
    ) {
        let first = copies.len();
        let mut places: FxHashMap<u32, usize> = FxHashMap::default();
        for &(start, end, index) in ranges {
            for (index, call) in ancestors(&self.own.table, func, ranges, index) {
                let Some(function) = numbers.get(&call.name) else { continue };
                let at = |offset: u32| within.0.wrapping_add(offset.into());
                let place = *places.entry(index).or_insert_with(|| {
                    let holder = self.own.table.name(func.name);
                    copies.push(InlinedCopy {
                        function: (*function).to_owned(),
                        holder: String::from_utf8_lossy(holder).into_owned(),
                        within,
                        call: at(call.parent),
                        ranges: Vec::new(),
                    });
                    copies.len() - 1
                });
                match copies[place].ranges.last_mut() {
                    Some(last) if last.1 == at(start) => last.1 = at(end),
                    _ => copies[place].ranges.push((at(start), at(end))),
                }
            }
        }
        copies[first..].sort_by_key(|copy| copy.call);
    }

    fn moved(&self, offset: u32) -> u64 {
        self.own.text.wrapping_add(offset.into())
    }
}

/// An inlined call, and those into whose functions it was inlined, with their numbers, from the inside.
fn ancestors(
    table: &Table,
    func: &Func,
    ranges: &[(u32, u32, u32)],
    index: u32,
) -> impl Iterator<Item = (u32, super::table::Inlined)> {
    let call = move |index| Some((index, table.inlined_call(func, index)?));
    let parent = move |&(_, inlined): &(u32, super::table::Inlined)| {
        let after = ranges.partition_point(|&(start, ..)| start <= inlined.parent);
        let &(_, end, index) = ranges[..after].last()?;
        (inlined.parent < end).then(|| call(index)).flatten()
    };
    std::iter::successors(call(index), parent).take(MAX_DEPTH)
}
