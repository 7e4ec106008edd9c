//! Offsets of kernel struct fields, from the BTF of the running kernel.

use std::io;

use aya::Btf as AyaBtf;
use btf_rs::{Btf, Struct, Type};

use super::KernelError;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// What tracer-ebpf/src/globals.rs wants to know of the kernel.
pub struct KernelOffsets(Vec<(&'static str, u32)>);

/// Global of the kernel programs, struct, path to the field.
type Field = (&'static str, &'static str, &'static [&'static str]);

/// Without these nothing can be recorded.
const FIELDS: &[Field] = &[
    ("TASK_PID", "task_struct", &["pid"]),
    ("TASK_TGID", "task_struct", &["tgid"]),
    ("TASK_COMM", "task_struct", &["comm"]),
    ("TASK_EXIT_CODE", "task_struct", &["exit_code"]),
    ("TASK_LEADER", "task_struct", &["group_leader"]),
    ("TASK_SIGNAL", "task_struct", &["signal"]),
    ("SIGNAL_LIVE", "signal_struct", &["live"]),
    ("SIGNAL_FLAGS", "signal_struct", &["flags"]),
    ("SIGNAL_EXIT_CODE", "signal_struct", &["group_exit_code"]),
    ("TASK_RUNTIME", "task_struct", &["se", "sum_exec_runtime"]),
    ("TASK_SYSCALL_STATUS", "task_struct", &["thread_info", "status"]),
    ("TASK_PTRACE", "task_struct", &["ptrace"]),
    ("SIGINFO_CODE", "kernel_siginfo", &["si_code"]),
    ("TASK_FSBASE", "task_struct", &["thread", "fsbase"]),
    ("TASK_START", "task_struct", &["start_boottime"]),
    ("TASK_CRED", "task_struct", &["cred"]),
    ("CRED_UID", "cred", &["uid"]),
    ("CRED_EUID", "cred", &["euid"]),
    ("CRED_SUID", "cred", &["suid"]),
    ("TASK_MM", "task_struct", &["mm"]),
    ("MM_ARG_START", "mm_struct", &["arg_start"]),
    ("MM_ARG_END", "mm_struct", &["arg_end"]),
];

/// Fields that a kernel may lack, or have in modules: a global that says whether all of them are known, what is not
/// recorded if not, and the fields.
const OPTIONAL: &[(&str, &str, &[Field])] = &[
    (
        "FILES_KNOWN",
        "what file descriptors refer to",
        &[
            ("TASK_FILES", "task_struct", &["files"]),
            ("TASK_FS", "task_struct", &["fs"]),
            ("FILES_FDT", "files_struct", &["fdt"]),
            ("FDTABLE_MAX", "fdtable", &["max_fds"]),
            ("FDTABLE_FD", "fdtable", &["fd"]),
            ("FS_ROOT", "fs_struct", &["root"]),
            ("FS_PWD", "fs_struct", &["pwd"]),
            ("FILE_PATH", "file", &["f_path"]),
            ("FILE_PRIVATE", "file", &["private_data"]),
            ("DENTRY_HASH", "dentry", &["d_hash"]),
            ("DENTRY_PARENT", "dentry", &["d_parent"]),
            ("DENTRY_NAME", "dentry", &["d_name"]),
            ("DENTRY_INODE", "dentry", &["d_inode"]),
            ("INODE_MODE", "inode", &["i_mode"]),
            ("INODE_INO", "inode", &["i_ino"]),
            ("INODE_SB", "inode", &["i_sb"]),
            ("SB_MAGIC", "super_block", &["s_magic"]),
            ("MOUNT_MNT", "mount", &["mnt"]),
            ("MOUNT_PARENT", "mount", &["mnt_parent"]),
            ("MOUNT_POINT", "mount", &["mnt_mountpoint"]),
            ("MNT_ROOT", "vfsmount", &["mnt_root"]),
        ],
    ),
    (
        "SOCKETS_KNOWN",
        "addresses of sockets",
        &[
            ("SOCKET_SK", "socket", &["sk"]),
            ("SOCKET_INODE", "socket_alloc", &["vfs_inode"]),
            ("SK_FAMILY", "sock", &["__sk_common", "skc_family"]),
            ("SK_REMOTE", "sock", &["__sk_common", "skc_daddr"]),
            ("SK_LOCAL", "sock", &["__sk_common", "skc_rcv_saddr"]),
            ("SK_REMOTE_PORT", "sock", &["__sk_common", "skc_dport"]),
            ("SK_LOCAL_PORT", "sock", &["__sk_common", "skc_num"]),
            ("SK_PROTOCOL", "sock", &["sk_protocol"]),
            ("SK_SOCKET", "sock", &["sk_socket"]),
        ],
    ),
    (
        "IPV6_KNOWN",
        "addresses of IPv6 sockets",
        &[
            ("SK_REMOTE6", "sock", &["__sk_common", "skc_v6_daddr"]),
            ("SK_LOCAL6", "sock", &["__sk_common", "skc_v6_rcv_saddr"]),
        ],
    ),
    (
        "UNIX_KNOWN",
        "addresses of Unix sockets",
        &[
            ("UNIX_ADDR", "unix_sock", &["addr"]),
            ("UNIX_PEER", "unix_sock", &["peer"]),
            ("UNIX_ADDRESS_LEN", "unix_address", &["len"]),
            ("UNIX_ADDRESS_NAME", "unix_address", &["name"]),
        ],
    ),
    ("NETLINK_KNOWN", "ports of netlink sockets", &[("NETLINK_PORT", "netlink_sock", &["portid"])]),
    (
        "RUN_DELAY_KNOWN",
        "when a woken thread is put on a run queue",
        &[
            ("TASK_RUN_DELAY", "task_struct", &["sched_info", "run_delay"]),
            ("TASK_LAST_QUEUED", "task_struct", &["sched_info", "last_queued"]),
            ("TASK_ARRIVALS", "task_struct", &["sched_info", "pcount"]),
            ("CFS_RQ_RQ", "cfs_rq", &["rq"]),
            ("RQ_CLOCK", "rq", &["clock"]),
        ],
    ),
    (
        "CGROUPS_KNOWN",
        "control groups",
        &[
            ("TASK_CGROUPS", "task_struct", &["cgroups"]),
            ("CSS_SET_GROUP", "css_set", &["dfl_cgrp"]),
            ("CSS_SET_LINKS", "css_set", &["cgrp_links"]),
            ("LINK_GROUP", "cgrp_cset_link", &["cgrp"]),
            ("LINK_NEXT", "cgrp_cset_link", &["cgrp_link"]),
            ("CGROUP_LEVEL", "cgroup", &["level"]),
            ("CGROUP_KN", "cgroup", &["kn"]),
            ("CGROUP_ROOT", "cgroup", &["root"]),
            ("ROOT_HIERARCHY", "cgroup_root", &["hierarchy_id"]),
            ("KN_ID", "kernfs_node", &["id"]),
        ],
    ),
    (
        "BINPRM_KNOWN",
        "what execve runs, in full",
        &[
            ("BINPRM_FILENAME", "linux_binprm", &["filename"]),
            ("BINPRM_FILE", "linux_binprm", &["file"]),
        ],
    ),
];

/// Global of the kernel programs, struct, path to the field, and bits of the unit that its offset is in: fields that
/// not every kernel has.
const SINGLE: &[(&str, &str, &[&str], u32)] = &[
    ("TASK_IN_IOWAIT", "task_struct", &["in_iowait"], 1),
    ("TASK_SECCOMP", "task_struct", &["seccomp", "mode"], 8),
    ("TASK_THROTTLED", "task_struct", &["throttled"], 8),
    ("TASK_CFS_RQ", "task_struct", &["se", "cfs_rq"], 8),
    ("CFS_RQ_THROTTLE_COUNT", "cfs_rq", &["throttle_count"], 8),
];

/// In place of the offset of a field that the kernel does not have.
const ABSENT: u32 = u32::MAX;

impl KernelOffsets {
    /// Reads them.
    ///
    /// # Errors
    /// When there is no BTF, or a field is not where it should be; names the missing field.
    pub fn read() -> Result<Self, KernelError> {
        let bytes = std::fs::read(VMLINUX).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => KernelError::Permission,
            _ => KernelError::Btf(format!("cannot read {VMLINUX}: {e}")),
        })?;
        let btf = Btf::from_bytes(&bytes)
            .map_err(|e| KernelError::Btf(format!("cannot understand {VMLINUX}: {e}")))?;
        let offset = |&(global, start, path): &Field| {
            offset_of(&btf, start, path, 8)
                .map(|offset| (global, offset))
                .ok_or_else(|| KernelError::Btf(format!("no field {start}.{}", path.join("."))))
        };
        let mut globals: Vec<_> = FIELDS.iter().map(offset).collect::<Result<_, _>>()?;
        globals.extend(SINGLE.iter().map(|&(global, start, path, unit)| {
            (global, offset_of(&btf, start, path, unit).unwrap_or(ABSENT))
        }));
        for &(is_known, what, fields) in OPTIONAL {
            match fields.iter().map(offset).collect::<Result<Vec<_>, _>>() {
                Ok(found) => {
                    globals.extend(found);
                    globals.push((is_known, 1));
                }
                Err(error) => tracing::warn!("{what} will not be recorded: {error}"),
            }
        }
        Ok(Self(globals))
    }

    /// As on a kernel that does not have this optional field.
    #[cfg(test)]
    pub fn without(mut self, global: &str) -> Self {
        let mut fields = self.0.iter_mut();
        let field = fields.find(|(name, _)| *name == global).expect("an optional field");
        field.1 = if global.ends_with("_KNOWN") { 0 } else { ABSENT };
        self
    }

    /// Global of the kernel programs and its value.
    pub fn globals(&self) -> impl Iterator<Item = (&'static str, &u32)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }
}

