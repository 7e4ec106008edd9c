//! Which BPF objects the kernel has.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

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

/// The BPF programs and links that a process holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnObjects {
    programs: BTreeSet<i64>,
    links: BTreeSet<i64>,
}

impl OwnObjects {
    /// Those that it has open now.
    ///
    /// # Errors
    /// When it has none, or is gone.
    pub fn of(pid: i32) -> Result<Self> {
        let (mut programs, mut links) = (BTreeSet::new(), BTreeSet::new());
        for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // It may be closed meanwhile.
            let text = fs::read_to_string(file?.path()).unwrap_or_default();
            let number = |key: &str| -> Option<i64> {
                text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
            };
            programs.extend(number("prog_id:"));
            links.extend(number("link_id:"));
        }
        ensure!(!programs.is_empty() && !links.is_empty(), "process {pid} has no BPF programs");
        Ok(Self { programs, links })
    }

    /// Waits until the kernel has none of them any more.
    ///
    /// # Errors
    /// When it still has some after the limit; it names them.
    pub fn wait_until_gone(&self, limit: Duration) -> Result<()> {
        let left = |kind, own: &BTreeSet<i64>| -> Result<BTreeSet<i64>> {
            let now = show(kind)?;
            Ok(now.iter().filter_map(|o| o["id"].as_i64()).filter(|id| own.contains(id)).collect())
        };
        let start = Instant::now();
        loop {
            let (programs, links) = (left("prog", &self.programs)?, left("link", &self.links)?);
            if programs.is_empty() && links.is_empty() {
                return Ok(());
            }
            ensure!(start.elapsed() < limit, "left: programs {programs:?}, links {links:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Whether the code of a process is that of its executable's file: uprobes change it.
///
/// # Errors
/// When the process is gone, or its executable is not an ELF file with code at fixed addresses of 64 bits.
pub fn code_is_unchanged(pid: i32) -> Result<bool> {
    Ok(changed_code(pid)?.is_empty())
}

/// Addresses in a process at which its code is not that of its executable's file: where probes are.
///
/// # Errors
/// As [`code_is_unchanged`].
pub fn changed_code(pid: i32) -> Result<Vec<u64>> {
    let exe = fs::read_link(format!("/proc/{pid}/exe"))?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    // start-end r-xp offset device inode path
    let code = maps
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words[1].contains('x') && words.get(5).is_some_and(|p| exe == Path::new(p)))
        .with_context(|| format!("{} has no code", exe.display()))?;
    let (start, end) = code[0].split_once('-').context("no range")?;
    let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
    let offset = u64::from_str_radix(code[2], 16)?;
    let read = |path: &Path, at: u64| -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(end - start)?];
        let file = fs::File::open(path)?;
        let mut filled = 0;
        // The last page of a file is not whole.
        while let count @ 1.. = file.read_at(&mut bytes[filled..], at + filled as u64)? {
            filled += count;
        }
        bytes.truncate(filled);
        Ok(bytes)
    };
    let loaded = read(Path::new(&format!("/proc/{pid}/mem")), start)?;
    let file = read(&exe, offset)?;
    let length = loaded.len().min(file.len());
    ensure!(length > 0, "there is no code");
    let changed = (0..length).filter(|&i| loaded[i] != file[i]);
    Ok(changed.map(|i| start + i as u64).collect())
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
