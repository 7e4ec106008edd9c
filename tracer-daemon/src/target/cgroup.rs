//! The control groups that there are.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

/// Inode of the first cgroup namespace (include/linux/proc_ns.h, PROC_CGROUP_INIT_INO).
const INITIAL_CGROUP_NAMESPACE: u64 = 0xefff_fffb;

/// Paths of all control groups of version 2, as /proc/PID/cgroup has them, and the inode numbers of their folders; nothing if
/// they are not mounted, or if tracerd is in a cgroup namespace, in which /proc shows other paths than the kernel tells.
pub fn all() -> Vec<(u64, String)> {
    let mut all = Vec::new();
    if let Some(mount) = mount() {
        walk(&mount, &mount, &mut all);
    }
    all
}

/// Whether paths mean to tracerd what they mean in the kernel.
pub fn are_the_kernels() -> bool {
    let inode = fs::metadata("/proc/self/ns/cgroup").map(|m| m.ino()).ok();
    inode.is_none_or(|inode| inode == INITIAL_CGROUP_NAMESPACE)
}

/// Whether there are hierarchies of version 1, too: a process may then be in the root of that of version 2, and elsewhere in
/// those.
pub fn has_version_1() -> bool {
    let text = fs::read("/proc/self/cgroup").unwrap_or_default();
    text.split(|&byte| byte == b'\n').any(|line| !line.is_empty() && !line.starts_with(b"0::"))
}

/// Whether the path of a control group of version 2 says where a process is: not the root, where it may be in one of version 1
/// beside.
pub fn says_where(path: &str) -> bool {
    path != "/" || !has_version_1()
}

/// Where all of the hierarchy of version 2 is mounted.
fn mount() -> Option<PathBuf> {
    if !are_the_kernels() {
        return None;
    }
    let text = fs::read("/proc/self/mountinfo").ok()?;
    text.split(|&byte| byte == b'\n').find_map(mounted_at)
}

/// Where a line of mountinfo says that it is mounted.
fn mounted_at(line: &[u8]) -> Option<PathBuf> {
    let line = String::from_utf8_lossy(line);
    let (mount, kind) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, at) = (fields.next()?, fields.next()?);
    (kind.starts_with("cgroup2 ") && root == "/").then(|| at.into())
}

fn walk(folder: &Path, mount: &Path, all: &mut Vec<(u64, String)>) {
    // Those that go meanwhile are left out.
    let Ok(meta) = fs::metadata(folder) else { return };
    if let Ok(path) = folder.strip_prefix(mount) {
        all.push((
            meta.ino(),
            format!("/{}", String::from_utf8_lossy(path.as_os_str().as_bytes())),
        ));
    }
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), mount, all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_the_whole_hierarchy_is_found() {
        let line = "35 25 0:30 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(mounted_at(line.as_bytes()), Some("/sys/fs/cgroup/unified".into()));
        let part = "35 25 0:30 /docker /mnt rw - cgroup2 cgroup2 rw";
        assert_eq!(mounted_at(part.as_bytes()), None);
        let other = "36 25 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu";
        assert_eq!(mounted_at(other.as_bytes()), None);
        assert_eq!(mounted_at(b""), None);
    }
}
