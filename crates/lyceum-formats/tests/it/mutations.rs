//! Seeded mutations of good files.

/// Rounds of a target: `LYCEUM_FUZZ`, or `usual` where it is not set.
pub(crate) fn rounds(usual: usize) -> usize {
    let asked = std::env::var("LYCEUM_FUZZ")
        .ok()
        .and_then(|n| n.parse().ok());
    asked.unwrap_or(usual)
}

/// Cuts, doubles, overwrites and flips bytes, and puts numbers that claim too much; `below(n)` is a
/// random number below `n`.
pub(crate) fn mutate(below: &mut dyn FnMut(usize) -> usize, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=below(4) {
        let n = bytes.len().max(1);
        let at = below(n);
        match below(8) {
            0 => bytes.truncate(at),
            1 => {
                let piece = bytes[at..(at + below(40)).min(bytes.len())].to_vec();
                let to = below(n).min(bytes.len());
                bytes.splice(to..to, piece);
            }
            2 => {
                let end = (at + 4).min(bytes.len());
                bytes[at.min(end)..end].fill(0xff);
            }
            3 => {
                let ops = b"()]}.bRQhqjrtueasNKMJGXc\x81\x85\x86\x87\x88\x89\x8a";
                bytes.insert(at.min(bytes.len()), ops[below(ops.len())]);
            }
            4 => {
                let claims = [0, 1, 1 << 16, 1 << 31, 1 << 32, 1 << 40, 1 << 63, u64::MAX];
                let claim = claims[below(claims.len())].to_le_bytes();
                let end = (at + [1, 2, 4, 8][below(4)]).min(n).min(bytes.len());
                let at = at.min(end);
                bytes[at..end].copy_from_slice(&claim[..end - at]);
            }
            5 => {
                // The same where numbers are digits, and where things are nested.
                let texts: [&[u8]; 6] = [b"9", b"99999999999999999999", b"-1", b"[", b"{", b"\""];
                let to = at.min(bytes.len());
                let text = texts[below(texts.len())].repeat(1 + below(3));
                bytes.splice(to..to, text);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << below(8);
                }
            }
        }
    }
    bytes
}
