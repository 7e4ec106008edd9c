//! Where the daemon's batches go.

use anyhow::Result;
use tracer_protocol::{Reason, Refusal, Reply, Status};
use tracer_store::{Batch, Clock, NewSession};

use super::config::Config;
use crate::record::store::Store;

/// Where batches go.
pub enum Sink {
    /// Into the database.
    Store(Store),
}

impl Sink {
    /// Opens it.
    pub fn open(config: &Config, session: NewSession) -> Result<Self> {
        Ok(Self::Store(Store::create(Some(&config.store.path), session)?))
    }

    pub fn has_room(&self) -> bool {
        match self {
            Self::Store(store) => store.has_room(),
        }
    }

    pub fn send(&mut self, batch: Batch) {
        match self {
            Self::Store(store) => {
                store.send(batch);
            }
        }
    }

    pub fn snapshot(&mut self, _reason: &str) -> Result<Reply, Refusal> {
        Err(Refusal::new(Reason::Failed, "events are stored: there is nothing to write out"))
    }

    pub fn status(&self) -> Status {
        Status::default()
    }

    pub fn finish(self, ended: Clock, reason: &str) -> Result<()> {
        match self {
            Self::Store(store) => store.finish(ended, reason)?.summary?,
        };
        Ok(())
    }
}
