//! Writing out what the flight recorder holds.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use tokio::sync::oneshot;
use tracer_protocol::{Reason, Refusal, Reply};
use tracer_store::{Clock, NewSession, SNAPSHOT_ENDING, Writer, make_folder};
use tracing::{info, warn};

use super::flight::Held;

/// What the name of a snapshot that is not complete ends with.
const PARTIAL_ENDING: &str = ".flight.partial";
/// Nobody writes a snapshot in which nothing has changed for so long.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Where snapshots go.
pub struct Snapshots {
    folder: PathBuf,
    /// How many stay.
    most: usize,
    /// A link to the newest one, so that questions are answered from it.
    newest: PathBuf,
    /// The one that is being written, and who waits for it.
    writing: Option<(JoinHandle<Result<PathBuf>>, Vec<Asker>)>,
}

/// Takes the answer to who asked for a snapshot.
pub type Asker = oneshot::Sender<Result<Reply, Refusal>>;

/// Answers somebody, who may be gone; what cannot be done is said in the log, too.
pub fn answer(askers: impl IntoIterator<Item = Asker>, answer: Result<Reply, Refusal>) {
    if let Err(refusal) = &answer {
        warn!("{refusal}");
    }
    for asker in askers {
        let _ = asker.send(answer.clone());
    }
}

impl Snapshots {
    pub fn new(folder: &Path, most: usize, newest: &Path) -> Self {
        Self { folder: folder.into(), most: most.max(1), newest: newest.into(), writing: None }
    }

    /// Other limits from the next one on.
    pub fn set_limits(&mut self, folder: &Path, most: usize) {
        (self.folder, self.most) = (folder.into(), most.max(1));
    }

    /// Whether one is being written.
    pub fn is_busy(&mut self) -> bool {
        if self.writing.as_ref().is_some_and(|(thread, _)| thread.is_finished()) {
            self.wait();
        }
        self.writing.is_some()
    }

    /// Begins to write one in the background; who asked for it is answered when it is complete. Rows are since
    /// `session.started_ts`.
    pub fn begin(
        &mut self,
        held: Held,
        session: NewSession,
        ended: Clock,
        reason: &str,
        askers: Vec<Asker>,
    ) {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string().replace(':', "");
        let name = format!("{time}-{}", in_a_name(reason));
        let file = self.folder.join(format!("{name}{SNAPSHOT_ENDING}"));
        // It has its name when it is complete.
        let partial = self.folder.join(format!("{name}{PARTIAL_ENDING}"));
        info!("{reason}: the last seconds are being written to {}", file.display());
        let (reason, newest) = (reason.to_owned(), self.newest.clone());
        let (folder, most) = (self.folder.clone(), self.most);
        let work = move || {
            make_folder(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let partial = Partial(partial);
            runtime.block_on(write(&partial.0, held, session, ended, &reason))?;
            fs::rename(&partial.0, &file)?;
            point_to(&newest, &file);
            remove_old(&folder, most);
            remove_abandoned(&folder, ABANDONED);
            Ok(file)
        };
        match std::thread::Builder::new().name("snapshot".to_owned()).spawn(work) {
            Ok(thread) => self.writing = Some((thread, askers)),
            Err(error) => answer(askers, Err(failed(&error.to_string()))),
        }
    }

    /// Waits for the one that is being written.
    pub fn wait(&mut self) {
        let Some((thread, askers)) = self.writing.take() else { return };
        let written = match thread.join() {
            Ok(Ok(file)) => {
                info!("{} is written", file.display());
                let note = hides(&self.newest).then(|| stays(&self.newest));
                Ok(Reply::Written { file, note })
            }
            Ok(Err(error)) => Err(failed(&format!("{error:#}"))),
            Err(_) => Err(failed("its thread has panicked")),
        };
        answer(askers, written);
    }
}

fn failed(why: &str) -> Refusal {
    Refusal::new(Reason::Failed, format!("the snapshot cannot be written: {why}"))
}

/// A snapshot that is not complete: of this nothing stays, however its writing ends.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        for ending in ["", "-wal", "-shm", "-journal"] {
            let mut path = self.0.clone().into_os_string();
            path.push(ending);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!("cannot remove {}: {error}", Path::new(&path).display());
                }
                _ => {}
            }
        }
    }
}

