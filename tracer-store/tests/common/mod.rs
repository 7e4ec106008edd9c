//! What the tests have in common: a recording with rows that they choose.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod load;
pub mod users;

use std::path::{Path, PathBuf};
use std::process::Command;

use tracer_store::{Batch, Clock, Goroutine, Interner, NewSession, Process, Reader, Value, Writer};

/// A folder of its own for a test, removed at the end.
pub struct Dir(tempfile::TempDir);

impl Dir {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

pub fn session() -> NewSession {
    NewSession {
        started_ts: 1_000,
        boot_id: "b0".into(),
        hostname: "host".into(),
        kernel: "6.18".into(),
        tracerd_version: "0.1.0".into(),
        command: "attach 42".into(),
        clock: Clock { ts: 1_000, realtime: 1_700_000_000_000_000_000 },
    }
}

pub async fn create(path: &Path) -> Writer {
    Writer::create(path, session()).await.unwrap().0
}

pub const END: Clock = Clock { ts: 1_000_000, realtime: 1_700_000_000_000_999_000 };

pub fn process(upid: i64) -> Process {
    Process { upid, pid: 4000 + upid, runtime: Some("go".into()), ..Default::default() }
}

pub fn goroutine(ugid: i64, start_func: &str) -> Goroutine {
    let start_func = (!start_func.is_empty()).then(|| start_func.into());
    Goroutine { ugid, upid: 1, goid: ugid, start_func, ..Default::default() }
}

/// A batch with what the interner has learnt.
pub fn batch(interner: &mut Interner, last_ts: i64) -> Batch {
    Batch { strings: interner.take_new(), last_ts, ..Default::default() }
}

/// The rows of an answer as text, columns separated by `|`, NULL as `-`.
pub fn rows(reader: &Reader, sql: &str) -> Vec<String> {
    let result = reader.query_all(sql, None).unwrap_or_else(|e| panic!("{sql}: {e}"));
    result.rows.iter().map(|row| row.iter().map(text).collect::<Vec<_>>().join("|")).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Integer(i) => i.to_string(),
        Value::Real(f) => f.to_string(),
        Value::Text(t) => t.clone(),
        Value::Blob(b) => format!("{b:?}"),
    }
}

/// Runs a command; false when it fails, for example because it needs root.
pub fn ran(command: &str, args: &[&str]) -> bool {
    Command::new(command).args(args).output().is_ok_and(|output| output.status.success())
}

/// A file system at a folder, taken away at the end.
pub struct Mount(String);

impl Mount {
    pub fn new(dir: &Path, args: &[&str]) -> Option<Self> {
        let dir = dir.to_str().unwrap().to_owned();
        let mut all = args.to_vec();
        all.push(&dir);
        if !ran("mount", &all) {
            eprintln!("skipped: mount needs root");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        ran("umount", &["-l", &self.0]);
    }
}
