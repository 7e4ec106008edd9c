//! Has a question answered by a process of its own, and passes the answer on.

use std::{
    io as stdio,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{ExitStatus, Stdio},
    sync::atomic::Ordering,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::{
    net::{UnixStream, unix::ReadHalf},
    process::{Child, Command},
    sync::SemaphorePermit,
    time::{Instant, sleep_until, timeout},
};
use tracer_protocol::{
    Question, Reason, Refusal,
    frame::{Frame, FrameError, Kind, LIMIT},
};

use super::{State, access::Access, io, rounds::Part, worker::Order};

/// A question of somebody who is neither root nor in the group may take so long, if the limit for all is not less: the
/// log of the database grows meanwhile.
pub const OTHERS: Duration = Duration::from_secs(60);

/// A slow client may take this many times as long as the question itself, if he may do everything...
const SLOWER: u32 = 4;
/// ... and so much longer, as all others: while a question is open the log of the database grows, until rows give way.
const LATER: Duration = Duration::from_secs(5);

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// All of the answer has been sent.
    Whole,
    /// The client was told why there is no answer, or not all of it.
    Refused(Refusal),
    /// Nothing more can be said to the client.
    Broken(&'static str),
}

/// Answers a question.
pub async fn answer(
    client: &mut UnixStream,
    state: &State,
    access: Access,
    question: Question,
    time: Duration,
) -> Ended {
    let time = if access == Access::Everything { time } else { time.min(OTHERS) };
    let outcome = match permits(state, access).await {
        Err(refusal) => Ended::Refused(refusal),
        Ok(_permits) => {
            state.answering.fetch_add(1, Ordering::Relaxed);
            let outcome = run(client, state, access, question, time).await;
            state.answering.fetch_sub(1, Ordering::Relaxed);
            outcome
        }
    };
    if let Ended::Refused(refusal) = &outcome {
        let frame =
            Frame { kind: Kind::Error, body: serde_json::to_vec(refusal).unwrap_or_default() };
        if io::write(client, &frame, state.config.write_timeout).await.is_err() {
            return Ended::Broken("the client is gone");
        }
    }
    outcome
}

type Permits<'a> = (SemaphorePermit<'a>, Option<(SemaphorePermit<'a>, Part<'a>)>);

/// Waits for its turn.
async fn permits(state: &State, access: Access) -> Result<Permits<'_>, Refusal> {
    let permits = async {
        let of_others = match access {
            Access::Everything => None,
            _ => {
                let permit = state.queries_of_others.acquire().await.ok()?;
                Some((permit, state.rounds_of_others.join().await))
            }
        };
        Some((state.queries.acquire().await.ok()?, of_others))
    };
    match timeout(state.config.queue_timeout, permits).await {
        Ok(Some(permits)) => Ok(permits),
        _ => {
            let max = state.config.max_queries;
            let what = format!("{max} questions are being answered already; try again later");
            Err(Refusal::new(Reason::Busy, what))
        }
    }
}

async fn run(
    client: &mut UnixStream,
    state: &State,
    access: Access,
    question: Question,
    time: Duration,
) -> Ended {
    let config = &state.config;
    let order = Order {
        database: config.database.clone(),
        uid: match access {
            Access::Everything => None,
            Access::Own(uid) => Some(uid),
            Access::Nothing => return Ended::Broken("the client may do nothing"),
        },
        question,
        timeout_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        memory: config.query_memory,
        parent: std::process::id(),
    };
    let order = match Frame::message(Kind::Order, &order) {
        Ok(order) => order,
        Err(error) => return Ended::Refused(Refusal::new(Reason::Protocol, error.to_string())),
    };
    let (mut child, mut worker) = match start(&config.worker) {
        Ok(started) => started,
        Err(error) => {
            let what = format!("cannot start a process that answers: {error}");
            return Ended::Refused(Refusal::new(Reason::Failed, what));
        }
    };
    let slower = if access == Access::Everything { SLOWER } else { 1 };
    let deadline = Instant::now() + time * slower + LATER;
    let outcome = tokio::select! {
        outcome = relay(client, &mut worker, &order, config.write_timeout, deadline) => outcome,
        () = sleep_until(deadline) => Some(Ended::Refused(too_long(time))),
    };
    // It has nothing more to do; if it has ended by itself this says how.
    drop(worker);
    match outcome {
        Some(outcome) => {
            end(&mut child).await;
            outcome
        }
        None => match timeout(Duration::from_secs(2), child.wait()).await {
            Ok(Ok(status)) => Ended::Refused(why(status, time, config.query_memory)),
            _ => {
                end(&mut child).await;
                Ended::Refused(Refusal::new(Reason::Failed, "the process that answers broke off"))
            }
        },
    }
}

