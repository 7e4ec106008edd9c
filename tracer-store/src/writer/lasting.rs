//! A writer that goes on: with the database of a former run, within bounds, and after errors.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::Connection;

use super::batch::{Batch, FirstIds, NewSession};
use super::place::{Former, Place};
use super::retention::{Need, NoRoom, Retention};
use super::{Summary, Writer, aside, place, with_conn};
use crate::error::{Result, StoreError, is_damage};
use crate::schema::entities::Clock;
use crate::schema::words::loss_stage;

/// For how long a segment is added to.
const SPAN: Duration = Duration::from_secs(120);

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that the database, its log and the log's index take on disk together, and databases that were put
    /// aside with them; at least [`Limits::LEAST_BYTES`].
    pub max_bytes: Option<u64>,
    /// How old an event may become.
    pub max_age: Option<Duration>,
    /// Bytes of memory for what waits for the disk.
    pub memory: usize,
}

impl Limits {
    /// The smallest bound on bytes that leaves room to work.
    pub const LEAST_BYTES: u64 = 4 << 20;

    /// Bytes of memory of what is written in one commit. It must fit into the log, and the next one waits for it.
    pub(super) fn at_once(&self) -> usize {
        let log = self.max_bytes.map_or(u64::MAX, |max| max / 8);
        // Stored, a row takes a tenth of what it takes in memory.
        usize::try_from(log.saturating_mul(2)).unwrap_or(usize::MAX).clamp(2 << 20, 16 << 20)
    }

    /// As [`Limits::at_once`], of what is stored as rows of its own and changes indexes: these take more room in the log.
    pub(super) fn entities_at_once(&self) -> usize {
        self.at_once() / 16
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: None, max_age: None, memory: 256 << 20 }
    }
}

/// How a database was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The numbers to count on from.
    pub first_ids: FirstIds,
    /// What was there, in a sentence to be shown, if it is worth one.
    pub note: Option<String>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Stored {
    /// Rows of streams that were dropped; the database counts them as lost as soon as it can be written to.
    pub dropped: u64,
    /// Why they were, or what else did not work. The next batch is tried all the same.
    pub error: Option<StoreError>,
    /// The database was damaged or removed, and a new one was begun, as this sentence says. It lacks what was told
    /// before: rows of streams are dropped until a batch is [`Batch::whole`].
    pub begun_anew: Option<String>,
}

/// The writer of a database that is written for days.
///
/// It goes on with the database of a former run, keeps it within [`Limits`], and outlives errors: what cannot be
/// written is kept in memory if later rows refer to it, dropped and counted if not. That is dropped, too, once it takes a
/// quarter of [`Limits::memory`], and asked for again ([`Self::wants_whole`]) when writing works.
pub struct LastingWriter {
    /// None while none can be made.
    writer: Option<(Writer, Retention)>,
    path: PathBuf,
    session: NewSession,
    limits: Limits,
    /// What could not be written yet, without rows of streams.
    pending: Batch,
    /// Rows in it when it was compacted last.
    compacted: usize,
    /// The database does not know what was told before, or some of it.
    lacks: bool,
    /// Nothing could be written, so that a whole batch would only be dropped.
    stuck: bool,
    dropped: u64,
}

impl LastingWriter {
    /// Goes on with a database, or begins one. A database of another boot or schema is kept as `FILE.old`, a damaged
    /// one as `FILE.corrupt-TIME`.
    ///
    /// # Errors
    /// When something else is there, another tracerd writes it, or the place cannot be written to.
    pub async fn open(path: &Path, session: NewSession, limits: Limits) -> Result<(Self, Opened)> {
        let limits = Self::sane(limits);
        let (place, former) = Place::resume(path, &session.boot_id)?;
        let path = place.path.clone();
        let writer = begin(place, &session, limits).await?;
        let first_ids = writer.0.next_ids;
        let note = former.note(&path);
        let this = Self {
            writer: Some(writer),
            path,
            session,
            limits,
            pending: Batch::default(),
            compacted: 0,
            lacks: false,
            stuck: false,
            dropped: 0,
        };
        Ok((this, Opened { first_ids, note }))
    }

    fn sane(limits: Limits) -> Limits {
        let max_bytes = limits.max_bytes.map(|bytes| bytes.max(Limits::LEAST_BYTES));
        Limits { max_bytes, ..limits }
    }

    /// The database, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of the session that is recorded, if there is a database.
    pub fn session_id(&self) -> Option<i64> {
        self.writer.as_ref().map(|(writer, _)| writer.session_id())
    }

    /// Since when everything that was recorded is still there, ns; `None` while nothing was removed.
    pub fn kept_since(&self) -> Option<i64> {
        self.writer.as_ref().and_then(|(_, retention)| retention.kept_since())
    }

