//! MTTL's libraries: a flat folder of `<expert>.meta`, `<expert>.ckpt` and `<expert>.<data>.bin`,
//! read without executing anything, and written so that MTTL opens them.
//!
//! Layouts differ: MTTL keeps `lora_a` as `[d_in, r]` and `lora_b` as `[r, d_out]`; here they are
//! PEFT's, transposed. Numbers stay the same to the bit both ways.

mod derived;
mod meta;
mod read;
mod save_name;
mod write;

pub use read::{Library as Contents, Refused, is_library, read, scan};
pub use write::write;
