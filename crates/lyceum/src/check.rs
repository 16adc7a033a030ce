//! Looking a library through: what its experts weigh, and what is wrong with it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::expert::{Expert, Host};
use crate::library::Library;
use crate::name::{Name, Site};

/// How an expert sits on its base and how much it changes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Weighed {
    /// The expert.
    pub expert: Name,
    /// Fingerprint of its base, if known.
    pub base: Option<String>,
    /// How many sites it adapts.
    pub sites: usize,
    /// How many of them the base has with the right widths, if a base was given.
    pub matched: Option<usize>,
    /// Frobenius norm of its change of weights, per site.
    pub norms: Vec<(String, f64)>,
    /// Whether it changes nothing: an expert that was never trained.
    pub zero: bool,
}

/// Weighs `expert`, over `base` if there is one.
///
/// # Errors
/// When a norm cannot be computed.
pub fn weigh(expert: &Expert, base: Option<&Host>) -> Result<Weighed> {
    let norm = |(site, lora): (&Site, &crate::lora::Lora)| Ok((site.to_string(), lora.norm()?));
    let norms: Vec<(String, f64)> = expert.loras.iter().map(norm).collect::<Result<_>>()?;
    let fits = |host: &Host| {
        let all = expert.loras.iter();
        all.filter(|(site, l)| host.sites.get(*site) == Some(&(l.d_out(), l.d_in())))
            .count()
    };
    Ok(Weighed {
        expert: expert.card.name.clone(),
        base: expert.card.base.clone(),
        sites: expert.loras.len(),
        matched: base.map(fits),
        zero: norms.iter().all(|(_, norm)| *norm == 0.0),
        norms,
    })
}

/// What a library holds and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Findings {
    /// The experts that could be read.
    pub experts: Vec<Weighed>,
    /// Artifacts that were read.
    pub artifacts: usize,
    /// What is wrong; empty when all is well.
    pub problems: Vec<String>,
    /// What is odd but breaks nothing.
    pub warnings: Vec<String>,
}

/// The chain of causes in one line.
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = error.source();
    }
    text
}

/// Opens every expert and artifact of `library`, and checks the experts against `base`.
///
/// # Errors
/// When the library cannot be listed; what is wrong with its content is in the result.
pub fn check(library: &Library, base: Option<&Host>) -> Result<Findings> {
    let mut found = Findings {
        experts: Vec::new(),
        artifacts: 0,
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    let kinds = library.kinds()?;
    let mut bases = BTreeMap::new();
    for name in library.names()? {
        let expert = match library.expert(&name) {
            Ok(expert) => expert,
            Err(error) => {
                found.problems.push(chain(&error));
                continue;
            }
        };
        if let Some(own) = &expert.card.base {
            let family = expert.card.base_family.clone();
            bases.entry(own.clone()).or_insert((name.clone(), family));
        }
        found.expert(&expert, base)?;
        for kind in &kinds {
            found.artifact(library, &expert, kind);
        }
    }
    found.bases(&bases);
    Ok(found)
}

impl Findings {
    /// Names the bases of a library that has several, with an expert of each: experts of one
    /// architecture can be used together where the base accepts them, others never.
    fn bases(&mut self, bases: &BTreeMap<String, (Name, Option<String>)>) {
        let mut families = bases.values().map(|(_, family)| family);
        let Some(first) = families.next().filter(|_| bases.len() > 1) else {
            return;
        };
        let alike = first.is_some() && families.all(|family| family == first);
        let each: Vec<String> = { bases.iter() }
            .map(|(base, (name, _))| format!("`{name}` over {base:.12}"))
            .collect();
        let each = each.join(", ");
        match alike {
            true => self.warnings.push(format!(
                "the experts were trained over different weights of one architecture: {each}"
            )),
            false => self
                .problems
                .push(format!("the experts belong to different bases: {each}")),
        }
    }

    fn expert(&mut self, expert: &Expert, base: Option<&Host>) -> Result<()> {
        match base.map(|base| expert.check_base(base)) {
            Some(Err(error @ Error::OtherBase { .. })) => self.warnings.push(chain(&error)),
            Some(Err(error)) => self.problems.push(chain(&error)),
            Some(Ok(())) | None => {}
        }
        let weighed = weigh(expert, base)?;
        let name = &expert.card.name;
        if weighed.zero {
            let text = format!("expert `{name}` changes nothing: its B A is zero at every site");
            self.warnings.push(text);
        }
        if weighed.base.is_none() {
            self.warnings.push(format!(
                "expert `{name}` does not say which base it was trained on (only the name `{}`); \
                 `lyceum import --base DIR` records it",
                expert.card.base_name
            ));
        }
        self.experts.push(weighed);
        Ok(())
    }

    fn artifact(&mut self, library: &Library, expert: &Expert, kind: &Name) {
        let name = &expert.card.name;
        let problem = match library.artifact_of(kind, name) {
            Err(error) => chain(&error),
            Ok(None) => format!(
                "expert `{name}` has no {kind} artifact made from its present weights; run: \
                 lyceum derive {} {kind}",
                library.uri()
            ),
            Ok(Some(artifact)) => {
                self.artifacts += 1;
                // A vector of a site has that site's width; one of the whole expert has its own.
                let fits = |(site, v): (&Site, &candle_core::Tensor)| {
                    expert
                        .loras
                        .get(site)
                        .is_none_or(|lora| v.dims() == [lora.d_in()])
                };
                let misfit = artifact.vectors.iter().find(|pair| !fits(*pair));
                let lacks = expert
                    .loras
                    .keys()
                    .find(|s| !artifact.vectors.contains_key(*s));
                let routed = ["arrow", "phatgoose"].contains(&kind.as_str());
                match (misfit, lacks) {
                    (Some((site, _)), _) => {
                        format!("the {kind} artifact of `{name}` has another width at `{site}`")
                    }
                    (None, Some(site)) if routed => {
                        format!("the {kind} artifact of `{name}` lacks `{site}`")
                    }
                    _ => return,
                }
            }
        };
        self.problems.push(problem);
    }
}
