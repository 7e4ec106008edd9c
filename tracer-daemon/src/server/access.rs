//! Who a client is, and what he may do.

use std::{
    ffi::CString,
    io,
    os::fd::AsRawFd,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use nix::{
    errno::Errno,
    libc,
    unistd::{Gid, Group, Uid, User, getgrouplist},
};
use tokio::net::UnixStream;

use super::Others;

/// How long the system's user database may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// A client, as the kernel tells. PID and name are for the log only: they may be those of another process by the time
/// they are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective uid at the time of the connect.
    pub uid: u32,
    /// Effective gid then.
    pub gid: u32,
    /// Its PID, if it is in a PID namespace that this process sees.
    pub pid: Option<u32>,
    /// Its name (`comm`), empty if it cannot be told.
    pub comm: String,
    /// Number of its connection; no other one of this process ever has it.
    pub connection: u64,
}

/// The number of the next connection.
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Peer {
    /// This process itself.
    pub fn myself() -> Self {
        let (uid, gid) = (Uid::effective().as_raw(), Gid::effective().as_raw());
        Self { uid, gid, pid: Some(std::process::id()), comm: "tracerd".to_owned(), connection: 0 }
    }

    /// Who is at the other end.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let cred = stream.peer_cred()?;
        let pid = cred.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let comm = pid.and_then(|pid| std::fs::read(format!("/proc/{pid}/comm")).ok());
        let comm = String::from_utf8_lossy(&comm.unwrap_or_default()).trim_end().to_owned();
        let connection = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self { uid: cred.uid(), gid: cred.gid(), pid, comm, connection })
    }
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Everything,
    /// See and query processes of this uid.
    Own(u32),
    /// Nothing.
    Nothing,
}

/// What a client may do. Somebody is in the group if his process is, or by the system's user database: he may have
/// been added after he logged in.
pub async fn of(stream: &UnixStream, peer: &Peer, group: &str, others: Others) -> Access {
    if peer.uid == 0 {
        return Access::Everything;
    }
    let mut groups = peer_groups(stream).unwrap_or_default();
    groups.push(peer.gid);
    let (uid, group) = (peer.uid, group.to_owned());
    // The user database may be on another machine.
    let asked = tokio::task::spawn_blocking(move || is_member(&group, uid, &groups));
    match tokio::time::timeout(LOOKUP, asked).await {
        Ok(Ok(true)) => Access::Everything,
        _ if others == Others::OwnProcesses => Access::Own(uid),
        _ => Access::Nothing,
    }
}

fn is_member(group: &str, uid: u32, groups: &[u32]) -> bool {
    let Ok(Some(group)) = Group::from_name(group) else {
        return false;
    };
    groups.contains(&group.gid.as_raw()) || groups_of(uid).contains(&group.gid)
}

/// The groups of a user, by the system's user database.
fn groups_of(uid: u32) -> Vec<Gid> {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else {
        return Vec::new();
    };
    CString::new(user.name)
        .ok()
        .and_then(|name| getgrouplist(&name, user.gid).ok())
        .unwrap_or_default()
}

/// Supplementary groups of a peer at the time of its connect (`SO_PEERGROUPS`, Linux 4.13).
fn peer_groups(stream: &UnixStream) -> nix::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut length = libc::socklen_t::try_from(groups.len() * size_of::<u32>())
            .map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: the kernel writes at most `length` bytes into the vector, and how many it has into `length`.
        let done = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        match Errno::result(done) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(Errno::ERANGE) if count > groups.len() => groups.resize(count, 0),
            Err(errno) => return Err(errno),
        }
    }
}
