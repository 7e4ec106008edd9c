//! How a file is shown: as `strace -yy` does, which for all but sockets is what `readlink /proc/PID/fd/N` gives.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::libc;
use tracer_common::calls::{FILE_CUT, FILE_DELETED, FILE_OF_KERNEL};
use tracer_common::events::SysFile;

// include/uapi/linux/magic.h
const PIPEFS: u32 = 0x5049_5045;
const SOCKFS: u32 = 0x534f_434b;
const ANON_INODE: u32 = 0x0904_1934;
const NSFS: u32 = 0x6e73_6673;
const PIDFS: u32 = 0x5049_4446;
const TMPFS: u32 = 0x0102_1994;
const HUGETLBFS: u32 = 0x9584_58f6;
const DMA_BUF: u32 = 0x444d_4142;

const AF_UNIX: u16 = libc::AF_UNIX as u16;
const AF_INET: u16 = libc::AF_INET as u16;
const AF_INET6: u16 = libc::AF_INET6 as u16;
const AF_NETLINK: u16 = libc::AF_NETLINK as u16;

/// Families of netlink sockets by number, include/uapi/linux/netlink.h.
const NETLINK: &[&str] = &[
    "ROUTE",
    "UNUSED",
    "USERSOCK",
    "FIREWALL",
    "SOCK_DIAG",
    "NFLOG",
    "XFRM",
    "SELINUX",
    "ISCSI",
    "AUDIT",
    "FIB_LOOKUP",
    "CONNECTOR",
    "NETFILTER",
    "IP6_FW",
    "DNRTMSG",
    "KOBJECT_UEVENT",
    "GENERIC",
    "",
    "SCSITRANSPORT",
    "ECRYPTFS",
    "RDMA",
    "CRYPTO",
    "SMC",
];

/// The text for a file; `tail` is what follows the record.
pub fn shown(head: &SysFile, tail: &[u8]) -> String {
    let (names, rest) = tail.split_at(tail.len().min(head.names as usize));
    let address = &rest[..rest.len().min(head.address as usize)];
    let names: Vec<_> = names.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
    // Behind the last zero is nothing.
    let names = &names[..names.len().saturating_sub(1)];
    if head.flags & FILE_OF_KERNEL != 0 {
        return of_kernel(head, names.first().map_or("", |name| name), address);
    }
    let mut path = String::new();
    if head.flags & FILE_CUT != 0 {
        path.push_str("...");
    }
    for name in names.iter().rev() {
        path.push('/');
        path.push_str(name);
    }
    if path.is_empty() {
        path.push('/');
    }
    if head.flags & FILE_DELETED != 0 {
        path.push_str(" (deleted)");
    }
    path
}

fn of_kernel(head: &SysFile, name: &str, address: &[u8]) -> String {
    let ino = head.ino;
    match head.magic {
        SOCKFS => socket(head, name, address),
        PIPEFS => format!("pipe:[{ino}]"),
        ANON_INODE => format!("anon_inode:{name}"),
        PIDFS => "anon_inode:[pidfd]".to_owned(),
        NSFS => format!("nsfs:[{ino}]"),
        DMA_BUF => format!("/dmabuf:{name}"),
        TMPFS | HUGETLBFS => format!("/{name} (deleted)"),
        _ => format!("{name}:[{ino}]"),
    }
}

/// The file system of sockets names each by its protocol.
fn socket(head: &SysFile, protocol: &str, address: &[u8]) -> String {
    let ino = head.ino;
    let protocol = if protocol.is_empty() { "socket" } else { protocol };
    let mut inside = String::new();
    match head.family {
        // The port of a raw socket is the number of its protocol.
        AF_INET | AF_INET6 if head.local_port != 0 && !protocol.starts_with("RAW") => {
            put(&mut inside, format_args!("{}", ip(head, head.local, head.local_port)));
            if head.remote_port != 0 {
                put(&mut inside, format_args!("->{}", ip(head, head.remote, head.remote_port)));
            }
        }
        AF_UNIX => {
            put(&mut inside, format_args!("{ino}"));
            if head.peer != 0 {
                put(&mut inside, format_args!("->{}", head.peer));
            }
            match address {
                [] => {}
                [0, name @ ..] => put(&mut inside, format_args!(",@\"{}\"", text(name))),
                path => put(&mut inside, format_args!(",\"{}\"", text(path))),
            }
        }
        AF_NETLINK if head.peer != 0 => {
            match NETLINK.get(usize::from(head.protocol)).filter(|name| !name.is_empty()) {
                Some(name) => inside.push_str(name),
                None => put(&mut inside, format_args!("{}", head.protocol)),
            }
            put(&mut inside, format_args!(":{}", head.peer));
        }
        _ => put(&mut inside, format_args!("{ino}")),
    }
    format!("{protocol}:[{inside}]")
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(what);
}

