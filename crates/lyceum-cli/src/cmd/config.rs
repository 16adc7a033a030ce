//! init and config: a project's settings.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::json;

use crate::args::InitArgs;
use crate::out::{Format, show, wrote};
use crate::project::{FILE, Project, Setting};
use crate::table::{Column, Table};

/// Writes `lyceum.toml` into the working folder.
pub(crate) fn init(args: &InitArgs, format: Format) -> Result<()> {
    let path = Path::new(FILE);
    if path.exists() && !args.replace {
        bail!("{FILE} is there already; --replace writes it anew");
    }
    lyceum::file::write(path, text(args).as_bytes())?;
    wrote(format, &[path])
}

/// The file's text: what was given is set, the rest stands as a comment.
fn text(args: &InitArgs) -> String {
    let mut text = String::from(
        "# Defaults of the `lyceum` command below this folder. Flags and the environment\n\
         # (LYCEUM_BASE, LYCEUM_LIBRARY, LYCEUM_DATA, LYCEUM_THREADS) go before them;\n\
         # `lyceum config` shows what is in force. Paths begin at this folder.\n\n",
    );
    let quoted = |value: &str| toml::Value::from(value).to_string();
    let lines = [
        ("base", args.base.as_deref(), "embedded"),
        ("library", args.library.as_deref(), "experts"),
        ("data", args.data.as_deref(), "rows.jsonl"),
    ];
    for (key, value, example) in lines {
        text += &match value {
            Some(value) => format!("{key} = {}\n", quoted(value)),
            None => format!("# {key} = {}\n", quoted(example)),
        };
    }
    text + "# threads = 4\n\n# Defaults of other flags, with _ for -.\n[defaults]\n# top_k = 2\n# epochs = 5\n"
}

/// Shows the settings in force and where each comes from.
pub(crate) fn config(project: &Project, format: Format) -> Result<()> {
    let rows: Vec<_> = { project.0.iter() }
        .map(|(flag, setting)| {
            let (value, from) = (&setting.value, setting.origin.to_string());
            json!({ "setting": flag, "value": value, "from": from })
        })
        .collect();
    show(format, &rows, |_| {
        if rows.is_empty() {
            return format!("no setting: there is no {FILE} here or above, and no LYCEUM_* is set");
        }
        let columns = [
            Column::word("setting"),
            Column::text("value"),
            Column::text("from"),
        ];
        let line = |(flag, setting): (&String, &Setting)| {
            [
                flag.clone(),
                setting.value.clone(),
                setting.origin.to_string(),
            ]
        };
        Table::new(columns, project.0.iter().map(line)).to_text()
    })
}
