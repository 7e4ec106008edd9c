//! Texts of the traced process: like a stack, an event carries only a hash of its texts, and a text
//! that is new goes into the ring ahead of the event.

use core::ptr::{addr_of_mut, write_volatile};

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated};
use tracer_common::{
    events::{GoText, TEXT_WORDS},
    target::Target,
};

use crate::{emit::emit_tail, maps::STACKS_SEEN, stack::mix};

/// What is recorded of a text, in bytes.
const MAX: u64 = (TEXT_WORDS * 8) as u64;
/// So that no stack has the number of a text.
const SEED: u64 = 0x7465_7874;

/// Makes the text known to user space, if it is not yet, and returns its number.
// Not inlined: the text is on the stack of a kernel program, which is small.
#[inline(never)]
pub fn number(target: &Target, address: u64, len: u64) -> Result<u64, i32> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let kept = if len > MAX { MAX } else { len } as u32;
    let mut words = [0u64; TEXT_WORDS];
    if kept > 0 {
        // SAFETY: the helper writes no more than the array has, and fails if it cannot read.
        let result = unsafe {
            generated::bpf_probe_read_user(
                words.as_mut_ptr().cast(),
                kept,
                core::ptr::with_exposed_provenance(address as usize),
            )
        };
        if result != 0 {
            return Err(result as i32);
        }
    }
    let mut id = mix(mix(SEED, target.salt), len);
    for word in words {
        id = mix(id, word);
    }
    // 0 stands for no text.
    let id = id | 1;
    // SAFETY: nothing of the value is read.
    if unsafe { STACKS_SEEN.get(&id) }.is_some() {
        return Ok(id);
    }
    let len = len as u32;
    let submitted = emit_tail::<GoText, [u64; TEXT_WORDS]>(|header, record, tail| {
        // SAFETY: both point to room that was reserved for them.
        unsafe { record.write(GoText { header, id, tgid, len }) };
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: as above. Volatile, or the compiler makes a memcpy of it, which there is not.
            unsafe { write_volatile(addr_of_mut!((*tail)[i]), word) };
        }
    });
    if submitted {
        // Without room in the map it is submitted once more.
        let _ = STACKS_SEEN.insert(id, 1u8, 0);
    }
    Ok(id)
}
