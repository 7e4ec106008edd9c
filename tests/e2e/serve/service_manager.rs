//! What the service manager and Prometheus are told.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tracer_tests::{
    daemon::Daemon,
    harness::{Process, SOON, wait_until},
    serving::{Place, stop},
};

/// After so long without a sign of life a daemon counts as hung.
const PATIENCE: Duration = Duration::from_secs(2);

const SIGN: &str = "WATCHDOG=1";

/// What a daemon says next.
fn received(socket: &UnixDatagram) -> Result<String> {
    let mut message = [0; 1024];
    let length = socket.recv(&mut message).context("it says nothing")?;
    Ok(String::from_utf8_lossy(&message[..length]).trim().to_owned())
}

/// What a daemon says next that is no sign of life.
fn news(socket: &UnixDatagram) -> Result<String> {
    loop {
        match received(socket)? {
            sign if sign == SIGN => {}
            news => return Ok(news),
        }
    }
}

#[test]
fn the_service_manager_hears_of_beginning_life_reload_and_end() -> Result<()> {
    let place = Place::new()?;
    let path = place.dir().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(SOON))?;
    let mut command = place.command("[[rule]]\nlevel = \"sched\"\n")?;
    command.env("NOTIFY_SOCKET", &path).env_remove("WATCHDOG_PID");
    command.env("WATCHDOG_USEC", PATIENCE.as_micros().to_string());
    let daemon = Process::start(&mut command)?;
    assert_eq!(received(&socket)?, "READY=1", "{}", daemon.stderr());
    let ready = Instant::now();
    // When it says so, it answers.
    place.status()?;
    for _ in 0..5 {
        assert_eq!(received(&socket)?, SIGN);
    }
    assert!(ready.elapsed() < 5 * PATIENCE, "five signs in {:?}", ready.elapsed());

    // A reload ends, too, if the file is wrong.
    for config in ["[[rule]]\nlevel = \"off\"\n", "[[rule]]\nlevel = \"some\"\n"] {
        fs::write(place.dir().join("config.toml"), config)?;
        daemon.signal(Signal::SIGHUP)?;
        assert_eq!(news(&socket)?, "RELOADING=1");
        assert_eq!(news(&socket)?, "READY=1");
    }
    assert_eq!(received(&socket)?, SIGN);
    stop(daemon)?;
    assert_eq!(news(&socket)?, "STOPPING=1");
    Ok(())
}

/// The answer to a request, with its head.
fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sum of all samples of a metric.
fn sum(answer: &str, metric: &str) -> f64 {
    let values = answer.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        (name == metric).then(|| value.parse::<f64>().ok()).flatten()
    });
    values.sum()
}

#[test]
fn prometheus_gets_the_figures() -> Result<()> {
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let config = format!(
        "[metrics]\nlisten = \"127.0.0.1:{free}\"\n[[rule]]\nname = \"all\"\nlevel = \"sched\"\n"
    );
    let daemon = Daemon::start(&config)?;
    // The test itself is traced.
    let positive = [
        "tracerd_info",
        "tracerd_events_total",
        "tracerd_targets",
        "tracerd_target_events_per_second",
        "tracerd_target_cost_ratio",
        "tracerd_resident_bytes",
        "tracerd_database_bytes",
    ];
    let mut answer = String::new();
    wait_until("figures", SOON, || {
        answer = get(free, "/metrics").unwrap_or_default();
        positive.iter().all(|metric| sum(&answer, metric) > 0.0)
    })
    .with_context(|| answer.clone())?;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let events = sum(&answer, "tracerd_events_total");
    wait_until("more events", SOON, || {
        get(free, "/metrics").is_ok_and(|answer| sum(&answer, "tracerd_events_total") > events)
    })?;
    assert!(get(free, "/")?.starts_with("HTTP/1.1 404 "));
    daemon.end()?;
    Ok(())
}
