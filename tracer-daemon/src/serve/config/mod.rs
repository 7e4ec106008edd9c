//! The config file of `tracerd serve`.
//!
//! What is not said has a default; a key that is not known or a value that means nothing is an error that names
//! file, line and key.

pub mod flags;
mod places;
#[cfg(test)]
mod tests;
mod trigger;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::Group;
use serde::{Deserialize, Deserializer, de::Error as _};
use thiserror::Error;

pub use super::units::{Size, Time};
use super::{rules::Rule, units};
use crate::{kernel::RING_BYTES, server::Others};
use places::{Entry, Places};
pub use trigger::{Trigger, When};

/// Where the config file is if nothing else is said. If it is not there, defaults hold.
pub const DEFAULT_PATH: &str = "/etc/tracerd/config.toml";

/// Why a config file cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}: {}{message}", path.display(), of_key(key))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key that is meant, if there is one.
        key: Option<String>,
        /// What is wrong.
        message: String,
    },
}

fn of_key(key: &Option<String>) -> String {
    key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default()
}

/// All of the config.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where events go.
    pub store: Store,
    /// How much memory and kernel buffers may take.
    pub limits: Limits,
    /// Who may ask.
    pub access: Access,
    /// Figures for Prometheus.
    pub metrics: Metrics,
    /// The flight recorder.
    pub flight: Flight,
    /// Which processes are traced, and how; the first rule that matches counts. Without any, all processes are
    /// traced at level `sched`.
    #[serde(rename = "rule")]
    pub rules: Option<Vec<Rule>>,
    /// What makes the flight recorder write out what it holds.
    #[serde(rename = "trigger")]
    pub triggers: Vec<Trigger>,
    /// What may not be as it is meant, each with its place in the file.
    #[serde(skip)]
    pub doubts: Vec<String>,
}

/// Where events go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// The database.
    pub path: PathBuf,
    /// The oldest events give way when the database, with the files beside it, would be larger; at least
    /// [`Store::LEAST`].
    #[serde(deserialize_with = "bound")]
    pub max_size: Size,
    /// Events older than this give way.
    #[serde(deserialize_with = "units::a_second_or_more")]
    pub max_age: Time,
    /// Whether events are stored, or kept in memory until something happens.
    pub mode: Mode,
}

impl Store {
    /// The smallest bound that is kept: what is written at once must fit into a part of it.
    pub const LEAST: Size = Size(8 << 20);

    /// Whether a bound is large enough.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_bound(bound: Size) -> Result<Size, String> {
        if bound.0 < Self::LEAST.0 {
            return Err("a database of less than 8 MiB holds too little to be of use".to_owned());
        }
        Ok(bound)
    }
}

fn bound<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    Store::check_bound(Size::deserialize(deserializer)?).map_err(D::Error::custom)
}

impl Default for Store {
    fn default() -> Self {
        Self {
            path: tracer_store::DEFAULT_DB.into(),
            max_size: Size(10 << 30),
            max_age: Time(Duration::from_secs(7 * 24 * 3600)),
            mode: Mode::default(),
        }
    }
}

/// What becomes of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They are stored.
    #[default]
    Store,
    /// The last seconds are kept in memory, and written out when something happens.
    Flight,
}

impl Mode {
    /// The mode of `--flight`.
    pub fn of(flight: bool) -> Self {
        if flight { Self::Flight } else { Self::Store }
    }
}

/// How much memory and kernel buffers may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory of events that wait for the disk. Past it they are counted as lost.
    #[serde(
        deserialize_with = "units::size_within::<{ Limits::MEMORY.0 }, { Limits::MEMORY.1 }, _>"
    )]
    pub memory: Size,
    /// The kernel's ring buffer, rounded up to a power of two.
    #[serde(deserialize_with = "units::size_within::<{ Limits::RING.0 }, { Limits::RING.1 }, _>")]
    pub ring_size: Size,
}

