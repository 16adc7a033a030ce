//! Memory for results: kept by the allocator once it has it, and not cleared before it is written.

use std::mem::MaybeUninit;

/// `n` values that `write` writes.
///
/// # Safety
/// `write` must write every value, or not return.
pub(crate) unsafe fn written(n: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(n);
    write(&mut values.spare_capacity_mut()[..n]);
    // SAFETY: there is room for `n` values, and they were written.
    unsafe { values.set_len(n) };
    values
}

/// Lets freed memory be used again instead of going back to the system.
///
/// A training step frees and asks again for the same large buffers; by default glibc returns each
/// to the system, which then has to clear it anew. Elsewhere this does nothing.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` only sets parameters of the allocator, under the allocator's own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}
