//! One client, from its hello to its end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{net::UnixStream, sync::oneshot, time::timeout};
use tracer_common::user::UNKNOWN_UID;
use tracer_protocol::{
    Control, Hello, Reason, Refusal, Reply, Request, ServerHello, VERSION,
    frame::{Frame, FrameError, Kind, LIMIT},
};

use super::{
    Command, Peer, Rights, State,
    access::{self, Access},
    audit, io,
    query::{self, Ended},
};

/// A hello has at most so many bytes.
const HELLO: usize = 4 << 10;
/// A request of somebody who may not do everything has at most so many bytes.
const REQUEST_OF_OTHERS: usize = 64 << 10;
/// A client that asks for nothing for so long is forgotten.
const IDLE: Duration = Duration::from_secs(600);
/// How long the recording may take to answer; to attach takes some of its time.
const CONTROL: Duration = Duration::from_secs(50);

/// Serves a client.
pub async fn serve(mut stream: UnixStream, peer: Peer, state: &Arc<State>) {
    let mut holds = false;
    if let Err(refusal) = talk(&mut stream, &peer, state, &mut holds).await {
        audit::refused(state, &peer, "connection", &refusal);
        let frame =
            Frame { kind: Kind::Error, body: serde_json::to_vec(&refusal).unwrap_or_default() };
        // Whether it is heard is his business.
        let _ = io::write(&mut stream, &frame, Duration::from_secs(1)).await;
    }
    drop(stream);
    if holds {
        match control(Control::Release, None, &peer, state).await {
            Ok(Reply::Detached(released)) => {
                for traced in released {
                    audit::done(&peer, &format!("release {}", traced.pid), "the connection ended");
                }
            }
            Ok(_) => {}
            Err(refusal) => audit::refused(state, &peer, "release", &refusal),
        }
    }
}

/// Answers requests until the client goes away; the refusal is the last thing that he is told. `holds` tells whether
/// the recording may hold something for him.
async fn talk(
    stream: &mut UnixStream,
    peer: &Peer,
    state: &Arc<State>,
    holds: &mut bool,
) -> Result<(), Refusal> {
    let config = &state.config;
    let patience = config.frame_timeout;
    let hello = match io::read(stream, HELLO, patience, patience).await {
        Ok(frame) => frame.parse::<Hello>(Kind::Hello),
        Err(FrameError::Closed) => return Ok(()),
        Err(error) => Err(error),
    };
    let hello = hello.map_err(not_understood)?;
    let Rights { group, others } = state.rights();
    let access = access::of(stream, peer, &group, others).await;
    if access == Access::Nothing {
        return Err(denied(&group, "asking tracerd"));
    }
    let answer = ServerHello {
        protocol: VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        everything: access == Access::Everything,
    };
    // Also to a client of another version, so that he can say so.
    if send(stream, Kind::Hello, &answer, state).await.is_err() || hello.protocol != VERSION {
        return Ok(());
    }
    let limit = if access == Access::Everything { LIMIT as usize } else { REQUEST_OF_OTHERS };
    loop {
        let request = match io::read(stream, limit, IDLE, patience).await {
            Ok(frame) => frame.parse::<Request>(Kind::Request).map_err(not_understood)?,
            Err(FrameError::Closed) => return Ok(()),
            Err(FrameError::Io(error)) if error.kind() != std::io::ErrorKind::TimedOut => {
                return Ok(());
            }
            Err(error) => return Err(not_understood(error)),
        };
        let said = audit::what(&request);
        let goes_on = match request {
            Request::Control(what) => {
                let answered = match allowed(&what, access, &group) {
                    Ok(()) => {
                        // Also if the answer comes too late.
                        *holds |= matches!(what, Control::Attach { hold: true, .. });
                        control(what, only(access), peer, state).await
                    }
                    Err(refusal) => Err(refusal),
                };
                match answered {
                    Ok(reply) => {
                        audit::done(peer, &said, "done");
                        let reply = fit(reply, state);
                        send(stream, Kind::Reply, &reply, state).await.is_ok()
                    }
                    Err(refusal) => {
                        audit::refused(state, peer, &said, &refusal);
                        send(stream, Kind::Error, &refusal, state).await.is_ok()
                    }
                }
            }
            Request::Ask { question, timeout_ms } => {
                let time = config.query_timeout.min(Duration::from_millis(timeout_ms));
                match query::answer(stream, state, access, question, time).await {
                    Ended::Whole => {
                        state.answered.fetch_add(1, Ordering::Relaxed);
                        audit::done(peer, &said, "answered");
                        true
                    }
                    Ended::Refused(refusal) => {
                        audit::refused(state, peer, &said, &refusal);
                        true
                    }
                    Ended::Broken(why) => {
                        audit::done(peer, &said, why);
                        false
                    }
                }
            }
        };
        if !goes_on {
            return Ok(());
        }
    }
}

async fn send(
    stream: &mut UnixStream,
    kind: Kind,
    message: &impl serde::Serialize,
    state: &State,
) -> Result<(), FrameError> {
    let frame = Frame::message(kind, message)?;
    io::write(stream, &frame, state.config.write_timeout).await
}

fn not_understood(error: FrameError) -> Refusal {
    Refusal::new(Reason::Protocol, error.to_string())
}

fn denied(group: &str, what: &str) -> Refusal {
    Refusal::new(
        Reason::Denied,
        format!(
            "{what} is for root and members of the group {group}: use sudo, or `sudo usermod -aG {group} USER` \
             and log in again"
        ),
    )
}

fn allowed(what: &Control, access: Access, group: &str) -> Result<(), Refusal> {
    if access == Access::Everything {
        return Ok(());
    }
    Err(match what {
        Control::List => return Ok(()),
        Control::Attach { .. } => denied(group, "attaching to a process"),
        Control::Detach { .. } | Control::Release => denied(group, "detaching from a process"),
        Control::Status => denied(group, "the status of tracerd"),
        Control::Snapshot { .. } => denied(group, "taking a snapshot"),
        Control::Reload => denied(group, "reloading the configuration"),
    })
}

/// Whose processes alone a client may see.
fn only(access: Access) -> Option<u32> {
    match access {
        Access::Everything => None,
        Access::Own(uid) => Some(uid),
        // He is told so before he can ask. It is no user's.
        Access::Nothing => Some(UNKNOWN_UID),
    }
}

/// Adds what only the server knows.
fn fit(mut reply: Reply, state: &State) -> Reply {
    if let Reply::Status(status) = &mut reply {
        status.socket = Some(state.counts());
    }
    reply
}

/// Asks the recording loop.
async fn control(
    what: Control,
    only: Option<u32>,
    peer: &Peer,
    state: &State,
) -> Result<Reply, Refusal> {
    let (reply, answer) = oneshot::channel();
    let command = Command { what, only, peer: peer.clone(), reply };
    let asked = async {
        state.commands.send(command).await.ok()?;
        answer.await.ok()
    };
    match timeout(CONTROL, asked).await {
        Ok(Some(answer)) => answer,
        Ok(None) => Err(Refusal::new(Reason::Failed, "tracerd is ending")),
        Err(_) => Err(Refusal::new(
            Reason::Busy,
            format!("the recording did not answer within {} s; try again", CONTROL.as_secs()),
        )),
    }
}
