//! Goroutines as text (runtime/traceback.go).

use std::io::{self, Write};

use super::goroutine::{Goroutine, Line};

/// Innermost frames, and outermost ones, that are shown of a deep stack.
const ENDS: usize = 50;

/// Writes them all, with an empty line after each.
pub fn write(out: &mut impl Write, goroutines: &[Goroutine]) -> io::Result<()> {
    for goroutine in goroutines {
        writeln!(out, "goroutine {} [{}]:", goroutine.goid, words(goroutine, true))?;
        frames(out, goroutine)?;
        if let Some(created) = &goroutine.created_by {
            write!(out, "created by {}", created.line.function)?;
            if let Some(goid) = created.goid {
                write!(out, " in goroutine {goid}")?;
            }
            writeln!(out)?;
            place(out, &created.line)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// What stands in the brackets.
pub fn words(goroutine: &Goroutine, with_minutes: bool) -> String {
    let mut words = goroutine.state.clone();
    if let Some(minutes) = goroutine.minutes.filter(|_| with_minutes) {
        words.push_str(&format!(", {minutes} minutes"));
    }
    if goroutine.is_locked {
        words.push_str(", locked to thread");
    }
    if goroutine.is_in_bubble {
        words.push_str(", synctest bubble");
        if let Some(id) = goroutine.bubble_id {
            words.push_str(&format!(" {id}"));
        }
    }
    words
}

/// Writes the frames of a goroutine, or why there are none.
pub fn frames(out: &mut impl Write, goroutine: &Goroutine) -> io::Result<()> {
    if let Some(reason) = goroutine.unavailable {
        writeln!(out, "\t{reason}")?;
    }
    let frames = &goroutine.frames;
    let left_out = frames.len().saturating_sub(2 * ENDS);
    for (i, line) in frames.iter().enumerate() {
        if left_out == 0 || i < ENDS || i >= frames.len() - ENDS {
            writeln!(out, "{}(...)", line.function)?;
            place(out, line)?;
        } else if i == ENDS {
            writeln!(out, "...{left_out} frames elided...")?;
        }
    }
    Ok(())
}

/// Writes the line below a function.
pub fn place(out: &mut impl Write, line: &Line) -> io::Result<()> {
    write!(out, "\t{}:{}", line.file, line.line)?;
    match line.offset {
        Some(offset) => writeln!(out, " +{offset:#x}"),
        None => writeln!(out),
    }
}
