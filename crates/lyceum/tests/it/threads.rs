//! One base and one library serve several threads at once.

use std::ops::ControlFlow;
use std::sync::Arc;

use lyceum::backbone::Base;
use lyceum::expert::Expert;
use lyceum::generate::{FinishReason, GenerationConfig, Prompt, ignore};
use lyceum::library::Library;
use lyceum::mix::{Bank, Mixing, Mixture};
use lyceum::model::Model;
use lyceum::route::ROUTERS;

use crate::made::{self, Text};
use crate::mixed::experts;

#[test]
fn what_is_shared_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Base>();
    shared::<Library>();
    shared::<Model>();
    shared::<Bank>();
    shared::<Mixture>();
    shared::<Expert>();
    shared::<lyceum::Error>();
}

#[test]
fn threads_over_one_base_get_what_each_gets_alone() {
    let text = Text::new(&["t1", "t2", "t3"]);
    let library = made::library(&experts());
    let config = GenerationConfig::default().max_new_tokens(12).batch_size(2);
    let models: Vec<Model> = { ROUTERS.iter() }
        .map(|about| made::routed(&library, about.name, Some(2), Mixing::Outputs))
        .collect();
    assert!(
        models
            .iter()
            .all(|m| Arc::ptr_eq(m.base(), models[0].base()))
    );
    let told = |model: &Model| {
        let tokens = model.generate_tokens(&text.rows, &text.tasks, &config, ignore);
        tokens.unwrap()
    };
    let alone: Vec<_> = models.iter().map(told).collect();
    let together: Vec<_> = std::thread::scope(|threads| {
        let begun: Vec<_> = models.iter().map(|m| threads.spawn(|| told(m))).collect();
        begun.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn a_sink_that_breaks_off_ends_every_text_where_it_is() {
    let text = Text::new(&["t1", "t2", "t3"]);
    let model = Model::new(crate::golden::base());
    let config = GenerationConfig::default().max_new_tokens(12);
    let prompts: Vec<Prompt> = text.rows.iter().cloned().map(Prompt::from).collect();
    let whole = model.generate(&prompts, &config, ignore).unwrap();
    assert!(
        whole
            .iter()
            .all(|one| one.finish != FinishReason::Cancelled)
    );
    let mut seen = 0;
    let cut = model.generate(&prompts, &config, |chunk| {
        seen += usize::from(chunk.token.is_some());
        match seen < 5 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    let cut = cut.unwrap();
    assert_eq!(cut.iter().map(|one| one.tokens.len()).sum::<usize>(), 5);
    for (cut, whole) in cut.iter().zip(&whole) {
        assert!(whole.tokens.starts_with(&cut.tokens));
        assert!(cut.finish == FinishReason::Cancelled || cut.tokens == whole.tokens);
    }
}
