//! Processes that do what a test tells them, with variables, a home and a cache of their own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use crate::servers::Vars;

/// Tells a process of this test binary what to do.
pub(crate) const JOB: &str = "LYCEUM_TEST_JOB";

/// The environment and the folder of test processes.
pub(crate) struct Work {
    vars: Vars,
    /// Shell commands run first.
    shell: Option<String>,
    /// `true` if they run in a mount namespace of their own.
    apart: bool,
    home: tempfile::TempDir,
}

impl Work {
    pub(crate) fn new(vars: &Vars) -> Self {
        Work {
            vars: vars.clone(),
            shell: None,
            apart: false,
            home: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.vars.retain(|(known, _)| *known != name);
        self.vars.push((name, value.to_owned()));
        self
    }

    /// Processes are started by a shell that does `first` before.
    pub(crate) fn under(mut self, first: &str) -> Self {
        self.shell = Some(first.to_owned());
        self
    }

    /// The shell has mounts of its own, which it may change.
    pub(crate) fn apart(mut self) -> Self {
        self.apart = true;
        self
    }

    /// The command that runs this test binary.
    fn command(&self) -> Command {
        let exe = std::env::current_exe().unwrap();
        let Some(first) = &self.shell else {
            return Command::new(exe);
        };
        let mut command = match self.apart {
            true => Command::new("unshare"),
            false => Command::new("sh"),
        };
        if self.apart {
            command.args(["-rm", "sh"]);
        }
        command
            .arg("-c")
            .arg(format!("{first} exec \"$0\" \"$@\""))
            .arg(exe);
        command
    }

    pub(crate) fn home(&self) -> &std::path::Path {
        self.home.path()
    }

    /// `command` in this place.
    pub(crate) fn settle(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let worlds = [
                "AWS_",
                "AZUR",
                "GOOGLE_",
                "STORAGE_",
                "HF_",
                "LYCEUM_CACHE",
                "XDG_",
            ];
            if worlds.iter().any(|world| name.starts_with(world)) {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.home.path());
        command.envs(self.vars.iter().map(|(name, value)| (*name, value)));
    }

    pub(crate) fn start(&self, job: &str) -> Child {
        let mut command = self.command();
        self.settle(&mut command);
        command
            .args(["library::worker", "--exact", "--nocapture"])
            .env(JOB, job)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn output(&self, job: &str) -> Output {
        self.start(job).wait_with_output().unwrap()
    }

    /// Does `job`, which must succeed. What it said.
    pub(crate) fn done(&self, job: &str) -> String {
        let output = self.output(job);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{job}\n{said}\n{errors}");
        said
    }

    /// Does `job`, which must fail. All it said.
    pub(crate) fn fails(&self, job: &str) -> String {
        let output = self.output(job);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!output.status.success(), "{job} succeeded\n{said}");
        said
    }
}

/// The commits that a worker reported until it ended or was killed.
pub(crate) fn said(child: &mut Child) -> Vec<(String, u64)> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let done = |line: String| {
        let mut words = line.strip_prefix("done ")?.split(' ');
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    // The last line may be half a line.
    lines.map_while(|line| line.ok()).filter_map(done).collect()
}
