//! Texts that are shown to people, and that a traced process may have made up.

/// A text in which others may have put what controls a terminal, without that; some control characters stay.
pub fn escaped(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !stays(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controls_a_terminal_is_escaped() {
        assert_eq!(escaped("a\n\x1b[2J\u{9b}\rü", |c| c == '\n'), "a\n\\u{1b}[2J\\u{9b}\\rü");
    }
}
