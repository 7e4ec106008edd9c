//! Whose a process is.

/// No user has this id (setreuid(2) takes it for "no change").
pub const UNKNOWN_UID: u32 = u32::MAX;

/// Whose a process with these user ids is: root's, if it is root or can become root again (setresuid(2)), so that a server
/// which is somebody else for a moment stays root's; else that of its saved one.
#[inline(always)]
pub const fn owner(real: u32, effective: u32, saved: u32) -> u32 {
    if real == 0 || effective == 0 { 0 } else { saved }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_become_root_again_is_roots() {
        assert_eq!(owner(7, 7, 7), 7);
        // A file server that opens a file as its client.
        assert_eq!(owner(0, 7, 0), 0);
        assert_eq!(owner(0, 7, 7), 0);
        assert_eq!(owner(7, 7, 0), 0);
        // sudo, before it becomes root altogether.
        assert_eq!(owner(7, 0, 0), 0);
        // A program that runs set-user-id.
        assert_eq!(owner(7, 8, 8), 8);
        assert_eq!(owner(7, 7, 8), 8);
    }
}
