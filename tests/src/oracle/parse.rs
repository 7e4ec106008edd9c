//! Reads what `go tool trace -d=parsed` prints.
//!
//! A line that begins with `M=` is an event; the lines after it, up to the next one, are its stacks:
//!
//! ```text
//! M=14653 P=0 G=1 StateTransition Time=1548916934144 GoID=9 NotExist->Runnable Reason=""
//! TransitionStack=
//!     main.pass @ 0x4a8be0
//!         /src/daisy/main.go:15
//!
//! Stack=
//!     main.chain @ 0x4a8c58
//!         /src/daisy/main.go:25
//! ```

use std::{collections::HashSet, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};

use super::event::{Event, Frame, Scope, Stack, State, What, no_stack};

/// What the tool prints for a task that is a part of none.
const NO_TASK: u64 = u64::MAX;

/// Parses the tool's output.
///
/// # Errors
/// When a line has not the form that is described in the module's documentation.
pub fn parse(text: &str) -> Result<Vec<Event>> {
    let mut parser = Parser::default();
    for (number, line) in text.lines().enumerate() {
        parser.line(line).with_context(|| format!("line {} of the trace: {line}", number + 1))?;
    }
    parser.end_stack();
    ensure!(!parser.events.is_empty(), "the trace has no events");
    Ok(parser.events)
}

/// Which stack of the last event the next frame belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Part {
    #[default]
    None,
    TransitionStack,
    Stack,
}

#[derive(Default)]
struct Parser {
    events: Vec<Event>,
    part: Part,
    frames: Vec<Frame>,
    /// The function of the frame whose second line comes next.
    function: Option<Arc<str>>,
    strings: HashSet<Arc<str>>,
    stacks: HashSet<Stack>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<()> {
        if line.starts_with("M=") {
            self.end_stack();
            let event = self.event(line)?;
            self.events.push(event);
        } else if line == "TransitionStack=" || line == "Stack=" {
            self.end_stack();
            self.part = if line == "Stack=" { Part::Stack } else { Part::TransitionStack };
        } else if let Some(function) = self.function.take() {
            let (file, line) = line.trim_start().rsplit_once(':').context("no file and line")?;
            let (file, line) = (self.string(file), line.parse()?);
            self.frames.push(Frame { function, file, line });
        } else if !line.is_empty() {
            ensure!(self.part != Part::None, "neither an event nor a stack");
            // Older traces have frames without a name, at address 0.
            let frame = line.strip_prefix('\t').context("no frame")?;
            let (function, _) = frame.split_once(" @ 0x").context("no frame")?;
            self.function = Some(self.string(function));
        }
        Ok(())
    }

    fn end_stack(&mut self) {
        let part = std::mem::take(&mut self.part);
        if part == Part::None {
            return;
        }
        let frames: Stack = std::mem::take(&mut self.frames).into();
        let found = intern(&mut self.stacks, frames);
        match (part, self.events.last_mut()) {
            (Part::Stack, Some(event)) => event.stack = found,
            (_, Some(Event { what: What::Goroutine { stack, .. }, .. })) => *stack = found,
            _ => {}
        }
    }

    fn string(&mut self, text: &str) -> Arc<str> {
        match self.strings.get(text) {
            Some(string) => Arc::clone(string),
            None => intern(&mut self.strings, text.into()),
        }
    }

    fn event(&mut self, line: &str) -> Result<Event> {
        let mut words = Cursor { rest: line };
        let m = words.number("M=")?;
        let p = words.number("P=")?;
        let g = words.number("G=")?;
        let kind = words.word()?;
        let time = words.number("Time=")?;
        let what = self.what(kind, &mut words)?;
        Ok(Event { time, m, p, g, what, stack: no_stack() })
    }

    fn what(&mut self, kind: &str, words: &mut Cursor<'_>) -> Result<What> {
        Ok(match kind {
            "StateTransition" if words.is("GoID=") => {
                let goid = words.number("GoID=")?;
                let (from, to) = words.states()?;
                let reason = self.text(words, "Reason=")?;
                What::Goroutine { goid, from, to, reason, stack: no_stack() }
            }
            "StateTransition" if words.is("ProcID=") => {
                let proc = words.number("ProcID=")?;
                let (from, to) = words.states()?;
                What::Proc { proc, from, to }
            }
            "RangeBegin" => {
                What::RangeBegin { name: self.text(words, "Name=")?, scope: words.scope()? }
            }
            "RangeEnd" => {
                let (name, scope) = (self.text(words, "Name=")?, words.scope()?);
                let mut attributes = Vec::new();
                words.skip("Attributes=[")?;
                while !words.is("]") {
                    let name = self.text(words, "")?;
                    words.skip("=")?;
                    attributes.push((name, words.value()?));
                }
                What::RangeEnd { name, scope, attributes }
            }
            "Metric" => {
                let name = self.text(words, "Name=")?;
                words.skip("Value=")?;
                What::Metric { name, value: words.value()? }
            }
            "Label" => {
                let label = self.text(words, "Label=")?;
                match words.resource("Resource=")? {
                    Scope::Goroutine(goid) => What::Label { goid, label },
                    _ => What::Other("Label".into()),
                }
            }
            "TaskBegin" | "TaskEnd" => {
                let id = words.number("ID=")?;
                let parent: u64 = words.number("Parent=")?;
                let parent = if parent == NO_TASK { 0 } else { parent };
                let name = self.text(words, "Type=")?;
                match kind {
                    "TaskBegin" => What::TaskBegin { id, parent, name },
                    _ => What::TaskEnd { id, name },
                }
            }
            "RegionBegin" | "RegionEnd" => {
                let (task, name) = (words.number("Task=")?, self.text(words, "Type=")?);
                match kind {
                    "RegionBegin" => What::RegionBegin { task, name },
                    _ => What::RegionEnd { task, name },
                }
            }
            "Log" => What::Log {
                task: words.number("Task=")?,
                category: self.text(words, "Category=")?,
                message: self.text(words, "Message=")?,
            },
            other => What::Other(self.string(other)),
        })
    }

