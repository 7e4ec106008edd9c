//! The thread that looks at programs and puts probes into them: both take too long for the one that empties the
//! ring. The probes of one file serve all processes that run it.

use std::{
    collections::hash_map::Entry,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use tracer_common::inlined::FILE_MASK;
use tracer_protocol::ProbeFile;
use tracing::{info, warn};

use crate::{
    kernel::{HitCosts, Level, Probes, Scope, Uprobes},
    record::go::{self, Attachable, Inspected},
    target::{Debugger, GoLibraries, Lease, ProcessInfo, Standstill, program},
};

/// How long probes stay in a file that no traced process runs any more: a service that is started again
/// finds them there. Meanwhile its file system cannot be unmounted.
const LINGER: Duration = Duration::from_millis(500);
/// How often to look whether somebody waits to write into a file with probes.
const WRITERS: Duration = Duration::from_millis(20);
/// How often to look whether debuggers have left.
const DEBUGGERS: Duration = Duration::from_millis(100);
/// How long a debugger may take to stop all threads.
const STOPS_ALL: Duration = Duration::from_secs(1);
/// How long to wait at the end for debuggers that may have kept the breakpoints of probes.
const LEAVE: Duration = Duration::from_secs(10);
/// When the costs of a hit are measured for the first time, how often after that, and for how long each time.
const FIRST_MEASURE: Duration = Duration::from_secs(2);
const MEASURE_EVERY: Duration = Duration::from_secs(60);
const MEASURE_FOR: Duration = Duration::from_millis(100);
/// When to look again at a process that cannot be right yet, because it has only just begun.
const RETRIES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// When to try again to put probes into a program after the kernel has refused them, and how often that time is doubled.
const REFUSED_AGAIN: Duration = Duration::from_secs(15);
const REFUSED_DOUBLED: u32 = 6;

/// A process at one time of its life: its pid, and when its present program or its tracing began (ns).
pub type Life = (u32, u64);

/// What the thread is asked for.
#[derive(Debug)]
enum Request {
    /// Look at a process, and put probes into its program.
    Look(Life, Level),
    /// A thread of a process was stopped by ptrace: a debugger may have come.
    Stopped(u32),
    /// Tell of the threads that may not run.
    Throttled,
    /// A process does not run its program any more, or is not traced at a level with probes.
    Release(Life),
    /// Take everything away.
    Stop,
}

/// What was found out about a process.
pub struct Looked {
    /// Which one.
    pub life: Life,
    /// Build id of its executable.
    pub build_id: Option<String>,
    /// Version of Go, if it is a Go program.
    pub go_version: Option<String>,
    /// Its Go runtime with probes in place; why goroutines cannot be traced; or none: it is no Go program.
    pub go: Option<Result<Attachable, String>>,
    /// What cannot be traced although the rest is, and what else there is to say of it.
    pub missing: Vec<String>,
    /// It had probes, which were taken away.
    pub withdrawn: bool,
}

/// Whether what a hit of a probe costs is to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// It is shown to somebody.
    NowAndThen,
    /// Nobody wants to know.
    Never,
}

fn lock(probes: &Mutex<Probes>) -> MutexGuard<'_, Probes> {
    probes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread.
pub struct Prober {
    requests: Sender<Request>,
    /// What it is still asked for is of no use any more.
    stopping: Arc<AtomicBool>,
    /// What was found out.
    looked: Receiver<Looked>,
    shown: Arc<Mutex<Shown>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread shows of its work.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Files with probes.
    pub files: Vec<ProbeFile>,
    /// How long a hit takes, by the last measurement that saw any.
    pub costs: HitCosts,
}