impl Limits {
    /// Least and most memory, bytes.
    pub const MEMORY: (u64, u64) = (1 << 20, 1 << 40);
    /// Least and most bytes of the ring buffer.
    pub const RING: (u64, u64) = (*RING_BYTES.start() as u64, *RING_BYTES.end() as u64);
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: Size(256 << 20), ring_size: Size(64 << 20) }
    }
}

/// Who may ask.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// The socket.
    pub socket: PathBuf,
    /// The group whose members may do everything, as root may.
    pub group: String,
    /// What all others may do.
    pub others: Others,
    /// How long a question may take.
    #[serde(deserialize_with = "units::some_time")]
    pub query_timeout: Time,
    /// How much memory a question may take.
    #[serde(
        deserialize_with = "units::size_within::<{ Access::QUERY_MEMORY.0 }, { Access::QUERY_MEMORY.1 }, _>"
    )]
    pub query_memory: Size,
    /// How many questions are answered at once, 1 to 1,000.
    #[serde(deserialize_with = "units::count_up_to::<1_000, _>")]
    pub queries: usize,
    /// How many clients may be connected at once, 1 to 10,000.
    #[serde(deserialize_with = "units::count_up_to::<10_000, _>")]
    pub clients: usize,
}

impl Access {
    /// Least and most memory of a question, bytes: with less not even a small one is answered.
    const QUERY_MEMORY: (u64, u64) = (16 << 20, 1 << 40);
}

impl Default for Access {
    fn default() -> Self {
        Self {
            socket: "/run/tracerd/tracerd.sock".into(),
            group: "tracer".to_owned(),
            others: Others::default(),
            query_timeout: Time(Duration::from_secs(300)),
            query_memory: Size(512 << 20),
            queries: 4,
            clients: 256,
        }
    }
}

/// Figures for Prometheus.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Address and port of `/metrics`, which must be of the machine itself; none: there is no such port.
    #[serde(deserialize_with = "loopback")]
    pub listen: Option<SocketAddr>,
}

/// The flight recorder.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Flight {
    /// How much of the past is held.
    #[serde(deserialize_with = "units::a_second_or_more")]
    pub keep: Time,
    /// How much memory it may take.
    pub memory: Size,
    /// The folder into which snapshots are written.
    pub folder: PathBuf,
    /// How many snapshots stay there; older ones are removed.
    pub snapshots: usize,
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            keep: Time(Duration::from_secs(30)),
            memory: Size(128 << 20),
            folder: "/var/lib/tracerd/snapshots".into(),
            snapshots: 20,
        }
    }
}

fn loopback<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let address = flags::metrics(&String::deserialize(deserializer)?);
    address.map(Some).map_err(D::Error::custom)
}

/// The address, if other machines cannot reach it: whoever asks there is not asked who he is.
///
/// # Errors
/// When they can.
fn on_loopback(address: SocketAddr) -> Result<SocketAddr, String> {
    if !address.ip().is_loopback() {
        return Err(format!(
            "{address} can be reached from other machines: it must be of 127.0.0.0/8 or ::1"
        ));
    }
    Ok(address)
}

impl Config {
    /// The rules that hold.
    pub fn rules(&self) -> Vec<Rule> {
        self.rules.clone().unwrap_or_else(|| vec![Rule::everything()])
    }

    /// What a running daemon cannot change stays as in `old`; returns the keys of what would be different.
    pub fn keep_what_needs_a_restart(&mut self, old: &Self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        macro_rules! keep {
            ($($table:ident . $key:ident),* $(,)?) => {
                $(if self.$table.$key != old.$table.$key {
                    self.$table.$key.clone_from(&old.$table.$key);
                    keys.push(concat!(stringify!($table), ".", stringify!($key)));
                })*
            };
        }
        keep!(
            store.path,
            store.mode,
            limits.ring_size,
            access.socket,
            access.query_timeout,
            access.query_memory,
            access.queries,
            access.clients,
        );
        keys
    }

