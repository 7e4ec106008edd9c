//! The control groups that there are.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use tracer_common::cgroup::{key, rank};

/// Inode of the first cgroup namespace (include/linux/proc_ns.h, PROC_CGROUP_INIT_INO).
const INITIAL_CGROUP_NAMESPACE: u64 = 0xefff_fffb;

/// Keys ([`tracer_common::cgroup::key`]) and paths of all control groups, as /proc/PID/cgroup has them, of the hierarchies that
/// are mounted; nothing if tracerd is in a cgroup namespace, in which /proc shows other paths than the kernel tells.
pub fn all() -> Vec<(u64, String)> {
    let mut all = Vec::new();
    if !are_the_kernels() {
        return all;
    }
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    for (hierarchy, mount) in hierarchies(&text("/proc/self/mountinfo"), &text("/proc/self/cgroup"))
    {
        walk(&mount, &mount, hierarchy, &mut all);
    }
    all
}

/// Whether paths mean to tracerd what they mean in the kernel.
pub fn are_the_kernels() -> bool {
    let inode = fs::metadata("/proc/self/ns/cgroup").map(|m| m.ino()).ok();
    inode.is_none_or(|inode| inode == INITIAL_CGROUP_NAMESPACE)
}

/// Numbers of the hierarchies, 0 for that of version 2, and where all of each is mounted.
fn hierarchies(mountinfo: &str, own: &str) -> BTreeMap<u32, PathBuf> {
    let mut found = BTreeMap::new();
    for line in mountinfo.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let mut fields = mount.split(' ').skip(3);
        let (Some("/"), Some(at)) = (fields.next(), fields.next()) else { continue };
        let mut fields = kind.split(' ');
        let number = match (fields.next(), fields.nth(1)) {
            (Some("cgroup2"), _) => Some(0),
            (Some("cgroup"), Some(options)) => number_of(own, options),
            _ => None,
        };
        if let Some(number) = number {
            found.entry(number).or_insert_with(|| at.into());
        }
    }
    found
}

/// The number of the hierarchy that is mounted with these options, by what /proc/PID/cgroup has of any process: the
/// controllers are among the options.
fn number_of(own: &str, options: &str) -> Option<u32> {
    let has = |controller: &str| options.split(',').any(|option| option == controller);
    own.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (number, controllers) = (fields.next()?, fields.next()?);
        let is_it = !controllers.is_empty() && controllers.split(',').all(has);
        is_it.then(|| number.parse().ok()).flatten()
    })
}

fn walk(folder: &Path, mount: &Path, hierarchy: u32, all: &mut Vec<(u64, String)>) {
    // Those that go meanwhile are left out.
    let Ok(meta) = fs::metadata(folder) else { return };
    if let Ok(path) = folder.strip_prefix(mount) {
        let path = String::from_utf8_lossy(path.as_os_str().as_bytes());
        all.push((key(hierarchy, meta.ino()), format!("/{path}")));
    }
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), mount, hierarchy, all);
        }
    }
}

/// Of the control groups of a process, by the numbers of their hierarchies, the one that says where it is
/// ([`tracer_common::cgroup`]).
pub fn where_it_is<'a>(groups: impl Iterator<Item = (u32, &'a str)>) -> Option<&'a str> {
    let level = |path: &str| path.split('/').filter(|name| !name.is_empty()).count() as u32;
    let best = groups.max_by_key(|&(hierarchy, path)| {
        (hierarchy == 0 && level(path) > 0, rank(level(path), hierarchy))
    });
    best.map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "9:name=systemd:/a\n4:memory:/x/y\n1:cpu,cpuacct:/\n0::/\n";

    #[test]
    fn the_mounts_of_whole_hierarchies_are_found() {
        let mountinfo = "\
            35 25 0:30 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
            35 25 0:30 /docker /mnt rw - cgroup2 cgroup2 rw\n\
            36 25 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            37 25 0:32 /docker /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            38 25 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            39 25 0:34 / /tmp rw - tmpfs tmpfs rw\n\n";
        let expected = [(0, "unified"), (1, "cpu"), (9, "systemd")];
        let expected =
            expected.map(|(number, at)| (number, PathBuf::from("/sys/fs/cgroup").join(at)));
        assert_eq!(hierarchies(mountinfo, OWN), BTreeMap::from(expected));
    }

    #[test]
    fn one_group_says_where_a_process_is() {
        let of = |groups: &[(u32, &'static str)]| where_it_is(groups.iter().copied());
        assert_eq!(of(&[(9, "/a"), (4, "/x/y"), (1, "/"), (0, "/")]), Some("/x/y"));
        assert_eq!(of(&[(9, "/a"), (4, "/x/y"), (0, "/z")]), Some("/z"));
        assert_eq!(of(&[(9, "/a"), (8, "/b"), (1, "/"), (0, "/")]), Some("/b"));
        assert_eq!(of(&[(9, "/"), (0, "/")]), Some("/"));
        assert_eq!(of(&[]), None);
    }
}
