//! The commands.

mod by_process;
mod control;
mod dump;
mod export;
mod goroutines;
mod schema;
mod sql;
mod status;
mod waits;

use anyhow::Result;

use crate::args::{Args, Command};

/// Does what the command line says.
pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Sql(args) => sql::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Goroutines(args) => goroutines::run(args),
        Command::Waits(args) => waits::run(args),
        Command::Export(args) => export::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Ls(args) => control::ls(args),
        Command::Attach(args) => control::attach(args),
        Command::Detach(args) => control::detach(args),
        Command::Status(args) => status::run(args),
        Command::Snapshot(args) => control::snapshot(args),
    }
}

/// The names that are most like a wrong one, the best first; none when none is alike.
fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wrong = wrong.to_lowercase();
    let mut scored: Vec<(f64, &str)> = names
        .into_iter()
        .map(|name| {
            let lower = name.to_lowercase();
            let part = lower.contains(&wrong) || wrong.contains(&lower);
            let bonus = if part && !wrong.is_empty() { 0.5 } else { 0.0 };
            (strsim::jaro_winkler(&wrong, &lower) + bonus, name)
        })
        .filter(|(score, _)| *score > 0.75)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.truncate(3);
    scored.into_iter().map(|(_, name)| name).collect()
}

/// A hint at the nearest names, to be put behind a message.
fn did_you_mean<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(wrong, names).as_slice() {
        [] => String::new(),
        near => format!(" (did you mean {}?)", near.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn names_that_are_alike_are_found() {
        let names = ["thread_state", "goroutine_state", "syscall", "heap", "gc"];
        assert_eq!(nearest("syscalls", names), ["syscall"]);
        assert_eq!(nearest("tread_state", names)[0], "thread_state");
        assert_eq!(nearest("state", names).len(), 2);
        assert!(nearest("xyz", names).is_empty());
        assert!(nearest("", names).is_empty());
    }
}
