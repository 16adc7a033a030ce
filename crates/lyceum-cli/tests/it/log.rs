//! `-v`: the library's events on stderr.

use std::process::Output;

use crate::command::Sandbox;

const TRAIN: &str =
    "train --each-task --base base --data rows.jsonl --library lib --rank 2 --format json";

fn run(place: &Sandbox, line: &str, vars: &[(&str, &str)]) -> (Output, String) {
    let mut command = place.command(line);
    for name in ["LYCEUM_LOG", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.envs(vars.iter().copied());
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    (output, stderr)
}

#[test]
fn events_are_on_stderr_alone_and_only_when_asked_for() {
    let place = Sandbox::new();
    let (quiet, stderr) = run(&place, TRAIN, &[]);
    assert!(quiet.status.success(), "{stderr}");
    assert!(!stderr.contains("training step"), "{stderr}");
    let again = TRAIN.replace("--library lib", "--library lib-v");
    let (shown, stderr) = run(&place, &format!("{again} -v"), &[]);
    assert!(shown.status.success(), "{stderr}");
    for part in ["opened base", "training step", "committed", "version=1"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let stdout = String::from_utf8(shown.stdout).unwrap();
    let before = String::from_utf8(quiet.stdout).unwrap();
    assert_eq!(stdout.replace("lib-v", "lib"), before);
    // Lines are whole, and neither bars nor colours are among them.
    assert!(!stderr.contains(['\r', '\u{1b}']), "{stderr}");
    for line in stderr.lines().filter(|line| line.contains("training step")) {
        assert!(line.contains("step=") && line.contains("loss="), "{line}");
    }
}

#[test]
fn variables_choose_the_levels() {
    let place = Sandbox::new();
    let line = |library: &str| TRAIN.replace("--library lib", &format!("--library {library}"));
    let (_, stderr) = run(&place, &line("a"), &[("RUST_LOG", "info")]);
    assert!(stderr.contains("committed") && !stderr.contains("training step"));
    let vars = [("RUST_LOG", "trace"), ("LYCEUM_LOG", "lyceum::train=debug")];
    let (_, stderr) = run(&place, &format!("{} -vv", line("b")), &vars);
    assert!(stderr.contains("training step") && !stderr.contains("committed"));
    let (output, stderr) = run(&place, "list a", &[("LYCEUM_LOG", "lyceum=loud")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("LYCEUM_LOG=lyceum=loud"), "{stderr}");
}
