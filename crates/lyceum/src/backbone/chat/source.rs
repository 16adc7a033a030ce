//! The source of a template as Python's Jinja reads it: line ends, and the tags of transformers.

/// `template` with LF line ends and without `{% generation %}` … `{% endgeneration %}`, which mark
/// a part for training and leave what is written as it is. Jinja makes a scope of the part, and so
/// does the `with` that takes their place.
pub(super) fn read(template: &str) -> String {
    let text = template.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let length = match from.as_bytes().get(1) {
            Some(b'#') => from.find("#}").map_or(from.len(), |at| at + 2),
            Some(b'{') => 2 + expression(&from[2..], "}}"),
            Some(b'%') => match tag(from) {
                Tag::Generation(name, keyword) => {
                    let (head, tail) = name;
                    out.push_str(&from[..head]);
                    out.push_str(keyword);
                    rest = &from[tail..];
                    continue;
                }
                Tag::Other(length) => length,
            },
            _ => 1,
        };
        out.push_str(&from[..length]);
        rest = &from[length..];
    }
    out.push_str(rest);
    out
}

enum Tag {
    /// The bytes at which the name of a generation tag begins and ends, and what to write there.
    Generation((usize, usize), &'static str),
    /// The bytes of a tag, or of a raw part with its end.
    Other(usize),
}

/// The tag that `text` begins with.
fn tag(text: &str) -> Tag {
    let inside = 2 + text[2..]
        .find(|c| !matches!(c, '-' | '+'))
        .unwrap_or(0)
        .min(1);
    let space = |at: usize| text.len() - text[at..].trim_start().len();
    let name = space(inside);
    let end = text[name..].find(|c: char| !c.is_alphanumeric() && c != '_');
    let end = name + end.unwrap_or(text.len() - name);
    let closed = |at: usize| {
        let rest = &text[space(at)..];
        let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        rest.strip_prefix("%}").map(|rest| text.len() - rest.len())
    };
    match (&text[name..end], closed(end)) {
        ("generation", Some(_)) => Tag::Generation((name, end), "with"),
        ("endgeneration", Some(_)) => Tag::Generation((name, end), "endwith"),
        ("raw", Some(begun)) => {
            let mut at = begun;
            while let Some(next) = text[at..].find("{%") {
                let next = at + next;
                if let Some(length) = ends_raw(&text[next..]) {
                    return Tag::Other(next + length);
                }
                at = next + 2;
            }
            Tag::Other(text.len())
        }
        _ => Tag::Other(2 + expression(&text[2..], "%}")),
    }
}

/// The length of an `{% endraw %}` that `text` begins with.
fn ends_raw(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("{%")?;
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start();
    let rest = rest.strip_prefix("endraw")?.trim_start();
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    Some(text.len() - rest.strip_prefix("%}")?.len())
}

/// The length of an expression with its `close`, which strings and open brackets hide.
fn expression(text: &str, close: &str) -> usize {
    let (mut quote, mut escaped, mut open) = (None, false, 0usize);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(mark), c) if c == mark => quote = None,
            (Some(_), _) => {}
            (None, _) if open == 0 && text[at..].starts_with(close) => return at + close.len(),
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[' | '{') => open += 1,
            (None, ')' | ']' | '}') => open = open.saturating_sub(1),
            (None, _) => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn generation_tags_become_scopes_wherever_they_are_tags() {
        for (from, to) in [
            (
                "{% generation %}x{% endgeneration %}",
                "{% with %}x{% endwith %}",
            ),
            (
                "{%- generation -%}{%-endgeneration+%}",
                "{%- with -%}{%-endwith+%}",
            ),
            ("{%\n generation\n%}", "{%\n with\n%}"),
            ("a\r\nb\rc\n", "a\nb\nc\n"),
        ] {
            assert_eq!(read(from), to);
        }
        for same in [
            "{# {% generation %} #}",
            "{{ '{% generation %}' }}",
            "{{ {'a': {'b': '}}'}} }}{{ \"\\\"}}{% generation %}\" }}",
            "{% raw %}{% generation %}{% endraw %}",
            "{%- raw -%} {%x%} {% generation %}{%- endraw -%}",
            "{% set generation = 1 %}{% if generation %}{% endif %}",
            "{% generations %}",
            "{ % generation %} { { {",
            "{% set x = '%} {% generation %}' %}",
            "{%",
            "{{",
            "{#",
            "{% raw %}",
        ] {
            assert_eq!(read(same), same);
        }
    }
}
