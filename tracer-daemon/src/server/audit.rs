//! The audit log: one line for all that a client did or was refused, of the tracing target `audit`.

use std::sync::atomic::Ordering;

use tracer_protocol::{Control, Question, Refusal, Request};

use super::{Peer, State};

/// The log has at most so many bytes of a text that a client gave.
const TEXT: usize = 300;

/// What a client asks for, in a line.
pub fn what(request: &Request) -> String {
    match request {
        Request::Control(Control::Attach { target, options, .. }) => {
            format!("attach {target} level={}", options.level)
        }
        Request::Control(Control::Detach { target }) => format!("detach {target}"),
        Request::Control(Control::Release) => "release".to_owned(),
        Request::Control(Control::List) => "list".to_owned(),
        Request::Control(Control::Status) => "status".to_owned(),
        Request::Control(Control::Snapshot { reason }) => format!("snapshot {reason}"),
        Request::Control(Control::Reload) => "reload".to_owned(),
        Request::Ask { question: Question::Sql { sql }, .. } => format!("sql {sql}"),
        Request::Ask { question: Question::Goroutines { .. }, .. } => "goroutines".to_owned(),
        Request::Ask { question: Question::Waits(_), .. } => "waits".to_owned(),
        Request::Ask { question: Question::Export(_), .. } => "export".to_owned(),
    }
}

/// It was done, with this result.
pub fn done(peer: &Peer, what: &str, result: &str) {
    let (uid, pid) = (peer.uid, peer.pid.unwrap_or_default());
    // As Rust writes it in source code, so that a line stays one.
    tracing::info!(target: "audit", uid, pid, comm = ?peer.comm, what = ?cut(what), result = ?cut(result), "audit");
}

/// It was refused, or failed.
pub fn refused(state: &State, peer: &Peer, what: &str, refusal: &Refusal) {
    state.refused.fetch_add(1, Ordering::Relaxed);
    done(peer, what, &format!("{:?}: {}", refusal.reason, refusal.message));
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT)]
}
