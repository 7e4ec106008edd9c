//! Which processes are traced, and how: rules by what is known of a process when it begins.

use globset::{GlobBuilder, GlobMatcher};
use nix::unistd::User;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{kernel::Level, record::Options};

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Path of the executable; empty if it has none or it is not known.
    pub exe: &'a str,
    /// Name of the first thread.
    pub comm: &'a str,
    /// Whose it is, as `process.uid` has it.
    pub uid: u32,
    /// Path of the control group.
    pub cgroup: &'a str,
}

/// A pattern as shells have it: `*` and `?` do not match a `/`, `**` does.
#[derive(Clone, Debug)]
pub struct Pattern(GlobMatcher);

impl Pattern {
    fn new(text: &str, parts: bool) -> Result<Self, String> {
        let glob = GlobBuilder::new(text).literal_separator(parts).build();
        glob.map(|glob| Self(glob.compile_matcher())).map_err(|e| e.to_string())
    }

    fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?, true).map_err(D::Error::custom)
    }
}

/// A user, by number or by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uid(pub u32);

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "the number or the name of a user")]
        enum Written {
            Number(u32),
            Name(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(uid) => Ok(Self(uid)),
            Written::Name(name) => match User::from_name(&name) {
                Ok(Some(user)) => Ok(Self(user.uid.as_raw())),
                _ => Err(D::Error::custom(format!("there is no user `{name}`"))),
            },
        }
    }
}

/// Processes: those of which everything is true that is said.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    /// Path of the executable.
    pub exe: Option<Pattern>,
    /// Name of the first thread.
    pub comm: Option<Pattern>,
    /// Whose it is, as `process.uid` has it.
    pub uid: Option<Uid>,
    /// Path of the control group.
    pub cgroup: Option<Pattern>,
    /// The beginning of the id of a container, of 8 digits or more.
    pub container: Option<ContainerId>,
    /// The systemd unit.
    pub unit: Option<Pattern>,
}

/// The beginning of the id of a container.
#[derive(Clone, Debug)]
pub struct ContainerId(String);

impl<'de> Deserialize<'de> for ContainerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex && (8..=64).contains(&text.len()) {
            Ok(Self(text))
        } else {
            Err(D::Error::custom(format!(
                "`{text}` is not the id of a container: 8 to 64 digits from 0 to f"
            )))
        }
    }
}

impl Limit {
    /// Whether a process is one of them.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let matches = |pattern: &Option<Pattern>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(text))
        };
        matches(&self.exe, subject.exe)
            && matches(&self.comm, subject.comm)
            && self.uid.is_none_or(|uid| uid.0 == subject.uid)
            && matches(&self.cgroup, subject.cgroup)
            && self.container.as_ref().is_none_or(|wanted| {
                container(subject.cgroup).is_some_and(|id| id.starts_with(&wanted.0))
            })
            && self
                .unit
                .as_ref()
                .is_none_or(|wanted| unit(subject.cgroup).is_some_and(|unit| wanted.matches(unit)))
    }
}

/// The id of the container to which a control group belongs: docker, containerd, podman and CRI-O write its 64
/// hexadecimal digits into the name.
pub fn container(cgroup: &str) -> Option<&str> {
    cgroup.split(|c: char| !matches!(c, '0'..='9' | 'a'..='f')).find(|part| part.len() == 64)
}

/// The systemd unit to which a control group belongs: the innermost service, or else scope.
pub fn unit(cgroup: &str) -> Option<&str> {
    let ending = |ending| cgroup.rsplit('/').find(|part: &&str| part.ends_with(ending));
    ending(".service").or_else(|| ending(".scope"))
}

/// How much of a process is recorded, as a rule says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleLevel {
    /// Nothing.
    Off,
    /// Threads and system calls.
    Sched,
    /// Also the Go runtime.
    Go,
    /// Also sweeping and samples of allocations.
    Full,
}

impl RuleLevel {
    /// The level; none if nothing is recorded.
    pub fn level(self) -> Option<Level> {
        match self {
            Self::Off => None,
            Self::Sched => Some(Level::Sched),
            Self::Go => Some(Level::Go),
            Self::Full => Some(Level::Full),
        }
    }
}

/// A rule: which processes, and how they are traced.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Written")]
pub struct Rule {
    /// What it is called where it is shown; by default what it says.
    pub name: Option<String>,
    /// Which processes.
    pub limit: Limit,
    /// How much of them is recorded.
    pub level: RuleLevel,
    /// Whether system calls are recorded.
    pub syscalls: bool,
    /// Whether stacks of goroutines are.
    pub stacks: bool,
    /// Whether stacks of the kernel are, where threads leave the CPU.
    pub kernel_stacks: bool,
}

