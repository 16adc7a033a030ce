//! The README's program on less data: `cargo run -p lyceum --example tutorial`. `.ci/package` runs it
//! outside the tree, over the packaged crates.

#![expect(clippy::print_stdout, reason = "it prints what it finds")]

use std::sync::Arc;

use lyceum::assets;
use lyceum::prelude::*;
use lyceum::transform::{Mbc, Phatgoose};

fn main() -> lyceum::Result<()> {
    let base = Arc::new(assets::base(Precision::F32)?);
    let mut data = assets::tasks()?;
    // Some rows of three tasks.
    let tasks: Vec<Name> = data.tasks().into_iter().take(3).collect();
    let mut rows = Vec::new();
    for split in [Split::Train, Split::Validation, Split::Test] {
        for task in &tasks {
            let some = data.select(Some(std::slice::from_ref(task)), split)?;
            rows.extend(some.into_iter().take(8));
        }
    }
    data.examples = rows;

    let library = Library::create("memory://experts")?;
    let trainer = Trainer::new(&base).config(TrainConfig::default().epochs(1));
    trainer.each_task(&data, &library, &mut NoProgress)?;
    let clusters = transform::cluster(&library, &Mbc::default())?.clusters;
    println!("{} experts in {} clusters", tasks.len(), clusters.len());
    transform::arrow(&library)?;
    let steps = Phatgoose {
        steps: 2,
        ..Phatgoose::default()
    };
    transform::phatgoose(&base, &library, &data, &steps, &mut NoProgress)?;

    let test = data.select(None, Split::Test)?;
    let questions: Vec<Question> = assets::arc_easy()?.into_iter().take(16).collect();
    let short = GenerationConfig::default().max_new_tokens(8);
    for spec in [
        Router::base(),
        Router::arrow().top_k(2),
        Router::phatgoose().top_k(2),
    ] {
        let model = base.route(&library, &spec)?;
        let texts = eval::rouge_l(&model, &test, &short, &mut NoProgress)?;
        let answers = eval::multiple_choice(&model, &questions, 16, &mut NoProgress)?;
        println!(
            "{spec}: ROUGE-L {}, ARC-Easy acc {:.3}",
            texts.rouge_l(),
            answers.acc()
        );
    }
    Ok(())
}
