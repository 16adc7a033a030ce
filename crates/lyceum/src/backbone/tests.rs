//! Laws of the whole decoder under full training.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use lyceum_kernels::gemm::Rounding;

use super::checkpoint::Weights;
use super::load_options::Backend;
use super::{Config, Decoder, families};
use crate::mix::{Pass, SeqLens};
use crate::rng::Rng;

const LENS: [usize; 3] = [9, 4, 6];
/// Rows whose next token is a target: none of the second sequence.
const ROWS: [u32; 6] = [3, 4, 5, 7, 14, 17];

fn loss(decoder: &Decoder, recompute: bool) -> Tensor {
    let seq_lens = SeqLens::new(&LENS);
    let pass = Pass {
        recompute,
        ..Pass::new(&seq_lens)
    };
    let v = decoder.config().vocab_size as u32;
    let token = |i: usize| (i as u32 * 7 + 3) % v;
    let tokens: Vec<u32> = (0..19).map(token).collect();
    let ids: Vec<u32> = (0..6).map(|i| token(i + 30)).collect();
    let hidden = decoder.hidden_at(&tokens, &ROWS, None, &pass).unwrap();
    let losses = decoder.losses(&hidden, &ids.into()).unwrap();
    losses.mean_all().unwrap()
}

/// The variables of a family's golden base.
fn variables(family: &str) -> (Config, BTreeMap<String, Var>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families");
    let dir = root.join(family);
    let mut config = Config::read(&dir.join("config.json")).unwrap();
    let mut weights = Weights::open(&dir).unwrap();
    weights.fit(&mut config).unwrap();
    let var = |(name, shape): (String, Vec<usize>)| {
        let values = weights.values(&name).unwrap();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        (name, Var::from_tensor(&tensor).unwrap())
    };
    let vars = config.tensors().into_iter().map(var).collect();
    (config, vars)
}

#[test]
fn composed_of_candles_operations_every_variable_has_the_same_gradient() {
    for family in families() {
        let (config, vars) = variables(family);
        let one = |backend| {
            let decoder = Decoder::trained(config.clone(), &vars, Rounding::F32, backend);
            let loss = loss(&decoder.unwrap(), false);
            let gradients = loss.backward().unwrap();
            (loss.to_scalar::<f32>().unwrap(), gradients)
        };
        let (kernels, composed) = (one(Backend::Cpu), one(Backend::Candle(Device::Cpu)));
        let near = (kernels.0 - composed.0).abs() < 1e-5;
        assert!(near, "{family}: {} {}", kernels.0, composed.0);
        for (name, var) in &vars {
            let [one, other] = [&kernels.1, &composed.1].map(|all| all.get(var).unwrap());
            let most = |x: &Tensor| {
                let x = x.abs().unwrap().flatten_all().unwrap();
                x.max(0).unwrap().to_scalar::<f32>().unwrap()
            };
            let (size, apart) = (most(one), most(&(one - other).unwrap()));
            // A key's bias changes no share: its gradient is rounding alone.
            assert!(
                apart < 1e-4 * size.max(1e-2),
                "{family} {name}: {apart} of {size}"
            );
        }
    }
}

#[test]
fn every_variable_of_every_family_has_the_gradient_of_the_loss() {
    for family in families() {
        let (config, vars) = variables(family);
        let decoder = Decoder::trained(config, &vars, Rounding::F32, Backend::Cpu).unwrap();
        let gradients = loss(&decoder, false).backward().unwrap();
        let again = loss(&decoder, true).backward().unwrap();
        for (name, var) in &vars {
            let own = |from: &candle_core::backprop::GradStore| -> Vec<f32> {
                let found = from.get(var.as_tensor()).unwrap();
                found.flatten_all().unwrap().to_vec1().unwrap()
            };
            let gradient = own(&gradients);
            assert_eq!(gradient, own(&again), "{family} {name}: recomputed");
            let way = Rng::named(1, name).uniform(gradient.len(), 1.0);
            let got: f32 = gradient.iter().zip(&way).map(|(g, u)| g * u).sum();
            let start = var.as_tensor().copy().unwrap();
            let way = Tensor::from_vec(way, var.shape(), &Device::Cpu).unwrap();
            let at = |by: f64| {
                var.set(&(&start + (&way * by).unwrap()).unwrap()).unwrap();
                loss(&decoder, false).to_scalar::<f32>().unwrap()
            };
            let want = (at(1e-3) - at(-1e-3)) / 2e-3;
            var.set(&start).unwrap();
            let bound = 4e-3 + 0.02 * want.abs();
            assert!((got - want).abs() < bound, "{family} {name}: {got} {want}");
        }
    }
}
