//! What a daemon takes of the machine.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::harness::{SOON, run};

/// What the daemon takes of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Resident memory in bytes, without files and shared memory.
    pub memory: i64,
    /// Open file descriptors.
    pub fds: usize,
    /// Threads.
    pub threads: usize,
    /// Processes in the kernel's map of those that are traced, or are not.
    pub traced: usize,
}

impl Usage {
    /// That of a process now.
    ///
    /// # Errors
    /// When /proc or bpftool do not tell.
    pub fn of(pid: i32) -> Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(proc.join("status"))?;
        let memory = status.lines().find_map(|line| {
            let kib = line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?;
            kib.parse::<i64>().ok()
        });
        let count = |dir: &str| -> Result<usize> { Ok(fs::read_dir(proc.join(dir))?.count()) };
        Ok(Self {
            memory: memory.context("no RssAnon")? * 1024,
            fds: count("fd")?,
            threads: count("task")?,
            traced: traced(pid)?,
        })
    }
}

/// How many entries the map `TRACED` of this daemon has, as bpftool shows it.
fn traced(pid: i32) -> Result<usize> {
    // Another tracerd may run, too: which maps are whose is in fdinfo.
    for fd in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.filter_map(Result::ok) {
        let info = fs::read_to_string(fd.path()).unwrap_or_default();
        let id = info.lines().find_map(|line| line.strip_prefix("map_id:")).map(str::trim);
        if let Some(id) = id
            && bpftool(&["map", "show", "id", id])?["name"] == "TRACED"
        {
            let entries = bpftool(&["map", "dump", "id", id])?;
            return Ok(entries.as_array().context("no list of entries")?.len());
        }
    }
    bail!("tracerd has no map TRACED")
}

fn bpftool(args: &[&str]) -> Result<Value> {
    let path = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
    let mut bpftool = std::process::Command::new("bpftool");
    let ended = run(bpftool.arg("--json").args(args).env("PATH", path), SOON)?.ok()?;
    serde_json::from_str(&ended.stdout).with_context(|| format!("bpftool {args:?}"))
}