    fn text(&mut self, words: &mut Cursor<'_>, key: &str) -> Result<Arc<str>> {
        words.skip(key)?;
        let text = words.quoted()?;
        Ok(self.string(&text))
    }
}

fn intern<T: ?Sized + Eq + std::hash::Hash>(set: &mut HashSet<Arc<T>>, value: Arc<T>) -> Arc<T> {
    if let Some(found) = set.get(&value) {
        return Arc::clone(found);
    }
    set.insert(Arc::clone(&value));
    value
}

/// What is left of an event's line.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn is(&self, prefix: &str) -> bool {
        self.rest.trim_start().starts_with(prefix)
    }

    fn skip(&mut self, prefix: &str) -> Result<()> {
        let rest = self.rest.trim_start();
        self.rest = rest.strip_prefix(prefix).with_context(|| format!("no {prefix}"))?;
        Ok(())
    }

    /// Up to the next space.
    fn word(&mut self) -> Result<&'a str> {
        let rest = self.rest.trim_start();
        ensure!(!rest.is_empty(), "the line is too short");
        let (word, rest) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
        self.rest = rest;
        Ok(word)
    }

    fn number<T: std::str::FromStr>(&mut self, key: &str) -> Result<T> {
        self.skip(key)?;
        self.word()?.parse().ok().with_context(|| format!("no number after {key}"))
    }

    fn states(&mut self) -> Result<(State, State)> {
        let (from, to) = self.word()?.split_once("->").context("no states")?;
        Ok((state(from)?, state(to)?))
    }

    fn scope(&mut self) -> Result<Scope> {
        self.resource("Scope=")
    }

    /// `None`, or such as `Goroutine(7)`.
    fn resource(&mut self, key: &str) -> Result<Scope> {
        self.skip(key)?;
        let word = self.word()?;
        if word == "None" {
            return Ok(Scope::Process);
        }
        let (kind, id) =
            word.strip_suffix(')').and_then(|word| word.split_once('(')).context("no resource")?;
        let id = id.parse()?;
        Ok(match kind {
            "Goroutine" => Scope::Goroutine(id),
            "Proc" => Scope::Proc(id),
            "Thread" => Scope::Thread(id),
            other => bail!("an unknown resource {other}"),
        })
    }

    /// Such as `Value{Uint64(8192)}`.
    fn value(&mut self) -> Result<u64> {
        self.skip("Value{Uint64(")?;
        let (number, rest) = self.rest.split_once(")}").context("an open value")?;
        self.rest = rest;
        Ok(number.parse()?)
    }

    /// A string literal of Go.
    fn quoted(&mut self) -> Result<String> {
        self.skip("\"")?;
        let mut text = Vec::new();
        let mut rest = self.rest.chars();
        loop {
            let mut utf8 = [0; 4];
            match rest.next().context("an open quote")? {
                '"' => break,
                '\\' => {
                    let escape = rest.next().context("an open escape")?;
                    let mut code = |digits: usize| -> Result<u32> {
                        let hex = rest.as_str().get(..digits).context("a short escape")?;
                        rest = rest.as_str()[digits..].chars();
                        Ok(u32::from_str_radix(hex, 16)?)
                    };
                    let c = match escape {
                        'a' => '\x07',
                        'b' => '\x08',
                        'f' => '\x0c',
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        'v' => '\x0b',
                        'x' => {
                            // A byte that is no UTF-8.
                            text.push(u8::try_from(code(2)?)?);
                            continue;
                        }
                        'u' => char::from_u32(code(4)?).context("no character")?,
                        'U' => char::from_u32(code(8)?).context("no character")?,
                        other => other,
                    };
                    text.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
                }
                c => text.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes()),
            }
        }
        self.rest = rest.as_str();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn state(word: &str) -> Result<State> {
    Ok(match word {
        "Undetermined" => State::Undetermined,
        "NotExist" => State::NotExist,
        "Runnable" => State::Runnable,
        "Running" => State::Running,
        "Waiting" => State::Waiting,
        "Syscall" => State::Syscall,
        "Idle" => State::Idle,
        other => bail!("an unknown state {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(line: &str) -> What {
        let mut events = parse(line).expect("it is well formed");
        assert_eq!(events.len(), 1);
        events.remove(0).what
    }

    #[test]
    fn reasons_and_stacks_are_read() {
        let text = "M=-1 P=-1 G=-1 Sync Time=5 N=1 Trace=5 Mono=5 Wall=2026-01-01T00:00:00Z\n\
            M=7 P=0 G=1 StateTransition Time=64 GoID=3 Running->Waiting Reason=\"chan receive\"\n\
            TransitionStack=\n\tmain.a @ 0x4a\n\t\t/a b.go:1\n\tmain.b @ 0x4b\n\t\t/b.go:2\n\n\
            Stack=\n\tmain.c @ 0x4c\n\t\t/c.go:3\n\n";
        let events = parse(text).expect("it is well formed");
        assert_eq!(events.len(), 2);
        let What::Goroutine { reason, stack, goid, .. } = &events[1].what else {
            panic!("{:?}", events[1]);
        };
        assert_eq!((goid, &**reason), (&3, "chan receive"));
        let frames: Vec<String> = stack.iter().map(Frame::to_string).collect();
        assert_eq!(frames, ["main.a /a b.go:1", "main.b /b.go:2"]);
        assert_eq!(events[1].stack[0].to_string(), "main.c /c.go:3");
        assert_eq!((events[1].m, events[1].p, events[1].g, events[1].time), (7, 0, 1, 64));
        assert!(events[0].stack.is_empty());
    }

    #[test]
    fn all_kinds_are_read() {
        let line = "M=1 P=2 G=3 RangeEnd Time=4 Name=\"GC incremental sweep\" Scope=Proc(2) \
            Attributes=[\"bytes swept\"=Value{Uint64(8192)} \"bytes reclaimed\"=Value{Uint64(64)}]";
        assert_eq!(
            only(line),
            What::RangeEnd {
                name: "GC incremental sweep".into(),
                scope: Scope::Proc(2),
                attributes: vec![("bytes swept".into(), 8192), ("bytes reclaimed".into(), 64)],
            }
        );
        let line = "M=1 P=2 G=3 RangeBegin Time=4 Name=\"GC concurrent mark phase\" Scope=None";
        let name = "GC concurrent mark phase".into();
        assert_eq!(only(line), What::RangeBegin { name, scope: Scope::Process });
        let line = "M=1 P=2 G=3 Metric Time=4 Name=\"/gc/heap/goal:bytes\" Value=Value{Uint64(7)}";
        assert_eq!(only(line), What::Metric { name: "/gc/heap/goal:bytes".into(), value: 7 });
        let line = "M=1 P=2 G=7 Label Time=4 Label=\"GC (idle)\" Resource=Goroutine(7)";
        assert_eq!(only(line), What::Label { goid: 7, label: "GC (idle)".into() });
        let line = "M=1 P=2 G=7 TaskBegin Time=4 ID=1 Parent=18446744073709551615 Type=\"a b\"";
        assert_eq!(only(line), What::TaskBegin { id: 1, parent: 0, name: "a b".into() });
        let line = "M=1 P=2 G=7 RegionEnd Time=4 Task=2 Type=\"cook\"";
        assert_eq!(only(line), What::RegionEnd { task: 2, name: "cook".into() });
        let line = "M=1 P=2 G=-1 StateTransition Time=4 ProcID=2 Running->Idle Reason=\"\"";
        assert_eq!(only(line), What::Proc { proc: 2, from: State::Running, to: State::Idle });
    }

    #[test]
    fn quotes_are_undone() {
        let line = r#"M=1 P=2 G=7 Log Time=4 Task=2 Category="a \"b\"" Message="\\x\n\u00e9\xff""#;
        let (category, message) = ("a \"b\"".into(), "\\x\n\u{e9}\u{fffd}".into());
        assert_eq!(only(line), What::Log { task: 2, category, message });
    }

    #[test]
    fn frames_may_have_no_name() {
        let text = "M=1 P=0 G=1 StateTransition Time=1 GoID=1 Running->Waiting Reason=\"\"\n\
            Stack=\n\t @ 0x0\n\t\t:0\n";
        let events = parse(text).expect("it is well formed");
        assert_eq!(events[0].stack[0].to_string(), " :0");
    }

    #[test]
    fn damage_is_an_error() {
        for text in [
            "",
            "M=x P=0 G=1 StateTransition Time=1 GoID=1 Running->Waiting Reason=\"\"",
            "M=1 P=0 G=1 StateTransition Time=1 GoID=1 Running->Flying Reason=\"\"",
            "M=1 P=0 G=1 RangeBegin Time=1 Name=",
            "M=1 P=0 G=1 RangeBegin Time=1 Name=\"x",
            "M=1 P=0 G=1 Log Time=1 Task=1 Category=\"\\u00\" Message=\"\"",
            "M=1 P=0 G=1 Log",
            "\tmain.a @ 0x4a",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
