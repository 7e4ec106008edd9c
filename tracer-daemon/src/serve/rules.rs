//! Which processes are traced, and how: rules by what is known of a process when it begins.

use nix::unistd::User;
use serde::{Deserialize, Deserializer, de::Error as _};
use tracer_common::user::UNKNOWN_UID;

use super::pattern::{Cgroup, Comm, Exe, Unit};
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
            Written::Number(UNKNOWN_UID) => {
                Err(D::Error::custom(format!("no user has the number {UNKNOWN_UID}")))
            }
            Written::Number(uid) => Ok(Self(uid)),
            Written::Name(name) => match (User::from_name(&name), name.parse()) {
                (Ok(Some(user)), _) => Ok(Self(user.uid.as_raw())),
                (_, Ok(uid)) if uid != UNKNOWN_UID => Ok(Self(uid)),
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
    pub exe: Option<Exe>,
    /// Name of the first thread.
    pub comm: Option<Comm>,
    /// Whose it is, as `process.uid` has it.
    pub uid: Option<Uid>,
    /// Path of the control group.
    pub cgroup: Option<Cgroup>,
    /// The beginning of the id of a container, of 8 digits or more.
    pub container: Option<ContainerId>,
    /// The systemd unit.
    pub unit: Option<Unit>,
}

/// The beginning of the id of a container.
#[derive(Clone, Debug)]
pub struct ContainerId(String);

impl<'de> Deserialize<'de> for ContainerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // As Kubernetes writes it: containerd://ID.
        let id = text.split_once("://").map_or(&*text, |(_, id)| id).to_ascii_lowercase();
        let is_hex = id.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hex && (8..=64).contains(&id.len()) {
            Ok(Self(id))
        } else {
            Err(D::Error::custom(format!(
                "`{text}` is not the id of a container: 8 to 64 digits from 0 to f (`docker ps` shows them)"
            )))
        }
    }
}

impl Limit {
    /// Whether a process is one of them.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let Self { exe, comm, uid, cgroup, container, unit } = self;
        exe.as_ref().is_none_or(|exe| exe.matches(subject.exe))
            && comm.as_ref().is_none_or(|comm| comm.matches(subject.comm))
            && uid.is_none_or(|uid| uid.0 == subject.uid)
            && cgroup.as_ref().is_none_or(|cgroup| cgroup.matches(subject.cgroup))
            && container
                .as_ref()
                .is_none_or(|wanted| containers(subject.cgroup).any(|id| id.starts_with(&wanted.0)))
            && unit.as_ref().is_none_or(|unit| unit.matches(subject.cgroup))
    }

    /// Whether it is all processes.
    pub fn is_everything(&self) -> bool {
        let Self { exe, comm, uid, cgroup, container, unit } = self;
        exe.is_none()
            && comm.is_none()
            && uid.is_none()
            && cgroup.is_none()
            && container.is_none()
            && unit.is_none()
    }

    /// Keys whose values may not match what is meant, and why.
    pub fn doubts(&self) -> impl Iterator<Item = (&'static str, String)> {
        let exe = self.exe.as_ref().and_then(Exe::doubt).map(|why| ("exe", why));
        let comm = self.comm.as_ref().and_then(Comm::doubt).map(|why| ("comm", why));
        let cgroup = self.cgroup.as_ref().and_then(Cgroup::doubt).map(|why| ("cgroup", why));
        exe.into_iter().chain(comm).chain(cgroup)
    }
}

/// The ids of the containers to which a control group belongs, each within the one before: docker, containerd, podman and CRI-O
/// write the 64 hexadecimal digits into the name.
pub fn containers(cgroup: &str) -> impl Iterator<Item = &str> {
    let parts = cgroup.split(|c: char| !matches!(c, '0'..='9' | 'a'..='f'));
    parts.filter(|part| part.len() == 64)
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
    exe: Option<Exe>,
    comm: Option<Comm>,
    uid: Option<Uid>,
    cgroup: Option<Cgroup>,
    container: Option<ContainerId>,
    unit: Option<Unit>,
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
    fn containers_are_found_in_control_groups() {
        let docker = format!("/system.slice/docker-{ID}.scope");
        let pod = format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope");
        for group in [&docker, &format!("/docker/{ID}"), &pod] {
            assert_eq!(containers(group).collect::<Vec<_>>(), [ID]);
        }
        assert_eq!(containers("/system.slice/ssh.service").next(), None);
        let inner = "f".repeat(64);
        let nested = format!("/docker/{ID}/kubepods/pod1/{inner}");
        for (text, group, expected) in [
            ("01234567", &docker, true),
            ("0123456789AB", &docker, true),
            (&format!("docker://{ID}"), &docker, true),
            ("ffffffff", &docker, false),
            ("01234567", &nested, true),
            ("ffffffff", &nested, true),
        ] {
            let rule = rule(&format!("container = \"{text}\"\nlevel = \"sched\""));
            assert_eq!(rule.limit.matches(&subject("/x", "x", 0, group)), expected, "{text}");
        }
        for wrong in ["web", "0123456", "", "sha256:01234567", "docker://"] {
            let text = format!("container = \"{wrong}\"\nlevel = \"go\"");
            let error = toml::from_str::<Rule>(&text).unwrap_err();
            assert!(error.message().contains("is not the id of a container"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_user_has_a_name_or_a_number() {
        let uid = |text: &str| {
            let rule = toml::from_str::<Rule>(&format!("uid = {text}\nlevel = \"go\""));
            rule.map(|rule| rule.limit.uid.map(|uid| uid.0)).map_err(|e| e.message().to_owned())
        };
        assert_eq!(uid("7"), Ok(Some(7)));
        assert_eq!(uid("\"7\""), Ok(Some(7)));
        assert_eq!(uid("\"root\""), Ok(Some(0)));
        for wrong in ["4294967295", "\"4294967295\"", "\"\"", "-1", "\"root \""] {
            assert!(uid(wrong).is_err(), "{wrong}");
        }
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
