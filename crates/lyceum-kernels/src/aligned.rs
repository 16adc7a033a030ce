//! Buffers that begin where a cache line does, so that no wide register straddles two.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, and of the widest register.
const LINE: usize = 64;

/// Values that begin at a multiple of 64 bytes.
#[derive(Debug)]
pub(crate) struct Aligned<T> {
    values: Vec<T>,
    start: usize,
    count: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `count` zeros.
    pub(crate) fn zeros(count: usize) -> Self {
        let spare = LINE / size_of::<T>().max(1);
        let values = vec![T::default(); count + spare];
        // An offset that cannot be told is none at all: alignment is a matter of speed alone.
        let start = values.as_ptr().align_offset(LINE).min(spare);
        Aligned {
            values,
            start,
            count,
        }
    }
}

impl<T: Copy + Default> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        let mut copy = Aligned::zeros(self.count);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.values[self.start..self.start + self.count]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[self.start..self.start + self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_begin_at_a_line_too() {
        for count in [0, 1, 1000] {
            let mut values = Aligned::<f32>::zeros(count);
            values.iter_mut().for_each(|x| *x = 3.0);
            let copy = values.clone();
            for buffer in [&values, &copy] {
                assert!(buffer.len() == count && buffer.iter().all(|x| *x == 3.0));
                assert_eq!(buffer.as_ptr() as usize % LINE, 0);
            }
        }
    }
}
