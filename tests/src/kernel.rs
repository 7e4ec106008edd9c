//! Which BPF objects the kernel has.

use std::{collections::BTreeSet, fs, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::harness::{SOON, run};

/// The BPF programs and links, and the perf events with a BPF program, of the whole machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BpfObjects {
    /// Each as `KIND DETAILS`.
    names: BTreeSet<String>,
}

impl BpfObjects {
    /// Those that exist now, without those of a tracerd that runs.
    ///
    /// # Errors
    /// When bpftool fails, as it does for all but root.
    pub fn now() -> Result<Self> {
        let [progs, links, perf] = [show("prog")?, show("link")?, show("perf")?];
        let in_use: BTreeSet<i64> =
            perf.iter().filter(|event| is_of_tracerd(event)).filter_map(prog_id).collect();
        let mut names = BTreeSet::new();
        for (kind, objects) in [("prog", &progs), ("link", &links), ("perf", &perf)] {
            let left = objects.iter().filter(|object| {
                let id = if kind == "prog" { object["id"].as_i64() } else { prog_id(object) };
                id.is_none_or(|id| !in_use.contains(&id))
            });
            names.extend(left.map(|object| name(kind, object)));
        }
        Ok(Self { names })
    }

    /// Waits until all objects are gone that are not among these: the kernel frees programs a little
    /// later than their last user.
    ///
    /// # Errors
    /// When some are still there after the limit; it names them.
    pub fn wait_for_no_more(&self, limit: Duration) -> Result<()> {
        const STEP: Duration = Duration::from_millis(100);
        let mut waited = Duration::ZERO;
        loop {
            let now = Self::now()?;
            let left: Vec<&String> = now.names.difference(&self.names).collect();
            if left.is_empty() {
                return Ok(());
            }
            ensure!(waited < limit, "left behind: {left:?}");
            thread::sleep(STEP);
            waited += STEP;
        }
    }
}

fn show(kind: &str) -> Result<Vec<Value>> {
    // Not every PATH has the folders of system tools.
    let path = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
    let mut bpftool = Command::new("bpftool");
    let ended = run(bpftool.args(["--json", kind, "show"]).env("PATH", path), SOON)?.ok()?;
    if ended.stdout.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&ended.stdout).with_context(|| format!("bpftool {kind}: {}", ended.stdout))
}

fn prog_id(object: &Value) -> Option<i64> {
    object["prog_id"].as_i64()
}

/// Whether the process that holds a perf event is a tracerd.
fn is_of_tracerd(event: &Value) -> bool {
    let comm = event["pid"].as_i64().map(|pid| format!("/proc/{pid}/comm"));
    comm.and_then(|path| fs::read_to_string(path).ok()).is_some_and(|comm| comm.trim() == "tracerd")
}

/// What stays the same as long as the object exists: run counts and such are left out.
fn name(kind: &str, object: &Value) -> String {
    let details = ["id", "pid", "fd", "prog_id", "type", "name", "fd_type"]
        .iter()
        .filter_map(|key| object.get(key))
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    format!("{kind} {details}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_objects_apart() {
        let object = |id: u32, runs: u32| serde_json::json!({"id": id, "type": "tracing", "name": "x", "run_cnt": runs});
        assert_eq!(name("prog", &object(1, 5)), name("prog", &object(1, 6)));
        assert_ne!(name("prog", &object(1, 5)), name("prog", &object(2, 5)));
        assert_ne!(name("prog", &object(1, 5)), name("link", &object(1, 5)));
    }
}
