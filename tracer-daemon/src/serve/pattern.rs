//! What rules say of names and paths: as people write them, so that what is meant matches and what cannot match is an error.

use std::{fs, io::Read as _, os::unix::fs::PermissionsExt as _, path::Path};

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Deserializer, de::Error as _};
use tracer_common::events::COMM_LEN;

/// What is special in a pattern.
const SPECIAL: [char; 5] = ['*', '?', '[', '{', ']'];
/// Where systemd mounts control groups.
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";
/// Kinds of systemd units that processes belong to.
const UNITS: [&str; 5] = [".service", ".scope", ".mount", ".swap", ".socket"];
/// Other kinds of units.
const OTHER_UNITS: [&str; 6] = [".slice", ".target", ".timer", ".path", ".device", ".automount"];

/// A text, or a pattern as shells have it. What a rule says matches as it is written, too, whatever is special in it.
#[derive(Clone, Debug)]
struct Pattern {
    /// Texts that match.
    texts: Vec<String>,
    globs: Vec<GlobMatcher>,
}

impl Pattern {
    /// `parts`: `*` and `?` do not match a `/`, `**` does. `escapes`: a backslash takes away what is special in the next letter.
    fn new(text: &str, parts: bool, escapes: bool) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty text names nothing".to_owned());
        }
        let glob = |text: &str| {
            let glob =
                GlobBuilder::new(text).literal_separator(parts).backslash_escape(escapes).build();
            glob.map(|glob| glob.compile_matcher())
        };
        let globs = match glob(text) {
            Ok(glob) => vec![glob],
            // A name with a bracket.
            Err(_) if !text.contains(['*', '?', '{']) => Vec::new(),
            Err(error) => {
                let error = error.kind();
                return Err(format!("{error}; `[[]` stands for a `[`, and `[{{]` for a `{{`"));
            }
        };
        Ok(Self { texts: vec![text.to_owned()], globs })
    }

    fn matches(&self, text: &str) -> bool {
        self.texts.iter().any(|own| own == text)
            || self.globs.iter().any(|glob| glob.is_match(text))
    }

    /// The pattern matches this text, too.
    fn and_text(mut self, text: String) -> Self {
        self.texts.push(text);
        self
    }

    /// The pattern matches what the other one matches, too.
    fn or(mut self, other: Self) -> Self {
        self.texts.extend(other.texts);
        self.globs.extend(other.globs);
        self
    }
}

/// Path of an executable.
#[derive(Clone, Debug)]
pub struct Exe {
    pattern: Pattern,
    text: String,
}

/// Name of a thread.
#[derive(Clone, Debug)]
pub struct Comm {
    pattern: Pattern,
    text: String,
}

/// Path of a control group.
#[derive(Clone, Debug)]
pub struct Cgroup {
    pattern: Pattern,
    text: String,
}

/// Name of a systemd unit.
#[derive(Clone, Debug)]
pub struct Unit(Pattern);

macro_rules! deserialize {
    ($($name:ident),*) => {
        $(impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
            }
        })*
    };
}
deserialize!(Exe, Comm, Cgroup, Unit);

impl Exe {
    /// A path may lead through symbolic links: the kernel knows where it ends.
    fn new(text: &str) -> Result<Self, String> {
        let pattern = Pattern::new(text, true, true)?;
        let name = text.trim_start_matches(['.', '/']);
        is_path(text, &format!("/usr/bin/{name}, or **/{name} wherever it is"))?;
        if text.ends_with('/') {
            return Err(format!("no executable ends in /: {text}** means all in that folder"));
        }
        let pattern = match resolved(text) {
            Some(Resolved::File(path)) => pattern.and_text(path),
            Some(Resolved::Below(path)) => pattern.or(Pattern::new(&path, true, true)?),
            None => pattern,
        };
        Ok(Self { pattern, text: text.to_owned() })
    }

    /// Whether it is the path of this executable.
    pub fn matches(&self, exe: &str) -> bool {
        self.pattern.matches(exe)
    }

    /// Why it may not match what is meant.
    pub fn doubt(&self) -> Option<String> {
        let path = Path::new(&self.text);
        let Ok(meta) = fs::metadata(path) else {
            let is_one = !self.text.contains(SPECIAL);
            return is_one.then(|| "there is no such file here (one in a container may be)".into());
        };
        if meta.is_dir() {
            return Some(format!("is a folder: {}/** means all in it", self.text));
        }
        if meta.permissions().mode() & 0o111 == 0 {
            return Some("is not an executable file".to_owned());
        }
        let mut begin = [0; 2];
        let is_script = fs::File::open(path).and_then(|mut file| file.read_exact(&mut begin));
        (is_script.is_ok() && begin == *b"#!").then(|| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            format!("is a script, whose executable is its interpreter: comm = \"{name}\" names it")
        })
    }
}