impl Prober {
    /// Starts it. Other holders of the probes must not keep them locked for long.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(probes: Arc<Mutex<Probes>>, measure: Measure) -> io::Result<Self> {
        let (requests, received) = mpsc::channel();
        let (results, looked) = mpsc::channel();
        let shown = Arc::default();
        let stopping = Arc::new(AtomicBool::new(false));
        let work = Work {
            stopping: Arc::clone(&stopping),
            probes,
            results,
            shown: Arc::clone(&shown),
            files: FxHashMap::default(),
            users: Users::default(),
            libraries: GoLibraries::default(),
            last_cookie: 0,
            withheld: FxHashMap::default(),
            kept: FxHashMap::default(),
            debuggers_looked: Instant::now(),
            later: Vec::new(),
            measure_at: match measure {
                Measure::NowAndThen => Some(Instant::now() + FIRST_MEASURE),
                Measure::Never => None,
            },
        };
        let builder = std::thread::Builder::new().name("prober".to_owned());
        let thread = Some(builder.spawn(move || work.run(&received))?);
        Ok(Self { requests, stopping, looked, shown, thread })
    }

    /// Looks at a process, and puts the probes of a level into its program; [`Prober::take`] tells what came out.
    pub fn look(&self, life: Life, level: Level) {
        // It ends only after this was dropped.
        let _ = self.requests.send(Request::Look(life, level));
    }

    /// Has the kernel tell of the traced threads that it has listed and that may not run now.
    pub fn tell_throttled(&self) {
        let _ = self.requests.send(Request::Throttled);
    }

    /// A process that was looked at does not need its probes any more.
    pub fn release(&self, life: Life) {
        let _ = self.requests.send(Request::Release(life));
    }

    /// A thread of a process was stopped by ptrace. If that is a debugger's work, [`Prober::take`] gives another result for
    /// all that run the file: they cannot be traced for the time being; and another one when they can.
    pub fn stopped(&self, pid: u32) {
        let _ = self.requests.send(Request::Stopped(pid));
    }

    /// The next result, if there is one.
    pub fn take(&self) -> Option<Looked> {
        self.looked.try_recv().ok()
    }

    /// What it does at present.
    pub fn shown(&self) -> Shown {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it still works.
    pub fn works(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Detaches everything, tracepoints included, and waits until that is done.
    pub fn stop(mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = self.requests.send(Request::Stop);
        if let Some(thread) = self.thread.take() {
            // If it panicked, its probes are gone, too.
            let _ = thread.join();
        }
    }
}

/// Tells files apart, and a file from one that was written in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl FileId {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// A program that was looked at.
struct KnownFile {
    inspected: Inspected,
    path: PathBuf,
    /// Tells its probes from those of any other file, never 0.
    cookie: u64,
    uprobes: Uprobes,
    /// Nobody writes into the file while it has probes: where they sit, there would be something else. None if
    /// that cannot be had.
    lease: Option<Lease>,
    /// The highest level whose probes are in place.
    level: Level,
    idle_since: Instant,
}

impl KnownFile {
    /// Whether its probes must go, with so many users.
    fn is_over(&self, users: usize) -> bool {
        let linger = if self.lease.is_some() { LINGER } else { Duration::ZERO };
        let idle = users == 0 && self.idle_since.elapsed() >= linger;
        idle || self.lease.as_ref().is_some_and(Lease::is_wanted)
    }
}

/// Why a file gets no probes: the kernel would put them into a process that is debugged, too.
#[derive(Default)]
struct Withheld {
    /// Processes that are debugged.
    debugged: FxHashSet<u32>,
    /// Who is to be looked at when that is over.
    waiting: FxHashMap<Life, Level>,
}

/// Which processes run files that are known.
#[derive(Default)]
struct Users {
    files: FxHashMap<Life, (FileId, Level)>,
    counts: FxHashMap<FileId, usize>,
}

impl Users {
    fn add(&mut self, life: Life, id: FileId, level: Level) {
        self.remove(life);
        self.files.insert(life, (id, level));
        *self.counts.entry(id).or_default() += 1;
    }

    /// Returns the file that a process ran, if it is still known.
    fn remove(&mut self, life: Life) -> Option<FileId> {
        let (id, _) = self.files.remove(&life)?;
        if let Entry::Occupied(mut count) = self.counts.entry(id) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(id)
    }

    /// A file is not known any more. If it is again, it is another one to those who ran it before.
    fn forget(&mut self, id: FileId) {
        if self.counts.remove(&id).is_some() {
            self.files.retain(|_, (other, _)| *other != id);
        }
    }

    /// Those who run a file, and their levels.
    fn of(&self, id: FileId) -> FxHashMap<Life, Level> {
        let its = self.files.iter().filter(|(_, (other, _))| *other == id);
        its.map(|(&life, &(_, level))| (life, level)).collect()
    }

    /// The file that a process runs.
    fn file_of(&self, pid: u32) -> Option<FileId> {
        self.files.iter().find(|((other, _), _)| *other == pid).map(|(_, &(id, _))| id)
    }

    fn count(&self, id: FileId) -> usize {
        self.counts.get(&id).copied().unwrap_or_default()
    }
}

impl Refusal {
    fn text(self) -> String {
        match self {
            Self::Runtime(why) | Self::Probes(why) => why,
        }
    }
}

/// How often it was tried in vain to look at a process.
#[derive(Clone, Copy)]
enum Tried {
    /// Its runtime was not as it should be: it has only just begun, maybe.
    Young(usize),
    /// The kernel has refused its probes, and that was told.
    Refused(u32),
}

/// Why the goroutines of a process cannot be traced.
enum Refusal {
    /// Its runtime is not as it should be.
    Runtime(String),
    /// The kernel takes no probes, which may change.
    Probes(String),
}

struct Work {
    stopping: Arc<AtomicBool>,
    probes: Arc<Mutex<Probes>>,
    results: Sender<Looked>,
    shown: Arc<Mutex<Shown>>,
    files: FxHashMap<FileId, KnownFile>,
    users: Users,
    libraries: GoLibraries,
    /// [`KnownFile::cookie`] of the last one.
    last_cookie: u64,
    /// Files that get no probes for the time being.
    withheld: FxHashMap<FileId, Withheld>,
    /// Files whose probes must stay, because of the debuggers of these processes.
    kept: FxHashMap<FileId, FxHashSet<u32>>,
    /// When it was last looked whether debuggers have left.
    debuggers_looked: Instant,
    /// What is to be tried again, when, and how often it was tried.
    later: Vec<(Instant, Life, Level, Tried)>,
    /// When to measure what a hit costs, if that is to be known.
    measure_at: Option<Instant>,
}

impl Work {
    fn run(mut self, requests: &Receiver<Request>) {
        loop {
            match requests.recv_timeout(self.until_next()) {
                _ if self.stopping.load(Ordering::Relaxed) => break,
                Ok(Request::Look(life, level)) => self.look(life, level, Tried::Young(0)),
                Ok(Request::Release(life)) => self.release(life),
                Ok(Request::Throttled) => {
                    if let Err(error) = lock(&self.probes).tell_throttled() {
                        warn!("threads that are throttled now are shown as runnable: {error}");
                    }
                }
                Ok(Request::Stopped(pid)) => self.stopped(pid),
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            let due: Vec<_> = self.later.extract_if(.., |(at, ..)| *at <= now).collect();
            for (_, life, level, tried) in due {
                self.look(life, level, tried);
            }
            self.look_at_debuggers();
            self.clear_files();
            self.measure_if_due();
            self.show();
        }
        lock(&self.probes).detach_tracepoints();
        self.wait_for_debuggers();
        detach(self.files.into_values().map(|file| (file.uprobes, file.lease)));
    }

    fn until_next(&self) -> Duration {
        let now = Instant::now();
        let next = self.later.iter().map(|(at, ..)| *at).min();
        let next = next.into_iter().chain(self.measure_at).min();
        let leases = self.files.values().any(|file| file.lease.is_some());
        let debuggers = !self.withheld.is_empty() || !self.kept.is_empty();
        let most = match (leases, debuggers) {
            (true, _) => WRITERS,
            (_, true) => DEBUGGERS,
            _ => LINGER,
        };
        next.map_or(most, |next| next.saturating_duration_since(now).min(most))
    }

    fn look(&mut self, life: Life, level: Level, tried: Tried) {
        let (pid, _) = life;
        let (file, go) = match self.find(life, level) {
            Ok(found) => found,
            Err(why) => return self.refuse(life, None, why),
        };
        let again = match (&go, tried) {
            (Some(Err(Refusal::Runtime(_))), Tried::Young(tried)) => {
                RETRIES.get(tried).map(|&delay| (delay, Tried::Young(tried + 1)))
            }
            (Some(Err(Refusal::Probes(_))), Tried::Young(_)) => {
                Some((REFUSED_AGAIN, Tried::Refused(0)))
            }
            (Some(Err(_)), Tried::Refused(n)) => {
                let delay = REFUSED_AGAIN * 2_u32.pow(n.min(REFUSED_DOUBLED));
                Some((delay, Tried::Refused(n.saturating_add(1))))
            }
            _ => None,
        };
        let again = again.filter(|_| ProcessInfo::alive(pid));
        if let Some((delay, next)) = again {
            self.later.push((Instant::now() + delay, life, level, next));
            // It is told once that the kernel refuses, and that a process is young is nothing to tell.
            if matches!(tried, Tried::Refused(_)) || matches!(next, Tried::Young(_)) {
                return;
            }
        }
        let mut missing = Vec::new();
        if let Some(Ok(go)) = &go {
            missing.extend(go.missing(level).chain(go.note().map(str::to_owned)));
            if matches!(tried, Tried::Refused(_)) {
                missing.push("goroutines until the kernel took the probes".to_owned());
            }
            self.uses(life, file, level);
        }
        let inspected = &self.files[&file].inspected;
        if !inspected.finds_modules() {
            let libraries = self.libraries.of(pid).into_iter();
            missing.extend(libraries.map(|file| go::of_library(&file)));
        }
        let looked = Looked {
            life,
            build_id: inspected.build_id.clone(),
            go_version: inspected.go_version.clone(),
            missing,
            go: go.map(|go| go.map_err(Refusal::text)),
            withdrawn: false,
        };
        let _ = self.results.send(looked);
    }

    /// Goroutines of a process cannot be traced.
    fn refuse(&self, life: Life, withdrawn: Option<FileId>, why: String) {
        let known = withdrawn.and_then(|id| self.files.get(&id)).map(|file| &file.inspected);
        let looked = Looked {
            life,
            build_id: known.and_then(|inspected| inspected.build_id.clone()),
            go_version: known.and_then(|inspected| inspected.go_version.clone()),
            go: Some(Err(why)),
            missing: Vec::new(),
            withdrawn: withdrawn.is_some(),
        };
        let _ = self.results.send(looked);
    }

    /// The program of a process, and its Go runtime with probes in place.
    fn find(
        &mut self,
        life: Life,
        level: Level,
    ) -> Result<(FileId, Option<Result<Attachable, Refusal>>), String> {
        let (pid, _) = life;
        let link = ProcessInfo::exe_link(pid);
        let meta = program::metadata(pid).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => "it ended before its program was looked into".to_owned(),
            _ => format!("its executable: {e}"),
        })?;
        let id = meta.as_ref().map(FileId::of);
        let known = id.and_then(|id| Some((id, &self.files.get(&id)?.inspected.go)));
        let (id, go) = match known {
            Some((id, Some(Ok(go)))) => (id, Some(go.in_process(pid))),
            Some((id, None)) => (id, None),
            // What cannot be understood because of one process may be understood in the next one.
            Some((_, Some(Err(_)))) | None => self.inspect(pid, &link)?,
        };
        let go = match go {
            None => None,
            Some(Err(why)) => Some(Err(Refusal::Runtime(why))),
            Some(Ok(go)) => {
                self.make_way(life, level, id)?;
                go.verify_code(pid, level)?;
                let probed = self.probe(id, &go, level).map_err(Refusal::Probes);
                let probed = probed.and_then(|cookie| {
                    go.verify_probes(pid, level).map_err(Refusal::Runtime)?;
                    Ok(cookie)
                });
                Some(probed.map(|cookie| go.with_probes(cookie)))
            }
        };
        Ok((id, go))
    }

    /// Looks at a program for the first time.
    fn inspect(
        &mut self,
        pid: u32,
        link: &Path,
    ) -> Result<(FileId, Option<Result<Attachable, String>>), String> {
        let path = fs::read_link(link).unwrap_or_default();
        let inspected = go::inspect(pid).map_err(|e| e.to_string())?;
        let meta = inspected.file().metadata().map_err(|e| e.to_string())?;
        let id = FileId::of(&meta);
        let go = inspected.go.clone();
        let lease = match &go {
            Some(Ok(_)) => self.hold(&inspected)?,
            _ => None,
        };
        let cookie = self.unused_cookie();
        let file = KnownFile {
            lease,
            inspected,
            path,
            cookie,
            uprobes: Uprobes::default(),
            level: Level::Sched,
            idle_since: Instant::now(),
        };
        // One that only the dynamic linker knows may be known, and in use, already.
        match self.files.get_mut(&id) {
            Some(known) if matches!(known.inspected.go, Some(Ok(_))) => {}
            _ => {
                self.files.insert(id, file);
            }
        }
        Ok((id, go))
    }

    /// A cookie that no file has, and that is not the one of a process on its own, which is the last.
    fn unused_cookie(&mut self) -> u64 {
        loop {
            self.last_cookie = self.last_cookie % (FILE_MASK - 1) + 1;
            if self.files.values().all(|file| file.cookie != self.last_cookie) {
                return self.last_cookie;
            }
        }
    }

    /// Sees to it that what was found in a file stays true.
    fn hold(&self, inspected: &Inspected) -> Result<Option<Lease>, String> {
        let lease = Lease::take(inspected.file());
        // Nobody can write into what a process runs: it did so from before the first look until the lease.
        if !inspected.is_current() {
            return Err("it has ended, or runs another program now".to_owned());
        }
        let unheld = |error: &io::Error| info!("probes do not stay in a file: {error}");
        Ok(lease.inspect_err(unheld).ok())
    }

    /// Makes sure that the probes of a level are in a file; returns their cookie.
    fn probe(&mut self, id: FileId, go: &Attachable, level: Level) -> Result<u64, String> {
        let Some(file) = self.files.get_mut(&id) else { return Ok(0) };
        if level <= file.level {
            return Ok(file.cookie);
        }
        let (above, up_to) =
            (std::ops::Bound::Excluded(file.level), std::ops::Bound::Included(level));
        let more = file
            .inspected
            .attach(
                go,
                &mut lock(&self.probes),
                Scope::File(file.cookie),
                (above, up_to),
                |_, _| (),
            )
            .map_err(|e| e.to_string())?;
        file.uprobes = std::mem::take(&mut file.uprobes).and(more);
        file.level = level;
        Ok(file.cookie)
    }

    fn uses(&mut self, life: Life, id: FileId, level: Level) {
        self.release(life);
        if self.files.contains_key(&id) {
            self.users.add(life, id, level);
        }
    }

    /// Makes sure that no probes get into a process beside the breakpoints of a debugger.
    fn make_way(&mut self, life: Life, level: Level, id: FileId) -> Result<(), String> {
        let debugger = Debugger::of(life.0);
        let has_probes = self.files.get(&id).is_some_and(|file| file.uprobes.len() > 0);
        match debugger {
            // They are in it since it began.
            Some(_) if has_probes => {
                self.kept.entry(id).or_default().insert(life.0);
            }
            // It, or another one that runs the same file and is perhaps not traced.
            Some(_) => {
                self.withheld.entry(id).or_default().debugged.insert(life.0);
            }
            None if has_probes => return Ok(()),
            None => {
                let others: Vec<_> = debugged(id).collect();
                if !others.is_empty() {
                    self.withheld.entry(id).or_default().debugged.extend(others);
                }
            }
        }
        let Some(debugger) = debugger.or_else(|| {
            let withheld = self.withheld.get(&id)?;
            withheld.debugged.iter().find_map(|&pid| Debugger::of(pid))
        }) else {
            return Ok(());
        };
        self.withheld.entry(id).or_default().waiting.insert(life, level);
        Err(format!(
            "{debugger} debugs a process that runs the program, and its breakpoints and the probes would overwrite each \
             other (they begin when it leaves)"
        ))
    }

    /// A debugger may have come to a process.
    fn stopped(&mut self, pid: u32) {
        let Some(id) = self.users.file_of(pid) else { return };
        // One that steps through it, or strace.
        if self.kept.get(&id).is_some_and(|pids| pids.contains(&pid)) {
            return;
        }
        let begun = Instant::now();
        let mut seen = Standstill::default();
        let (debugger, standstill) = loop {
            let Some(debugger) = Debugger::of(pid) else { return };
            let standstill = Standstill::of(pid);
            if !seen.lasts(&standstill) || begun.elapsed() >= STOPS_ALL {
                info!("{debugger} debugs {pid}: the probes in its program stay until it leaves");
                self.kept.entry(id).or_default().insert(pid);
                return;
            }
            if standstill.is_whole() {
                break (debugger, standstill);
            }
            seen = standstill;
            std::thread::sleep(Duration::from_millis(5));
        };
        let Some(file) = self.files.get_mut(&id) else { return };
        // It has not let the process go on yet: so far it has written no breakpoint.
        std::mem::take(&mut file.uprobes).detach();
        let level = std::mem::replace(&mut file.level, Level::Sched);
        if !standstill.lasts(&Standstill::of(pid)) {
            // Probes take a while to go, and it was faster. It will put breakpoints of probes back, which the process
            // survives with probes at the same places.
            let Some(Ok(go)) = file.inspected.go.clone() else { return };
            info!("{debugger} debugs {pid}: the probes in its program stay until it leaves");
            self.kept.entry(id).or_default().insert(pid);
            if let Err(error) = self.probe(id, &go, level) {
                warn!("probes cannot be put back for {debugger}: {error}");
            }
        }
        let waiting = self.users.of(id);
        for &life in waiting.keys() {
            self.users.remove(life);
            self.refuse(
                life,
                Some(id),
                format!(
                    "{debugger} debugs a process that runs the program ({pid}), and its breakpoints and the probes would \
                     overwrite each other (they come back when it leaves)"
                ),
            );
        }
        if self.kept.contains_key(&id) {
            // Those that are not debugged go on.
            for (life, level) in waiting {
                self.look(life, level, Tried::Young(0));
            }
            return;
        }
        let withheld = self.withheld.entry(id).or_default();
        withheld.debugged.insert(pid);
        withheld.waiting.extend(waiting);
    }

    /// Puts probes in place where debuggers have left.
    fn look_at_debuggers(&mut self) {
        if self.debuggers_looked.elapsed() < DEBUGGERS {
            return;
        }
        self.debuggers_looked = Instant::now();
        let is_debugged = |pid: &u32| Debugger::of(*pid).is_some();
        self.kept.retain(|_, pids| {
            pids.retain(is_debugged);
            !pids.is_empty()
        });
        let Self { withheld, kept, .. } = self;
        let over = withheld.extract_if(|id, withheld| {
            withheld.debugged.retain(is_debugged);
            withheld.debugged.is_empty() && !kept.contains_key(id)
        });
        let over: Vec<_> = over.flat_map(|(_, withheld)| withheld.waiting).collect();
        for (life, level) in over {
            self.look(life, level, Tried::Young(0));
        }
    }

    /// At the end: probes whose breakpoints a debugger may have kept stay until it has left, for a while.
    fn wait_for_debuggers(&mut self) {
        let begun = Instant::now();
        while !self.kept.is_empty() && begun.elapsed() < LEAVE {
            std::thread::sleep(DEBUGGERS);
            self.kept.retain(|_, pids| {
                pids.retain(|pid| Debugger::of(*pid).is_some());
                !pids.is_empty()
            });
        }
        for pid in self.kept.values().flatten() {
            warn!("{pid} is still debugged: breakpoints in place of probes may kill it");
        }
    }

    fn release(&mut self, life: Life) {
        self.later.retain(|(_, other, ..)| *other != life);
        for withheld in self.withheld.values_mut() {
            withheld.waiting.remove(&life);
        }
        if let Some(id) = self.users.remove(life)
            && let Some(file) = self.files.get_mut(&id)
        {
            file.idle_since = Instant::now();
        }
    }

    /// Forgets files that nobody has run for a while, or that somebody wants to write.
    fn clear_files(&mut self) {
        let Self { files, users, kept, .. } = self;
        let is_over = |id: &FileId, file: &mut KnownFile| {
            file.is_over(users.count(*id)) && !kept.contains_key(id)
        };
        let over: Vec<_> = files.extract_if(is_over).collect();
        over.iter().for_each(|(id, _)| users.forget(*id));
        if over.is_empty() {
            return;
        }
        // A process that waits to open the file for writing goes on once the lease is released: the file must not be listed
        // as probed then.
        self.show();
        detach_aside(over.into_iter().map(|(_, file)| (file.uprobes, file.lease)).collect());
    }

    /// Lets the kernel measure for a moment: it costs every program of the machine a little.
    fn measure_if_due(&mut self) {
        if self.measure_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        let new = lock(&self.probes).measure(MEASURE_FOR);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let costs = &mut shown.costs;
        costs.tracepoint = new.tracepoint.or(costs.tracepoint);
        costs.uprobe = new.uprobe.or(costs.uprobe);
        self.measure_at = Some(Instant::now() + MEASURE_EVERY);
    }

    fn show(&self) {
        let probed = self.files.iter().filter(|(_, file)| file.uprobes.len() > 0);
        let files = probed.map(|(id, file)| ProbeFile {
            file: file.path.clone(),
            probes: file.uprobes.len() as u64,
            processes: self.users.count(*id) as u64,
        });
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).files = files.collect();
    }
}

