//! Control groups by their ids, as the kernel reports them and as they were found.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tracer_common::{
    cgroup::{MANY_HIERARCHIES, key},
    events::CGROUP_PATH,
};

/// More than these are not kept: most of them are gone by then, and the others are found again.
const MOST: usize = 16_384;

/// Paths of control groups by their keys, which are not used twice.
#[derive(Default)]
pub struct Groups {
    paths: FxHashMap<u64, Arc<str>>,
    /// Events name one that is not known.
    wanted: bool,
    ignored: bool,
}

impl Groups {
    /// One whose folder has this inode number is known by this path, which came with `len` bytes, its zero included, and zeros behind.
    pub fn learn(&mut self, id: u64, hierarchy: u32, path: &[u8], len: u32) {
        let len = len as usize;
        // Cut, or not readable.
        if hierarchy >= MANY_HIERARCHIES || len <= 1 || len >= CGROUP_PATH {
            return;
        }
        if let Some(path) = path.get(..len - 1) {
            self.add(key(hierarchy, id), &String::from_utf8_lossy(path));
        }
    }

    /// From now on none is known.
    pub fn ignore(&mut self) {
        *self = Self { ignored: true, ..Self::default() };
    }

    /// All that there are now.
    pub fn found(&mut self, all: Vec<(u64, String)>) {
        self.wanted = false;
        for (key, path) in all {
            self.add(key, &path);
        }
    }

    fn add(&mut self, key: u64, path: &str) {
        if self.paths.len() >= MOST {
            self.paths.clear();
            self.wanted = true;
        }
        if !self.ignored {
            self.paths.insert(key, path.into());
        }
    }

    /// An event names one.
    pub fn named(&mut self, key: u64) {
        self.wanted |= key != 0 && !self.ignored && !self.paths.contains_key(&key);
    }

    /// Whether some that were named are not known.
    pub fn are_wanted(&self) -> bool {
        self.wanted
    }

    /// The path of one; none if it is not known.
    pub fn path(&self, key: u64) -> Option<Arc<str>> {
        self.paths.get(&key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_paths_are_learned() {
        let mut groups = Groups::default();
        groups.learn(7, 0, b"/a/b\0\0\0", 5);
        groups.learn(7, 3, b"/v1\0", 4);
        groups.learn(8, MANY_HIERARCHIES, b"/v1\0", 4);
        groups.learn(9, 0, &[b'x'; CGROUP_PATH], CGROUP_PATH as u32);
        groups.learn(10, 0, b"", 0);
        groups.learn(11, 0, b"/\xff\0", 3);
        assert_eq!(groups.path(key(3, 7)).as_deref(), Some("/v1"));
        assert_eq!(groups.path(key(MANY_HIERARCHIES, 8)), None);
        assert_eq!(groups.path(7).as_deref(), Some("/a/b"));
        assert_eq!(groups.path(11).as_deref(), Some("/\u{fffd}"));
        assert!([8, 9, 10].iter().all(|&id| groups.path(id).is_none()));
        assert!(!groups.are_wanted());
        groups.named(0);
        groups.named(7);
        assert!(!groups.are_wanted());
        groups.named(9);
        assert!(groups.are_wanted());
        groups.found(vec![(9, "/long".to_owned())]);
        assert!(!groups.are_wanted());
        assert_eq!(groups.path(9).as_deref(), Some("/long"));
    }
}