impl Comm {
    /// Longest name that the kernel keeps, bytes.
    const MOST: usize = COMM_LEN - 1;

    fn new(text: &str) -> Result<Self, String> {
        let pattern = Pattern::new(text, false, true)?;
        if text.len() <= Self::MOST {
            return Ok(Self { pattern, text: text.to_owned() });
        }
        let cut = String::from_utf8_lossy(&text.as_bytes()[..Self::MOST]).into_owned();
        if text.contains(SPECIAL) {
            if least(text) > Self::MOST {
                return Err(format!(
                    "the kernel keeps {} bytes of a name: `{text}` matches none of so few",
                    Self::MOST
                ));
            }
            return Ok(Self { pattern, text: text.to_owned() });
        }
        Ok(Self { pattern: pattern.and_text(cut), text: text.to_owned() })
    }

    /// Whether it is the name of this thread.
    pub fn matches(&self, comm: &str) -> bool {
        self.pattern.matches(comm)
    }

    /// Why it may not match what is meant.
    pub fn doubt(&self) -> Option<String> {
        if self.text.starts_with('/') {
            return Some("is a path, which names seldom are: exe is for paths".to_owned());
        }
        let is_cut = self.text.len() > Self::MOST && !self.text.contains(SPECIAL);
        is_cut.then(|| {
            let cut = String::from_utf8_lossy(&self.text.as_bytes()[..Self::MOST]).into_owned();
            let most = Self::MOST;
            format!("the kernel keeps {most} bytes of a name: all that begin with `{cut}` match")
        })
    }
}

impl Cgroup {
    fn new(text: &str) -> Result<Self, String> {
        let pattern = Pattern::new(text, true, false)?;
        if let Some(path) = text.strip_prefix(CGROUP_MOUNT) {
            let path = path.trim_start_matches("/unified").trim_end_matches('/');
            return Err(format!("is where a control group is mounted; its path is `{path}`"));
        }
        is_path(text, &format!("**/{text}"))?;
        if text.len() > 1 && text.ends_with('/') {
            return Err(format!("no path of a control group ends in /: {text}** means all below"));
        }
        Ok(Self { pattern, text: text.to_owned() })
    }

    /// Whether it is the path of this control group.
    pub fn matches(&self, cgroup: &str) -> bool {
        matches_escaped(&self.pattern, cgroup)
    }

    /// Why it may not match what is meant.
    pub fn doubt(&self) -> Option<String> {
        let places = ["", "/unified"].map(|at| format!("{CGROUP_MOUNT}{at}{}", self.text));
        if self.text.contains(SPECIAL) || self.text == "/" {
            return None;
        }
        let Some(place) = places.iter().find(|place| Path::new(place).is_dir()) else {
            return Some("there is no such control group now".to_owned());
        };
        let own = fs::read_to_string(format!("{place}/cgroup.procs")).is_ok_and(|p| !p.is_empty());
        let below = fs::read_dir(place).into_iter().flatten().filter_map(Result::ok);
        let has_below = below.filter_map(|e| e.file_type().ok()).any(|kind| kind.is_dir());
        (!own && has_below)
            .then(|| format!("its processes are in groups below it: {}/** means those", self.text))
    }
}

impl Unit {
    fn new(text: &str) -> Result<Self, String> {
        let pattern = Pattern::new(text, false, false)?;
        if text.contains('/') {
            return Err("is no name of a unit: cgroup is for paths".to_owned());
        }
        if let Some(kind) = OTHER_UNITS.iter().find(|kind| text.ends_with(*kind)) {
            let hint = if *kind == ".slice" {
                format!("; cgroup = \"/**/{text}/**\" names all in a slice")
            } else {
                String::new()
            };
            return Err(format!("processes belong to services and scopes, to no {kind}{hint}"));
        }
        if text.contains("@.") {
            let of_all = text.replacen("@.", "@*.", 1);
            return Err(format!("is a template: {of_all} means all that are made of it"));
        }
        // As for systemctl, a name without a kind is a service's.
        if UNITS.iter().any(|kind| text.ends_with(kind)) {
            return Ok(Self(pattern));
        }
        Ok(Self(pattern.or(Pattern::new(&format!("{text}.service"), false, false)?)))
    }

    /// Whether a control group is, or is in, that of such a unit.
    pub fn matches(&self, cgroup: &str) -> bool {
        units(cgroup).any(|unit| matches_escaped(&self.0, unit))
    }
}

/// The systemd units to which a control group belongs.
pub fn units(cgroup: &str) -> impl Iterator<Item = &str> {
    cgroup.split('/').filter(|part| UNITS.iter().any(|kind| part.ends_with(kind)))
}

