//! A limit on the bytes that a file may decompress to.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Bytes that every file may decompress to, however small it is.
const FLOOR: u64 = 64 << 20;
/// Further bytes allowed, for each byte of the file.
const RATIO: u64 = 64;

/// The bytes a file may still make in memory.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
    whole: u64,
}

impl Budget {
    /// The budget of a file of `size` bytes.
    pub fn new(size: u64) -> Self {
        let whole = size.saturating_mul(RATIO).saturating_add(FLOOR);
        Budget {
            left: whole.into(),
            whole,
        }
    }

    /// Takes `n` bytes, before they are allocated.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when fewer are left.
    pub fn spend(&self, n: usize) -> Result<()> {
        let take = |left: u64| left.checked_sub(n as u64);
        match (self.left).fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::TooLarge(format!(
                "it unpacks to more than {} MiB ({} MiB and {RATIO} times its own size), as \
                 files made to exhaust memory do; if you trust it, write its rows as plain JSON lines",
                self.whole >> 20,
                FLOOR >> 20
            ))),
        }
    }
}
