//! `/metrics` for Prometheus: the figures of `tracer status` and `tracer ls` in its text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::{fmt::Write as _, future::IntoFuture as _, net::SocketAddr, thread::JoinHandle};

use anyhow::{Context, Result};
use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::{mpsc, oneshot};
use tracer_protocol::{Control, Reply, Status, Traced};

use crate::server::{Command, Peer};

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
        let socket = std::net::TcpListener::bind(address)
            .with_context(|| format!("cannot listen at {address} for /metrics"))?;
        socket.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(socket)?;
            let app = Router::new().route("/metrics", get(move || answer(commands.clone())));
            tokio::select! {
                ended = axum::serve(listener, app).into_future() => ended,
                // Also when it is dropped. Nobody is waited for: some never end what they ask, and others wait for the
                // recording loop, which is what waits here.
                _ = stopped => Ok(()),
            }
        };
        let run = move || {
            if let Err(error) = runtime.block_on(serve) {
                tracing::warn!("/metrics is not answered any more: {error}");
            }
        };
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

async fn answer(commands: mpsc::Sender<Command>) -> Response {
    let status = ask(&commands, Control::Status).await;
    let list = ask(&commands, Control::List).await;
    match (status, list) {
        (Some(Reply::Status(status)), Some(Reply::List(list))) => {
            let text = render(&status, &list);
            ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
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
        net::{TcpListener, TcpStream},
        time::Duration,
    };

    use tracer_protocol::Count;

    use super::*;

    #[test]
    fn it_ends_whatever_its_clients_do() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let (sender, mut commands) = mpsc::channel(8);
        for _ in 0..2 {
            let metrics = Metrics::start(address, sender.clone()).unwrap();
            let connect = |text: &str| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
                stream
            };
            // One says nothing, one begins to ask, and one asks while nobody answers.
            let mut clients = ["", "G", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"].map(connect);
            let command = commands.blocking_recv().unwrap();
            assert_eq!(command.what, Control::Status);
            let (done, is_done) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                drop(metrics);
                done.send(()).unwrap();
            });
            is_done.recv_timeout(Duration::from_secs(10)).expect("it does not end");
            for client in &mut clients {
                client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
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