/// Starts a process with one end of a connection as its standard input.
fn start(program: &[std::ffi::OsString]) -> stdio::Result<(Child, UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let (file, args) = program.split_first().ok_or(stdio::ErrorKind::InvalidInput)?;
    let child = Command::new(file)
        .arg0("tracerd")
        .args(args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok((child, UnixStream::from_std(ours)?))
}

/// Passes frames on; `None` when the process broke off.
async fn relay(
    client: &mut UnixStream,
    worker: &mut UnixStream,
    order: &Frame,
    patience: Duration,
    deadline: Instant,
) -> Option<Ended> {
    let left = || deadline.saturating_duration_since(Instant::now());
    io::write(worker, order, left()).await.ok()?;
    let (mut from_client, mut to_client) = client.split();
    loop {
        let frame = tokio::select! {
            frame = io::read(worker, LIMIT as usize, left(), left()) => frame.ok()?,
            why = gone(&mut from_client) => return Some(Ended::Broken(why)),
        };
        let refusal = match frame.kind {
            // What comes next is said by the caller.
            Kind::Error => {
                return Some(match frame.parse(Kind::Error) {
                    Ok(refusal) => Ended::Refused(refusal),
                    Err(_) => return None,
                });
            }
            Kind::Data => None,
            Kind::End => Some(Ended::Whole),
            _ => return None,
        };
        match io::write(&mut to_client, &frame, patience.min(left())).await {
            Ok(()) => {}
            Err(FrameError::Io(error)) if error.kind() == stdio::ErrorKind::TimedOut => {
                return Some(Ended::Broken("the client does not read"));
            }
            Err(_) => return Some(Ended::Broken("the client is gone")),
        }
        if refusal.is_some() {
            return refusal;
        }
    }
}

/// Waits until the client goes away, or says something where it has nothing to say.
async fn gone(client: &mut ReadHalf<'_>) -> &'static str {
    loop {
        if client.readable().await.is_err() {
            return "the client is gone";
        }
        match client.try_read(&mut [0; 1]) {
            Ok(1) => return "the client did not wait for the answer",
            Err(error) if error.kind() == stdio::ErrorKind::WouldBlock => {}
            _ => return "the client is gone",
        }
    }
}

async fn end(child: &mut Child) {
    // It fails if it has ended already.
    let _ = child.start_kill();
    let _ = timeout(Duration::from_secs(2), child.wait()).await;
}

fn too_long(time: Duration) -> Refusal {
    Refusal::new(
        Reason::Timeout,
        format!(
            "the question was stopped after {} s; ask for less, for example with a range of ts, or give it more \
             time with --timeout (up to the limit of tracerd)",
            time.as_secs_f64()
        ),
    )
}

/// What the end of the process means.
fn why(status: ExitStatus, time: Duration, memory: u64) -> Refusal {
    match status.signal().and_then(|signal| Signal::try_from(signal).ok()) {
        Some(Signal::SIGXCPU) => too_long(time),
        Some(Signal::SIGABRT | Signal::SIGKILL) => too_much(memory),
        _ => Refusal::new(Reason::Failed, format!("the process that answers broke off ({status})")),
    }
}

/// A question needed more memory than it may have.
pub fn too_much(memory: u64) -> Refusal {
    Refusal::new(
        Reason::Memory,
        format!(
            "the question needs more than {} MiB of memory; ask for less, for example with a range of ts",
            memory >> 20
        ),
    )
}