fn ip(head: &SysFile, address: [u8; 16], port: u32) -> SocketAddr {
    let address = match head.family {
        AF_INET => {
            let [a, b, c, d, ..] = address;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        _ => IpAddr::V6(Ipv6Addr::from(address)),
    };
    SocketAddr::new(address, port as u16)
}

/// The path of a Unix socket, or its name: up to a zero, if there is one.
fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end])
}

#[cfg(test)]
mod tests {
    use tracer_common::{
        EventKind, Header,
        calls::{FILE_CUT, FILE_DELETED, FILE_OF_KERNEL},
    };

    use super::*;

    fn head() -> SysFile {
        SysFile {
            header: Header { ts: 1, kind: EventKind::SysFile as u16, cpu: 0, tid: 7 },
            id: 1,
            ino: 12,
            peer: 0,
            magic: 0xef53,
            mode: 0o100_644,
            flags: 0,
            names: 0,
            address: 0,
            family: 0,
            protocol: 0,
            local: [0; 16],
            remote: [0; 16],
            local_port: 0,
            remote_port: 0,
        }
    }

    fn show(head: SysFile, names: &str, address: &[u8]) -> String {
        let mut tail = names.as_bytes().to_vec();
        tail.extend_from_slice(address);
        let (names, address) = (names.len() as u32, address.len() as u32);
        shown(&SysFile { names, address, ..head }, &tail)
    }

    #[test]
    fn paths_are_put_together_from_the_innermost_name_outwards() {
        assert_eq!(show(head(), "passwd\0etc\0", b""), "/etc/passwd");
        assert_eq!(show(head(), "", b""), "/");
        let gone = SysFile { flags: FILE_DELETED, ..head() };
        assert_eq!(show(gone, "x\0tmp\0", b""), "/tmp/x (deleted)");
        let cut = SysFile { flags: FILE_CUT, ..head() };
        assert_eq!(show(cut, "x\0deep\0", b""), ".../deep/x");
    }

    #[test]
    fn what_is_in_no_folder_has_the_names_of_the_kernel() {
        let of = |magic| SysFile { flags: FILE_OF_KERNEL, magic, ..head() };
        assert_eq!(show(of(PIPEFS), "\0", b""), "pipe:[12]");
        assert_eq!(show(of(ANON_INODE), "[eventpoll]\0", b""), "anon_inode:[eventpoll]");
        assert_eq!(show(of(TMPFS), "memfd:x\0", b""), "/memfd:x (deleted)");
    }

    #[test]
    fn sockets_have_their_ends() {
        let socket = SysFile { flags: FILE_OF_KERNEL, magic: SOCKFS, ..head() };
        let mut local = [0; 16];
        local[..4].copy_from_slice(&[127, 0, 0, 1]);
        let tcp = SysFile { family: AF_INET, local, remote: local, ..socket };
        assert_eq!(show(tcp, "TCP\0", b""), "TCP:[12]");
        let tcp = SysFile { local_port: 80, ..tcp };
        assert_eq!(show(tcp, "TCP\0", b""), "TCP:[127.0.0.1:80]");
        let tcp = SysFile { remote_port: 5000, ..tcp };
        assert_eq!(show(tcp, "TCP\0", b""), "TCP:[127.0.0.1:80->127.0.0.1:5000]");
        let local = Ipv6Addr::LOCALHOST.octets();
        let udp = SysFile { family: AF_INET6, local, local_port: 53, ..socket };
        assert_eq!(show(udp, "UDPv6\0", b""), "UDPv6:[[::1]:53]");
        let unix = SysFile { family: AF_UNIX, ..socket };
        assert_eq!(show(unix, "UNIX-STREAM\0", b""), "UNIX-STREAM:[12]");
        let unix = SysFile { peer: 13, ..unix };
        assert_eq!(show(unix, "UNIX\0", b"/run/x\0"), "UNIX:[12->13,\"/run/x\"]");
        assert_eq!(show(unix, "UNIX\0", b"\0x"), "UNIX:[12->13,@\"x\"]");
        let netlink = SysFile { family: AF_NETLINK, peer: 99, ..socket };
        assert_eq!(show(netlink, "NETLINK\0", b""), "NETLINK:[ROUTE:99]");
    }

    #[test]
    fn lengths_that_cannot_be_are_no_harm() {
        let wrong = SysFile { names: 1000, address: 1000, ..head() };
        assert_eq!(shown(&wrong, b"a\0b"), "/a");
    }
}
