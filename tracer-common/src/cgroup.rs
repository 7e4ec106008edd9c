//! Control groups, as kernel programs name them.
//!
//! A process is in one control group of each hierarchy: in that of version 2, and in those of version 1 that are mounted. One
//! of them says where it is: that of version 2; where that is the root, the one of version 1 that is the farthest below its
//! root, and of several such the one of the hierarchy with the lowest number.

/// Bits of a key that have the number of the hierarchy.
const HIERARCHY_SHIFT: u32 = 56;
/// Hierarchies with this number or a higher one are not told apart; a machine has about ten.
pub const MANY_HIERARCHIES: u32 = 255;

/// A control group: the inode number of its folder, which is unique within a hierarchy, and the number of that (0 for
/// version 2).
#[must_use]
pub const fn key(hierarchy: u32, inode: u64) -> u64 {
    let hierarchy = if hierarchy < MANY_HIERARCHIES { hierarchy } else { MANY_HIERARCHIES };
    (inode & ((1 << HIERARCHY_SHIFT) - 1)) | (hierarchy as u64) << HIERARCHY_SHIFT
}

/// How well a control group of this level below its root says where a process is: the highest rank does. Another one than 0 of
/// version 2 does in any case.
#[must_use]
pub const fn rank(level: u32, hierarchy: u32) -> u64 {
    let below = MANY_HIERARCHIES.saturating_sub(hierarchy);
    (level as u64) << 8 | below as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_group_of_the_first_hierarchy_ranks_highest() {
        let all = [rank(0, 0), rank(1, 9), rank(2, 254), rank(2, 9), rank(2, 3), rank(3, 300)];
        assert!(all.is_sorted());
        assert_eq!(rank(2, 255), rank(2, 4_000));
    }

    #[test]
    fn keys_of_version_2_are_inode_numbers() {
        assert_eq!(key(0, 77), 77);
        assert_ne!(key(1, 77), key(2, 77));
        assert_eq!(key(255, 77), key(256, 77));
    }
}
