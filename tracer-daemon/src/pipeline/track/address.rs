//! Texts among the arguments of a system call: paths, and addresses of sockets in the kernel's form
//! (`struct sockaddr`, socket(7)).

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use nix::libc;
use tracer_common::calls::{ARGUMENT_ADDR, ARGUMENT_WORDS};
use tracer_common::events::SysText;

/// Longest path that is known as a whole, in bytes.
const MAX_PATH: usize = ARGUMENT_WORDS * 8 - 1;

/// The text for an argument; `bytes` is what follows the record. None for an address that names nothing.
pub fn text(head: &SysText, bytes: &[u8]) -> Option<String> {
    let len = head.len as usize;
    if head.what == ARGUMENT_ADDR {
        return address(bytes.get(..len).unwrap_or(bytes));
    }
    // The last byte is the zero, put there by whoever cut it.
    let path = bytes.get(..len.saturating_sub(1)).unwrap_or(bytes);
    if path.len() < MAX_PATH {
        return Some(String::from_utf8_lossy(path).into_owned());
    }
    let whole = match std::str::from_utf8(path) {
        // Not a character that was cut in two.
        Err(error) if error.error_len().is_none() => &path[..error.valid_up_to()],
        _ => path,
    };
    Some(format!("{}...", String::from_utf8_lossy(whole)))
}

fn address(bytes: &[u8]) -> Option<String> {
    let (family, rest) = bytes.split_first_chunk()?;
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_UNIX => unix(rest),
        libc::AF_INET => {
            let port = u16::from_be_bytes(*rest.first_chunk()?);
            let ip: [u8; 4] = rest.get(2..6)?.try_into().ok()?;
            Some(SocketAddr::from((Ipv4Addr::from(ip), port)).to_string())
        }
        libc::AF_INET6 => {
            let port = u16::from_be_bytes(*rest.first_chunk()?);
            let ip: [u8; 16] = rest.get(6..22)?.try_into().ok()?;
            let scope = rest.get(22..26).and_then(|scope| scope.try_into().ok());
            let scope = scope.map_or(0, u32::from_ne_bytes);
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).to_string())
        }
        libc::AF_NETLINK => {
            let port = u32::from_ne_bytes(rest.get(2..6)?.try_into().ok()?);
            let groups = u32::from_ne_bytes(rest.get(6..10)?.try_into().ok()?);
            Some(format!("netlink:{port}:{groups:08x}"))
        }
        libc::AF_UNSPEC => Some("unspecified".to_owned()),
        family => Some(format!("family {family}")),
    }
}

/// A path, or a name in no folder, which begins with a zero; none for a socket without one.
fn unix(path: &[u8]) -> Option<String> {
    let until_zero = |bytes: &[u8]| -> String {
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    match path {
        [] => None,
        // The length says where a name ends; zeroes may be part of it.
        [0, name @ ..] => {
            let shown: Cow<'_, str> = String::from_utf8_lossy(name);
            Some(format!("@{}", shown.trim_end_matches('\0').replace('\0', "\\0")))
        }
        path => Some(until_zero(path)),
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::{
        EventKind, Header,
        calls::ARGUMENT_FIRST,
        calls::{ARGUMENT_ADDR, ARGUMENT_WORDS},
    };

    use super::*;

    fn shown(what: u32, len: usize, bytes: &[u8]) -> Option<String> {
        let header = Header { ts: 1, kind: EventKind::SysText as u16, cpu: 0, tid: 7 };
        let mut tail = [0; ARGUMENT_WORDS * 8];
        tail[..bytes.len()].copy_from_slice(bytes);
        text(&SysText { header, tgid: 7, what, len: len as u32, reserved: 0 }, &tail)
    }

    fn addr(bytes: &[u8]) -> Option<String> {
        shown(ARGUMENT_ADDR, bytes.len(), bytes)
    }

    #[test]
    fn paths_are_as_the_program_has_them() {
        assert_eq!(shown(ARGUMENT_FIRST, 6, b"/etc/\0").as_deref(), Some("/etc/"));
        assert_eq!(shown(ARGUMENT_FIRST, 1, b"\0").as_deref(), Some(""));
        let long = "ä".repeat(127) + "äx";
        let cut = shown(ARGUMENT_FIRST, 256, &long.as_bytes()[..255]);
        assert_eq!(cut, Some("ä".repeat(127) + "..."));
    }

    #[test]
    fn addresses_have_the_usual_form() {
        assert_eq!(addr(&[2, 0, 0, 80, 127, 0, 0, 1]).as_deref(), Some("127.0.0.1:80"));
        let mut v6 = vec![10, 0, 1, 187, 0, 0, 0, 0];
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        assert_eq!(addr(&v6).as_deref(), Some("[::1]:443"));
        v6.extend([3, 0, 0, 0]);
        assert_eq!(addr(&v6).as_deref(), Some("[::1%3]:443"));
        assert_eq!(addr(b"\x01\0/run/x\0junk").as_deref(), Some("/run/x"));
        assert_eq!(addr(b"\x01\0\0abc").as_deref(), Some("@abc"));
        assert_eq!(addr(b"\x01\0"), None);
        assert_eq!(
            addr(&[16, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0]).as_deref(),
            Some("netlink:5:00000001")
        );
        for len in 0..7 {
            addr(&[2, 0, 0, 80, 127, 0, 0][..len]);
        }
    }
}
