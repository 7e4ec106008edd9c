//! Programs in an overlay mount. The kernel keys uprobes by the inode that holds the data: one of a lower layer, until a write
//! or a change of owner in the mount copies the file up. A process that was started before keeps the lower file mapped, but
//! every path and every link of the kernel resolves to the upper one.
//! Which of the two is mapped is decided by page frame numbers: all mappings of a file share its pages in the page cache.

use std::{
    fs::{self, File, OpenOptions},
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::{FileExt as _, OpenOptionsExt as _},
        },
    },
    path::{Component, Path, PathBuf},
};

use nix::{libc, sys::statfs};

/// What cannot be traced of a process whose file is not found any more.
pub const COPIED_UP: &str = "its file was copied up by an overlay mount after it began, and the one in the lower layer, which \
                             it still runs, cannot be reached: no Go events";

const PAGE: u64 = 4096;
/// Of an entry of /proc/PID/pagemap: in memory, and a page of a file.
const PRESENT: u64 = 1 << 63;
const OF_FILE: u64 = 1 << 61;
const FRAME: u64 = (1 << 55) - 1;
/// How many pages are compared: one that the process has written to (a breakpoint) is its own.
const SAMPLES: usize = 8;
/// Entries of pagemap that are read at most (64 MiB of code).
const MAX_PAGES: u64 = 16 << 10;
/// How many files are looked at in search of the right one.
const MAX_CANDIDATES: usize = 4096;
/// How many ancestors of a process may have made the mount.
const MAX_ANCESTORS: usize = 8;
/// Where container engines make mounts with relative layers from.
const ENGINES: [&str; 3] = [
    "/var/lib/docker/overlay2",
    "/var/lib/containers/storage/overlay",
    "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots",
];

/// A mapping of a file in a process.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Last address plus one.
    pub end: u64,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
}

/// Which file a process has mapped.
#[derive(Debug)]
pub enum Mapped {
    /// The one that links of the kernel lead to, as far as can be told.
    Shown,
    /// This one, of a lower layer.
    Lower(File),
    /// Another one, which was not found.
    Unknown,
}

/// Whether the file that a path leads to belongs to an overlay mount.
pub fn is_overlay(path: &Path) -> bool {
    statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type() == statfs::OVERLAYFS_SUPER_MAGIC)
}

/// Finds the file of an overlay mount that a process (or `pid` a thread of it) has mapped, where the kernel shows `shown`
/// with this path.
pub fn mapped(pid: u32, shown: &File, path: &Path, mapping: Mapping) -> Mapped {
    let frames = Frames::of(pid, mapping);
    if frames.are_of(shown) != Some(false) {
        return Mapped::Shown;
    }
    let lower = mount_of(pid, shown).and_then(|mount| {
        let files = mount.candidates(pid, path);
        files
            .take(MAX_CANDIDATES)
            .filter_map(|path| open(&path))
            .find(|file| frames.are_of(file) == Some(true))
    });
    lower.map_or(Mapped::Unknown, Mapped::Lower)
}

/// Page frames of a mapping: offset in the file, and number.
struct Frames(Vec<(u64, u64)>);

impl Frames {
    /// Some of those that are in memory; none without the right to know them.
    fn of(pid: u32, Mapping { start, end, offset }: Mapping) -> Self {
        let pages = (end.saturating_sub(start) / PAGE).min(MAX_PAGES);
        let mut entries = vec![0; pages as usize * 8];
        let read = File::open(format!("/proc/{pid}/pagemap"))
            .and_then(|file| file.read_at(&mut entries, start / PAGE * 8))
            .unwrap_or(0);
        let frames = (0..).zip(entries[..read].chunks_exact(8)).filter_map(|(page, entry)| {
            Some((offset + page * PAGE, frame(u64::from_ne_bytes(entry.try_into().ok()?))?))
        });
        Self(frames.take(SAMPLES).collect())
    }

    /// Whether they belong to a file; none if that cannot be told.
    fn are_of(&self, file: &File) -> Option<bool> {
        let own = File::open("/proc/self/pagemap").ok()?;
        let mut known = false;
        for &(offset, wanted) in &self.0 {
            let Some(page) = Page::map(file, offset) else { continue };
            let mut entry = [0; 8];
            own.read_exact_at(&mut entry, page.0 as u64 / PAGE * 8).ok()?;
            let Some(frame) = frame(u64::from_ne_bytes(entry)) else { continue };
            if frame == wanted {
                return Some(true);
            }
            known = true;
        }
        // The file of a process that it is too short for is another one, too.
        (known || (!self.0.is_empty() && is_shorter(file, &self.0))).then_some(false)
    }
}

fn is_shorter(file: &File, frames: &[(u64, u64)]) -> bool {
    file.metadata().is_ok_and(|meta| frames.iter().all(|&(offset, _)| offset >= meta.len()))
}

