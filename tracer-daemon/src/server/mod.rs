//! The socket of `tracerd serve`: who asks, what he may, and where the answer comes from.
//!
//! One thread serves all clients. What the recording knows or does it asks the recording loop for ([`Command`]);
//! what the database tells is answered by a process of its own ([`query`], [`worker`]), so that no SQL can hurt the
//! daemon.

mod access;
mod audit;
mod connection;
mod io;
mod query;
mod rounds;
mod socket;
pub mod worker;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    ffi::OsString,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
};
use tracer_protocol::{Control, Reason, Refusal, Reply, SocketCounts};

pub use access::Peer;
use rounds::Rounds;

/// What users may do who are neither root nor in the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Others {
    /// See and query processes of their own uid.
    #[default]
    #[serde(rename = "own")]
    OwnProcesses,
    /// Nothing.
    Nothing,
}

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// The group whose members may do everything, as root may.
    pub group: String,
    /// What all other users may do.
    pub others: Others,
}

impl Default for Rights {
    fn default() -> Self {
        Self { group: "tracer".to_owned(), others: Others::OwnProcesses }
    }
}

/// How the socket is served.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen.
    pub socket: PathBuf,
    /// Who may do what.
    pub rights: Rights,
    /// The database that is asked.
    pub database: PathBuf,
    /// How many clients may be connected at once; those of one uid but root at most a quarter of it. An eighth is for
    /// root and the group.
    pub max_clients: usize,
    /// How many questions are answered at once; for others at most half of it.
    pub max_queries: usize,
    /// How long a question may take; one of others at most [`query::OTHERS`].
    pub query_timeout: Duration,
    /// How much memory a question may take, bytes.
    pub query_memory: u64,
    /// How long a client may take to read a part of an answer.
    pub write_timeout: Duration,
    /// How long a client may take to send the rest of a frame that it began.
    pub frame_timeout: Duration,
    /// How long a question waits for others to end before it is refused.
    pub queue_timeout: Duration,
    /// The program that answers questions, and its arguments.
    pub worker: Vec<OsString>,
}

impl ServerConfig {
    /// The defaults.
    pub fn new(socket: impl Into<PathBuf>, database: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            rights: Rights::default(),
            database: database.into(),
            max_clients: 256,
            max_queries: 4,
            query_timeout: Duration::from_secs(300),
            query_memory: 512 << 20,
            write_timeout: Duration::from_secs(30),
            frame_timeout: Duration::from_secs(10),
            queue_timeout: Duration::from_secs(10),
            // The file of the running program, even if it was replaced meanwhile.
            worker: vec!["/proc/self/exe".into(), worker::COMMAND.into()],
        }
    }
}

/// Questions of others may join a round for so long, and the next one begins after a pause in which the log of the database
/// can begin anew.
const ROUND: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

/// So many clients at once, which get one of the last places only if they are in the group, are asked about.
const CHECKS: usize = 4;

/// Something that the recording loop is asked for. An answer to a client that is gone goes nowhere.
#[derive(Debug)]
pub struct Command {
    /// What.
    pub what: Control,
    /// The only uid whose processes are to be in the answer, if there is one.
    pub only: Option<u32>,
    /// By whom; he may do it.
    pub peer: Peer,
    /// Takes the answer.
    pub reply: oneshot::Sender<Result<Reply, Refusal>>,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _socket: socket::Bound,
}

/// What all connections share.
#[derive(Debug)]
struct State {
    config: ServerConfig,
    /// Those of clients that connect now.
    rights: RwLock<Rights>,
    commands: mpsc::Sender<Command>,
    queries: Semaphore,
    queries_of_others: Semaphore,
    rounds_of_others: Rounds,
    /// For finding out whether somebody is in the group who gets no place if not.
    checks: Semaphore,
    clients: Mutex<Clients>,
    answering: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Clients {
    all: usize,
    /// By uid, without root.
    by_uid: HashMap<u32, usize>,
}

/// Begins to serve.
///
/// # Errors
/// When another daemon listens there, or the socket cannot be made.
pub fn start(config: ServerConfig, commands: mpsc::Sender<Command>) -> Result<Server> {
    let (listener, bound) = socket::bind(&config.socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .context("cannot start the server")?;
    let state = Arc::new(State {
        queries: Semaphore::new(config.max_queries),
        queries_of_others: Semaphore::new(config.max_queries.div_ceil(2)),
        rounds_of_others: Rounds::new(ROUND, PAUSE),
        rights: RwLock::new(config.rights.clone()),
        checks: Semaphore::new(CHECKS),
        config,
        commands,
        clients: Mutex::default(),
        answering: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    });
    let (stop, stopped) = oneshot::channel();
    let of_thread = Arc::clone(&state);
    let listener = {
        let _in_runtime = runtime.enter();
        UnixListener::from_std(listener).context("cannot listen")?
    };
    let thread = std::thread::Builder::new()
        .name("socket".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(&listener, &of_thread) => {}
                    // Also when the server is dropped.
                    _ = stopped => {}
                }
            });
            // Ends all connections, and with them the processes that answer.
            runtime.shutdown_timeout(Duration::from_secs(1));
        })
        .context("cannot start the server")?;
    Ok(Server { state, stop: Some(stop), thread: Some(thread), _socket: bound })
}

