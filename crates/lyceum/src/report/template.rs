//! The report's pages, made by minijinja from the files in `templates`.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Output, State, Value};
use serde::Serialize;

use crate::error::{Error, Result};

/// Renders the template `source` with the fields of `context`. The ending of `name` decides the
/// escaping: `.html` escapes whatever is not marked safe, any other nothing.
///
/// # Errors
/// When the template fails.
pub(super) fn render(name: &str, source: &str, context: impl Serialize) -> Result<String> {
    let page = || {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true)
            .build()?;
        env.set_syntax(syntax);
        env.set_formatter(format);
        env.add_filter("id", id);
        env.render_named_str(name, source, Serde(context))
    };
    page().map_err(|e: minijinja::Error| Error::format(name, e))
}

/// Writes a value, escaped as charts escape their text.
fn format(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), minijinja::Error> {
    match value.as_str() {
        Some(text) if *state.auto_escape() == AutoEscape::Html && !value.is_safe() => {
            out.write_str(&escape(text)).map_err(minijinja::Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// Escapes text for XML and HTML; control characters, which XML has not, become U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Makes a title the `id` of an element: other characters than ASCII letters and digits become `-`.
fn id(title: &str) -> String {
    let letters = title.chars().map(|c| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_lowercase(),
        false => '-',
    });
    letters.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_names_is_shown_not_obeyed() {
        let context = [("x", "<script>\"&\u{7}"), ("svg", "<svg/>")];
        let context: std::collections::BTreeMap<_, _> = context.into();
        let source = "{{ x }} {{ svg|safe }} {{ 'A/b'|id }}\n";
        assert_eq!(
            render("a.html", source, &context).unwrap(),
            "&lt;script&gt;&quot;&amp;\u{fffd} <svg/> a-b\n"
        );
        assert_eq!(
            render("a.md", source, &context).unwrap(),
            "<script>\"&\u{7} <svg/> a-b\n"
        );
    }

    #[test]
    fn a_broken_template_is_an_error() {
        let error = render("a.md", "{% for %}", ()).unwrap_err().to_string();
        assert!(error.contains("a.md"), "{error}");
    }
}
