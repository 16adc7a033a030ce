//! Routing statistics: the share of tokens routed to the expert of their own task, entropy and
//! load.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::error::Result;
use crate::metrics::{LayerRouting, Routing};
use crate::mix::{Gates, Pass, Probe};
use crate::name::{Name, Site};
use crate::train::TaskGroup;

#[derive(Debug, Default, Clone)]
struct Sums {
    own: f64,
    own_weight: f64,
    entropy: f64,
    tokens: f64,
    chosen: f64,
    load: Vec<f64>,
}

/// Sums up gates, block by block; give it to [`Model::losses`](crate::model::Model::losses).
///
/// ```no_run
/// use lyceum::eval::{self, RoutingProbe};
/// use lyceum::prelude::*;
///
/// let library = Library::open("experts")?;
/// let base = std::sync::Arc::new(lyceum::assets::base(Precision::F32)?);
/// let model = base.route(&library, &Router::arrow().top_k(2))?;
/// let test = lyceum::assets::tasks()?.split(Split::Test)?;
/// let experts: Vec<TaskGroup> = { library.cards()?.into_iter() }
///     .map(|card| TaskGroup::new(card.name, card.tasks))
///     .collect();
/// let probe = RoutingProbe::new(&experts);
/// eval::mean_losses(&model, &test, 1024, Some(&probe), &mut NoProgress)?;
/// for layer in probe.routing("arrow", "private").layers {
///     println!("{}: entropy {:.3} nats", layer.layer, layer.entropy);
/// }
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug)]
pub struct RoutingProbe {
    experts: Vec<Name>,
    of: BTreeMap<Name, usize>,
    layers: Mutex<BTreeMap<usize, Sums>>,
}

impl RoutingProbe {
    /// For `experts` in the order of the gates, each with the tasks it stands for.
    pub fn new(experts: &[TaskGroup]) -> Self {
        let tasks = |(i, group): (usize, &TaskGroup)| {
            let tasks = group.tasks.iter().cloned();
            tasks.map(|task| (task, i)).collect::<Vec<_>>()
        };
        RoutingProbe {
            experts: experts.iter().map(|group| group.name.clone()).collect(),
            of: experts.iter().enumerate().flat_map(tasks).collect(),
            layers: Mutex::new(BTreeMap::new()),
        }
    }

    /// The statistics collected so far, in the report's form.
    pub fn routing(&self, method: &str, library: &str) -> Routing {
        let layers = self.layers.lock().map(|l| l.clone()).unwrap_or_default();
        let mut load = vec![0.0; self.experts.len()];
        for sums in layers.values() {
            load.iter_mut()
                .zip(&sums.load)
                .for_each(|(total, x)| *total += x);
        }
        let total: f64 = load.iter().sum();
        let sum = |pick: fn(&Sums) -> f64| layers.values().map(pick).sum::<f64>();
        let chosen = sum(|s| s.chosen) / sum(|s| s.tokens).max(1.0);
        load.iter_mut()
            .for_each(|x| *x /= total.max(f64::MIN_POSITIVE));
        let layer = |(number, sums): (&usize, &Sums)| LayerRouting {
            layer: number.to_string(),
            own_share: sums.own / sums.tokens,
            own_weight: sums.own_weight / sums.tokens,
            entropy: sums.entropy / sums.tokens,
        };
        Routing {
            method: method.to_owned(),
            library: library.to_owned(),
            layers: layers.iter().map(layer).collect(),
            experts: self.experts.iter().map(ToString::to_string).collect(),
            load,
            chosen,
        }
    }
}

impl Probe for RoutingProbe {
    fn see(&self, site: &Site, gates: &Gates, pass: &Pass<'_>) -> Result<()> {
        let block = site
            .as_str()
            .split('.')
            .find_map(|part| part.parse().ok())
            .unwrap_or(0);
        let experts = self.experts.len();
        let rows = gates.rows(pass.seq_lens.tokens(), experts);
        let Ok(mut layers) = self.layers.lock() else {
            return Ok(());
        };
        let sums = layers.entry(block).or_default();
        sums.load.resize(experts, 0.0);
        for (row, sequence) in rows.iter().zip(pass.seq_lens.seq_ids()) {
            let own = pass.tasks.get(sequence).and_then(|task| self.of.get(task));
            let weight = own.map_or(0.0, |&e| f64::from(row[e]));
            sums.own += f64::from(u8::from(weight > 0.0));
            sums.own_weight += weight;
            sums.tokens += 1.0;
            for (load, &g) in sums.load.iter_mut().zip(row) {
                let g = f64::from(g);
                *load += g;
                sums.chosen += f64::from(u8::from(g > 0.0));
                sums.entropy -= if g > 0.0 { g * g.ln() } else { 0.0 };
            }
        }
        Ok(())
    }
}
