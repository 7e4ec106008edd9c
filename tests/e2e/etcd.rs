//! A real service: etcd as Debian ships it, built with Go 1.19, stripped and externally linked.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tracer_tests::{
    go::Go,
    harness::{Database, Ended, Process, SOON, run, wait_until},
    oracle::{What, read},
};

/// Keys that each client writes and reads.
const KEYS: u32 = 40;
const CLIENTS: u32 = 4;

/// An address of this machine that nobody listens at.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn start(dir: &Path) -> Result<(Process, SocketAddr)> {
    let (client, peer) = (free_address()?, free_address()?);
    let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
    let mut command = Command::new("etcd");
    command
        .args(["--name", "one", "--initial-cluster", &format!("one={peer_url}"), "--data-dir"])
        .arg(dir.join("etcd"))
        .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
    let mut etcd = Process::start(&mut command)
        .context("etcd does not start; `cargo xtask setup` installs it")?;
    wait_until("etcd answers", SOON, || {
        TcpStream::connect_timeout(&client, Duration::from_secs(1)).is_ok()
    })?;
    ensure!(etcd.is_running(), "etcd ended at once");
    Ok((etcd, client))
}

fn etcdctl(server: SocketAddr, args: &[&str]) -> Result<Ended> {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", &server.to_string()]).args(args);
    run(&mut command, SOON)?.ok()
}

/// Writes keys and reads them back, each with a value of its own.
fn put_and_get(server: SocketAddr, client: u32) -> Result<()> {
    for number in 0..KEYS {
        let (key, value) = (format!("key/{client}/{number}"), format!("value {}", client * number));
        let put = etcdctl(server, &["put", &key, &value])?;
        ensure!(put.stdout.trim() == "OK", "{put:?}");
        let got = etcdctl(server, &["get", "--print-value-only", &key])?;
        ensure!(got.stdout.trim() == value, "{key} is {:?} and not {value}", got.stdout);
    }
    Ok(())
}

#[test]
fn under_load() -> Result<()> {
    let database = Database::new()?;
    let (mut etcd, server) = start(database.dir())?;
    let tracerd = database.attach(etcd.pid(), &[])?;
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|client| std::thread::spawn(move || put_and_get(server, client)))
        .collect();
    for client in clients {
        client.join().expect("the client does not panic")?;
    }
    tracerd.signal(Signal::SIGINT)?;
    tracerd.wait(SOON)?.ok()?;
    ensure!(etcd.is_running(), "etcd died");
    put_and_get(server, CLIENTS + 1)?;

    let version = "select runtime_version as v from process where runtime = 'go'";
    assert_eq!(database.value(version)?, serde_json::json!("go1.19.8"));
    // etcd's own goroutines, by name, among them those that serve the clients' requests.
    let own = "select count(distinct start_func) as n from goroutine
         where start_func like '%etcd%' or start_func like '%grpc%'";
    let own = database.number(own)?;
    assert!(own >= 5, "{own} functions of etcd");
    let nameless = "select count(*) as n from goroutine where start_func is null";
    assert_eq!(database.number(nameless)?, 0);
    let reasons = database.sql(
        "select distinct reason from goroutine_state where state = 'waiting' and reason is not null",
    )?;
    let reasons: Vec<&str> = reasons.iter().filter_map(|row| row["reason"].as_str()).collect();
    for reason in ["select", "IO wait", "chan receive"] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }

    // Go's own tools open what was recorded, and know the functions.
    let (file, _) = database.export(&[])?;
    let events = read(&Go::find()?, &file)?;
    let named = events.iter().filter(|event| match &event.what {
        What::Goroutine { stack, .. } => stack.iter().any(|f| f.function.contains("etcd")),
        _ => false,
    });
    let named = named.count();
    assert!(named > 100, "{named} changes of state in functions of etcd");

    etcd.signal(Signal::SIGTERM)?;
    etcd.wait(SOON)?;
    Ok(())
}
