//! Where the daemon's batches go: into the database, or into the flight recorder.

use std::path::Path;

use anyhow::{Context, Result};
use tracer_protocol::{Loss, Reason, Refusal, Status};
use tracer_store::{
    Background, Batch, Clock, Fired, FirstIds, LastingWriter, Limits, NewSession, make_folder,
    words::loss_stage,
};
use tracing::warn;

use super::{
    config::{Config, Mode},
    flight::Flight,
    snapshots::{Asker, Snapshots, answer},
};
use crate::record::{clock, session, tell};

/// Where batches go.
pub enum Sink {
    /// Into the database.
    Store(Background),
    /// Into memory, until something happens.
    Flight(Box<Recorder>),
}

/// The flight recorder, and where it writes.
pub struct Recorder {
    flight: Flight,
    snapshots: Snapshots,
    /// Why it is to write when it has written what it writes now.
    next: Option<String>,
    /// Who asked for that.
    askers: Vec<Asker>,
}

impl Sink {
    /// Opens it; returns the numbers that rows begin with, too.
    pub fn open(config: &Config, session: NewSession) -> Result<(Self, FirstIds)> {
        match config.store.mode {
            Mode::Store => Self::open_store(config, session),
            Mode::Flight => {
                let Config { flight, store, .. } = config;
                let recorder = Recorder {
                    flight: Flight::new(flight.keep.0, flight.memory.memory(), session.started_ts),
                    snapshots: Snapshots::new(&flight.folder, flight.snapshots, &store.path),
                    next: None,
                    askers: Vec::new(),
                };
                Ok((Self::Flight(Box::new(recorder)), FirstIds::default()))
            }
        }
    }

    fn open_store(config: &Config, session: NewSession) -> Result<(Self, FirstIds)> {
        let path = &config.store.path;
        if path == Path::new(tracer_store::DEFAULT_DB)
            && let Some(folder) = path.parent()
        {
            make_folder(folder).with_context(|| format!("cannot create {}", folder.display()))?;
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

    /// Other limits, after the config was read again. Whether events are stored stays as it is.
    pub fn set_limits(&mut self, config: &Config) {
        match self {
            Self::Store(writer) => writer.set_limits(limits(config)),
            Self::Flight(recorder) => {
                let flight = &config.flight;
                recorder.flight.set_limits(flight.keep.0, flight.memory.memory());
                recorder.snapshots.set_limits(&flight.folder, flight.snapshots);
            }
        }
    }

    /// Whether rows can still be stored.
    pub fn works(&self) -> bool {
        match self {
            Self::Store(writer) => writer.works(),
            Self::Flight(_) => true,
        }
    }

    /// Rows that could not be stored.
    pub fn lost(&self) -> u64 {
        match self {
            Self::Store(writer) => {
                let state = writer.state();
                state.dropped_queue + state.dropped_store
            }
            Self::Flight(_) => 0,
        }
    }

    /// Whether the next batch must have everything, because a new database was begun.
    pub fn wants_whole(&self) -> bool {
        match self {
            Self::Store(writer) => writer.wants_whole(),
            Self::Flight(_) => false,
        }
    }

    /// Takes a batch. It does not wait for the disk. If something has fired, the flight recorder writes.
    pub fn send(&mut self, batch: Batch) {
        match self {
            Self::Store(writer) => {
                writer.send(batch);
                writer.take_notes().iter().for_each(|note| warn!("{note}"));
            }
            Self::Flight(recorder) => {
                let reason = batch.fired.first().map(|fired| fired.kind.to_string());
                recorder.add(batch);
                recorder.next = reason.or(recorder.next.take());
                recorder.write_next();
            }
        }
    }

    /// Writes out what the flight recorder holds, because somebody wants it, who is answered when that is complete.
    pub fn snapshot(&mut self, reason: &str, asker: Option<Asker>) {
        let Self::Flight(recorder) = self else {
            let message = "events are stored as they come, there is nothing to write out: ask the \
                           database (mode = \"flight\" in the config keeps them in memory)";
            return answer(asker, Err(Refusal::new(Reason::Failed, message)));
        };
        let ts = clock::pair().ts;
        let fired = Fired {
            ts,
            kind: "request".into(),
            name: Some(reason.into()).filter(|_| !reason.is_empty()),
            ..Fired::default()
        };
        recorder.add(Batch { fired: vec![fired], last_ts: ts, ..Batch::default() });
        recorder.next = Some("request".to_owned());
        recorder.askers.extend(asker);
        recorder.write_next();
    }

    pub fn status(&self) -> Status {
        let now = clock::pair();
        let wall = |ts| clock::wall(&now, ts);
        match self {
            Self::Store(writer) => {
                let state = writer.state();
                // Of which kinds they are is in the table `loss`.
                let dropped = [
                    (loss_stage::QUEUE, state.dropped_queue),
                    (loss_stage::STORE, state.dropped_store),
                ];
                let lost = dropped.into_iter().filter(|(_, count)| *count > 0);
                Status {
                    losses: lost
                        .map(|(stage, count)| Loss {
                            kind: "rows".into(),
                            stage: stage.into(),
                            count,
                        })
                        .collect(),
                    database_bytes: state.bytes,
                    kept_since: state.kept_since.map(wall),
                    queue_bytes: state.waiting as u64,
                    write_latency_ms: state.last_commit.as_secs_f64() * 1e3,
                    ..Status::default()
                }
            }
            Self::Flight(recorder) => Status {
                kept_since: Some(wall(recorder.flight.since())),
                queue_bytes: recorder.flight.bytes() as u64,
                ..Status::default()
            },
        }
    }

    pub fn finish(self, ended: Clock, reason: &str) -> Result<()> {
        match self {
            Self::Store(writer) => drop(writer.finish(ended, reason)?),
            Self::Flight(mut recorder) => recorder.snapshots.wait(),
        }
        Ok(())
    }
}

impl Recorder {
    fn add(&mut self, batch: Batch) {
        if self.flight.add(batch) {
            warn!("the flight recorder holds less than was asked for: its memory is too small");
        }
    }

    /// Writes, if it is to and does not do so already.
    fn write_next(&mut self) {
        if !self.snapshots.is_busy()
            && let Some(reason) = self.next.take()
        {
            let session = NewSession { started_ts: self.flight.since(), ..session::begin() };
            let askers = std::mem::take(&mut self.askers);
            self.snapshots.begin(self.flight.batches(), session, clock::pair(), &reason, askers);
        }
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        max_bytes: Some(config.store.max_size.0),
        max_age: Some(config.store.max_age.0),
        memory: config.limits.memory.memory(),
    }
}