/// The number in an entry of pagemap, of a page of a file that is in memory.
fn frame(entry: u64) -> Option<u64> {
    let number = entry & FRAME;
    (entry & PRESENT != 0 && entry & OF_FILE != 0 && number != 0).then_some(number)
}

/// A page of a file that is mapped and in memory.
struct Page(*mut libc::c_void);

impl Page {
    fn map(file: &File, offset: u64) -> Option<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let offset = i64::try_from(offset).ok()?;
        // SAFETY: the kernel chooses the address, and what is there is not read.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE as usize,
                libc::PROT_READ,
                flags,
                file.as_raw_fd(),
                offset,
            )
        };
        (at != libc::MAP_FAILED).then_some(Self(at))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: it was mapped with that size, and nothing refers to it.
        let _ = unsafe { libc::munmap(self.0, PAGE as usize) };
    }
}

/// A regular file. What else there may be is not opened: that could block, or do something.
fn open(path: &Path) -> Option<File> {
    let found = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).ok()?;
    if !found.metadata().ok()?.is_file() {
        return None;
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()
}

/// An overlay mount.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// What of it is mounted.
    root: PathBuf,
    /// Where.
    point: PathBuf,
    /// Its lower layers, as they were named when it was mounted.
    layers: Vec<PathBuf>,
    /// The other folders that were named then.
    others: Vec<PathBuf>,
}

/// The mount that an open file belongs to.
fn mount_of(pid: u32, file: &File) -> Option<Mount> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    [pid.to_string().as_str(), "self"].into_iter().find_map(|whose| {
        let mounts = fs::read(format!("/proc/{whose}/mountinfo")).ok()?;
        mounts.split(|&byte| byte == b'\n').find_map(|line| {
            let its = line.strip_prefix(id.as_bytes())?.strip_prefix(b" ")?;
            Mount::parse(its)
        })
    })
}

impl Mount {
    /// Parses a line of mountinfo (proc_pid_mountinfo(5)) without the first field.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ').skip(2);
        let (root, point) = (path(&unescaped(fields.next()?)), path(&unescaped(fields.next()?)));
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        if fields.next()? != b"overlay" {
            return None;
        }
        let options = fields.nth(1)?;
        let mut mount = Self { root, point, layers: Vec::new(), others: Vec::new() };
        for option in options.split(|&byte| byte == b',') {
            let Some(at) = option.iter().position(|&byte| byte == b'=') else { continue };
            let value = unescaped(&option[at + 1..]);
            match &option[..at] {
                b"lowerdir" => mount.layers.extend(layers(&value)),
                // Each has one layer. Kernels differ in whether they take a backslash for itself.
                b"lowerdir+" | b"datadir+" => {
                    mount.layers.push(path(&value));
                    mount.layers.push(path(
                        &layers(&value).map(into_bytes).collect::<Vec<_>>().join(&b':'),
                    ));
                }
                b"upperdir" | b"workdir" => mount.others.extend(layers(&value)),
                _ => {}
            }
        }
        mount.layers.dedup();
        Some(mount)
    }

    /// Where the file with this path in the mount may be in the lower layers, as paths for this process.
    fn candidates(&self, pid: u32, path: &Path) -> impl Iterator<Item = PathBuf> {
        let ancestors = ancestors(pid);
        let proc = |file: &str| -> Vec<PathBuf> {
            ancestors.iter().map(|pid| PathBuf::from(format!("/proc/{pid}/{file}"))).collect()
        };
        let mut roots = vec![PathBuf::from("/"), PathBuf::from("/proc/1/root")];
        roots.extend(proc("root"));
        // A relative layer is relative to where the one was who mounted it.
        let absolute = self.others.iter().chain(&self.layers).filter(|path| path.is_absolute());
        let above = absolute.flat_map(|path| path.ancestors().skip(1));
        let mut bases: Vec<PathBuf> = above.map(Path::to_owned).collect();
        bases.extend(ENGINES.map(PathBuf::from));
        bases.sort_unstable();
        bases.dedup();
        let mut folders = Vec::new();
        for layer in &self.layers {
            let within = if layer.is_absolute() {
                vec![layer.clone()]
            } else {
                folders.extend(proc("cwd").into_iter().map(|cwd| cwd.join(layer)));
                bases.iter().map(|base| base.join(layer)).collect()
            };
            for folder in within {
                folders.extend(roots.iter().map(|root| below(root, &folder)));
            }
        }
        let exact = path.strip_prefix(&self.point).ok().map(|path| below(&self.root, path));
        // What the path begins with depends on the root of who reads it.
        let mut names: Vec<PathBuf> = exact.into_iter().collect();
        let parts: Vec<_> = normal(path).collect();
        names.extend((0..parts.len()).map(|from| parts[from..].iter().collect::<PathBuf>()));
        names.into_iter().flat_map(move |name| {
            folders.iter().map(|folder| below(folder, &name)).collect::<Vec<_>>()
        })
    }
}

fn normal(path: &Path) -> impl Iterator<Item = Component<'_>> {
    path.components().filter(|part| matches!(part, Component::Normal(_)))
}

