//! data show: the tasks of a data set, their rows and lengths.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use lyceum::Name;
use lyceum::data::{Dataset, Split};
use serde::Serialize;

use super::{Settings, model};
use crate::out::{count, show as print};
use crate::table::{Column, Table};

/// One task in figures.
#[derive(Debug, Default, Serialize)]
struct Task {
    train: usize,
    validation: usize,
    test: usize,
    /// Mean and longest input, in characters.
    mean_input: f64,
    longest_input: usize,
    /// Mean and longest target, in characters.
    mean_target: f64,
    longest_target: usize,
}

impl Task {
    fn rows(&self) -> usize {
        self.train + self.validation + self.test
    }
}

pub(crate) fn show(path: Option<&Path>, settings: &Settings) -> Result<()> {
    let tasks = figures(&model::data(path, &settings.session)?);
    print(settings.format, &tasks, text)
}

fn figures(data: &Dataset) -> BTreeMap<Name, Task> {
    let mut tasks: BTreeMap<Name, Task> = BTreeMap::new();
    for row in &data.examples {
        let task = tasks.entry(row.task.clone()).or_default();
        match row.split {
            Split::Train => task.train += 1,
            Split::Validation => task.validation += 1,
            Split::Test => task.test += 1,
        }
        let (input, target) = (row.source.chars().count(), row.target.chars().count());
        // Sums until every row is counted.
        task.mean_input += input as f64;
        task.mean_target += target as f64;
        task.longest_input = task.longest_input.max(input);
        task.longest_target = task.longest_target.max(target);
    }
    for task in tasks.values_mut() {
        let rows = task.rows() as f64;
        task.mean_input /= rows;
        task.mean_target /= rows;
    }
    tasks
}

fn text(tasks: &BTreeMap<Name, Task>) -> String {
    let columns = [
        Column::text("task"),
        Column::number("train"),
        Column::number("valid"),
        Column::number("test"),
        Column::number("input"),
        Column::number("most"),
        Column::number("target"),
        Column::number("most"),
    ];
    let line = |(name, task): (&Name, &Task)| {
        [
            name.to_string(),
            task.train.to_string(),
            task.validation.to_string(),
            task.test.to_string(),
            format!("{:.0}", task.mean_input),
            task.longest_input.to_string(),
            format!("{:.0}", task.mean_target),
            task.longest_target.to_string(),
        ]
    };
    let rows = tasks.values().map(Task::rows).sum();
    Table::new(columns, tasks.iter().map(line)).to_text()
        + &format!(
            "{}, {}; inputs and targets in characters, mean and most\n",
            count(tasks.len(), "task"),
            count(rows, "row")
        )
}
