//! Looking a library through: what its experts weigh, and what is wrong with it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Hint, Result};
use crate::expert::{Expert, TargetBase};
use crate::library::{Library, Verified};
use crate::name::{Name, Site};

/// Statistics of an expert: how it fits its base, and the size of its update.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Weighed {
    /// The expert.
    pub expert: Name,
    /// Fingerprint of its base, if known.
    pub base: Option<String>,
    /// The number of sites it adapts.
    pub sites: usize,
    /// The number of them that the base has with the right widths, if a base was given.
    pub matched: Option<usize>,
    /// Frobenius norm of its change of weights, per site.
    pub norms: Vec<(String, f64)>,
    /// `true` if its update is zero: an expert that was never trained.
    pub zero: bool,
}

/// Weighs `expert`, over `base` if there is one.
///
/// # Errors
/// When a norm cannot be computed.
pub fn weigh(expert: &Expert, base: Option<&TargetBase>) -> Result<Weighed> {
    let norm = |(site, lora): (&Site, &crate::lora::Lora)| Ok((site.to_string(), lora.norm()?));
    let norms: Vec<(String, f64)> = expert.loras.iter().map(norm).collect::<Result<_>>()?;
    let fits = |host: &TargetBase| {
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

/// The results of checking a library.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Findings {
    /// The version looked through.
    pub version: u64,
    /// Objects read from the place itself, each of the size and hash it is named by. `None` where
    /// the experts are another tool's files.
    pub objects: Option<usize>,
    /// Their bytes.
    pub bytes: Option<u64>,
    /// Objects this version does not refer to; a purge deletes them once nothing needs them.
    pub unreferenced: usize,
    /// The experts that could be read.
    pub experts: Vec<Weighed>,
    /// Artifacts that were read.
    pub artifacts: usize,
    /// Problems; empty when all is well.
    pub problems: Vec<String>,
    /// Oddities that break nothing.
    pub warnings: Vec<String>,
    /// Advice on problems and warnings, each piece once.
    pub hints: Vec<Hint>,
}

/// The reference that every expert is checked against.
struct Look<'a> {
    /// The kinds of artifacts there are in the library.
    kinds: Vec<Name>,
    uri: String,
    base: Option<&'a TargetBase>,
}

/// The results of checking one expert.
struct Seen {
    name: Name,
    live: bool,
    /// The architecture it was trained over.
    family: Option<String>,
    weighed: Option<Result<Weighed>>,
    artifacts: usize,
    problems: Vec<String>,
    warnings: Vec<String>,
    hints: Vec<Hint>,
}

/// Looks `library` through: every object from the place itself, its size and hash, the cards
/// against the index ([`Library::check`]); then what the experts are, whether they fit each other
/// and `base`, and whether what was derived from them still belongs to them.
///
/// ```
/// use lyceum::check::check;
/// use lyceum::library::Library;
///
/// let library = Library::create("memory://checked")?;
/// let findings = check(&library, None)?;
/// assert!(findings.problems.is_empty(), "{:?}", findings.problems);
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// When the library cannot be listed; what is wrong with its content is in the result.
pub fn check(library: &Library, base: Option<&TargetBase>) -> Result<Findings> {
    let look = Look {
        kinds: library.kinds()?,
        uri: library.uri(),
        base,
    };
    let (checked, seen) = library.verified(|verified| look.at(verified))?;
    let own = !library.is_foreign();
    let mut found = Findings {
        version: checked.version,
        objects: own.then_some(checked.objects),
        bytes: own.then_some(checked.bytes),
        unreferenced: checked.unreferenced,
        ..Findings::default()
    };
    let problem = |p: &crate::library::Problem| format!("expert `{}`: {}", p.expert, p.why);
    found.problems.extend(checked.problems.iter().map(problem));
    let mut bases = BTreeMap::new();
    for seen in seen.into_iter().filter(|seen| seen.live) {
        found.problems.extend(seen.problems);
        found.warnings.extend(seen.warnings);
        for hint in seen.hints {
            if !found.hints.contains(&hint) {
                found.hints.push(hint);
            }
        }
        found.artifacts += seen.artifacts;
        let Some(weighed) = seen.weighed.transpose()? else {
            continue;
        };
        if let Some(own) = &weighed.base {
            bases.entry(own.clone()).or_insert((seen.name, seen.family));
        }
        found.experts.push(weighed);
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
}

impl Look<'_> {
    fn at(&self, verified: &Verified<'_>) -> Seen {
        let mut seen = Seen {
            name: verified.name.clone(),
            live: verified.entry.live(),
            family: None,
            weighed: None,
            artifacts: { verified.artifacts.keys() }
                .filter(|kind| verified.entry.has(kind))
                .count(),
            problems: Vec::new(),
            warnings: Vec::new(),
            hints: Vec::new(),
        };
        let Some(expert) = &verified.expert else {
            return seen;
        };
        match self.base.map(|base| expert.check_base(base)) {
            Some(Err(error @ Error::OtherBase { .. })) => {
                seen.hints.extend(error.hints());
                seen.warnings.push(error.chain());
            }
            Some(Err(error)) => seen.problems.push(error.chain()),
            Some(Ok(())) | None => {}
        }
        seen.family.clone_from(&expert.card.base_family);
        let weighed = weigh(expert, self.base);
        let name = &expert.card.name;
        if weighed.as_ref().is_ok_and(|weighed| weighed.zero) {
            let text = format!("expert `{name}` changes nothing: its B A is zero at every site");
            seen.warnings.push(text);
        }
        if expert.card.base.is_none() {
            seen.warnings.push(format!(
                "expert `{name}` does not say which base it was trained on (only the name `{}`)",
                expert.card.base_name
            ));
            seen.hints.push(Hint::ImportWithBase);
        }
        seen.weighed = Some(weighed);
        let kinds = self.kinds.iter();
        for error in kinds.filter_map(|kind| self.derived(expert, verified, kind)) {
            seen.hints.extend(error.hints());
            seen.problems.push(error.chain());
        }
        seen
    }

    /// The problem with the artifact of `kind`, if there is one.
    fn derived(&self, expert: &Expert, verified: &Verified<'_>, kind: &Name) -> Option<Error> {
        let name = &expert.card.name;
        if !verified.entry.has(kind) {
            // No router counts a merged expert unless it is asked to.
            let needed = !expert.card.is_merge();
            return needed.then(|| Error::Underived {
                what: format!(
                    "expert `{name}` has no {kind} artifact made from its present weights"
                ),
                library: self.uri.clone(),
                kind: kind.to_string(),
            });
        }
        // One that cannot be read is a problem already told.
        let artifact = verified.artifacts.get(kind)?;
        // A vector of a site has that site's width; one of the whole expert has its own.
        let fits = |(site, v): (&Site, &candle_core::Tensor)| {
            let lora = expert.loras.get(site);
            lora.is_none_or(|lora| v.dims() == [lora.d_in()])
        };
        if let Some((site, _)) = artifact.vectors.iter().find(|pair| !fits(*pair)) {
            let text = format!("the {kind} artifact of `{name}` has another width at `{site}`");
            return Some(Error::Mismatch(text));
        }
        // A router by directions needs one at every site; other artifacts are their makers' own.
        let routers = crate::route::all();
        let routed = { routers.iter() }.any(|about| about.artifact == Some(kind.as_str()));
        let mut sites = expert.loras.keys();
        let lacks = sites.find(|site| !artifact.vectors.contains_key(*site));
        let lacks = lacks.filter(|_| routed)?;
        let text = format!("the {kind} artifact of `{name}` lacks `{lacks}`");
        Some(Error::Mismatch(text))
    }
}