/// A rule as the file has it: all in one table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Option<String>,
    exe: Option<Pattern>,
    comm: Option<Pattern>,
    uid: Option<Uid>,
    cgroup: Option<Pattern>,
    container: Option<ContainerId>,
    unit: Option<Pattern>,
    level: RuleLevel,
    #[serde(default = "yes")]
    syscalls: bool,
    #[serde(default = "yes")]
    stacks: bool,
    #[serde(default)]
    kernel_stacks: bool,
}

fn yes() -> bool {
    true
}

impl From<Written> for Rule {
    fn from(w: Written) -> Self {
        let Written { exe, comm, uid, cgroup, container, unit, .. } = w;
        Self {
            name: w.name,
            limit: Limit { exe, comm, uid, cgroup, container, unit },
            level: w.level,
            syscalls: w.syscalls,
            stacks: w.stacks,
            kernel_stacks: w.kernel_stacks,
        }
    }
}

impl Rule {
    /// The rule that holds if no other one was written.
    pub fn everything() -> Self {
        Self {
            name: Some("everything".to_owned()),
            limit: Limit::default(),
            level: RuleLevel::Sched,
            syscalls: true,
            stacks: true,
            kernel_stacks: false,
        }
    }

    /// How to record; none if nothing is recorded.
    pub fn options(&self) -> Option<Options> {
        Some(Options {
            level: self.level.level()?,
            syscalls: self.syscalls,
            stacks: self.stacks,
            kernel_stacks: self.kernel_stacks,
        })
    }
}

/// The first rule that holds for a process, and which one it is, from 0.
pub fn first<'a>(rules: &'a [Rule], subject: &Subject<'_>) -> Option<(usize, &'a Rule)> {
    rules.iter().enumerate().find(|(_, rule)| rule.limit.matches(subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn subject<'a>(exe: &'a str, comm: &'a str, uid: u32, cgroup: &'a str) -> Subject<'a> {
        Subject { exe, comm, uid, cgroup }
    }

    fn rule(text: &str) -> Rule {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn everything_that_is_said_must_be_true() {
        let rule = rule("exe = \"/usr/bin/etcd*\"\nuid = 7\nlevel = \"go\"");
        assert!(rule.limit.matches(&subject("/usr/bin/etcd", "etcd", 7, "")));
        assert!(rule.limit.matches(&subject("/usr/bin/etcdctl", "etcdctl", 7, "")));
        assert!(!rule.limit.matches(&subject("/usr/bin/etcd", "etcd", 8, "")));
        assert!(!rule.limit.matches(&subject("/usr/bin/etcd/x", "x", 7, "")));
        assert!(!rule.limit.matches(&subject("", "etcd", 7, "")));
    }

    #[test]
    fn units_and_containers_are_found_in_control_groups() {
        let docker = format!("/system.slice/docker-{ID}.scope");
        assert_eq!(container(&docker), Some(ID));
        assert_eq!(container(&format!("/docker/{ID}")), Some(ID));
        let pod = format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope");
        assert_eq!(container(&pod), Some(ID));
        assert_eq!(container("/system.slice/ssh.service"), None);
        assert_eq!(unit("/system.slice/ssh.service"), Some("ssh.service"));
        assert_eq!(unit("/user.slice/user-0.slice/session-2.scope"), Some("session-2.scope"));
        let nested = "/user.slice/user-1.slice/user@1.service/app.slice/app-x.scope";
        assert_eq!(unit(nested), Some("user@1.service"));
        let rule = rule("container = \"01234567\"\nlevel = \"sched\"");
        assert!(rule.limit.matches(&subject("/x", "x", 0, &docker)));
        assert!(!rule.limit.matches(&subject("/x", "x", 0, "/docker/abc")));
    }

    #[test]
    fn the_first_rule_counts() {
        let rules = [
            rule("comm = \"noisy\"\nlevel = \"off\""),
            rule("uid = \"root\"\nlevel = \"go\""),
            rule("level = \"sched\""),
        ];
        let chosen = |comm, uid| first(&rules, &subject("/x", comm, uid, "")).map(|(i, _)| i);
        assert_eq!(chosen("noisy", 0), Some(0));
        assert_eq!(chosen("x", 0), Some(1));
        assert_eq!(chosen("x", 1), Some(2));
        assert!(rules[0].options().is_none());
        assert_eq!(first(&rules[..1], &subject("/x", "x", 0, "")).map(|(i, _)| i), None);
    }

    #[test]
    fn a_user_who_is_not_there_is_an_error() {
        let error = toml::from_str::<Rule>("uid = \"no-such-user\"\nlevel = \"go\"").unwrap_err();
        assert!(error.message().contains("no user `no-such-user`"), "{error}");
    }
}
