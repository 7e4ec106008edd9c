//! `tracer status`.

use std::io::{self, Write};

use anyhow::Result;
use tracer_protocol::{Control, Reply, Status};

use super::control::{ask, since_ns, unexpected};
use crate::args::{self, ShortOutput};
use crate::duration::human;
use crate::render::{Table, out};

/// Shows how the daemon is.
pub fn run(args: &args::Status) -> Result<()> {
    let Reply::Status(status) = ask(&args.socket.socket, Control::Status)? else {
        return unexpected();
    };
    let mut out = out();
    match args.output {
        ShortOutput::Json => writeln!(out, "{:#}", serde_json::to_value(&status)?)?,
        ShortOutput::Table => write(&status, &mut out)?,
    }
    Ok(out.flush()?)
}

fn write(status: &Status, out: &mut impl Write) -> io::Result<()> {
    let uptime = i64::try_from(status.uptime_s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    let mut facts = Table::new(["TRACERD", &status.version]);
    let mut fact = |name: &str, text: String| facts.row([name, &text]);
    fact("pid", status.pid.to_string());
    fact("running for", human(uptime));
    let config = status.config.as_ref();
    fact("config file", config.map_or_else(|| "none".into(), |path| path.display().to_string()));
    fact("processes traced", status.targets.to_string());
    let kept = status.kept_since.map_or_else(String::new, |since| {
        format!(", events of the last {}", human(since_ns(since)))
    });
    let database = status.database.display();
    fact("database", format!("{database}, {}{kept}", mib(status.database_bytes)));
    fact("last commit", format!("{:.1} ms", status.write_latency_ms));
    fact("waiting for the disk", mib(status.queue_bytes));
    fact("ring buffer", format!("{:.1} % full at most", status.ring_fill_percent));
    fact("CPU", format!("{:.1} % of one", status.cpu_percent));
    fact("memory", mib(status.rss_bytes));
    if let Some(socket) = &status.socket {
        fact("socket", socket.path.display().to_string());
        fact(
            "clients",
            format!(
                "{} connected, {} questions under way, {} answered, {} requests refused",
                socket.clients, socket.queries, socket.answered, socket.refused
            ),
        );
    }
    facts.write(out)?;

    let mut events = Table::new(["EVENTS", "COUNT"]);
    for count in &status.events {
        events.row([count.kind.clone(), count.count.to_string()]);
    }
    let mut losses = Table::new(["LOST", "WHERE", "COUNT"]);
    for loss in &status.losses {
        losses.row([loss.kind.clone(), loss.stage.clone(), loss.count.to_string()]);
    }
    let mut probes = Table::new(["FILE", "PROBES", "PROCESSES"]);
    for file in &status.probes {
        let path = file.file.display().to_string();
        probes.row([path, file.probes.to_string(), file.processes.to_string()]);
    }
    let parts = [
        (events, 1..2, status.events.is_empty()),
        (losses, 2..3, status.losses.is_empty()),
        (probes, 1..3, status.probes.is_empty()),
    ];
    for (mut table, right, empty) in parts {
        if !empty {
            table.right(right);
            writeln!(out)?;
            table.write(out)?;
        }
    }
    if status.losses.is_empty() {
        writeln!(out, "\nnothing was lost")?;
    }
    Ok(())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_protocol::{Count, Loss, ProbeFile, SocketCounts};

    #[test]
    fn all_there_is_to_say_is_shown() {
        let status = Status {
            version: "1.2.3".into(),
            pid: 7,
            uptime_s: 90,
            config: Some("/etc/tracerd/config.toml".into()),
            database: "/var/lib/tracerd/trace.db".into(),
            database_bytes: 5 << 20,
            kept_since: None,
            events: vec![Count { kind: "sched_switch".into(), count: 12 }],
            losses: vec![Loss { kind: "syscall".into(), stage: "ring".into(), count: 3 }],
            ring_fill_percent: 1.25,
            queue_bytes: 1 << 19,
            write_latency_ms: 4.56,
            cpu_percent: 2.0,
            rss_bytes: 30 << 20,
            targets: 2,
            probes: vec![ProbeFile { file: "/bin/x".into(), probes: 40, processes: 2 }],
            socket: Some(SocketCounts {
                path: "/run/x".into(),
                clients: 1,
                ..SocketCounts::default()
            }),
        };
        let mut text = Vec::new();
        write(&status, &mut text).unwrap();
        insta::assert_snapshot!(String::from_utf8(text).unwrap(), @r"
TRACERD               1.2.3
pid                   7
running for           90.0s
config file           /etc/tracerd/config.toml
processes traced      2
database              /var/lib/tracerd/trace.db, 5.0 MiB
last commit           4.6 ms
waiting for the disk  0.5 MiB
ring buffer           1.2 % full at most
CPU                   2.0 % of one
memory                30.0 MiB
socket                /run/x
clients               1 connected, 0 questions under way, 0 answered, 0 requests refused

EVENTS        COUNT
sched_switch     12

LOST     WHERE  COUNT
syscall  ring       3

FILE    PROBES  PROCESSES
/bin/x      40          2
");
        let mut text = Vec::new();
        write(&Status::default(), &mut text).unwrap();
        assert!(String::from_utf8(text).unwrap().ends_with("\nnothing was lost\n"));
    }
}