    /// Whether the next batch should be [`Batch::whole`]: a new database was begun, or there was no memory for what
    /// could not be written, and now it can. Rows of streams are dropped until it is.
    pub fn wants_whole(&self) -> bool {
        self.lacks && !self.stuck
    }

    /// Bytes of memory that wait for the disk.
    pub fn waiting(&self) -> usize {
        self.pending.entity_bytes()
    }

    /// Other limits from the next batch on.
    pub async fn set_limits(&mut self, limits: Limits) -> Result<()> {
        self.limits = Self::sane(limits);
        let limits = self.limits;
        match &mut self.writer {
            Some((writer, retention)) => {
                with_conn(&mut writer.conn, |conn| retention.set_limits(conn, limits)).await
            }
            None => Ok(()),
        }
    }

    /// Stores a batch, or what can be stored of it.
    pub async fn store(&mut self, batch: Batch) -> Stored {
        let mut stored = Stored::default();
        self.look_after_file(&mut stored).await;
        let mut batch = batch;
        if self.lacks && batch.whole {
            self.lacks = false;
        }
        if self.lacks {
            // Its rows would refer to what the database has never heard of.
            stored.dropped = batch.drop_rows(loss_stage::STORE);
            batch.drop_goroutines(loss_stage::STORE);
        }
        let mut all = std::mem::take(&mut self.pending);
        all.absorb(batch);
        self.session.started_ts = all.last_ts;
        let (at_once, entities) = (self.limits.at_once(), self.limits.entities_at_once());
        let mut begun = false;
        loop {
            let (mut portion, open) = match all.take_entities(entities) {
                Some(portion) => (portion, false),
                None => (all.take_portion(at_once), !std::mem::replace(&mut begun, true)),
            };
            if let Err(error) = self.try_store(&mut portion, open, &mut stored).await {
                portion.absorb(all);
                stored.dropped += portion.drop_rows(loss_stage::STORE);
                self.keep(portion);
                if is_damage(&error) {
                    self.begin_anew(&error, &mut stored).await;
                }
                stored.error = Some(error);
                break;
            }
            self.compacted = 0;
            let last = begun && all.closed.is_empty();
            // Of rows for which there was no room.
            if !portion.unknown.is_empty() {
                let left = if last { &mut self.pending } else { &mut all };
                portion.unknown.absorb(std::mem::take(&mut left.unknown));
                left.unknown = portion.unknown;
                left.last_ts = portion.last_ts;
            }
            if last {
                break;
            }
        }
        self.stuck = stored.error.is_some() && stored.begun_anew.is_none();
        self.dropped += stored.dropped;
        stored
    }

