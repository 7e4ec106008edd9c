//! Names with wildcards, as users write them on a command line.

/// A name in which `*` stands for any text and `?` for any character. Nothing else is special: brackets are part of the
/// names of generic functions.
///
/// What is written as it is always matches itself, as `net/http.(*conn).serve` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    characters: Vec<char>,
}

impl Pattern {
    /// A pattern.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), characters: text.chars().collect() }
    }

    /// Whether it stands for all of a name.
    pub fn is_whole(&self, name: &str) -> bool {
        self.text == name || matches(&self.characters, name)
    }

    /// Whether it is in a name; one with wildcards stands for all of it.
    pub fn is_part(&self, name: &str) -> bool {
        name.contains(&self.text) || matches(&self.characters, name)
    }
}

/// Whether a pattern stands for all of a name, in time that grows with the product of their lengths at most.
fn matches(pattern: &[char], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let (mut at, mut of) = (0, 0);
    // Behind the last star, and up to where in the name it stands for the text.
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        match (pattern.get(of), star) {
            (Some('*'), _) => {
                of += 1;
                star = Some((of, at));
            }
            (Some(c), _) if *c == '?' || *c == name[at] => {
                at += 1;
                of += 1;
            }
            (_, Some((behind, until))) => {
                star = Some((behind, until + 1));
                (of, at) = (behind, until + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[of..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_others() {
        for (pattern, name, is) in [
            ("main.*", "main.work", true),
            ("main.*", "x/main.work", false),
            ("*.work", "main.work", true),
            ("*.wor", "main.work", false),
            ("m?in.w*k", "main.work", true),
            ("m??in", "main", false),
            ("*a*b*c*", "xaybzc", true),
            ("*a*b*c*", "xaybz", false),
            ("**", "", true),
            ("?", "", false),
            ("", "", true),
            ("ä?", "äö", true),
        ] {
            assert_eq!(Pattern::new(pattern).is_whole(name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn what_go_puts_into_names_matches_itself() {
        for name in ["net/http.(*conn).serve", "main.Map[...].func1", "a.b?", "main.(*T[int]).Do"] {
            assert!(Pattern::new(name).is_whole(name), "{name}");
            assert!(Pattern::new(name).is_part(name), "{name}");
        }
        assert!(Pattern::new("conn).ser").is_part("net/http.(*conn).serve"));
        assert!(Pattern::new("http.(*conn)").is_part("net/http.(*conn).serve"));
        assert!(!Pattern::new("Map[x]").is_part("main.Map[...]"));
    }

    #[test]
    fn many_stars_take_no_long_time() {
        let pattern = "*a".repeat(500) + "b";
        assert!(!Pattern::new(&pattern).is_whole(&"a".repeat(5_000)));
    }
}
