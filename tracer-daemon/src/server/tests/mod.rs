//! The server as its clients see it: over a real socket, with a database that is being written, and with real
//! processes that answer.

mod abuse;
mod access;
mod fuzz;
mod limits;
mod questions;

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tracer_protocol::{
    Control, Hello, Level, Reason, Refusal, Reply, ServerHello, State, Status, Target, Traced,
    VERSION,
    client::{Client, ClientError},
    frame::{Frame, Kind},
};
use tracer_store::{
    Batch, Clock, Goroutine, GoroutineState, Interner, Loss, NewSession, Process, QueryResult,
    Thread, Value, Writer,
};

use super::{Command, Server, ServerConfig, start, worker};

/// The process that answers: this program once more, which runs only this.
#[test]
#[ignore = "the other tests start it, with a socket as standard input"]
fn answer_one_question() {
    worker::main();
}

/// A server with a recording that goes on until it is dropped.
struct Served {
    server: Option<Server>,
    recording: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    dir: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Everybody gets at the socket, and only root at the database.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let secret = dir.path().join("secret");
        fs::create_dir(&secret).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
        let mut config = ServerConfig::new(dir.path().join("run/t.sock"), secret.join("trace.db"));
        let exe = std::env::current_exe().unwrap();
        let args = [
            "--exact",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
            "server::tests::answer_one_question",
        ];
        config.worker = vec![exe.into()];
        config.worker.extend(args.map(Into::into));
        change(&mut config);
        let (send, commands) = mpsc::channel(16);
        let stop = Arc::new(AtomicBool::new(false));
        let recording = record(config.database.clone(), commands, Arc::clone(&stop));
        let server = start(config, send).unwrap();
        Self { server: Some(server), recording: Some(recording), stop, dir }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn socket(&self) -> &Path {
        self.server().path()
    }

    fn client(&self) -> Client {
        Client::connect(self.socket(), "test").unwrap()
    }

    /// A connection that speaks for itself.
    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream
    }

    /// A connection after the hellos.
    fn greeted(&self) -> UnixStream {
        let mut stream = self.raw();
        let hello = Hello { protocol: VERSION, program: "test".into() };
        Frame::message(Kind::Hello, &hello).unwrap().write(&mut stream).unwrap();
        let _: ServerHello = Frame::read(&mut stream).unwrap().parse(Kind::Hello).unwrap();
        stream
    }

    /// It answers everybody, whatever others do.
    fn is_well(&self) {
        let reply = self.client().control(Control::List).unwrap();
        assert!(matches!(reply, Reply::List(all) if all.len() == 2));
    }
}

impl Server {
    fn path(&self) -> &Path {
        &self.state.config.socket
    }

