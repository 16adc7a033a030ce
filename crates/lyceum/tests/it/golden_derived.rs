//! Prototypes, clusters and merges derived from the golden experts equal MTTL's.

use std::collections::{BTreeMap, BTreeSet};

use lyceum::Name;
use lyceum::expert::Expert;
use lyceum::merge::{MergeSpec, merge};
use lyceum::transform::{Mbc, cluster, top_direction};

use crate::golden;

#[test]
fn arrow_prototypes_equal_the_reference_up_to_sign() {
    let want = golden::tensors("arrow_prototypes.safetensors");
    let mut checked = 0;
    for expert in golden::experts() {
        for (site, lora) in &expert.loras {
            let got = top_direction(lora).unwrap().to_vec1::<f32>().unwrap();
            let want = want[&format!("{}.{site}", expert.card.name)]
                .to_vec1::<f32>()
                .unwrap();
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                let products = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y));
                products.sum()
            };
            let cosine = dot(&got, &want) / (dot(&got, &got) * dot(&want, &want)).sqrt();
            assert!(
                cosine.abs() >= 0.99999,
                "{} at {site}: {cosine}",
                expert.card.name
            );
            checked += 1;
        }
    }
    assert_eq!(checked, want.len());
}

#[test]
fn cosines_and_clusters_equal_the_reference() {
    let said = golden::json("transforms.json");
    let how = Mbc::default().k(2).sparsity(0.2).seed(42);
    let found = cluster(&golden::library(), &how).unwrap();
    let (clusters, names, cosines) = (found.clusters, found.experts, found.cosines);
    let order: Vec<Name> = serde_json::from_value(said["experts"].clone()).unwrap();
    assert_eq!(names, order);
    for (i, row) in said["thresholded_cosine"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        for (j, want) in golden::floats(row).into_iter().enumerate() {
            let apart = (cosines[i][j] - want).abs();
            assert!(
                apart <= 1e-5,
                "{} and {}: {apart} apart",
                names[i],
                names[j]
            );
        }
    }
    let partition = |clusters: BTreeMap<Name, Vec<Name>>| -> BTreeSet<BTreeSet<Name>> {
        let sets = clusters
            .into_values()
            .map(|names| names.into_iter().collect());
        sets.collect()
    };
    let want = serde_json::from_value(said["mbc_clusters"].clone()).unwrap();
    assert_eq!(partition(clusters), partition(want));
}

fn check_merge(spec: &MergeSpec, prefix: &str, most: f32) -> Expert {
    let merged = merge(&golden::experts(), spec, &golden::name("merged")).unwrap();
    let want = golden::adapters(&golden::tensors("merges.safetensors"), prefix, 0.25);
    assert!(merged.loras.keys().eq(want.keys()));
    for (site, lora) in &merged.loras {
        assert_eq!(lora.scale, 0.25);
        for (got, want) in [(&lora.a, &want[site].a), (&lora.b, &want[site].b)] {
            let apart = golden::apart(got, want);
            assert!(apart <= most, "{prefix}{site}: {apart} apart");
        }
    }
    merged
}

#[test]
fn factor_linear_merge_equals_the_reference() {
    check_merge(&MergeSpec::FactorLinear { weights: None }, "linear.", 1e-5);
}

#[test]
fn ties_merge_equals_the_reference() {
    check_merge(&MergeSpec::Ties { density: 0.2 }, "ties.", 1e-5);
}

#[test]
fn wudi_merge_equals_the_reference() {
    let spec = MergeSpec::Wudi {
        steps: 50,
        lr: 1e-3,
    };
    check_merge(&spec, "wudi_50_1e-3.", 1e-3);
}
