//! `/metrics` for Prometheus: the figures of `tracer status` and `tracer ls` in its text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::TcpListener,
    sync::{Mutex, Semaphore, mpsc, oneshot},
};
use tracer_protocol::{Control, Reply, Status, Traced};

use crate::server::{Command, Peer};

/// Connections that are answered at once; others wait in the kernel. Who connects is not asked who he is.
const CONNECTIONS: usize = 8;
/// How long a connection may take, from its beginning to the end of its answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(1);
/// How long it waits when no connection can be taken: others may give back what is missing.
const PAUSE: Duration = Duration::from_millis(100);

/// A port that answers until it is dropped.
pub struct Metrics {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Metrics {
    /// Listens at an address of this machine; the recording loop answers `commands`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(address: SocketAddr, commands: mpsc::Sender<Command>) -> Result<Self> {
        Self::with_deadline(address, commands, DEADLINE)
    }

    /// As [`Metrics::start`], with another time that a connection may take.
    fn with_deadline(
        address: SocketAddr,
        commands: mpsc::Sender<Command>,
        deadline: Duration,
    ) -> Result<Self> {
        let socket = std::net::TcpListener::bind(address)
            .with_context(|| format!("cannot listen at {address} for /metrics"))?;
        socket.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _runtime = runtime.enter();
            TcpListener::from_std(socket)?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let figures = Figures { commands, last: Arc::default() };
        let app = Router::new().route("/metrics", get(async move || answer(&figures).await));
        let serve = async move {
            tokio::select! {
                () = serve(&listener, &app, deadline) => {}
                // Also when it is dropped. Nobody is waited for: some never end what they ask, and others wait for the
                // recording loop, which is what waits here.
                _ = stopped => {}
            }
        };
        let run = move || runtime.block_on(serve);
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(run)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

/// Answers one request a connection, until it is dropped.
async fn serve(listener: &TcpListener, app: &Router, deadline: Duration) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    // It is never closed.
    while let Ok(place) = Arc::clone(&free).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("no connection for /metrics: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app.clone()));
        tokio::spawn(async move {
            // Who is too slow or breaks off gets no answer.
            let _ = tokio::time::timeout(deadline, connection).await;
            drop(place);
        });
    }
}

/// The figures, asked for once for all who want them at a time: others need room in the queue of commands, too.
#[derive(Clone)]
struct Figures {
    commands: mpsc::Sender<Command>,
    last: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Figures {
    async fn text(&self) -> Option<String> {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < FRESH
        {
            return Some(text.clone());
        }
        let commands = self.commands.clone();
        // It goes on when its client has gone: what it asked is still in the queue.
        let asked = tokio::spawn(async move {
            let text = figures(&commands).await?;
            *last = Some((Instant::now(), text.clone()));
            Some(text)
        });
        asked.await.ok().flatten()
    }
}

async fn answer(figures: &Figures) -> Response {
    match figures.text().await {
        Some(text) => {
            ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn figures(commands: &mpsc::Sender<Command>) -> Option<String> {
    let status = ask(commands, Control::Status).await;
    let list = ask(commands, Control::List).await;
    match (status, list) {
        (Some(Reply::Status(status)), Some(Reply::List(list))) => Some(render(&status, &list)),
        _ => None,
    }
}

async fn ask(commands: &mpsc::Sender<Command>, what: Control) -> Option<Reply> {
    let (reply, answer) = oneshot::channel();
    commands.send(Command { what, only: None, peer: Peer::myself(), reply }).await.ok()?;
    answer.await.ok()?.ok()
}

/// One metric, with its samples as labels and values.
fn metric(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl IntoIterator<Item = (String, f64)>,
) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP tracerd_{name} {help}\n# TYPE tracerd_{name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "tracerd_{name}{labels} {value}");
    }
}

/// Labels as the format wants them.
fn labels<const N: usize>(pairs: [(&str, &str); N]) -> String {
    let escape = |s: &str| s.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs = pairs.map(|(name, value)| format!("{name}=\"{}\"", escape(value)));
    format!("{{{}}}", pairs.join(","))
}

fn one(value: impl Into<f64>) -> [(String, f64); 1] {
    [(String::new(), value.into())]
}

/// All figures.
fn render(status: &Status, list: &[Traced]) -> String {
    let text = &mut String::new();
    let info = [(labels([("version", &status.version)]), 1.0)];
    metric(text, "info", "gauge", "Version of tracerd.", info);
    let events = status.events.iter().map(|e| (labels([("kind", &e.kind)]), e.count as f64));
    metric(text, "events_total", "counter", "Events recorded.", events);
    let losses = status
        .losses
        .iter()
        .map(|l| (labels([("kind", &l.kind), ("stage", &l.stage)]), l.count as f64));
    metric(text, "lost_total", "counter", "Events lost, and where.", losses);
    let gauges: [(&str, &str, f64); 8] = [
        ("uptime_seconds", "Time since tracerd was started.", status.uptime_s as f64),
        (
            "ring_fill_ratio",
            "How full the kernel's ring was at most.",
            status.ring_fill_percent / 100.0,
        ),
        ("queue_bytes", "Memory that waits for the disk.", status.queue_bytes as f64),
        ("write_latency_seconds", "How long the last commit took.", status.write_latency_ms / 1e3),
        ("database_bytes", "Size of the database.", status.database_bytes as f64),
        ("cpu_ratio", "CPU time of tracerd, as a share of one CPU.", status.cpu_percent / 100.0),
        ("resident_bytes", "Resident memory of tracerd.", status.rss_bytes as f64),
        ("targets", "Processes that are traced.", status.targets as f64),
    ];
    for (name, help, value) in gauges {
        metric(text, name, "gauge", help, one(value));
    }
    let files = |value: fn(&tracer_protocol::ProbeFile) -> u64| {
        status
            .probes
            .iter()
            .map(move |file| (labels([("file", &file.file.to_string_lossy())]), value(file) as f64))
    };
    metric(text, "probes", "gauge", "Probes in a file.", files(|file| file.probes));
    metric(
        text,
        "probed_processes",
        "gauge",
        "Processes with these probes.",
        files(|f| f.processes),
    );
    // One series a name: pids would make a new one for every process that ever ran.
    let mut by_name = std::collections::BTreeMap::<(&str, String), (f64, f64)>::new();
    for process in list {
        let sums = by_name.entry((&process.name, process.level.to_string())).or_default();
        sums.0 += process.events_per_s;
        sums.1 += process.cost;
    }
    let targets = |value: fn(&(f64, f64)) -> f64| {
        by_name.iter().map(move |((name, level), sums)| {
            (labels([("name", name), ("level", level)]), value(sums))
        })
    };
    let help = "Events a second of traced processes.";
    metric(text, "target_events_per_second", "gauge", help, targets(|sums| sums.0));
    let help = "What tracing costs traced processes by estimate, as a share of one CPU.";
    metric(text, "target_cost_ratio", "gauge", help, targets(|sums| sums.1));
    std::mem::take(text)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
        time::Duration,
    };

    use tracer_protocol::{Count, Level, Loss, ProbeFile, State};

    use super::*;

    const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    const LONG: Duration = Duration::from_secs(20);

    fn free_address() -> SocketAddr {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn connect(address: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    fn get(address: SocketAddr) -> String {
        let mut answer = String::new();
        connect(address, GET).read_to_string(&mut answer).unwrap();
        answer
    }

    fn target(name: &str) -> Traced {
        Traced {
            pid: 7,
            name: name.to_owned(),
            exe: "/usr/bin/shop".to_owned(),
            uid: 0,
            level: Level::Go,
            since: 0,
            rule: None,
            events_per_s: 12.5,
            events: 100,
            losses: 3,
            cost: 0.25,
            state: State::Tracing,
        }
    }

    /// Says the same to every command, until nobody can send one any more.
    fn answer_all(mut commands: mpsc::Receiver<Command>) -> JoinHandle<()> {
        std::thread::spawn(move || {
            while let Some(command) = commands.blocking_recv() {
                let file = "/usr/bin/shop".into();
                let reply = match command.what {
                    Control::Status => Reply::Status(Box::new(Status {
                        losses: vec![Loss {
                            kind: "sys_enter".to_owned(),
                            stage: "ring".to_owned(),
                            count: 3,
                        }],
                        probes: vec![ProbeFile { file, probes: 9, processes: 2 }],
                        ..Status::default()
                    })),
                    _ => Reply::List(vec![target("shop"), target("shop"), target("other")]),
                };
                // Who asked may be gone.
                let _ = command.reply.send(Ok(reply));
            }
        })
    }

    #[test]
    fn it_tells_what_status_and_ls_tell() {
        let address = free_address();
        let (sender, commands) = mpsc::channel(8);
        let metrics = Metrics::start(address, sender).unwrap();
        let answering = answer_all(commands);
        let text = get(address);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        for line in [
            "tracerd_lost_total{kind=\"sys_enter\",stage=\"ring\"} 3",
            "tracerd_probes{file=\"/usr/bin/shop\"} 9",
            "tracerd_probed_processes{file=\"/usr/bin/shop\"} 2",
            // Of all processes of a name.
            "tracerd_target_cost_ratio{name=\"shop\",level=\"go\"} 0.5",
            "tracerd_target_cost_ratio{name=\"other\",level=\"go\"} 0.25",
            "tracerd_target_events_per_second{name=\"shop\",level=\"go\"} 25",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
        drop(metrics);
        answering.join().unwrap();
    }

    #[test]
    fn who_says_nothing_keeps_others_waiting_until_the_deadline_only() {
        let deadline = Duration::from_millis(300);
        let address = free_address();
        let (sender, commands) = mpsc::channel(8);
        let metrics = Metrics::with_deadline(address, sender, deadline).unwrap();
        let answering = answer_all(commands);
        let begun = Instant::now();
        let silent: Vec<_> = (0..2 * CONNECTIONS).map(|_| connect(address, "")).collect();
        assert!(get(address).starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(begun.elapsed() >= 2 * deadline, "more are answered at once than may be");
        for mut stream in silent {
            // Closed, or reset.
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        }
        drop(metrics);
        answering.join().unwrap();
    }

    #[test]
    fn however_many_ask_one_command_waits() {
        let address = free_address();
        let (sender, mut commands) = mpsc::channel(64);
        let deadline = Duration::from_millis(100);
        let metrics = Metrics::with_deadline(address, sender, deadline).unwrap();
        let clients: Vec<_> = (0..2 * CONNECTIONS).map(|_| connect(address, GET)).collect();
        for mut client in clients {
            assert_eq!(client.read(&mut [0]).unwrap_or(0), 0, "nobody has told anything");
        }
        assert_eq!(commands.len(), 1);
        assert_eq!(commands.try_recv().unwrap().what, Control::Status);
        drop(metrics);
    }

    #[test]
    fn it_ends_whatever_its_clients_do() {
        let address = free_address();
        let (sender, mut commands) = mpsc::channel(8);
        for _ in 0..2 {
            let metrics = Metrics::start(address, sender.clone()).unwrap();
            // One says nothing, one begins to ask, and one asks while nobody answers.
            let mut clients = ["", "G", GET].map(|text| connect(address, text));
            let command = commands.blocking_recv().unwrap();
            assert_eq!(command.what, Control::Status);
            let (done, is_done) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                drop(metrics);
                done.send(()).unwrap();
            });
            is_done.recv_timeout(Duration::from_secs(10)).expect("it does not end");
            for client in &mut clients {
                // Closed, or reset.
                assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
            }
        }
    }

    #[test]
    fn labels_are_escaped_and_every_metric_is_described() {
        let status = Status {
            version: "1\"2\\3".to_owned(),
            events: vec![Count { kind: "sys_enter".to_owned(), count: 7 }],
            ..Status::default()
        };
        let text = render(&status, &[]);
        assert!(text.contains("tracerd_info{version=\"1\\\"2\\\\3\"} 1\n"), "{text}");
        assert!(text.contains("# TYPE tracerd_events_total counter\n"), "{text}");
        assert!(text.contains("\ntracerd_events_total{kind=\"sys_enter\"} 7\n"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(text.contains(&format!("# HELP {name} ")), "{line}");
        }
    }
}
