//! The oracle: every example goes to the expert trained on its task.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::table::{About, Role};
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::mix::{Decision, Gates, Gating, Input, Pass};
use crate::name::{Name, Site};

/// Each sequence to the expert of its own task.
pub(super) const ORACLE: About = About {
    name: "oracle",
    what: "each example to its own task's expert",
    paper: "-",
    role: Role::Oracle,
    artifact: None,
    settings: &[],
    temperature: None,
    build: Some(|inputs| Ok(Arc::new(Oracle::new(inputs.experts)?))),
};

/// Routes by task name; an expert of several tasks (a cluster's) serves each of them.
#[derive(Debug)]
pub struct Oracle {
    of: BTreeMap<Name, usize>,
}

impl Oracle {
    /// The oracle over `experts`. A trained expert goes before those merged of others.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming two experts that serve the same task.
    pub fn new(experts: &[Expert]) -> Result<Self> {
        let mut of: BTreeMap<Name, usize> = BTreeMap::new();
        for (i, expert) in experts.iter().enumerate() {
            for task in &expert.card.tasks {
                let Some(&there) = of.get(task) else {
                    of.insert(task.clone(), i);
                    continue;
                };
                let other = &experts[there].card;
                match (other.is_merge(), expert.card.is_merge()) {
                    _ if there == i => {}
                    (false, true) => {}
                    (true, false) => {
                        of.insert(task.clone(), i);
                    }
                    _ => {
                        return Err(Error::invalid(format!(
                            "experts `{}` and `{}` both serve task `{task}`, and the oracle sends \
                             a task to one: name the experts that count, or remove one of these",
                            other.name, expert.card.name
                        )));
                    }
                }
            }
        }
        Ok(Oracle { of })
    }

    /// The expert that serves `task`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when none does.
    pub fn expert(&self, task: &Name) -> Result<usize> {
        self.of.get(task).copied().ok_or_else(|| {
            Error::not_found(
                "expert for task",
                task.as_str(),
                self.of.keys().map(Name::as_str),
            )
        })
    }
}

impl Gating for Oracle {
    fn gates(&self, _: &Site, _: Input<'_>, pass: &Pass<'_>) -> Result<Decision> {
        if pass.tasks.len() != pass.seq_lens.lens().len() {
            return Err(Error::invalid(
                "the oracle routes by task name: name the task of every example",
            ));
        }
        let expert = |task| Ok(self.expert(task)? as u32);
        let chosen: Vec<u32> = pass.tasks.iter().map(expert).collect::<Result<_>>()?;
        let experts: Vec<u32> = pass.seq_lens.seq_ids().map(|s| chosen[s]).collect();
        let weights = vec![1.0; experts.len()];
        Ok(Gates::known(1, experts, weights).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expert::Card;
    use crate::lora::LoraConfig;

    fn expert(name: &str, tasks: &[&str], merged: bool) -> Expert {
        let origin = match merged {
            true => serde_json::json!({ "merge": { "merge": "cat" } }),
            false => serde_json::json!({ "train": {} }),
        };
        let card = Card {
            name: Name::new(name).unwrap(),
            base: None,
            base_family: None,
            base_name: "base".into(),
            tasks: tasks.iter().map(|task| Name::new(task).unwrap()).collect(),
            lora: LoraConfig::default(),
            origin,
            losses: Vec::new(),
            weights: String::new(),
        };
        Expert {
            card,
            loras: BTreeMap::new(),
        }
    }

    #[test]
    fn two_experts_of_one_task_are_named() {
        let pair = [expert("a", &["x", "y"], false), expert("b", &["y"], false)];
        let error = Oracle::new(&pair).unwrap_err().to_string();
        assert!(error.contains("`a` and `b` both serve task `y`"), "{error}");
        let merges = [expert("a", &["x"], true), expert("b", &["x"], true)];
        assert!(Oracle::new(&merges).is_err());
    }

    #[test]
    fn a_trained_expert_goes_before_a_merged_one() {
        let task = Name::new("x").unwrap();
        for (merged, serves) in [("zz", 0), ("aa", 1)] {
            let mut experts = [
                expert("m", &["x"], false),
                expert(merged, &["w", "x"], true),
            ];
            experts.sort_by(|a, b| a.card.name.cmp(&b.card.name));
            let oracle = Oracle::new(&experts).unwrap();
            assert_eq!(oracle.expert(&task).unwrap(), serves, "{merged}");
        }
    }
}
