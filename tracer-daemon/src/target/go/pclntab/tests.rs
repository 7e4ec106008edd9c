//! Tables written as the linker does.

use super::*;

const MAGIC_1_18: u32 = 0xffff_fff0;
const MAGIC_1_20: u32 = 0xffff_fff1;
const TEXT: u64 = 0x40_1000;
const NO_DATA: u32 = u32::MAX;

/// A function to be written.
#[derive(Clone, Default)]
struct Source<'a> {
    start: u32,
    name: &'a str,
    id: u8,
    start_line: u32,
    /// Sizes of the frame, and the number of bytes of code of each.
    sizes: &'a [(i32, u32)],
    /// Lines, and the number of bytes of code of each.
    lines: &'a [(i32, u32)],
    /// Numbers of inlined calls (-1: none), and the number of bytes of code of each.
    calls: &'a [(i32, u32)],
    /// Inlined calls: name, FuncID, line of `func`, instruction at the place of the call.
    tree: &'a [(&'a str, u8, u32, u32)],
    /// Start of the function that this one wraps.
    wraps: Option<u32>,
}

/// Bytes of the table and of `go:func.*`.
fn write(magic: u32, functions: &[Source<'_>], end: u32) -> (Vec<u8>, Vec<u8>) {
    let mut names = vec![0];
    let mut name = |name: &str| {
        let at = names.len();
        names.extend(name.as_bytes());
        names.push(0);
        u32::try_from(at).expect("small")
    };
    let mut values = vec![0];
    // Something that is not a function's data comes first: offset 0 must not mean "none".
    let mut data = vec![0xee; 4];
    let mut index = Vec::new();
    let mut funcs = Vec::new();
    let funcs_start = 8 * functions.len() + 4;
    for f in functions {
        let at = u32::try_from(funcs_start + funcs.len()).expect("small");
        index.extend([f.start, at].map(u32::to_le_bytes).concat());
        let end = u32::try_from(data.len()).expect("small");
        let tree = if f.tree.is_empty() { NO_DATA } else { end };
        for &(callee, id, line, parent) in f.tree {
            let callee = name(callee);
            match magic {
                MAGIC_1_18 => {
                    data.extend([0xff, 0xff, id, 0]);
                    data.extend([7, 8, callee, parent].map(u32::to_le_bytes).concat());
                }
                _ => {
                    data.extend([id, 0, 0, 0]);
                    data.extend([callee, parent, line].map(u32::to_le_bytes).concat());
                }
            }
        }
        let wraps = match f.wraps {
            Some(start) => {
                data.extend(start.to_le_bytes());
                u32::try_from(data.len() - 4).expect("small")
            }
            None => NO_DATA,
        };
        let length: u32 = f.lines.iter().map(|(_, bytes)| bytes).sum();
        let sizes = pairs(&mut values, f.sizes);
        let files = pairs(&mut values, &[(0, length)]);
        let lines = pairs(&mut values, f.lines);
        let calls = pairs(&mut values, f.calls);
        let words = [f.start, name(f.name), 0, 0, sizes, files, lines, 3, 1];
        funcs.extend(words.map(u32::to_le_bytes).concat());
        if magic != MAGIC_1_18 {
            funcs.extend(f.start_line.to_le_bytes());
        }
        funcs.extend([f.id, 0, 0, 8]);
        let pcdata = [0, 0, calls];
        let funcdata = [NO_DATA, NO_DATA, NO_DATA, tree, NO_DATA, NO_DATA, NO_DATA, wraps];
        funcs.extend(pcdata.iter().chain(&funcdata).flat_map(|word| word.to_le_bytes()));
    }
    index.extend(end.to_le_bytes());
    index.extend(funcs);
    // The second unit, which the functions are of, has one file.
    let units = [NO_DATA, 5].map(u32::to_le_bytes).concat();
    let files = b"a.go\0main.go\0".to_vec();

    let mut bytes = magic.to_le_bytes().to_vec();
    bytes.extend([0, 0, 1, 8]);
    let mut offset = 72u64;
    let mut words = vec![functions.len() as u64, 2, 0];
    for part in [&names, &units, &files, &values, &index] {
        words.push(offset);
        offset += part.len() as u64;
    }
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    for part in [names, units, files, values, index] {
        bytes.extend(part);
    }
    (bytes, data)
}

/// Writes a table of values, and returns its offset; 0 for an empty one.
fn pairs(values: &mut Vec<u8>, pairs: &[(i32, u32)]) -> u32 {
    if pairs.is_empty() {
        return 0;
    }
    let at = values.len();
    let mut last = -1;
    for &(value, length) in pairs {
        let difference = value - last;
        last = value;
        varint(values, ((difference << 1) ^ (difference >> 31)).cast_unsigned());
        varint(values, length);
    }
    values.push(0);
    u32::try_from(at).expect("small")
}

fn varint(bytes: &mut Vec<u8>, mut value: u32) {
    while value > 0x7f {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn parse(magic: u32, functions: &[Source<'_>], end: u32) -> Functions {
    let (bytes, data) = write(magic, functions, end);
    let mut table = Table::parse(&bytes).expect("a valid table");
    assert!((table.last_data() as usize) < data.len());
    table.set_data(&data);
    Functions::new(table, TEXT, 25)
}

impl Functions {
    /// Functions from start to end with these names, without gaps, for tests.
    pub fn for_tests(functions: &[(u64, u64, &str)]) -> Self {
        let text = functions.first().expect("at least one").0;
        let offset = |address| u32::try_from(address - text).expect("near");
        let sources: Vec<Source<'_>> = functions
            .iter()
            .map(|&(start, _, name)| Source { start: offset(start), name, ..Source::default() })
            .collect();
        let end = functions.iter().map(|&(_, end, _)| offset(end)).max().unwrap_or_default();
        let (bytes, _) = write(MAGIC_1_20, &sources, end);
        Self::new(Table::parse(&bytes).expect("a valid table"), text, 27)
    }
}

const GOEXIT: u8 = 7;
const GOPANIC: u8 = 9;
const SWITCH: u8 = 20;
const WRAPPER: u8 = SWITCH + 1;

/// `main.main` calls `main.outer`, into which `main.mid` is inlined, and into that `main.leaf`.
fn program() -> Vec<Source<'static>> {
    let tree = &[("main.mid", 0, 30, 0x11), ("main.leaf[go.shape.int]", 0, 40, 0x18)];
    vec![
        Source { start: 0, name: "main.main", lines: &[(10, 0x20)], ..Source::default() },
        Source {
            start: 0x20,
            name: "main.outer",
            start_line: 20,
            lines: &[(21, 0x14), (31, 8), (300, 0x14)],
            calls: &[(-1, 0x14), (0, 8), (1, 0x14)],
            tree,
            ..Source::default()
        },
        Source {
            start: 0x50,
            name: "main.wrap",
            id: WRAPPER,
            lines: &[(1, 0x10)],
            wraps: Some(0),
            ..Source::default()
        },
        Source { start: 0x60, name: "runtime.goexit", id: GOEXIT, ..Source::default() },
        Source { start: 0x70, name: "runtime.gopanic", id: GOPANIC, ..Source::default() },
        Source { start: 0x80, name: "runtime.systemstack_switch", id: SWITCH, ..Source::default() },
        Source { start: 0x90, name: "runtime.main", lines: &[(5, 0x10)], ..Source::default() },
    ]
}

const END: u32 = 0xa0;

fn at(offset: u64) -> u64 {
    TEXT + offset
}

/// Functions of a stack of return addresses.
fn names(functions: &Functions, pcs: &[u64], skip: u32) -> Vec<String> {
    functions.expand(pcs, skip).iter().map(|frame| frame.function.to_string()).collect()
}

#[test]
fn finds_functions_by_name_and_address() {
    for magic in [MAGIC_1_18, MAGIC_1_20] {
        let functions = parse(magic, &program(), END);
        assert_eq!(functions.range("main.main"), Some((at(0), at(0x20))));
        assert_eq!(functions.range("main.mai"), None);
        assert_eq!(functions.extent(), Some((at(0), at(END.into()))));
        assert_eq!(functions.start_name(at(0x1f)).as_deref(), Some("main.main"));
        assert_eq!(functions.range("main.wrap"), Some((at(0x50), at(0x60))));
        assert_eq!(functions.start_name(at(0x50)).as_deref(), Some("main.main"));
        assert_eq!(functions.start_name(at(0x9f)).as_deref(), Some("runtime.main"));
        assert_eq!(functions.start_name(at(END.into())), None);
        assert_eq!(functions.start_name(TEXT - 1), None);
    }
}

#[test]
fn inlined_calls_are_frames_of_their_own() {
    for magic in [MAGIC_1_18, MAGIC_1_20] {
        let functions = parse(magic, &program(), END);
        let frames = functions.frames_at(at(0x40));
        let seen: Vec<_> = frames.iter().map(|f| (&*f.function, f.line, f.inlined)).collect();
        // The line of `mid` is where it calls `leaf`, not where it is called; and so on outwards.
        let expected =
            [("main.leaf[...]", 300, true), ("main.mid", 31, true), ("main.outer", 21, false)];
        assert_eq!(seen, expected);
        let lines: Vec<u32> = frames.iter().map(|f| f.start_line).collect();
        assert_eq!(lines, if magic == MAGIC_1_18 { [0, 0, 0] } else { [40, 30, 20] });
        assert!(frames.iter().all(|f| &*f.file == "main.go" && f.entry == at(0x20)));
        assert_eq!(frames.iter().map(|f| f.pc).collect::<Vec<_>>(), [0x40, 0x38, 0x31].map(at));
        // Once more, from the cache.
        assert_eq!(functions.frames_at(at(0x40)), frames);
    }
}

#[test]
fn a_stack_is_that_of_gos_tracer() {
    let functions = parse(MAGIC_1_20, &program(), END);
    let (outer, wrap, main, goexit) = (at(0x41), at(0x59), at(0x10), at(0x61));
    let expected = ["main.leaf[...]", "main.mid", "main.outer", "main.main"];
    assert_eq!(names(&functions, &[outer, wrap, main, goexit], 0), expected);
    assert_eq!(names(&functions, &[outer, wrap, main, goexit], 2), expected[2..]);
    assert_eq!(names(&functions, &[outer, main, at(0x95), goexit], 0), expected);
    assert!(names(&functions, &[outer, main, goexit], 9).is_empty());
    // A wrapper that called a panic is not left out, nor is one that called nothing else.
    assert_eq!(names(&functions, &[at(0x79), wrap, goexit], 0), ["runtime.gopanic", "main.wrap"]);
    // A goroutine that has not begun: the address is that of the function, not of the one before.
    assert_eq!(names(&functions, &[at(0x20), goexit], 0), ["main.outer"]);
    // Code of C, and an address that cannot be one.
    assert_eq!(names(&functions, &[7, main, 0], 0), ["[unknown]", "main.main", "[unknown]"]);
    assert_eq!(functions.expand(&[main; 500], 0).len(), 128);
}

#[test]
fn of_a_deep_stack_goes_what_gos_tracer_leaves_out() {
    let taken = |minor, depth: usize, end: &[u64], skip, cut_of_main| {
        let (bytes, data) = write(MAGIC_1_20, &program(), END);
        let mut table = Table::parse(&bytes).expect("a valid table");
        table.set_data(&data);
        let functions = Functions::new(table, TEXT, minor);
        let pcs: Vec<u64> = std::iter::repeat_n(at(0x10), depth).chain(end.to_vec()).collect();
        functions.taken(&pcs, skip, cut_of_main).len()
    };
    let (main, goexit) = (at(0x95), at(0x61));
    // As Go's own traces have it: 127 addresses are taken, and one of them is left out as the end.
    assert_eq!(taken(25, 500, &[], 0, false), 126);
    assert_eq!(taken(25, 500, &[], 1, false), 126);
    assert_eq!(taken(25, 500, &[], 0, true), 125);
    assert_eq!(taken(25, 125, &[main, goexit], 0, false), 125);
    assert_eq!(taken(25, 126, &[main, goexit], 0, false), 125);
    assert_eq!(taken(25, 126, &[goexit], 0, false), 126);
    // What ends before that is whole.
    assert_eq!(taken(25, 125, &[goexit], 0, false), 126);
    assert_eq!(taken(27, 500, &[], 0, false), 133);
    assert_eq!(taken(27, 130, &[goexit], 0, false), 131);
    // Before Go 1.21 what is not shown does not count.
    assert_eq!(taken(20, 500, &[], 0, false), 127);
    assert_eq!(taken(20, 500, &[], 2, false), 129);
}

#[test]
fn the_largest_frame_is_that_of_the_function_at_work() {
    for magic in [MAGIC_1_18, MAGIC_1_20] {
        let mut program = program();
        program[0].sizes = &[(0, 4), (8, 4), (32, 0x10), (0, 8)];
        let functions = parse(magic, &program, END);
        assert_eq!(functions.frame_size("main.main"), Some(32));
        assert_eq!(functions.frame_size("main.outer"), None, "it has no table");
        assert_eq!(functions.frame_size("main.mai"), None);
    }
}

#[test]
fn what_is_not_in_the_table_is_a_question_mark() {
    let functions = parse(MAGIC_1_20, &program(), END);
    let frames = functions.frames_at(at(0x65));
    let seen: Vec<_> = frames.iter().map(|f| (&*f.function, &*f.file, f.line)).collect();
    assert_eq!(seen, [("runtime.goexit", "?", 0)]);
}

#[test]
fn calls_that_are_inlined_into_themselves_end() {
    let mut program = program();
    program[1].tree = &[("main.mid", 0, 30, 0x18), ("main.leaf", 0, 40, 0x18)];
    let functions = parse(MAGIC_1_20, &program, END);
    assert_eq!(functions.frames_at(at(0x40)).len(), 512);
}

#[test]
fn copies_of_inlined_functions_are_found_with_what_is_inlined_into_them() {
    for magic in [MAGIC_1_18, MAGIC_1_20] {
        let functions = parse(magic, &program(), END);
        let copies = |wanted: &[(&str, Option<&str>)]| {
            let copies = functions.copies_of(wanted).expect("not too many");
            copies
                .into_iter()
                .map(|copy| (copy.function, copy.call, copy.ranges))
                .collect::<Vec<_>>()
        };
        let mid = ("main.mid".to_owned(), at(0x31), vec![(at(0x34), at(0x50))]);
        let leaf = ("main.leaf[go.shape.int]".to_owned(), at(0x38), vec![(at(0x3c), at(0x50))]);
        assert_eq!(
            copies(&[("main.mid", None), ("main.leaf[go.shape.int]", None)]),
            [mid.clone(), leaf]
        );
        assert_eq!(copies(&[("main.mid", Some("main.outer"))]), [mid]);
        assert_eq!(copies(&[("main.mid", Some("main.main"))]), []);
        assert_eq!(copies(&[("main.main", None), ("main.tulip", None)]), []);
    }
    let functions = parse(MAGIC_1_20, &program(), END);
    let copy = &functions.copies_of(&[("main.mid", None)]).expect("not too many")[0];
    assert_eq!((copy.holder.as_str(), copy.within), ("main.outer", (at(0x20), at(0x50))));
    assert!(copy.contains(at(0x34)) && copy.contains(at(0x4f)));
    assert!(!copy.contains(at(0x33)) && !copy.contains(at(0x50)));
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let (good, data) = write(MAGIC_1_20, &program(), END);
    let error = |bytes: &[u8]| Table::parse(bytes).err();
    assert_eq!(error(&good[..3]), Some(TableError::Damaged("no header")));
    assert_eq!(error(&good[..70]), Some(TableError::Damaged("offset of the names")));
    let ask = |bytes: &[u8], data: &[u8]| {
        let Ok(mut table) = Table::parse(bytes) else { return };
        let _ = table.last_data();
        table.set_data(data);
        let functions = Functions::new(table, TEXT, 27);
        let _ = functions.copies_of(&[("main.mid", None), ("main.leaf[go.shape.int]", None)]);
        for offset in 0..u64::from(END) {
            let _ = functions.start_name(at(offset));
            let _ = functions.expand(&[at(offset), at(1), at(0x61)], 0);
        }
    };
    for len in 0..good.len() {
        ask(&good[..len], &data);
    }
    for len in 0..data.len() {
        ask(&good, &data[..len]);
    }
    for i in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[i] ^= flip;
            ask(&bad, &data);
        }
    }
    let mut other = good;
    other[0] = 0xfb;
    assert_eq!(error(&other), Some(TableError::Magic(0xffff_fffb)));
}
