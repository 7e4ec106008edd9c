//! Events as lines of text.

use crate::decode::{Event, Generation, name};

/// Time, M, P, goroutine, name, and what the arguments stand for. An error if something that they refer to is
/// missing.
pub fn line(of: &Generation, thread: [Option<u64>; 3], event: &Event) -> Result<String, String> {
    let [m, p, g] = thread;
    let number = |n: Option<u64>| n.map_or("-".into(), |n| n.to_string());
    let mut line =
        format!("{} M{} P{} G{} {}", event.time, number(m), number(p), number(g), name(event.kind));
    let strings: &[usize] = match name(event.kind) {
        "GoStop" | "GoBlock" | "STWBegin" | "GoLabel" => &[0],
        "UserRegionBegin" | "UserRegionEnd" => &[1],
        "UserTaskBegin" => &[2],
        "UserLog" => &[1, 2],
        _ => &[],
    };
    let stacks: &[usize] = match name(event.kind) {
        "GCSweepBegin" | "GCMarkAssistBegin" => &[0],
        "ProcsChange" | "GoStop" | "GoBlock" | "GoSyscallBegin" | "STWBegin" | "GCBegin"
        | "UserTaskEnd" => &[1],
        "GoUnblock" | "UserRegionBegin" | "UserRegionEnd" => &[2],
        "GoCreate" | "GoCreateBlocked" => &[1, 2],
        "UserTaskBegin" | "UserLog" | "GoStatusStack" => &[3],
        _ => &[],
    };
    for (i, arg) in event.args.iter().enumerate() {
        line.push(' ');
        if strings.contains(&i) {
            line.push_str(match of.strings.get(arg) {
                Some(text) => text,
                None if *arg == 0 => "\"\"",
                None => return Err(format!("string {arg} is missing in {line}")),
            });
        } else if stacks.contains(&i) {
            line.push_str(&stack(of, *arg).ok_or(format!("stack {arg} is missing in {line}"))?);
        } else if *arg == u64::MAX {
            line.push('-');
        } else {
            line.push_str(&arg.to_string());
        }
    }
    Ok(line)
}

/// A stack as its functions, the innermost first.
fn stack(of: &Generation, id: u64) -> Option<String> {
    if id == 0 {
        return Some("[]".into());
    }
    let text = |id: &String| of.strings.get(&id[1..].parse().unwrap_or(0)).cloned();
    let frames = of.stacks.get(&id)?.iter();
    let frames: Vec<String> = frames
        .map(|(_, func, file, line)| match text(file) {
            Some(file) => format!("{} {file}:{line}", text(func).unwrap_or_default()),
            None => text(func).unwrap_or_default(),
        })
        .collect();
    Some(format!("[{}]", frames.join(", ")))
}
