//! `tracerd serve` with a config, a socket and a database of its own.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    libc::{SYS_setgid, SYS_setgroups, SYS_setuid, syscall},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    harness::{Database, Ended, Process, SOON, bin, run, wait_until},
    serving::Place,
    usage::Usage,
};

/// How long it may take to end: what has been recorded is still to be stored.
const END: Duration = Duration::from_secs(120);

/// A daemon that does not outlive its test.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    /// Everybody gets at what is in here: socket, config, copies of programs.
    place: Place,
    /// Only root gets at this.
    database: Database,
}

/// Who runs a command.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// His uid and gid.
    pub id: u32,
    /// The other groups that he is in.
    pub groups: &'a [u32],
}

/// A folder that everybody gets at.
///
/// # Errors
/// When there is no room for temporary files.
pub fn open_dir() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("tracerd-").tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

impl Daemon {
    /// Starts one, and waits until it answers.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn start(config: &str) -> Result<Self> {
        Self::start_in(open_dir()?, config)
    }

    /// Starts one in a folder, whose files its config may name.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn start_in(dir: TempDir, config: &str) -> Result<Self> {
        let database = Database::new()?;
        let place = Place::of(dir).and_database(database.path());
        let process = place.serve(config)?;
        Ok(Self { process, place, database })
    }

    /// The folder that everybody gets at.
    pub fn dir(&self) -> &Path {
        self.place.dir()
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        self.place.socket()
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it takes of the machine now.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.process.pid())
    }

    /// What it has written to its standard error so far.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Runs `tracer` to its end.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn tracer(&self, args: &[&str]) -> Result<Ended> {
        run(&mut self.place.tracer(args)?, 2 * SOON)
    }

    /// Runs `tracer` as another user.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn tracer_as(&self, user: User<'_>, args: &[&str]) -> Result<Ended> {
        // Where he can run it.
        let copy = self.dir().join("tracer");
        if !copy.exists() {
            fs::copy(bin("tracer")?, &copy)?;
        }
        let mut command = Command::new(copy);
        let command = command.args(args).arg("--socket").arg(self.place.socket());
        run(as_user(command.env_remove("TRACERD_DB"), user), 2 * SOON)
    }

    /// The rows of an SQL answer.
    ///
    /// # Errors
    /// When it is refused.
    pub fn sql(&self, query: &str) -> Result<Vec<Value>> {
        self.place.ask(query)
    }

    /// The only value of an SQL answer, as an integer; NULL is 0.
    ///
    /// # Errors
    /// When the answer is no such value.
    pub fn number(&self, query: &str) -> Result<i64> {
        self.place.ask_number(query)
    }

    /// Waits until a query gives a number that is at least this.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_for(&self, query: &str, at_least: i64) -> Result<i64> {
        let mut last = None;
        wait_until("rows", SOON, || {
            last = self.number(query).ok();
            last.is_some_and(|last| last >= at_least)
        })
        .with_context(|| format!("{query}: {last:?}; the log: {}", self.log()))?;
        Ok(last.unwrap_or_default())
    }

    /// What `tracer ls` says of a process; none if it is not traced.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn traced(&self, pid: i32) -> Result<Option<Value>> {
        let list = self.tracer(&["ls", "-o", "json"])?.ok()?.stdout;
        let list: Vec<Value> = serde_json::from_str(&list)?;
        Ok(list.into_iter().find(|row| row["pid"] == pid))
    }

    /// Waits until a process is traced because of this rule at this level (`RULE LEVEL`; `- LEVEL` if somebody asked), or
    /// is not (an empty text).
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn wait_for_rule(&self, pid: i32, wanted: &str) -> Result<()> {
        let mut last = None;
        let mut is_so = || {
            last = self.traced(pid).ok().map(|row| {
                let row = row.unwrap_or_default();
                let level = row["level"].as_str().unwrap_or_default();
                format!("{} {level}", row["rule"].as_str().unwrap_or("-"))
            });
            let wanted = if wanted.is_empty() { "- " } else { wanted };
            last.as_deref() == Some(wanted)
        };
        wait_until("a rule", SOON / 2, &mut is_so)
            .with_context(|| format!("{pid} should be `{wanted}`, is {last:?}: {}", self.log()))
    }

    /// What `tracer status` says.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Value> {
        self.place.status()
    }

    /// Writes another config, sends SIGHUP, and waits until the log says this.
    ///
    /// # Errors
    /// When it does not.
    pub fn reload(&self, config: &str, says: &str) -> Result<()> {
        fs::write(self.dir().join("config.toml"), config)?;
        let before = self.log().len();
        self.process.signal(Signal::SIGHUP)?;
        let said = || self.log().get(before..).is_some_and(|new| new.contains(says));
        wait_until(says, SOON, said).with_context(|| self.log())
    }

    /// Ends it: its database is complete then. Returns what it said, too.
    ///
    /// # Errors
    /// When it fails.
    pub fn end(self) -> Result<(Database, String)> {
        self.process.signal(Signal::SIGTERM)?;
        let ended = self.process.wait(END)?.ok()?;
        ensure!(!ended.stderr.contains("panicked"), "{ended:?}");
        Ok((self.database, ended.stderr))
    }
}

