//! Constants of the running kernel, which user space reads from its BTF and sets before load.
//! (Rust has no CO-RE relocations; the verifier sees them as constants of a frozen map.)

use core::ptr;

macro_rules! globals {
    ($( #[doc = $doc:literal] $name:ident, $get:ident; )*) => {
        $(
            #[doc = $doc]
            #[unsafe(no_mangle)]
            static $name: u32 = 0;

            #[doc = $doc]
            #[inline(always)]
            pub fn $get() -> usize {
                // SAFETY: a plain static; volatile, because its value is only known at load.
                (unsafe { ptr::read_volatile(&raw const $name) }) as usize
            }
        )*
    };
}

globals! {
    /// Offset of task_struct.pid, the thread id.
    TASK_PID, task_pid;
    /// Offset of task_struct.tgid, the process id.
    TASK_TGID, task_tgid;
    /// Offset of task_struct.comm.
    TASK_COMM, task_comm;
    /// Offset of task_struct.exit_code.
    TASK_EXIT_CODE, task_exit_code;
    /// Offset of task_struct.group_leader.
    TASK_LEADER, task_leader;
    /// Offset of task_struct.signal.
    TASK_SIGNAL, task_signal;
    /// Offset of signal_struct.live, the number of threads that have not begun to exit.
    SIGNAL_LIVE, signal_live;
    /// Offset of signal_struct.flags.
    SIGNAL_FLAGS, signal_flags;
    /// Offset of signal_struct.group_exit_code.
    SIGNAL_EXIT_CODE, signal_exit_code;
    /// Offset of task_struct.se.sum_exec_runtime.
    TASK_RUNTIME, task_runtime;
    /// Offset of task_struct.thread_info.status.
    TASK_SYSCALL_STATUS, task_syscall_status;
    /// Offset of task_struct.ptrace.
    TASK_PTRACE, task_ptrace;
    /// Offset of task_struct.seccomp.mode, or ABSENT.
    TASK_SECCOMP, task_seccomp;
    /// Offset of kernel_siginfo.si_code.
    SIGINFO_CODE, siginfo_code;
    /// Offset of task_struct.thread.fsbase.
    TASK_FSBASE, task_fsbase;
    /// Offset of task_struct.start_boottime.
    TASK_START, task_start;
    /// Offset of task_struct.cred.
    TASK_CRED, task_cred;
    /// Offset of cred.uid.
    CRED_UID, cred_uid;
    /// Offset of cred.euid.
    CRED_EUID, cred_euid;
    /// Offset of cred.suid.
    CRED_SUID, cred_suid;
    /// Offset of task_struct.mm.
    TASK_MM, task_mm;
    /// Offset of mm_struct.arg_start.
    MM_ARG_START, mm_arg_start;
    /// Offset of mm_struct.arg_end.
    MM_ARG_END, mm_arg_end;
    /// Offset of task_struct.files.
    TASK_FILES, task_files;
    /// Offset of task_struct.fs.
    TASK_FS, task_fs;
    /// Offset of files_struct.fdt.
    FILES_FDT, files_fdt;
    /// Offset of fdtable.max_fds.
    FDTABLE_MAX, fdtable_max;
    /// Offset of fdtable.fd.
    FDTABLE_FD, fdtable_fd;
    /// Offset of fs_struct.root.
    FS_ROOT, fs_root;
    /// Offset of fs_struct.pwd.
    FS_PWD, fs_pwd;
    /// Offset of file.f_path.
    FILE_PATH, file_path;
    /// Offset of file.private_data.
    FILE_PRIVATE, file_private;
    /// Offset of dentry.d_hash.
    DENTRY_HASH, dentry_hash;
    /// Offset of dentry.d_parent.
    DENTRY_PARENT, dentry_parent;
    /// Offset of dentry.d_name.
    DENTRY_NAME, dentry_name;
    /// Offset of dentry.d_inode.
    DENTRY_INODE, dentry_inode;
    /// Offset of inode.i_mode.
    INODE_MODE, inode_mode;
    /// Offset of inode.i_ino.
    INODE_INO, inode_ino;
    /// Offset of inode.i_sb.
    INODE_SB, inode_sb;
    /// Offset of super_block.s_magic.
    SB_MAGIC, sb_magic;
    /// Offset of mount.mnt.
    MOUNT_MNT, mount_mnt;
    /// Offset of mount.mnt_parent.
    MOUNT_PARENT, mount_parent;
    /// Offset of mount.mnt_mountpoint.
    MOUNT_POINT, mount_point;
    /// Offset of vfsmount.mnt_root.
    MNT_ROOT, mnt_root;
    /// 1 if all of these are known, so that file descriptors are looked up.
    FILES_KNOWN, files_known;
    /// Offset of socket.sk.
    SOCKET_SK, socket_sk;
    /// Distance from a socket to its inode (struct socket_alloc).
    SOCKET_INODE, socket_inode;
    /// Offset of sock.__sk_common.skc_family.
    SK_FAMILY, sk_family;
    /// Offset of sock.__sk_common.skc_daddr.
    SK_REMOTE, sk_remote;
    /// Offset of sock.__sk_common.skc_rcv_saddr.
    SK_LOCAL, sk_local;
    /// Offset of sock.__sk_common.skc_dport.
    SK_REMOTE_PORT, sk_remote_port;
    /// Offset of sock.__sk_common.skc_num.
    SK_LOCAL_PORT, sk_local_port;
    /// Offset of sock.sk_protocol.
    SK_PROTOCOL, sk_protocol;
    /// Offset of sock.sk_socket.
    SK_SOCKET, sk_socket;
    /// 1 if all of these are known, so that sockets are looked into.
    SOCKETS_KNOWN, sockets_known;
    /// Offset of sock.__sk_common.skc_v6_daddr.
    SK_REMOTE6, sk_remote6;
    /// Offset of sock.__sk_common.skc_v6_rcv_saddr.
    SK_LOCAL6, sk_local6;
    /// 1 if both of these are known: a kernel may lack IPv6.
    IPV6_KNOWN, ipv6_known;
    /// Offset of unix_sock.addr.
    UNIX_ADDR, unix_addr;
    /// Offset of unix_sock.peer.
    UNIX_PEER, unix_peer;
    /// Offset of unix_address.len.
    UNIX_ADDRESS_LEN, unix_address_len;
    /// Offset of unix_address.name.
    UNIX_ADDRESS_NAME, unix_address_name;
    /// 1 if all of these are known: Unix sockets may be in a module.
    UNIX_KNOWN, unix_known;
    /// Offset of netlink_sock.portid.
    NETLINK_PORT, netlink_port;
    /// 1 if it is known.
    NETLINK_KNOWN, netlink_known;
    /// Offset of linux_binprm.filename.
    BINPRM_FILENAME, binprm_filename;
    /// Offset of linux_binprm.file.
    BINPRM_FILE, binprm_file;
    /// 1 if both of these are known.
    BINPRM_KNOWN, binprm_known;
    /// Offset of task_struct.cgroups.
    TASK_CGROUPS, task_cgroups;
    /// Offset of css_set.dfl_cgrp.
    CSS_SET_GROUP, css_set_group;
    /// Offset of cgroup.kn.
    CGROUP_KN, cgroup_kn;
    /// Offset of css_set.cgrp_links.
    CSS_SET_LINKS, css_set_links;
    /// Offset of cgrp_cset_link.cgrp.
    LINK_GROUP, link_group;
    /// Offset of cgrp_cset_link.cgrp_link.
    LINK_NEXT, link_next;
    /// Offset of cgroup.level.
    CGROUP_LEVEL, cgroup_level;
    /// Offset of cgroup.root.
    CGROUP_ROOT, cgroup_root;
    /// Offset of cgroup_root.hierarchy_id.
    ROOT_HIERARCHY, root_hierarchy;
    /// Offset of kernfs_node.id.
    KN_ID, kn_id;
    /// 1 if these ten are known.
    CGROUPS_KNOWN, cgroups_known;
    /// Offset in bits of task_struct.in_iowait, or ABSENT.
    TASK_IN_IOWAIT, task_in_iowait;
    /// Offset of task_struct.throttled (since Linux 6.18), or ABSENT.
    TASK_THROTTLED, task_throttled;
    /// Offset of task_struct.se.cfs_rq, or ABSENT.
    TASK_CFS_RQ, task_cfs_rq;
    /// Offset of cfs_rq.throttle_count, or ABSENT.
    CFS_RQ_THROTTLE_COUNT, cfs_rq_throttle_count;
    /// Offset of task_struct.sched_info.run_delay.
    TASK_RUN_DELAY, task_run_delay;
    /// Offset of task_struct.sched_info.last_queued.
    TASK_LAST_QUEUED, task_last_queued;
    /// Offset of task_struct.sched_info.pcount.
    TASK_ARRIVALS, task_arrivals;
    /// Offset of cfs_rq.rq.
    CFS_RQ_RQ, cfs_rq_rq;
    /// Offset of rq.clock.
    RQ_CLOCK, rq_clock;
    /// 1 if these five are known.
    RUN_DELAY_KNOWN, run_delay_known;
    /// 1 if PAGE_FAULTS says where page faults are handled.
    PAGE_FAULTS_KNOWN, page_faults_known;
    /// 1 if the interrupt probes are attached, so that a waker can be told from an interrupt.
    INTERRUPTS_KNOWN, interrupts_known;
    /// Whether the kernel has bpf_loop and looks at what that calls only once.
    LOOPS_KNOWN, loops_known;
    /// Bytes of unread records past which user space is woken.
    WAKE_AT, wake_at;
}

/// Offset of a field that this kernel does not have.
pub const ABSENT: usize = u32::MAX as usize;

/// Start and end of the kernel's functions that handle page faults.
#[unsafe(no_mangle)]
static PAGE_FAULTS: [u64; 4] = [0; 4];

/// See [`PAGE_FAULTS`].
#[inline(always)]
pub fn page_faults() -> [u64; 4] {
    // SAFETY: as above.
    unsafe { ptr::read_volatile(&raw const PAGE_FAULTS) }
}