/// Takes the probes of files away, and lets go of the files after that.
fn detach(files: impl IntoIterator<Item = (Uprobes, Option<Lease>)>) {
    let (uprobes, leases): (Vec<_>, Vec<_>) = files.into_iter().unzip();
    uprobes.into_iter().reduce(Uprobes::and).unwrap_or_default().detach();
    drop(leases);
}

/// As [`detach`], on a thread of its own: nobody who gets probes waits for it.
fn detach_aside(files: Vec<(Uprobes, Option<Lease>)>) {
    let builder = std::thread::Builder::new().name("detacher".to_owned());
    if let Err(error) = builder.spawn(move || detach(files)) {
        // They are gone with what was to do it.
        warn!("no thread to detach probes on: {error}");
    }
}

/// Processes that run a file and are debugged.
fn debugged(id: FileId) -> impl Iterator<Item = u32> {
    ProcessInfo::all().into_iter().filter(move |&pid| {
        let meta = program::metadata(pid).ok().flatten();
        let runs = meta.is_some_and(|meta| FileId::of(&meta) == id);
        runs && Debugger::of(pid).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ran_a_file_before_it_was_forgotten_is_not_counted_again() {
        let id = |inode| FileId { device: 1, inode, size: 0, changed: (0, 0) };
        let mut users = Users::default();
        users.add((10, 1), id(1), Level::Go);
        users.add((11, 1), id(1), Level::Go);
        users.add((12, 1), id(2), Level::Go);
        assert_eq!(users.count(id(1)), 2);
        // Somebody wants to write the file, and leaves it as it is.
        users.forget(id(1));
        users.add((13, 2), id(1), Level::Go);
        assert_eq!(users.remove((10, 1)), None);
        assert_eq!(users.remove((11, 1)), None);
        assert_eq!((users.count(id(1)), users.count(id(2))), (1, 1));
        // The same process again is one.
        users.add((13, 2), id(1), Level::Go);
        users.add((13, 2), id(2), Level::Go);
        assert_eq!((users.count(id(1)), users.count(id(2))), (0, 2));
        assert_eq!(users.remove((13, 2)), Some(id(2)));
        assert_eq!(users.remove((12, 1)), Some(id(2)));
        assert!(users.files.is_empty() && users.counts.is_empty());
    }
}
