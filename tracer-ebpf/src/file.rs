//! What file descriptors refer to. An event carries only a number for it, a hash of what makes it a different
//! one; a number that user space was not told of lately is described in the ring ahead of the event.

use core::{
    mem::MaybeUninit,
    ptr::{addr_of_mut, read_volatile, write_volatile},
};

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};
use tracer_common::{
    calls::AT_FDCWD,
    calls::{FILE_CUT, FILE_DELETED, FILE_OF_KERNEL, FILE_REMEMBERED, FILE_WORDS},
    events::{ExecNames, NAMES_CUT, SchedExec, SysFile},
};

use crate::{
    emit::{emit_tail, now},
    globals,
    maps::FILES_SEEN,
    stack::mix,
    task::Task,
};

/// Most names and mounts on the way from a file to the root.
const MAX_STEPS: usize = 64;
/// Most names of a path of which a new one is noticed at once; that of a folder further out when the file is
/// described again.
const MAX_RENAMED: usize = 8;
/// Names begin in the tail up to here, and none is longer than [`MAX_NAME`].
// Of 64 bits, like all that is counted here: the verifier loses a limit when the compiler widens a number.
const NAMES: u64 = 512;
/// linux/limits.h, NAME_MAX
const MAX_NAME: u64 = 255;
/// What is left for the address of a Unix socket behind the names: sockaddr_un.sun_path.
const MAX_ADDRESS: u64 = 108;

// include/uapi/linux/stat.h, include/linux/socket.h
const S_IFMT: u32 = 0o170_000;
const S_IFSOCK: u32 = 0o140_000;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const AF_NETLINK: u16 = 16;

/// A place in the tree of files.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Path {
    mnt: u64,
    dentry: u64,
}

/// What is read of a dentry.
#[derive(Clone, Copy, Default)]
struct Dentry {
    /// Whether it is in no folder any more.
    unhashed: bool,
    parent: u64,
}

/// What is read of a file to tell it from others.
#[derive(Default)]
struct File {
    root: Path,
    path: Path,
    dentry: Dentry,
    inode: u64,
    ino: u64,
    mode: u32,
    /// Of a socket: its struct sock.
    sk: u64,
    socket: Socket,
}

/// What is read of a socket.
#[derive(Clone, Copy, Default)]
struct Socket {
    family: u16,
    local_port: u32,
    remote_port: u32,
    local: [u64; 2],
    remote: [u64; 2],
    peer: u64,
    /// struct unix_address
    address: u64,
}

/// Makes known to user space what a file descriptor of the current process refers to, and returns its number;
/// 0 if that is nothing.
#[inline(always)]
pub fn number(fd: i32) -> u64 {
    if globals::files_known() == 0 || (fd < 0 && fd != AT_FDCWD) { 0 } else { file_number(fd) }
}

/// A function of its own that others could call, too: such a one the
/// verifier follows once, and not anew on each way that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn file_number(fd: i32) -> u64 {
    let mut found = File::default();
    match find(fd, &mut found) {
        Some(()) => told(&found),
        None => 0,
    }
}

#[inline(always)]
fn find(fd: i32, found: &mut File) -> Option<()> {
    let task = Task::current();
    let fs = task.fs();
    if fs == 0 {
        return None;
    }
    found.root = read(fs, globals::fs_root())?;
    let mut file = 0;
    if fd == AT_FDCWD {
        found.path = read(fs, globals::fs_pwd())?;
    } else {
        let files = task.files();
        if files == 0 {
            return None;
        }
        let table: u64 = read(files, globals::files_fdt())?;
        let len: u32 = read(table, globals::fdtable_max())?;
        if fd as u32 >= len {
            return None;
        }
        let slots: u64 = read(table, globals::fdtable_fd())?;
        file = read(slots, fd as u32 as usize * 8)?;
        if file == 0 {
            return None;
        }
        found.path = read(file, globals::file_path())?;
    }
    found.dentry = dentry(found.path.dentry)?;
    found.inode = read(found.path.dentry, globals::dentry_inode())?;
    found.ino = read(found.inode, globals::inode_ino())?;
    found.mode = u32::from(read::<u16>(found.inode, globals::inode_mode())?);
    if found.mode & S_IFMT == S_IFSOCK && file != 0 && globals::sockets_known() != 0 {
        // struct socket; none of a path that was opened with O_PATH.
        let socket: u64 = read(file, globals::file_private())?;
        found.sk = zeroed(socket, globals::socket_sk());
        if found.sk != 0 {
            look_into(found.sk, &mut found.socket);
        }
    }
    Some(())
}