/// Makes a command that of another user, who is in no other groups than said.
pub fn as_user<'a>(command: &'a mut Command, user: User<'_>) -> &'a mut Command {
    let (id, groups) = (user.id, user.groups.to_vec());
    let become_user = move || {
        // The functions of the C library want to tell all threads, which are not there.
        // SAFETY: system calls that read a list which outlives them.
        unsafe {
            Errno::result(syscall(SYS_setgroups, groups.len(), groups.as_ptr()))?;
            Errno::result(syscall(SYS_setgid, id))?;
            Errno::result(syscall(SYS_setuid, id))?;
        }
        Ok(())
    };
    // SAFETY: nothing but these calls.
    unsafe { command.pre_exec(become_user) }
}

/// A control group for a test.
#[derive(Debug)]
pub struct ControlGroup(PathBuf);

impl ControlGroup {
    /// Makes one of version 2, below one that has the number of this process in its name.
    ///
    /// # Errors
    /// When there is no such hierarchy.
    pub fn new(name: &str) -> Result<Self> {
        let path = Self::root()?.join(format!("tracerd-test-{}", std::process::id())).join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// The root of the hierarchy of version 2.
    ///
    /// # Errors
    /// When it is not mounted.
    pub fn root() -> Result<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let root = mounts.lines().find_map(|line| match *line.split(' ').collect::<Vec<_>>() {
            [_, at, "cgroup2", ..] => Some(at.into()),
            _ => None,
        });
        root.context("control groups of version 2 are not mounted")
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Lets a command run in it from its beginning.
    ///
    /// # Errors
    /// When it is gone.
    pub fn enter<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        let procs = fs::OpenOptions::new().write(true).open(self.0.join("cgroup.procs"))?;
        let procs = Arc::new(procs);
        let enter = move || nix::unistd::write(&procs, b"0").map(drop).map_err(Into::into);
        // SAFETY: one system call.
        Ok(unsafe { command.pre_exec(enter) })
    }
}

/// A hierarchy of control groups of version 1 without controllers, mounted for a test.
#[derive(Debug)]
pub struct Hierarchy(TempDir);

impl Hierarchy {
    /// Mounts it, with a control group at this path, which is made of names.
    ///
    /// # Errors
    /// When the kernel has no version 1.
    pub fn with(path: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let options = format!("none,name=tracerd-test-{}", std::process::id());
        mount(Some("none"), folder.path(), Some("cgroup"), MsFlags::empty(), Some(&*options))
            .context("control groups of version 1")?;
        let hierarchy = Self(folder);
        fs::create_dir_all(hierarchy.0.path().join(path))?;
        Ok(hierarchy)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Removes what can be removed of the groups below one.
    fn clear(folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                Self::clear(&entry.path());
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        Self::clear(self.path());
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // It can go when its last process has.
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        // Others may be there still.
        let _ = self.0.parent().map(fs::remove_dir);
    }
}
