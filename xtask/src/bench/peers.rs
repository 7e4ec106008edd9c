//! What other tracers cost under the same loads.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::harness::run;

use super::{
    Bench,
    load::{GRACE, Load},
};
use crate::command::is_here;

/// Pages of bpftrace's buffer for each CPU: 16 MiB, as large as tracerd's, so that it need not lose.
const BUFFER_PAGES: &str = "4096";

impl Bench {
    /// The rate of a load under Go's own tracer.
    pub fn under_runtime_trace(&self, load: Load) -> Result<f64> {
        let folder = self.folder()?;
        let mut command = self.command(load)?;
        load.run(command.arg("-trace").arg(folder.path().join("trace")), self.length)
    }
}

/// bpftrace with a record of every change of a goroutine's state, and of nothing else.
#[derive(Debug, Default)]
pub struct Bpftrace {
    failed: bool,
}

/// What bpftrace did.
#[derive(Debug)]
pub struct Output {
    /// Work of the traced program per second.
    pub rate: f64,
    /// Events without room in its buffers.
    pub lost: f64,
}

impl Bpftrace {
    /// If it is installed; says so if not.
    pub fn find() -> Option<Self> {
        let found = is_here("bpftrace");
        if !found {
            eprintln!("bench: bpftrace is not installed, so it is not measured");
        }
        found.then(Self::default)
    }

    /// Traces a load; `None` if that has failed once, which is said and spoils nothing else.
    pub fn measure(&mut self, bench: &Bench, load: Load) -> Result<Option<Output>> {
        if self.failed {
            return Ok(None);
        }
        match trace(bench, load) {
            Ok(output) => Ok(Some(output)),
            Err(error) => {
                eprintln!(
                    "bench: bpftrace is not measured, since it failed ({error:#}); it may need a \
                     higher RLIMIT_MEMLOCK: `ulimit -l unlimited`"
                );
                self.failed = true;
                Ok(None)
            }
        }
    }
}

fn trace(bench: &Bench, load: Load) -> Result<Output> {
    let folder = bench.folder()?;
    let records = folder.path().join("records");
    let words = bench.words(load, bench.length)?;
    let command = words.join(" ");
    ensure!(command.split(' ').eq(&words), "it takes no path with a space: {command}");
    // g.goid is at 152 in the Go of the test programs; casgstatus(AX gp, BX old, CX new).
    let script = format!(
        "uprobe:{}:\"runtime.casgstatus\" {{ printf(\"%lu %d %lu %d %d\\n\", nsecs, tid, \
         *(uint64*)(reg(\"ax\") + 152), reg(\"bx\"), reg(\"cx\")); }}",
        words[0]
    );
    let mut bpftrace = Command::new("bpftrace");
    bpftrace
        .env("BPFTRACE_PERF_RB_PAGES", BUFFER_PAGES)
        .args(["-B", "full", "-o"])
        .arg(&records)
        .args(["-c", &command, "-e", &script]);
    let ended = run(&mut bpftrace, bench.length + GRACE)?;
    ensure!(ended.code() == 0, "exit code {}: {}", ended.code(), ended.stderr.trim());
    let file = BufReader::new(File::open(&records).context("it left no file")?);
    let (recorded, lost) = count(file)?;
    ensure!(recorded > 0, "it recorded nothing: {}", ended.stderr.trim());
    Ok(Output { rate: load.rate(&ended.stdout, bench.length)?, lost: lost as f64 })
}

/// Records of our script in bpftrace's output, and events that it says it lost.
fn count(output: impl BufRead) -> Result<(u64, u64)> {
    let (mut recorded, mut lost) = (0, 0);
    for line in output.lines() {
        let line = line?;
        if let Some(rest) = line.strip_prefix("Lost ") {
            let number = rest.split(' ').next().unwrap_or_default();
            lost += number.parse::<u64>().with_context(|| format!("not understood: {line}"))?;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            recorded += 1;
        }
    }
    Ok((recorded, lost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_losses_are_counted() {
        let text =
            "Attaching 1 probe...\n17 3 1 1 2\nLost 40 events\n18 3 1 2 4\nLost 2 events\n\n";
        assert_eq!(count(text.as_bytes()).ok(), Some((2, 42)));
        assert_eq!(count(&b"Attaching 1 probe...\n"[..]).ok(), Some((0, 0)));
        assert!(count(&b"Lost many events\n"[..]).is_err());
    }
}