    fn counts(&self) -> tracer_protocol::SocketCounts {
        self.state.counts()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.server.take());
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.recording.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

const SOON: Duration = Duration::from_secs(20);

/// What uid has the second process.
const OTHER_UID: u32 = 4_711;

/// A recording of two processes: it stores 100 intervals ten times a second, and answers commands.
fn record(
    database: PathBuf,
    mut commands: mpsc::Receiver<Command>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<()> {
    let (made, is_made) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let clock = |ts| Clock { ts, realtime: 1_700_000_000_000_000_000 + ts };
        let session = NewSession { started_ts: 1, clock: clock(1), ..NewSession::default() };
        let (mut writer, _) = runtime.block_on(Writer::create(&database, session)).unwrap();
        let mut interner = Interner::new();
        let mut batch = first_rows();
        let mut traced = vec![traced(10, 0), traced(20, OTHER_UID)];
        let mut holds = Vec::new();
        let mut ts = 1_000;
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if next <= Instant::now() {
                let running = interner.intern("running");
                for _ in 0..100 {
                    let row = GoroutineState {
                        ts,
                        dur: Some(100),
                        ugid: 1 + ts / 100 % 2,
                        state: running,
                        utid: Some(1),
                        proc: Some(0),
                        ..GoroutineState::default()
                    };
                    batch.closed.goroutine_state.push(row);
                    ts += 100;
                }
                batch.strings = interner.take_new();
                batch.last_ts = ts;
                runtime.block_on(writer.commit(std::mem::take(&mut batch))).unwrap();
                next = Instant::now() + Duration::from_millis(100);
                let _ = made.send(());
            }
            while let Ok(command) = commands.try_recv() {
                let answer = obey(&command, &mut traced, &mut holds);
                // Whoever asked may be gone.
                let _ = command.reply.send(answer);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        runtime.block_on(writer.finish(ts, "the test ended", clock(ts))).unwrap();
    });
    is_made.recv().unwrap();
    thread
}

fn first_rows() -> Batch {
    let process = |upid: i64, pid, uid: u32| Process {
        upid,
        pid,
        uid: Some(uid.into()),
        cmdline: Some(format!("server {upid}").into()),
        ..Process::default()
    };
    let thread = |utid, tid| Thread { utid, upid: utid, tid, ..Thread::default() };
    let goroutine = |ugid: i64| Goroutine {
        ugid,
        upid: ugid,
        goid: 1,
        start_func: Some(format!("main.work{ugid}").into()),
        ..Goroutine::default()
    };
    Batch {
        processes: vec![process(1, 10, 0), process(2, 20, OTHER_UID)],
        threads: vec![thread(1, 10), thread(2, 20)],
        goroutines: vec![goroutine(1), goroutine(2)],
        losses: vec![Loss {
            ts: 5,
            dur: 5,
            kind: "go_status".into(),
            stage: "ring".into(),
            count: 3,
        }],
        ..Batch::default()
    }
}

fn traced(pid: u32, uid: u32) -> Traced {
    Traced {
        pid,
        name: format!("server{pid}"),
        exe: "/bin/server".into(),
        uid,
        level: Level::Go,
        since: 0,
        rule: None,
        events_per_s: 0.0,
        events: 0,
        losses: 0,
        cost: 0.0,
        state: State::Tracing,
    }
}

/// `holds`: connections and the processes that they hold.
fn obey(
    command: &Command,
    all: &mut Vec<Traced>,
    holds: &mut Vec<(u64, u32)>,
) -> Result<Reply, Refusal> {
    let none = || Refusal::new(Reason::NotFound, "there is no such process");
    Ok(match &command.what {
        Control::Attach { target: Target::Pid(pid), hold, .. } => {
            if let Some(already) = all.iter().find(|traced| traced.pid == *pid) {
                return Ok(Reply::Attached {
                    processes: Vec::new(),
                    already: vec![already.clone()],
                });
            }
            all.push(traced(*pid, 0));
            holds.extend(hold.then_some((command.peer.connection, *pid)));
            Reply::Attached { processes: vec![traced(*pid, 0)], already: Vec::new() }
        }
        Control::Attach { .. } => return Err(none()),
        Control::Detach { target } => {
            let is_it = |traced: &Traced| match target {
                Target::Pid(pid) => traced.pid == *pid,
                Target::Name(name) => traced.name == *name,
            };
            let gone: Vec<_> = all.extract_if(.., |traced| is_it(traced)).collect();
            if gone.is_empty() {
                return Err(none());
            }
            holds.retain(|(_, pid)| gone.iter().all(|traced| traced.pid != *pid));
            Reply::Detached(gone)
        }
        Control::Release => {
            let released: Vec<_> =
                holds.extract_if(.., |(by, _)| *by == command.peer.connection).collect();
            let is_released = |traced: &Traced| released.iter().any(|(_, pid)| traced.pid == *pid);
            Reply::Detached(all.extract_if(.., |traced| is_released(traced)).collect())
        }
        Control::List => {
            let is_shown = |traced: &&Traced| command.only.is_none_or(|uid| traced.uid == uid);
            Reply::List(all.iter().filter(is_shown).cloned().collect())
        }
        Control::Status => {
            Reply::Status(Box::new(Status { targets: all.len() as u64, ..Status::default() }))
        }
        Control::Snapshot { reason } => Reply::Written {
            file: "/a".into(),
            note: Some(format!("{}: {reason}", command.peer.uid)),
        },
        Control::Reload => Reply::Done { message: "reloaded".into() },
    })
}

/// The whole answer to a statement.
fn sql(client: &mut Client, sql: &str) -> Result<QueryResult, ClientError> {
    let mut result = QueryResult::default();
    client.sql(sql, SOON, &mut result)?;
    Ok(result)
}

/// The answer, when it is one integer.
fn number(client: &mut Client, text: &str) -> i64 {
    match sql(client, text).unwrap().rows.as_slice() {
        [row] => match row.as_slice() {
            [Value::Integer(number)] => *number,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Refusal {
    match result {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
