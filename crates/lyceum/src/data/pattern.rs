//! Patterns of paths, as the `configs` of a README hold them.

/// Returns `true` if a path matches a glob: `*` and `?` within a path component, `**` across
/// components, `[a-z]` and `[!a-z]` for one character of a set. A pattern that names a folder
/// matches everything below it.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let within = path.strip_prefix(pattern.trim_end_matches('/'));
    within.is_some_and(|rest| rest.starts_with('/')) || fits(pattern.as_bytes(), path.as_bytes())
}

/// In time of their lengths' product, whatever the pattern.
fn fits(mut pattern: &[u8], path: &[u8]) -> bool {
    // Whether the part of the pattern passed fits so many of the path's bytes.
    let mut ends: Vec<bool> = (0..=path.len()).map(|end| end == 0).collect();
    // Every end may be carried over as many bytes as `on` lets pass.
    let carried = |mut ends: Vec<bool>, on: fn(u8) -> bool| {
        for (end, byte) in path.iter().enumerate() {
            ends[end + 1] |= ends[end] && on(*byte);
        }
        ends
    };
    loop {
        ends = match pattern {
            [] => return ends.last() == Some(&true),
            [b'*', b'*', b'/', rest @ ..] => {
                pattern = rest;
                let before = carried(ends.clone(), |_| true);
                let folder = |end: usize| before[end - 1] && path[end - 1] == b'/';
                (0..=path.len())
                    .map(|end| ends[end] || (end > 0 && folder(end)))
                    .collect()
            }
            [b'*', b'*', rest @ ..] => {
                pattern = rest;
                carried(ends, |_| true)
            }
            [b'*', rest @ ..] => {
                pattern = rest;
                carried(ends, |byte| byte != b'/')
            }
            _ => {
                let (one, rest) = one(pattern);
                pattern = rest;
                let next = |end: usize| ends[end - 1] && one.fits(path[end - 1]);
                (0..=path.len()).map(|end| end > 0 && next(end)).collect()
            }
        };
    }
}

/// A matcher of one byte.
enum One<'a> {
    Byte(u8),
    Any,
    /// Those listed, with ranges; or all others.
    Of(&'a [u8], bool),
}

impl One<'_> {
    fn fits(&self, byte: u8) -> bool {
        match self {
            One::Byte(own) => *own == byte,
            One::Any => byte != b'/',
            One::Of(listed, within) => {
                let (mut listed, mut found) = (*listed, false);
                while let Some((first, rest)) = listed.split_first() {
                    listed = match rest {
                        [b'-', last, rest @ ..] => {
                            found |= (*first..=*last).contains(&byte);
                            rest
                        }
                        rest => {
                            found |= *first == byte;
                            rest
                        }
                    };
                }
                byte != b'/' && found == *within
            }
        }
    }
}

/// Splits `pattern` into the matcher of its first byte and the rest, which is shorter.
fn one(pattern: &[u8]) -> (One<'_>, &[u8]) {
    match pattern {
        [b'?', rest @ ..] => (One::Any, rest),
        [b'[', rest @ ..] => {
            let (within, listed) = match rest {
                [b'!' | b'^', rest @ ..] => (false, rest),
                rest => (true, rest),
            };
            // A closing bracket at the start is one of those listed.
            let close = listed.iter().skip(1).position(|byte| *byte == b']');
            match close.and_then(|close| listed.split_at_checked(close + 1)) {
                Some((listed, rest)) => {
                    (One::Of(listed, within), rest.get(1..).unwrap_or_default())
                }
                None => (One::Byte(b'['), rest),
            }
        }
        [byte, rest @ ..] => (One::Byte(*byte), rest),
        [] => (One::Any, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_on_the_hub() {
        for (pattern, path) in [
            ("data/train-*", "data/train-0.parquet"),
            ("**/*.jsonl", "a.jsonl"),
            ("**/*.jsonl", "x/y/a.jsonl"),
            ("**", "x/y"),
            ("x/**", "x/y/z"),
            ("x", "x/y/z"),
            ("x/", "x/y/z"),
            ("a?c[0-9][!x-z]", "abc5w"),
            ("[]a]", "]"),
            ("a[b", "a[b"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("*.jsonl", "x/a.jsonl"),
            ("**/a", "xa"),
            ("a?b", "a/b"),
            ("[!x]", "x"),
            ("[!x]", "/"),
            ("[a-c]", "d"),
            ("x", "xy/z"),
            ("a", ""),
            ("", "a"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
        // Slow where every way to fit is tried.
        assert!(!matches(&("*a".repeat(40) + "b"), &"a".repeat(2000)));
    }
}