/// What is read of a dentry.
#[inline(always)]
fn dentry(at: u64) -> Option<Dentry> {
    // struct hlist_bl_node { next, pprev }: without pprev it is in no list.
    let pprev: u64 = read(at, globals::dentry_hash() + 8)?;
    let parent: u64 = read(at, globals::dentry_parent())?;
    Some(Dentry { unhashed: pprev == 0, parent })
}

/// A hash of the names of a dentry and of the folders that it is in: any of them may get another one.
#[inline(always)]
fn names(mut at: u64) -> u64 {
    let mut hash = 0;
    for _ in 0..MAX_RENAMED {
        // qstr.hash_len of dentry.d_name
        let (parent, name): (u64, u64) = if globals::dentry_name() == globals::dentry_parent() + 8 {
            let [parent, name]: [u64; 2] = zeroed(at, globals::dentry_parent());
            (parent, name)
        } else {
            (zeroed(at, globals::dentry_parent()), zeroed(at, globals::dentry_name()))
        };
        hash = mix(hash ^ at, name);
        if parent == at || parent == 0 {
            break;
        }
        at = parent;
    }
    hash
}

#[inline(always)]
fn look_into(sk: u64, socket: &mut Socket) {
    socket.family = zeroed(sk, globals::sk_family());
    match socket.family {
        AF_INET => {
            socket.local[0] = zeroed::<u32>(sk, globals::sk_local()).into();
            socket.remote[0] = zeroed::<u32>(sk, globals::sk_remote()).into();
            ports(sk, socket);
        }
        AF_INET6 if globals::ipv6_known() != 0 => {
            socket.local = zeroed(sk, globals::sk_local6());
            socket.remote = zeroed(sk, globals::sk_remote6());
            ports(sk, socket);
        }
        AF_UNIX if globals::unix_known() != 0 => {
            socket.address = zeroed(sk, globals::unix_addr());
            // Without a peer nothing can be read, which gives 0.
            let peer: u64 = zeroed(sk, globals::unix_peer());
            let of_peer: u64 = zeroed(peer, globals::sk_socket());
            socket.peer = zeroed(of_peer, globals::socket_inode() + globals::inode_ino());
        }
        AF_NETLINK if globals::netlink_known() != 0 => {
            socket.peer = zeroed::<u32>(sk, globals::netlink_port()).into();
        }
        _ => {}
    }
}

#[inline(always)]
fn ports(sk: u64, socket: &mut Socket) {
    socket.local_port = zeroed::<u16>(sk, globals::sk_local_port()).into();
    socket.remote_port = u16::from_be(zeroed(sk, globals::sk_remote_port())).into();
}

/// Its number, known to user space.
#[inline(always)]
fn told(file: &File) -> u64 {
    let mut id = mix(file.path.mnt, names(file.path.dentry));
    id = mix(id, file.ino ^ u64::from(file.dentry.unhashed) << 63);
    // Pointers are multiples of 8.
    id = mix(id, file.root.dentry ^ file.root.mnt.rotate_left(32));
    if file.sk != 0 {
        let socket = &file.socket;
        id = mix(id, file.sk ^ u64::from(socket.family));
        id = mix(id, u64::from(socket.local_port) << 32 | u64::from(socket.remote_port));
        id = mix(id, socket.local[0] ^ socket.local[1].rotate_left(32));
        id = mix(id, socket.remote[0] ^ socket.remote[1].rotate_left(32));
        id = mix(id, socket.peer ^ socket.address);
    }
    // 0 stands for no file.
    let id = id | 1;
    let now = now();
    // SAFETY: a value that is 8 bytes, written as a whole.
    if unsafe { FILES_SEEN.get(&id) }.is_some_and(|told| now.wrapping_sub(*told) < FILE_REMEMBERED)
    {
        return id;
    }
    if describe(file, id) {
        // Without room in the map it is described once more.
        let _ = FILES_SEEN.insert(id, now, 0);
    }
    id
}

