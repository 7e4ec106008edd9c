//! What a process that answers questions gives up, so that nothing that SQL does to it harms anything else.
//!
//! First it becomes nobody, who may still read all files (CAP_DAC_READ_SEARCH) but write none: SQLite opens the
//! database, its log and its index for reading only, and shares the locks of a reader. Then that goes, too, and no
//! more file can be opened.

use std::{fs, os::raw::c_int, time::Duration};

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::{
    libc,
    sys::{
        prctl,
        resource::{Resource, rlim_t, setrlimit},
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
    },
    unistd::{Gid, SysconfVar, Uid, getppid, setgroups, setresgid, setresuid, sysconf},
};

/// The kernel's number of a user and a group that own nothing.
const NOBODY: u32 = 65_534;

/// Becomes nobody, with the right to read files. `parent` is the daemon, with which this process ends.
pub fn become_nobody(parent: u32) -> Result<()> {
    close_descriptors();
    // The daemon's mask was inherited.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    // If memory runs out, the kernel shall end this process and not another one.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    prctl::set_no_new_privs().context("no_new_privs")?;
    let needs = "tracerd needs CAP_SETUID and CAP_SETGID for it";
    setgroups(&[]).with_context(|| format!("setgroups ({needs})"))?;
    let gid = Gid::from_raw(NOBODY);
    setresgid(gid, gid, gid).with_context(|| format!("setresgid ({needs})"))?;
    let uid = Uid::from_raw(NOBODY);
    // The real uid stays for a while: access(2), with which SQLite looks for files, takes the capabilities of root only.
    setresuid(Uid::from_raw(0), uid, uid).with_context(|| format!("setresuid ({needs})"))?;
    let mut kept = CapsHashSet::new();
    // A database that everybody may read needs no more.
    if caps::has_cap(None, CapSet::Permitted, Capability::CAP_DAC_READ_SEARCH)? {
        kept.insert(Capability::CAP_DAC_READ_SEARCH);
    }
    hold(&kept)?;
    // Both are reset when a process changes who it is.
    prctl::set_dumpable(false).context("dumpable")?;
    prctl::set_pdeathsig(Signal::SIGKILL).context("pdeathsig")?;
    if getppid().as_raw().cast_unsigned() != parent {
        bail!("tracerd has ended");
    }
    // Reads the time zone as long as files can be opened.
    // SAFETY: no other thread reads the environment or the time zone.
    unsafe { tzset() };
    Ok(())
}

/// Gives up the right to read files, and to open any; limits time and memory.
pub fn close_the_door(time: Duration, memory: u64) -> Result<()> {
    hold(&CapsHashSet::new())?;
    let uid = Uid::from_raw(NOBODY);
    setresuid(uid, uid, uid).context("setresuid")?;
    let statm = fs::read_to_string("/proc/self/statm").context("statm")?;
    let pages: u64 = statm.split(' ').next().unwrap_or_default().parse().context("statm")?;
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| u64::try_from(size).ok());
    let used = pages * page.unwrap_or(4096);
    // With a second for what comes before and after; the time of sleep is limited by the daemon.
    let seconds = time.as_secs().saturating_add(2);
    // Of files that are open nothing is closed.
    let limits: [(&str, Resource, rlim_t); 6] = [
        ("CORE", Resource::RLIMIT_CORE, 0),
        ("FSIZE", Resource::RLIMIT_FSIZE, 0),
        ("NOFILE", Resource::RLIMIT_NOFILE, 0),
        ("NPROC", Resource::RLIMIT_NPROC, 0),
        ("CPU", Resource::RLIMIT_CPU, seconds),
        ("AS", Resource::RLIMIT_AS, used.saturating_add(memory)),
    ];
    for (name, resource, limit) in limits {
        // The second limit of CPU time kills, should the signal of the first not have done it.
        let hard = if name == "CPU" { limit.saturating_add(1) } else { limit };
        setrlimit(resource, limit, hard).with_context(|| format!("RLIMIT_{name}"))?;
    }
    Ok(())
}

/// Has these capabilities and no others.
fn hold(kept: &CapsHashSet) -> Result<()> {
    caps::clear(None, CapSet::Inheritable).context("inheritable capabilities")?;
    // First those that are in force: they must be permitted.
    caps::set(None, CapSet::Effective, kept).context("effective capabilities")?;
    caps::set(None, CapSet::Permitted, kept).context("permitted capabilities")?;
    Ok(())
}

/// Closes all that the daemon may have passed on by accident.
fn close_descriptors() {
    let (first, last, flags): (c_int, c_int, c_int) = (3, c_int::MAX, 0);
    // SAFETY: nothing in this process uses a descriptor beyond the standard three yet.
    // An old kernel has no such call; all descriptors are closed on exec anyway.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
}

unsafe extern "C" {
    /// Of the C library: reads the time zone.
    fn tzset();
}