/// Whether the kernel has this tracepoint with type information.
pub fn has_tracepoint(btf: &AyaBtf, name: &str) -> bool {
    let name = format!("btf_trace_{name}");
    btf.id_by_type_name_kind(&name, aya_obj::btf::BtfKind::Typedef).is_ok()
}

/// Offset of a field in units of so many bits, if it begins with one.
fn offset_of(btf: &Btf, start: &str, path: &[&str], unit: u32) -> Option<u32> {
    let mut current = btf.resolve_types_by_name(start).ok()?.into_iter().find_map(members)?;
    let mut bits = 0;
    for (i, name) in path.iter().enumerate() {
        let (offset, ty) = member(btf, &current, name)?;
        bits += offset;
        if i + 1 < path.len() {
            current = members(ty)?;
        }
    }
    (bits % unit == 0).then_some(bits / unit)
}

fn members(ty: Type) -> Option<Struct> {
    match ty {
        Type::Struct(s) | Type::Union(s) => Some(s),
        _ => None,
    }
}

/// Offset in bits and type of a member; looks into anonymous structs and unions, too.
fn member(btf: &Btf, within: &Struct, name: &str) -> Option<(u32, Type)> {
    for member in &within.members {
        let ty = || btf.resolve_chained_type(member).ok();
        match btf.resolve_name(member) {
            Ok(found) if found == name => return Some((member.bit_offset(), ty()?)),
            Ok(found) if !found.is_empty() => {}
            _ => {
                if let Some(anonymous) = ty().and_then(members)
                    && let Some((offset, ty)) = self::member(btf, &anonymous, name)
                {
                    return Some((member.bit_offset() + offset, ty));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_running_kernel() {
        let offsets = KernelOffsets::read().expect("this kernel has BTF");
        let get = |name| offsets.globals().find(|(n, _)| *n == name).map(|(_, v)| *v);
        for &(is_known, what, _) in OPTIONAL {
            assert_eq!(get(is_known), Some(1), "{what}");
        }
        // Linux has had it since 4.14, as one bit among others.
        assert!(get("TASK_IN_IOWAIT").is_some_and(|bit| bit != ABSENT));
        // pid and tgid are neighbours in every kernel so far.
        assert_eq!(get("TASK_PID").map(|p| p + 4), get("TASK_TGID"));
    }

    #[test]
    fn a_missing_field_is_named() {
        let btf = Btf::from_bytes(&std::fs::read(VMLINUX).expect("BTF")).expect("valid BTF");
        assert_eq!(offset_of(&btf, "task_struct", &["no_such_field"], 8), None);
        assert_eq!(offset_of(&btf, "no_such_struct", &["pid"], 8), None);
    }
}