/// Systemd writes `\x2d` for a `-` and the like into names: they match with and without.
fn matches_escaped(pattern: &Pattern, text: &str) -> bool {
    pattern.matches(text) || (text.contains("\\x") && pattern.matches(&unescaped(text)))
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.strip_prefix(b"x").and_then(|digits| digits.get(..2));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|_| first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a pattern can match a path of the kernel's; `instead` is what may be meant.
fn is_path(text: &str, instead: &str) -> Result<(), String> {
    if !(text.starts_with('/') || text.starts_with("**") || text.starts_with('{')) {
        return Err(format!("is no path from / on: perhaps {instead}"));
    }
    if text.split('/').skip(1).any(|part| part == "." || part == "..") || text.contains("//") {
        return Err("no path of the kernel's has `.`, `..` or an empty part in it".to_owned());
    }
    Ok(())
}

/// Where a path ends.
enum Resolved {
    /// The whole of it.
    File(String),
    /// A pattern with the folders before its first special letter.
    Below(String),
}

/// A path or a pattern without symbolic links; none if there is none in it that can be seen.
fn resolved(text: &str) -> Option<Resolved> {
    let whole = |path: &Path| Some(fs::canonicalize(path).ok()?.to_str()?.to_owned());
    let other = |path: String| (path != text).then_some(path);
    // As it is written, whatever is special in it.
    if let Some(path) = whole(Path::new(text)) {
        return other(path).map(Resolved::File);
    }
    let (before, rest) = text.split_at(text.find(SPECIAL)?);
    let (folder, name) = before.rsplit_once('/')?;
    let folder = whole(Path::new(folder))?;
    if folder.contains(SPECIAL) || folder.contains('\\') {
        return None;
    }
    let folder = folder.trim_end_matches('/');
    other(format!("{folder}/{name}{rest}")).map(Resolved::Below)
}

/// Least bytes of what a pattern matches.
fn least(pattern: &str) -> usize {
    let (mut least, mut depth) = (0, 0_usize);
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            // Of alternatives each may be empty.
            _ if depth > 0 => {}
            '*' => {}
            '[' => {
                least += 1;
                letters.by_ref().skip(1).find(|&letter| letter == ']');
            }
            '\\' => least += letters.next().map_or(0, char::len_utf8),
            '?' => least += 1,
            other => least += other.len_utf8(),
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    type Matches = fn(&str, &str) -> Result<bool, String>;
    const EXE: Matches = |text, exe| Ok(Exe::new(text)?.matches(exe));
    const COMM: Matches = |text, comm| Ok(Comm::new(text)?.matches(comm));
    const CGROUP: Matches = |text, cgroup| Ok(Cgroup::new(text)?.matches(cgroup));
    const UNIT: Matches = |text, cgroup| Ok(Unit::new(text)?.matches(cgroup));

    #[test]
    fn what_is_meant_matches() {
        let nested = "/user.slice/user-1.slice/user@1.service/app.slice/app-x.scope";
        for (matches, text, value, expected) in [
            (EXE, "/usr/bin/etcd*", "/usr/bin/etcdctl", true),
            (EXE, "/usr/bin/*", "/usr/bin/a/b", false),
            (EXE, "/usr/**", "/usr/bin/a/b", true),
            (EXE, "**/etcd", "/opt/etcd", true),
            (EXE, "/opt/app[1]/x", "/opt/app[1]/x", true),
            (EXE, "/opt/app[1]/x", "/opt/app1/x", true),
            (EXE, "/usr/bin/[", "/usr/bin/[", true),
            (EXE, "/opt/{a,b}", "/opt/b", true),
            (EXE, "/opt/x (deleted)", "/opt/x (deleted)", true),
            (COMM, "process-name-of-many-letters", "process-name-of", true),
            (COMM, "process-name-o*", "process-name-of", true),
            (COMM, "kworker/*", "kworker/0:1", true),
            (COMM, "kwork*", "kworker/0:1", true),
            (COMM, "fourteen-lettö", "fourteen-lett\u{f6}", true),
            (COMM, "fourteen-letteö", "fourteen-lette\u{fffd}", true),
            (COMM, "[x]", "[x]", true),
            (CGROUP, "/tt", "/tt", true),
            (CGROUP, "/tt", "/tt/below", false),
            (CGROUP, "/tt/**", "/tt/below", true),
            (CGROUP, "/", "/", true),
            (CGROUP, r"/a.slice/shop\x2dapi.service", r"/a.slice/shop\x2dapi.service", true),
            (CGROUP, r"/a.slice/shop\x2d*", r"/a.slice/shop\x2dapi.service", true),
            (CGROUP, "/a.slice/shop-api.service", r"/a.slice/shop\x2dapi.service", true),
            (UNIT, r"shop\x2dapi.service", r"/a.slice/shop\x2dapi.service", true),
            (UNIT, r"shop\x2d*", r"/a.slice/shop\x2dapi.service", true),
            (UNIT, "shop-api.service", r"/a.slice/shop\x2dapi.service", true),
            (UNIT, "shop-api", "/a.slice/shop-api.service", true),
            (UNIT, "shop-*", "/a.slice/shop-api.service", true),
            (UNIT, "shop-?pi", "/a.slice/shop-api.service", true),
            (UNIT, "shop@*.service", "/a.slice/shop@1.service", true),
            (UNIT, "app[1.service", "/a.slice/app[1.service", true),
            (UNIT, "app-x.scope", nested, true),
            (UNIT, "user@1.service", nested, true),
            (UNIT, "boot.mount", "/system.slice/boot.mount", true),
            (UNIT, "docker.service", "/system.slice/docker.service/below", true),
            (UNIT, "ssh.service", "/system.slice/sshd.service", false),
        ] {
            assert_eq!(matches(text, value), Ok(expected), "{text}, {value}");
        }
    }

    #[test]
    fn what_cannot_match_is_an_error_that_says_why() {
        for (matches, text, says) in [
            (EXE, "", "empty"),
            (EXE, "etcd", "perhaps /usr/bin/etcd, or **/etcd"),
            (EXE, "./etcd", "**/etcd"),
            (EXE, "*etcd", "is no path from / on"),
            (EXE, "~/etcd", "is no path from / on"),
            (EXE, "/usr/bin/", "/usr/bin/**"),
            (EXE, "/usr/../bin/etcd", "`..`"),
            (EXE, "/usr//bin/etcd", "an empty part"),
            (EXE, "/usr/*[", "unclosed character class"),
            (EXE, "/opt/{a", "unclosed alternate group"),
            (COMM, "", "empty"),
            (COMM, "process-name-of-*", "the kernel keeps 15 bytes"),
            (COMM, "?rocess-name-[o]f-*", "the kernel keeps 15 bytes"),
            (CGROUP, "", "empty"),
            (CGROUP, "system.slice", "perhaps **/system.slice"),
            (CGROUP, "/sys/fs/cgroup/tt", "its path is `/tt`"),
            (CGROUP, "/tt/", "/tt/**"),
            (UNIT, "", "empty"),
            (UNIT, "/system.slice/ssh.service", "cgroup is for paths"),
            (UNIT, "system.slice", "cgroup = \"/**/system.slice/**\""),
            (UNIT, "backup.timer", "to no .timer"),
            (UNIT, "shop@.service", "shop@*.service"),
        ] {
            let error = matches(text, "").expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn paths_may_lead_through_links() {
        let folder = tempfile::tempdir().unwrap();
        let at =
            |name: &str| folder.path().canonicalize().unwrap().join(name).display().to_string();
        fs::create_dir(at("v1")).unwrap();
        fs::write(at("v1/app"), "").unwrap();
        std::os::unix::fs::symlink("v1", at("current")).unwrap();
        std::os::unix::fs::symlink("v1/app", at("link")).unwrap();
        let real = at("v1/app");
        for text in ["v1/app", "current/app", "link", "current/*", "current/a??", "current/{app,b}"]
        {
            assert_eq!(EXE(&at(text), &real), Ok(true), "{text}");
        }
        assert_eq!(EXE(&at("current/b*"), &real), Ok(false));
    }

    #[test]
    fn what_may_not_match_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        fs::write(at("script"), "#!/bin/sh\n").unwrap();
        fs::write(at("data"), "").unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(at("script"), executable).unwrap();
        for (text, says) in [
            (at("script"), Some("comm = \"script\"")),
            (at("data"), Some("not an executable")),
            (at("nothing"), Some("no such file")),
            (folder.path().display().to_string(), Some("is a folder")),
            ("/bin/true".to_owned(), None),
            (at("no*"), None),
        ] {
            let doubt = Exe::new(&text).unwrap().doubt();
            assert_eq!(doubt.is_some(), says.is_some(), "{text}: {doubt:?}");
            assert!(doubt.unwrap_or_default().contains(says.unwrap_or_default()), "{text}");
        }
        let comm = |text: &str| Comm::new(text).unwrap().doubt().unwrap_or_default();
        assert!(comm("process-name-of-many").contains("all that begin with `process-name-of`"));
        assert!(comm("/usr/bin/x").contains("exe is for paths"));
        assert_eq!(comm("etcd"), "");
        let cgroup = Cgroup::new("/no/such/group").unwrap().doubt().unwrap_or_default();
        assert!(cgroup.contains("no such control group"), "{cgroup}");
    }
}