impl Server {
    /// Other rights of all clients that connect from now on.
    pub fn set_rights(&self, rights: Rights) {
        *self.state.rights.write().unwrap_or_else(PoisonError::into_inner) = rights;
    }

    /// Whether it still answers: its thread ends only with it, or by a defect.
    pub fn works(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

impl State {
    fn rights(&self) -> Rights {
        self.rights.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn counts(&self) -> SocketCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SocketCounts {
            path: self.config.socket.clone(),
            clients: self.clients().all as u64,
            queries: count(&self.answering),
            answered: count(&self.answered),
            refused: count(&self.refused),
        }
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a client, one of the last places if he may do everything; says why there is none.
    fn admit(self: &Arc<Self>, uid: u32, everything: bool) -> Result<Admitted, Full> {
        let max = self.config.max_clients;
        let busy = |message: String| Full::Whole(Refusal::new(Reason::Busy, message));
        let mut clients = self.clients();
        let full = || format!("{} clients are connected already; try again later", clients.all);
        if clients.all >= max {
            return Err(busy(full()));
        }
        if clients.all >= max - max / 8 && !everything {
            return Err(Full::ForOthers(Refusal::new(Reason::Busy, full())));
        }
        let of_uid = clients.by_uid.get(&uid).copied().unwrap_or_default();
        if uid != 0 && of_uid >= max.div_ceil(4) {
            return Err(busy(format!(
                "{of_uid} clients of user {uid} are connected already; end some of them"
            )));
        }
        clients.all += 1;
        clients.by_uid.insert(uid, of_uid + 1);
        drop(clients);
        Ok(Admitted { state: Arc::clone(self), uid })
    }
}

/// There is no place.
#[derive(Debug)]
enum Full {
    /// For nobody, or not for this user.
    Whole(Refusal),
    /// But for root and the group.
    ForOthers(Refusal),
}

/// A client that counts.
#[derive(Debug)]
struct Admitted {
    state: Arc<State>,
    uid: u32,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut clients = self.state.clients();
        clients.all -= 1;
        if let Some(count) = clients.by_uid.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                clients.by_uid.remove(&self.uid);
            }
        }
    }
}

async fn accept(listener: &UnixListener, state: &Arc<State>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => begin(stream, state),
            Err(error) => {
                // Out of descriptors or memory, as a rule: others have to end first.
                tracing::warn!("cannot accept a client: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn begin(stream: UnixStream, state: &Arc<State>) {
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!("cannot tell who a client is: {error}");
            return;
        }
    };
    match state.admit(peer.uid, peer.uid == 0) {
        Ok(admitted) => {
            tokio::spawn(async move { connection::serve(stream, peer, &admitted.state).await });
        }
        Err(Full::Whole(refusal)) => refuse(&stream, &peer, state, &refusal),
        Err(Full::ForOthers(refusal)) => {
            let state = Arc::clone(state);
            tokio::spawn(async move { one_of_the_last(stream, peer, &state, refusal).await });
        }
    }
}

/// Serves a client if he is in the group: there are no more places for others.
async fn one_of_the_last(stream: UnixStream, peer: Peer, state: &Arc<State>, refusal: Refusal) {
    // The others who are looked at have no place either.
    let is_member = match state.checks.try_acquire() {
        Ok(_permit) => {
            let Rights { group, others } = state.rights();
            access::of(&stream, &peer, &group, others).await == access::Access::Everything
        }
        Err(_) => false,
    };
    let admitted = if is_member { state.admit(peer.uid, true) } else { Err(Full::Whole(refusal)) };
    match admitted {
        Ok(admitted) => connection::serve(stream, peer, &admitted.state).await,
        Err(Full::Whole(refusal) | Full::ForOthers(refusal)) => {
            refuse(&stream, &peer, state, &refusal);
        }
    }
}

fn refuse(stream: &UnixStream, peer: &Peer, state: &State, refusal: &Refusal) {
    audit::refused(state, peer, "connect", refusal);
    // There is room for it in a new socket.
    let _ = stream.try_write(&io::refusal(refusal));
}
