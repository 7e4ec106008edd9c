//! The writing end of the database: a task of its own, so that a slow disk delays nobody but it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::{runtime::Runtime, sync::mpsc, task::JoinHandle};
use tracer_store::{
    Batch, Clock, DEFAULT_DB, NewSession, StoreError, Summary, Writer, make_folder,
};

/// Batches that may wait for the disk. When it is full the ring is not drained, and the kernel
/// counts what it then loses.
const QUEUE: usize = 4;

/// Writes batches in the background.
pub struct Store {
    runtime: Runtime,
    queue: mpsc::Sender<Batch>,
    task: JoinHandle<(Writer, Option<StoreError>)>,
    /// Where a former database was moved to.
    pub former: Option<PathBuf>,
}

/// How the writing ended.
pub struct Written {
    /// What is in the database.
    pub summary: Result<Summary, StoreError>,
    /// Why it ended early.
    pub error: Option<StoreError>,
}

impl Store {
    /// Creates the database, at the default place if no other is given.
    pub fn create(path: Option<&Path>, session: NewSession) -> Result<Self> {
        let path = match path {
            Some(path) => path,
            None => {
                let path = Path::new(DEFAULT_DB);
                if let Some(folder) = path.parent() {
                    make_folder(folder)
                        .with_context(|| format!("cannot create {}", folder.display()))?;
                }
                path
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("cannot start the writer")?;
        let (mut writer, former) = runtime.block_on(Writer::create(path, session))?;
        let (queue, mut batches) = mpsc::channel(QUEUE);
        let task = runtime.spawn(async move {
            while let Some(batch) = batches.recv().await {
                if let Err(error) = writer.commit(batch).await {
                    return (writer, Some(error));
                }
            }
            (writer, None)
        });
        Ok(Self { runtime, queue, task, former })
    }

    /// Hands over a batch, waiting for the disk if need be; false if writing has ended.
    pub fn send(&self, batch: Batch) -> bool {
        self.queue.blocking_send(batch).is_ok()
    }

    /// Whether a batch can be handed over without waiting for the disk.
    pub fn has_room(&self) -> bool {
        self.queue.capacity() > 0
    }

    /// Whether writing still goes on.
    pub fn works(&self) -> bool {
        !self.queue.is_closed()
    }

    /// Writes what is left and closes the database.
    pub fn finish(self, ended: Clock, reason: &str) -> Result<Written> {
        drop(self.queue);
        let (writer, error) =
            self.runtime.block_on(self.task).context("the writer ended unexpectedly")?;
        let summary = self.runtime.block_on(writer.finish(ended.ts, reason, ended));
        Ok(Written { summary, error })
    }
}
