//! The status line while recording, and the summary at the end. Both go to stderr.

use std::{
    io::{IsTerminal, Write, stderr},
    path::Path,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use tracer_protocol::escaped;

/// How often the line is written anew.
const PERIOD: Duration = Duration::from_millis(250);

/// One line, rewritten in place, if stderr is a terminal.
pub struct StatusLine {
    shown: bool,
    enabled: bool,
    last: Option<(Instant, u64)>,
    started: Instant,
}

impl StatusLine {
    /// `enabled` says whether it is wanted; without a terminal there is none anyway.
    pub fn new(enabled: bool) -> Self {
        let enabled = enabled && stderr().is_terminal();
        Self { shown: false, enabled, last: None, started: Instant::now() }
    }

    /// Says what is done before events come, and for how long by now.
    pub fn beginning(&mut self, what: &str) {
        if self.enabled {
            let seconds = self.started.elapsed().as_secs_f64();
            let _ = write!(stderr(), "\r\x1b[Ktracerd: {what}, {seconds:.1} s");
            self.shown = true;
        }
    }

    /// Time for a new line has come: shows events so far, their rate, and losses.
    pub fn update(&mut self, events: u64, lost: u64) {
        if !self.enabled {
            return;
        }
        let (since, before) = self.last.unwrap_or((self.started, 0));
        let period = since.elapsed();
        if period < PERIOD {
            return;
        }
        let rate = events.saturating_sub(before) as f64 / period.as_secs_f64();
        self.last = Some((Instant::now(), events));
        let seconds = self.started.elapsed().as_secs();
        let mut line = format!(
            "tracerd: {}:{:02}  {} events  {}/s",
            seconds / 60,
            seconds % 60,
            count(events),
            count(rate as u64)
        );
        if lost > 0 {
            line += &format!("  {} lost", count(lost));
        }
        // To the start of the line, and clear it.
        let _ = write!(stderr(), "\r\x1b[K{line}");
        self.shown = true;
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// After what time of waiting it is said for what.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says what is waited for if it takes long, until it is dropped.
pub struct Patience {
    _waits: Option<Sender<()>>,
}

impl Patience {
    /// `enabled` says whether that is wanted.
    pub fn new(what: &'static str, enabled: bool) -> Self {
        if !enabled {
            return Self { _waits: None };
        }
        Self::of(PATIENCE, move || tell(what))
    }

    /// Calls `say` after a time.
    fn of(time: Duration, say: impl FnOnce() + Send + 'static) -> Self {
        let (waits, over) = mpsc::channel();
        let work = move || {
            if over.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                say();
            }
        };
        // Without a thread it is silent.
        let thread = std::thread::Builder::new().name("patience".to_owned()).spawn(work);
        Self { _waits: thread.is_ok().then_some(waits) }
    }
}

/// What is said of a program that was to be traced with its goroutines.
pub const WITHOUT_GO: &str =
    "no Go runtime recognised: threads and system calls are traced, goroutines not";

/// Says what to ask next of a database, which `--db` names unless it is the usual one.
pub fn tell_next(db: Option<&Path>, goroutines: bool) {
    let db = db.map_or_else(String::new, |path| format!(" --db {}", path.display()));
    tell(&match goroutines {
        true => format!("next: tracer goroutines{db}"),
        false => format!(
            "next: tracer sql 'select state, count(*), sum(dur) from thread_state group by 1'{db}"
        ),
    });
}

/// A line on stderr, or more; names in it may be what a traced process made up. That nobody reads it (a closed pipe) is no
/// reason to fail.
pub fn tell(line: &str) {
    let _ = writeln!(stderr(), "tracerd: {}", escaped(line, |c| c == '\n'));
}

/// A number with its thousands set apart: 1234567 is 1,234,567.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size with a fitting unit: 1234567 is 1.2 MiB.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let decimals = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_long_is_printed() {
        let (said, heard) = mpsc::channel();
        let waits = |time, what| {
            let said = said.clone();
            Patience::of(time, move || said.send(what).expect("somebody listens"))
        };
        drop(waits(Duration::from_secs(1), "short"));
        let long = waits(Duration::from_millis(1), "long");
        assert_eq!(heard.recv_timeout(Duration::from_secs(30)), Ok("long"));
        drop(long);
        assert_eq!(heard.recv_timeout(Duration::from_millis(1500)), Err(RecvTimeoutError::Timeout));
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_234_567), "1.2 MiB");
        assert_eq!(size(200 << 30), "200 GiB");
        assert_eq!(size(5 << 40), "5.0 TiB");
    }
}
