//! candle's operations on the [device of the tests](crate::device) equal the kernels.

use std::sync::Arc;

use candle_core::Tensor;
use lyceum::Hint;
use lyceum::backbone::{Base, Precision};
use lyceum::data::{Split, Tokens};
use lyceum::generate::{GenerationConfig, ignore};
use lyceum::lora::LoraConfig;
use lyceum::mix::Mixing;
use lyceum::model::Model;
use lyceum::progress::NoProgress;
use lyceum::route::{ROUTERS, Router};
use lyceum::train::{self, Job, TrainConfig};

use crate::device;
use crate::families;
use crate::golden;
use crate::made::{self, Text};
use crate::mixed;

/// Questions of two options whose beginnings are shared.
fn groups(text: &Text) -> Vec<Vec<Tokens>> {
    let group = |row: &Vec<u32>| {
        let options: [&[u32]; 2] = [&[3, 1, 4], &[2, 7]];
        let option = |more: &[u32]| Tokens {
            ids: [row, more].concat(),
            from: row.len(),
        };
        options.map(option).to_vec()
    };
    text.rows.iter().map(group).collect()
}

/// Logits, scores of options and generated text of two models.
fn same(what: &str, [one, other]: &[Model; 2], text: &Text) {
    let apart = golden::apart(&text.logits(one), &text.logits(other));
    assert!(apart < 1e-4, "{what}: logits are {apart} apart");
    let groups = groups(text);
    let groups: Vec<&[Tokens]> = groups.iter().map(Vec::as_slice).collect();
    let scores = [one, other].map(|model| model.score(&groups, &text.tasks).unwrap().concat());
    for (a, b) in scores[0].iter().zip(&scores[1]) {
        assert!((a - b).abs() < 1e-3, "{what}: scores {a} {b}");
    }
    let how = GenerationConfig::default().max_new_tokens(9).batch_size(2);
    let texts = [one, other].map(|model| {
        let continued = model.generate_tokens(&text.rows, &text.tasks, &how, ignore);
        continued.unwrap()
    });
    assert_eq!(texts[0], texts[1], "{what}");
}

#[test]
fn every_family_computes_the_same() {
    for family in lyceum::backbone::families() {
        let pair = [Precision::F32.into(), device::options(Precision::F32)].map(|place| {
            let base = families::placed(family, None, place);
            Model::new(Arc::new(base))
        });
        let text = Text {
            rows: vec![vec![3, 14, 15, 9, 2, 6, 5], vec![2, 7], vec![1, 8, 2, 8, 1]],
            tasks: vec![],
        };
        same(family, &pair, &text);
    }
}

#[test]
fn matrices_in_bf16_change_logits_by_no_more_than_their_rounding() {
    let text = Text::new(&["t1", "t2"]);
    let place = device::options(Precision::Bf16);
    let base = Base::open(&golden::path("gpt-neo-tiny"), place).unwrap();
    let [exact, rounded] =
        [device::base(), Arc::new(base)].map(|base| text.logits(&Model::new(base)));
    let apart = golden::apart(&exact, &rounded);
    let size = golden::apart(&exact, &exact.zeros_like().unwrap());
    assert!(apart > 0.0 && apart < 0.03 * size, "{apart} of {size}");
}

#[test]
fn every_router_mixes_the_same() {
    let tasks = ["t1", "t2", "t3"];
    let text = Text::new(&tasks);
    let even: Vec<_> = (1..4)
        .map(|i| made::expert(&format!("e{i}"), i, LoraConfig::default()))
        .collect();
    let libraries = [
        (made::library(&even), vec![Mixing::Outputs, Mixing::Factors]),
        (made::library(&mixed::experts()), vec![Mixing::Outputs]),
    ];
    for (library, mixings) in libraries {
        for about in ROUTERS {
            let ways = [None, Some(2)].into_iter();
            for (top_k, mixing) in ways.flat_map(|k| mixings.iter().map(move |how| (k, *how))) {
                let top_k = top_k.filter(|_| about.takes("top_k"));
                let spec = Router::of(about).top_k(top_k);
                let pair = [golden::base(), device::base()]
                    .map(|base| Model::routed(base, &library, &spec, mixing).unwrap());
                same(
                    &format!("{} {top_k:?} {mixing:?}", about.name),
                    &pair,
                    &text,
                );
            }
        }
    }
}

/// Two runs' losses of every step, and what they trained. Adam makes whole steps of gradients next
/// to nothing, so tensors are compared as a whole.
fn trained_alike(losses: [&[f64]; 2], tensors: [Vec<Tensor>; 2]) {
    assert!(losses[0].len() > 3 && losses[0].first() > losses[0].last());
    for (a, b) in losses[0].iter().zip(losses[1]) {
        assert!((a - b).abs() < 1e-4, "losses {a} {b}");
    }
    for (a, b) in tensors[0].iter().zip(&tensors[1]) {
        let [a, b] = [a, b].map(golden::on_cpu);
        let square = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap();
        let share = (square(&(&a - &b).unwrap()) / square(&b)).unwrap();
        let share = share.to_scalar::<f32>().unwrap().sqrt();
        assert!(share < 1e-2, "{share} of their size apart");
    }
}

#[test]
fn experts_and_gates_train_the_same() {
    let tasks = golden::tasks();
    let names = ["color_of", "who_has"].map(golden::name);
    let jobs: Vec<Job> = names
        .iter()
        .map(|name| {
            let own = std::slice::from_ref(name);
            let mut rows = tasks.select(own, Split::Train).unwrap();
            rows.truncate(8);
            Job::new(name.clone(), vec![name.clone()], rows)
        })
        .collect();
    let how = TrainConfig::default().batch(4).steps(6);
    let lora = LoraConfig::default();
    let train = |base: Arc<Base>| {
        let experts = train::experts(&base, &jobs, &lora, &how, &mut NoProgress).unwrap();
        let own: Vec<_> = experts.iter().map(|(expert, _)| expert.clone()).collect();
        let gates = train::gates(&base, &own, &jobs, &how, &mut NoProgress).unwrap();
        (experts, gates)
    };
    let (experts, gates) = train(golden::base());
    let (placed, placed_gates) = train(device::base());
    for (one, other) in experts.iter().zip(&placed) {
        let factors = [one, other].map(|(expert, _)| {
            let loras = expert.loras.values();
            loras.flat_map(|l| [l.a.clone(), l.b.clone()]).collect()
        });
        trained_alike([&one.1, &other.1], factors);
    }
    for (one, other) in gates.iter().zip(&placed_gates) {
        let vectors = [one, other].map(|(vectors, _)| vectors.values().cloned().collect());
        trained_alike([&one.1, &other.1], vectors);
    }
}

#[test]
fn what_only_the_kernels_do_is_refused() {
    let again = TrainConfig::default().recompute(true).steps(1);
    let name = golden::name("color_of");
    let rows = golden::tasks().select(std::slice::from_ref(&name), Split::Train);
    let job = Job::new(name.clone(), vec![name], rows.unwrap());
    let lora = LoraConfig::default();
    let error =
        train::experts(&device::base(), &[job], &lora, &again, &mut NoProgress).unwrap_err();
    assert!(error.to_string().contains("`recompute`"), "{error}");
    assert_eq!(error.hints(), [Hint::Omit("recompute")]);
    let place = device::options(Precision::Int8);
    let error = Base::open(&golden::path("gpt-neo-tiny"), place).unwrap_err();
    let bf16 = Hint::Set {
        option: "precision",
        value: "bf16",
    };
    assert_eq!(error.hints(), [bf16]);
}
