//! Names of functions as Go prints them: without the types that a generic function was made for
//! (runtime/traceback.go, funcNamePiecesForPrint).

use std::borrow::Cow;

const TYPES: &str = "[...]";

/// `main.F[go.shape.int].func1` becomes `main.F[...].func1`. Since Go 1.27 (`methods`), methods have
/// type parameters of their own, and keep their name between the two: `main.T[...].M[...]`.
pub fn printed(name: &str, methods: bool) -> Cow<'_, str> {
    let (Some(open), Some(close)) = (name.find('['), name.rfind(']')) else {
        return Cow::Borrowed(name);
    };
    if close <= open {
        return Cow::Borrowed(name);
    }
    let (before, between, after) = (&name[..open], &name[open + 1..close], &name[close + 1..]);
    if !methods || !between.contains('[') {
        return Cow::Owned([before, TYPES, after].concat());
    }
    match method(between) {
        Between::Types => Cow::Owned([before, TYPES, after].concat()),
        Between::Method(method) => Cow::Owned([before, TYPES, method, TYPES, after].concat()),
        Between::Unbalanced => Cow::Borrowed(name),
    }
}

/// What stands between the first `[` and the last `]` of a name.
enum Between<'a> {
    /// One list of types.
    Types,
    /// A list of types, the name of a method, and another list.
    Method(&'a str),
    Unbalanced,
}

fn method(between: &str) -> Between<'_> {
    let mut depth = 1u32;
    let mut closed = None;
    for (at, character) in between.char_indices() {
        match character {
            '[' => {
                depth += 1;
                if let (1, Some(closed)) = (depth, closed) {
                    return Between::Method(&between[closed..at]);
                }
            }
            ']' => {
                let Some(left) = depth.checked_sub(1) else {
                    return Between::Unbalanced;
                };
                depth = left;
                if depth == 0 {
                    closed = Some(at + 1);
                }
            }
            _ => {}
        }
    }
    if depth == 1 && closed.is_none() { Between::Types } else { Between::Unbalanced }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_left_out() {
        for (name, expected) in [
            ("main.main", "main.main"),
            ("main.F[go.shape.int]", "main.F[...]"),
            ("main.F[main.T[int]].func1", "main.F[...].func1"),
            ("main.F[...]", "main.F[...]"),
            ("main.(*T[go.shape.string]).M", "main.(*T[...]).M"),
            ("a]b[", "a]b["),
            ("a[", "a["),
            ("", ""),
        ] {
            assert_eq!(printed(name, false), expected);
            assert_eq!(printed(name, true), expected);
        }
    }

    #[test]
    fn methods_with_types_keep_their_name_since_go_1_27() {
        let name = "main.(*T[go.shape.int]).M[go.shape.string].func1";
        assert_eq!(printed(name, true), "main.(*T[...]).M[...].func1");
        assert_eq!(printed(name, false), "main.(*T[...].func1");
        let nested = "main.T[main.T[int]].M[main.T[int]]";
        assert_eq!(printed(nested, true), "main.T[...].M[...]");
        for odd in ["a[b]]c[]]", "[]]]"] {
            let _ = printed(odd, true);
        }
    }
}
