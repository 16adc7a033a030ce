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

#[test]
fn every_subcommand_has_help_with_an_example() {
    let top = help(&[]);
    let commands = top
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("\n\n")
        .next()
        .unwrap();
    let names: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let text = help(&[name]);
        assert!(text.contains("Example"), "`{name}` has no example:\n{text}");
        assert!(
            text.contains(&format!("lyceum {name}")),
            "`{name}`:\n{text}"
        );
    }
}