#[inline(always)]
fn describe(file: &File, id: u64) -> bool {
    emit_tail::<SysFile, [u64; FILE_WORDS]>(|header, record, tail| {
        for i in 0..FILE_WORDS {
            // SAFETY: room that was reserved. Volatile, or the compiler makes a memset of it, which there is not.
            unsafe { write_volatile(addr_of_mut!((*tail)[i]), 0) };
        }
        let tail = tail.cast::<u8>();
        let (mut flags, names) =
            walk::<MAX_STEPS, NAMES>(file.path, file.root, record.cast(), tail);
        if file.dentry.unhashed && file.dentry.parent != file.path.dentry {
            flags |= FILE_DELETED;
        }
        let address = if file.socket.address == 0 { 0 } else { address(file, tail, names) };
        let sb: u64 = zeroed(file.inode, globals::inode_sb());
        let magic: u64 = zeroed(sb, globals::sb_magic());
        let protocol: u16 = zeroed(file.sk, globals::sk_protocol());
        let socket = &file.socket;
        // SAFETY: as above; and 16 bytes are 16 bytes.
        unsafe {
            record.write(SysFile {
                header,
                id,
                ino: file.ino,
                peer: socket.peer,
                magic: magic as u32,
                mode: file.mode,
                flags,
                names: names as u32,
                address: address as u32,
                family: socket.family,
                protocol,
                local: core::mem::transmute::<[u64; 2], [u8; 16]>(socket.local),
                remote: core::mem::transmute::<[u64; 2], [u8; 16]>(socket.remote),
                local_port: socket.local_port,
                remote_port: socket.remote_port,
            });
        }
    })
}

/// Writes the names from a file to a root, each with a zero behind it, to memory of zeroes that has room for a name behind the
/// first `LIMIT` bytes. Returns flags, and how many bytes they take.
///
/// Where it has got to is kept in the record itself, as [`Way`]: of what is read from there the verifier knows
/// nothing, so that to it all ways to a step are alike. Else it would follow every combination.
#[inline(always)]
fn walk<const STEPS: usize, const LIMIT: u64>(
    from: Path,
    root: Path,
    way: *mut Way,
    tail: *mut u8,
) -> (u32, u64) {
    let way = Kept(way);
    way.set(from.mnt, from.dentry, 0);
    for step in 0..STEPS {
        let (mnt, at, len) = way.get();
        if at == root.dentry && mnt == root.mnt {
            return (0, len);
        }
        if len > LIMIT {
            break;
        }
        if at == zeroed::<u64>(mnt, globals::mnt_root()) {
            let mount = mnt.wrapping_sub(globals::mount_mnt() as u64);
            let above: u64 = zeroed(mount, globals::mount_parent());
            if above == mount || above == 0 {
                // The root of all mounts, of a process whose own root is elsewhere.
                return (0, len);
            }
            let mnt = above.wrapping_add(globals::mount_mnt() as u64);
            way.set(mnt, zeroed(mount, globals::mount_point()), len);
            continue;
        }
        let size = zeroed::<u64>(at, globals::dentry_name()) >> 32 & MAX_NAME;
        let name: u64 = zeroed(at, globals::dentry_name() + 8);
        // SAFETY: both limits together are within the tail; the helper checks the address that it reads.
        unsafe {
            generated::bpf_probe_read_kernel(
                tail.add(len as usize).cast(),
                size as u32,
                core::ptr::with_exposed_provenance(name as usize),
            );
        }
        let len = len + size + 1;
        let parent: u64 = zeroed(at, globals::dentry_parent());
        if parent == at || parent == 0 {
            return (if step == 0 { FILE_OF_KERNEL } else { FILE_CUT }, len);
        }
        way.set(mnt, parent, len);
    }
    (FILE_CUT, way.get().2)
}

