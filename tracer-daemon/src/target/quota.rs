//! The quota of CPU time that limits a process: that of its control group, or of one above.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// A quota of CPU time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Path of the control group that has it, as /proc/PID/cgroup has paths.
    pub cgroup: String,
    /// The file of the group with the quota.
    pub file: &'static str,
    /// CPU time that the group may use in each period (ns).
    pub quota: u64,
    /// Length of a period (ns).
    pub period: u64,
}

/// The two ways in which a group has a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The hierarchy of control groups that has the CPU controller.
#[derive(Debug, PartialEq, Eq)]
pub struct CpuGroups {
    version: Version,
    /// The group that is mounted...
    root: PathBuf,
    /// ... and where.
    at: PathBuf,
}

impl CpuGroups {
    /// Looks where it is mounted; none if it is not.
    pub fn find() -> Option<Self> {
        let text = fs::read("/proc/self/mountinfo").ok()?;
        Self::mounted(&String::from_utf8_lossy(&text))
    }

    fn mounted(mountinfo: &str) -> Option<Self> {
        let all: Vec<_> = mountinfo.lines().filter_map(Self::of_line).collect();
        // While the controller is in a hierarchy of version 1, version 2 does not have it. A mount may show a part only.
        let preference =
            |groups: &Self| (groups.version == Version::Two, groups.root.as_os_str().len());
        all.into_iter().min_by_key(preference)
    }

    fn of_line(line: &str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?.into(), fields.next()?.into());
        let mut fields = kind.split(' ');
        let version = match (fields.next()?, fields.nth(1)?) {
            ("cgroup2", _) => Version::Two,
            ("cgroup", options) if options.split(',').any(|option| option == "cpu") => Version::One,
            _ => return None,
        };
        Some(Self { version, root, at })
    }

    /// The quota that limits a process; none if there is none, or the process has ended.
    pub fn quota_of(&self, pid: u32) -> Option<Quota> {
        let shown = super::live_thread(pid).unwrap_or(pid);
        let text = fs::read(format!("/proc/{shown}/cgroup")).ok()?;
        self.quota_at(self.group_in(&String::from_utf8_lossy(&text))?)
    }

    /// The quota that limits who is in a group of version 2; none if there is none, or version 1 has the controller.
    pub fn quota_of_unified(&self, group: &str) -> Option<Quota> {
        (self.version == Version::Two).then(|| self.quota_at(group)).flatten()
    }

    /// The group of a process, of the text of /proc/PID/cgroup.
    fn group_in<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, fields.next()?);
            let is_it = match self.version {
                Version::One => controllers.split(',').any(|controller| controller == "cpu"),
                Version::Two => controllers.is_empty(),
            };
            is_it.then_some(group)
        })
    }

    /// The quota that limits who is in this group.
    fn quota_at(&self, group: &str) -> Option<Quota> {
        let group = Path::new(group);
        // What is outside of the namespace or of what is mounted cannot be read.
        if group.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        let mut first = None;
        for ancestor in group.ancestors() {
            let Ok(below) = ancestor.strip_prefix(&self.root) else { break };
            let folder = self.at.join(below);
            let Some((quota, period)) = self.version.read(&folder) else { continue };
            let cgroup = ancestor.to_string_lossy().into_owned();
            let found = Quota { cgroup, file: self.version.file(), quota, period };
            if has_throttled(&folder) {
                return Some(found);
            }
            first = first.or(Some(found));
        }
        first
    }
}

impl Version {
    const fn file(self) -> &'static str {
        match self {
            Self::One => "cpu.cfs_quota_us",
            Self::Two => "cpu.max",
        }
    }

    /// The quota of a group, and its period (ns); none if it has none.
    fn read(self, folder: &Path) -> Option<(u64, u64)> {
        let text = fs::read_to_string(folder.join(self.file())).ok()?;
        let period = match self {
            Self::One => fs::read_to_string(folder.join("cpu.cfs_period_us")).ok()?,
            Self::Two => text.split_whitespace().nth(1)?.to_owned(),
        };
        // Without a quota it is `max`, or -1.
        let ns = |text: &str| text.trim().parse::<u64>().ok()?.checked_mul(1_000);
        Some((ns(text.split_whitespace().next()?)?, ns(&period)?))
    }
}

