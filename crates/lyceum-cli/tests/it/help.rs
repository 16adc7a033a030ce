//! Every subcommand explains itself with an example.

use std::process::Command;

fn help(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_lyceum"))
        .args(args)
        .arg("--help")
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The names of all commands, from the help of `lyceum`.
pub(crate) fn commands() -> Vec<String> {
    let top = help(&[]);
    let (_, listed) = top.split_once("Train:").unwrap();
    let (listed, _) = listed.split_once("Options:").unwrap();
    listed
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_subcommand_has_help_with_an_example() {
    let names = commands();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let text = help(&[&name]);
        let (before, _) = text.split_once("Usage:").unwrap();
        assert!(before.contains("Example"), "`{name}` begins without one");
        let examples = examples(&text);
        assert!(!examples.is_empty(), "`{name}` has no example:\n{text}");
        for example in examples {
            let of = example.strip_prefix(&format!("lyceum {name}"));
            let of = of.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
            assert!(of, "`{name}` shows `{example}`");
        }
    }
}

/// The command lines shown as examples in a help text.
fn examples(help: &str) -> Vec<&str> {
    let heading = |line: &&str| !(line.starts_with("Example: ") || *line == "Examples:");
    help.lines()
        .skip_while(heading)
        .take_while(|line| !line.starts_with("Usage:"))
        .map(|line| line.trim_start_matches("Example: ").trim())
        .filter(|line| line.starts_with("lyceum"))
        .collect()
}

#[test]
fn a_usage_line_is_no_example() {
    let text = "Usage: lyceum run [OPTIONS]\n\n  --batch  Examples per step, lyceum run";
    assert!(examples(text).is_empty());
    let text = "Examples:\n  lyceum run a\n  lyceum run b\n\nUsage: lyceum run";
    assert_eq!(examples(text), ["lyceum run a", "lyceum run b"]);
    assert_eq!(examples("Example: lyceum run a"), ["lyceum run a"]);
}