/// Writes the names of the path of a struct file as [`walk`] does, up to the root of its mount namespace, which is how the
/// kernel shows the executable of a process to others. Returns how many bytes they take, [`NAMES_CUT`] if there is no end
/// of them and 0 if they cannot be read.
#[inline(always)]
pub fn path_of<const STEPS: usize, const LIMIT: u64>(
    file: u64,
    way: *mut Way,
    tail: *mut u8,
) -> u32 {
    if globals::files_known() == 0 || file == 0 {
        return 0;
    }
    let from: Path = zeroed(file, globals::file_path());
    if from.dentry == 0 {
        return 0;
    }
    let (flags, len) = walk::<STEPS, LIMIT>(from, Path::default(), way, tail);
    if flags & FILE_CUT != 0 { NAMES_CUT } else { len as u32 }
}

/// How far a walk has got.
#[repr(C)]
pub struct Way {
    mnt: u64,
    at: u64,
    len: u64,
}

const _: () = assert!(
    size_of::<Way>() <= size_of::<SysFile>()
        && size_of::<Way>() <= size_of::<SchedExec>()
        && size_of::<Way>() <= size_of::<ExecNames>()
);

/// A [`Way`] in memory that the compiler may not keep in registers.
#[derive(Clone, Copy)]
struct Kept(*mut Way);

impl Kept {
    #[inline(always)]
    fn set(self, mnt: u64, at: u64, len: u64) {
        // SAFETY: room that was reserved for a larger record.
        unsafe {
            write_volatile(addr_of_mut!((*self.0).mnt), mnt);
            write_volatile(addr_of_mut!((*self.0).at), at);
            write_volatile(addr_of_mut!((*self.0).len), len);
        }
    }

    #[inline(always)]
    fn get(self) -> (u64, u64, u64) {
        // SAFETY: as above; it was written before.
        unsafe {
            let mnt = read_volatile(addr_of_mut!((*self.0).mnt));
            let at = read_volatile(addr_of_mut!((*self.0).at));
            (mnt, at, read_volatile(addr_of_mut!((*self.0).len)))
        }
    }
}

/// Writes the address of a Unix socket behind the names; returns how many bytes it takes.
#[inline(always)]
fn address(file: &File, tail: *mut u8, names: u64) -> u64 {
    let at = file.socket.address;
    let len: u32 = zeroed(at, globals::unix_address_len());
    // Behind sockaddr_un.sun_family.
    let size = u64::from(len).wrapping_sub(2);
    if size > MAX_ADDRESS || names > NAMES {
        return 0;
    }
    let name = at.wrapping_add(globals::unix_address_name() as u64 + 2);
    // SAFETY: as in `walk`.
    let result = unsafe {
        generated::bpf_probe_read_kernel(
            tail.add(names as usize).cast(),
            size as u32,
            core::ptr::with_exposed_provenance(name as usize),
        )
    };
    if result == 0 { size } else { 0 }
}

#[inline(always)]
fn read<T>(address: u64, offset: usize) -> Option<T> {
    let at = address.wrapping_add(offset as u64) as *const T;
    // SAFETY: the helper checks the address and fails if it cannot be read.
    unsafe { bpf_probe_read_kernel(at) }.ok()
}

/// As [`read`], with zeroes for what cannot be read: without branches, of which the verifier would follow all
/// combinations.
#[inline(always)]
pub fn zeroed<T: Copy>(address: u64, offset: usize) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes all of it, zeroes if it cannot read, and is used for integers only.
    unsafe {
        generated::bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            core::ptr::with_exposed_provenance(address.wrapping_add(offset as u64) as usize),
        );
        value.assume_init()
    }
}