/// Whether a group has kept a thread from running because its quota was used up.
fn has_throttled(folder: &Path) -> bool {
    let text = fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
    let times = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
    times.is_some_and(|times| times.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(version: Version, root: &str, at: &Path) -> CpuGroups {
        CpuGroups { version, root: root.into(), at: at.into() }
    }

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    fn found(quota: Option<Quota>) -> Option<(String, &'static str, u64, u64)> {
        quota.map(|q| (q.cgroup, q.file, q.quota, q.period))
    }

    #[test]
    fn the_hierarchy_with_the_cpu_controller_is_found() {
        const V2: &str = "35 25 0:30 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw";
        const V1: &str =
            "36 25 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct";
        const SET: &str = "37 25 0:32 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset";
        const PART: &str = "38 25 0:30 /docker/x /mnt rw - cgroup2 none rw,nsdelegate";
        let of = |lines: &[&str]| CpuGroups::mounted(&lines.join("\n"));
        let v2 = groups(Version::Two, "/", Path::new("/sys/fs/cgroup/unified"));
        let v1 = groups(Version::One, "/", Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(of(&[V2]), Some(v2));
        assert_eq!(of(&[PART, V2, SET]).map(|groups| groups.root), Some("/".into()));
        assert_eq!(of(&[SET, V2, V1]), Some(v1));
        assert_eq!(of(&[PART]), Some(groups(Version::Two, "/docker/x", Path::new("/mnt"))));
        assert_eq!(of(&[SET, "", "x - y"]), None);
        // Which group a process is in there.
        let text = "9:name=systemd:/s\n3:cpuset:/set\n1:cpu,cpuacct:/shop/a:b\n0::/unified\n";
        assert_eq!(of(&[V1]).unwrap().group_in(text), Some("/shop/a:b"));
        assert_eq!(of(&[V2]).unwrap().group_in(text), Some("/unified"));
        assert_eq!(of(&[V1]).unwrap().group_in("0::/unified\n"), None);
    }

    #[test]
    fn the_nearest_quota_of_version_2_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        write(&at.join("shop/api/worker"), &[("cpu.max", "max 100000\n")]);
        write(
            &at.join("shop/api"),
            &[("cpu.max", "50000 100000\n"), ("cpu.stat", "nr_throttled 0\n")],
        );
        write(
            &at.join("shop"),
            &[("cpu.max", "1500 20000\n"), ("cpu.stat", "nr_periods 9\nnr_throttled 0\n")],
        );
        write(&at.join("free"), &[("cpu.max", "max 100000\n")]);
        let all = groups(Version::Two, "/", at);
        let api = Some(("/shop/api".to_owned(), "cpu.max", 50_000_000, 100_000_000));
        let shop = Some(("/shop".to_owned(), "cpu.max", 1_500_000, 20_000_000));
        assert_eq!(found(all.quota_at("/shop/api/worker")), api);
        assert_eq!(found(all.quota_at("/shop/api")), api);
        assert_eq!(found(all.quota_of_unified("/shop")), shop);
        assert_eq!(found(all.quota_at("/free")), None);
        assert_eq!(found(all.quota_at("/")), None);
        assert_eq!(found(all.quota_at("/../other")), None);
        // Only the one above has ever throttled a thread.
        fs::write(at.join("shop/cpu.stat"), "nr_periods 9\nnr_throttled 3\n").unwrap();
        assert_eq!(found(all.quota_at("/shop/api/worker")), shop);
        // In a container: what is above is not to be seen.
        let part = groups(Version::Two, "/shop/api", &at.join("shop/api"));
        assert_eq!(found(part.quota_at("/shop/api/worker")), api);
        assert_eq!(found(part.quota_at("/shop")), None);
    }

    #[test]
    fn the_nearest_quota_of_version_1_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let files = |quota| [("cpu.cfs_quota_us", quota), ("cpu.cfs_period_us", "100000\n")];
        write(at, &files("-1\n"));
        write(&at.join("shop/api"), &files("-1\n"));
        write(&at.join("shop"), &files("20000\n"));
        let all = groups(Version::One, "/", at);
        let shop = Some(("/shop".to_owned(), "cpu.cfs_quota_us", 20_000_000, 100_000_000));
        assert_eq!(found(all.quota_at("/shop/api")), shop);
        assert_eq!(found(all.quota_at("/")), None);
        assert_eq!(all.quota_of_unified("/shop/api"), None);
        // A damaged one is none.
        fs::write(at.join("shop/cpu.cfs_period_us"), "x").unwrap();
        assert_eq!(found(all.quota_at("/shop/api")), None);
    }
}
