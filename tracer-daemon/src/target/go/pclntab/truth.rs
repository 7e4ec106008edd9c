//! Frames of real programs, compared with what Go's own runtime says of the same stacks.

use std::{path::Path, process::Command};

use tracer_tests::go::Go;

use super::*;
use crate::target::{ElfFile, go};

/// What the program `frames` prints.
#[derive(Default)]
struct Stack {
    name: String,
    pcs: Vec<u64>,
    /// Function, file and line.
    frames: Vec<(String, String, u32)>,
}

/// The stacks, and the address of `main.main`.
fn parse(output: &str) -> (Vec<Stack>, u64) {
    let number = |text: &str| {
        let digits = text.strip_prefix("0x").expect("hexadecimal");
        u64::from_str_radix(digits, 16).expect("hexadecimal")
    };
    let mut stacks: Vec<Stack> = Vec::new();
    let mut main = 0;
    for line in output.lines() {
        let (word, rest) = line.split_once(' ').expect("two words");
        match word {
            "base" => main = number(rest.strip_prefix("main.main ").expect("its name")),
            "stack" => stacks.push(Stack { name: rest.to_owned(), ..Stack::default() }),
            "pc" => stacks.last_mut().expect("a stack").pcs.push(number(rest)),
            "frame" => {
                let (rest, line) = rest.rsplit_once(' ').expect("a line");
                let (function, file) = rest.rsplit_once(' ').expect("a file");
                let line = line.parse().expect("a number");
                let frame = (function.to_owned(), file.to_owned(), line);
                stacks.last_mut().expect("a stack").frames.push(frame);
            }
            other => panic!("{other}?"),
        }
    }
    (stacks, main)
}

fn functions(path: &Path) -> Functions {
    let file = ElfFile::open(path).expect("readable");
    let elf = file.parse().expect("an executable");
    let name = go::version(&elf).expect("a Go program");
    go::GoRuntime::read(&elf, &name).expect("a known version").functions
}

/// Compares all stacks of a run, and returns how many inlined frames there were.
fn compare(path: &Path) -> usize {
    let output = Command::new(path).output().expect("it runs");
    let functions = functions(path);
    let (stacks, main) = parse(&String::from_utf8(output.stdout).expect("text"));
    let bias = main - functions.range("main.main").expect("it has one").0;
    assert!(stacks.len() > 15, "only {} stacks", stacks.len());
    let mut inlined = 0;
    for stack in stacks {
        let pcs: Vec<u64> = stack.pcs.iter().map(|pc| pc - bias).collect();
        let found = functions.expand(&pcs, 0);
        inlined += found.iter().filter(|frame| frame.inlined).count();
        let found: Vec<_> = found
            .iter()
            .map(|frame| (frame.function.to_string(), frame.file.to_string(), frame.line))
            .collect();
        // Go's tracer leaves out the last return addresses, and so does `expand`; the runtime does
        // not. From 1.21 on that takes doInit with it, which is inlined into runtime.main.
        let mut expected = stack.frames;
        assert!(found.iter().all(|(function, ..)| function != "runtime.goexit"));
        for last in ["runtime.goexit", "runtime.main", "runtime.doInit"] {
            let is_last = |frames: &[(String, String, u32)]| {
                frames.last().is_some_and(|(function, ..)| function == last)
            };
            if is_last(&expected) && !is_last(&found) {
                expected.pop();
            }
        }
        assert_eq!(found, expected, "{} in {}", stack.name, path.display());
    }
    inlined
}

#[test]
fn frames_are_those_of_the_runtime() {
    for minor in Go::minors() {
        let go = Go::of(minor).expect("setup has run");
        assert!(compare(&go.build("frames").expect("it compiles")) > 10);
    }
}

#[test]
fn frames_are_known_without_symbols_and_at_any_address() {
    let go = Go::find().expect("setup has run");
    assert!(compare(&go.build_stripped("frames").expect("it compiles")) > 10);
    assert!(compare(&go.build_pie("frames").expect("it compiles")) > 10);
}