    /// Reads a config file; `None` stands for the default place, where there need not be one. Returns which file
    /// was read, too.
    ///
    /// # Errors
    /// When it cannot be read, or something in it is wrong.
    pub fn read(path: Option<&Path>) -> Result<(Self, Option<PathBuf>), ConfigError> {
        let given = path.is_some();
        let path = path.unwrap_or(Path::new(DEFAULT_PATH));
        match fs::read_to_string(path) {
            Ok(text) => Ok((Self::parse(&text, path)?, Some(path.into()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !given => Ok((Self::default(), None)),
            Err(source) => Err(ConfigError::Read { path: path.into(), source }),
        }
    }

    /// Understands the text of a config file.
    ///
    /// # Errors
    /// When something in it is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let wrong = |at: usize, key: Option<&str>, message: &str| {
            let before = &text[..text.floor_char_boundary(at)];
            let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
            let key = key_at(text, before.len()).or(key).map(str::to_owned);
            let message = message.trim().replace('\n', ", ");
            ConfigError::Wrong { path: path.into(), line, key, message }
        };
        let mut config: Self = toml::from_str(text)
            .map_err(|e| wrong(e.span().map_or(0, |span| span.start), None, e.message()))?;
        let places = Places::of(text);
        // What the types of single values do not tell.
        for (index, trigger) in config.triggers.iter().enumerate() {
            trigger.check().map_err(|(key, message)| {
                let at = places.of_entry(Entry::Trigger(index), key);
                wrong(at, Some("trigger"), &message)
            })?;
        }
        let doubts = config.doubted().into_iter().map(|(entry, key, why)| {
            let at = entry.map_or_else(|| places.of_group(), |entry| places.of_entry(entry, key));
            wrong(at, key, &why).to_string()
        });
        config.doubts = doubts.collect();
        Ok(config)
    }

    /// Rules and triggers that may not match what is meant: which one, which key, and why.
    fn doubted(&self) -> Vec<(Option<Entry>, Option<&'static str>, String)> {
        let mut doubts = Vec::new();
        let rules = self.rules.as_deref().unwrap_or_default();
        for (index, rule) in rules.iter().enumerate() {
            let entry = Some(Entry::Rule(index));
            doubts.extend(rule.limit.doubts().map(|(key, why)| (entry, Some(key), why)));
        }
        let all = rules.iter().position(|rule| rule.limit.is_everything());
        if let Some(all) = all.filter(|all| all + 1 < rules.len()) {
            let why = format!("this rule never counts: rule {} before it names all", all + 1);
            doubts.push((Some(Entry::Rule(all + 1)), None, why));
        }
        for (index, trigger) in self.triggers.iter().enumerate() {
            let entry = Some(Entry::Trigger(index));
            let of_only = trigger.only.doubts();
            doubts.extend(of_only.map(|(key, why)| (entry, Some("only"), format!("{key}: {why}"))));
        }
        let group = &self.access.group;
        let is_there = Group::from_name(group).is_ok_and(|group| group.is_some());
        if !is_there && *group != Access::default().group {
            doubts.push((None, Some("group"), format!("there is no group `{group}`")));
        }
        doubts
    }
}

/// The key that is meant at a place in a config file: its value or itself begins there, or something in its value. Else
/// the table that begins in this line.
fn key_at(text: &str, at: usize) -> Option<&str> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    if line.trim_start().starts_with('[') {
        return line.split('#').next().map(str::trim);
    }
    let (before, after) = line.split_at_checked(at - start)?;
    let (before, after) = (before.trim(), after.trim());
    let is_key = |key: &&str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "_-. ".contains(c);
        !key.is_empty() && key.chars().all(is_part)
    };
    // What stands before the value, in an inline table, too.
    let named = before.strip_suffix('=').and_then(|before| before.rsplit(['{', ',']).next());
    let begins = || after.split_once('=').map(|(key, _)| key);
    let around = || before.split_once('=').map(|(key, _)| key);
    [named.map(str::trim), begins().map(str::trim), around().map(str::trim)]
        .into_iter()
        .flatten()
        .find(is_key)
}
