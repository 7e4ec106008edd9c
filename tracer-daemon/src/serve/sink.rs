//! Where the daemon's batches go.

use std::path::Path;

use anyhow::{Context, Result};
use tracer_protocol::{Reason, Refusal, Reply, Status};
use tracer_store::{Background, Batch, Clock, FirstIds, LastingWriter, Limits, NewSession};
use tracing::warn;

use super::config::Config;
use crate::record::{clock, tell};

/// Where batches go.
pub enum Sink {
    /// Into the database.
    Store(Background),
}

impl Sink {
    /// Opens it; returns the numbers that rows begin with, too.
    pub fn open(config: &Config, session: NewSession) -> Result<(Self, FirstIds)> {
        let path = &config.store.path;
        if path == Path::new(tracer_store::DEFAULT_DB)
            && let Some(folder) = path.parent()
        {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let limits = limits(config);
        // Its own thread, as the writer's.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the writer")?;
        let (writer, opened) = runtime.block_on(LastingWriter::open(path, session, limits))?;
        if let Some(note) = opened.note {
            tell(&note);
        }
        let writer = Background::start(writer, limits).context("cannot start the writer")?;
        Ok((Self::Store(writer), opened.first_ids))
    }

    /// Other limits, after the config was read again.
    pub fn set_limits(&self, config: &Config) {
        match self {
            Self::Store(writer) => writer.set_limits(limits(config)),
        }
    }

    /// Whether the next batch must have everything, because a new database was begun.
    pub fn wants_whole(&self) -> bool {
        match self {
            Self::Store(writer) => writer.wants_whole(),
        }
    }

    /// Takes a batch. It does not wait for the disk.
    pub fn send(&mut self, batch: Batch) {
        match self {
            Self::Store(writer) => {
                writer.send(batch);
                writer.take_notes().iter().for_each(|note| warn!("{note}"));
            }
        }
    }

    pub fn snapshot(&mut self, _reason: &str) -> Result<Reply, Refusal> {
        Err(Refusal::new(Reason::Failed, "events are stored: there is nothing to write out"))
    }

    pub fn status(&self) -> Status {
        let Self::Store(writer) = self;
        let state = writer.state();
        let now = clock::pair();
        Status {
            database_bytes: state.bytes,
            kept_since: state.kept_since.map(|ts| now.realtime - (now.ts - ts)),
            queue_bytes: state.waiting as u64,
            write_latency_ms: state.last_commit.as_secs_f64() * 1e3,
            ..Status::default()
        }
    }

    pub fn finish(self, ended: Clock, reason: &str) -> Result<()> {
        match self {
            Self::Store(writer) => writer.finish(ended, reason)?,
        };
        Ok(())
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        max_bytes: Some(config.store.max_size.0),
        max_age: Some(config.store.max_age.0),
        memory: usize::try_from(config.limits.memory.0).unwrap_or(usize::MAX),
    }
}