    /// Stores a portion, with the intervals that are open if those are to be replaced.
    async fn try_store(
        &mut self,
        batch: &mut Batch,
        open: bool,
        stored: &mut Stored,
    ) -> Result<()> {
        self.limit_aside();
        let Some((writer, retention)) = &mut self.writer else {
            return Err(StoreError::WriterFailed { path: self.path.clone() });
        };
        retention.learn(batch);
        let mut would_lose = batch.count_rows(loss_stage::STORE);
        let mut unknown = batch.unknown.clone();
        unknown.add_rows(&batch.closed);
        batch.unknown.move_into(&mut batch.closed);
        let mut plan = Some(writer.plan(batch, open)?);
        loop {
            let (segments, bytes) = plan.as_ref().map_or((0, 0), |p| (p.segments.len(), p.bytes()));
            let need = Need::new(batch, segments, bytes);
            let tails = writer.segments.tails();
            let now = batch.last_ts;
            let room =
                with_conn(&mut writer.conn, |conn| retention.make_room(conn, need, &tails, now));
            let done = match room.await.map_err(|e| super::write_error(&self.path, e)) {
                Ok(Ok(())) => writer.store(batch, plan.as_ref()).await,
                Ok(Err(NoRoom::LogHeld)) => Err(StoreError::LogHeld { path: self.path.clone() }),
                Ok(Err(NoRoom::Database)) => Err(StoreError::TooSmall { path: self.path.clone() }),
                Err(error) => Err(error),
            };
            let error = match done {
                Ok(()) => break,
                Err(error) => error,
            };
            let planned = plan.take().is_some();
            for loss in would_lose.drain(..) {
                stored.dropped += loss.count.cast_unsigned();
                batch.add_loss(loss);
            }
            if planned {
                batch.unknown.absorb(std::mem::take(&mut unknown));
            }
            // Once more without rows of streams: there may be room for what is few.
            if !planned || is_damage(&error) {
                return Err(error);
            }
            stored.error = Some(error);
        }
        if let Some(plan) = plan {
            writer.stored(plan);
        }
        // Other errors than damage are those that the next commit meets, too.
        match with_conn(&mut writer.conn, |conn| retention.tidy(conn)).await {
            Err(error) if is_damage(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Keeps what could not be written.
    fn keep(&mut self, batch: Batch) {
        self.pending = batch;
        let rows = |pending: &Batch| pending.many() + pending.processes.len();
        let too_much = |pending: &Batch| pending.entity_bytes() > self.limits.memory / 4;
        if rows(&self.pending) > 2 * self.compacted + 4096 || too_much(&self.pending) {
            self.pending.compact();
            self.compacted = rows(&self.pending);
        }
        if too_much(&self.pending) {
            self.pending.drop_entities(loss_stage::STORE);
            self.compacted = 0;
            self.lacks = true;
        }
    }

    /// Begins a new database if there is none, or somebody removed or replaced it.
    async fn look_after_file(&mut self, stored: &mut Stored) {
        match &self.writer {
            None => self.reopen(stored).await,
            Some((writer, _)) if !writer.lock.is_of(&self.path) => {
                self.close().await;
                self.lacks = true;
                stored.begun_anew = Some(format!(
                    "{} was removed while it was written; a new database is begun",
                    self.path.display()
                ));
                self.reopen(stored).await;
            }
            Some(_) => {}
        }
    }

    /// Puts a damaged database aside.
    async fn begin_anew(&mut self, error: &StoreError, stored: &mut Stored) {
        self.close().await;
        self.lacks = true;
        let path = self.path.display();
        stored.begun_anew = Some(match aside::put_damaged(&self.path) {
            Ok(kept) => {
                let kept = kept.display();
                format!(
                    "{path} is damaged ({error}); it is kept as {kept}, and a new database is begun"
                )
            }
            Err(other) => format!("{path} is damaged ({error}) and cannot be put aside: {other}"),
        });
        self.reopen(stored).await;
    }

    async fn close(&mut self) {
        if let Some((writer, _)) = self.writer.take() {
            let Writer { conn, lock, .. } = writer;
            // What can go wrong has gone wrong.
            let _ = conn.close().await;
            drop(lock);
        }
    }

    async fn reopen(&mut self, stored: &mut Stored) {
        // What somebody else has put there has numbers of its own, and is not gone on with.
        let begun = match Place::take(&self.path) {
            Ok(place) => begin(place, &self.session, self.limits).await,
            Err(error) => Err(error),
        };
        match begun {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => stored.error = Some(error),
        }
    }

    /// Removes databases that were put aside when there is no room for them within the bound.
    fn limit_aside(&self) {
        let mut kept = aside::list(&self.path);
        if kept.is_empty() {
            return;
        }
        if let Some(age) = self.limits.max_age {
            kept.retain(|kept| {
                let old = kept.modified.elapsed().is_ok_and(|since| since > age);
                !(old && place::remove_with_side_files(&kept.path).is_ok())
            });
        }
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.modified));
        let Some(max) = self.limits.max_bytes else { return };
        // Room for a commit and for the log is part of what the database may need.
        let own = place::size(&self.path) + max / 8 + (1 << 20);
        while own + kept.iter().map(|kept| kept.bytes).sum::<u64>() > max {
            let Some(oldest) = kept.pop() else { return };
            let _ = place::remove_with_side_files(&oldest.path);
        }
    }

    /// Ends the recording and closes the database.
    ///
    /// # Errors
    /// When the end cannot be stored.
    pub async fn finish(self, ended_ts: i64, end_reason: &str, clock: Clock) -> Result<Summary> {
        let Self { writer, path, mut pending, .. } = self;
        let Some((mut writer, _)) = writer else {
            return Err(StoreError::WriterFailed { path });
        };
        if pending.last_ts != 0 {
            pending.last_ts = ended_ts;
            pending.unknown.move_into(&mut pending.closed);
            let plan = writer.plan(&mut pending, false)?;
            writer.store(&pending, Some(&plan)).await?;
        }
        writer.finish(ended_ts, end_reason, clock).await
    }
}

async fn begin(place: Place, session: &NewSession, limits: Limits) -> Result<(Writer, Retention)> {
    let mut writer = Writer::begin(place, session, Some(SPAN)).await?;
    let id = writer.session_id;
    let retention = with_conn(&mut writer.conn, |conn| Retention::new(conn, limits, id));
    let retention = retention.await?;
    Ok((writer, retention))
}

impl Former {
    /// In words.
    fn note(&self, path: &Path) -> Option<String> {
        let path = path.display();
        match self {
            Self::Nothing => None,
            Self::Snapshot(to) => Some(format!(
                "{path} was a link to the snapshot {}, which stays; a new database is begun",
                to.display()
            )),
            Self::GoesOn => Some(format!("going on with {path}")),
            Self::Old { kept_as, why } => Some(format!(
                "{path} {why}; it is kept as {}, and a new database is begun",
                kept_as.display()
            )),
            Self::Damaged { kept_as, why } => Some(format!(
                "{path} is damaged ({why}); it is kept as {}, and a new database is begun",
                kept_as.display()
            )),
        }
    }
}
