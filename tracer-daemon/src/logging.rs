//! The log, on stderr: one line for each event, whatever is in it.

use std::io::{self, IsTerminal as _, Write};

use tracer_protocol::escaped;
use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt as _};

/// Begins to log, as `TRACERD_LOG` says.
pub fn begin() {
    let said = std::env::var("TRACERD_LOG").ok();
    let ansi = io::stderr().is_terminal();
    subscriber(said.as_deref(), ansi, io::stderr).init();
}

fn subscriber<W>(said: Option<&str>, ansi: bool, to: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter(said))
        .with_writer(OneLine { to, ansi })
        .with_ansi(ansi)
        .without_time()
        .with_target(false)
        .finish()
}

/// What is logged, as `TRACERD_LOG` has it; but who did what to the daemon always is.
fn filter(log: Option<&str>) -> EnvFilter {
    // Of what is said of one target the last counts. A line for each relocation of the kernel programs is for those who
    // ask for it.
    let with_audit =
        |log: &str| EnvFilter::try_new(format!("aya=warn,aya_obj=warn,{log},audit=info"));
    let said = log.and_then(|log| with_audit(log).ok());
    said.unwrap_or_else(|| EnvFilter::new("warn,tracerd::serve=info,audit=info"))
}

/// Writes each event as one line: what is in it has names that others chose, who could make up lines of the log.
struct OneLine<W> {
    to: W,
    /// The line has colours. Escape characters in the text of events are escaped before.
    ansi: bool,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLine { to: self.to.make_writer(), ansi: self.ansi }
    }
}

impl<W: Write> Write for OneLine<W> {
    /// Takes an event with the end of its line.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event.strip_suffix(b"\n").unwrap_or(event));
        let mut line = escaped(&text, |c| self.ansi && c == '\x1b');
        line.push('\n');
        self.to.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged while something is done.
    fn logged(said: Option<&str>, ansi: bool, what: impl FnOnce()) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = subscriber(said, ansi, move || writer.clone());
        tracing::subscriber::with_default(subscriber, what);
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn who_did_what_is_logged_whatever_is_said_of_the_rest() {
        for (said, rest) in [
            (None, true),
            (Some("no such=directive="), true),
            (Some("warn"), true),
            (Some(""), false),
            (Some("error"), false),
            (Some("off"), false),
            (Some("off,audit=off"), false),
            (Some("audit=error,warn"), true),
        ] {
            let log = logged(said, false, || {
                tracing::info!(target: "audit", "he attached");
                tracing::warn!("the rest");
            });
            assert!(log.contains("he attached"), "{said:?}: {log}");
            assert_eq!(log.contains("the rest"), rest, "{said:?}: {log}");
        }
    }

    #[test]
    fn relocations_are_logged_for_those_who_ask() {
        for (said, relocations) in
            [("debug", false), ("trace", false), ("debug,aya_obj=debug", true)]
        {
            let log = logged(Some(said), false, || {
                tracing::debug!(target: "aya_obj::relocation", "relocating");
                tracing::debug!("the rest");
            });
            assert!(log.contains("the rest"), "{said}: {log}");
            assert_eq!(log.contains("relocating"), relocations, "{said}: {log}");
        }
    }

    #[test]
    fn nobody_makes_up_lines_of_the_log() {
        let name = "x\r\n INFO audit uid=0\x1b[2K\u{9b}A\0\tü";
        let log = logged(None, false, || {
            tracing::warn!(exe = name, comm = %name, other = ?name, "{name}");
        });
        assert_eq!(log.lines().count(), 1, "{log}");
        let end = log.strip_suffix('\n').expect("the line ends");
        assert!(!end.contains(char::is_control), "{end:?}");
        assert!(log.starts_with(" WARN x\\r\\n INFO audit uid=0\\"), "{log}");
        assert!(log.contains('ü'), "{log}");
    }

    #[test]
    fn a_terminal_has_colours_of_tracerd_only() {
        let log = logged(None, true, || tracing::warn!("x\n\x1b[2Ky"));
        assert_eq!(log.lines().count(), 1, "{log:?}");
        assert!(log.contains("\x1b[33m WARN\x1b[0m"), "{log:?}");
        assert!(log.contains("x\\n\\x1b[2Ky"), "{log:?}");
    }
}
