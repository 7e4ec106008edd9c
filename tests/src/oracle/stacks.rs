//! Whether the stacks of the same events have the same frames.

use std::{collections::BTreeMap, fmt};

use super::{
    census::transition,
    event::{Event, Frame, Stack, State, What},
};

/// How many frames of a stack are told that differ.
const MOST: usize = 12;

/// A stack that the two sides see differently, and how often they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The kind of the event.
    pub kind: String,
    /// Go's stack.
    pub go: Stack,
    /// Our stack.
    pub ours: Stack,
    /// How often.
    pub count: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [go, ours] = [&self.go, &self.ours].map(|stack| stack.len());
        write!(f, "{} times at {}, {go} frames (Go) and {ours} (ours):", self.count, self.kind)?;
        let is_other = |i: &usize| self.go.get(*i) != self.ours.get(*i);
        for i in (0..go.max(ours)).filter(is_other).take(MOST) {
            let frame = |stack: &Stack| stack.get(i).map_or("-".to_owned(), ToString::to_string);
            write!(
                f,
                "\n    {i:3} Go    {}\n        ours  {}",
                frame(&self.go),
                frame(&self.ours)
            )?;
        }
        Ok(())
    }
}

/// The comparison of stacks of one kind of event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stacks {
    /// How many were compared.
    pub compared: usize,
    /// How many were equal.
    pub equal: usize,
    /// The others, the most frequent first.
    pub mismatches: Vec<Mismatch>,
}

impl Stacks {
    /// Whether at least so many in a hundred were equal.
    pub fn are_equal_in(&self, percent: usize) -> bool {
        self.equal * 100 >= self.compared * percent
    }
}

/// Which stack of a transition Go's tracer records: that of the goroutine, or of whoever changed it.
fn of(event: &Event) -> Option<(i64, String, Stack)> {
    let What::Goroutine { goid, from, to, reason, .. } = &event.what else {
        return None;
    };
    let kind = match (from, to) {
        (State::NotExist, State::Runnable) | (State::Waiting, State::Runnable) => {
            transition(*from, *to, "")
        }
        (State::Running, State::Waiting | State::Runnable | State::Syscall) => {
            transition(*from, *to, reason)
        }
        _ => return None,
    };
    Some((*goid, kind, event.stack.clone()))
}

/// Where a new goroutine begins.
fn start(event: &Event) -> Option<(i64, String, Stack)> {
    match &event.what {
        What::Goroutine { goid, from: State::NotExist, stack, .. } if !stack.is_empty() => {
            Some((*goid, START.into(), stack.clone()))
        }
        _ => None,
    }
}

fn by_goroutine(events: &[Event]) -> BTreeMap<(i64, String), Vec<Stack>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (goid, kind, stack) in events.iter().flat_map(|event| [of(event), start(event)]).flatten() {
        all.entry((goid, kind)).or_default().push(stack);
    }
    all
}

/// The frames of a stack in Go's trace. One of which none is to be shown has an empty frame there.
fn shown(stack: &Stack) -> &[Frame] {
    if stack.iter().all(|frame| frame.function.is_empty()) { &[] } else { stack }
}

/// The kind of the frame that a new goroutine begins in.
pub const START: &str = "start function";

/// Compares the stacks of each goroutine's n-th event of a kind, by kind: `create`, `unblock`,
/// `block: sync`..., and [`START`].
///
/// Those of a goroutine of which the two sides have different numbers of events of
/// the kind are left out: which belong together is not known.
pub fn compare(go: &[Event], ours: &[Event]) -> BTreeMap<String, Stacks> {
    let ours = by_goroutine(ours);
    let mut result: BTreeMap<String, Stacks> = BTreeMap::new();
    let mut mismatches: BTreeMap<(String, Stack, Stack), usize> = BTreeMap::new();
    for (key, go) in by_goroutine(go) {
        let Some(ours) = ours.get(&key).filter(|ours| ours.len() == go.len()) else { continue };
        let (_, kind) = key;
        let stacks = result.entry(kind.clone()).or_default();
        // Some events have no stack in Go's trace: nothing is known to compare with.
        for (go, ours) in go.iter().zip(ours).filter(|(go, _)| !go.is_empty()) {
            stacks.compared += 1;
            let shown = shown(go);
            if *shown != ours[..] {
                let key = (kind.clone(), go.clone(), ours.clone());
                *mismatches.entry(key).or_default() += 1;
            } else {
                stacks.equal += 1;
            }
        }
    }
    for ((kind, go, ours), count) in mismatches {
        let mismatch = Mismatch { kind: kind.clone(), go, ours, count };
        result.entry(kind).or_default().mismatches.push(mismatch);
    }
    for stacks in result.values_mut() {
        stacks.mismatches.sort_by_key(|mismatch| std::cmp::Reverse(mismatch.count));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::parse;

    fn block(goid: i64, line: u32) -> String {
        format!(
            "M=1 P=0 G={goid} StateTransition Time=1 GoID={goid} Running->Waiting Reason=\"sync\"\n\
             TransitionStack=\n\tmain.a @ 0x1\n\t\t/a.go:{line}\n\n\
             Stack=\n\tmain.a @ 0x1\n\t\t/a.go:{line}\n"
        )
    }

    fn events(blocks: &[(i64, u32)]) -> Vec<Event> {
        let lines: Vec<String> = blocks.iter().map(|&(goid, line)| block(goid, line)).collect();
        parse(&lines.join("\n")).expect("it is well formed")
    }

    #[test]
    fn a_trace_equals_itself() {
        let events = events(&[(1, 5), (2, 6), (1, 7)]);
        let stacks = &compare(&events, &events)["block: sync"];
        assert_eq!((stacks.compared, stacks.equal), (3, 3));
        assert!(stacks.are_equal_in(100));
    }

    #[test]
    fn another_line_is_a_mismatch() {
        let (go, ours) = (events(&[(1, 5), (1, 6), (1, 6)]), events(&[(1, 5), (1, 7), (1, 7)]));
        let stacks = &compare(&go, &ours)["block: sync"];
        assert_eq!((stacks.compared, stacks.equal), (3, 1));
        assert!(!stacks.are_equal_in(99));
        assert_eq!(stacks.mismatches.len(), 1);
        let text = stacks.mismatches[0].to_string();
        assert!(text.contains("2 times at block: sync, 1 frames"), "{text}");
        assert!(text.contains("/a.go:6") && text.contains("/a.go:7"), "{text}");
    }

    #[test]
    fn other_numbers_of_events_are_not_compared() {
        let (go, ours) = (events(&[(1, 5), (1, 6), (2, 9)]), events(&[(1, 5), (2, 9)]));
        assert_eq!(compare(&go, &ours)["block: sync"].compared, 1);
    }

    #[test]
    fn an_empty_frame_is_none() {
        let frame = |text: &str, to| text.replace("\tmain.a @ 0x1\n\t\t/a.go:5\n", to);
        let one = block(1, 5);
        let texts = [frame(&one, "\t @ 0x0\n\t\t:0\n"), frame(&one, ""), one];
        let [empty, none, one] = texts.map(|text| parse(&text).expect("it is well formed"));
        let equal = |go: &[Event], ours: &[Event]| {
            let stacks = &compare(go, ours)["block: sync"];
            (stacks.compared, stacks.equal)
        };
        assert_eq!(equal(&empty, &none), (1, 1));
        assert_eq!(equal(&empty, &one), (1, 0));
        assert_eq!(equal(&none, &one), (0, 0), "nothing is known");
    }
}