/// A path inside of a folder, whatever it begins with; nor does it lead out of it.
fn below(folder: &Path, path: &Path) -> PathBuf {
    folder.components().chain(normal(path)).collect()
}

/// A process and those that it descends from, the nearest first.
fn ancestors(pid: u32) -> Vec<u32> {
    let parent = |&pid: &u32| {
        let process = procfs::process::Process::new(pid.cast_signed()).ok()?;
        u32::try_from(process.stat().ok()?.ppid).ok().filter(|&parent| parent > 1)
    };
    std::iter::successors(Some(pid), parent).take(MAX_ANCESTORS).collect()
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

fn into_bytes(path: PathBuf) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// A field of mountinfo as it was before the kernel wrote some characters as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digit = |i: usize| {
            after
                .get(i)
                .filter(|byte| (b'0'..=b'7').contains(byte))
                .map(|byte| u32::from(byte - b'0'))
        };
        let code = || u8::try_from(digit(0)? * 64 + digit(1)? * 8 + digit(2)?).ok();
        match (first == b'\\').then(code).flatten() {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

/// The folders of a list with colons between; a backslash takes a colon, comma or backslash for itself. Two colons stand before
/// a layer of data only.
fn layers(list: &[u8]) -> impl Iterator<Item = PathBuf> + use<> {
    let mut all = vec![Vec::new()];
    let mut bytes = list.iter();
    while let Some(&byte) = bytes.next() {
        let last = all.len() - 1;
        match byte {
            b'\\' => all[last].extend(bytes.next()),
            b':' => all.push(Vec::new()),
            _ => all[last].push(byte),
        }
    }
    all.into_iter().filter(|layer| !layer.is_empty()).map(|layer| path(&layer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = br"65 0:40 /a /my\040root rw,relatime shared:1 - overlay over rw,lowerdir=l\134:1:/t/l\134\0542:l\0403::/data,upperdir=/u/up,workdir=work,uuid=on";

    #[test]
    fn layers_are_read_as_they_were_named() {
        let mount = Mount::parse(LINE).expect("an overlay");
        assert_eq!(
            (mount.root.as_path(), mount.point.as_path()),
            (Path::new("/a"), Path::new("/my root"))
        );
        assert_eq!(mount.layers, ["l:1", "/t/l,2", "l 3", "/data"].map(PathBuf::from));
        assert_eq!(mount.others, ["/u/up", "work"].map(PathBuf::from));
        let one_by_one =
            br"65 0:40 / / rw - overlay over rw,lowerdir+=/a:b,lowerdir+=/c\134:d,datadir+=/e";
        let layers = Mount::parse(one_by_one).expect("an overlay").layers;
        for layer in ["/a:b", "/c:d", r"/c\:d", "/e"] {
            assert!(layers.contains(&PathBuf::from(layer)), "{layer}: {layers:?}");
        }
        assert_eq!(Mount::parse(b"65 0:40 / / rw - ext4 /dev/sda rw"), None);
    }

    #[test]
    fn files_are_looked_for_in_all_layers_from_all_roots() {
        let mount = Mount::parse(LINE).expect("an overlay");
        let all: Vec<_> =
            mount.candidates(std::process::id(), Path::new("/my root/b/../c")).collect();
        for path in ["/t/l,2/a/b/c", "/proc/1/root/t/l,2/a/b/c", "/u/l:1/a/b/c", "/u/l:1/c"] {
            assert!(all.contains(&PathBuf::from(path)), "{path}: {all:#?}");
        }
    }

    #[test]
    fn damaged_escapes_stay_as_they_are() {
        assert_eq!(unescaped(br"a\0"), br"a\0");
        assert_eq!(unescaped(br"\777\040"), br"\777 ");
        assert_eq!(unescaped(br"\"), br"\");
    }

    #[test]
    fn pages_tell_files_apart() {
        let dir = tempfile::tempdir().expect("a folder");
        let [one, two] = ["one", "two"].map(|name| {
            let path = dir.path().join(name);
            fs::write(&path, [7; 3 * PAGE as usize]).expect("written");
            File::open(path).expect("it is there")
        });
        let page = Page::map(&one, PAGE).expect("mapped");
        let start = page.0 as u64;
        let frames =
            Frames::of(std::process::id(), Mapping { start, end: start + PAGE, offset: PAGE });
        if frames.0.is_empty() {
            return; // Not root.
        }
        assert_eq!(frames.are_of(&one), Some(true));
        assert_eq!(frames.are_of(&two), Some(false));
        let mapping = Mapping { start, end: start + PAGE, offset: PAGE };
        let it = mapped(std::process::id(), &two, Path::new("/"), mapping);
        assert!(matches!(it, Mapped::Unknown), "{it:?}");
        let nothing = Mapping { end: start, ..mapping };
        assert!(matches!(mapped(1, &two, Path::new("/"), nothing), Mapped::Shown));
    }
}