async fn write(
    path: &Path,
    held: Held,
    session: NewSession,
    ended: Clock,
    reason: &str,
) -> Result<()> {
    let (mut writer, _) = Writer::create(path, session).await?;
    writer.commit(held.first).await?;
    for batch in held.rows {
        writer.commit(batch.as_ref().clone()).await?;
    }
    writer.commit(held.last).await?;
    writer.finish(ended.ts, reason, ended).await?;
    Ok(())
}

/// A reason as a part of a file name.
fn in_a_name(reason: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    reason.chars().take(40).map(allowed).collect()
}

/// Whether a file of its own is where a link to the newest snapshot should be.
fn hides(link: &Path) -> bool {
    fs::symlink_metadata(link).is_ok_and(|meta| !meta.is_symlink())
}

/// What there is to say of such a file.
fn stays(link: &Path) -> String {
    format!(
        "{} is a database of its own and stays: questions are answered from it, unless a snapshot is named with --db; \
         moved away, it gives way to a link to the newest snapshot",
        link.display()
    )
}

/// Makes `link` point to a file, unless a file of its own is there.
fn point_to(link: &Path, file: &Path) {
    if hides(link) {
        warn!("{}", stays(link));
        return;
    }
    let removed = match fs::remove_file(link) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let made = removed.and_then(|()| symlink(file, link));
    if let Err(error) = made {
        warn!("{} cannot be made to point to {}: {error}", link.display(), file.display());
    }
}

/// Removes the oldest snapshots past the number that may stay. Their names are in the order of time.
fn remove_old(folder: &Path, most: usize) {
    let mut all: Vec<_> = with_ending(folder, SNAPSHOT_ENDING).collect();
    all.sort_unstable();
    for path in all.iter().rev().skip(most) {
        if let Err(error) = fs::remove_file(path) {
            warn!("cannot remove {}: {error}", path.display());
        }
    }
}

/// Removes what a daemon that was killed has left of the snapshot that it wrote, if it did so at least `age` ago.
fn remove_abandoned(folder: &Path, age: Duration) {
    let is_old = |path: &PathBuf| {
        let modified = fs::metadata(path).and_then(|meta| meta.modified());
        modified.is_ok_and(|time| time.elapsed().is_ok_and(|passed| passed >= age))
    };
    // With it goes what SQLite has beside it.
    with_ending(folder, PARTIAL_ENDING).filter(is_old).map(Partial).for_each(drop);
}

/// The files of a folder whose names end with this.
fn with_ending(folder: &Path, ending: &'static str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).filter(move |path| path.to_string_lossy().ends_with(ending))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn only_the_newest_stay_and_other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["2-b.flight.db", "1-a.flight.db", "3-c.flight.db", "0-mine.db"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        remove_old(folder.path(), 2);
        assert_eq!(names(folder.path()), ["0-mine.db", "2-b.flight.db", "3-c.flight.db"]);
    }

    #[test]
    fn a_link_points_to_the_newest_and_a_database_stays() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("trace.db");
        for name in ["a", "b"] {
            point_to(&link, &folder.path().join(name));
            assert_eq!(fs::read_link(&link).unwrap(), folder.path().join(name));
        }
        fs::remove_file(&link).unwrap();
        fs::write(&link, "a database").unwrap();
        point_to(&link, &folder.path().join("c"));
        assert_eq!(fs::read_to_string(&link).unwrap(), "a database");
    }

    #[test]
    fn nothing_stays_of_one_that_is_not_complete() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.partial", "a.partial-wal", "a.partial-shm", "a.db", "b.partial"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        drop(Partial(folder.path().join("a.partial")));
        assert_eq!(names(folder.path()), ["a.db", "b.partial"]);
    }

    #[test]
    fn what_a_killed_daemon_has_left_goes_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["1-a.flight.partial", "1-a.flight.partial-wal", "1-b.flight.db", "my.partial"]
        {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        remove_abandoned(folder.path(), ABANDONED);
        assert_eq!(names(folder.path()).len(), 4, "it may be being written");
        remove_abandoned(folder.path(), Duration::ZERO);
        assert_eq!(names(folder.path()), ["1-b.flight.db", "my.partial"]);
    }

    #[test]
    fn a_reason_becomes_a_part_of_a_name() {
        assert_eq!(in_a_name("run-queue-wait"), "run-queue-wait");
        assert_eq!(in_a_name("../../etc/x y"), "------etc-x-y");
    }
}
